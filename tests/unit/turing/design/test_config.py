"""The study file: what it declares, and what it refuses by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.config import from_dict, to_dict
from medcodi.errors import ConfigError, MedCoDiError
from medcodi.turing.design.config import ReaderStudyConfig, max_cases, read_reader_study
from medcodi.turing.design.tasks import TASK_KINDS

CONFIGS = sorted((Path(__file__).parents[4] / "configs" / "turing").glob("*.yaml"))


def study(**changes: object) -> ReaderStudyConfig:
    task = {"id": "frontal", "kind": "rating", "modalities": ["frontal"]}
    task |= {name: changes.pop(name) for name in list(changes) if name not in ReaderStudyConfig.__dataclass_fields__}
    return from_dict(ReaderStudyConfig, {"name": "s", "title": "T", "tasks": [task], **changes})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_studies_are_read_and_come_back_the_same(path: Path) -> None:
    found = read_reader_study(path)
    assert from_dict(ReaderStudyConfig, to_dict(found)) == found


def test_every_part_of_the_design_has_a_shipped_template() -> None:
    tasks = [task for path in CONFIGS for task in read_reader_study(path).tasks]
    assert {task.kind for task in tasks} == set(TASK_KINDS)
    assert {task.modalities for task in tasks} >= {("frontal",), ("lateral",), ("report",), ("frontal", "lateral")}
    made = {task.shown_generated for task in tasks if set(task.modalities) == {"frontal", "report"}}
    assert made >= {("frontal",), ("report",)}  # both ways
    assert {task.scale.max for task in tasks} >= {5, 10}


def test_the_papers_study_has_its_five_tasks() -> None:
    paper = read_reader_study(next(path for path in CONFIGS if path.stem == "medcodi-m"))
    shown = [(task.kind, task.modalities) for task in paper.tasks]
    assert shown == [
        ("rating", ("frontal",)),
        ("rating", ("lateral",)),
        ("rating", ("report",)),
        ("coherence", ("frontal", "lateral")),
        ("coherence", ("report", "frontal")),
    ]
    assert set(paper.margins) == {task.id for task in paper.tasks}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ratin"}, "did you mean 'rating'"),
        ({"margins": {"lateral": 0.5}}, "a margin for 'lateral', which is no task"),
        ({"margins": {"frontal": 4.0}}, "margin of 'frontal' is 4.0.*below 4"),
        ({"margins": {"frontal": 0.0}}, "above 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"scale": {"min": 0, "max": 5}}, "from 0 to 5"),
        ({"scale": {"labels": {7: "x"}}}, "a label for 7"),
        ({"mismatched": 2}, "2 mismatched items of frontal"),
        ({"kind": "coherence"}, "2 or more different modalities"),
        ({"generated": ["report"]}, "one or more of what it shows"),
        ({"repeats": 21}, "21 repeats of 20 items"),
        ({"num_items": 0}, "num_items is 0"),
        ({"practice": -1}, "practice is -1"),
        ({"findings": ["Edemma"]}, "did you mean 'Edema'"),
        ({"prompts": ["frontal"]}, "is prompt and generated"),
        ({"readers": 0}, "readers is 0"),
        ({"image_size": 8}, "image_size is 8"),
        ({"num_itms": 3}, "num_items"),
        ({"blinding": {"depth": 20}}, "depth is 20"),
        ({"windows": [{"name": "w", "lo": 5, "hi": 5}]}, "lo < hi"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lateral'"):
        study(modalities=["laterall"])


@pytest.mark.parametrize(
    ("where", "text"),
    [("title", "A Visual Turing Test"), ("instructions", "Some are synthetic."), ("question", "Is it AI?")],
)
def test_quality_ratings_come_first_and_nothing_before_them_discloses(where: str, text: str) -> None:
    with pytest.raises(ConfigError, match="discloses the purpose"):
        study(kind="quality", **{where: text})
    assert TASK_KINDS["quality"].disclosed is False
    values = {"name": "s", "title": "T"}
    tasks = [{"id": kind, "kind": kind, "modalities": ["frontal"]} for kind in ("rating", "quality")]
    assert [task.id for task in from_dict(ReaderStudyConfig, {**values, "tasks": tasks}).blocks] == [
        "quality",
        "rating",
    ]


def test_sampling_takes_the_presets_of_generation() -> None:
    found = study(sampling={"preset": "fast", "guidance_scale": 3.0, "batch_size": 2})
    assert (found.sampling.preset, found.sampling.guidance_scale, found.sampling.batch_size) == ("fast", 3.0, 2)
    with pytest.raises(MedCoDiError, match="did you mean 'fast'"):
        study(sampling={"preset": "fats"})


def test_max_cases_counts_every_item_once() -> None:
    found = study(num_items=5, practice=2, autoencoded=3)
    assert max_cases(found) == 2 * (5 + 2) + 0 + 2 + 3
    assert found.with_readers(7).readers == 7 and found.with_readers(None) is found
