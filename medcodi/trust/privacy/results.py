"""The results of an audit, computed from the folder that it measured into; and verified: every file by its hash, every figure anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.evaluation.recompute import Verification
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


def verify_audit(folder: str | Path) -> Verification:
    """Check the files of a bundle, and compute its results again.

    Raises:
        DataError: If there is no complete bundle.
    """
    root = Path(folder)
    stored, now = _read(root / BUNDLE)["files"], hashes_of(root)
    verification = Verification(num_files=len(stored))
    # Files: none changed, missing or new.
    for name in sorted({*stored, *now}):
        verification.differ(f"file {name}", stored.get(name, "no file"), now.get(name, "no file"))
    # Figures, from the scores alone.
    computed = json.loads(json.dumps(compute_results(JobFolder(root, AUDIT))))
    verification.compare("results", _read(root / RESULTS), computed, TOLERANCE)
    return verification


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is unreadable: {error}", expected="the complete bundle of an audit", fix="run the audit again"
        ) from None
