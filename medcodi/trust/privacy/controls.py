"""The controls of an audit. Positive: a tiny model, overfitted on a few dozen studies with canaries, must be flagged by every family of attacks.

Negative: members that the model never saw must pass, redrawn among the non-members from the scores that are stored.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcodi.config import to_dict
from medcodi.data.dataset import read_study
from medcodi.data.loading import DataConfig, StudyDataset, collate
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.model import MedCoDi, ModelConfig, tiny_config
from medcodi.model.fresh import build_model
from medcodi.randomness import StepRandomness, numpy_generator
from medcodi.stages.encoded import encode_batch
from medcodi.stages.stage import build_stage
from medcodi.storage.job_folder import JobFolder
from medcodi.study import Study
from medcodi.trust.privacy.attacks.canaries import PlantedStudies
from medcodi.trust.privacy.config import AuditConfig, CanariesConfig, ControlsConfig, LimitsConfig
from medcodi.trust.privacy.gate import FAMILIES, judge, passes
from medcodi.trust.privacy.measure import OnStudies, Subject, ignore, measure
from medcodi.trust.privacy.populations import AuditedStudies, JoinedStudies
from medcodi.trust.privacy.scores import AUDIT, Scores
from medcodi.trust.privacy.statistics import LEFT_OUT, MEMBER, NON_MEMBER

ALPHA = 0.001  # the positive control is flagged by a family whose p is below it
SIZE = 32  # pixels a side
MODALITIES = ("frontal", "report")  # of the tiny model
STEPS = {"frontal": 1, "report": 2}  # times num_steps: a report's are a third as long, and learn more slowly
REFERENCE_SHARE = 8  # the reference is the checkpoint after this part of the steps
AUTOENCODER_STEPS = 40
LEARNING_RATE = 3e-3
REDRAW_RESAMPLES = 100


# ---- positive --------------------------------------------------------------------------------------------------------
class StudiesInMemory:
    """Some studies of a dataset, read once, with the modalities of the tiny model."""

    def __init__(self, dataset: StudyDataset) -> None:
        self.name, self.image_size, self.fingerprint = dataset.name, dataset.image_size, dataset.fingerprint
        self.studies = [_cut(read_study(dataset, index)) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> Study:
        return self.studies[index]


def _cut(study: Study) -> Study:
    return replace(study, contents={name: value for name, value in study.contents.items() if name in MODALITIES})


def control_config(controls: ControlsConfig) -> AuditConfig:
    """The audit of the positive control, a function of the controls' config."""

    def data(split: str, num: int) -> DataConfig:
        return DataConfig(source="phantom", split=split, num_studies=num, image_size=SIZE, seed=controls.seed)

    return AuditConfig(
        members=data("train", controls.num_studies),
        non_members=data("test", 2 * controls.num_studies),  # they are not trained on, and cost little
        model="the tiny model of the positive control",
        matching="none",
        directions=("report->frontal",),
        timesteps=(0.2, 0.4, 0.6, 0.8),
        canaries=CanariesConfig(seed=controls.seed, repetitions=(0, 1, 4), of_each=2),
        controls=controls,
        num_inference_steps=12,
        guidance_scale=1.0,
        sampler="ddim",
        seed=controls.seed,
    )


