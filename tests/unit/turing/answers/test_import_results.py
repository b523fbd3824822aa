"""The table holds what was answered; other files are refused or listed."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.cli import main
from medcodi.errors import DataError
from medcodi.turing.analysis.analyze import analyze
from medcodi.turing.analysis.wording import verdicts
from medcodi.turing.answers.import_results import import_results
from medcodi.turing.answers.schema import COLUMNS
from medcodi.turing.answers.table import read_answers
from medcodi.turing.bundle.key import read_key
from tests.unit.turing.result_files import answered, changed, table


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


def test_unfinished_readers_are_imported_and_listed(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
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


def test_a_byte_order_mark_changes_nothing(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    plain = keep(answered(bundle, "reader-01"), "plain.json")
    marked = tmp_path / "marked.json"
    marked.write_bytes(codecs.BOM_UTF8 + plain.read_bytes())
    facts = import_results([marked, plain], bundle / "custodian", tmp_path / "out").facts
    assert facts["superseded"] == [{"file": "plain.json", "reader": "reader-01", "why": "the same again"}]


def test_formulas_of_readers_are_text_in_the_table_and_read_back(
    bundle: Path, keep: Callable[..., Path], tmp_path: Path
) -> None:
    formula = '=HYPERLINK("http://example.org")'
    result = changed(answered(bundle, "reader-01"), lambda r: r["answers"][4].update(free_text=formula), seal=True)
    import_results([keep(result)], bundle / "custodian", tmp_path / "out")
    assert "'" + formula in {row["free_text"] for row in table(tmp_path / "out")}
    assert formula in {row["free_text"] for row in read_answers(tmp_path / "out").rows}


def test_only_the_parts_of_a_value_that_its_task_has_are_read(
    bundle: Path, keep: Callable[..., Path], tmp_path: Path
) -> None:
    def add(result: dict) -> None:
        for answer in result["answers"]:
            answer["value"] |= {name: {"a": 1} for name in ("rating", "confidence") if name not in answer["value"]}

    import_results(
        [keep(changed(answered(bundle, "reader-01"), add, seal=True))], bundle / "custodian", tmp_path / "out"
    )
    assert read_answers(tmp_path / "out").readers == ["reader-01"]


def test_doubts_of_an_import_turn_the_verdicts_amber(bundle: Path, keep: Callable[..., Path], tmp_path: Path) -> None:
    """From the reader's file to the page: an impossible time of one reader, a failed display check of the other."""
    slow = changed(answered(bundle, "reader-01"), lambda r: r["answers"][-1].update(seconds=1e6), seal=True)
    dim = changed(answered(bundle, "reader-02"), lambda r: r["display_check"].update(passed=False), seal=True)
    for name, files, doubted in (
        ("both", [slow, dim], "reader-01 and reader-02"),
        ("one", [answered(bundle, "reader-01"), dim], "reader-02"),
    ):
        import_results([keep(file) for file in files], bundle / "custodian", tmp_path / name)
        results = analyze(read_answers(tmp_path / name), num_resamples=200)
        for verdict in verdicts(results):
            assert verdict["tone"] == "doubt" and f"the answers of {doubted}: check" in verdict["text"]
    import_results([keep(answered(bundle, "reader-01"))], bundle / "custodian", tmp_path / "clean")
    assert not any(v["tone"] == "doubt" for v in verdicts(analyze(read_answers(tmp_path / "clean"), num_resamples=200)))
