"""``medcodi synthesize``: killed and resumed, in ranks, with bad rows, with other settings; always the same bytes, or a refusal."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medcodi.app.cli import REFUSED, main
from medcodi.app.commands.synthesize import INCOMPLETE
from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.image_files import read_image
from medcodi.data.images import save_png16
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.generation.bulk.job import SynthesisConfig, synthesize
from medcodi.model import MedCoDi

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 12
SETTINGS = ("--batch-size", "3", "--shard-size", "5", "--device", "cpu", "--steps", "2")


@pytest.fixture(scope="module")
def place(tiny_model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, prompts and a manifest of several directions."""
    root = tmp_path_factory.mktemp("synthesis")
    tiny_model.save_pretrained(root / "tiny")
    for number in range(4):
        save_png16(np.random.default_rng(number).random((40, 36)).astype(np.float32), root / f"{number}.png")
    rows = [
        {"id": f"s{number}", "report": f"Nodule of {number} mm.", "targets": "frontal+lateral"}
        if number % 3
        else {"id": f"s{number}", "frontal": f"{number % 4}.png", "targets": "report", "seed": number}
        for number in range(NUM_ROWS)
    ]
    rows[1]["num_samples"] = "3"
    write(root / "m.csv", rows)
    return root


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "frontal", "report", "targets", "seed", "num_samples"])
        writer.writeheader()
        writer.writerows(rows)


def command(place: Path, out: Path, *more: str, manifest: str = "m.csv") -> list[str]:
    return ["synthesize", "--manifest", str(place / manifest), "--out", str(out), "--model", str(place / "tiny"),
            *SETTINGS, *more]  # fmt: skip


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0  # type: ignore[return-value]


def contents(out: Path) -> dict[str, bytes]:
    """Everything but the word that ranks leave of themselves."""
    files = (file for file in out.rglob("*") if file.is_file() and file.parent.name != "failures")
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> dict[str, bytes]:
    assert run(*command(place, place / "undisturbed")) == 0
    return contents(place / "undisturbed")


def test_results_are_in_the_order_of_the_manifest_and_name_their_files(
    place: Path, undisturbed: dict[str, bytes]
) -> None:
    out = place / "undisturbed"
    rows = table(out / "results.csv")
    ids = [f"s{number}" for number in range(NUM_ROWS)]
    assert [row["study_id"] for row in rows] == ["s0", "s1-0", "s1-1", "s1-2", *ids[2:]]
    assert int(rows[2]["seed"]) == int(rows[1]["seed"]) + 1 and rows[0]["seed"] == "0"
    for row in rows:
        images = {name: row[name] for name in ("frontal", "lateral") if row[name]}
        assert bool(images) != bool(row["report"]) and all(
            read_image(out / file).shape == (32, 32) for file in images.values()
        )
    report = out / rows[0]["report"]
    assert report.read_text(encoding="utf-8").rstrip("\n") == rows[0]["report_text"].rstrip("\n")
    assert rows[0]["frontal_prompt_sha256"] and rows[0]["model_sha256"] and '"sampler"' in rows[0]["settings"]
    assert sorted(folder.name for folder in (out / "studies").iterdir()) == ["00000", "00001", "00002"]
    assert not list(out.glob(".*"))


def subprocess_of(arguments: list[str], code: str = "", **environment: str) -> subprocess.Popen:
    program = f"import sys; from medcodi.app.cli import main\n{code}\nmain(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def studies(out: Path) -> dict[str, int]:
    """Finished studies and their inodes: one that is made again has another."""
    return {file.parent.name: file.stat().st_ino for file in out.glob("studies/*/*/result.json")}


# Between the last byte of a study and its appearance: the worst moment there is.
DIE_AT_RENAME = """
import os, pathlib, signal
rename, seen = pathlib.Path.rename, []
def dying(self, target):
    seen.append(target)
    os.kill(os.getpid(), signal.SIGKILL) if len(seen) == 5 else rename(self, target)
pathlib.Path.rename = dying
"""


@pytest.mark.parametrize("code", ["", DIE_AT_RENAME], ids=["any moment", "before a study appears"])
def test_killed_and_resumed(place: Path, undisturbed: dict[str, bytes], tmp_path: Path, code: str) -> None:
    out = tmp_path / "out"
    process = subprocess_of(command(place, out), code)
    if not code:
        while len(studies(out)) < 2 and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    before = studies(out)
    assert 2 <= len(before) < NUM_ROWS + 2 and not (out / "results.csv").exists()
    assert run(*command(place, out)) == 0
    assert contents(out) == undisturbed
    assert before.items() <= studies(out).items()


def test_a_full_disk_ends_it_and_leaves_no_half_study(
    place: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begun = len(undisturbed["run.json"]) + 1
    assert begun < min(len(data) for name, data in undisturbed.items() if name.endswith("result.json"))
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({begun}, {begun}))"
    process = subprocess_of(command(place, out), limit)
    _, said = process.communicate(timeout=300)
    assert process.returncode == REFUSED and "run the same command again" in said and "Traceback" not in said
    assert not studies(out) and not list(out.glob("studies/*/*")) and not list(out.glob(".*"))
    assert run(*command(place, out)) == 0
    assert contents(out) == undisturbed


