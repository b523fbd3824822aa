"""The Visual Turing Test: blinded bundles for readers, a lint that attacks them, import, and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.turing.analysis.analyze import analyze
    from medcodi.turing.analysis.report import write_report
    from medcodi.turing.answers.import_results import import_results
    from medcodi.turing.answers.table import read_answers
    from medcodi.turing.bundle.export import export_bundle
    from medcodi.turing.design.config import ReaderStudyConfig, read_reader_study
    from medcodi.turing.lint.attack import lint_bundle
    from medcodi.turing.serving.server import study_server

__all__ = [
    "ReaderStudyConfig",
    "analyze",
    "export_bundle",
    "import_results",
    "lint_bundle",
    "read_answers",
    "read_reader_study",
    "study_server",
    "write_report",
]

# Module of each name; imported on first use, so that a table of answers is read without the generator's libraries.
__getattr__ = lazy_names(
    __name__,
    {
        "ReaderStudyConfig": ".design.config",
        "analyze": ".analysis.analyze",
        "export_bundle": ".bundle.export",
        "import_results": ".answers.import_results",
        "lint_bundle": ".lint.attack",
        "read_answers": ".answers.table",
        "read_reader_study": ".design.config",
        "study_server": ".serving.server",
        "write_report": ".analysis.report",
    },
)
