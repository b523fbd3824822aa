"""The thorax phantom: chest examinations computed from one 3-D body each, with exact truth; nothing to download."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import yaml
from scipy import ndimage

from medcodi.data.sources.phantom import lines, rendering
from medcodi.data.sources.phantom.body import Body, draw_body, draw_findings, growth_and_rise, labels_of, pick
from medcodi.data.sources.phantom.film import VIEWS, draw_exposure, expose
from medcodi.data.sources.phantom.painting import HALF_DEPTH
from medcodi.data.sources.phantom.patients import check_population, draw_visit, identifiers
from medcodi.data.sources.phantom.volume import build
from medcodi.errors import DataError
from medcodi.randomness import numpy_generator
from medcodi.record import Record
from medcodi.study import Finding, Study

VERSION = "1"
VERSION_2 = "2.2"  # the second draft of version 2: what was cached of the first is another's
MIN_SIZE, MAX_SIZE = 32, 1024


def phantom_findings(seed: int, index: int) -> tuple[Finding, ...]:
    """The exact truth of one study."""
    return draw_findings(numpy_generator("phantom findings", seed, index))


def phantom_body(seed: int, index: int) -> Body:
    """The patient of one study, without computing the films: the exact truth of both films' geometry."""
    return _body_with(phantom_findings(seed, index), numpy_generator("phantom body", seed, index))


def phantom_report(seed: int, index: int) -> str:
    """The report of one study, without computing its films."""
    return report_version_1(numpy_generator("phantom report", seed, index), phantom_findings(seed, index))


def phantom_study(seed: int, index: int, size: int = 128) -> Study:
    """One examination, a pure function of (seed, index); the film size changes the sampling only.

    Args:
        seed: Of the population.
        index: Of the study; each is another patient.
        size: Pixels a side, 32 to 1024.

    Returns:
        Frontal and lateral (float32 ``[size, size]`` in [0, 1], bone bright), report, all fourteen labels, exact
        findings.

    Raises:
        DataError: If the size is invalid.
    """
    _check_size(size)
    findings = phantom_findings(seed, index)
    rng = numpy_generator("phantom body", seed, index)
    body, paths = line_integrals(findings, rng, size)
    films = {}
    for view, path in paths.items():
        exposure = draw_exposure(rng, VIEWS[view].marker)
        films[view] = expose(path, exposure, numpy_generator("phantom grain", seed, index, view))
    study_id, patient_id = identifiers(1, seed, index)
    return Study(
        study_id=study_id,
        patient_id=patient_id,
        contents={**films, "report": phantom_report(seed, index)},
        labels=labels_of(findings),
        findings=findings,
        metadata={"sex": body.sex, "age": body.age, "source": "phantom", "seed": seed, "index": index},
    )


def line_integrals(
    findings: Sequence[Finding], rng: np.random.Generator, size: int
) -> tuple[Body, dict[str, np.ndarray]]:
    """Draw a patient with these findings, and integrate attenuation along the rays of every view.

    Args:
        findings: What the patient has; what else is drawn of the body does not depend on it.
        rng: Decides everything else.
        size: Pixels a side.

    Returns:
        The patient, and view -> float ``[size, size]``, in units of tissue half-films.
    """
    body = _body_with(findings, rng)
    return body, project(body, findings, lambda _: rng, size)


def project(
    body: Body, findings: Sequence[Finding], rng_of: Callable[[Finding], np.random.Generator], size: int
) -> dict[str, np.ndarray]:
    """Integrate a patient's attenuation along the rays of every view.

    Args:
        body: The patient.
        findings: What the patient has.
        rng_of: Generator that places a finding and draws its texture.
        size: Pixels a side.

    Returns:
        View -> float ``[size, size]``, in units of tissue half-films.
    """
    thorax = build(body, findings, rng_of)
    devices = lines.sampled(lines.devices(body, findings, rng_of))
    tubes = [*lines.sampled(lines.ribs(body) + lines.spine(body)), *lines.vessels(body, thorax), *devices]
    shift = np.array(body.shift)
    paths = {}
    for name, view in VIEWS.items():
        depth = 2 * view.half / thorax.mu.shape[view.along]
        coarse = thorax.mu.sum(axis=view.along) * depth  # [NZ, NX] or [NZ, NY]
        path = _resample(coarse, view.axes[0], size, shift)
        path += lines.project([*tubes, *lines.sampled(lines.arms(body, name))], view.axes, size, shift)
        paths[name] = np.clip(path, 0, None)
    return paths


