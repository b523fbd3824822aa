"""``medcodi synthesize``: which rank this process is, and with which code it exits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.cli import REFUSED
from medcodi.app.commands.synthesize import INCOMPLETE, _exit_code, _rank_and_world
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import PromptError
from medcodi.generation.bulk.job import SynthesisOutcome

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8"}


def test_options_override_the_launcher_and_alone_is_the_default() -> None:
    assert _rank_and_world(None, None, {}) == (0, 1)
    assert _rank_and_world(None, None, TORCHRUN) == (3, 8)
    assert _rank_and_world(1, 2, TORCHRUN) == (1, 2)


@pytest.mark.parametrize(
    ("rank", "world", "environment", "message"),
    [
        (1, None, {}, "--rank is given alone"),
        (None, 4, TORCHRUN, "--world is given alone"),
        (None, None, {"RANK": "first"}, "RANK is 'first'"),
    ],
)
def test_half_an_answer_is_refused(
    rank: int | None, world: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        _rank_and_world(rank, world, environment)


def outcome(**changes: object) -> SynthesisOutcome:
    values = {"made": 1, "found": 0, "failed": [], "num_pending": 0, "num_failed": 0} | changes
    return SynthesisOutcome(**values)  # type: ignore[arg-type]


def test_failed_rows_give_code_3_but_under_a_launcher_only_at_the_last_rank() -> None:
    assert _exit_code(outcome(), {}) == 0
    assert _exit_code(outcome(num_failed=2), {}) == INCOMPLETE
    launched = {"TORCHELASTIC_RUN_ID": "1"}
    assert _exit_code(outcome(num_failed=2, num_pending=5), launched) == 0  # others are still at work
    assert _exit_code(outcome(num_failed=2), launched) == INCOMPLETE


def test_balance_writes_a_manifest_and_half_a_request_is_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"s{number},p{number},train,Clear lungs.,{'FM'[number % 2]},{30 + 20 * (number % 3)}" for number in range(12)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["study_id,patient_id,split,report,sex,age", *rows]))
    options = {"record": True}
    prepare(PrepareConfig(source="csv", path=str(tmp_path / "t.csv"), out=str(tmp_path / "data"), options=options))
    balance, path = ("--balance", "sex,age:20"), tmp_path / "balanced.csv"
    assert run("synthesize", *balance, "--data", str(tmp_path / "data"), "--manifest", str(path)) == 0
    assert "F, 60-80" in capsys.readouterr().out and path.read_text().startswith("id,report,record.sex,record.age")
    assert run("synthesize", *balance, "--out", str(tmp_path / "out")) == REFUSED
    assert "--balance is given alone" in capsys.readouterr().err
    assert run("synthesize", "--out", str(tmp_path / "out")) == REFUSED
    assert "no --manifest" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_near_copies_are_excluded_and_counted_and_again_on_a_second_run(
    run: Callable[..., int], model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"num_studies": 24}
    prepare(PrepareConfig(source="phantom", image_size=32, out=str(tmp_path / "data"), options=options))
    (tmp_path / "prompts.csv").write_text("id,report\na,Normal chest.\nb,Large left pleural effusion.\n")
    arguments = [
        "synthesize",
        "--manifest",
        str(tmp_path / "prompts.csv"),
        "--out",
        str(tmp_path / "out"),
        "--model",
        model_folder,
    ]
    arguments += ["--target", "frontal", "--steps", "2", "--exclude-near-copies"]
    assert run(*arguments, str(tmp_path / "none")) == REFUSED and not (tmp_path / "out").exists()
    tables = []
    for _ in range(2):
        assert run(*arguments, str(tmp_path / "data")) == 0
        said = " ".join(capsys.readouterr().err.split())
        summary = json.loads((tmp_path / "out/near_copies.json").read_text())
        assert f"{summary['excluded']} of 2 studies are nearer to a training study" in said and "no proof" in said
        with (tmp_path / "out/results.csv").open(newline="") as file:
            left = list(csv.DictReader(file))
        assert len(left) == 2 - summary["excluded"] and summary["training"]["studies"] == 24
        tables.append((left, summary))
    assert tables[0] == tables[1]
