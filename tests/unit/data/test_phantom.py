from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import DataConfig
from medcodi.data.reports import sections
from medcodi.data.sources.phantom import (
    IMPRESSION,
    NEGATIVE,
    POSITIVE,
    PhantomDataset,
    line_integrals,
    phantom_findings,
    phantom_report,
    phantom_study,
    report_version_1,
)
from medcodi.data.sources.phantom.body import PREVALENCE, SIDES, labels_of
from medcodi.data.sources.phantom.film import Exposure, expose
from medcodi.errors import DataError
from medcodi.modality import names
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Finding

SIZE = 64
BODIES = (0, 1)
PLAIN = Exposure(
    gain=0, contrast=1, scatter=0.05, noise=0.012, marker="R", marker_at=(0.08, 0.08), collimation=(0, 0, 0, 0)
)
# Rows and columns of films, as shares of a side. The patient's left is on the right of a frontal film.
BASE = {"left": ((0.55, 0.72), (0.62, 0.80)), "right": ((0.55, 0.72), (0.20, 0.38))}
OUTER = {"left": ((0.28, 0.52), (0.69, 0.80)), "right": ((0.28, 0.52), (0.20, 0.31))}
CHEST_WALL = {"left": ((0.20, 0.36), (0.66, 0.84)), "right": ((0.20, 0.36), (0.16, 0.34))}
OTHER = {"left": "right", "right": "left"}


@lru_cache(maxsize=64)
def examine(body: int, *findings: Finding) -> dict[str, dict[str, np.ndarray]]:
    """The same body with any findings: its line integrals and its films, by view, equally exposed."""
    _, paths = line_integrals(findings, numpy_generator("test", body), SIZE)
    films = {view: expose(path, PLAIN, numpy_generator("grain", view)) for view, path in paths.items()}
    return {"path": paths, "film": films}


def change(what: str, view: str, *findings: Finding) -> np.ndarray:
    """What findings change, averaged over bodies ``[SIZE, SIZE]``."""
    pairs = [(examine(body, *findings), examine(body)) for body in BODIES]
    return np.mean([found[what][view] - normal[what][view] for found, normal in pairs], axis=0)


def mean_in(picture: np.ndarray, region: tuple[tuple[float, float], tuple[float, float]]) -> float:
    (top, bottom), (left, right) = region
    rows, columns = slice(int(top * SIZE), int(bottom * SIZE)), slice(int(left * SIZE), int(right * SIZE))
    return float(picture[rows, columns].mean())


def test_a_study_is_complete_and_in_range() -> None:
    study = phantom_study(0, 0, 128)
    assert list(study.images) == list(names("image"))
    for film in study.images.values():
        assert film.shape == (128, 128)
        assert film.dtype == np.float32
        assert film.min() >= 0 and film.max() <= 1
        assert film.std() > 0.1
    assert study.report == phantom_report(0, 0)
    assert study.findings == phantom_findings(0, 0)
    assert study.study_id == study.patient_id
    assert not np.array_equal(study.images["frontal"], study.images["lateral"])


def test_a_study_depends_on_seed_and_index_only() -> None:
    first = phantom_study(7, 3, 32)
    phantom_study(7, 4, 32)
    np.random.seed(99)
    again = phantom_study(7, 3, 32)
    for view, film in first.images.items():
        assert np.array_equal(film, again.images[view])
    assert (first.report, first.findings, first.labels) == (again.report, again.findings, again.labels)
    other = phantom_study(8, 3, 32)
    assert not np.array_equal(first.images["frontal"], other.images["frontal"])
    assert first.metadata != other.metadata


@pytest.mark.parametrize("index", [0, 5])
def test_sizes_show_the_same_anatomy(index: int) -> None:
    large, small = phantom_study(0, index, 128), phantom_study(0, index, 64)
    assert (large.report, large.findings) == (small.report, small.findings)
    for view, film in large.images.items():
        halved = film.reshape(64, 2, 64, 2).mean((1, 3))
        assert np.corrcoef(halved.ravel(), small.images[view].ravel())[0, 1] > 0.985


def test_no_two_are_alike() -> None:
    films = np.stack([phantom_study(0, index, 32).images["frontal"].ravel() for index in range(8)])
    likeness = np.corrcoef(films) - np.eye(8)
    assert likeness.max() < 0.999
    assert likeness[~np.eye(8, dtype=bool)].min() > 0.5  # all are chests
    reports = [phantom_report(0, index) for index in range(300)]
    assert len(set(reports)) > 290


