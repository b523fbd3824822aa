"""A utility study as a job: pools, synthetic studies, classifiers, one reading of the test split, results; resumable, over ranks.

::

    study.json               the identity: config, data, generators
    pools/<set>/             every study of a set in memory's form
    synthetic/<generator>/<sampling seed>/   the folder of ``medcodi synthesize``, with the manifest that was written here
    classifiers/<arm>/<seed>-<sampling seed>/   one trained network, and how it was trained
    tests/<test set>/        what every network predicted
    results.json, page.html, methods.md, cards/   the figures; the same bytes for any number of ranks
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from medcodi.data.dataset import StudyDataset
from medcodi.distributed import ALONE, Ranks
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import TARGETS
from medcodi.pages.page import check_page
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder
from medcodi.trust.utility.arms import Selection, num_samplings, number_added, select
from medcodi.trust.utility.card import write_cards
from medcodi.trust.utility.config import UtilityConfig
from medcodi.trust.utility.guards import TestOnce, check_equal
from medcodi.trust.utility.inputs import UtilityInputs, load_annotator, open_inputs
from medcodi.trust.utility.page import write_utility_page
from medcodi.trust.utility.pools import Pool, PoolBuilder, findings_of, read_studies
from medcodi.trust.utility.results import KIND, METHODS, PAGE, RESULTS, compute_results, methods
from medcodi.trust.utility.synthetic.prompts import generate, prompts_of, write_manifest
from medcodi.trust.utility.synthetic.reading import facts_of, labels_of_files, labels_of_prompts, read_synthetic
from medcodi.trust.utility.tasks import Task, task_of
from medcodi.trust.utility.training import predict, threads, train

WEIGHTS, PREDICTIONS = "classifier.safetensors", "predictions.npz"
Progress = Callable[[str, int, int], None]  # what is done, how many are, of how many


def run(
    config: UtilityConfig,
    *,
    datasets: Mapping[str, StudyDataset] | None = None,
    ranks: Ranks = ALONE,
    on_progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Carry out a study, or resume it; returns the content of ``results.json``. Every rank calls this.

    Args:
        config: The study.
        datasets: Set -> studies that are open already, instead of those that the config names.
        ranks: This process among those that share the work.
        on_progress: Called after every shard of this rank.

    Raises:
        DataError: If the inputs cannot be used, sets or generators share patients, an arm needs more studies than there are, or
            the folder holds something else.
    """
    check_page(Path(config.out) / PAGE)
    inputs = open_inputs(config, datasets)
    return UtilityStudy(inputs, JobFolder(Path(config.out), KIND, inputs.identity(), ranks), on_progress).run()


