"""An audit: open, measure, run the controls, judge, and write one bundle; resumable, by any number of ranks.

::

    audit.json     the identity: configuration, limits with their hash, model and data; written before anything is measured
    results.json   every figure, the verdict and the controls; computed from shards/ and control/shards/ alone
    page.html      the same for people, with the most similar pairs: confidential where the studies are real
    methods.md     a paragraph for a paper; card.md: a section for a model card
    shards/        what was measured, with SHA-256;  generated/: the generations;  control/: the positive control
    bundle.json    SHA-256 of every file above, written last
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcodi.config import to_dict
from medcodi.console import bars_of, progress_of
from medcodi.data.domain import Domain
from medcodi.data.loading import StudyDataset
from medcodi.distributed import Ranks, join_ranks, rank_device
from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.pipeline import LONGEST_WAIT
from medcodi.evaluation.provenance import machine, versions
from medcodi.generation.pipeline import load
from medcodi.model import MedCoDi
from medcodi.model.identity import model_identity
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder
from medcodi.trust.privacy.attacks.identifiers import presidio_analyzer
from medcodi.trust.privacy.attacks.reidentification import PatientFilms, measure_ruler, train_network
from medcodi.trust.privacy.config import AuditConfig
from medcodi.trust.privacy.controls import run_positive
from medcodi.trust.privacy.gate import limits_sha256
from medcodi.trust.privacy.measure import Subject, directions_left_out, measure
from medcodi.trust.privacy.populations import AuditedStudies, JoinedStudies
from medcodi.trust.privacy.results import BUNDLE, RESULTS, compute_results, hashes_of
from medcodi.trust.privacy.scores import AUDIT
from medcodi.trust.privacy.statistics import SHOWN_DELTA, epsilon_shown

FORMAT = 1
PAGE, METHODS, CARD, RUN = "page.html", "methods.md", "card.md", "run.json"
CONTROL = "control"
NOT_THE_IDENTITY = ("out", "device")  # where it is stored and what it ran on change no figure
LATER_KEYS = {"presidio": False}  # keys that earlier versions did not have, with the value that they stood for


def audit(config: AuditConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Audit a model; write the bundle into ``config.out``.

    Args:
        config: What is audited, by what, and the limits.
        quiet: Show no progress.

    Returns:
        The results, as in ``results.json``; ``verdict.outcome`` is ``passes``, ``inconclusive``, ``fails`` or ``invalid``.

    Raises:
        ConfigError, DataError, CheckpointError: Before anything is measured, if model and studies do not fit, members and
            non-members have a patient in common or are too few, or ``out`` holds something else or is in use.
    """
    ranks = join_ranks(timeout=LONGEST_WAIT, computing=False, error=ConfigError)
    started = time.monotonic()
    ranks.by_first(JobFolder(Path(config.out), AUDIT).read_index)  # refuses a folder of something else at once
    model, reference, parts = open_inputs(config)
    job = JobFolder(Path(config.out), AUDIT, identity_of(config, model, reference, parts), ranks)
    ranks.by_first(job.check)
    # What cannot be audited is refused before anything is written.
    subject = read_subject(config, model, reference, parts, ranks)
    with job.opened(), progress_of(disable=quiet or not ranks.is_first) as progress:
        measure(subject, job, bars_of(progress))
        if config.controls.run:
            ranks.by_first(lambda: run_positive(config.controls, job.content / CONTROL, bars_of(progress, "control: ")))
        return ranks.by_first(lambda: _finish(subject, job, time.monotonic() - started))


