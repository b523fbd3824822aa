"""The folder of a synthesis: whole studies, failures, and the tables that are written once everything is accounted for."""

import csv
from dataclasses import replace

import pytest

from medcodi.data.generated_files import list_generated
from medcodi.data.sources import SOURCES
from medcodi.errors import DataError
from medcodi.generation.bulk.folder import FAILED, RESULTS, SynthesisFolder
from medcodi.generation.bulk.manifest import BadRow, Row
from medcodi.generation.bulk.plan import shards_of
from medcodi.study import Direction

DIRECTION = Direction(("frontal",), ("report",))
SHARDS = shards_of(
    Row(number=n, id=name, direction=DIRECTION, prompts={}, weights={}, seed=n, num_samples=1, copied={"sex": "F"})
    for n, name in ((1, "a"), (2, "b"), (3, "c"))
)
PROVENANCE = {
    "direction": str(DIRECTION),
    "model": {"name": "tiny", "sha256": "0" * 64},
    "settings": {"sampler": "ddim"},
    "prompts": {"frontal": {"sha256": "1" * 64, "weight": 1.0}},
}


@pytest.fixture
def folder(tmp_path):
    folder = SynthesisFolder(tmp_path / "out", 2, {"format": 1, "seed": 0})
    folder.open()
    return folder


def write(folder, shard):
    def write_files(staging):
        (staging / "report.txt").write_text("Clear.\n")
        return {"report": staging / "report.txt"}

    folder.write(shard, write_files, PROVENANCE, {"report": "Clear."}, {"frontal": "chest.png"})


def table(folder, name):
    with (folder.out / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_appears_whole_and_once(folder):
    assert not folder.has(SHARDS[0])
    write(folder, SHARDS[0])
    assert folder.has(SHARDS[0]) and not folder.has(SHARDS[1])
    assert (folder.out / "studies" / "00000" / "a" / "report.txt").read_text() == "Clear.\n"
    write(folder, SHARDS[2])
    assert (folder.out / "studies" / "00001" / "c" / "result.json").is_file()  # two studies in a folder


def test_a_study_that_fails_half_way_leaves_nothing(folder):
    def half(staging):
        (staging / "report.txt").write_text("Cle")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left on device"):
        folder.write(SHARDS[0], half, PROVENANCE, {}, {})
    assert not folder.has(SHARDS[0]) and not list(folder.out.rglob("*.txt"))


def test_tables_are_written_when_everything_is_finished_or_failed(folder):
    write(folder, SHARDS[0])
    assert folder.collect(SHARDS, []) == (1, 0, 2) and not (folder.out / RESULTS).exists()
    assert folder.collect(SHARDS, [], partly=True) == (1, 0, 2) and len(table(folder, RESULTS)) == 1
    write(folder, SHARDS[1])
    folder.write_failures(0, 2, [BadRow(number=3, id="c", message="no such file")])
    assert folder.collect(SHARDS, []) == (2, 1, 0)
    rows, failed = table(folder, RESULTS), table(folder, FAILED)
    assert [(row["study_id"], row["seed"], row["sex"], row["report_text"]) for row in rows] == [
        ("a", "1", "F", "Clear."), ("b", "2", "F", "Clear."),
    ]  # fmt: skip
    assert rows[0]["report"] == "studies/00000/a/report.txt" and rows[0]["frontal_prompt_sha256"] == "1" * 64
    assert failed == [{"row": "3", "id": "c", "reason": "no such file"}]
    write(folder, SHARDS[2])  # another attempt succeeds: its failure is forgotten
    assert folder.collect(SHARDS, []) == (3, 0, 0) and not (folder.out / FAILED).exists()


def test_another_identity_is_refused_and_the_same_resumes(folder):
    SynthesisFolder(folder.out, 2, {"format": 1, "seed": 0}).open()
    with pytest.raises(DataError, match="seed was 0, is 1"):
        SynthesisFolder(folder.out, 2, {"format": 1, "seed": 1}).open()


FORMULAS = ["=1+1", "@SUM(A1)", "- No effusion.\n- Clear.", "+1", "'=quoted", "''-x", "plain"]


def test_results_hold_no_formula_and_are_read_back_equal(tmp_path):
    copied = [{"=sex": text} for text in FORMULAS]
    shards = shards_of(replace(SHARDS[0].row, number=n + 1, id=f"s{n}", copied=cells) for n, cells in enumerate(copied))
    folder = SynthesisFolder(tmp_path / "out", 20, {})
    folder.open()
    for shard, text in zip(shards, FORMULAS, strict=True):

        def fill(staging, text=text):
            (staging / "report.txt").write_text(text)
            return {"report": staging / "report.txt"}

        folder.write(shard, fill, PROVENANCE, {"report": text}, {"report": text})
    folder.collect(shards, [])
    with (folder.out / RESULTS).open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    # An evaluation, and a preparation, read the texts as they were generated.
    (direction,) = listing = list_generated(folder.out)
    assert [listing[direction][f"s{n}"]["report"].text for n in range(len(FORMULAS))] == FORMULAS
    records = list(
        SOURCES["csv"].announce("csv", {"path": str(folder.out / RESULTS), "columns": {"report": "report_text"}}, map)
    )
    assert [record.texts["report"] for record in records] == FORMULAS
