"""``tokenizer.json`` read as data: its hash, its size and the kinds of its parts are checked before it is built."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from medcodi.errors import CheckpointError, first_line
from medcodi.storage.checked_json import parse_json, shown

# What a tokenizer.json may consist of: its author decides how much work a text costs, and its regular expressions could
# cost any. Kinds of each part, as BPE and WordPiece tokenizers of reports, CLIP, BERT and GPT-2 have them.
MAX_BYTES = 16 * 2**20
_KINDS = {
    "model": {"BPE", "WordPiece", "WordLevel"},
    "normalizer": {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "BertNormalizer", "Replace"},
    "pre_tokenizer": {
        "ByteLevel",
        "BertPreTokenizer",
        "Whitespace",
        "WhitespaceSplit",
        "Punctuation",
        "Digits",
        "Split",
    },
    "decoder": {"ByteLevel", "BPEDecoder", "WordPiece"},
    "post_processor": {"ByteLevel", "BertProcessing", "RobertaProcessing", "TemplateProcessing"},
}
_SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
    "post_processor": "processors",
}
_REGEXES = {  # CLIP's
    r"\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
}
_LONGEST_REPLACEMENT = 8  # characters: a text can become this many times longer
_LONGEST_WORD = 1000  # characters: WordPiece takes time that grows with their square


def read_tokenizer(file: Path, sha256: str | None = None) -> Tokenizer:
    """Read a ``tokenizer.json`` of the tokenizers library.

    Raises:
        CheckpointError: If it was changed (``sha256``), is too large, is no tokenizer, or has parts that are not known.
    """
    # Read the file once: the bytes that are hashed are the bytes that are used.
    if (size := file.stat().st_size) > MAX_BYTES:
        raise CheckpointError(f"{file} has {size:,} bytes", expected=f"a tokenizer of at most {MAX_BYTES:,}")
    data = file.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"{file} ({len(data):,} bytes) was changed since it was saved",
            expected=f"SHA-256 {sha256}",
            fix="fetch or train the model again",
        )
    # Check its parts.
    content = parse_json(data, f"{file} is not a valid tokenizer: it", CheckpointError)
    reason = _unknown_part(content)
    if reason:
        raise CheckpointError(
            f"{file} is not a valid tokenizer: {reason}",
            expected="a BPE or WordPiece tokenizer.json as for reports, CLIP, BERT or GPT-2",
            fix="do not use it if its author is unknown",
        )
    # The library raises bare Exceptions, and panics that derive from BaseException alone.
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise CheckpointError(
            f"{file} is not a valid tokenizer: {first_line(error)[:160]}",
            expected="a tokenizer.json of the tokenizers library",
        ) from None
    # Networks embed as many ids as there are tokens.
    size, highest = tokenizer.get_vocab_size(), max(tokenizer.get_vocab().values(), default=-1)
    if highest >= size:
        raise CheckpointError(
            f"{file} is not a valid tokenizer: it has {size:,} tokens and the id {highest:,}",
            expected="ids from 0, without gaps",
        )
    return tokenizer


def _unknown_part(content: object) -> str:
    """The part of a ``tokenizer.json`` that is not known, and the reason; empty if all are."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return "it has no model"
    model = content["model"]
    if model.get("dropout"):
        return f"dropout is {shown(model['dropout'])}, so equal texts would get different ids"
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or longest > _LONGEST_WORD:
        return f"max_input_chars_per_word is {shown(longest)}, more than {_LONGEST_WORD:,}"
    for name, kinds in _KINDS.items():
        # Parts of a sequence are checked like single ones.
        waiting = [content.get(name)]
        while waiting:
            part = waiting.pop()
            if part is None and name != "model":
                continue
            if not isinstance(part, dict):
                return f"{name} is {shown(part)}"
            if name in _SEQUENCES and part.get("type") == "Sequence":
                inner = part.get(_SEQUENCES[name])
                if not isinstance(inner, list) or len(inner) > 16:
                    return f"{name}.{_SEQUENCES[name]} is {shown(inner)}"
                waiting += inner
                continue
            # Files of old versions do not name the kind of the model.
            kind = part.get("type", "BPE" if name == "model" else None)
            if not isinstance(kind, str) or kind not in kinds:
                return f"{name} is of the kind {shown(kind)}, not one of {', '.join(sorted(kinds))}"
            if kind in ("Split", "Replace") and (reason := _unknown_pattern(part)):
                return f"{name}: {reason}"
    return ""


def _unknown_pattern(part: dict) -> str:
    """The reason why a pattern, or what replaces it, is refused."""
    pattern, replacement = part.get("pattern"), part.get("content", "")
    if not isinstance(pattern, dict) or not isinstance(replacement, str) or len(replacement) > _LONGEST_REPLACEMENT:
        return f"the pattern {shown(pattern)} is replaced by {shown(replacement)}"
    text = pattern.get("String")
    known = pattern.get("Regex") in _REGEXES if text is None else isinstance(text, str) and text != ""
    return "" if known else f"the pattern {shown(pattern)} is not known"
