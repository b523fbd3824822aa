"""Readers' files: the table holds what was answered; what was changed, is foreign or cannot be is refused or listed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medcodi.app.cli import main
from medcodi.errors import DataError
from medcodi.turing.answers.import_results import import_results
from medcodi.turing.answers.schema import COLUMNS
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.files import read_study_script
from medcodi.turing.bundle.key import read_key

START = datetime(2026, 3, 1, 9, tzinfo=UTC)


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in values.items() if name != "checksum"}
    return {**rest, "checksum": sha256_of(json.loads(json.dumps(rest)))}


def answered(bundle: Path, reader: str, num: int | None = None) -> dict[str, Any]:
    """A result as the viewer writes it: the n-th trial is answered after 10 n seconds; ratings and choices go by turns."""
    study = read_study_script(bundle / "readers" / reader / "study.js")
    tasks = {task["id"]: task for task in study["tasks"]}
    answers = []
    for trial in study["trials"][:num]:
        task, place = tasks[trial["task"]], trial["position"]
        value: dict[str, Any] = {"rating": 1 + place % 5}
        if task["findings"]:
            value = {"findings": {name: "present" if place % 2 else "absent" for name in task["findings"]}}
        elif task["choices"]:
            value = {"choice": task["choices"][place % 2]} | (
                {"confidence": 1 + place % 5} if task["confidence"] else {}
            )
        at = (START + timedelta(seconds=10 * (place + 1))).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        answers.append(
            {
                "position": place, "trial": trial["trial"], "task": trial["task"], "practice": trial["practice"], "value": value,
                "free_text": "too smooth, é" if place == 4 else "", "seconds": 9.25, "visits": 1, "changes": 0, "answered_at": at,
                "window": [0, 65535],
            }
        )  # fmt: skip
    ended = START + timedelta(seconds=10 * len(study["trials"]) + 10)
    return sealed(
        {
            "format": 1, "kind": "medcodi-turing-results", "viewer_version": "1",
            **{name: study[name] for name in ("bundle_id", "reader", "key_sha256", "study_sha256")},
            "complete": num is None, "consent": {"given": True, "at": START.isoformat()},
            "display_check": {"passed": True, "answer": "yes"},
            "environment": {"user_agent": "test", "screen": [1280, 800], "device_pixel_ratio": 1.5},
            "sessions": [{"started": START.isoformat(), "ended": ended.isoformat()}], "answers": answers,
        }
    )  # fmt: skip


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Path]:
    def write(values: dict[str, Any], name: str = "") -> Path:
        path = tmp_path / (name or f"{values['bundle_id']}-{values['reader']}.json")
        path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        return path

    return write


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "answers.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_exactly_what_was_answered(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    results = [answered(bundle, reader) for reader in ("reader-01", "reader-02")]
    done = import_results([keep(result) for result in results], bundle / "custodian", tmp_path / "out")
    key = read_key(bundle / "custodian")
    rows = table(tmp_path / "out")
    assert tuple(rows[0]) == COLUMNS and len(rows) == len(done.rows) == sum(len(one["answers"]) for one in results)
    by_trial = {row["trial"]: row for row in rows}
    for result in results:
        for answer in result["answers"]:
            row, told = by_trial[answer["trial"]], key.trials[result["reader"]][answer["trial"]]
            assert (row["reader"], row["item"], row["arm"], row["case"]) == (
                result["reader"],
                told["item"],
                told["arm"],
                told["case"],
            )
            assert row["rating"] == str(answer["value"].get("rating", "")) and row["choice"] == answer["value"].get(
                "choice", ""
            )
            if told["task"] == "frontal":
                assert row["correct"] == str(int(answer["value"]["choice"] == told["arm"])) and row["confidence"]
            if told["task"] == "pick":
                assert row["correct"] == str(int(answer["value"]["choice"] == told["truth"]["real"]))
            if told["task"] == "find":
                assert json.loads(row["findings_reader"]) == answer["value"]["findings"]
                assert json.loads(row["findings_truth"]) == told["truth"]["findings"]
            assert (row["practice"], float(row["seconds"])) == (str(answer["practice"]), 9.25)
    assert any(row["free_text"] == "too smooth, é" for row in rows) and any(row["repeat_of"] for row in rows)
    facts = json.loads((tmp_path / "out" / "import.json").read_text())
    assert facts["margins"] == {"fit": 0.5, "frontal": 0.15} and facts["alpha"] == 0.05
    assert [one["complete"] for one in facts["files"]] == [True, True]
    assert (
        not facts["missing"]
        + facts["excluded"]
        + facts["doubtful"]
        + facts["superseded"]
        + facts["readers_without_file"]
    )


def test_half_finished_sittings_are_kept_and_listed(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    half = answered(bundle, "reader-02", 20)
    facts = import_results([keep(half)], bundle / "custodian", tmp_path / "out").facts
    total = len(read_key(bundle / "custodian").trials["reader-02"])
    assert facts["files"][0]["complete"] is False and facts["rows"] == 20 and len(facts["missing"]) == total - 20
    assert facts["readers_without_file"] == ["reader-01"]


def test_a_progress_file_gives_way_to_the_finished_one(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    files = [keep(answered(bundle, "reader-01", num), f"{num}.json") for num in (10, None)]
    files.append(keep(answered(bundle, "reader-01"), "copy.json"))
    facts = import_results(files, bundle / "custodian", tmp_path / "out").facts
    assert [one["file"] for one in facts["files"]] == ["None.json"] and facts["rows"] == facts["files"][0]["of"]
    assert {one["file"]: one["why"] for one in facts["superseded"]} == {
        "10.json": "None.json holds more, or is later",
        "copy.json": "the same again",
    }


def changed(result: dict[str, Any], change: Callable[[dict[str, Any]], Any], *, seal: bool) -> dict[str, Any]:
    copy = json.loads(json.dumps(result))
    change(copy)
    return sealed(copy) if seal else copy


@pytest.mark.parametrize(
    ("change", "seal", "message"),
    [
        (lambda r: r["answers"][0]["value"].update(rating=5), False, "was changed after it was saved"),
        (lambda r: r["answers"].pop(), False, "was changed after it was saved"),
        (lambda r: r.update(bundle_id="another"), True, "is of bundle 'another'"),
        (lambda r: r.update(key_sha256="0" * 64), True, "under a key with SHA-256 0000"),
        (lambda r: r.update(study_sha256="0" * 64), True, "another config of the study"),
        (lambda r: r.update(reader="reader-09"), True, "is of reader 'reader-09'"),
        (lambda r: r.update(reader="reader-02"), True, "which reader-02 was not shown"),
        (lambda r: r.update(format=2), True, "has format 2"),
        (lambda r: r.update(kind="other"), True, "is no results file"),
        (lambda r: r.pop("sessions"), True, "lacks sessions"),
        (lambda r: r.update(consent=None), True, "holds no consent"),
        (lambda r: r["answers"].append(r["answers"][0]), True, "twice"),
        (lambda r: r["answers"][0].update(position=7), True, "is at position 7"),
        (lambda r: r["answers"][0].pop("value"), True, "an answer lacks value"),
        (lambda r: r["sessions"][0].update(ended="2020-01-01T00:00:00Z"), True, "a session from"),
    ],
)
def test_files_that_cannot_be_trusted_are_refused(
    change: Callable[[dict[str, Any]], Any],
    seal: bool,
    message: str,
    bundle: Path,
    keep: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = keep(changed(answered(bundle, "reader-01"), change, seal=seal), "result.json")
    with pytest.raises(DataError, match=message):
        import_results([path], bundle / "custodian", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: a["value"].update(rating=6), "its rating is 6, not a whole number from 1 to 5"),
        (lambda a: a["value"].update(rating=2.5), "its rating is 2.5"),
        (lambda a: a.update(value={}), "its rating is None"),
        (lambda a: a.update(seconds=-1), "it took -1 seconds"),
        (lambda a: a.update(seconds=100000), "it took 100000 seconds, all sessions together lasted"),
        (lambda a: a.update(answered_at="2031-01-01T00:00:00Z"), "outside every session"),
        (lambda a: a.update(answered_at="yesterday"), "it was answered at 'yesterday'"),
    ],
)
def test_answers_that_cannot_be_are_left_out_and_listed(
    change: Callable[[dict[str, Any]], Any], why: str, bundle: Path, keep: Callable[..., Path], tmp_path: Path
) -> None:
    result = changed(answered(bundle, "reader-01"), lambda r: change(r["answers"][0]), seal=True)
    facts = import_results([keep(result)], bundle / "custodian", tmp_path / "out").facts
    assert [one["trial"] for one in facts["excluded"]] == [result["answers"][0]["trial"]] and why in facts["excluded"][
        0
    ]["why"]
    assert facts["rows"] == len(result["answers"]) - 1


def test_what_is_doubtful_is_listed_and_kept(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    def hurry(result: dict[str, Any]) -> None:
        for answer in result["answers"]:
            answer["seconds"] = 0.1 if answer["position"] < 3 else 40
        result["display_check"]["passed"] = False

    result = changed(answered(bundle, "reader-01"), hurry, seal=True)
    facts = import_results([keep(result)], bundle / "custodian", tmp_path / "out").facts
    assert facts["rows"] == len(result["answers"])
    assert [word in " ".join(facts["doubtful"]) for word in ("3 answers in less", "add up to", "display check")] == [
        True
    ] * 3


def test_two_finished_files_that_differ_are_refused(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    first = answered(bundle, "reader-01")
    second = changed(first, lambda r: r["answers"][0].update(free_text="other"), seal=True)
    with pytest.raises(DataError, match=r"2 finished files with different answers: a.json, b.json"):
        import_results([keep(first, "a.json"), keep(second, "b.json")], bundle / "custodian", tmp_path / "out")


def test_a_lost_or_changed_key_is_refused(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    path = keep(answered(bundle, "reader-01"))
    with pytest.raises(DataError, match="no key at"):
        import_results([path], tmp_path / "none", tmp_path / "out")
    values = json.loads((bundle / "custodian" / "key.json").read_text())
    trial = next(iter(values["trials"]["reader-01"].values()))
    trial["arm"] = "generated" if trial["arm"] == "real" else "real"
    (tmp_path / "key.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="the key as it was exported"):
        import_results([path], tmp_path / "key.json", tmp_path / "out")


def test_the_command_names_every_file_that_cannot_be_used(
    bundle: Path, keep: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = keep(answered(bundle, "reader-01"), "good.json")
    bad = [
        keep(changed(answered(bundle, "reader-02"), lambda r, f=f: r.update(format=f), seal=True), f"bad{f}.json")
        for f in (2, 3)
    ]
    with pytest.raises(SystemExit) as left:
        main(
            [
                "turing",
                "import",
                *map(str, (good, *bad)),
                "--key",
                str(bundle / "custodian"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    said = capfd.readouterr().err
    assert left.value.code == 2 and "bad2.json" in said and "bad3.json" in said and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as left:
        main(["turing", "import", str(good), "--key", str(bundle / "custodian"), "--out", str(tmp_path / "out")])
    said = capfd.readouterr().out
    assert left.value.code == 0 and "reader-01: 60 of 60 answers, finished" in said and "reader-02: no file" in said
