"""Phantom version 2: patients with several studies, a body that shows age, sex and habitus, and a record.

The body stays from study to study; findings appear, grow and resolve; posture and exposure differ. A study is a pure function
of (seed, index, studies_per_patient). Values of its record follow the truth with noise; each relation is a published one in its direction
and rough size (docs/DATA.md lists them with their sources). Haemoglobin is independent of everything, so that a model can be asked whether
it invents a relation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medcodi.data.sources.phantom import reports
from medcodi.data.sources.phantom.body import LASTING, SIZES, Body, draw_body, draw_findings, growth_and_rise
from medcodi.errors import DataError
from medcodi.randomness import numpy_generator
from medcodi.record import CLINICAL_RECORD, RecordValue
from medcodi.study import Finding

VERSIONS = (1, 2)
MAX_FINDINGS = 4
_DIVIDES = (1, 2, 4, 5, 8, 10)  # of the numbers that each split starts from, so that no patient comes into two splits
# From one study of a patient to the next: how often a finding resolves, grows or shrinks by a size, and new ones appear.
RESOLVES, CHANGES, APPEARS = 0.3, 0.4, 0.5
AP_SHARE = 0.3  # of the frontals; the heart is further from the film in AP, and appears larger
AP_HEART = 1.08


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One study of one patient, without its films."""

    patient: int
    number: int  # 0 is the first study of the patient
    body: Body
    findings: tuple[Finding, ...]
    view: str  # "PA" or "AP"
    record: dict[str, RecordValue]
    report: str
    rng_of: Callable[[Finding], np.random.Generator]  # places a finding, the same at every visit


def check_population(version: int, studies_per_patient: int) -> None:
    """Refuse an unknown version, or a number of studies with which a patient could come into two splits, by a DataError."""
    if version not in VERSIONS:
        raise DataError(
            f"phantom version {version}", expected="1 or 2", fix="version 1 is that of the shipped demo model"
        )
    if version == 1 and studies_per_patient != 1:
        raise DataError(
            f"studies_per_patient is {studies_per_patient} in phantom version 1",
            expected="1: each of its studies is another patient",
            fix="version: 2",
        )
    if studies_per_patient not in _DIVIDES:
        raise DataError(
            f"studies_per_patient is {studies_per_patient}",
            expected=f"one of {', '.join(map(str, _DIVIDES))}",
            fix="choose one of these, so that the splits keep patients apart",
        )


def identifiers(version: int, seed: int, index: int, studies_per_patient: int = 1) -> tuple[str, str]:
    """The ids of a study and of its patient."""
    if version == 1:  # each study is another patient
        return (study := f"phantom-{seed}-{index:07d}"), study
    patient = f"phantom2-{seed}-{studies_per_patient}-{index // studies_per_patient:07d}"
    return f"phantom2-{seed}-{index:07d}", patient


def draw_visit(seed: int, index: int, studies_per_patient: int = 1) -> Visit:
    """A study of phantom version 2, a pure function of its arguments.

    Raises:
        DataError: If the number of studies per patient does not divide the splits.
    """
    check_population(2, studies_per_patient)
    patient, number = divmod(index, studies_per_patient)
    keys = (seed, patient, studies_per_patient)
    findings = _findings(keys, number)
    body, view = _body(keys, number, findings)
    rng = numpy_generator("phantom2 record", *keys, number)
    return Visit(
        patient=patient,
        number=number,
        body=body,
        findings=findings,
        view=view,
        record=draw_record(rng, body, findings, view),
        report=reports.report(
            numpy_generator("phantom2 report", *keys, number),
            body,
            view,
            findings,
            _findings(keys, number - 1) if number else None,
        ),
        rng_of=lambda finding: numpy_generator("phantom2 place", *keys, finding.label),
    )


def _findings(keys: tuple[int, ...], number: int) -> tuple[Finding, ...]:
    """The findings at a visit: those of the visit before, changed, and new ones."""
    findings = draw_findings(numpy_generator("phantom2 findings", *keys, 0))
    for visit in range(1, number + 1):
        rng = numpy_generator("phantom2 findings", *keys, visit)
        changed = [_changed(rng, finding) for finding in findings]
        known = {finding.label for finding in findings}  # what just resolved does not come back at once
        new = [finding for finding in draw_findings(rng) if finding.label not in known and rng.random() < APPEARS]
        findings = tuple([finding for finding in changed if finding is not None] + new)[:MAX_FINDINGS]
    return findings


def _changed(rng: np.random.Generator, finding: Finding) -> Finding | None:
    """A finding at the next visit; None where it has resolved."""
    resolves, changes, grows = rng.random(3)
    if finding.label not in LASTING and resolves < RESOLVES:
        return None
    if finding.size is None or finding.label == "Support Devices" or changes >= CHANGES:
        return finding
    step = 1 if grows < 0.5 or finding.label in LASTING else -1
    return replace(finding, size=SIZES[min(max(SIZES.index(finding.size) + step, 0), len(SIZES) - 1)])


