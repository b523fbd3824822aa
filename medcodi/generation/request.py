"""A request: which prompts, targets, weights and seeds are valid, and prompts read as the model takes them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.data.image_files import DICOM_SUFFIXES, IMAGE_SUFFIXES, check_image_file, read_image
from medcodi.data.images import fit_square
from medcodi.data.reports import normalise_report, read_text
from medcodi.errors import DataError, PromptError
from medcodi.modality import MODALITIES, STANDARD, modality
from medcodi.record import read_record
from medcodi.storage.checked_json import parse_json
from medcodi.study import Content, Direction

if TYPE_CHECKING:
    from medcodi.model import MedCoDi, ModelConfig
    from medcodi.networks.tokenizer import Truncation


FILE_SUFFIXES = (".txt", *IMAGE_SUFFIXES, *DICOM_SUFFIXES)
MAX_SAMPLES = 1_000_000  # of one request; more are several requests
MAX_BATCH = 10_000  # samples that are denoised at once
MAX_SEED = 2**63 - 1  # as PyTorch's generators take them


def check_request(
    prompts: Mapping[str, Any] | str,
    targets: Sequence[str] | str | None,
    weights: Mapping[str, float] | None,
    num_samples: int,
    seed: int,
) -> tuple[Direction, dict[str, Any], dict[str, float]]:
    """Check a request before anything is loaded; a PromptError names an invalid value and the fix.

    Returns:
        The direction, the prompts of positive weight, and their weights.
    """
    # Prompts and weights: known modalities, finite weights >= 0, at least one positive.
    prompts, weights = {"report": prompts} if isinstance(prompts, str) else dict(prompts), dict(weights or {})
    for name in [*prompts, *weights]:
        modality(name)
    for name, weight in weights.items():
        if name not in prompts:
            raise PromptError(
                f"a weight of {weight} for {name!r}, which is not a prompt",
                expected="weights for prompts: " + (", ".join(prompts) or "none are given"),
                fix="leave it out, or give that prompt",
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise PromptError(
                f"the weight of {name!r} is {weight}",
                expected="a finite number >= 0",
                fix="0 switches a prompt off; leave it out for 1",
            )
    for name, value in prompts.items():
        if modality(name).kind == "text" and isinstance(value, str):
            _refuse_path(name, value)
    used = {name: value for name, value in prompts.items() if weights.get(name, 1.0) > 0}
    if prompts and not used:
        raise PromptError(
            "every prompt has weight 0",
            expected="at least one positive weight",
            fix="give no prompts at all to generate unconditionally",
        )

    # Targets: by default every standard modality that is not a prompt (a prompt of weight 0 is no target either).
    names = [targets] if isinstance(targets, str) else targets
    if names is None:
        names = [name for name in STANDARD if name not in prompts]
    direction = Direction(tuple(prompts), tuple(names))

    # Samples.
    _check_integer("num_samples", num_samples, 1, MAX_SAMPLES, fix="give several requests with seeds of their own")
    check_seed(seed, num_samples)
    used_weights = {name: float(weights.get(name, 1.0)) for name in used}
    return Direction(tuple(used), direction.targets), used, used_weights


def _refuse_path(name: str, text: str) -> None:
    """Refuse a text prompt that is the name of a file: the model would read the name, not the content."""
    is_path = len(text) <= 255 and "\0" not in text and "\n" not in text and Path(text).is_file()
    if is_path or text.rstrip().lower().endswith(FILE_SUFFIXES):
        raise PromptError(
            f"the {name} prompt is {text!r}, {'a file' if is_path else 'which is named like a file'}",
            expected="the text itself",
            fix=f"{name}=@{text} on the command line, the column {name}_file in a manifest, or the file's text in Python",
        )


def check_seed(seed: Any, num_samples: int = 1) -> None:
    """Refuse a seed that PyTorch does not take, or whose samples would exceed the greatest, by a PromptError."""
    _check_integer("seed", seed, 0, MAX_SEED - num_samples, fix="give another seed")


def check_batch(name: str, size: Any) -> None:
    """Refuse a number of samples that no memory holds at once, by a PromptError."""
    _check_integer(name, size, 1, MAX_BATCH, fix="4 to 64 serve most uses; generate_many and synthesize run any number")


def _check_integer(name: str, value: Any, low: int, high: int, fix: str) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        expected = f"at least {low}, and at most {high:,}" if low else f"an integer >= 0, at most {high:,}"
        raise PromptError(f"{name} is {str(value)[:40]}", expected=expected, fix=fix)


def check_modalities(model: MedCoDi, direction: Direction) -> None:
    """Refuse a direction with a modality that the model lacks, by a PromptError that names it."""
    if missing := set(direction.prompts + direction.targets) - set(model.config.modalities):
        absent = ", ".join(sorted(missing))
        raise PromptError(
            f"the model {model.config.name!r} has no {absent}",
            expected=", ".join(model.config.modalities),
            fix=f"leave out {absent}, or name a model that was trained with it (docs/MODALITIES.md)",
        )


def read_prompt(name: str, value: Any, config: ModelConfig | None) -> Content:
    """A prompt as a model of ``config`` takes it: an image ``[S, S]`` in [0, 1], a normalised text, or a checked record.

    Without a config, images keep their size, and the fields of records are not checked yet.

    Raises:
        PromptError: If the value of a text modality is not a str, or a record is none, or empty.
        DataError: If the image or report is invalid.
    """
    if modality(name).kind == "table":
        prompt = _read_record_prompt(name, value)
    elif modality(name).kind == "text":
        if not isinstance(value, str):
            raise PromptError(f"the {name} prompt is a {type(value).__name__}", expected="a str")
        prompt = normalise_report(value)
    else:
        prompt = read_image(value, modality=name)
    return prompt if config is None else fit_prompt(name, prompt, config)


def _read_record_prompt(name: str, value: Any) -> dict[str, Any]:
    """A record from fields with values, ``"age=71, sex=F"``, JSON, or the path of a ``.json`` file."""
    if isinstance(value, Path) or (isinstance(value, str) and value.rstrip().lower().endswith(".json")):
        value = _text(Path(value))
    is_json = isinstance(value, str) and value.lstrip().startswith("{")
    return read_record(parse_json(value.encode(), f"the {name}", PromptError) if is_json else value, PromptError)


def fit_prompt(name: str, prompt: Content, config: ModelConfig) -> Content:
    """A prompt as read, fitted to a model: an image to its size, a record to its fields (a PromptError names an invalid one)."""
    if isinstance(prompt, np.ndarray):
        return fit_square(prompt, config.image_size)
    return config.record.parse(prompt, PromptError) if isinstance(prompt, Mapping) and config.record else prompt


def truncations(model: MedCoDi, prompts: Mapping[str, Content]) -> dict[str, Truncation]:
    """Modality -> how much is read of a text that is longer than the model's text tower reads."""
    texts = {name: value for name, value in prompts.items() if isinstance(value, str)}
    lengths = {name: model.prompt_encoders.truncation(text) for name, text in texts.items()}
    return {name: truncation for name, truncation in lengths.items() if truncation is not None}


