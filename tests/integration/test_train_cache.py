"""Runs that train from the latent cache: nothing that it stands for is opened, and everything else is as without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medcodi.config import from_dict
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.distributed import Ranks
from medcodi.errors import CheckpointError, ConfigError, DataError
from medcodi.model import MedCoDi, tiny_model
from medcodi.networks.attention import Attention
from medcodi.training import run_folder
from medcodi.training.caching import cache_key, make_cache
from medcodi.training.config import TrainConfig
from medcodi.training.faults import Watchdog
from medcodi.training.loop import Loop, train
from medcodi.training.run import Run
from tests.integration.conftest import tiny_config
from tests.integration.forked import FORKS, KILLED, curve, die_when_there, finished, log, run, tensors

QUIET = ("tracking.tensorboard=false", "tracking.samples_every=0", "tracking.validate_every=0", "tracking.log_every=1")
ENGINES = {
    "plain": ("engine.name=plain",),
    "zero-2": ("engine.name=deepspeed", "engine.zero_stage=2"),
    "zero-3": ("engine.name=deepspeed", "engine.zero_stage=3", "engine.persist_below=2000"),
}
FAULTS = pytest.mark.faults
STEPS = 4
# Inputs are rounded to float16: relative 2**-11 each, up or down, which a mean over many of them mostly evens out. What was
# seen is 1e-5; the bound is ten times that.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty training phantoms (two parts of a cache) and eight held-out ones, read in no time."""
    out = tmp_path_factory.mktemp("data") / "phantoms"
    values = {"source": "phantom", "out": str(out), "image_size": 32, "options": {"num_studies": 48, "val": 8}}
    prepare(from_dict(PrepareConfig, values))
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that both stages can start from."""
    made = tiny_model(seed=0)
    made.trained_stages = ("autoencode", "align", "diffuse")
    return made.save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def config(prepared: Path, model: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Gives the config of a run named ``name``."""

    def made(name: str, *words: str, stage: str = "diffuse", init: Path = model) -> TrainConfig:
        data = [
            f"{part}.{key}"
            for part in ("data", "validation")
            for key in (f"path={prepared}", "source=null", "num_studies=null")
        ]
        settings = (*QUIET, "model=null", "checkpoint.every=0", f"steps={STEPS}", "optimizer.schedule_horizon=6")
        return tiny_config(stage, tmp_path / name, init, *data, *settings, *words)

    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def encoders(folder: Path) -> list[Path]:
    return [folder / "prompt_encoders.safetensors", *sorted(folder.glob("autoencoder_*.safetensors"))]