def phantom_visit_study(seed: int, index: int, size: int = 128, studies_per_patient: int = 1) -> Study:
    """One examination of phantom version 2: as :func:`phantom_study`, of patients with several studies and with a record.

    Raises:
        DataError: If the size or the number of studies per patient is invalid.
    """
    _check_size(size)
    visit = draw_visit(seed, index, studies_per_patient)
    films = {}
    for view, path in rendering.project(visit.body, visit.findings, visit.rng_of, size).items():
        keys = (seed, index, studies_per_patient, view)
        exposure = draw_exposure(numpy_generator("phantom2 exposure", *keys), VIEWS[view].marker)
        films[view] = rendering.expose(path, exposure, numpy_generator("phantom2 grain", *keys))
    study_id, patient_id = identifiers(2, seed, index, studies_per_patient)
    metadata = {"sex": visit.body.sex, "age": visit.body.age, "view": visit.view, "source": "phantom", "seed": seed}
    return Study(
        study_id=study_id,
        patient_id=patient_id,
        contents={**films, "report": visit.report, "record": visit.record},
        labels=labels_of(visit.findings),
        findings=visit.findings,
        metadata={
            **metadata,
            "index": index,
            "version": "2",
            "studies_per_patient": studies_per_patient,
            "visit": visit.number,
        },
    )


def body_of(metadata: Mapping[str, Any]) -> Body:
    """The exact body of a phantom study of either version, from its metadata."""
    seed, index = int(metadata["seed"]), int(metadata["index"])
    if metadata.get("version") == "2":
        return draw_visit(seed, index, int(metadata["studies_per_patient"])).body
    return phantom_body(seed, index)


def _body_with(findings: Sequence[Finding], rng: np.random.Generator) -> Body:
    growth, raised = growth_and_rise(findings)
    return draw_body(rng, cardiomegaly=growth, raised=raised)


def _check_size(size: int) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise DataError(f"a phantom of {size} pixels", expected=f"{MIN_SIZE} to {MAX_SIZE} pixels a side")


def _resample(coarse: np.ndarray, across: int, size: int, shift: np.ndarray) -> np.ndarray:
    """The coarse projection at film resolution, cubic: ``[size, size]``."""
    film = (np.arange(size) + 0.5) / size * 2 - 1
    half = 1.0 if across == 0 else HALF_DEPTH
    columns = ((film + shift[across]) / half + 1) / 2 * coarse.shape[1] - 0.5
    rows = ((film + shift[2]) + 1) / 2 * coarse.shape[0] - 0.5
    inside = (columns > -0.5) & (columns < coarse.shape[1] - 0.5)
    smooth = ndimage.spline_filter(coarse, order=3, output=np.float32)  # pyright: ignore[reportArgumentType]
    grid = np.meshgrid(rows, columns, indexing="ij")
    path = ndimage.map_coordinates(smooth, grid, order=3, mode="nearest", prefilter=False)
    return np.where(inside[None], path, 0.0)


