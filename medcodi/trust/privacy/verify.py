"""Verification of an audit's bundle: every file by its hash, and the results computed again from the scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcodi.errors import DataError
from medcodi.storage.job_folder import JobFolder
from medcodi.trust.privacy.audit import BUNDLE, RESULTS, hashes_of
from medcodi.trust.privacy.results import compute_results
from medcodi.trust.privacy.scores import AUDIT

TOLERANCE = 1e-6  # relative: other machines round otherwise


@dataclass
class AuditCheck:
    """Outcome of a verification."""

    num_files: int = 0
    num_figures: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


def verify_audit(folder: str | Path) -> AuditCheck:
    """Check the files of a bundle, and compute its results again.

    Raises:
        DataError: If there is no complete bundle.
    """
    root = Path(folder)
    stored = _read(root / BUNDLE)["files"]
    check = AuditCheck(num_files=len(stored))
    # Files: none changed, missing or new.
    now = hashes_of(root)
    for name in sorted({*stored, *now}):
        if stored.get(name) != now.get(name):
            what = (
                "is missing"
                if name not in now
                else "is not part of the bundle"
                if name not in stored
                else "was changed"
            )
            check.differences.append(f"{name} {what}")
    # Figures, from the scores alone.
    computed = json.loads(json.dumps(compute_results(JobFolder(root, AUDIT))))
    for path, first, second in _differing(_read(root / RESULTS), computed):
        check.differences.append(f"{path}: {first!r} is stored, {second!r} is computed")
    check.num_figures = sum(1 for _ in _numbers(computed))
    return check


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is unreadable: {error}", expected="the complete bundle of an audit", fix="run the audit again"
        ) from None


def _differing(first: Any, second: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Places where two JSON values differ by more than rounding."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted({*first, *second}):
            yield from _differing(first.get(key), second.get(key), f"{path}.{key}" if path else key)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for place, pair in enumerate(zip(first, second, strict=True)):
            yield from _differing(*pair, f"{path}[{place}]")
    elif isinstance(first, float) and isinstance(second, float):
        if not math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-9):
            yield path, first, second
    elif first != second:
        yield path, first, second


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
