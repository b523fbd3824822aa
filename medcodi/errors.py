"""Errors meant for users: one sentence each for what failed, what was expected and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class MedCoDiError(ValueError):
    """A refusal meant for the user. Exit code 2 on the command line.

    Attributes:
        exit_code: 3 where the same command may do better when it is started once more, as after a machine was lost.
        printed_by_first: On a rank whose refusal the first rank prints too.
    """

    exit_code: int = 2
    printed_by_first: bool = False

    def __init__(self, failed: str, *, expected: str = "", fix: str = "") -> None:
        """Compose the message: what failed with the value seen, what was expected, what the user can do now."""
        self.failed, self.expected, self.fix = failed, expected, fix
        parts = [sentence(failed)]
        if expected:
            parts.append(f"Expected {sentence(expected)}")
        if fix:
            parts.append(f"Fix: {sentence(fix)}")
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:  # pickle would call the class with the whole message
        return _restored, (type(self), self.failed, self.expected, self.fix)


def _restored(kind: type[MedCoDiError], failed: str, expected: str, fix: str) -> MedCoDiError:
    """A refusal that another process or rank has sent; its class may take other arguments."""
    error = kind.__new__(kind)
    MedCoDiError.__init__(error, failed, expected=expected, fix=fix)
    return error


class ConfigError(MedCoDiError):
    """An invalid configuration key, type or value."""


class DataError(MedCoDiError):
    """An invalid study, image, report, table or dataset."""


class PromptError(MedCoDiError):
    """An invalid generation request: prompts, targets, weights, sampler."""


class CheckpointError(MedCoDiError):
    """A checkpoint that cannot be read, or does not fit."""


class TrainingError(MedCoDiError):
    """A training run that cannot start or continue."""


class DomainWarning(UserWarning):
    """A prompt is not of the domain that a model was trained in: what it generates is not to be believed."""


class MissingExtraError(MedCoDiError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed",
            expected=f"it for {needed_for}",
            fix=f"pip install 'medcodi[{extra}]'",
        )


def sentence(text: str) -> str:
    """The text with one full stop at its end; three points are meant, as in ``out=...``, and stay."""
    return text if text.endswith(("...", "…")) else text.rstrip(".") + "."


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """A fix that names the nearest valid spelling, or only the known ones: ``"did you mean 'x'? known: a, b"``."""
    known = sorted(options)
    near = difflib.get_close_matches(value.lower(), [option.lower() for option in known], n=1, cutoff=0.5)
    listing = "known: " + ", ".join(known)
    if not near:
        return listing
    original = next(option for option in known if option.lower() == near[0])
    return f"did you mean {original!r}? {listing}"


def one_of(kind: str, value: str, options: Iterable[str], error: type[MedCoDiError] = MedCoDiError) -> str:
    """Return ``value``, a ``kind`` in words (``"sampler"``), if it is one of ``options``.

    Raises:
        MedCoDiError: Of class ``error``, with the nearest spelling, if it is not.
    """
    options = list(options)
    if value in options:
        return value
    raise error(f"unknown {kind} {value!r}", expected=f"a known {kind}", fix=did_you_mean(str(value), options))