class PhantomDataset:
    """Phantom studies computed as they are asked for; satisfies ``StudyDataset``."""

    def __init__(
        self,
        num_studies: int,
        seed: int = 0,
        image_size: int = 128,
        offset: int = 0,
        version: int = 1,
        studies_per_patient: int = 1,
    ) -> None:
        _check_size(image_size)
        check_population(version, studies_per_patient)
        self.num_studies, self.seed, self.image_size, self.offset = num_studies, seed, image_size, offset
        self.version, self.studies_per_patient = version, studies_per_patient
        self.name = f"phantom-{seed}" if version == 1 else f"phantom{version}-{seed}"
        # Whatever changes a study.
        decides: tuple[Any, ...] = (VERSION, num_studies, seed, image_size, offset)
        if version > 1:
            decides = (VERSION_2, *decides[1:], studies_per_patient)
        self.fingerprint = hashlib.sha256(repr(decides).encode()).hexdigest()

    def __len__(self) -> int:
        return self.num_studies

    def __getitem__(self, index: int) -> Study:
        if not 0 <= index < self.num_studies:
            raise IndexError(index)
        if self.version == 2:
            return phantom_visit_study(self.seed, self.offset + index, self.image_size, self.studies_per_patient)
        return phantom_study(self.seed, self.offset + index, self.image_size)

    def identifiers(self, index: int) -> tuple[str, str]:
        """The ids of a study and of its patient, without computing anything else of it."""
        return identifiers(self.version, self.seed, self.offset + index, self.studies_per_patient)

    def report(self, index: int) -> str:
        """The report of a study, without computing its films."""
        if self.version == 2:
            return draw_visit(self.seed, self.offset + index, self.studies_per_patient).report
        return phantom_report(self.seed, self.offset + index)

    def record(self, index: int) -> Record | None:
        """The record of a study, without computing its films; version 1 has none."""
        if self.version == 1:
            return None
        return draw_visit(self.seed, self.offset + index, self.studies_per_patient).record


# ---- the report of version 1 ----------------------------------------------------------------------------------------
_PHRASES = yaml.safe_load(resources.files(__spec__.parent).joinpath("phrases_version_1.yaml").read_text("utf-8"))
# Finding -> sentences that affirm it, sentences that deny it, and impressions of it.
POSITIVE, NEGATIVE, IMPRESSION = (_PHRASES[name] for name in ("positive", "negative", "impression"))
_HEART = {"small": "mildly", "moderate": "moderately", "large": "severely"}
_DEGREE = {"small": "mild", "moderate": "moderate", "large": "severe"}
MAX_NEGATIVES = 4


def _say(rng: np.random.Generator, template: str, finding: Finding | None = None) -> str:
    """Choose among ``[a|b]`` and fill in what the finding is."""
    while "[" in template:
        before, _, rest = template.partition("[")
        inside, _, after = rest.partition("]")
        template = before + pick(rng, inside.split("|")) + after
    if finding is None:
        return template
    size = finding.size or "moderate"
    adverb = "{size_heart} enlarged" in template.lower() or "is {size_heart}" in template
    words = {
        "size": size,
        "side": finding.side or "",
        "loc": finding.location or "",
        "size_edema": _DEGREE[size],
        "size_heart": _HEART[size] if adverb else _DEGREE[size],
    }
    for key, word in words.items():
        template = template.replace("{" + key + "}", word).replace("{" + key.capitalize() + "}", word.capitalize())
    return template


def report_version_1(rng: np.random.Generator, findings: Sequence[Finding]) -> str:
    """The report of a study with these findings.

    Args:
        rng: Chooses phrasings, order, and which absent findings are denied.
        findings: Positive findings.

    Returns:
        Two lines, ``FINDINGS: ...`` and ``IMPRESSION: ...``: the normal form of reports.
    """
    present = [findings[index] for index in rng.permutation(len(findings))]
    absent = [label for label in NEGATIVE if label not in {finding.label for finding in findings}]
    denied = [absent[index] for index in rng.permutation(len(absent))[: int(rng.integers(2, MAX_NEGATIVES + 1))]]
    sentences = [_say(rng, pick(rng, POSITIVE[finding.label]), finding) for finding in present]
    if not {finding.label for finding in findings} - {"Support Devices", "Cardiomegaly"} and rng.random() < 0.5:
        sentences.append(_say(rng, pick(rng, _PHRASES["clear"])))
    sentences += [_say(rng, pick(rng, NEGATIVE[label])) for label in denied]
    summary = [_say(rng, pick(rng, IMPRESSION[finding.label]), finding) for finding in present]
    summary = summary or [_say(rng, pick(rng, _PHRASES["normal"]))]
    return f"FINDINGS: {pick(rng, _PHRASES['openings'])}{' '.join(sentences)}\nIMPRESSION: {' '.join(summary)}"


__all__ = ["PhantomDataset", "body_of", "draw_visit", "phantom_findings", "phantom_report", "phantom_study"]
