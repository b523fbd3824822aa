"""A run's folder: its lock, the model it starts from, what must be unchanged to resume, and the model it ends in."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcodi.config import to_dict, to_yaml
from medcodi.data.batches import GlobalBatches
from medcodi.data.dataset import StudyDataset
from medcodi.data.domain import Domain
from medcodi.distributed import Ranks
from medcodi.errors import CheckpointError, TrainingError
from medcodi.model import MedCoDi
from medcodi.model.adapter import ADAPTER, Adapter, tensors_of, write_adapter
from medcodi.model.components import Placeholder
from medcodi.model.files import read_index
from medcodi.model.identity import tokenizer_hashes
from medcodi.randomness import seed_from_keys
from medcodi.stages import build_stage
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind, differences
from medcodi.training import checkpoint
from medcodi.training.caching.training_run import hold_only
from medcodi.training.checkpoint import CHECKPOINTS, Checkpoint
from medcodi.training.config import TrainConfig
from medcodi.training.fresh_model import fresh_model_config, new_model

CONFIG, SECRET = "config.yaml", "privacy.secret"
RUN = JobKind(
    name="a run",
    index_file="",  # older runs have none; config.yaml shows that the folder is a run's
    own_patterns=("config.yaml", "start", "model", ADAPTER, SECRET, "log.jsonl", "samples", "summary.html"),
    error=TrainingError,
    fix="choose another out=…",
)
_STARTING = ".starting"  # there while start/ is being made by a run that is not accepted yet
_MADE = "start/ is made by a training run\n"
FINISH_STUDIES = 256  # training studies that a stage's `finish` is given, at least


class RunFolder:
    """Paths within a run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = root / "checkpoints"  # ``step-…`` each
        self.start = root / "start"  # the fresh model that a run without ``init`` starts from
        self.model = root / "model"  # the result: a model folder with averaged weights
        self.adapter = root / ADAPTER  # the result of a run with ``low_rank``: the averaged changes
        self.secret = root / SECRET  # the key of a private run's noise; never published


@contextmanager
def opened(config: TrainConfig, resume: str | None, ranks: Ranks) -> Iterator[RunFolder]:
    """Lock the folder for this run; a run that is refused before :func:`accept` leaves it as it was.

    Raises:
        CheckpointError: If a disk is full, or read only, later on.
        TrainingError: If it cannot be written, another run holds it, or it holds a run and ``resume`` is None.
    """
    folder = RunFolder(Path(config.out))
    fresh = not folder.root.exists()
    try:
        with JobFolder(folder.root, RUN, ranks=ranks).opened():
            try:
                ranks.by_first(lambda: _prepare(folder, resume))
                yield folder
            finally:
                if fresh and ranks.world_size == 1 and not (folder.root / CONFIG).exists():
                    _leave_nothing(folder)
    except OSError as error:
        if error.errno in atomic.UNWRITABLE:
            path = Path(error.filename or folder.root)
            raise atomic.unwritable(path, error, error=CheckpointError, then=CHECKPOINTS.resume) from error
        raise


def _prepare(folder: RunFolder, resume: str | None) -> None:
    """Refuse a folder that holds a run already, or cannot be written; undo what a kill left half done."""
    # One run in a folder, which is resumed from its checkpoints.
    begun = bool(checkpoint.finished(folder.checkpoints))
    if resume is None and (begun or folder.model.exists() or folder.adapter.exists()):
        raise TrainingError(
            f"{folder.root} holds a run already",
            expected="a new folder",
            fix="--resume latest to resume it, or another out=…",
        )
    if resume == "latest" and folder.model.exists() and not begun:
        raise TrainingError(
            f"{folder.root} holds a trained model, but no checkpoint to resume from",
            expected="the checkpoints that it was made from",
            fix="take the model as it is, or train another in another out=…",
        )
    # See that checkpoints can be written, before anything is computed.
    with atomic.refusing(folder.checkpoints, error=RUN.error, then=RUN.resume):
        folder.checkpoints.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.checkpoints):
            pass
    checkpoint.put_back(folder.checkpoints)
    # A run without a checkpoint starts anew, perhaps with other settings; a start/ that no run of ours made is somebody's.
    if not begun and folder.start.exists():
        if not any((folder.root / name).exists() for name in (CONFIG, _STARTING)):
            raise TrainingError(
                f"{folder.start} exists, and no run has made it",
                expected="a new folder, or one without start/",
                fix=RUN.fix,
            )
        atomic.remove(folder.start)


