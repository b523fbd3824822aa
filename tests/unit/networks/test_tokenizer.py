"""Reports come back as they went in, whatever they hold."""

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcodi.errors import CheckpointError, ConfigError, MedCoDiError
from medcodi.networks.tokenizer import ReportTokenizer, read_tokenizer

CORPUS = ["FINDINGS: The heart is enlarged. No pleural effusion.", "IMPRESSION: Small left pleural effusion."] * 4


@pytest.fixture(scope="module")
def tokenizer() -> ReportTokenizer:
    return ReportTokenizer.train(CORPUS, vocab_size=320)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_every_text_comes_back(tokenizer: ReportTokenizer, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates are no text
    ids, mask = tokenizer.encode([text], max_length=400)
    assert tokenizer.decode(ids) == [text]
    assert mask.all()


def test_rows_have_beginning_end_and_padding(tokenizer: ReportTokenizer) -> None:
    ids, mask = tokenizer.encode(["No pleural effusion.", ""], max_length=64)
    assert ids[:, 0].tolist() == [tokenizer.bos_id] * 2
    assert ids[1, 1] == tokenizer.eos_id
    assert (ids[~mask] == tokenizer.pad_id).all()
    assert mask.sum(1).tolist() == [ids.shape[1], 2]


def test_a_special_token_written_in_a_report_is_text(tokenizer: ReportTokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path)
    for current in (tokenizer, ReportTokenizer.load(tmp_path)):
        ids, _ = current.encode(["stop <eos> here"], max_length=64)
        assert (ids == current.eos_id).sum() == 1
        assert current.decode(ids) == ["stop <eos> here"]


def test_long_texts_are_cut_and_still_end(tokenizer: ReportTokenizer) -> None:
    ids, mask = tokenizer.encode(["effusion " * 50], max_length=8)
    assert ids.shape == (1, 8) and mask.all()
    assert ids[0, -1] == tokenizer.eos_id


def test_merges_shorten_the_corpus(tokenizer: ReportTokenizer) -> None:
    ids, _ = tokenizer.encode(CORPUS[:1], max_length=100)
    assert ids.shape[1] < len(CORPUS[0])
    assert tokenizer.vocab_size <= 320


def test_equal_corpora_give_equal_tokenizers(tokenizer: ReportTokenizer) -> None:
    assert ReportTokenizer.train(CORPUS, vocab_size=320).to_str() == tokenizer.to_str()


def test_saved_and_loaded(tokenizer: ReportTokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path)
    again = ReportTokenizer.load(tmp_path / "tokenizer.json")
    assert again.to_str() == tokenizer.to_str()
    assert torch.equal(again.encode(CORPUS, 64)[0], tokenizer.encode(CORPUS, 64)[0])


def test_pretrained_layouts_are_recognised_and_lower_cased(tmp_path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "heart": 4, "lung": 5}
    bert = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    bert.pre_tokenizer = pre_tokenizers.Whitespace()
    bert.save(str(tmp_path / "tokenizer.json"))
    loaded = ReportTokenizer.load(tmp_path, lowercase=True)
    assert loaded.encode(["Heart LUNG"], 8)[0].tolist() == [[2, 4, 5, 3]]


def test_refusals(tmp_path) -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(ConfigError, match="vocab_size = 100 .*259"):
        ReportTokenizer.train(CORPUS, vocab_size=100)
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        ReportTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not a valid tokenizer"):
        ReportTokenizer.load(tmp_path)
    with pytest.raises(MedCoDiError, match="no padding"):
        ReportTokenizer(Tokenizer(models.BPE()))


def test_words_that_are_one_token_are_found_in_all_their_forms() -> None:
    made = ReportTokenizer.train(["Left lung. the left lung, clear."] * 20, 300)
    ids = made.ids_of_words(["LEFT", "pneumothorax"])
    assert {made.decode([[one]])[0] for one in ids} == {"Left", " left"}


# ---- files that others wrote -----------------------------------------------------------------------------------------
def changed(tokenizer: ReportTokenizer, path, **parts):
    """A copy of a tokenizer file in which some parts are replaced; ``model`` is updated."""
    content = json.loads(tokenizer.to_str())
    content["model"].update(parts.pop("model", {}))
    path.write_text(json.dumps({**content, **parts}))
    return path


REGEX_BOMB = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
CLIP_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
    "behavior": "Removed",
    "invert": True,
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"pre_tokenizer": REGEX_BOMB}, "pre_tokenizer: the pattern .*a\\+.* is not known"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES, REGEX_BOMB]}}, "is not known"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 17}}, "pre_tokenizer.pretokenizers is"),
        ({"pre_tokenizer": 3}, "pre_tokenizer is 3"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "of the kind 'Precompiled'"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "of the kind 'Prepend'"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10**6}}, "is replaced by"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "b"}}, "is not known"),
        ({"decoder": {"type": "Fuse"}}, "decoder is of the kind 'Fuse'"),
        ({"post_processor": {"type": ["x"]}}, "post_processor is of the kind"),
        ({"model": {"type": "Unigram"}}, "model is of the kind 'Unigram'"),
        ({"model": {"dropout": 0.5}}, "dropout is 0.5"),
        ({"model": {"max_input_chars_per_word": 10**9}}, "max_input_chars_per_word is 1000000000"),
        ({"model": {"merges": [["zz", "top"]]}}, "is not a valid tokenizer"),
        ({"added_tokens": [{"id": -1}]}, "is not a valid tokenizer"),
        ({"version": float("nan")}, "version is nan"),
    ],
)
def test_parts_that_are_not_known_are_refused(tokenizer: ReportTokenizer, tmp_path, parts, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        ReportTokenizer.load(changed(tokenizer, tmp_path / "tokenizer.json", **parts))


def test_ids_with_gaps_are_refused(tokenizer: ReportTokenizer, tmp_path) -> None:
    words = json.loads(tokenizer.to_str())["model"]["vocab"]
    last = max(words, key=words.get)
    path = changed(tokenizer, tmp_path / "t.json", model={"vocab": {**words, last: 10**6}})
    with pytest.raises(CheckpointError, match="the id 1,000,000"):
        ReportTokenizer.load(path)


def test_clips_parts_are_read(tokenizer: ReportTokenizer, tmp_path) -> None:
    normalizers = [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ]
    path = changed(
        tokenizer,
        tmp_path / "tokenizer.json",
        normalizer={"type": "Sequence", "normalizers": normalizers},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [CLIP_SPLIT, {**BYTES, "use_regex": False}]},
    )
    loaded = ReportTokenizer.load(path)
    assert loaded.decode(loaded.encode(["No  PLEURAL"], 64)[0]) == ["nopleural"]


def test_the_hash_and_the_size_are_checked_before_the_content(tokenizer: ReportTokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert ReportTokenizer.load(path, sha256=sha256).to_str() == tokenizer.to_str()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="was changed since it was saved"):
        read_tokenizer(path, sha256)
    path.write_bytes(b" " * (16 * 2**20 + 1))
    with pytest.raises(CheckpointError, match="at most 16,777,216"):
        read_tokenizer(path)