# ---- opening ---------------------------------------------------------------------------------------------------------
def open_inputs(config: AuditConfig) -> tuple[MedCoDi, MedCoDi | None, tuple[StudyDataset, StudyDataset]]:
    """Model, reference and both datasets, checked as far as is possible without reading a study."""
    if config.presidio:
        presidio_analyzer()  # refused before anything is opened
    parts = (config.members.build(), config.non_members.build())
    if parts[0].fingerprint == parts[1].fingerprint:
        raise DataError(
            f"members and non-members are the same studies, {parts[0].name}",
            expected="studies that the model was trained on, and studies of other patients",
            fix="give the training split as members, and the test split as non-members",
        )
    device = rank_device(config.device)
    config.execution.check(device)
    model = load(config.model, device)
    reference = None if config.reference is None else load(config.reference, device)
    for dataset in parts:
        if dataset.image_size != model.config.image_size:
            raise ConfigError(
                f"{dataset.name} is {dataset.image_size} pixels a side, the model makes {model.config.image_size}",
                fix=f"members.image_size={model.config.image_size} and the same of non_members, of data prepared at that size",
            )
    recorded = training_list(model, parts)
    if recorded["non_members_trained"]:
        raise DataError(
            f"the model was trained on the non-members, {parts[1].name}, as its index says",
            expected="studies that it has never seen",
            fix="give a split that was held out",
        )
    return model, reference, parts


def training_list(model: MedCoDi, parts: tuple[StudyDataset, StudyDataset]) -> dict[str, Any]:
    """The data that the model's index records, and whether they are exactly the members, or the non-members."""
    stages = model.provenance.get("training")
    records = stages.values() if isinstance(stages, dict) else ()
    data = {str(record["data"]) for record in records if isinstance(record, dict) and record.get("data")}
    domain = Domain.of(model.provenance)
    names = sorted({*(domain.sources if domain else ()), *data})
    return {
        "known": bool(names),
        "recorded": ", ".join(name if len(name) < 60 else f"{name[:12]}…" for name in names),
        "members": parts[0].name,
        "members_confirmed": parts[0].fingerprint in data,
        "non_members_trained": parts[1].fingerprint in data,
    }


def identity_of(
    config: AuditConfig,
    model: MedCoDi,
    reference: MedCoDi | None,
    parts: tuple[StudyDataset, StudyDataset],
) -> dict[str, Any]:
    """Everything that the figures depend on."""
    values = {name: value for name, value in to_dict(config).items() if name not in NOT_THE_IDENTITY}
    return {
        "format": FORMAT,
        "config": {name: value for name, value in values.items() if LATER_KEYS.get(name, ...) != value},
        "limits_sha256": limits_sha256(config.limits),
        "model": model_identity(model),
        "reference": None if reference is None else model_identity(reference),
        "training_list": training_list(model, parts),
        "data": {
            name: {"name": part.name, "fingerprint": part.fingerprint, "studies": len(part)}
            for name, part in zip(("members", "non_members"), parts, strict=True)
        },
    }


def read_subject(
    config: AuditConfig,
    model: MedCoDi,
    reference: MedCoDi | None,
    parts: tuple[StudyDataset, StudyDataset],
    ranks: Ranks,
) -> Subject:
    """Read the studies, match them, and train the network of re-identification."""
    studies = AuditedStudies(
        JoinedStudies(*parts),
        matching=config.matching,
        num_studies=config.num_studies,
        seed=config.seed,
        shard_size=config.batch_size,
        ranks=ranks,
    )
    left_out = directions_left_out(config, model, studies)
    if len(left_out) == len(config.directions):
        raise DataError(
            f"no direction can be audited: {left_out[0]['figure']}: {left_out[0]['reason']}"
            if left_out
            else "no direction",
            expected="at least one of directions",
            fix="choose other directions, or more studies",
        )
    subject = Subject(config=config, model=model, reference=reference, studies=studies, left_out=left_out)
    own = config.reidentification
    if own is None:
        return subject
    # The network: trained by every rank alike, because it is a function of its config.
    audited = set(studies.patients)
    network = train_network(own, PatientFilms.of(own.train.build(), audited))
    ruler = measure_ruler(network, PatientFilms.of(own.validation.build(), audited), own.seed)
    return replace(subject, network=network, ruler=ruler)


