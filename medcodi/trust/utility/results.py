"""The results of a utility study, computed from its stored predictions and records alone; and their verification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.config import from_dict
from medcodi.errors import DataError, MedCoDiError
from medcodi.evaluation.provenance import versions
from medcodi.evaluation.recompute import Verification
from medcodi.storage.job_folder import JobFolder, JobKind
from medcodi.trust.utility.config import ArmConfig, UtilityConfig
from medcodi.trust.utility.guards import check_equal
from medcodi.trust.utility.scoring import Predicted, Scorer, main_measure
from medcodi.trust.utility.training import protocol

KIND = JobKind(
    name="a utility study",
    index_file="study.json",
    identity_key="",
    record_file="{shard}/record.json",
    own_patterns=("pools", "synthetic", "classifiers", "tests", "cards", "*.json", "*.html", "*.md"),
    error=DataError,
    fix="choose another --out",
    resume="run the same command again: it resumes",
)

RESULTS, PAGE, METHODS = "results.json", "page.html", "methods.md"
SCHEMA_VERSION = 1
_COUNTS = ("num_real", "num_real_patients", "num_added", "num_cut", "prompt_patients")


def compute_results(job: JobFolder) -> dict[str, Any]:
    """The content of ``results.json``, from the shards of a finished study; reads no study again.

    Raises:
        DataError: If a shard is missing, or classifiers were trained unequally.
    """
    study = job.read_index() or {}
    config = from_dict(UtilityConfig, study["config"], source=str(job.root / job.kind.index_file))
    records = {
        path.parent.relative_to(job.root / "classifiers").as_posix(): path
        for path in (job.root / "classifiers").glob("*/*/record.json")
    }
    classifiers = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in sorted(records.items())}
    check_equal(classifiers)
    arms = {name: _facts(name, arm, config, classifiers) for name, arm in config.arms.items()}
    counts = {name: {key: facts[key] for key in ("num_real", "num_added")} for name, facts in arms.items()}
    # Figures of the test set, and of the external one.
    tests = {}
    for name in ("test", "external_test"):
        record = job.record(f"tests/{name}")
        if record is not None:
            tests[name] = _figures(config, record, _tested(job, name, record, config, classifiers), counts)
    if "test" not in tests:
        raise DataError(
            f"{job.root} has no predictions of the test set",
            expected="a finished study",
            fix="run it again: it resumes",
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "config": study["config"],
        "data": study["data"],
        "generators": {
            name: {**row, "pools": _pool_facts(job, config, name)} for name, row in study["generators"].items()
        },
        "measure": main_measure(config.task),
        "protocol": protocol(config),
        "arms": arms,
        "tests": tests,
        "notes": notes(config, study, arms, tests["test"]),
        "versions": versions(),
    }


def _facts(
    name: str, arm: ArmConfig, config: UtilityConfig, classifiers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Counts of an arm (the mean over sampling seeds, rounded), and how its networks were trained."""
    own = {shard: record for shard, record in classifiers.items() if shard.rpartition("/")[0] == name}
    first = next(iter(own.values()))
    seeds = [record for shard, record in own.items() if shard.rpartition("/")[2].startswith("0-")]
    missing = set(first["without_cases"]).union(*(record["without_cases"] for record in seeds))
    return {
        **{key: round(float(np.mean([record[key] for record in seeds]))) for key in _COUNTS},
        "generator": config.generator_of(arm) if arm.add == "synthetic" else None,
        "generator_patients": first["generator_patients"],
        "generator_patients_beyond": first["generator_patients_beyond"],
        "without_cases": sorted(missing),
        "num_trainings": len(own),
        "chosen_steps": [record["chosen_step"] for record in own.values()],
    }


def _pool_facts(job: JobFolder, config: UtilityConfig, generator: str) -> list[dict[str, Any]]:
    """The record of each synthetic pool of a generator, without its files."""
    pools = [job.record(f"pools/{generator}-{sampling}") for sampling in range(config.sampling_seeds)]
    return [{key: value for key, value in pool.items() if key != "files"} for pool in pools if pool is not None]


def _tested(
    job: JobFolder,
    name: str,
    record: Mapping[str, Any],
    config: UtilityConfig,
    classifiers: Mapping[str, Mapping[str, Any]],
) -> Predicted:
    """Predictions and thresholds of every arm, by seed and sampling seed."""
    predictions, thresholds = {}, {}
    with np.load(job.record_path(f"tests/{name}").parent / "predictions.npz", allow_pickle=False) as arrays:
        for arm in config.arms:
            samplings = sum(shard.rpartition("/")[0] == arm for shard in classifiers) // config.seeds
            grid = [[f"{arm}/{seed}-{sampling}" for sampling in range(samplings)] for seed in range(config.seeds)]
            predictions[arm] = np.stack([np.stack([arrays[shard] for shard in row]) for row in grid])
            thresholds[arm] = np.array([[classifiers[shard]["thresholds"] for shard in row] for row in grid])
        truth = arrays["truth"].astype(np.float64)
    return Predicted(tuple(record["patients"]), tuple(record["groups"]), truth, predictions, thresholds)


