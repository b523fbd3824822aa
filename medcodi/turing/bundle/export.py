"""Export: from a config and two arms to a blinded bundle, a folder for each reader and the key for the custodian."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi import __version__
from medcodi.config import to_dict
from medcodi.data.domain import Domain, attested
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.contents import OnExportStep, blinded_contents, opened, stored_samples
from medcodi.turing.bundle.files import (
    PAYLOADS,
    READER_STUDY,
    seal,
    study_script,
    viewer_files,
    zip_folder,
)
from medcodi.turing.bundle.key import CUSTODIAN, FORMAT, AnswerKey
from medcodi.turing.bundle.payloads import payload_script
from medcodi.turing.bundle.trials import ReaderTrial, reader_page, reader_trials
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import GeneratedArm
from medcodi.turing.design.items import ItemContent, ReaderItem, draw_items
from medcodi.turing.design.real_arm import RealArm

if TYPE_CHECKING:
    from medcodi.model import MedCoDi


@dataclass(frozen=True)
class ExportSummary:
    """Outcome of an export."""

    folder: Path
    bundle_id: str
    num_items: int  # items of the study, controls and practice included
    num_images: int  # image payloads of one reader
    native_size: int | None  # pixels a side that both arms were reduced to; None without images
    left_out: list[str]  # real studies that are unusable, and why


def export_bundle(
    study: ReaderStudyConfig,
    real: RealArm,
    generated: GeneratedArm,
    out: str | Path,
    *,
    autoencoder: MedCoDi | None = None,
    attested_by: str | None = None,
    salt: str | None = None,
    on_step: OnExportStep | None = None,
) -> ExportSummary:
    """Write a bundle, whole or not at all; an interrupted export resumes with what its model has generated.

    Args:
        study: Config of the study.
        real: The real arm.
        generated: The generated arm.
        out: A new or empty folder.
        autoencoder: Model whose image autoencoder makes the ``autoencoded`` items; None: the generated arm's model.
        attested_by: Who attests that the use agreement of the real data covers the readers.
        salt: Key of everything random in the bundle; None: drawn (tests set it).
        on_step: Called with (step, done, total).

    Raises:
        DataError: If an arm has too few studies, an image is unreadable, or the real data has a use agreement and nobody attests that it
            covers the readers.
    """
    on_step = on_step or (lambda *_: None)
    attestation = attest(real, generated, attested_by)
    model = autoencoder or getattr(generated, "model", None)
    if model is None and any(task.autoencoded for task in study.tasks):
        raise DataError(
            "autoencoded items need a model, and none is given",
            expected="a model",
            fix="--autoencoder MODEL, or autoencoded: 0",
        )
    # Everything that generated contents depend on: another study or model starts anew.
    arms = {"real": real.name, "generated": {"name": generated.name, **generated.provenance()}}
    with opened(out, {"medcodi": __version__, "study": to_dict(study), **arms}) as job:
        staging = job.content
        # Design: the items, and each reader's trials.
        items = draw_items(study, real, generated)
        salt = salt or secrets.token_hex(32)
        readers = [f"reader-{number + 1:02d}" for number in range(study.readers)]
        trials = {reader: reader_trials(study, items, number, salt) for number, reader in enumerate(readers)}
        # Contents: generate, read and blind.
        stored = partial(stored_samples, job)
        blinded, native = blinded_contents(study, items, real, generated, model, salt, on_step, stored)
        # Key: everything that readers must not know.
        provenance = {
            "real": {"name": real.name, "left_out": [vars(left) for left in real.left_out]},
            "generated": {"name": generated.name, **generated.provenance()},
            "native_size": native,
            "attestation": attestation,
        }
        key = _key(study, items, trials, salt, provenance)
        key.save(staging / CUSTODIAN)
        # Files: one folder and archive per reader, public facts, one time for all.
        for done, (reader, shown) in enumerate(trials.items()):
            _write_reader(staging / "readers" / reader, reader_page(study, key, reader, shown), shown, blinded)
            on_step("writing readers", done + 1, len(trials))
        _write_facts(staging / "bundle.json", study, key, len(items), attestation)
        seal(staging, private=CUSTODIAN)
    images = sum(MODALITIES[content.modality].kind == "image" for item in items for content in item.contents)
    left_out = [f"{left.file}: {left.reason}" for left in real.left_out]
    return ExportSummary(Path(out), key.bundle_id, len(items), images, native, left_out)


def attest(real: RealArm, generated: GeneratedArm, attested_by: str | None) -> dict[str, str] | None:
    """The attestation for real studies, or for a model trained on studies, with a use agreement; None where none is needed or given.

    Raises:
        DataError: If one is needed and nobody attests.
    """
    statement = "Every reader of this bundle may see the real examinations under the use agreement of their source."
    attestation = attested(
        real.agreement, attested_by, failed=f"the real studies ({real.name}) look like", statement=statement
    )
    # What a model generates may show its training studies.
    domain = Domain.of(getattr(getattr(generated, "model", None), "provenance", {}))
    if not real.agreement and domain is not None and domain.agreement:
        statement = "Every reader of this bundle may see what a model trained on its source generates, under the source's use agreement."
        failed = f"the model {generated.name!r} was trained on"
        return attested(domain.agreement, attested_by, failed=failed, statement=statement)
    return attestation and {**attestation, "source": real.agreement or real.name}


# ---- files -----------------------------------------------------------------------------------------------------------
def _key(
    study: ReaderStudyConfig,
    items: Sequence[ReaderItem],
    trials: Mapping[str, Sequence[ReaderTrial]],
    salt: str,
    provenance: dict[str, Any],
) -> AnswerKey:
    return AnswerKey(
        {
            "format": FORMAT,
            "bundle_id": sha256_of("bundle", salt=salt)[:12],
            "salt": salt,
            "medcodi": __version__,
            "study": to_dict(study),
            "trials": {reader: {trial.trial: trial.key_entry() for trial in shown} for reader, shown in trials.items()},
            "items": {item.name: item.key_entry() for item in items},
            "provenance": provenance,
        }
    )


def _write_reader(
    folder: Path, page: dict, trials: Sequence[ReaderTrial], blinded: Mapping[ItemContent, bytes]
) -> None:
    """Viewer, ``study.js`` and payloads of one reader, and the archive beside the folder."""
    (folder / PAYLOADS).mkdir(parents=True)
    for name, data in viewer_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / READER_STUDY).write_bytes(study_script(page))
    # By id, so that the order on the disk follows nothing else.
    for panel in sorted((panel for trial in trials for panel in trial.panels), key=lambda panel: panel.payload):
        script = payload_script(panel.payload, blinded[panel.content])
        (folder / PAYLOADS / f"{panel.payload}.js").write_bytes(script)
    seal(folder)
    zip_folder(folder)


def _write_facts(
    path: Path, study: ReaderStudyConfig, key: AnswerKey, num_items: int, attestation: dict[str, str] | None
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
