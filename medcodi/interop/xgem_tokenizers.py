"""The three vocabularies of a published model, from files that its authors do not ship with the weights."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from medcodi.errors import CheckpointError
from medcodi.interop.xgem_plan import absent_tokenizers
from medcodi.model import ModelConfig
from medcodi.networks.tokenizer import ReportTokenizer, Tokenizers

# Role -> whether texts are lower-cased first (the published report autoencoder does so before its cased vocabulary).
ROLES = {"prompts": False, "report": True, "decoder": True}
_ADDED = ["<PAD>", "<BOS>", "<EOS>"]  # the published decoder adds these to GPT-2's vocabulary, in this order


def find_tokenizers(folder: Path | None, config: ModelConfig) -> Tokenizers:
    """Read ``prompts`` (CLIP's), ``report`` (BERT's, cased) and ``decoder`` (GPT-2's) from a folder.

    Each is ``ROLE.json`` or ``ROLE/tokenizer.json``, as the tokenizers library writes them. A role without a file gets a
    stand-in that refuses to read and write text.

    Raises:
        CheckpointError: If the folder holds none, or one of another size than the weights.
    """
    absent = absent_tokenizers(config).by_role()
    if folder is None:
        return Tokenizers(**absent)
    files = {
        role: next((f for f in (folder / f"{role}.json", folder / role / "tokenizer.json") if f.is_file()), None)
        for role in ROLES
    }
    if not any(files.values()):
        raise CheckpointError(
            f"{folder} holds no tokenizer",
            expected="prompts.json (CLIP's), report.json (BERT's, cased), decoder.json (GPT-2's)",
            fix="put the tokenizer.json of each there under that name",
        )
    return Tokenizers(
        **{role: _read(file, role, absent[role].vocab_size) if file else absent[role] for role, file in files.items()}
    )


def _read(file: Path, role: str, vocab_size: int) -> ReportTokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exceptions
        raise CheckpointError(
            f"{file} cannot be read as a tokenizer: {error}", expected="a tokenizer.json of the tokenizers library"
        ) from None
    if role == "decoder" and tokenizer.get_vocab_size() == vocab_size - len(_ADDED):
        tokenizer.add_special_tokens(_ADDED)
    if tokenizer.get_vocab_size() != vocab_size:
        raise CheckpointError(
            f"{file} has {tokenizer.get_vocab_size():,} tokens",
            expected=f"{vocab_size:,}, as many as the weights embed",
            fix="give the vocabulary that the weights were trained with",
        )
    return ReportTokenizer(tokenizer, lowercase=ROLES[role])