def test_encoders_and_autoencoders_are_never_opened_and_losses_are_as_without_the_cache(
    config: Callable[..., TrainConfig], model: Path, tmp_path: Path
) -> None:
    """Once the cache is there, their files are torn: whoever opened one would be refused, as the last copy is."""
    validated = ("tracking.validate_every=2",)
    first = train(config("first", f"cache={tmp_path / 'cache'}", *validated))
    plain = train(config("plain", *validated))
    assert curve(first) == pytest.approx(curve(plain), rel=ROUNDING)
    assert curve(first, "validation/loss") == pytest.approx(curve(plain, "validation/loss"), rel=ROUNDING)

    torn = tmp_path / "torn"
    shutil.copytree(model, torn)
    whole = {file: file.read_bytes() for file in encoders(torn)}
    for file, data in whole.items():
        file.write_bytes(data[: len(data) // 2])
    again = config("again", f"cache={tmp_path / 'cache'}", *validated, "checkpoint.every=2", init=torn)
    with pytest.raises(CheckpointError, match="safetensors.*truncated"):
        train(again)
    assert log(Path(again.out)) == log(first)  # every step and both validations
    for file, data in whole.items():
        file.write_bytes(data)
    shutil.rmtree(Path(again.out) / f"checkpoints/step-{STEPS:08d}")  # as if killed after step 2
    result = train(again, resume="latest") / "model"
    assert tensors(result.parent, STEPS) == tensors(first, STEPS) and log(result.parent) == log(first)
    assert contents(result)["denoiser_frontal.safetensors"] == contents(first / "model")["denoiser_frontal.safetensors"]
    for file in (*encoders(model), *model.glob("environment_*.safetensors")):
        assert (result / file.name).read_bytes() == file.read_bytes()
    assert MedCoDi.from_pretrained(result).trained_stages == ("autoencode", "align", "join", "diffuse")[:2] + (
        "diffuse",
    )


def test_samples_borrow_the_decoders_and_change_nothing(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    cache = f"cache={tmp_path / 'cache'}"
    without = train(config("without", cache, "steps=2", stage="join"))
    with_samples = train(config("with", cache, "steps=2", "tracking.samples_every=1", stage="join"))
    assert (with_samples / "samples/step-00000001.png").stat().st_size > 500
    assert tensors(with_samples, 2) == tensors(without, 2)


def test_a_cache_of_other_weights_or_without_it_is_refused_before_the_first_step(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    cache = f"cache={tmp_path / 'cache'}"
    begun = train(config("run", cache, "steps=1"))
    other = tiny_model(seed=3)
    other.trained_stages = ("autoencode", "align")
    folder = other.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="with other settings: weights was"):
        train(config("stale", cache, init=folder))
    assert not list((tmp_path / "stale").glob("checkpoints/*")) and not (tmp_path / "stale/log.jsonl").exists()
    with pytest.raises(CheckpointError, match="cached was True, is False"):
        train(config(begun.name, "cache=null", "steps=2"), resume="latest")


def test_other_validation_data_of_a_split_of_the_same_name_do_not_get_in_the_way(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    others = ("validation.path=null", "validation.source=phantom", "validation.split=train", "validation.num_studies=8")
    cache = tmp_path / "cache"
    trained = train(config("run", f"cache={cache}", *others, "steps=1", "tracking.validate_every=1"))
    assert {folder.name for folder in cache.iterdir()} == {"train", "validation-train"}
    assert len(curve(trained, "validation/loss")) == 1


def test_what_the_engine_cannot_do_is_refused_before_anything_is_encoded(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="offload_optimizer cpu on the plain engine"):
        train(config("run", f"cache={tmp_path / 'cache'}", "engine.offload_optimizer=cpu"))
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stage", "engine"),
    [
        pytest.param("diffuse", "plain"),
        *(pytest.param("join", engine, marks=FAULTS) for engine in ENGINES),
        *(pytest.param("diffuse", engine, marks=FAULTS) for engine in ("zero-2", "zero-3")),
    ],
)
def test_two_ranks_make_the_cache_and_the_curve_of_one(
    config: Callable[..., TrainConfig], tmp_path: Path, stage: str, engine: str
) -> None:
    if engine != "plain":
        pytest.importorskip("deepspeed")
    seen = ("tracking.validate_every=2",)
    one = finished(config("one", f"cache={tmp_path / 'a'}", *seen, stage=stage))
    two = finished(config("two", f"cache={tmp_path / 'b'}", *seen, *ENGINES[engine], stage=stage), ranks=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(list((tmp_path / "b/train").glob("part-*.npy"))) == 2
    for name in ("loss", "validation/loss"):
        assert curve(two, name) == pytest.approx(curve(one, name), abs=1e-5), name
    frozen = [file.name for file in encoders(one / "model")]
    assert all((one / "model" / name).read_bytes() == (two / "model" / name).read_bytes() for name in frozen)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stage", "ranks", "engine"),
    [
        pytest.param("diffuse", 1, "plain", marks=FAULTS),
        *(pytest.param("join", 2, engine, marks=FAULTS) for engine in ENGINES),
        pytest.param("diffuse", 2, "zero-2", marks=FAULTS),
    ],
)
def test_killed_and_resumed_from_the_cache_is_bit_for_bit_the_same(
    config: Callable[..., TrainConfig], tmp_path: Path, stage: str, ranks: int, engine: str
) -> None:
    if engine != "plain":
        pytest.importorskip("deepspeed")
    words = (f"cache={tmp_path / 'cache'}", *ENGINES[engine])
    whole = finished(config("whole", *words, stage=stage), ranks=ranks)
    killed = config("killed", *words, "checkpoint.every=2", stage=stage)
    assert run(killed, ranks=ranks, kill_after=2) == [KILLED] * ranks
    parts = finished(killed, ranks=ranks, resume="latest")
    assert tensors(parts, STEPS) == tensors(whole, STEPS) and log(parts) == log(whole)
    assert contents(parts / "model") == contents(whole / "model")


def make(model: Path, prepared: Path, folder: Path, kill_at: str | None = None) -> None:
    import torch

    from medcodi.data.dataset import open_dataset

    torch.set_num_threads(1)
    if kill_at is not None:
        die_when_there(folder, kill_at)
    opened, dataset = MedCoDi.from_pretrained(model, lazy=True), open_dataset(prepared, "train")
    make_cache(opened, dataset, folder, cache_key(opened, dataset), batch_size=1)


@pytest.mark.timeout(900)
def test_killed_while_it_is_made_a_cache_goes_on_and_comes_to_the_same_bytes(
    model: Path, prepared: Path, tmp_path: Path
) -> None:
    make(model, prepared, tmp_path / "whole")
    folder = tmp_path / "killed"
    process = FORKS.Process(target=make, args=(model, prepared, folder, "part-00000.json"))
    process.start()
    process.join(400)
    assert process.exitcode == KILLED and not (folder / "part-00001.json").exists()
    kept = (folder / "part-00000.npy").stat().st_mtime_ns
    make(model, prepared, folder)
    assert (folder / "part-00000.npy").stat().st_mtime_ns == kept
    assert contents(folder) == contents(tmp_path / "whole")


def test_absent_tokens_are_left_out_in_bf16_on_a_cpu_but_not_where_shapes_are_fixed(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """A run that leaves them out has the gradients of one that does not, up to the rounding of bfloat16."""
    made = tiny_model(seed=0, context="tokens")
    made.trained_stages = ("autoencode", "align")
    model = made.save_pretrained(tmp_path / "tokens")

    def begun(name: str, *words: str) -> tuple[Run, list[Attention], Callable[[], None]]:
        settings = config(name, *words, init=model)
        with Watchdog(Ranks(), settings.faults) as watchdog, run_folder.opened(settings, None, Ranks()) as folder:
            loop = Loop(Run(settings, folder, Ranks(), watchdog, None), watchdog)
            layers = [part for part in loop.run.stage.modules() if isinstance(part, Attention)]
            batches = iter(loop.run.batches.iterate(0))
            return loop.run, layers, lambda: loop.train_step(next(batches))

    gradients = []
    for name, skips in (("some", True), ("every", False)):
        run, layers, step = begun(name, "precision=bf16")
        assert all(layer.skips_absent for layer in layers)
        for layer in layers:
            layer.skips_absent = skips
        step()
        moments = run.engine.optimizer_state()  # after one step, a tenth of each gradient
        gradients.append({key: value for key, value in moments.items() if key.startswith("exp_avg.")})
    keys = [key for key in gradients[0] if "cross_attention.to_k" in key]
    assert keys and all(gradients[0][key].abs().max() > 0 for key in keys)
    for key, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][key], rtol=0, atol=0.02 * float(value.abs().max()))
    assert not any(layer.skips_absent for layer in begun("wide")[1])
    assert not any(layer.skips_absent for layer in begun("compiled", "precision=bf16", "compile=true")[1])
