"""Options that several commands share, and the parsers of their values; an invalid value raises a MedCoDiError."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcodi.data.reports import read_text
from medcodi.errors import DataError, PromptError, first_line
from medcodi.modality import in_table_order, modality
from medcodi.storage.ownership import is_full, refuse_full

if TYPE_CHECKING:
    from medcodi.model.execution import ExecutionConfig
    from medcodi.model.generation_config import WeakModelConfig


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that override those of the file, dotted: optimizer.lr=1e-4."
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Model folder, a hub repository, or demo.", show_default="the shipped demo")
]
Execution = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="How it runs; repeatable: precision=bfloat16, channels_last=true, compile=true, attention=xformers, offload=cpu,"
        " offload=disk with offload_folder=DIR, max_memory_gib=20.",
        show_default="float32, as the model was loaded",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Sampler and steps under one name: fast, faster, reference, and interactive of a model with students. Explicit options override it."
    ),
]
Guidance = Annotated[
    float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.", show_default="the model's")
]
Steps = Annotated[int | None, typer.Option(help="Sampler steps.", show_default="the model's")]
Sampler = Annotated[str | None, typer.Option(help="ddim, dpm++, unipc ...", show_default="the model's")]
Order = Annotated[
    str | None,
    typer.Option(
        help="Of several targets: joint, staggered, or chained (what is finished is a prompt of the next).",
        show_default="the model's",
    ),
]
SequenceOfTargets = Annotated[
    str | None,
    typer.Option(
        "--sequence",
        metavar="MODALITY+MODALITY",
        help="The targets of chained and staggered, first to last: report+frontal+lateral.",
        show_default="frontal, lateral, report",
    ),
]
Weak = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Autoguidance of targets that nothing prompts, by a smaller or earlier model; repeatable: model=runs/early/model, scale=2,"
        " everywhere=true (also where something prompts).",
        show_default="without",
    ),
]
ImageFormat = Annotated[str, typer.Option("--format", help="Of images: png (8 bits), png16 or dicom.")]
Watermark = Annotated[bool, typer.Option("--watermark", help="Mark films invisibly too (docs/PRIVACY.md).")]
DicomStore = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Send each sample as a DICOM study: https://HOST/dicom-web (STOW-RS), dicom://HOST:PORT/AET (C-STORE), or dicoms:// (with TLS).",
        show_default=False,
    ),
]
DicomOutbox = Annotated[
    Path | None,
    typer.Option(
        "--outbox",
        help="Folder of DICOM studies to be sent; alone: written, not sent.",
        show_default="outbox, with --dicom-store",
    ),
]
DicomPdf = Annotated[
    bool, typer.Option("--dicom-pdf", help="Reports as encapsulated PDF too, beside the structured report.")
]
DicomCa = Annotated[
    Path | None,
    typer.Option(
        "--dicom-ca",
        metavar="CA.pem",
        help="Authorities that the certificate of https:// or dicoms:// may be of.",
        show_default="those of the system",
    ),
]
DicomCert = Annotated[
    Path | None,
    typer.Option(
        "--dicom-cert",
        metavar="CLIENT.pem",
        help="Our certificate and its key, for a server that asks for one.",
        show_default=False,
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...", show_default="a GPU where there is one")]


def read_prompts(texts: Sequence[str], option: str = "--prompt") -> dict[str, str]:
    """Parse ``--prompt modality=value``: modality -> path of an image, or text (of the file, if the value is ``@path``)."""
    return {name: text_or_file(name, value) for name, value in _pairs(texts, option=option).items()}


def read_weights(texts: Sequence[str]) -> dict[str, float] | None:
    """Parse ``--weight modality=number``; None without any."""
    weights = {}
    for name, value in _pairs(texts, option="--weight").items():
        try:
            weights[name] = float(value)
        except ValueError:
            raise PromptError(
                f"--weight {name}={value!r} is not a number", expected="modality=number, such as report=0.5"
            ) from None
    return weights or None


def read_targets(texts: Sequence[str]) -> tuple[str, ...] | None:
    """Parse ``--target``, repeated or joined by commas, into the order of the table of modalities; None without any."""
    return in_table_order(name.strip() for text in texts for name in text.split(",")) or None


def read_sequence(text: str | None) -> tuple[str, ...] | None:
    """Parse ``--sequence``, joined by ``+`` or commas; None without it."""
    return None if text is None else tuple(modality(name.strip()).name for name in text.replace(",", "+").split("+"))


def read_device(text: str | None) -> str | None:
    """Check that this machine has the device of ``--device``."""
    if text is None:
        return None
    import torch

    # PyTorch accepts any spelling; only an allocation shows whether the device exists.
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise PromptError(
            f"the device {text!r} cannot be used: {first_line(error)}",
            expected="cpu, cuda, cuda:0 ... as this machine has them",
            fix="leave --device out, or see medcodi doctor",
        ) from None
    return text


def read_execution(texts: Sequence[str]) -> ExecutionConfig:
    """Parse ``--execution key=value``."""
    from medcodi.config import apply_overrides, from_dict
    from medcodi.model.execution import ExecutionConfig

    return from_dict(ExecutionConfig, apply_overrides({}, texts), source="--execution")


def read_weak(texts: Sequence[str]) -> WeakModelConfig | None:
    """Parse ``--weak key=value``; None without any."""
    from medcodi.config import apply_overrides, from_dict
    from medcodi.model.generation_config import WeakModelConfig

    return from_dict(WeakModelConfig, apply_overrides({}, texts), source="--weak") if texts else None


def numbered_folder(name: str) -> Path:
    """The first of ``name``, ``name-2``, ``name-3`` ... that is new or empty."""
    folders = (Path(name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(folder for folder in folders if not is_full(folder))


def refuse_full_folder(folder: Path) -> None:
    """Refuse an output folder that is a file or not empty, before any work is done."""
    refuse_full(folder, fix="choose another one with --out")


def _pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """Split ``modality=value`` texts; each modality is known and stands at most once."""
    # The first "=" ends the name; the value may hold more of them.
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise PromptError(
                f"{option} {text!r} is invalid",
                expected="modality=value, such as frontal=chest.dcm",
                fix="name the modality before the value",
            )
        modality(name)
        if name in pairs:
            raise PromptError(
                f"{option} names {name} twice", expected="each modality at most once", fix="drop one of them"
            )
        pairs[name] = value
    return pairs


def text_or_file(name: str, value: str) -> str:
    """A value as it is; of a text or record the content of the file, if the value is ``@path``."""
    if modality(name).kind == "image" or not value.startswith("@"):
        return value
    # @path: the text of a file.
    path = Path(value[1:])
    try:
        return read_text(path)
    except (OSError, ValueError, DataError) as error:  # a ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or ("it is not UTF-8 text" if isinstance(error, DataError) else error)
        raise PromptError(
            f"the {name} {path} cannot be read: {reason}",
            expected="a text file after @",
            fix=f"check the path, or write the text itself: {name}='...'",
        ) from None
