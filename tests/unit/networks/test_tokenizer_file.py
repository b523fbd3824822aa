"""Tokenizer files that others wrote: known parts are read, everything else is refused by name."""

import hashlib
import json

import pytest

from medcodi.errors import CheckpointError
from medcodi.networks.tokenizer import ReportTokenizer
from medcodi.networks.tokenizer_file import read_tokenizer

CORPUS = ["FINDINGS: The heart is enlarged. No pleural effusion.", "IMPRESSION: Small left pleural effusion."] * 4


@pytest.fixture(scope="module")
def tokenizer() -> ReportTokenizer:
    return ReportTokenizer.train(CORPUS, vocab_size=320)


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