def _body(keys: tuple[int, ...], number: int, findings: Sequence[Finding]) -> tuple[Body, str]:
    """The patient's body with these findings, and the projection of the frontal."""
    # What stays: bones, organs, habitus. Draw it as version 1 does, and make age, sex and habitus visible.
    patient = numpy_generator("phantom2 body", *keys)
    body = draw_body(patient)
    years = float(patient.uniform(0.0, 2.5)) * number
    age = min(int(body.age + years), 95)
    old = float(np.clip((age - 35) / 50, 0, 1))
    female = body.sex == "F"
    body = replace(
        body,
        age=age,
        # Mineral density falls with age, in women faster after 50.
        bone=float(patient.normal(1.12, 0.04))
        - 0.22 * old
        - (0.14 * float(np.clip((age - 50) / 30, 0, 1)) if female else 0),
        breast=float(patient.uniform(1.3, 1.9)) + 0.6 * body.habitus if female else float(patient.uniform(0.0, 0.12)),
        kyphosis=0.03 + 0.16 * old**1.5 + float(patient.normal(0, 0.012)),
        aorta=0.056 + 0.040 * old + float(patient.normal(0, 0.004)),
        unfolding=float(np.clip(old**1.3 + patient.normal(0, 0.08), 0, 1)),
        heart_radius=body.heart_radius * (1 + 0.14 * (body.habitus - 0.45)),
    )

    # What differs between visits: posture, inspiration, projection, and what findings do to the body.
    rng = numpy_generator("phantom2 posture", *keys, number)
    view = "AP" if rng.random() < AP_SHARE else "PA"
    growth, raised = growth_and_rise(findings)
    inspiration = float(rng.normal(0.0, 0.03))
    heart = body.heart_radius * (1 + growth) * (AP_HEART if view == "AP" else 1.0)
    body = replace(
        body,
        heart_radius=heart,
        dome_left=body.dome_left + inspiration - raised.get("left", 0.0),
        dome_right=body.dome_right + inspiration - raised.get("right", 0.0),
        rotation=float(rng.normal(0, 0.03)),
        shift=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.04)), float(rng.normal(0.02, 0.03))),
        shoulder_drop=body.shoulder_drop + float(rng.normal(0, 0.015)),
    )
    return body, view


# ---- the record of a study -------------------------------------------------------------------------------------------
GRADES = {None: 2.0, "small": 1.0, "moderate": 2.0, "large": 3.0}  # size of a finding -> its weight in expected values
MISSING = 0.12  # share of the laboratory values and vitals that were not taken


def bmi_of(body: Body) -> float:
    """Body-mass index in kg/m2: the habitus from 0 to 1 is 18 to 40."""
    return 18.0 + 22.0 * body.habitus


def expected_values(body: Body, findings: Sequence[Finding]) -> dict[str, float]:
    """Expectation of every laboratory value and vital sign, before noise; ``bnp`` and ``crp`` as natural logarithms."""
    grade = {finding.label: GRADES[finding.size] for finding in findings}
    heart, edema, air = (grade.get(label, 0.0) for label in ("Cardiomegaly", "Edema", "Pneumothorax"))
    infection = float("Consolidation" in grade)
    temperature = 36.7 + 1.3 * infection
    saturation = 97.5 - 2.5 * infection - 2.0 * edema - 1.2 * air
    return {
        "bnp": np.log(35.0) + 0.015 * (body.age - 55) + 0.55 * heart + 0.75 * edema,
        "crp": np.log(3.0) + 3.0 * infection,
        "leucocytes": 7.2 + 5.0 * infection,
        "temperature": temperature,
        "oxygen_saturation": saturation,
        "heart_rate": 76.0 + 9.0 * (temperature - 36.7) + 1.0 * (97.5 - saturation),
        "haemoglobin": 13.6,
    }


NOISE = {
    "bnp": 0.5,
    "crp": 0.7,
    "leucocytes": 1.7,
    "temperature": 0.35,
    "oxygen_saturation": 1.0,
    "heart_rate": 8.0,
    "haemoglobin": 1.3,
}


def draw_record(rng: np.random.Generator, body: Body, findings: Sequence[Finding], view: str) -> dict[str, RecordValue]:
    """The record of a study; some laboratory values and vital signs are missing."""
    values: dict[str, RecordValue] = {
        "age": float(body.age),
        "sex": body.sex,
        "bmi": round(bmi_of(body), 1),
        "view": view,
    }
    for name, expected in expected_values(body, findings).items():
        noise, is_missing = float(rng.normal(0.0, NOISE[name])), float(rng.random()) < MISSING
        if is_missing:
            continue
        field = CLINICAL_RECORD.fields[name]
        value = np.exp(expected + noise) if field.scale == "log" else expected + noise
        values[name] = round(float(np.clip(value, field.low, field.high)), field.digits)
    return CLINICAL_RECORD.parse(values)
