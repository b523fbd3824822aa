"""Laws 1 to 3 on whole runs: killed and resumed, on one rank or two, by either engine, a run comes to the same."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from medcodi.training.config import TrainConfig
from tests.integration.conftest import STAGES, tiny_config
from tests.integration.forked import KILLED, built, curve, finished, log, run, state, tensors

QUIET = ("tracking.tensorboard=false", "tracking.samples_every=0", "tracking.validate_every=0", "tracking.log_every=1")
ENGINES = {
    "plain": ("engine.name=plain",),
    **{f"zero-{stage}": ("engine.name=deepspeed", f"engine.zero_stage={stage}") for stage in (0, 1, 2)},
    "zero-3": ("engine.name=deepspeed", "engine.zero_stage=3", "engine.persist_below=2000"),
    # Nothing stays whole: every weight is put together where it is needed, the temperature too.
    "zero-3-all": ("engine.name=deepspeed", "engine.zero_stage=3", "engine.persist_below=0"),
    "zero-2-offload": ("engine.name=deepspeed", "engine.zero_stage=2", "engine.offload_optimizer=cpu"),
    "zero-3-offload": (
        *("engine.name=deepspeed", "engine.zero_stage=3", "engine.persist_below=1000"),
        "engine.offload_optimizer=cpu",
    ),
    "zero-3-offload-all": (
        *("engine.name=deepspeed", "engine.zero_stage=3", "engine.persist_below=0"),
        *("engine.offload_optimizer=cpu", "engine.offload_parameters=cpu"),
    ),
    "zero-3-nvme": ("engine.name=deepspeed", "engine.zero_stage=3", "engine.offload_optimizer=nvme"),
}
FAULTS = pytest.mark.faults
STEPS, KILL_AT = 5, 2
FEATURES = "join of features"  # stage join, whose denoisers hear each other's maps

# Every stage, one and two ranks, plain and ZeRO-2; some of them at every `make test`.
ALWAYS = {("align", 1, "plain"), ("align", 2, "zero-2")}
KILLS = [
    pytest.param(*case, marks=() if case in ALWAYS else FAULTS)
    for case in [
        *itertools.product(STAGES, (1, 2), ("plain", "zero-2")),
        *(
            ("align", 2, "zero-3-all"),
            ("join", 2, "zero-3"),
            (FEATURES, 1, "plain"),
            (FEATURES, 2, "zero-3"),
            ("align", 2, "zero-2-offload"),
            ("align", 2, "zero-3-offload"),
            ("align", 2, "zero-0"),
            ("join", 2, "zero-1"),
            ("align", 2, "zero-3-offload-all"),
            ("diffuse", 1, "zero-3-nvme"),  # a megabyte of trained weights: DeepSpeed swaps nothing smaller
            ("diffuse", 2, "zero-3-nvme"),
        ),
    ]
]


def config(stage: str, runs: dict[str, Path], out: Path, engine: str = "plain", *words: str) -> TrainConfig:
    if stage == FEATURES:
        stage, words = "join", (*words, "environment.kind=features")
    before = STAGES.index(stage) - 1
    init = None if before < 0 else runs[STAGES[before]] / "model"
    schedule = (f"steps={STEPS}", "optimizer.schedule_horizon=6", "checkpoint.every=0")
    swap = (f"engine.nvme_path={out.parent / 'swap'}",)
    values = (*QUIET, *schedule, *ENGINES[engine], *(swap if "nvme" in engine else ()), *words)
    return tiny_config(stage, out, init, *values)


def skip_unless_possible(engine: str) -> None:
    if engine != "plain":
        pytest.importorskip("deepspeed")
    if "nvme" in engine and not built("async_io"):
        pytest.skip(
            "DeepSpeed's async_io op is not built here: AsyncIOBuilder().load() of deepspeed.ops.op_builder does it"
        )


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("stage", "ranks", "engine"), KILLS)
def test_killed_and_resumed_is_bit_for_bit_the_same(
    tiny_runs: dict[str, Path], tmp_path: Path, stage: str, ranks: int, engine: str
) -> None:
    skip_unless_possible(engine)
    whole = finished(config(stage, tiny_runs, tmp_path / "whole", engine), ranks=ranks)
    killed = config(stage, tiny_runs, tmp_path / "killed", engine, "checkpoint.every=2")
    assert run(killed, ranks=ranks, kill_after=KILL_AT) == [KILLED] * ranks
    parts = finished(killed, ranks=ranks, resume="latest")
    assert tensors(parts, STEPS) == tensors(whole, STEPS) and state(parts, STEPS) == state(whole, STEPS)
    assert {f"{part}.safetensors" for part in ("weights", "ema", "optimizer")} <= tensors(whole, STEPS).keys()
    assert log(parts) == log(whole) and len(log(whole)) == STEPS
    for file in (whole / "model").glob("*.safetensors"):
        assert file.read_bytes() == (parts / "model" / file.name).read_bytes(), file.name


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("stage", "engine"),
    [
        *(pytest.param(stage, "plain", marks=() if stage == "align" else FAULTS) for stage in (*STAGES, FEATURES)),
        *(pytest.param(stage, "zero-2", marks=FAULTS) for stage in STAGES),
        *(pytest.param(stage, "zero-3", marks=FAULTS) for stage in STAGES if stage != "align"),
        *(pytest.param("align", engine, marks=FAULTS) for engine in ("zero-0", "zero-1", "zero-2-offload")),
        *(
            pytest.param("align", engine, marks=FAULTS)
            for engine in ("zero-3-all", "zero-3-offload", "zero-3-offload-all")
        ),
        pytest.param("diffuse", "zero-3-nvme", marks=FAULTS),
    ],
)
def test_two_ranks_have_the_curve_of_one(tiny_runs: dict[str, Path], tmp_path: Path, stage: str, engine: str) -> None:
    skip_unless_possible(engine)
    validated = ("tracking.validate_every=3",)
    one = finished(config(stage, tiny_runs, tmp_path / "one", "plain", *validated))
    two = finished(config(stage, tiny_runs, tmp_path / "two", engine, *validated), ranks=2)
    for name, tolerance in {"loss": 1e-5, "validation/loss": 1e-5, "grad_norm": 1e-3}.items():
        assert curve(two, name) == pytest.approx(curve(one, name), abs=tolerance), name
    assert len(curve(one)) == STEPS and len(curve(one, "validation/loss")) == 1


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("stage", "before", "after", "engine"),
    [
        pytest.param("align", 2, 1, "plain"),
        pytest.param("align", 1, 2, "plain", marks=FAULTS),
        pytest.param("join", 2, 1, "zero-2", marks=FAULTS),
        pytest.param("diffuse", 1, 2, "zero-2", marks=FAULTS),
        pytest.param("align", 2, 1, "zero-3", marks=FAULTS),
    ],
)
def test_resumed_on_another_number_of_ranks_the_curve_goes_on(
    tiny_runs: dict[str, Path], tmp_path: Path, stage: str, before: int, after: int, engine: str
) -> None:
    skip_unless_possible(engine)
    words = ("tracking.log_every=3", "checkpoint.every=2")  # a mean over steps before and after the change
    whole = finished(config(stage, tiny_runs, tmp_path / "whole", "plain", "tracking.log_every=3"))
    parts = config(stage, tiny_runs, tmp_path / "parts", engine, *words)
    assert run(parts, ranks=before, kill_after=KILL_AT) == [KILLED] * before
    finished(parts, ranks=after, resume="latest")
    assert curve(tmp_path / "parts") == pytest.approx(curve(whole), abs=1e-5)
    assert [line["step"] for line in log(whole)] == [3, STEPS]


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("stage", "engine"),
    [
        pytest.param("align", "plain"),
        *(pytest.param(*case, marks=FAULTS) for case in itertools.product(("align", "join"), ("zero-2", "zero-3"))),
        pytest.param("join", "plain", marks=FAULTS),
        pytest.param(FEATURES, "plain", marks=FAULTS),
    ],
)
def test_accumulation_on_two_ranks_has_the_curve_of_one_large_batch(
    tiny_runs: dict[str, Path], tmp_path: Path, stage: str, engine: str
) -> None:
    skip_unless_possible(engine)
    one = finished(config(stage, tiny_runs, tmp_path / "one", "plain"))
    words = ("batch.micro_size=1", "engine.activation_checkpointing=true")
    two = finished(config(stage, tiny_runs, tmp_path / "two", engine, *words), ranks=2)
    assert curve(two) == pytest.approx(curve(one), abs=1e-5)
    assert curve(two, "grad_norm") == pytest.approx(curve(one, "grad_norm"), abs=1e-3)


@FAULTS
@pytest.mark.timeout(2400)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("engine", ["plain", "zero-2"])
def test_compiled_a_run_has_its_curve(tiny_runs: dict[str, Path], tmp_path: Path, engine: str) -> None:
    skip_unless_possible(engine)
    one = finished(config("align", tiny_runs, tmp_path / "one"))
    two = finished(config("align", tiny_runs, tmp_path / "two", engine, "compile=true"), ranks=2, timeout_s=2000)
    assert curve(two) == pytest.approx(curve(one), abs=1e-4)
