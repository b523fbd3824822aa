"""A run's folder: who may write in it, what it starts from, and what must be the same for a run to go on."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from medcodi.config import load as load_config
from medcodi.config import to_dict, to_yaml
from medcodi.data.dataset import StudyDataset
from medcodi.distributed import Ranks
from medcodi.errors import CheckpointError, DataError, TrainingError
from medcodi.model import MedCoDi, ModelConfig, build_model
from medcodi.model.components import tokenizer_hashes
from medcodi.model.files import read_index
from medcodi.randomness import seed_from_keys
from medcodi.storage import disk
from medcodi.training import checkpoint
from medcodi.training.checkpoint import Checkpoint
from medcodi.training.config import TrainConfig

CONFIG, LOCK = "config.yaml", ".lock"


@dataclass(frozen=True)
class RunFolder:
    """Where everything of a run lies."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, ``step-…`` each."""
        return self.root / "checkpoints"

    @property
    def start(self) -> Path:
        """The fresh model that a run without ``init`` began from."""
        return self.root / "start"

    @property
    def model(self) -> Path:
        """The result: a model folder with averaged weights."""
        return self.root / "model"


@contextmanager
def opened(config: TrainConfig, resume: str | None, processes: Ranks) -> Iterator[RunFolder]:
    """Take the folder for this run alone, on the first rank; the others wait until it is ready.

    A run that is refused before it is accepted (:func:`accept`) leaves the folder as it was.

    Raises:
        CheckpointError: If a disk is full, or read only, later on.
        TrainingError: If it cannot be written, another run holds it, or it holds a run and ``resume`` is None.
    """
    folder = RunFolder(Path(config.out))
    fresh, lock = not folder.root.exists(), None
    if processes.is_first:
        lock = _lock(folder.root)
    try:
        if processes.is_first:
            _prepare(folder, resume)
        processes.barrier()
        yield folder
    except OSError as error:
        if error.errno in disk.CANNOT_WRITE:
            raise checkpoint.not_written(Path(error.filename or folder.root), error) from error
        raise
    finally:
        if lock is not None:
            if fresh and processes.world_size == 1 and not (folder.root / CONFIG).exists():
                _leave_nothing(folder)
            lock.close()


def _prepare(folder: RunFolder, resume: str | None) -> None:
    """See that there is one run in the folder, that it can be written, and undo what a kill left half done."""
    begun = bool(checkpoint.found(folder.checkpoints))
    if resume is None and (begun or folder.model.exists()):
        raise TrainingError(
            f"{folder.root} holds a run already",
            expected="a new folder",
            fix="--resume latest to go on with it, or another out=…",
        )
    if resume == "latest" and folder.model.exists() and not begun:
        raise TrainingError(
            f"{folder.root} holds a trained model, but no checkpoint to go on from",
            expected="the checkpoints that it was made from",
            fix="take the model as it is, or train another in another out=…",
        )
    try:
        folder.checkpoints.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.checkpoints):
            pass
    except OSError as error:
        raise _cannot_write(folder.checkpoints, error) from None
    checkpoint.put_back(folder.checkpoints)
    for half in (
        *folder.root.glob(".model-*"),
        *folder.root.glob(".start-*"),
    ):  # of a run that was killed in writing it
        shutil.rmtree(half, ignore_errors=True)
    if not begun:
        shutil.rmtree(folder.start, ignore_errors=True)  # of a run that came to no checkpoint: maybe of other settings