def overfitted_model(config: AuditConfig, members: StudyDataset) -> tuple[MedCoDi, MedCoDi]:
    """A tiny model trained far beyond need on the members with canaries, and its early checkpoint, the reference."""
    controls, canaries = config.controls, config.canaries
    assert canaries is not None
    planted = StudiesInMemory(PlantedStudies(members, canaries)).studies
    model = build_model(control_model(), [study.report for study in planted if study.report], seed=controls.seed)
    rows = {name: [study for study in planted if name in study.contents] for name in MODALITIES}
    # Autoencoders: the films' a little; the reports' stays as it is, because latents are enough to remember.
    model.trained_stages = ("autoencode", "align")
    parts = [rows["frontal"][start : start + 16] for start in range(0, len(rows["frontal"]), 16)]
    films = [collate(part, range(len(part)), SIZE) for part in parts]
    _train(model, "autoencode", {"kinds": ["image"]}, films, AUTOENCODER_STEPS, controls.seed)
    reports = [collate(rows["report"], range(len(rows["report"])), SIZE)]
    _train(model, "autoencode", {"kinds": ["text"]}, reports, 0, controls.seed)  # its scale alone
    # Denoisers, one after the other: every row in every step, encoded once.
    reference = copy.deepcopy(model)
    for name, studies in rows.items():
        with torch.no_grad():
            batch = encode_batch(model, collate(studies, range(len(studies)), SIZE))
        # Means of the posteriors alone: the autoencoders are too young for their spread to mean anything.
        encoded = [replace(batch, stds={kind: torch.zeros_like(std) for kind, std in batch.stds.items()})]
        num_steps = controls.num_steps * STEPS[name]
        early = max(1, num_steps // REFERENCE_SHARE)
        _train(model, "diffuse", {"targets": [name]}, encoded, early, controls.seed)
        reference.denoisers[name].load_state_dict(model.denoisers[name].state_dict())
        _train(model, "diffuse", {"targets": [name]}, encoded, num_steps - early, controls.seed + 1)
    return model.eval(), reference.eval()


def control_model() -> ModelConfig:
    """Sizes of the tiny model: one token of context, and the prediction of v, whose losses at much noise are of the content."""
    return tiny_config(
        name="positive-control",
        modalities=MODALITIES,
        context="pooled",
        context_scale=8.0,
        schedule=NoiseScheduleConfig(prediction_type="v_prediction"),
    )


def _train(
    model: MedCoDi, name: str, options: dict[str, Any], batches: Sequence[Any], num_steps: int, seed: int
) -> None:
    """Train one stage in place with AdamW on batches that are in memory."""
    stage = build_stage(name, model, options)
    optimizer = torch.optim.AdamW(
        [p for p in stage.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
    )
    for step in range(num_steps):
        batch = batches[step % len(batches)]
        loss = stage(batch, StepRandomness(seed=seed, step=step, samples=batch.samples)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        stage.eval().finish(batches)
    model.requires_grad_(False)


def positive_subject(controls: ControlsConfig) -> Subject:
    """The positive control as an audit sees it: the overfitted model, its members, and studies of other patients."""
    config = control_config(controls)
    members, others = (StudiesInMemory(data.build()) for data in (config.members, config.non_members))
    model, reference = overfitted_model(config, members)
    studies = AuditedStudies(JoinedStudies(members, others), matching="none", seed=config.seed)
    return Subject(config=config, model=model, reference=reference, studies=studies)


def run_positive(controls: ControlsConfig, folder: Path, report: OnStudies = ignore) -> None:
    """Measure the positive control into a folder of its own, unless that is done."""
    job = JobFolder(folder, AUDIT, {"control": to_dict(controls)})
    with job.opened():
        if not (job.content / "finished.json").is_file():
            measure(positive_subject(controls), job, report)
            job.write_json(job.content / "finished.json", {"finished": True})


def positive_figures(scores: Scores, resamples: int, seed: int) -> dict[str, Any]:
    """The families' p-values of the positive control, and which of them flag it."""
    families = scores.families(scores.labels, resamples, seed)
    p_values = {family: families[family]["p_value"] for family in FAMILIES}
    canaries = families["extraction"]["canaries"] or {}
    return {
        "p_values": p_values,
        "flagged": [family for family, p in p_values.items() if p is not None and p < ALPHA],
        "membership_auroc": families["membership"]["main"]["auroc"],
        "canaries": {key: canaries.get(key) for key in ("rows", "exposure", "trend")},
        "studies": {key: scores.facts[key] for key in ("members", "non_members")},
    }


# ---- negative --------------------------------------------------------------------------------------------------------
def redraw(scores: Scores, seed: int, repeat: int) -> np.ndarray:
    """Labels for one repeat: half of the non-members' patients are called members, the true members are left out."""
    outside = scores.labels == NON_MEMBER
    patients = np.asarray(scores.patients, dtype=object)
    names = np.unique(patients[outside].astype(str))
    chosen = set(numpy_generator("audit redraw", seed, repeat).permutation(names)[: len(names) // 2])
    labels = np.full(len(scores.labels), LEFT_OUT, np.int8)
    labels[outside] = [MEMBER if str(name) in chosen else NON_MEMBER for name in patients[outside]]
    return labels


def negative_figures(scores: Scores, limits: LimitsConfig, controls: ControlsConfig, seed: int) -> dict[str, Any]:
    """Repeats that pass the gate, and repeats whose interval of the main membership AUROC holds 0.5."""
    rows = []
    for repeat in range(controls.repeats):
        labels = redraw(scores, controls.seed, repeat)
        families = scores.families(labels, REDRAW_RESAMPLES, seed, canaries=False)
        judged = judge(families, limits, of_members_only=True)
        auroc = families["membership"]["main"]["auroc"]
        rows.append(
            {
                "passes": passes(judged),
                "failed": [entry["limit"] for entry in judged if entry["outcome"] == "fails"],
                "auroc": auroc,
                "holds_half": auroc is not None and auroc["low"] <= 0.5 <= auroc["high"],
            }
        )
    return {
        "repeats": len(rows),
        "passed": sum(row["passes"] for row in rows),
        "held_half": sum(row["holds_half"] for row in rows),
        "needed": controls.passes,
        "rows": rows,
    }


# ---- both ------------------------------------------------------------------------------------------------------------
def control_figures(
    scores: Scores, positive: Scores, limits: LimitsConfig, controls: ControlsConfig, resamples: int, seed: int
) -> dict[str, Any]:
    """Both controls, whether they hold, and what is wrong where they do not."""
    flagged = positive_figures(positive, resamples, controls.seed)
    negative = negative_figures(scores, limits, controls, seed)
    problems = []
    if missed := [family for family in FAMILIES if family not in flagged["flagged"]]:
        problems.append(f"the overfitted model was not flagged by {', '.join(missed)}")
    for key, what in (("passed", "passed"), ("held_half", "had an AUROC whose interval holds 0.5")):
        if negative[key] < controls.passes:
            problems.append(
                f"only {negative[key]} of {negative['repeats']} redraws of members never seen {what}, {controls.passes} must"
            )
    return {"positive": flagged, "negative": negative, "holds": not problems, "problems": problems}
