"""The positive control, trained once a session: a tiny model overfitted on two dozen studies with canaries."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.storage.job_folder import JobFolder
from medcodi.trust.privacy.config import ControlsConfig
from medcodi.trust.privacy.controls import positive_subject
from medcodi.trust.privacy.measure import Subject, measure
from medcodi.trust.privacy.scores import AUDIT, Scores

CONTROLS = ControlsConfig(num_studies=24, num_steps=170)


@pytest.fixture(scope="session")
def subject() -> Subject:
    """The positive control as an audit sees it. Read only."""
    return positive_subject(CONTROLS)


@pytest.fixture(scope="session")
def measured(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it was measured into. Read only."""
    job = JobFolder(tmp_path_factory.mktemp("control"), AUDIT, {"control": "test"})
    with job.opened():
        measure(subject, job)
    return job.root


@pytest.fixture(scope="session")
def scores(measured: Path) -> Scores:
    """Its scores."""
    return Scores.load(JobFolder(measured, AUDIT))
