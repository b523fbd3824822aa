"""Log of the steps: means of losses and gradients, size of the updates, time, memory, utilisation, alerts."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from medcodi.errors import first_line
from medcodi.model import MedCoDi
from medcodi.training.config import TrainConfig
from medcodi.training.cost import GIB, study_flops
from medcodi.training.execution import DTYPES
from medcodi.training.monitoring.alerts import Alerts
from medcodi.training.monitoring.metrics import NamedMeans, redistribute
from medcodi.training.monitoring.observer import Observer, StepReport
from medcodi.training.monitoring.trackers import RunLog

if TYPE_CHECKING:
    from medcodi.training.engine import Engine, StepResult
    from medcodi.training.run import Run

UPDATE = "moved/"  # prefix of an update's size relative to the weights; the name in logs of every version
MATRIX_SIZE = {"cuda": 4096, "cpu": 1024}  # of the product that the peak is measured with
MEASUREMENT_S = 0.3


class StepLog(Observer):
    """Logs the means of the steps every ``tracking.log_every`` steps, and calls out signs of trouble in them."""

    state_key = "means"

    def __init__(self, run: Run, log: RunLog) -> None:
        super().__init__(run, log)
        config = run.config
        self.means = NamedMeans(run.ranks)
        self._update_size = UpdateSize(run.engine)
        self._utilisation = Utilisation(config, run.ranks.device, run.ranks.world_size)
        self._utilisation_explained = False
        self._seconds = self._waited = 0.0
        self._steps = 0
        self._alerts = Alerts(
            config.tracking.alerts, num_rows=config.batch.global_size, warmup_steps=config.optimizer.warmup_steps
        )
        for line in log.resumed_lines:  # a resumed run calls out what an undisturbed one would
            self._alerts.check(line["step"], {name: value for name, value in line.items() if isinstance(value, float)})

    def on_start(self) -> None:
        """Remember the weights if the first step is to be logged."""
        self._remember_before(self.run.start_step + 1)

    def on_step(self, report: StepReport) -> None:
        """Add the step to the means; log them where a line is due."""
        result = report.result
        if not result.skipped:
            for loss, logs in zip(result.losses, result.logs, strict=True):
                self.means.update({"loss": loss, **logs})
            self.means.update(self._gradient(result))
        self._seconds += report.seconds
        self._waited += report.waited
        self._steps += 1
        self.log.advance(report.step)
        if self._is_due(report.step):
            if not result.skipped:
                self.means.update(self._update_size.measure())
            self._write_line(report.step, result.lr)
            self._seconds, self._waited, self._steps = 0.0, 0.0, 0
        self._remember_before(report.step + 1)

    def _is_due(self, step: int) -> bool:
        return step % self.run.config.tracking.log_every == 0 or step == self.run.config.steps

    def _remember_before(self, step: int) -> None:
        if self._is_due(step):
            self._update_size.remember()

    def _gradient(self, result: StepResult) -> dict[str, float]:
        if result.grad_norm is None:
            return {}
        limit = self.run.config.optimizer.grad_clip
        clipped = {} if limit is None else {"clipped": float(result.grad_norm > limit)}
        return {"grad_norm": result.grad_norm, **clipped}

    def _write_line(self, step: int, lr: float) -> None:
        ranks = self.run.ranks
        # Means over all ranks; of waiting and memory the greatest of all ranks.
        means = self.means.take()
        machine = {"data_wait": self._waited / max(self._seconds, 1e-9), **memory(ranks.device)}
        machines = ranks.gather(machine)
        if not ranks.is_first:
            return
        greatest = {name: max(other[name] for other in machines) for name in machine}

        # The line: what the run computed, and how fast.
        values = {**relative_updates(means), "lr": lr}
        rate = self._steps * self.run.config.batch.global_size / max(self._seconds, 1e-9)
        utilisation = self._utilisation.measure(self.run.engine.stage.model, rate)
        timing = {"seconds_per_step": self._seconds / self._steps, "studies_per_second": rate, **greatest}
        self.log.scalars(step, values, {**timing, **utilisation})

        # Where the utilisation comes from, once; signs of trouble.
        explanation = self._utilisation.explain(utilisation)
        if explanation and not self._utilisation_explained:
            self._utilisation_explained = True
            self.log.note(explanation)
        alerts = self._alerts.check(step, values)
        if alerts:
            self.log.alerts(step, [f"{alert.kind}: {alert.text}." for alert in alerts])

    def state_dict(self) -> dict[str, list[float]]:
        """Unfinished means of this rank."""
        return self.means.state()

    def load_state_dict(self, states: list[Any], micro_ratio: float) -> None:
        """Restore unfinished means, also from another number of ranks."""
        ranks = self.run.ranks
        self.means.load(redistribute(states, ranks.world_size, micro_ratio)[ranks.rank])


class UpdateSize:
    """How far one step moves the norms and biases of each part: they do not decay, so only a gradient moves them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        stage = engine.stage
        vectors = {id(p): name for name, p in stage.named_parameters() if p.requires_grad and _is_vector(p)}
        names_by_part = {
            part: [vectors[id(p)] for module in modules for p in module.parameters() if id(p) in vectors]
            for part, modules in stage.parts().items()
        }
        self._names: dict[str, list[str]] = {part: names for part, names in names_by_part.items() if names}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def _values(self) -> dict[str, Tensor]:
        shards = self._engine.shards()
        return {
            part: torch.cat([shards[name].reshape(-1) for name in names]).float()  # a copy
            for part, names in self._names.items()
        }

    def remember(self) -> None:
        """Copy the vectors before the step."""
        self._before = self._values()

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        """After the step: ``moved/<part>`` -> ``[2]``, squared lengths of change and vectors, to be added over ranks."""
        before, self._before = self._before, {}
        if not before:
            return {}
        after = self._values()
        return {
            f"{UPDATE}{part}": torch.stack([(after[part] - old).square().sum(), old.square().sum() + 1e-12])
            for part, old in before.items()
        }


