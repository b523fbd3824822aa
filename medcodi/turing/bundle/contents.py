"""Contents of the items: generated or read, blinded by one pipeline, and written as payload contents of one length.

The work folder of an export is locked, and holds the samples that an interrupted export has generated already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi.data.images import fit_square
from medcodi.data.refusals import Refused
from medcodi.errors import DataError, MedCoDiError
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind, file_row
from medcodi.study import Direction
from medcodi.turing.bundle.files import check_empty
from medcodi.turing.bundle.payloads import image_content, of_one_length, text_content
from medcodi.turing.design.blinding import blind_text, cut_image, finish_image
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import GeneratedArm, GeneratedContents, GenerationRequest, Stored
from medcodi.turing.design.items import AUTOENCODED, GENERATED, ItemContent, ReaderItem
from medcodi.turing.design.real_arm import RealArm

if TYPE_CHECKING:
    from medcodi.model import MedCoDi


OnExportStep = Callable[[str, int, int], None]  # called with (step, done, total)


def blinded_contents(
    study: ReaderStudyConfig,
    items: Sequence[ReaderItem],
    real: RealArm,
    generated: GeneratedArm,
    model: MedCoDi | None,
    salt: str,
    on_step: OnExportStep,
    stored: Stored,
) -> tuple[dict[ItemContent, bytes], int | None]:
    """Every content through the one pipeline, as the content of its payload; and pixels a side of the images, None without images.

    Args:
        study: Config of the study.
        items: Items of the study.
        real: The real arm.
        generated: The generated arm.
        model: Model whose autoencoder makes the ``autoencoded`` contents.
        salt: Salt of the answer key, which the dither depends on.
        on_step: Called with (step, done, total).
        stored: Gives the samples of a batch that an interrupted export stored, else makes and stores them.

    Raises:
        DataError: If a content is unreadable or unusable.
    """
    # Generate: every requested direction once per case.
    contents = list(dict.fromkeys(content for item in items for content in item.contents))
    requests: list[GenerationRequest] = list(
        dict.fromkeys((content.case, content.direction) for content in contents if content.direction is not None)
    )
    num_made = 0

    def counted(name: str, make: Callable[[], GeneratedContents]) -> GeneratedContents:
        nonlocal num_made
        batch = stored(name, make)
        num_made += len(batch)
        on_step("generating", num_made, len(requests))
        return batch

    samples = generated.contents(requests, real, counted)
    # First half of the pipeline: squares, whose smallest sets the native size.
    images = [content for content in contents if MODALITIES[content.modality].kind == "image"]
    squares: dict[ItemContent, np.ndarray] = {}
    for done, content in enumerate(images):
        squares[content] = _square(study, content, np.asarray(_value(content, real, samples)), model)
        on_step("reading", done + 1, len(images))
    native = _native_size(study, squares)
    # Second half: the same band, range and depth for all; the dither depends on the content and the salt.
    scripts: list[bytes] = []
    for done, (content, square) in enumerate(squares.items()):
        keys = (salt, content.origin, content.case, content.modality, str(content.direction))
        grey = finish_image(square, study.blinding, native, numpy_generator("turing-dither", *keys))
        scripts.append(image_content(grey, study.blinding.depth))
        on_step("blinding", done + 1, len(images))
    blinded = dict(zip(squares, of_one_length(scripts), strict=True))
    # Texts: one form, one length.
    texts = {
        content: _text(study, content, str(_value(content, real, samples)))
        for content in contents
        if content not in squares
    }
    longest = max((len(text.encode("utf-8")) for text in texts.values()), default=0)
    num_bytes = -(-longest // 256) * 256
    blinded |= {content: text_content(text, num_bytes) for content, text in texts.items()}
    return blinded, native if squares else None


def _value(content: ItemContent, real: RealArm, samples: GeneratedContents) -> Any:
    if content.origin == GENERATED and content.direction is not None:
        return samples[content.case, content.direction][content.modality]
    return real.study(content.case).contents[content.modality]


def _text(study: ReaderStudyConfig, content: ItemContent, text: str) -> str:
    try:
        return blind_text(text, study.blinding)
    except Refused as error:
        raise _unusable(content, error, fix="generate it again, or leave this study out") from None


def _square(study: ReaderStudyConfig, content: ItemContent, image: np.ndarray, model: MedCoDi | None) -> np.ndarray:
    if content.origin == AUTOENCODED and model is not None:
        image = autoencoded(model, content.modality, image)
    try:
        return cut_image(image, study.blinding, study.image_size)
    except Refused as error:
        raise _unusable(content, error, fix=error.fix) from None


def _unusable(content: ItemContent, error: Refused, *, fix: str) -> DataError:
    return DataError(f"{_named(content)}: {error.failed}", expected=error.expected, fix=fix)


def _named(content: ItemContent) -> str:
    return f"the {content.origin} {content.modality} of study {content.case!r}"


def autoencoded(model: MedCoDi, modality: str, image: np.ndarray) -> np.ndarray:
    """A real image reconstructed by the model's autoencoder: float32 ``[S, S]`` at the model's size."""
    import torch

    square = fit_square(image, model.config.image_size)
    with torch.inference_mode():
        values = torch.from_numpy(square)[None, None].to(model.device)  # [1, 1, S, S]
        decoded = model.decode(modality, model.latent(modality, values))
    assert isinstance(decoded, torch.Tensor)
    return decoded[0, 0].float().cpu().numpy()


def _native_size(study: ReaderStudyConfig, squares: Mapping[ItemContent, np.ndarray]) -> int:
    """Pixels a side of the coarsest image, or the configured size; never above the size shown.

    Raises:
        DataError: If an image is coarser than configured.
    """
    wanted = study.blinding.native_size
    if not squares:
        return min(wanted or 0, study.image_size)
    content, square = min(squares.items(), key=lambda pair: len(pair[1]))
    coarsest = len(square)
    if wanted is not None and coarsest < wanted:
        raise DataError(
            f"{_named(content)} has {coarsest} pixels a side once cut, native_size is {wanted}",
            expected="no coarser image, because it would stand out",
            fix=f"blinding.native_size: {coarsest}, or finer images",
        )
    return min(wanted or coarsest, study.image_size)


# ---- the work folder of an export ------------------------------------------------------------------------------------
EXPORT = JobKind(
    name="an unfinished export of a reader study",
    index_file="export.json",
    record_file="{shard}/record.json",
    staging_name=".{target}.partial",
    error=DataError,
    fix="remove it, or choose another --out",
)


@contextmanager
def opened(out: str | Path, identity: dict[str, Any]) -> Iterator[JobFolder]:
    """The work folder of an export; its content becomes ``out`` when the body ends. A refusal leaves nothing behind."""
    job = JobFolder.beside(check_empty(out), EXPORT, identity)
    with job.opened(restart=True):
        try:
            with atomic.refusing(job.target, error=DataError):
                # Of an interrupted export only the samples are used: the bundle has another salt, and other bytes.
                atomic.remove(job.content)
                job.content.mkdir()
                yield job
                job.publish()
        except MedCoDiError:
            job.clear()
            raise


def stored_samples(job: JobFolder, name: str, make: Callable[[], GeneratedContents]) -> GeneratedContents:
    """The samples of one batch: those that an interrupted export stored, if they are whole; else made now, and stored."""
    path = job.record_path(name).parent / "samples.npz"
    if not job.verify([name]):
        with np.load(path, allow_pickle=False) as arrays:
            return {
                (case, Direction(tuple(prompts), tuple(targets))): {
                    target: array if array.dtype.kind == "f" else str(array)
                    for target in targets
                    for array in (arrays[f"{number}/{target}"],)
                }
                for number, (case, prompts, targets) in enumerate(json.loads(str(arrays["requests"])))
            }
    samples = make()

    def fill(folder: Path) -> dict[str, Any]:
        requests = [(case, direction.prompts, direction.targets) for case, direction in samples]
        arrays: dict[str, Any] = {
            f"{number}/{target}": np.asarray(value)
            for number, contents in enumerate(samples.values())
            for target, value in contents.items()
        }
        np.savez(folder / path.name, requests=np.array(json.dumps(requests)), **arrays)
        return {"files": {path.name: file_row(folder / path.name)}}

    job.write(name, fill, replace=True)
    return samples