class UtilityStudy:
    """One study at work on one rank."""

    def __init__(self, inputs: UtilityInputs, job: JobFolder, on_progress: Progress) -> None:
        self.inputs, self.config, self.job, self.ranks = inputs, inputs.config, job, job.ranks
        self.pools: dict[str, Pool] = {}
        self.findings: tuple[str, ...] = ()
        self._report = on_progress

    def run(self) -> dict[str, Any]:
        """Every phase in order."""
        with self.job.opened(), threads(self.config.threads):
            # Real studies; every arm is checked as far as they decide it.
            real = [name for name in ("train", "validation", "oracle") if name in self.inputs.datasets]
            self._phase("reading studies", {f"pools/{name}": partial(self._real_pool, name) for name in real})
            self.findings = findings_of(self.config, Pool.read(self.job.root / "pools/train"))
            self.pools = {name: self._pool(name) for name in real}
            self.ranks.by_first(self._check_arms)
            # Synthetic studies, whose prompts are real.
            made = self._synthetic()
            for name, sampling in made.values():
                self._generate(name, sampling)
            self._phase(
                "reading synthetic studies", {f"pools/{p}": partial(self._synthetic_pool, *made[p]) for p in made}
            )
            self.pools |= {pool: self._pool(pool) for pool in made}
            # Every arm's studies are chosen once, so that none is refused after hours of training.
            self.ranks.by_first(self._check_arms)
            shards = self.classifiers()
            self._phase("training", {shard: partial(self._classifier, shard, *shards[shard]) for shard in shards})
            self._test()
            results = self.ranks.by_first(self._finish)
            self.ranks.barrier()
        return results

    def _phase(self, what: str, shards: Mapping[str, Callable[[Path], Mapping[str, Any]]]) -> None:
        """Make the shards that are not there: this rank's share of them."""
        todo = self.ranks.by_first(lambda: self.job.todo(shards))
        own = self.ranks.share(todo)

        def work() -> None:
            for number, shard in enumerate(own, start=1):
                self.job.write(shard, shards[shard], replace=True)
                self._report(what, number, len(own))

        self.ranks.by_each(work)

    # ---- pools -------------------------------------------------------------------------------------------------------
    def _builder(self, size: int) -> PoolBuilder:
        labelled = self.config.task != "retrieval"
        return PoolBuilder(self.config.modalities, self.config.views, TARGETS, size, labelled=labelled)

    def _built(self, name: str) -> tuple[Pool, int]:
        """A real set as a pool with all columns, and the number of studies that the task cannot read."""
        dataset = self.inputs.datasets[name]
        builder = self._builder(dataset.image_size)
        for study in read_studies(dataset):
            builder.add(study)
        return builder.build(f"the {name} set"), builder.num_left_out

    def _real_pool(self, name: str, folder: Path) -> dict[str, Any]:
        pool, num_left_out = self._built(name)
        return {**pool.write(folder), "num_left_out": num_left_out}

    def _pool(self, name: str) -> Pool:
        return self._with_findings(Pool.read(self.job.root / "pools" / name))

    def _with_findings(self, pool: Pool) -> Pool:
        """A pool with the columns of the study's findings."""
        columns = [TARGETS.index(finding) for finding in self.findings]
        return replace(pool, truth=pool.truth[:, columns], reread=pool.reread[:, columns])

    def _generate(self, name: str, sampling: int) -> None:
        """Write the manifest of a model, and carry it out: ranks share the studies."""
        generator, folder = self.config.generators[name], self.job.root / "synthetic" / name / str(sampling)
        if generator.model is None or self.job.record(f"pools/{name}-{sampling}") is not None:
            return
        prompts = prompts_of(generator, self.pools["train"], self.findings, name, sampling)
        dataset, train = self.inputs.datasets["train"], self.pools["train"]
        self.ranks.by_first(lambda: write_manifest(folder, generator, prompts, dataset, train))
        report = partial(self._report, f"generating, {name}, sampling seed {sampling}")
        self.ranks.by_each(lambda: generate(folder, generator, sampling, self.ranks, report))

    def _synthetic(self) -> dict[str, tuple[str, int]]:
        """Synthetic pool -> (generator, sampling seed); files for all sampling seeds are one pool."""
        return {
            f"{name}-{sampling}": (name, sampling)
            for name, generator in self.config.generators.items()
            for sampling in range(1 if len(generator.files) == 1 else self.config.sampling_seeds)
        }

    def _synthetic_pool(self, name: str, sampling: int, folder: Path) -> dict[str, Any]:
        generator, train = self.config.generators[name], Pool.read(self.job.root / "pools/train")
        builder = self._builder(self.inputs.datasets["train"].image_size)
        if generator.model is not None:
            path = self.job.root / "synthetic" / name / str(sampling) / "studies"
            prompts = prompts_of(generator, self.pools["train"], self.findings, name, sampling)
            labels = labels_of_prompts(prompts, train, TARGETS)
            label_of = lambda ids: labels  # noqa: E731
        else:
            path = Path(generator.files[sampling])
            label_of = lambda ids: labels_of_files(path, train, TARGETS, ids, self.inputs.held_out)  # noqa: E731
        pool, figures = read_synthetic(path, generator, label_of, train, builder, load_annotator(self.config))
        return {**pool.write(folder), **figures, **facts_of(pool)}

    # ---- classifiers -------------------------------------------------------------------------------------------------
    def classifiers(self) -> dict[str, tuple[str, int, int]]:
        """Shard -> (arm, seed, sampling seed), those of one arm and sampling seed one after the other."""
        return {
            f"classifiers/{name}/{seed}-{sampling}": (name, seed, sampling)
            for name, arm in self.config.arms.items()
            for sampling in range(num_samplings(self.config, arm))
            for seed in range(self.config.seeds)
        }

    def _select(self, name: str, sampling: int) -> Selection:
        arm = self.config.arms[name]
        pool = ""
        if arm.add == "synthetic":
            generator = self.config.generator_of(arm)
            pool = f"{generator}-{0 if len(self.config.generators[generator].files) == 1 else sampling}"
        return select(name, arm, sampling, self.pools, self.findings, pool)

    def _check_arms(self) -> None:
        """Choose the studies of every arm; where its synthetic ones are to be generated yet, compare their number."""
        for name, arm in self.config.arms.items():
            for sampling in range(num_samplings(self.config, arm)):
                if arm.add != "synthetic" or f"{self.config.generator_of(arm)}-0" in self.pools:
                    self._select(name, sampling)
                    continue
                generator = self.config.generators[self.config.generator_of(arm)]
                number = number_added(name, arm, sampling, self.pools["train"], self.findings)
                if generator.model is not None and number > generator.num_studies and not arm.filter:
                    raise DataError(
                        f"arm {name!r} adds {number:,} studies, and {generator.num_studies:,} are generated",
                        expected="at least as many as are added",
                        fix=f"generators.{self.config.generator_of(arm)}.num_studies={number}, or smaller times",
                    )

    def _classifier(self, shard: str, name: str, seed: int, sampling: int, folder: Path) -> dict[str, Any]:
        selection, arm = self._select(name, sampling), self.config.arms[name]
        trained = train(self._task(), arm, selection, self.pools["validation"], self.config, seed)
        tensors = {key: value.detach().cpu().contiguous() for key, value in trained.network.state_dict().items()}
        save_file(tensors, folder / WEIGHTS)
        # How many patients the generator saw that the arm itself does not have.
        seen = (
            self.inputs.generator_patients.get(self.config.generator_of(arm)) if arm.add == "synthetic" else frozenset()
        )
        return {
            "files": {WEIGHTS: {"sha256": atomic.sha256_file(folder / WEIGHTS)}},
            **trained.record,
            **selection.describe(self.findings),
            "thresholds": trained.thresholds.tolist(),
            "generator_patients": None if seen is None else len(seen),
            "generator_patients_beyond": None if seen is None else len(seen - selection.patients),
        }

    def _task(self) -> Task:
        return task_of(self.config, self.inputs.datasets["train"].image_size, self.findings)

    # ---- the test ----------------------------------------------------------------------------------------------------
    def _test(self) -> None:
        """Read each test set once, and store what every classifier predicts."""
        todo = [name for name in ("test", "external_test") if name in self.inputs.datasets]
        todo = self.ranks.by_first(lambda: [name for name in todo if self.job.record(f"tests/{name}") is None])
        if todo:
            self.ranks.by_first(lambda: self._predict(todo))

    def _predict(self, names: list[str]) -> None:
        records = {shard: self.job.record(shard) or {} for shard in self.classifiers()}
        check_equal(records)
        guard = TestOnce(
            self.job.root, {shard: record["files"][WEIGHTS]["sha256"] for shard, record in records.items()}
        )
        studies = guard.read(lambda: {name: self._built(name) for name in names})
        for name, (pool, left_out) in studies.items():
            write = partial(self._write_predictions, name, self._with_findings(pool), left_out)
            self.job.write(f"tests/{name}", write, replace=True)

    def _write_predictions(self, name: str, pool: Pool, num_left_out: int, folder: Path) -> dict[str, Any]:
        arrays: dict[str, Any] = {"truth": pool.truth.numpy()}
        task, classifiers = self._task(), self.classifiers()
        for number, shard in enumerate(classifiers, start=1):
            network = task.build().to(self.config.device)
            network.load_state_dict(load_file(self.job.record_path(shard).parent / WEIGHTS))
            arrays[shard.removeprefix("classifiers/")] = predict(task, network, pool)
            self._report(f"testing on {name}", number, len(classifiers))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        (folder / PREDICTIONS).write_bytes(buffer.getvalue())
        return {
            "files": {PREDICTIONS: {"sha256": atomic.sha256_file(folder / PREDICTIONS)}},
            "num_studies": len(pool),
            "num_left_out": num_left_out,
            "ids": list(pool.ids),
            "patients": list(pool.patients),
            "groups": list(pool.groups),
            "findings": list(self.findings),
        }

    def _finish(self) -> dict[str, Any]:
        """Write the figures, the page, the methods and the cards."""
        results = compute_results(self.job)
        self.job.write_json(self.job.root / RESULTS, results)
        atomic.write_text(self.job.root / METHODS, methods(results) + "\n", error=DataError)
        write_utility_page(self.job.root / PAGE, results)
        write_cards(self.job, results)
        return results