def value_hash(value: Content) -> str:
    """SHA-256 of a prompt, as hexadecimal: of the text, of the record as JSON, or of the image's float32 values."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value, np.float32).tobytes()
    else:
        data = (value if isinstance(value, str) else json.dumps(value, sort_keys=True)).encode()
    return hashlib.sha256(data).hexdigest()


# ---- prompts of a manifest, which may be files ------------------------------------------------------------------------
def check_prompt_files(prompts: Mapping[str, Path | str], config: ModelConfig) -> None:
    """Refuse invalid prompts without decoding pixels: texts and records are read, images must exist and have a header."""
    for name, value in prompts.items():
        if MODALITIES[name].kind == "image":
            check_image_file(Path(value), modality=name)
        else:
            read_prompt(name, _text(value), config)


def read_prompt_files(prompts: Mapping[str, Path | str], config: ModelConfig) -> dict[str, Content]:
    """Prompts (paths, or texts) as the model takes them; a DataError names an invalid one."""
    return {
        name: read_prompt(name, value if MODALITIES[name].kind == "image" else _text(value), config)
        for name, value in prompts.items()
    }


def _text(value: Path | str) -> str:
    """The text itself, or the content of its file."""
    if isinstance(value, str):
        return value
    try:
        return read_text(value)
    except OSError as error:
        raise DataError(
            f"the file {value} cannot be read: {error.strerror}",
            expected="a UTF-8 text file",
            fix="check the path (in a manifest, relative to it)",
        ) from None
