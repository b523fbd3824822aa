"""One training run: its parts, built in the order in which mistakes are cheapest to find, and its state in a checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from medcodi.data.batches import GlobalBatches
from medcodi.data.dataset import StudyDataset, read_info
from medcodi.data.domain import domain_of_data
from medcodi.distributed import Ranks, launcher
from medcodi.errors import DataError, TrainingError
from medcodi.stages import build_stage
from medcodi.stages.stage import Stage
from medcodi.training import checkpoint, run_folder
from medcodi.training.caching import from_cache, hold_only
from medcodi.training.checkpoint import Checkpoint
from medcodi.training.config import TrainConfig
from medcodi.training.ema import Ema
from medcodi.training.engine import Engine, build_engine, check_engine, describe_engine
from medcodi.training.execution import choose_attention
from medcodi.training.faults import Watchdog
from medcodi.training.fresh_model import changes_for_data
from medcodi.training.monitoring.trackers import check_trackers
from medcodi.training.optimizer import trained_parameters
from medcodi.training.private.run_parts import PrivateParts, private_parts
from medcodi.training.run_folder import RunFolder


class Run:
    """The parts of one run on one rank, as they were left at the checkpoint that it resumes from."""

    privacy: PrivateParts | None = None  # of a private run

    def __init__(
        self, config: TrainConfig, folder: RunFolder, ranks: Ranks, watchdog: Watchdog, resume: str | None
    ) -> None:
        """Build everything.

        Raises:
            MedCoDiError: If the run cannot start or resume.
        """
        self.config, self.folder, self.ranks = config, folder, ranks
        self.start_step = 0  # steps that were done before
        self.num_updates = 0  # optimiser steps that were taken, without those that were skipped
        self.resumed_state: dict[str, Any] | None = None  # state.json of the checkpoint; None: the run starts
        self._started_by = launcher(os.environ)

        # Refuse what cannot work before anything is read or built.
        if config.privacy is None:  # a private step has as many patients as are drawn
            config.batch.accumulation(ranks.world_size)
        check_engine(config, ranks, self._started_by)
        if ranks.is_first:
            check_trackers(config.tracking)

        # Studies; samples are shown of held-out ones where there are any, and never of encoded ones.
        self.dataset: StudyDataset = config.data.build()
        self.domain = domain_of_data(config.data, self.dataset)
        self.studies = self.dataset  # as prepared, also where a cache takes their place
        held_out = self._held_out()
        self.sample_dataset = self.dataset if held_out is None else held_out
        self.announce(describe_data(self.dataset, held_out))

        # The model to start from, and the checkpoint to resume from; all ranks must see the same.
        for change in changes_for_data(config, self.dataset):
            self.announce(change)
        model = run_folder.start_model(config, folder, self.dataset, ranks)
        self.identity = run_folder.identity(config, folder, self.dataset)
        self.privacy = private_parts(config, model, self.dataset, folder, ranks)
        if self.privacy is not None:
            self.identity["privacy"] |= self.privacy.identity
        saved = run_folder.checkpoint_to_resume(folder, resume, self.identity, self.announce)
        if saved is not None:
            self.start_step = saved.step
        run_folder.agree(self.identity, self.start_step, folder, ranks)

        # The stage, and whether data and disk suffice for it.
        self.stage: Any = build_stage(config.stage.name, model, config.stage.options)
        if config.low_rank is not None:
            self.stage.train_low_rank(config.low_rank, config.seed)
        check_data(self.stage, self.dataset)
        if held_out is not None:
            held_out = self._checked(held_out)
        if ranks.is_first:
            check_room(folder.checkpoints, config, trained_parameters(self.stage).values(), self.start_step)

        # Encoded studies in place of studies; weights of the checkpoint in place of the first ones.
        if config.cache is not None:
            self.dataset, held_out = from_cache(self.stage, config, self.dataset, held_out, ranks, watchdog)
        else:
            hold_only(self.stage, cached=False)
        if saved is not None:
            run_folder.load_tensors(self.stage, {**saved.tensors["weights"], **saved.tensors["buffers"]})
        self.batches = self._training_batches()
        self.validation = None if held_out is None else self._global_batches(held_out)

        # The engine moves the stage to its device, and divides it among ranks; the average is made of its shards.
        fixed_shapes = config.compile or self.privacy is not None
        choose_attention(self.stage, config.precision, ranks.device, skip_absent=not fixed_shapes)
        if self.privacy is not None:
            self.engine: Engine = self.privacy.engine(self.stage, config, ranks)
        else:
            self.engine = build_engine(self.stage, config, ranks, self._started_by)
        self.ema = Ema(self.engine.shards(), config.ema)
        run_folder.accept(config, folder, ranks)
        if saved is not None:
            self._restore(saved)

    def _held_out(self) -> StudyDataset | None:
        """The held-out studies; None, with a line, where they would be a split of the training data that has no study."""
        config = self.config
        if config.validation is None:
            return None
        validation = config.validation
        if config.validates_own_split:
            count = int(read_info(str(config.data.path))["counts"]["split"].get(validation.split, 0))
            if not count:
                self.announce(f"no validation: {config.data.path} has no studies in split {validation.split!r}")
                return None
            # A recipe's number is meant for its own data: a smaller split is used whole.
            if validation.num_studies is not None and validation.num_studies > count:
                validation = replace(validation, num_studies=None)
        return validation.build()

    def _checked(self, held_out: StudyDataset) -> StudyDataset | None:
        """The held-out studies if the stage can be validated on them; a small split of the training data may lack a modality."""
        absent = absent_modalities(self.stage, held_out) if self.config.validates_own_split else []
        if not absent:
            check_data(self.stage, held_out, "validation")
            return held_out
        # Losses of what is there are means over the rows that have it; of what is absent nothing is logged.
        present = [name for name in self.stage.needs() if name not in absent]
        reason = f"none of the {len(held_out):,} studies of {held_out.name} has {' or '.join(absent)}"
        if len(present) < self.stage.least_modalities:
            self.announce(f"no validation: {reason}")
            return None
        self.announce(f"validation of {' and '.join(present)} only: {reason}")
        return held_out

    def _training_batches(self) -> GlobalBatches:
        if self.privacy is None:
            return self._global_batches(self.dataset)
        return self.privacy.batches(self.dataset, self.config, self.ranks)

    def _global_batches(self, dataset: StudyDataset) -> GlobalBatches:
        return GlobalBatches(
            dataset,
            batch_size=self.config.batch.global_size,
            seed=self.config.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            accumulation=self.config.batch.accumulation(self.ranks.world_size),
            num_workers=self.config.num_workers,
            timeout_s=self.config.faults.data_s,
        )

    def describe(self) -> str:
        """The run in one line."""
        plain, private = self.config.batch, self.privacy
        batch = plain.describe(self.ranks.world_size) if private is None else private.describe(self.config.steps)
        return f"stage {self.config.stage.name} in {self.folder.root}: {batch}; engine {describe_engine(self.config, self._started_by)}"

    def announce(self, text: str) -> None:
        """Print a line, on the first rank."""
        if self.ranks.is_first:
            print(text, flush=True)

    # ---- state ---------------------------------------------------------------------------------------------------
    def snapshot(self, step: int, observers: dict[str, Any]) -> Checkpoint:
        """All that training after ``step`` steps depends on, whole on the first rank; every rank calls this."""
        engine = self.engine
        tensors = {"weights": engine.whole(engine.shards()), "optimizer": engine.optimizer_state()}
        if self.config.ema.enabled:
            tensors["ema"] = engine.whole(self.ema.average)
        persistent = self.stage.state_dict().keys()
        tensors["buffers"] = {
            name: value.cpu().clone() for name, value in self.stage.named_buffers() if name in persistent
        }
        state = {
            "step": step,
            "num_updates": self.num_updates,
            "identity": self.identity,
            "scalars": engine.scalars(),
            **observers,
            "micro_batches": self._micro_batches,
        }
        if self.privacy is not None:
            state["privacy"] = self.privacy.mechanism.spent(step)
        return Checkpoint(tensors, state)

    def _restore(self, saved: Checkpoint) -> None:
        """Restore optimiser and average; the weights were loaded before the engine was built."""
        self.num_updates = int(saved.state["num_updates"])
        self.engine.load_optimizer_state(saved.tensors["optimizer"], self.num_updates)
        self.engine.load_scalars(saved.state["scalars"])
        if self.config.ema.enabled:
            self.ema.load(self.engine.share(saved.tensors["ema"]))
        self.resumed_state = saved.state
        self.announce(f"resuming from step {saved.step}")

    @property
    def _micro_batches(self) -> int:
        """Micro-batches in a global batch, those of all ranks."""
        accumulation = 1 if self.privacy is not None else self.config.batch.accumulation(self.ranks.world_size)
        return accumulation * self.ranks.world_size

    @property
    def micro_ratio(self) -> float:
        """Micro-batches in a global batch now, divided by those when the checkpoint was written."""
        saved = self.resumed_state or {}
        return self._micro_batches / saved.get("micro_batches", self.ranks.world_size)


def describe_data(dataset: StudyDataset, held_out: StudyDataset | None) -> str:
    """The studies that train and those that validate, in one line."""
    validation = "none" if held_out is None else f"{len(held_out):,} studies of {held_out.name}"
    return f"data: {len(dataset):,} studies of {dataset.name}; validation: {validation}"


# ---- checks before the first step --------------------------------------------------------------------------------
def check_data(stage: Stage, dataset: StudyDataset, role: str = "data") -> None:
    """Refuse studies on which the stage cannot be trained.

    A dataset that does not count its modalities is assumed to hold all; ``role`` is the key of the config that names it.

    Raises:
        TrainingError: If it was prepared at another size than the model's, or no study has a modality that the stage needs.
    """
    size = stage.model.config.image_size
    if dataset.image_size != size:
        raise TrainingError(
            f"{role}: {dataset.name} was prepared at {dataset.image_size} pixels, the model takes {size}",
            expected="the same size",
            fix=f"prepare the studies with image_size={size} and set {role}.image_size={size}, or take another model",
        )
    counts_all = hasattr(dataset, "modality_counts")
    check_records(stage, dataset, role, len(dataset) if counts_all else 1)
    if missing := absent_modalities(stage, dataset):
        counts: dict[str, int] = dataset.modality_counts()  # pyright: ignore[reportAttributeAccessIssue]
        present = ", ".join(f"{name} in {count:,}" for name, count in counts.items() if count) or "nothing"
        raise TrainingError(
            f"{role}: none of the {len(dataset):,} studies of {dataset.name} has {' or '.join(missing)} (they have {present})",
            expected=f"{', '.join(stage.needs())}: what stage {stage.name!r} trains here",
            fix=f"prepare them with {missing[0]}, or train a model, or stage.options, without it",
        )


def check_records(stage: Stage, dataset: StudyDataset, role: str, num_studies: int) -> None:
    """Refuse studies whose records do not fit the model's fields; of those, a record may hold fewer. No image is read."""
    schema, read_record = stage.model.config.record, getattr(dataset, "record", None)
    if schema is None or read_record is None:
        return
    for index in range(num_studies):
        try:
            schema.parse(read_record(index) or {})
        except DataError as error:
            study_id = getattr(dataset, "study_id", str)(index)
            raise TrainingError(
                f"{role}: study {study_id!r} of {dataset.name}: {error.failed}",
                expected=f"records of the model's fields: {', '.join(schema.fields)}",
                fix="add the field to record.fields of a fresh model's recipe, or prepare the data without it",
            ) from None


