from __future__ import annotations

from typing import Any

import numpy as np

from medcodi.randomness import numpy_generator
from medcodi.trust.privacy.attacks.attributes import attribute_columns, attribute_figures, inferred

NUM = 120


def figures(disclosed: np.ndarray) -> dict[str, Any]:
    """Attribute figures where generations show an attribute to this degree, study by study."""
    rng = numpy_generator("attributes")
    labels, patients = np.repeat([1, 0], NUM), [f"p{row}" for row in range(2 * NUM)]
    truth = rng.integers(0, 2, 2 * NUM).astype(float)
    real = rng.normal(size=(2 * NUM, 6))
    made = rng.normal(size=(2 * NUM, 6))
    prompts = rng.normal(size=(2 * NUM, 6))
    real[:, 0] += 3 * truth
    made[:, 0] += 3 * truth * disclosed
    arrays = {
        "truth": truth,
        "generated": inferred(real, made, truth, labels, patients, 0),
        "prompts": inferred(prompts, prompts, truth, labels, patients, 0),
        "real": inferred(real, real, truth, labels, patients, 0),
    }
    return attribute_figures({("report->frontal", "sex is M"): arrays}, labels, patients, 200, 0)["rows"][0]


def test_what_generations_show_of_members_alone_is_a_gain() -> None:
    row = figures(np.repeat([1.0, 0.0], NUM))
    assert row["gain"]["low"] > 0.2 and row["members"]["generated"] > 0.9 > 0.65 > row["non_members"]["generated"]
    # Real targets show it, prompts do not, in either group.
    for group in ("members", "non_members"):
        assert row[group]["real"] > 0.9 and abs(row[group]["prompts"] - 0.5) < 0.2


def test_what_generations_show_of_everybody_is_none() -> None:
    row = figures(np.ones(2 * NUM))
    assert (
        row["members"]["generated"] > 0.9 < row["non_members"]["generated"]
        and row["gain"]["low"] < 0 < row["gain"]["high"]
    )


def test_attributes_have_two_values_and_enough_of_both() -> None:
    labels = np.repeat([1, 0], 30)
    records = [
        {"sex": "FM"[row % 2], "age": 20.0 + row % 30, "view": "PA", "rare": "x" if row else "y"} for row in range(60)
    ]
    columns = attribute_columns(records, labels)
    assert list(columns) == ["age above 34.5", "sex is M"]
    assert columns["sex is M"][:2].tolist() == [0.0, 1.0]
