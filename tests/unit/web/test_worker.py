"""Requests and what the worker makes of them, with the real classes at tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.data.image_files import read_image
from medcodi.data.images import save_png16
from medcodi.errors import MedCoDiError
from medcodi.pages.page import Head, render_page, write_page
from medcodi.web.config import Limits, ServeConfig
from medcodi.web.jobs import Cancelled
from medcodi.web.requests import EditRequest, GenerateRequest, Settings
from medcodi.web.service import FolderOfPages, ModelFacts
from medcodi.web.sessions import Session, Sessions
from medcodi.web.worker import Worker

FAST = Settings(num_inference_steps=2)


@pytest.fixture(scope="module")
def worker(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    return Worker(ServeConfig(model=str(folder), annotator="demo"))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, Limits())


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "wide.png"
    image = np.linspace(0, 1, 50 * 1400, dtype=np.float32).reshape(50, 1400)
    save_png16(image, path)
    return path


def test_prompts_and_samples_are_laid_out_side_by_side(worker: Worker, session: Session, film: Path) -> None:
    steps: list[tuple[int, int]] = []
    request = GenerateRequest(
        prompts={"frontal": film, "report": "Large left pleural effusion."},
        targets=("lateral",),
        num_samples=2,
        settings=FAST,
    )
    outcome = worker.generate(session, request, lambda done, total: steps.append((done, total)))
    assert [(panel["slot"], panel["title"]) for panel in outcome.panels] == [
        ("Prompt", "Frontal X-ray"), ("Prompt", "Report"), ("Sample 1", "Lateral X-ray"), ("Sample 2", "Lateral X-ray"),
    ]  # fmt: skip
    assert outcome.panels[1]["note"] == "Read: large left Pleural Effusion."
    assert outcome.panels[2]["note"].startswith("Read: ")
    assert steps[-1] == (2, 2) and outcome.notes[-1] == "Synthetic. Not for diagnosis"
    # A wide film is shown at the viewer's size, in its own shape; the first sample can be edited.
    shown = session.film_path(outcome.panels[0]["film"])
    assert shown is not None and read_image(shown).shape == (37, 1024)
    assert read_image(outcome.contents["lateral"]).shape == (32, 32) and outcome.contents["frontal"] == film
    assert outcome.contents["report"] == "Large left pleural effusion."
    assert set(session.results) == {outcome.key} and len(session.results[outcome.key].samples) == 2


def test_an_edit_shows_before_after_and_difference(worker: Worker, session: Session, film: Path) -> None:
    request = EditRequest(
        study={"frontal": film, "report": "No edema."}, statements="Severe cardiomegaly.", settings=FAST
    )
    outcome = worker.edit(session, request, lambda *_: None)
    assert [panel["slot"] for panel in outcome.panels] == ["Before | after", "Difference", "Before", "After"]
    compared, difference = (outcome.panels[index] for index in (0, 1))
    before, after, shown = (
        read_image(session.film_path(key), allow_constant=True)  # type: ignore[arg-type]
        for key in (compared["before"], compared["after"], difference["film"])
    )
    np.testing.assert_allclose(shown, 0.5 + (after - before) / 2, atol=1e-4)
    assert "cardiomegaly" in outcome.contents["report"].lower() and outcome.contents["frontal"].is_file()


def test_two_people_who_edit_one_study_do_not_see_each_other(worker: Worker, tmp_path: Path, film: Path) -> None:
    sessions, outcomes = Sessions(Limits()), []
    people = [sessions.open() for _ in range(2)]
    for person, statements in zip(people, ("Severe cardiomegaly.", "Large left pleural effusion."), strict=True):
        person.adopt("edit.frontal", film)  # the same film, a copy for each
        study = {"frontal": person.uploads["edit.frontal"], "report": "No edema."}
        outcomes.append(
            worker.edit(person, EditRequest(study=study, statements=statements, settings=FAST), lambda *_: None)
        )
    # Each has an own result; a key of the other's opens nothing.
    reports = [outcome.contents["report"] for outcome in outcomes]
    assert "cardiomegaly" in reports[0] and "effusion" in reports[1] and "cardiomegaly" not in reports[1]
    assert people[0].results.keys().isdisjoint(people[1].results)
    assert people[1].film_path(outcomes[0].panels[0]["after"]) is None
    # One leaves: the other's study, film and result stay, and can be edited on.
    sessions.close(people[0])
    again = EditRequest(study=outcomes[1].contents, statements="Severe cardiomegaly.", settings=FAST)
    after = worker.edit(people[1], again, lambda *_: None).contents["report"]
    assert "effusion" in after and "cardiomegaly" in after
    sessions.close_all()


def test_a_cancelled_request_ends_at_its_next_step(worker: Worker, session: Session) -> None:
    def cancel(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        worker.generate(session, GenerateRequest(prompts={}, targets=("frontal",), settings=FAST), cancel)
    assert session.results == {}


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"targets": ()}, "nothing is to be generated"),
        ({"targets": ("report",)}, "report"),  # both prompt and target
        ({"targets": ("frontal",), "num_samples": 99}, "at most 4"),
        ({"targets": ("frontal",), "prompts": {"report": "word " * 5000}}, "5,000 words"),
        ({"targets": ("frontal",), "settings": Settings(num_inference_steps=100_000)}, "at most 200"),
        ({"targets": ("frontal",), "settings": Settings(guidance_scale=-1.0)}, "guidance_scale"),
    ],
)
def test_invalid_requests_do_not_wait_for_their_turn(values: dict[str, Any], refusal: str) -> None:
    with pytest.raises(MedCoDiError, match=refusal):
        GenerateRequest(**{"prompts": {"report": "No edema."}, **values}).check(Limits())


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"study": {"report": "No edema."}}, "no film"),
        ({"statements": "  "}, "no change is named"),
        ({"strength": 1.5}, "strength is 1.5"),
    ],
)
def test_invalid_edits_do_not_wait_for_their_turn(film: Path, values: dict[str, Any], refusal: str) -> None:
    with pytest.raises(MedCoDiError, match=refusal):
        EditRequest(**{"study": {"frontal": film}, "statements": "Edema.", **values}).check(Limits())


def test_facts_of_the_shipped_model_are_known_without_it() -> None:
    facts = ModelFacts(None)
    assert (facts.name, facts.modalities, facts.record) == ("demo", ("frontal", "lateral", "report"), None)
    assert facts.quickest in facts.presets and "it knows no real patient" in facts.knows


def test_only_our_own_pages_inside_the_folder_are_shown(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    html = render_page(Head(title="A page"), [])
    for path in (root / "a" / "index.html", root / ".hidden" / "index.html", tmp_path / "outside.html"):
        write_page(path, html)
    (root / "foreign.html").write_text("<!doctype html><p>not ours")
    (root / "link.html").symlink_to(tmp_path / "outside.html")
    pages = FolderOfPages(root)
    assert pages.names() == ["a/index.html"] and FolderOfPages(None).names() == []
    for name in (
        "../outside.html",
        "link.html",
        "foreign.html",
        "a",
        "a/../../outside.html",
        "/etc/passwd",
        "a\0.html",
    ):
        assert pages.file(name) is None, name