def _leave_nothing(folder: RunFolder) -> None:
    """Remove what a refused run has made; files of others stay, and so does their folder."""
    atomic.remove(folder.start)
    atomic.remove(folder.root / _STARTING)
    atomic.remove(folder.secret)
    with suppress(OSError):
        folder.checkpoints.rmdir()


def accept(config: TrainConfig, folder: RunFolder, ranks: Ranks) -> None:
    """Write the run's config: from here on the folder is its own."""
    if ranks.is_first:
        atomic.write_text(folder.root / CONFIG, to_yaml(config), error=RUN.error, then=RUN.resume)
        atomic.remove(folder.root / _STARTING)


# ---- what the run starts from -----------------------------------------------------------------------------------
def start_model(config: TrainConfig, folder: RunFolder, dataset: StudyDataset, ranks: Ranks) -> MedCoDi:
    """The model that training starts from: ``init``, or a fresh or extended one, which the first start stores in ``start/``.

    None of its components is loaded yet: each is read when it is needed.

    Raises:
        DataError: If a tokenizer has to be trained and the data hold no report.
    """
    if config.init is not None and not config.makes_start:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from_keys("environment", config.seed))  # of a fresh environment
            environment = config.environment
            return MedCoDi.from_pretrained(config.init, lazy=True, device=ranks.device, environment=environment)
    ranks.by_first(lambda: _make_start(config, folder, dataset))
    return MedCoDi.from_pretrained(folder.start, lazy=True, device=ranks.device)


def _make_start(config: TrainConfig, folder: RunFolder, dataset: StudyDataset) -> None:
    """Write a fresh model to ``start/``, unless an earlier start of the run has."""
    if (folder.start / "model_index.json").is_file():
        return
    model = new_model(config, dataset)
    atomic.write_text(folder.root / _STARTING, _MADE, error=RUN.error, then=RUN.resume)
    model.save_pretrained(folder.start)


def identity(config: TrainConfig, folder: RunFolder, dataset: StudyDataset) -> dict[str, Any]:
    """Everything that must be unchanged when a run is resumed: settings, data and starting weights."""
    _, index = read_index(folder.start if config.makes_start else str(config.init))
    weights = [tokenizer_hashes(index), {name: part["sha256"] for name, part in index["components"].items()}]
    model = index["config"] if config.model is None else to_dict(fresh_model_config(config, dataset))
    if config.environment is not None:
        model = {**model, "environment": to_dict(config.environment)}
    values = config.identity()
    values["data"]["image_size"] = dataset.image_size
    return {
        **values,
        "model": model,
        "start": hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest(),
        "dataset": dataset.fingerprint,
    }


def agree(identity: dict[str, Any], start_step: int, folder: RunFolder, ranks: Ranks) -> None:
    """Check that every rank begins the same run at the same step. Every rank calls this.

    Raises:
        TrainingError: If one has other settings, data or weights, or sees another checkpoint: on every rank alike.
    """
    first, *others = ranks.gather({"step": start_step, **identity})
    for rank, values in enumerate(others, start=1):
        changed = differences(first, values)
        if changed:
            raise TrainingError(
                f"rank 0 and rank {rank} do not begin the same run: {'; '.join(changed[:5])}",
                expected="the same settings, data and checkpoints on every rank",
                fix=f"give every rank the same config, and make sure that all machines share {folder.root}",
            )


