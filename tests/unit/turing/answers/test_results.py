"""Readers' files that were changed, are foreign or invalid are refused or listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medcodi.errors import DataError
from medcodi.turing.answers.import_results import import_results
from tests.unit.turing.result_files import answered, changed


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
        (lambda r: r["sessions"].append("x"), True, r"invalid: sessions\[1\] is \"x\", not an object"),
        (lambda r: r["answers"][2].update(trial=[1]), True, r"answers\[2\].trial is \[1\], not a text"),
        (lambda r: r["answers"][2].update(seconds=2**60), True, r"answers\[2\].seconds is a huge number"),
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
        (lambda a: a.update(value=[[]]), "its value is"),
        (lambda a: a.update(seconds="9"), "it took '9' seconds"),
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
