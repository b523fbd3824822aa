"""Contents that are shown more or less often than the others' tell an arm."""

from __future__ import annotations

import json

from medcodi.turing.bundle.files import (
    open_bundle,
    read_study_script,
    study_script,
)
from medcodi.turing.bundle.key import read_key
from medcodi.turing.bundle.payloads import payload_script, read_payload, text_content
from medcodi.turing.design.blinding import BlindingConfig
from medcodi.turing.lint.features import PayloadFeatures
from medcodi.turing.lint.files import check_files
from medcodi.turing.lint.separation import multiplicity_leaks
from tests.unit.turing.planter import Planter


def leaks(planter: Planter, mismatched: int, others: int, *, twice: str) -> list[str]:
    """Probes' details of a task of texts, in which the items of ``twice`` (and no others) show each text in two trials."""
    folder = planter.readers[0]
    study, entries = read_study_script(folder / "study.js"), {}
    # One panel per trial: a text of its own, or the same text in two trials.
    trials = []
    for arm, num in (("mismatched", mismatched), ("real", others)):
        for place in range(num):
            pid = f"{len(trials):016x}"
            words = f"{arm} {place // 2 if arm == twice else place}"
            (folder / "payloads" / f"{pid}.js").write_bytes(payload_script(pid, text_content(words, 64)))
            panel = {"slot": "", "title": "Report", "kind": "text", "payload": pid}
            trial = {"position": len(trials), "trial": pid, "task": "fit", "practice": False, "panels": [panel]}
            entries[pid] = {"task": "fit", "arm": arm, "practice": False, "repeat_of": ""}
            trials.append(trial)
    (folder / "study.js").write_bytes(study_script({**study, "trials": trials}))
    values = json.loads(json.dumps(planter.key.values))
    values["trials"] = {folder.name: entries}
    planter.replace_key(values)
    bundle, features = open_bundle(planter.path), PayloadFeatures(BlindingConfig())
    for entry in trials:
        features.add(folder.name, read_payload(folder / "payloads" / f"{entry['trial']}.js"))
    return [leak.detail for leak in multiplicity_leaks(bundle, read_key(planter.path / "custodian"), features)]


def test_controls_that_stand_once_among_contents_that_stand_twice_are_found(planter: Planter) -> None:
    (in_task, in_folder) = leaks(planter, 12, 24, twice="real")
    assert "Report of mismatched items is shown 1.0 times in the task, of real and generated items 2.0 times" in in_task
    assert "in the folder" in in_folder


def test_controls_that_stand_twice_among_contents_that_stand_once_are_found(planter: Planter) -> None:
    assert len(leaks(planter, 12, 24, twice="mismatched")) == 2


def test_equal_numbers_and_a_clean_bundle_pass(planter: Planter) -> None:
    features = PayloadFeatures(planter.key.study.blinding)
    bundle = open_bundle(planter.path)
    check_files(bundle, features)
    assert not multiplicity_leaks(bundle, planter.key, features)
    assert not leaks(planter, 12, 24, twice="neither")
