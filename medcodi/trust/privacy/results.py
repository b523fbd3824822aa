"""The results of an audit, computed from the folder that it measured into: figures, controls, gate and verdict."""

from __future__ import annotations

from typing import Any

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.storage.job_folder import JobFolder
from medcodi.trust.privacy.attacks.memorisation import most_similar
from medcodi.trust.privacy.config import AuditConfig
from medcodi.trust.privacy.controls import control_figures
from medcodi.trust.privacy.gate import judge, limits_sha256, verdict
from medcodi.trust.privacy.scores import AUDIT, Scores

SCHEMA_VERSION = 1


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