@pytest.mark.parametrize("size", [31, 0, -1, 1025])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    for ask in (lambda: phantom_study(0, 0, size), lambda: PhantomDataset(3, image_size=size)):
        with pytest.raises(DataError, match=f"{size} pixels.*32 to 1024"):
            ask()


def test_prevalences() -> None:
    studies = [phantom_findings(0, index) for index in range(2000)]
    normal = np.mean([not findings for findings in studies])
    assert 0.24 < normal < 0.40  # drawn normal, or nothing came up
    assert max(len(findings) for findings in studies) == 4
    for label in PREVALENCE:
        share = np.mean([label in {finding.label for finding in findings} for findings in studies])
        assert 0.08 < share < 0.30, label
    sides = [finding.side for findings in studies for finding in findings if finding.label == "Pneumothorax"]
    assert 0.4 < sides.count("left") / len(sides) < 0.6


def test_labels_follow_from_findings() -> None:
    def present(*labels: str) -> set[str]:
        found = labels_of(tuple(Finding(label=label) for label in labels))
        assert list(found) == list(CHEXPERT_LABELS)
        assert set(found.values()) <= {0.0, 1.0}
        return {label for label, value in found.items() if value == 1}

    assert present() == {"No Finding"}
    assert present("Support Devices") == {"No Finding", "Support Devices"}
    assert present("Cardiomegaly") == {"Cardiomegaly"}
    assert present("Edema", "Support Devices") == {"Edema", "Lung Opacity", "Support Devices"}
    assert present("Lung Lesion") == {"Lung Lesion", "Lung Opacity"}


def num_phrasings(table: dict[str, tuple[str, ...]]) -> int:
    """How many different sentences a table can say, before sides and sizes are filled in."""
    total = 0
    for templates in table.values():
        for template in templates:
            ways = 1
            for part in template.split("[")[1:]:
                ways *= part.split("]")[0].count("|") + 1
            total += ways
    return total


def test_the_grammar_has_many_ways_to_say_it() -> None:
    assert num_phrasings(POSITIVE) >= 20
    assert num_phrasings(NEGATIVE) >= 20
    assert set(POSITIVE) == set(NEGATIVE) == set(IMPRESSION) == set(PREVALENCE)
    ways = {
        phantom for index in range(400) for phantom in re.findall(r"[^.]*pneumothorax[^.]*", phantom_report(1, index))
    }
    assert len(ways) > 20


def test_reports_name_size_and_place() -> None:
    finding = Finding(label="Lung Lesion", side="right", location="middle", size="large")
    for index in range(20):
        text = report_version_1(numpy_generator("say", index), [finding])
        found = sections(text)
        assert re.search(r"large.*nodule", found["findings"], re.IGNORECASE)
        assert re.search(r"right middle (lobe|zone)", found["findings"], re.IGNORECASE)
        assert "clear" not in found["findings"].replace("angles are clear", "")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", ["small", "moderate", "large"])
def test_an_effusion_brightens_the_base_of_its_side(side: str, size: str) -> None:
    effusion = Finding(label="Pleural Effusion", side=side, size=size)
    difference = change("film", "frontal", effusion)
    least = {"small": 0.01, "moderate": 0.08, "large": 0.15}[size]
    assert mean_in(difference, BASE[side]) > least
    assert abs(mean_in(difference, BASE[OTHER[side]])) < 0.3 * mean_in(difference, BASE[side])
    assert mean_in(change("film", "lateral", effusion), ((0.55, 0.80), (0.3, 0.8))) > 0.1 * least


def test_a_bilateral_effusion_brightens_both_bases() -> None:
    difference = change("film", "frontal", Finding(label="Pleural Effusion", side="bilateral", size="large"))
    assert min(mean_in(difference, BASE[side]) for side in SIDES) > 0.15


@pytest.mark.parametrize("side", SIDES)
def test_a_pneumothorax_darkens_the_outer_lung_of_its_side(side: str) -> None:
    pneumothorax = Finding(label="Pneumothorax", side=side, size="large")
    difference = change("film", "frontal", pneumothorax)
    assert mean_in(difference, OUTER[side]) < -0.02
    assert abs(mean_in(difference, OUTER[OTHER[side]])) < 0.3 * abs(mean_in(difference, OUTER[side]))
    assert change("path", "lateral", pneumothorax).min() < -0.03


def test_cardiomegaly_widens_the_heart_in_both_views() -> None:
    for view in names("image"):
        areas = [
            int((change("path", view, Finding(label="Cardiomegaly", size=size)) > 0.1).sum())
            for size in ("small", "moderate", "large")
        ]
        assert 0 < areas[0] < areas[1] < areas[2], view
    wider = change("path", "frontal", Finding(label="Cardiomegaly", size="large")) > 0.1
    columns = np.flatnonzero(wider.any(0)) / SIZE
    assert columns.min() < 0.48 and columns.max() > 0.6  # both borders move out
    rows = np.flatnonzero(wider.any(1)) / SIZE
    assert rows.mean() > 0.5