def _leave_nothing(folder: RunFolder) -> None:
    """Take away what a run that was refused has made; what others have put into its folder stays."""
    shutil.rmtree(folder.start, ignore_errors=True)
    (folder.root / LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        folder.checkpoints.rmdir()
        folder.root.rmdir()


def accept(config: TrainConfig, folder: RunFolder, processes: Ranks) -> None:
    """Write down what the run runs with: from here on the folder is its own."""
    if processes.is_first:
        whole = folder.root / f".{CONFIG}.partial"
        whole.write_text(to_yaml(config), encoding="utf-8")
        whole.replace(folder.root / CONFIG)


def _cannot_write(folder: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"cannot write in {folder}: {error.strerror}",
        expected="a folder that can be written",
        fix="choose another out=…",
    )


def _lock(root: Path) -> Any:
    try:
        return disk.lock(root / LOCK)
    except disk.HeldError as error:
        raise TrainingError(
            f"another run is writing in {root}" + (f": {error}" if str(error) else ""),
            expected="one run in a folder",
            fix="wait for it, or choose another out=…",
        ) from None
    except OSError as error:
        raise _cannot_write(root, error) from None


# ---- what the run starts from -----------------------------------------------------------------------------------
def start_model(config: TrainConfig, folder: RunFolder, dataset: StudyDataset, processes: Ranks) -> MedCoDi:
    """The model that training starts from: ``init``, or a fresh one, which the first start keeps in ``start/``.

    A run from the cache has none of its components in memory yet: each is read where it is needed.

    Raises:
        DataError: If a tokenizer has to be trained and the data hold no report.
    """
    if config.init is not None:
        lazy = config.cache is not None
        return MedCoDi.from_pretrained(config.init, lazy=lazy, device=processes.device if lazy else "cpu")
    if processes.is_first and not (folder.start / "model_index.json").is_file():
        texts = [report for report in reports(dataset, config.tokenizer_studies) if report]
        if not texts:
            raise DataError(
                f"no reports in {dataset.name}",
                expected="reports to train the tokenizer on",
                fix="start from a model with init=…",
            )
        model = build_model(
            load_config(ModelConfig, str(config.model)), texts, seed=seed_from_keys("weights", config.seed)
        )
        model.save_pretrained(folder.start)
    processes.barrier()
    return MedCoDi.from_pretrained(folder.start)


def reports(dataset: StudyDataset, num_studies: int) -> list[str]:
    """Reports of the first studies; a dataset that can give them without its images is asked for them alone."""
    indices = range(min(num_studies, len(dataset)))
    alone = getattr(dataset, "report", None)
    found = (alone(index) for index in indices) if alone else (dataset[index].report for index in indices)
    return [report or "" for report in islice(found, num_studies)]


def identity(config: TrainConfig, folder: RunFolder, dataset: StudyDataset) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was stopped: settings, data and starting weights."""
    _, index = read_index(config.init if config.init is not None else folder.start)
    weights = [
        tokenizer_hashes(index),
        {name: part["sha256"] for name, part in index["components"].items()},
    ]
    model = index["config"] if config.model is None else to_dict(load_config(ModelConfig, config.model))
    return {
        **config.identity(),
        "model": model,
        "start": hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest(),
        "dataset": dataset.fingerprint,
    }


def agree(identity: dict[str, Any], start_step: int, folder: RunFolder, processes: Ranks) -> None:
    """See that every rank begins the same run at the same step. Every rank calls this.

    Raises:
        TrainingError: If one has other settings, data or weights, or sees another checkpoint: on every rank alike.
    """
    first, *others = processes.gather({"step": start_step, **identity})
    for rank, values in enumerate(others, start=1):
        changed = differences(first, values)
        if changed:
            raise TrainingError(
                f"rank 0 and rank {rank} do not begin the same run: {'; '.join(changed[:5])}",
                expected="the same settings, data and checkpoints on every rank",
                fix=f"give every rank the same config, and see to it that all machines share {folder.root}",
            )


# ---- going on ----------------------------------------------------------------------------------------------------
def checkpoint_to_resume(
    folder: RunFolder, resume: str | None, wanted: dict[str, Any], say: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint to go on from; None to start afresh.

    Args:
        folder: The run's folder.
        resume: ``latest``, the path of a checkpoint, or None.
        wanted: Identity of the run as configured now.
        say: Told of damaged checkpoints that are passed over.

    Raises:
        CheckpointError: If it is damaged, or was made by a run with other settings, data or starting weights.
    """
    if resume is None:
        return None
    if resume != "latest":
        chosen = checkpoint.load(Path(resume))
    else:
        latest = checkpoint.load_latest(folder.checkpoints, say)
        if latest is None:
            say("no checkpoint yet: starting from step 0")
            return None
        chosen = latest
    changed = differences({"cached": False, **chosen.state["identity"]}, json.loads(json.dumps(wanted)))
    if changed:
        raise CheckpointError(
            f"the run changed since step {chosen.step}: " + "; ".join(changed[:5]),
            expected="the settings, data and starting weights it was begun with",
            fix="undo the change, or begin a new run in another out=…",
        )
    return chosen


def differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, each as ``"key was a, is b"``."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            text
            for key in sorted({*before, *after})
            for text in differences(before.get(key), after.get(key), f"{prefix}{key}.")
        ]
    return [] if before == after else [f"{prefix.rstrip('.')} was {before!r}, is {after!r}"]


def load_tensors(stage: nn.Module, tensors: Any) -> None:
    """Copy named tensors (weights and buffers) into a stage.

    Raises:
        CheckpointError: If a name or a shape does not fit.
    """
    own = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            seen = tuple(own[name].shape) if name in own else "no such tensor"
            raise CheckpointError(
                f"the checkpoint's {name} is {tuple(value.shape)}, the model has {seen}",
                fix="resume with the model it was trained with",
            )
        own[name].data.copy_(value)
