"""The config of a training run: frozen, read from YAML, checked before anything is built."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from medcodi.config import check_positive, config, to_dict
from medcodi.data.dataset import read_info
from medcodi.data.loading import DataConfig
from medcodi.errors import ConfigError
from medcodi.model.low_rank import LowRankConfig
from medcodi.networks.environment import EnvironmentConfig
from medcodi.recipes import find_recipe
from medcodi.training.monitoring.config import TrackingConfig
from medcodi.training.private.accounting import PrivacyConfig, check_low_rank

VALIDATION_PHANTOMS = 512  # held-out phantoms, where a recipe names no number


@config
class StageConfig:
    """Name of the stage, and its own config (checked by the stage)."""

    name: str  # autoencode, align, diffuse, join or distil
    options: dict[str, Any] = field(default_factory=dict)  # the stage's own keys


@config
class BatchConfig:
    """Batch arithmetic: global = micro × accumulation × ranks."""

    global_size: int = 16  # studies in one optimiser step
    # studies in one forward pass on one rank; None: all of the rank's, without accumulation
    micro_size: int | None = None

    def __post_init__(self) -> None:
        check_positive(self, "global_size", "micro_size")

    def accumulation(self, world_size: int) -> int:
        """Micro-batches of one rank in one step.

        Raises:
            ConfigError: If the global batch cannot be divided so.
        """
        share, rest = divmod(self.global_size, world_size)
        micro = self.micro_size or share
        if rest or not share or share % micro:
            unit = (self.micro_size or 1) * world_size
            raise ConfigError(
                f"batch.global_size {self.global_size} is not micro_size {micro} × accumulation × {world_size} ranks",
                expected=f"a multiple of {unit}",
                fix=f"batch.global_size={-(-self.global_size // unit) * unit}, or another batch.micro_size",
            )
        return share // micro

    def describe(self, world_size: int) -> str:
        """The arithmetic in words."""
        accumulation = self.accumulation(world_size)
        micro = self.global_size // (world_size * accumulation)
        return f"{self.global_size} studies per step = {micro} (micro) × {accumulation} (accumulation) × {world_size} (ranks)"


@config
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, 2019) with a linear warm-up and a schedule; norms, biases and scalars do not decay."""

    name: Literal["adamw"] = "adamw"  # the only one there is
    lr: float = 1e-4  # highest learning rate
    betas: tuple[float, float] = (0.9, 0.99)  # decay of the running means of the gradient and of its square
    eps: float = 1e-8  # added to the denominator
    weight_decay: float = 0.01  # decoupled decay of the weights
    warmup_steps: int = 0  # steps in which the learning rate rises from 0
    # what follows the warm-up: cosine to lr * min_lr_ratio, or constant
    schedule: Literal["cosine", "constant"] = "cosine"
    # step at which the cosine ends; None: the run's steps. Set it to resume with more steps later
    schedule_horizon: int | None = None
    min_lr_ratio: float = 0.0  # lowest learning rate of the cosine, in lr
    grad_clip: float | None = 1.0  # highest global gradient norm; None: no clipping

    def __post_init__(self) -> None:
        check_positive(self, "lr", "eps", "grad_clip", "schedule_horizon")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}, must be in [0, 1)")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(
                f"weight_decay is {self.weight_decay}, warmup_steps is {self.warmup_steps}: must not be negative"
            )
        if not 0.0 <= self.min_lr_ratio <= 1.0:
            raise ValueError(f"min_lr_ratio is {self.min_lr_ratio}, must be in [0, 1]")


@config
class EmaConfig:
    """Exponential moving average of the trained weights, with decay min(decay, (1 + n) / (10 + n)) at update n."""

    enabled: bool = True  # whether there is one; the trained model holds the averaged weights
    decay: float = 0.999  # highest decay

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay is {self.decay}, must be in [0, 1)")