@pytest.mark.parametrize("side", SIDES)
def test_a_lesion_is_a_small_bright_spot_in_its_lung(side: str) -> None:
    for view in names("image"):
        difference = change("path", view, Finding(label="Lung Lesion", side=side, location="upper", size="large"))
        assert difference.max() > 0.05
        changed = np.abs(difference) > 0.2 * difference.max()
        assert changed.mean() < 0.08, view
    frontal = change("film", "frontal", Finding(label="Lung Lesion", side=side, location="upper", size="large"))
    row, column = np.unravel_index(np.argmax(frontal), frontal.shape)
    assert (column > SIZE / 2) == (side == "left")
    assert row < 0.55 * SIZE
    assert frontal[row, column] > 0.05


@pytest.mark.parametrize("side", SIDES)
def test_a_consolidation_stands_in_its_lobe(side: str) -> None:
    def centre(lobe: str) -> np.ndarray:
        path = np.clip(change("path", "frontal", Finding(label="Consolidation", side=side, location=lobe)), 0, None)
        assert path.max() > 0.1
        return np.array([(path.sum(1) @ np.arange(SIZE)), (path.sum(0) @ np.arange(SIZE))]) / path.sum() / SIZE

    upper, lower = centre("upper"), centre("lower")
    assert lower[0] - upper[0] > 0.1
    for _, column in (upper, lower):
        assert (column > 0.55) if side == "left" else (column < 0.45)


def test_edema_brightens_both_lungs_by_degree() -> None:
    means = []
    for size in ("small", "moderate", "large"):
        difference = change("path", "frontal", Finding(label="Edema", side="bilateral", size=size))
        sides = [mean_in(difference, ((0.35, 0.6), columns)) for columns in ((0.25, 0.4), (0.6, 0.75))]
        assert min(sides) > 0.3 * max(sides) > 0
        means.append(sum(sides))
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("side", SIDES)
def test_atelectasis_brightens_the_base_under_a_raised_diaphragm(side: str) -> None:
    difference = change("path", "frontal", Finding(label="Atelectasis", side=side, location="lower"))
    base = {name: ((0.58, 0.78), columns) for name, (_, columns) in BASE.items()}
    assert mean_in(difference, base[side]) > 0.02
    assert abs(mean_in(difference, base[OTHER[side]])) < 0.3 * mean_in(difference, base[side])


@pytest.mark.parametrize("side", SIDES)
def test_a_device_is_bright_where_it_is_implanted(side: str) -> None:
    device = Finding(label="Support Devices", side=side)
    frontal = change("film", "frontal", device)
    assert mean_in(frontal, CHEST_WALL[side]) > 0.03
    assert frontal.max() > 0.2
    assert mean_in(frontal, CHEST_WALL[side]) > 3 * abs(mean_in(frontal, CHEST_WALL[OTHER[side]]))
    lateral = change("film", "lateral", device)
    row, column = np.unravel_index(np.argmax(lateral), lateral.shape)
    assert lateral.max() > 0.15
    assert column < SIZE / 2  # in front
    assert row < 0.75 * SIZE


def test_splits_are_disjoint() -> None:
    seen: dict[str, set[bytes]] = {}
    fingerprints = set()
    for split in ("train", "val", "test"):
        dataset = DataConfig(source="phantom", num_studies=3, image_size=32, split=split).build()
        assert isinstance(dataset, StudyDataset)
        fingerprints.add(dataset.fingerprint)
        studies = [dataset[index] for index in range(3)]
        seen[split] = {study.images["frontal"].tobytes() for study in studies} | {
            study.study_id.encode() for study in studies
        }
        assert len(seen[split]) == 6
    assert len(fingerprints) == 3
    assert len(set.union(*seen.values())) == 18


def test_the_dataset_ends_and_its_fingerprint_follows_its_arguments() -> None:
    dataset = PhantomDataset(2, seed=1, image_size=32)
    assert [study.study_id for study in dataset] == ["phantom-1-0000000", "phantom-1-0000001"]
    for index in (2, -1):
        with pytest.raises(IndexError):
            dataset[index]
    others = [PhantomDataset(3, 1, 32), PhantomDataset(2, 2, 32), PhantomDataset(2, 1, 64), PhantomDataset(2, 1, 32, 5)]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert PhantomDataset(2, seed=1, image_size=32).fingerprint == dataset.fingerprint
