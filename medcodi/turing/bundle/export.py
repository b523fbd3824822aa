"""From a study file and two arms to a blinded bundle: a folder for each reader, the key for the custodian."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcodi import __version__
from medcodi.config import to_dict
from medcodi.data.images import fit_square
from medcodi.data.refusals import Refused
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.files import new_folder, seal, viewer_files, zip_folder
from medcodi.turing.bundle.key import FORMAT, Key
from medcodi.turing.bundle.payload import image_fields, payload_script, study_script, text_fields
from medcodi.turing.bundle.trials import ReaderTrial, reader_study, reader_trials
from medcodi.turing.design.blinding import blind_text, cut_image, finish_image
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import GeneratedArm, Request, Value
from medcodi.turing.design.items import AUTOENCODED, GENERATED, Content, Item, draw_items
from medcodi.turing.design.real_arm import RealArm

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path  # of the bundle
    bundle_id: str  # its id
    num_items: int  # items of the study, controls and practice among them
    num_images: int  # image payloads of one reader
    native_size: int | None  # pixels a side that both arms were brought down to
    left_out: list[str]  # real studies that could not be used, and why


def export_bundle(
    study: ReaderStudyConfig,
    real: RealArm,
    generated: GeneratedArm,
    out: str | Path,
    *,
    autoencoder: MedCoDi | None = None,
    attested_by: str | None = None,
    salt: str | None = None,
    on_step: OnStep | None = None,
) -> Exported:
    """Write a bundle; all or nothing.

    Args:
        study: What is shown.
        real: The real arm.
        generated: The generated arm.
        out: A new or empty folder.
        autoencoder: A model whose image autoencoder makes the ``autoencoded`` items; None: the generated arm's model.
        attested_by: Who attests that the readers are covered by the use agreement of the real data.
        salt: Key of all that is random in the bundle; None: drawn. For tests.
        on_step: Called with (what, done, in all).

    Raises:
        DataError: If an arm has fewer studies than needed, an image cannot be read, or the real data is under a use agreement and nobody
            attests that the readers are covered.
    """
    attestation = attest(real, attested_by)
    model = autoencoder or getattr(generated, "model", None)
    if model is None and any(task.autoencoded for task in study.tasks):
        raise DataError(
            "autoencoded items, but no model to pass them through",
            expected="a model",
            fix="--autoencoder MODEL, or autoencoded: 0",
        )
    with new_folder(out) as staging:
        items = draw_items(study, real, generated)
        salt = salt or secrets.token_hex(32)
        trials = {
            f"reader-{number + 1:02d}": reader_trials(study, items, number, salt) for number in range(study.readers)
        }
        blinded, native = _blind(study, items, real, generated, model, salt, on_step or (lambda *_: None))
        bundle_id = sha256_of("bundle", salt=salt)[:12]
        key = _key(study, items, trials, real, generated, bundle_id, salt, native, attestation)
        (staging / "custodian").mkdir()
        key.save(staging / "custodian")
        for done, (reader, shown) in enumerate(trials.items()):
            _write_reader(staging / "readers" / reader, reader_study(study, key, reader, shown), shown, blinded)
            if on_step:
                on_step("writing readers", done + 1, len(trials))
        _write_facts(staging / "bundle.json", study, key, len(items), attestation)
        seal(staging)
    images = sum(MODALITIES[content.modality].kind == "image" for item in items for content in item.contents)
    left_out = [f"{one.file}: {one.reason}" for one in real.left_out]
    return Exported(Path(out), bundle_id, len(items), images, native, left_out)


def attest(real: RealArm, attested_by: str | None) -> dict[str, str] | None:
    """The attestation for data under a use agreement; None where none is needed or given.

    Raises:
        DataError: If one is needed and nobody attests.
    """
    if real.agreement and not (attested_by or "").strip():
        raise DataError(
            f"the real studies ({real.name}) look like {real.agreement.upper()}, which is shared under a use agreement",
            expected="somebody who attests that every reader is covered by it",
            fix="--attest 'Name, institution' once that is so; it is recorded in the bundle",
        )
    if not (attested_by or "").strip():
        return None
    statement = "Every reader of this bundle may see the real examinations under the use agreement of their source."
    return {"source": real.agreement or real.name, "attested_by": str(attested_by).strip(), "statement": statement}


# ---- contents ------------------------------------------------------------------------------------------------------
def _blind(
    study: ReaderStudyConfig,
    items: Sequence[Item],
    real: RealArm,
    generated: GeneratedArm,
    model: MedCoDi | None,
    salt: str,
    on_step: OnStep,
) -> tuple[dict[Content, str], int | None]:
    """Every content through the one pipeline, as the JSON of its payload; and the common native size."""
    contents = list(dict.fromkeys(content for item in items for content in item.contents))
    requests: list[Request] = list(
        dict.fromkeys((one.case, one.direction) for one in contents if one.direction is not None)
    )
    made = generated.contents(requests, real, lambda done, total: on_step("generating", done, total))
    images = [one for one in contents if MODALITIES[one.modality].kind == "image"]
    squares: dict[Content, np.ndarray] = {}
    for done, content in enumerate(images):
        squares[content] = _square(study, content, real, made, model)
        on_step("reading", done + 1, len(images))
    native = _native(study, squares)
    blinded: dict[Content, str] = {}
    for done, (content, square) in enumerate(squares.items()):
        noise = numpy_generator(
            "turing-dither", salt, content.origin, content.case, content.modality, str(content.direction)
        )
        blinded[content] = image_fields(finish_image(square, study.blinding, native, study.image_size, noise))
        on_step("blinding", done + 1, len(images))
    texts = {one: _text(study, one, _value(one, real, made)) for one in contents if one not in squares}
    longest = max((len(text.encode("utf-8")) for text in texts.values()), default=0)
    num_bytes = -(-longest // 256) * 256
    blinded |= {content: text_fields(text, num_bytes) for content, text in texts.items()}
    return blinded, native if squares else None


def _value(content: Content, real: RealArm, made: Mapping[Request, Mapping[str, Value]]) -> Value:
    if content.origin == GENERATED and content.direction is not None:
        return made[content.case, content.direction][content.modality]
    return real.study(content.case).contents[content.modality]


def _text(study: ReaderStudyConfig, content: Content, value: Value) -> str:
    try:
        return blind_text(str(value), study.blinding)
    except Refused as error:
        raise DataError(
            f"the {content.origin} {content.modality} of study {content.case!r}: {error.failed}",
            expected=error.expected,
            fix="generate it again, or leave this study out",
        ) from None


def _square(
    study: ReaderStudyConfig,
    content: Content,
    real: RealArm,
    made: Mapping[Request, Mapping[str, Value]],
    model: MedCoDi | None,
) -> np.ndarray:
    image = np.asarray(_value(content, real, made))
    if content.origin == AUTOENCODED and model is not None:
        image = autoencoded(model, content.modality, image)
    try:
        return cut_image(image, study.blinding, study.image_size)
    except Refused as error:
        raise DataError(
            f"the {content.origin} {content.modality} of study {content.case!r}: {error.failed}",
            expected=error.expected,
            fix=error.fix,
        ) from None


def autoencoded(model: MedCoDi, modality: str, image: np.ndarray) -> np.ndarray:
    """A real image as the model's autoencoder gives it back: float32 ``[S, S]`` at the model's size."""
    import torch

    square = fit_square(image, model.config.image_size)
    with torch.inference_mode():
        values = torch.from_numpy(square)[None, None].to(model.device)
        decoded = model.decode(modality, model.latent(modality, values))
    assert isinstance(decoded, torch.Tensor)
    return decoded[0, 0].float().cpu().numpy()


def _native(study: ReaderStudyConfig, squares: Mapping[Content, np.ndarray]) -> int:
    """Pixels a side of the coarsest image, or what the study says; never above the shown size.

    Raises:
        DataError: If the study asks for more than an image has.
    """
    coarsest, whose = min(
        ((len(square), one) for one, square in squares.items()), key=lambda pair: pair[0], default=(0, None)
    )
    wanted = study.blinding.native_size
    if whose is not None and wanted is not None and coarsest < wanted:
        raise DataError(
            f"the {whose.origin} {whose.modality} of study {whose.case!r} has {coarsest} pixels a side once cut, native_size is {wanted}",
            expected="no image below it, for it would stand out",
            fix=f"blinding.native_size: {coarsest}, or finer images",
        )
    return min(wanted or coarsest, study.image_size)


# ---- files ---------------------------------------------------------------------------------------------------------
def _key(
    study: ReaderStudyConfig,
    items: Sequence[Item],
    trials: Mapping[str, Sequence[ReaderTrial]],
    real: RealArm,
    generated: GeneratedArm,
    bundle_id: str,
    salt: str,
    native: int | None,
    attestation: dict[str, str] | None,
) -> Key:
    return Key(
        {
            "format": FORMAT,
            "bundle_id": bundle_id,
            "salt": salt,
            "medcodi": __version__,
            "study": to_dict(study),
            "trials": {reader: {one.trial: one.entry() for one in shown} for reader, shown in trials.items()},
            "items": {item.name: _item_entry(item) for item in items},
            "provenance": {
                "real": {"name": real.name, "left_out": [vars(one) for one in real.left_out]},
                "generated": {"name": generated.name, **generated.provenance()},
                "native_size": native,
                "attestation": attestation,
            },
        }
    )


def _item_entry(item: Item) -> dict[str, Any]:
    sides = [
        [
            {
                "origin": one.origin,
                "case": one.case,
                "modality": one.modality,
                "direction": None if one.direction is None else str(one.direction),
            }
            for one in side
        ]
        for side in item.sides
    ]
    return {"task": item.task, "arm": item.arm, "case": item.case, "patients": list(item.patients), "sides": sides}


def _write_reader(folder: Path, study: dict, trials: Sequence[ReaderTrial], blinded: Mapping[Content, str]) -> None:
    (folder / "payloads").mkdir(parents=True)
    for name, data in viewer_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "study.js").write_bytes(study_script(study))
    for panel in sorted((panel for trial in trials for panel in trial.panels), key=lambda panel: panel.payload):
        script = payload_script(panel.payload, blinded[panel.content])
        (folder / "payloads" / f"{panel.payload}.js").write_bytes(script)
    seal(folder)
    zip_folder(folder)


def _write_facts(
    path: Path, study: ReaderStudyConfig, key: Key, num_items: int, attestation: dict[str, str] | None
) -> None:
    facts = {
        "format": FORMAT,
        "bundle_id": key.bundle_id,
        "study": study.name,
        "key_sha256": key.sha256,
        "study_sha256": key.study_sha256,
        "num_readers": study.readers,
        "num_items": num_items,
        "blinding": to_dict(study.blinding),
        "medcodi": __version__,
        "attestation": attestation,
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
