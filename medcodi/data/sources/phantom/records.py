"""The record of a phantom study: values that follow the truth with noise, by the relations below.

Each relation is a published one in its direction and rough size; docs/DATA.md lists them with their sources. Haemoglobin is
independent of everything, so that a model can be asked whether it invents a relation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcodi.data.sources.phantom.body import Body
from medcodi.record import CLINICAL_RECORD, RecordValue
from medcodi.study import Finding

_GRADE = {None: 2.0, "small": 1.0, "moderate": 2.0, "large": 3.0}
MISSING = 0.12  # share of the laboratory values and vitals that were not taken


def bmi_of(body: Body) -> float:
    """Body-mass index in kg/m2: the habitus from 0 to 1 is 18 to 40."""
    return 18.0 + 22.0 * body.habitus


def expected_values(body: Body, findings: Sequence[Finding]) -> dict[str, float]:
    """Expectation of every laboratory value and vital sign, before noise; ``bnp`` and ``crp`` as natural logarithms."""
    grade = {finding.label: _GRADE[finding.size] for finding in findings}
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
