"""Reports <-> token ids: byte-level BPE, so that every text can be encoded and is decoded exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from medcodi.errors import CheckpointError, ConfigError, MedCoDiError
from medcodi.networks.tokenizer_file import read_tokenizer

# Names of (padding, beginning, end) in our tokenizers and in well-known pretrained ones.
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
_KNOWN_SPECIALS = (
    SPECIAL_TOKENS,
    ("[PAD]", "[CLS]", "[SEP]"),  # BERT
    ("<PAD>", "<BOS>", "<EOS>"),  # Optimus' GPT-2
    ("<|endoftext|>", "<|startoftext|>", "<|endoftext|>"),  # CLIP
)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """How much a network reads of a text that is too long for it."""

    tokens: int  # of the whole text
    read_tokens: int  # the first ones, which are read
    read_characters: int  # as many characters of the text are read


class ReportTokenizer:
    """Text <-> ids, with a beginning token (``bos_id``) and an end token (``eos_id``) around every text."""

    def __init__(self, tokenizer: Tokenizer, *, lowercase: bool = False) -> None:
        """Wrap a tokenizer of the ``tokenizers`` library; ``lowercase`` texts before encoding (Optimus does)."""
        for specials in _KNOWN_SPECIALS:
            ids = [token_id for token in specials if (token_id := tokenizer.token_to_id(token)) is not None]
            if len(ids) == len(specials):
                break
        else:
            raise MedCoDiError(
                "the tokenizer has no padding, beginning and end tokens",
                expected="one of " + ", ".join("/".join(specials) for specials in _KNOWN_SPECIALS),
            )
        self.pad_id, self.bos_id, self.eos_id = ids
        self.vocab_size = tokenizer.get_vocab_size()
        self.lowercase = lowercase
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "<eos>" written in a report is text, not the end
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> ReportTokenizer:
        """Learn at most ``vocab_size`` ids from reports; equal texts in equal order give an equal tokenizer."""
        if vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"vocab_size = {vocab_size} is too small",
                expected=f"at least {SMALLEST_VOCABULARY}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens",
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer=trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path, *, lowercase: bool = False, sha256: str | None = None) -> ReportTokenizer:
        """Read a ``tokenizer.json``, or the one in a folder: ours or a pretrained one.

        Args:
            path: The file or the folder.
            lowercase: Whether texts are lower-cased before encoding.
            sha256: Hash that the file must have; None: any.

        Raises:
            CheckpointError: If the file is missing, was changed, is no tokenizer, or has parts of unknown kinds.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise CheckpointError(f"no tokenizer at {file}", expected="a tokenizer.json", fix="check the path")
        try:
            return cls(read_tokenizer(file, sha256), lowercase=lowercase)
        except CheckpointError:
            raise
        except MedCoDiError as error:  # no special tokens
            raise CheckpointError(f"{file}: {error.failed}", expected=error.expected) from None

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer.json``: at ``path``, or into it if it is a folder."""
        path = Path(path)
        self._tokenizer.save(str(path / "tokenizer.json" if path.is_dir() else path))

    def encode(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """Texts to ids int64 ``[B, L]`` and a mask bool ``[B, L]``, True where there is a token.

        Each row is beginning, text, end, padding; L is the longest row, at most ``max_length``: longer texts are cut.
        """
        assert max_length >= 2, max_length
        rows = self._tokenizer.encode_batch(
            [text.lower() if self.lowercase else text for text in texts], add_special_tokens=False
        )
        pieces = [[self.bos_id, *row.ids[: max_length - 2], self.eos_id] for row in rows]
        longest = max(map(len, pieces), default=0)
        ids = torch.full((len(pieces), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros(len(pieces), longest, dtype=torch.bool)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = torch.tensor(piece)
            mask[row, : len(piece)] = True
        return ids, mask

    def truncation(self, text: str, max_length: int) -> Truncation | None:
        """How much of a text :meth:`encode` reads; None: all of it."""
        row = self._tokenizer.encode(text.lower() if self.lowercase else text, add_special_tokens=False)
        room = max_length - 2  # without beginning and end
        if len(row.ids) <= room:
            return None
        read_characters = row.offsets[room - 1][1] if room else 0
        return Truncation(tokens=len(row.ids), read_tokens=room, read_characters=min(read_characters, len(text)))

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Ids (int64 ``[B, L]``, or rows of any length) to the texts before the first end token, without special tokens."""
        rows = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
        special = {self.pad_id, self.bos_id, self.eos_id}
        bodies = []
        for row in rows:
            start = 1 if row and row[0] == self.bos_id else 0
            end = row.index(self.eos_id, start) if self.eos_id in row[start:] else len(row)
            bodies.append([token for token in row[start:end] if token not in special])
        return self._tokenizer.decode_batch(bodies, skip_special_tokens=False)

    def ids_of_words(self, words: Iterable[str]) -> list[int]:
        """Ids of the tokens that are one whole word, in lower case or capitalised, after a space or not; longer words have none."""
        forms = [space + form for word in words for form in (word.lower(), word.capitalize()) for space in ("", " ")]
        pieces = self._tokenizer.encode_batch(forms, add_special_tokens=False)
        return sorted({piece.ids[0] for piece in pieces if len(piece.ids) == 1})

    def to_str(self) -> str:
        """The content of ``tokenizer.json``; equal tokenizers give equal text."""
        return self._tokenizer.to_str()


class AbsentTokenizer(ReportTokenizer):
    """Replaces a vocabulary that did not come with the weights, as one field of :class:`Tokenizers`: it cannot encode or decode."""

    def __init__(self, vocab_size: int, role: str) -> None:
        self.pad_id, self.bos_id, self.eos_id = 0, vocab_size - 2, vocab_size - 1
        self.vocab_size, self.role, self.lowercase = vocab_size, role, False

    def _refuse(self) -> NoReturn:
        raise CheckpointError(
            f"the model has no tokenizer for {self.role!r}: its weights came without that vocabulary of {self.vocab_size:,} tokens",
            expected="a tokenizer.json whose ids are the ones the weights were trained with",
            fix="convert the model again with that vocabulary (medcodi import-xgem --tokenizers), or leave reports out of the request",
        )

    def encode(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """Refused: there is no vocabulary."""
        self._refuse()

    def truncation(self, text: str, max_length: int) -> Truncation | None:
        """None: nothing is encoded at all."""

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Refused: there is no vocabulary."""
        self._refuse()


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of a model: one and the same in our own models, three in the published one."""

    prompts: ReportTokenizer  # of the text tower
    report: ReportTokenizer  # of the report autoencoder's encoder
    decoder: ReportTokenizer  # of the report autoencoder's decoder

    @classmethod
    def one(cls, tokenizer: ReportTokenizer) -> Tokenizers:
        """One vocabulary for everything."""
        return cls(tokenizer, tokenizer, tokenizer)

    def by_role(self) -> dict[str, ReportTokenizer]:
        """Role -> tokenizer."""
        return {"prompts": self.prompts, "report": self.report, "decoder": self.decoder}


def embedding_size(own: int | None, tokenizer: ReportTokenizer, role: str) -> int:
    """Number of ids that a network embeds: its config's, or else the tokenizer's; a ConfigError if the tokenizer has more."""
    size = own or tokenizer.vocab_size
    if tokenizer.vocab_size > size:
        raise ConfigError(
            f"the {role} tokenizer has {tokenizer.vocab_size:,} ids, the config's vocab_size is {size:,}",
            expected="a tokenizer with at most that many ids",
            fix="give the tokenizer that belongs to this model",
        )
    return size