# ---- the end ---------------------------------------------------------------------------------------------------------
def _finish(subject: Subject, job: JobFolder, seconds: float) -> dict[str, Any]:
    """Compute the results, render them, and seal the bundle."""
    from medcodi.trust.privacy.page import write_audit_page

    (job.content / BUNDLE).unlink(missing_ok=True)  # incomplete until it is written again
    results = compute_results(job)
    job.write_json(job.content / RESULTS, results, indent=1)
    write_audit_page(job.content / PAGE, results, subject, job)
    for name, text in ((METHODS, methods_text(results)), (CARD, card_text(results))):
        atomic.write_text(job.content / name, text, error=AUDIT.error, then=AUDIT.resume)
    run = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "ranks": job.ranks.world_size,
        "machine": machine(),
        "versions": versions(),
        "seconds": round(seconds, 1),
    }
    job.write_json(job.content / RUN, run)
    job.write_json(job.content / BUNDLE, {"format": FORMAT, "files": hashes_of(job.content)}, indent=1)
    return results


# ---- the card --------------------------------------------------------------------------------------------------------
Results = Mapping[str, Any]


def methods_text(results: Results) -> str:
    """A paragraph for a paper: what was done, with the numbers that a reader needs to judge it."""
    config, facts, controls = results["config"], results["populations"], results["controls"]
    parts = [
        f"We audited {results['model']['name']} (SHA-256 {results['model']['sha256'][:12]}) for disclosure of its training studies with "
        f"medcodi audit: {facts['members']} members and {facts['non_members']} non-members (matching: {facts['matching']}), which a classifier "
        f"without access to the model could tell apart with AUROC {facts['bias_floor']['value']:.2f}.",
        f"Membership was inferred from denoising losses at {len(config['timesteps'])} timesteps, main attack "
        f"{results['membership']['main']['attack']!r}; memorisation from distances of generations in directions {', '.join(config['directions'])} "
        "to their own and to other patients' studies, members' prompts against non-members'; extraction from canaries, rare phrases and identifiers.",
        "Patients are the units of all tests (Mann and Whitney, one-sided; Holm within a family); intervals have 95 %.",
    ]
    if controls is None:
        parts.append("The controls were not run.")
    else:
        negative = controls["negative"]
        parts.append(
            f"A tiny overfitted model was flagged by {len(controls['positive']['flagged'])} of {len(controls['positive']['p_values'])} families (p < 0.001); "
            f"{negative['passed']} of {negative['repeats']} redraws of members never seen passed."
        )
    parts.append(
        f"Limits were declared before the run (SHA-256 {results['limits_sha256'][:12]}); outcome: {results['verdict']['outcome']}."
    )
    return " ".join(parts) + "\n"


def card_text(results: Results) -> str:
    """A section for a model card, or for the card of a synthetic set, as Markdown."""
    facts, shown = results["populations"], epsilon_shown(results["membership"]["main"])
    bound = "too few patients to tell" if shown is None else f"at least {shown:.2f} at δ = {SHOWN_DELTA:g}"
    lines = [
        "## Privacy audit",
        "",
        f"Outcome: **{results['verdict']['outcome']}**, {facts['members']} members against {facts['non_members']} non-members; model "
        f"`{results['model']['sha256'][:12]}`, limits `{results['limits_sha256'][:12]}` declared before the run.",
        "",
        *(f"- {line}" for line in results["verdict"]["lines"]),
        f"- ε that the membership attack proves: {bound}. A training that promises less would be broken; a low bound is no promise.",
        "",
        "| limit | allowed | value | outcome |",
        "| --- | ---: | ---: | --- |",
    ]
    for entry in results["limits"]:
        value = entry.get("value")
        shown = "–" if value is None else f"{value:.3g}"
        lines.append(f"| {entry['title']} | {entry['allowed']:g} | {shown} | {entry['outcome']} |")
    return "\n".join(lines) + "\n"