def absent_modalities(stage: Stage, dataset: StudyDataset) -> list[str]:
    """The modalities that the stage needs and no study has; none where the dataset does not count them."""
    counted = getattr(dataset, "modality_counts", None)
    counts: dict[str, int] | None = counted and counted()
    return [] if counts is None else [name for name in stage.needs() if not counts.get(name)]


def check_room(folder: Path, config: TrainConfig, trained: Iterable[nn.Parameter], start_step: int) -> None:
    """Refuse a disk without room for the checkpoints to come, as many as there will be at one time.

    Raises:
        TrainingError: If there is less room.
    """
    copies = 4 if config.ema.enabled else 3  # weights, both moments, average: float32
    size = 4 * copies * sum(parameter.numel() for parameter in trained)

    # Checkpoints on disk now, to come, and kept at the end; one is written before the oldest is removed.
    existing = len(checkpoint.finished(folder))
    every = config.checkpoint.every or config.steps
    to_come = -(-config.steps // every) - start_step // every
    permanent_every = config.checkpoint.keep_every or config.steps + 1
    stay = config.checkpoint.keep + config.steps // permanent_every - start_step // permanent_every
    more = max(1, min(to_come, stay + 1 - existing))
    free = shutil.disk_usage(folder).free
    if more * size > free:
        raise TrainingError(
            f"{folder} has room for {free / 2**30:.3g} GiB; checkpoints to come: {more} of {size / 2**30:.3g} GiB each",
            expected=f"room for {more * size / 2**30:.3g} GiB: the run keeps {stay}, and writes one before the oldest goes",
            fix="make room, lower checkpoint.keep, "
            + ("raise checkpoint.keep_every, " if config.checkpoint.keep_every else "")
            + "or choose another out=…",
        )