def relative_updates(means: Mapping[str, float]) -> dict[str, float]:
    """Means whose ratios of squared lengths are replaced by ratios of lengths."""
    return {name: math.sqrt(value) if name.startswith(UPDATE) else value for name, value in means.items()}


def _is_vector(parameter: Any) -> bool:
    return len(getattr(parameter, "ds_shape", parameter.shape)) <= 1  # ZeRO-3 leaves an empty tensor in its place


# ---- how well a run uses its machine: memory, and model FLOPs utilisation --------------------------------------------
@lru_cache(maxsize=8)
def matmul_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large matrix product, the best of a few: the device's peak.

    Measured once per process and precision, with the threads and settings of the run.
    """
    size = MATRIX_SIZE.get(device.type, MATRIX_SIZE["cuda"])
    dtype = DTYPES[precision]
    # Random numbers: a GPU multiplies constants faster than data. A generator of its own: the global one is the run's.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.rand((size, size), generator=generator, device=device).to(dtype) for _ in range(2))

    def seconds(repeats: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        _wait(device)  # kernels run asynchronously
        return (time.perf_counter() - began) / repeats

    with torch.inference_mode():
        # The first call warms up; then as many repeats as fit into the time.
        once = max(seconds(1), 1e-9)
        once = min(once, max(seconds(1), 1e-9))
        repeats = max(1, min(50, int(MEASUREMENT_S / 3 / once)))
        best = min(once, *(seconds(repeats) for _ in range(3))) if once < MEASUREMENT_S else once
    return 2.0 * size**3 / best  # a product and a sum per term


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> dict[str, float]:
    """GiB that this process uses now and used at most, on the GPU (as torch's allocator counts) and on the CPU."""
    values = {}
    if device.type == "cuda":
        values = {
            "gpu_allocated_gib": torch.cuda.memory_allocated(device) / GIB,
            "gpu_reserved_gib": torch.cuda.memory_reserved(device) / GIB,
            "gpu_peak_gib": torch.cuda.max_memory_allocated(device) / GIB,
        }
    return {**values, "cpu_gib": psutil.Process().memory_info().rss / GIB, "cpu_peak_gib": _peak_bytes() / GIB}


def _peak_bytes() -> float:
    # Linux: ru_maxrss starts with what the parent process used, so it is read from /proc.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


class Utilisation:
    """Model FLOPs utilisation (MFU; Chowdhery et al., 2022, appendix B): operations of the model over the devices' peak."""

    def __init__(self, config: TrainConfig, device: torch.device, world_size: int) -> None:
        self.config, self.device, self.world_size = config, device, world_size
        self._began = time.monotonic()
        self._flops = 0.0
        self.problem = ""  # why it cannot be measured; empty: it can

    def measure(self, model: MedCoDi, studies_per_second: float) -> dict[str, float]:
        """``mfu`` at a rate of all ranks, and what it is computed from; empty where it is off, or not due yet."""
        tracking = self.config.tracking
        is_early = not self._flops and time.monotonic() - self._began < tracking.mfu_after
        if not tracking.mfu or self.problem or is_early:
            return {}
        # An operation without a fake, or a full GPU, is no reason to stop; a NotImplementedError is a RuntimeError.
        try:
            flops = self._flops = self._flops or study_flops(self.config, model.config)
            given = tracking.peak_tflops
            peak = 1e12 * given if given else matmul_peak(self.device, self.config.precision)
        except RuntimeError as error:
            self.problem = f"MFU is not logged: {type(error).__name__}: {first_line(error)[:200]}"
            return {}
        return {
            "mfu": studies_per_second * flops / (peak * self.world_size),
            "gflops_per_study": flops / 1e9,
            "peak_tflops": peak / 1e12,
        }

    def explain(self, values: dict[str, float]) -> str:
        """Inputs of the utilisation, for the screen; empty before it is computed."""
        if not values:
            return self.problem
        config = self.config
        origin = "tracking.peak_tflops" if config.tracking.peak_tflops else f"a {config.precision} matrix product here"
        return (
            f"MFU {values['mfu']:.1%}: {values['gflops_per_study']:.4g} GFLOP per study, forward and backward, against "
            f"{values['peak_tflops']:.4g} TFLOP/s of each device ({origin})"
        )
