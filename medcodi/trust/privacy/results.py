"""The results of an audit, computed from the folder that it measured into; and verified: every file by its hash, every figure anew."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder
from medcodi.trust.privacy.attacks.memorisation import most_similar
from medcodi.trust.privacy.config import AuditConfig
from medcodi.trust.privacy.controls import control_figures
from medcodi.trust.privacy.gate import judge, limits_sha256, verdict
from medcodi.trust.privacy.scores import AUDIT, Scores

SCHEMA_VERSION = 1
RESULTS, BUNDLE = "results.json", "bundle.json"
TOLERANCE = 1e-6  # relative: other machines round otherwise


def compute_results(job: JobFolder) -> dict[str, Any]:
    """The content of ``results.json``; the same scores give the same results.

    Raises:
        DataError: If the folder holds no audit, a shard is missing, or the limits do not have the hash that was declared.
    """
    index = job.read_index()
    if index is None:
        raise DataError(f"{job.root} holds no audit", fix="give the folder of medcodi audit --out")
    identity = index["identity"]
    config = from_dict(AuditConfig, identity["config"], source=str(job.root / AUDIT.index_file))
    if limits_sha256(config.limits) != identity["limits_sha256"]:
        raise DataError("the limits were changed after they were declared", fix="do not use this bundle")
    scores = Scores.load(job)
    families = scores.families(scores.labels, config.resamples, config.seed)
    # The positive control is an audit of its own; the negative one is redrawn from the scores.
    controls = None
    if config.controls.run:
        positive = Scores.load(JobFolder(job.content / "control", AUDIT))
        controls = control_figures(scores, positive, config.limits, config.controls, config.resamples, config.seed)
    judged = judge(families, config.limits)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict(judged, controls, identity["training_list"]),
        "limits": judged,
        "limits_sha256": identity["limits_sha256"],
        "controls": controls,
        **families,
        "populations": scores.facts,
        "alarms": scores.alarms,
        "left_out": [
            *scores.facts.get("left_out", []),
            *(entry for family in families.values() for entry in family["left_out"]),
        ],
        "most_similar": [
            {**pair, "study_id": scores.ids[pair["row"]]}
            for pair in most_similar(scores.memorisation, scores.labels, config.pictures)  # pyright: ignore
        ],
        **identity,
    }


# ---- verification ----------------------------------------------------------------------------------------------------
def hashes_of(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of everything in a bundle, but for its index."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): atomic.sha256_file(path) for path in files if path.name != BUNDLE}


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
            absent = "is missing" if name in stored else "is not part of the bundle"
            check.differences.append(f"{name} {'was changed' if name in stored and name in now else absent}")
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