def _figures(
    config: UtilityConfig, record: Mapping[str, Any], tested: Predicted, counts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """All figures of one test set."""
    scorer = Scorer(config, record["findings"], tested)
    positives = (tested.truth == 1).sum(0).tolist()
    negatives = (tested.truth == 0).sum(0).tolist()
    return {
        "num_studies": len(tested.patients),
        "num_patients": len(set(tested.patients)),
        "num_left_out": record["num_left_out"],
        "cases": dict(zip(record["findings"], positives, strict=True)),
        # Findings of which the test set has one class only: their areas are unknown.
        "not_scored": [f for f, p, n in zip(record["findings"], positives, negatives, strict=True) if not (p and n)],
        "arms": {name: scorer.arm(name) for name in config.arms},
        "comparisons": scorer.comparisons(),
        "exchange": scorer.exchange(counts),
    }


def notes(
    config: UtilityConfig, study: Mapping[str, Any], arms: Mapping[str, Any], test: Mapping[str, Any]
) -> list[str]:
    """Sentences that a reader of the figures has to know."""
    lines = []
    for name, generator in study["generators"].items():
        if generator["num_patients"] is None:
            lines.append(
                f"The training patients of generator {name} are not known (trained_on): that it saw a validation or test patient cannot be excluded."
            )
    for name, facts in arms.items():
        arm = config.arms[name]
        if facts["generator_patients_beyond"]:
            lines.append(
                f"{name}: the generator saw {facts['generator_patients_beyond']:,} patients that the arm itself does not have."
            )
        if facts["prompt_patients"]:
            lines.append(
                f"{name}: contents of {facts['prompt_patients']:,} further training patients prompted what is added."
            )
        if facts["without_cases"]:
            lines.append(
                f"{name}: no case of {', '.join(facts['without_cases'])} among its studies, of at least one sampling seed."
            )
        if arm.filter:
            lines.append(f"{name}: {facts['num_added']:,} studies passed the filter and were added.")
    if test["not_scored"]:
        lines.append(f"Not scored, because the test set has one class only: {', '.join(test['not_scored'])}.")
    if config.seeds < 5 or config.sampling_seeds < 2:
        lines.append(
            f"{config.seeds} seeds × {config.sampling_seeds} sampling seeds: intervals over seeds need at least 5 × 2; read these as a trial run."
        )
    return lines


def methods(results: Mapping[str, Any]) -> str:
    """A paragraph for the methods section of a paper."""
    config, data, test = results["config"], results["data"], results["tests"]["test"]
    task = {
        "films": f"findings from {' and '.join(config['views'])} films",
        "reports": "findings from reports",
        "retrieval": f"retrieval of {' and '.join(config['views'])} films by reports",
    }[config["task"]]
    protocol = results["protocol"]
    generators = "; ".join(
        f"{name} ({'unknown training patients' if row['num_patients'] is None else str(row['num_patients']) + ' training patients'})"
        for name, row in results["generators"].items()
    )
    return (
        f"The task was {task}. Every arm was trained for {protocol['num_steps']} steps of {protocol['batch_size']} studies ({protocol['schedule']}), "
        f"whatever the number of its studies; weights were chosen by the {protocol['selection']} on {data['validation']['num_studies']} validation "
        f"studies, as were the thresholds of F1. Films were not mirrored. {len(config['arms'])} arms were trained from {config['seeds']} seeds and "
        f"{config['sampling_seeds']} sampling seeds, which draw the real subset and the synthetic studies; real subsets are nested, by patient. "
        + (f"Generators: {generators}; prompts were of training patients only. " if generators else "")
        + f"The test set of {test['num_studies']} studies of {test['num_patients']} patients was read once, after all networks were final. Intervals are "
        f"95 % percentile bootstraps over patients, seeds and sampling seeds ({config['bootstrap_samples']} resamples), the same resamples in every arm; "
        f"p-values of paired differences are of the same bootstrap, adjusted by Holm over {len(test['comparisons'])} comparisons. The exchange rate of an "
        "arm is the number of new real studies that reach its performance, on the oracle's curve (made monotone, linear in the logarithm of the number of "
        "real studies), over the number of studies added. Computed by MedCoDi "
        f"{results['versions']['medcodi']}."
    )


def verify(folder: Path) -> list[str]:
    """Check a finished study: the hash of every shard, and every figure computed again; returns the differences."""
    job = JobFolder(folder, KIND)
    if job.read_index() is None:
        raise DataError(f"no utility study in {folder}", expected="the folder of a finished one", fix="check the path")
    shards = [
        path.parent.relative_to(folder).as_posix()
        for part in ("pools", "tests")
        for path in (folder / part).glob("*/record.json")
    ]
    shards += [path.parent.relative_to(folder).as_posix() for path in (folder / "classifiers").glob("*/*/record.json")]
    differences = [f"{shard}: missing or changed" for shard in job.verify(sorted(shards))]
    try:
        stored = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        computed = json.loads(json.dumps(compute_results(job)))
    except (MedCoDiError, OSError, ValueError, KeyError) as error:
        return [*differences, f"{RESULTS}: cannot be computed again: {error}"]
    computed["versions"] = stored.get("versions")  # other packages may give the same figures
    verification = Verification()
    verification.compare(RESULTS, stored, computed, tolerance=1e-9)
    return [*differences, *map(str, verification.differences)]
