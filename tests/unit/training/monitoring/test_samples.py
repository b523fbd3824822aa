"""Sample grids: every direction once, titles that explain, no randomness touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcodi.data.loading import collate
from medcodi.distributed import Ranks
from medcodi.stages import build_stage
from medcodi.training.monitoring.samples import (
    CELL,
    TITLE,
    contact_sheet,
    draw_samples,
    every_direction,
    studies_to_show,
    write_samples,
)
from medcodi.training.monitoring.trackers import RunLog

from .phantoms import DATASET, settings


def test_every_direction_is_there_once() -> None:
    names = ("frontal", "lateral", "report")
    directions = every_direction(names)
    assert len(directions) == 13 == len(set(directions)) and directions[-1] == ((), names)
    assert all(prompts and not set(prompts) & set(targets) for prompts, targets in directions[:-1])
    assert sum(len(targets) for _, targets in directions) == 18  # rows of a sample grid


@pytest.mark.parametrize(("name", "which", "num_rows"), [("diffuse", "stage", 12), ("join", "all", 18)])
def test_samples_explain_themselves_and_touch_no_randomness(
    model: Any, tmp_path: Path, name: str, which: str, num_rows: int
) -> None:
    stage = build_stage(name, model).eval()
    batch = collate([DATASET[0], DATASET[1]], (0, 1), 32)
    batch.present["lateral"][1] = False
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        drawn = draw_samples(stage, batch, 0, which)
        again = draw_samples(stage, collate([DATASET[0]], (0,), 32), 0, which)
    assert torch.get_rng_state().equal(before)
    titles = [row.title for row in drawn.rows]
    assert len(titles) == num_rows == len(set(titles))
    lone = next(row for row in drawn.rows if row.title.startswith("frontal") and row.title.endswith(" from lateral"))
    assert lone.values[0] is not None and lone.values[1] is None  # it lacks what it would be made from
    for row, other in zip(drawn.rows, again.rows, strict=True):
        if not isinstance(row.values[0], str):  # law 1: the same whoever stands beside it
            torch.testing.assert_close(torch.tensor(row.values[0]), torch.tensor(other.values[0]), rtol=1e-3, atol=1e-3)
    log = RunLog(tmp_path, Ranks(), settings(name, tracking={"tensorboard": False}), start_step=0)
    write_samples(drawn, 4, tmp_path, log)
    log.close()
    assert (tmp_path / "samples" / "step-00000004.png").stat().st_size > 1000
    text = (tmp_path / "samples" / "step-00000004.txt").read_text()
    assert all(title in text for title in titles) and "truth:  FINDINGS" in text


def test_studies_that_hold_every_modality_are_shown_first() -> None:
    class Listed:
        """A dataset that lists what its studies hold: nothing else of it is read."""

        def contents(self) -> list[tuple[str, str, frozenset[str]]]:
            held = ["report", "frontal report", "frontal lateral report", "frontal", "frontal lateral report"]
            return [(str(index), "patient", frozenset(names.split())) for index, names in enumerate(held)]

    names = ("frontal", "lateral", "report")
    assert studies_to_show(Listed(), names, 2) == [2, 4]  # pyright: ignore[reportArgumentType]
    assert studies_to_show(Listed(), names, 4) == [2, 4, 1, 0]  # pyright: ignore[reportArgumentType]
    assert studies_to_show(DATASET, names, 3) == [0, 1, 2]


def test_a_contact_sheet_has_a_title_and_cells() -> None:
    white = np.ones((32, 32), dtype=np.float32)
    sheet = contact_sheet([("frontal: truth", [white, None]), ("report", ["A long text. " * 200, "Short."])])
    assert sheet.shape == (2 * (CELL + 2), TITLE + 2 * (CELL + 2)) and sheet.min() >= 0 and sheet.max() <= 1
    assert (sheet[:CELL, TITLE : TITLE + CELL] == 1).all() and sheet[
        60, TITLE + CELL + 60
    ] < 0.8  # magnified; absent is grey
    assert sheet[:CELL, :TITLE].min() < 0.5 and sheet[CELL + 2 :, TITLE:].min() < 0.5  # something is written
