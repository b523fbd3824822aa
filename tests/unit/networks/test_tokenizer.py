"""Reports come back as they went in, whatever they hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcodi.errors import CheckpointError, ConfigError, MedCoDiError
from medcodi.networks.tokenizer import ReportTokenizer

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


def test_what_is_not_read_of_a_long_text_is_known_to_the_character(tokenizer: ReportTokenizer) -> None:
    text = "Ärzte: no pleural effusion. " * 9
    for length in (2, 8, 40):
        truncation = tokenizer.truncation(text, length)
        assert truncation is not None
        ids, _ = tokenizer.encode([text], max_length=length)
        assert truncation.read_tokens == length - 2 < truncation.tokens
        assert tokenizer.decode(ids)[0].rstrip("\ufffd") == text[: truncation.read_characters].rstrip("\ufffd")
    whole = tokenizer.encode([text], max_length=10_000)[0].shape[1]
    assert tokenizer.truncation(text, whole) is None
    assert tokenizer.truncation(text, whole - 1) is not None