# ---- resuming ----------------------------------------------------------------------------------------------------
def checkpoint_to_resume(
    folder: RunFolder, resume: str | None, identity: dict[str, Any], say: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint to resume from (``latest``, or the path of one); None to start from step 0.

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
    changed = differences({"cached": False, **chosen.state["identity"]}, json.loads(json.dumps(identity)))
    if changed:
        raise CheckpointError(
            f"the run changed since step {chosen.step}: " + "; ".join(changed[:5]),
            expected="the settings, data and starting weights it was begun with",
            fix="undo the change, or begin a new run in another out=…",
        )
    return chosen


def load_tensors(stage: nn.Module, tensors: Any) -> None:
    """Copy named tensors (weights and buffers) into a stage.

    Raises:
        CheckpointError: If a name or a shape does not fit.
    """
    # Weights and buffers by name; older runs saved the buffers of components that no step runs, too.
    own = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
    for name, value in tensors.items():
        if name not in own and _is_hidden(stage, name):
            continue
        if name not in own or own[name].shape != value.shape:
            seen = tuple(own[name].shape) if name in own else "no such tensor"
            raise CheckpointError(
                f"the checkpoint's {name} is {tuple(value.shape)}, the model has {seen}",
                fix="resume with the model it was trained with",
            )
        own[name].data.copy_(value)


def _is_hidden(stage: nn.Module, name: str) -> bool:
    """Whether a tensor belongs to a component that is on disk."""
    module: Any = stage
    for part in name.split("."):
        if isinstance(module, Placeholder):
            return True
        module = getattr(module, part, None)
    return False


# ---- the end ---------------------------------------------------------------------------------------------------------
def write_model(config: TrainConfig, folder: RunFolder, dataset: StudyDataset, domain: Domain, ranks: Ranks) -> Path:
    """Write ``model/`` with averaged weights, or the adapter, from the last checkpoint alone; its path.

    Every rank calls this: a stage may finish on all data.
    """
    # Load the averaged weights into the model that the run started from.
    saved = checkpoint.load(checkpoint.finished(folder.checkpoints)[-1])
    model = start_model(config, folder, dataset, ranks)
    stage: Any = build_stage(config.stage.name, model, config.stage.options)
    if config.low_rank is not None:
        stage.train_low_rank(config.low_rank, config.seed)
    hold_only(stage, cached=config.cache is not None)  # the other components are copied from file to file
    load_tensors(stage, {**saved.tensors["buffers"], **saved.tensors.get("ema", saved.tensors["weights"])})

    # Let the stage finish, and write the model with its provenance.
    stage.to(ranks.device).eval()
    with torch.no_grad():
        stage.finish(_finish_batches(config, dataset, ranks))
    record = {"steps": saved.step, "seed": config.seed, "studies": len(dataset), "data": dataset.fingerprint}
    if "privacy" in saved.state:
        record["privacy"] = saved.state["privacy"]
    if ranks.is_first and config.low_rank is not None:
        adapter = Adapter(
            base=model.identity(),
            base_name=model.config.name,
            stage=config.stage.name,
            tensors=tensors_of(stage.adapters),
            training=record,
            provenance=domain.after({}),
        )
        write_adapter(folder.adapter, adapter)
    elif ranks.is_first:
        before = [done for done in model.trained_stages if done != config.stage.name]
        model.trained_stages = (*before, config.stage.name)
        model.provenance = {
            **domain.after(model.provenance),
            "training": {**model.provenance.get("training", {}), config.stage.name: record},
        }
        model.save_pretrained(folder.model)
    ranks.barrier()
    return folder.model if config.low_rank is None else folder.adapter


def _finish_batches(config: TrainConfig, dataset: StudyDataset, ranks: Ranks) -> Any:
    """This rank's batches of the first ``FINISH_STUDIES`` training studies, or of all where there are fewer."""
    size = config.batch.global_size
    source = GlobalBatches(dataset, batch_size=size, seed=config.seed, rank=ranks.rank, world_size=ranks.world_size)
    steps = min(-(-FINISH_STUDIES // size), max(1, len(dataset) // size))
    return (batch.to(ranks.device) for step in source.iterate(0, steps) for batch in step.micro)