def test_ranks_make_the_same_bytes(place: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    together = tmp_path / "together"
    ranks = [
        subprocess_of(command(place, together), RANK=str(rank), WORLD_SIZE="2", OMP_NUM_THREADS=str(rank + 1))
        for rank in (0, 1)
    ]
    for process in ranks:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert contents(together) == undisturbed


def test_a_rank_alone_leaves_the_rest_to_others(place: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    assert run(*command(place, tmp_path / "out", "--rank", "2", "--world", "3")) == 0
    assert not (tmp_path / "out/results.csv").exists()
    assert run(*command(place, tmp_path / "out", "--collect")) == 0
    part = table(tmp_path / "out/results.csv")
    assert 0 < len(part) < NUM_ROWS + 2
    assert run(*command(place, tmp_path / "out", "--rank", "0", "--world", "1")) == 0
    assert contents(tmp_path / "out") == undisturbed


def test_a_bad_row_is_told_and_the_rest_is_there(
    place: Path, undisturbed: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(place / "m.csv")
    rows[3]["frontal"] = "later.png"
    rows += [{**rows[0], "id": "odd", "targets": "latral"}, {**rows[0], "id": "s0"}]
    write(place / "bad.csv", rows)
    arguments = command(place, tmp_path / "out", manifest="bad.csv")
    assert run(*arguments) == INCOMPLETE
    failed = table(tmp_path / "out/failed.csv")
    assert [(row["row"], row["id"]) for row in failed] == [("4", "s3"), ("13", "odd"), ("14", "s0")]
    assert "no image file at" in failed[0]["reason"] and "did you mean 'lateral'" in failed[1]["reason"]
    assert "row 13 odd: unknown modality 'latral'" in capsys.readouterr().err
    made = {name: data for name, data in contents(tmp_path / "out").items() if name.endswith((".png", ".txt"))}
    files = {name.split("/", 2)[2]: data for name, data in undisturbed.items() if name.endswith((".png", ".txt"))}
    assert {name.split("/", 2)[2]: data for name, data in made.items()} == {
        name: data for name, data in files.items() if not name.startswith("s3/")
    }
    (place / "later.png").write_bytes((place / "3.png").read_bytes())  # the file comes after all
    assert run(*arguments) == INCOMPLETE
    assert len(table(tmp_path / "out/results.csv")) == NUM_ROWS + 2 and len(table(tmp_path / "out/failed.csv")) == 2
    (late,) = (tmp_path / "out/studies").glob("*/s3/report.txt")
    assert late.read_bytes() == files["s3/report.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--guidance", "3"), "settings.guidance_scale was 2.0, is 3.0"),
        (("--batch-size", "4"), "batch_size was 3, is 4"),
        (("--format", "png16"), "image_format was 'png', is 'png16'"),
        (("--manifest", "{place}/other.csv"), "manifest.num_rows was 12, is 1"),
    ],
)
def test_other_settings_into_the_same_folder_are_refused(
    place: Path, undisturbed: dict[str, bytes], capsys: pytest.CaptureFixture[str], more: tuple[str, str], message: str
) -> None:
    write(place / "other.csv", [{"id": "a", "report": "x"}])
    assert run(*command(place, place / "undisturbed", *(one.format(place=place) for one in more))) == REFUSED
    said = capsys.readouterr().err
    assert message in said and "choose another --out" in said
    assert contents(place / "undisturbed") == undisturbed


def test_refusals_leave_nothing_behind(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    assert run(*command(place, tmp_path / "full")) == REFUSED
    assert "does not hold a synthesis" in capsys.readouterr().err
    for more in (
        ("--format", "jpg"),
        ("--rank", "1"),
        ("--rank", "2", "--world", "2"),
        ("--steps", "5000"),
        ("--keep", "x"),
    ):
        assert run(*command(place, tmp_path / "new", *more)) == REFUSED, more
    assert not (tmp_path / "new").exists() and len(list((tmp_path / "full").iterdir())) == 1


def test_results_are_a_dataset(place: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    values = {
        "source": "csv", "path": str(place / "undisturbed/results.csv"), "out": str(tmp_path / "data"), "image_size": 32,
        "options": {"columns": {"report": "report_text", "patient_id": "id"}}, "val": 0.0, "test": 0.0,
        "max_bad_fraction": 1.0,  # a model with random weights may write no words
    }  # fmt: skip
    ledger = prepare(from_dict(PrepareConfig, values))
    assert ledger.counts()["modality"]["frontal"] == ledger.counts()["modality"]["lateral"] == NUM_ROWS - 4 + 2
    patients = {study.study_id: study.patient_id for study in open_dataset(tmp_path / "data", "train")}
    assert patients["s1-0"] == patients["s1-2"] == "s1" and "s2" in patients


def test_generate_writes_dicom_too(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pydicom")
    asked = ["generate", "--prompt", "report=Clear.", "--target", "frontal", "--model", str(place / "tiny")]
    assert run(*asked, "--format", "dicom", "--out", str(tmp_path / "out")) == 0
    assert read_image(tmp_path / "out/frontal.dcm").shape == (32, 32)
    assert run(*asked, "--format", "jpg", "--out", str(tmp_path / "other")) == REFUSED
    assert "unknown image format 'jpg'" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("synthesize", "--help") == 0
    said = capsys.readouterr().out
    assert "medcodi synthesize" in said.split("Example", 1)[1] and "report_file" in said and "failed.csv" in said


def test_dicom_out_from_python(place: Path, tmp_path: Path, tiny_model: MedCoDi) -> None:
    pytest.importorskip("pydicom")
    write(place / "two.csv", [{"id": "a", "report": "Clear.", "targets": "frontal"}])
    seen: list[tuple[int, int]] = []
    outcome = synthesize(
        place / "two.csv",
        tmp_path / "out",
        model=tiny_model,
        config=SynthesisConfig(image_format="dicom", batch_size=2),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (outcome.made, outcome.num_there, outcome.num_pending) == (1, 1, 0) and seen == [(0, 1), (1, 1)]
    (row,) = table(tmp_path / "out/results.csv")
    assert row["frontal"].endswith(".dcm") and read_image(tmp_path / "out" / row["frontal"]).shape == (32, 32)