@config
class EngineConfig:
    """The engine that runs the steps."""

    # auto is DeepSpeed when its launcher started the process, else plain (one process, or DDP)
    name: Literal["auto", "plain", "deepspeed"] = "auto"
    # what DeepSpeed partitions: 0 nothing, 1 optimiser, 2 also gradients, 3 also weights
    zero_stage: Literal[0, 1, 2, 3] = 2
    persist_below: int = 100_000  # ZeRO-3 leaves parameters of at most this many elements whole on every rank
    # where DeepSpeed keeps the optimiser's state (its step is taken on the CPU): cpu under ZeRO 1 to 3, nvme (files
    # in nvme_path) under ZeRO-3
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    # where ZeRO-3 keeps its shards of weights and average between uses. Not on a disk, because average and
    # checkpoints are made from them
    offload_parameters: Literal["none", "cpu"] = "none"
    # folder on a fast local disk, the same on every machine; a run has its own folder in it
    nvme_path: str | None = None
    # keep only the inputs of the blocks and compute activations again in the backward pass: less memory, about a
    # third more time, the same numbers
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.persist_below < 0:
            raise ValueError(f"persist_below is {self.persist_below}, must not be negative")
        for name in ("offload_optimizer", "offload_parameters"):
            value = getattr(self, name)
            if self.name == "plain" and value != "none":
                raise ValueError(f"{name}={value!r} with name='plain': only deepspeed offloads")
            if value == "nvme" and self.nvme_path is None:
                raise ValueError(f"{name}='nvme' without nvme_path: give a folder on a fast local disk")


@config
class CheckpointConfig:
    """When the run is saved."""

    every: int = 500  # steps between two checkpoints (one is always saved at the end); 0: only at the end
    keep: int = 2  # number of newest checkpoints that are kept
    keep_every: int = 0  # checkpoints of every multiple of this step are kept too; 0: none
    # write while training continues, from a copy in CPU memory; False: training waits for the disk, without a copy on a CPU
    background: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "keep")
        if self.every < 0 or self.keep_every < 0:
            raise ValueError(f"every is {self.every}, keep_every is {self.keep_every}: must not be negative")
        if self.keep_every and (not self.every or self.keep_every % self.every):
            raise ValueError(
                f"keep_every is {self.keep_every}, must be a multiple of every, {self.every}: no other step is saved"
            )


@config
class FaultConfig:
    """When a run gives up, and how soon it notices."""

    max_skipped: int = 10  # steps in a row without a finite loss and gradient after which it saves and stops
    # seconds within which the data of a step must arrive; else it stops and names who did not deliver
    data_s: float = 600.0
    rank_s: float = 120.0  # seconds without a heartbeat after which a rank counts as dead and the others stop
    # longest wait for the others in one exchange, for ranks that live but do not take part
    exchange_minutes: float = 30.0

    def __post_init__(self) -> None:
        check_positive(self, "max_skipped", "data_s", "rank_s", "exchange_minutes")


def validation_values(data: Any, validation: dict[str, Any] | str) -> dict[str, Any]:
    """Values of ``validation``, in split ``val`` unless named: of the training data where it names no data of its own."""
    own = {"path": validation} if isinstance(validation, str) else validation
    if own.get("path") is not None or own.get("source") is not None:
        size = data.get("image_size") if isinstance(data, dict) and own.get("source") is not None else None
        own = own if size is None or own.get("image_size") is not None else {**own, "image_size": size}
        return {"split": "val", **own} if isinstance(validation, str) else own

    # The same folder or population, in another split; a phantom has no end, and needs a number.
    shared = {"path": data} if isinstance(data, str) else dict(data) if isinstance(data, dict) else {}
    of_data = ("path", "source", "image_size", "seed", "version", "studies_per_patient")
    shared = {key: shared[key] for key in of_data if shared.get(key) is not None}
    number = {"num_studies": VALIDATION_PHANTOMS} if "source" in shared else {}
    return {"split": "val", **shared, **number, **{key: value for key, value in own.items() if value is not None}}


@config
class TrainConfig:
    """One training run: a stage, what it starts from, its data, and how."""

    recipes: ClassVar[str] = "train"  # folder of configs/ with recipes for this config

    stage: StageConfig  # what is trained
    data: DataConfig  # training studies
    out: str  # the run's folder
    steps: int  # optimiser steps of the whole run
    init: str | None = None  # model folder to start from (the previous stage's out/model), or demo
    # model recipe (file or name) of a fresh model; its tokenizer is trained on the data's reports
    model: str | None = None
    # model recipe (file or name) that has all of init and further modalities: what init lacks is fresh
    extend: str | None = None
    # join: a fresh environment in place of that of init, {kind: features}: the denoisers will hear each other's maps
    environment: EnvironmentConfig | None = None
    tokenizer_studies: int = 1024  # number of reports that train a fresh model's tokenizer
    # held-out studies for validation, every tracking.validate_every steps; None: none. Without path and source they are
    # the val split of `data`
    validation: DataConfig | None = None
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    # bf16 and fp16 are autocast over float32 weights; fp16 needs a GPU
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: EmaConfig = EmaConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    faults: FaultConfig = FaultConfig()
    tracking: TrackingConfig = TrackingConfig()
    seed: int = 0  # key of the data order and of every draw
    num_workers: int = 0  # processes that read data ahead
    # folder of encoded studies, made at the first start; for diffuse and join. None: encode every batch
    cache: str | None = None
    # diffuse and align: train low-rank changes of init (LoRA) in place of its weights; the run ends in adapter.safetensors
    low_rank: LowRankConfig | None = None
    # diffuse with low_rank: what the adapter may disclose of any one patient; None: no promise
    privacy: PrivacyConfig | None = None
    compile: bool = False  # compile the networks' blocks: the first step takes minutes, later ones less time
    max_minutes: float | None = None  # save and exit cleanly after this time; resume with --resume latest

    @model_validator(mode="before")
    @classmethod
    def _validation_of_data(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("validation"), dict | str):
            return values
        return {**values, "validation": validation_values(values.get("data"), values["validation"])}

    def __post_init__(self) -> None:
        check_positive(self, "steps", "tokenizer_studies", "max_minutes")
        if (self.init is None) == (self.model is None):
            raise ValueError(
                f"init={self.init!r} and model={self.model!r}: give one, a model folder to start from or a recipe"
            )
        if self.extend is not None and (self.init is None or self.environment is not None):
            raise ValueError(
                f"extend={self.extend!r} extends init, with the environment of its recipe: give init alone beside it"
            )
        if self.environment is not None and (
            self.stage.name != "join" or self.init is None or self.environment.kind != "features"
        ):
            raise ValueError(
                f"environment={self.environment.kind!r} in stage {self.stage.name!r}: it replaces that of a model, expected "
                "{kind: features} in stage 'join' with init; a fresh model has it in its recipe"
            )
        if self.cache is not None and self.stage.name not in ("diffuse", "join", "distil"):
            raise ValueError(
                f"cache={self.cache!r}: stage {self.stage.name!r} trains what a cache would freeze; remove it"
            )
        check_low_rank(self)
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}, must not be negative")
        if self.tracking.validate_every and self.validation is None:
            raise ValueError("tracking.validate_every is set, but there is no validation data")

    @property
    def validates_own_split(self) -> bool:
        """Whether the held-out studies are another split of the prepared training data."""
        return (
            self.validation is not None and self.validation.path is not None and self.validation.path == self.data.path
        )

    @property
    def horizon(self) -> int:
        """Step at which the learning-rate schedule ends."""
        return self.optimizer.schedule_horizon or self.steps

    @property
    def makes_start(self) -> bool:
        """Whether the run makes the model that it starts from: a fresh or an extended one, stored in its folder."""
        return self.model is not None or self.extend is not None

    def check_inputs(self) -> None:
        """Refuse data or a model that are not there, by their descriptions, before the networks' libraries are loaded."""
        from medcodi.model.index import read_index

        for data in filter(None, (self.data, self.validation)):
            if data.path is not None:
                read_info(data.path)
        if self.init is not None:
            read_index(self.init)
        for recipe in filter(None, (self.model, self.extend)):
            find_recipe(recipe, "models")

    def identity(self) -> dict[str, Any]:
        """The values that decide what the run computes: a resumed run must have the same.

        Not among them: where it is written, what it logs, how long it runs, and how many ranks share the work.
        """
        values = to_dict(self)
        chosen = {key: values[key] for key in ("stage", "data", "precision", "ema", "seed")}
        chosen["batch"] = {"global_size": self.batch.global_size}
        chosen["cached"] = self.cache is not None  # encodings are rounded to half precision
        chosen["optimizer"] = {**values["optimizer"], "schedule_horizon": self.horizon}
        chosen |= {key: values[key] for key in ("low_rank", "privacy") if values[key] is not None}
        return chosen
