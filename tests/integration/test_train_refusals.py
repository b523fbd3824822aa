"""What a run refuses before its first step, and that nothing of it stays behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from medcodi.config import from_dict, read_yaml
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.distributed import Ranks
from medcodi.errors import CheckpointError, ConfigError, DataError, TrainingError
from medcodi.training import run_folder
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from tests.integration import forked
from tests.integration.rewritten import rewritten

TINY = Path(__file__).resolve().parents[2] / "configs/models/tiny.yaml"


# ---- the batch and the data ------------------------------------------------------------------------------------------
def test_a_batch_that_does_not_divide(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"global_size 8 is not micro_size 3 .* Fix: batch.global_size=9"):
        train(config("batch.global_size=8", "batch.micro_size=3"))
    assert not (tmp_path / "run").exists()


def test_a_modality_that_the_stage_needs_and_no_study_has(
    config: Callable[..., TrainConfig], prepared: Path, tmp_path: Path
) -> None:
    poor = rewritten(prepared, tmp_path / "poor", lambda row, study: {**study, "lateral": None})
    for stage in ("autoencode", "align", "diffuse", "join"):
        with pytest.raises(
            TrainingError, match="none of the 16 studies of phantoms/train has lateral .*frontal in 16.*Fix"
        ):
            train(config(f"data.path={poor}", stage=stage))
        assert not (tmp_path / "run").exists()
    train(config(f"data.path={poor}", "steps=1", "stage.options.targets=[frontal,report]", stage="diffuse"))


def test_studies_of_another_size_than_the_model_takes(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    phantoms = ("data.path=null", "data.source=phantom", "data.num_studies=4", "data.image_size=48")
    with pytest.raises(TrainingError, match="prepared at 48 pixels, the model takes 32.*image_size=32"):
        train(config(*phantoms))
    with pytest.raises(DataError, match="prepared at 32 pixels, image_size is 64"):
        train(config("data.image_size=64"))
    validation = (
        "validation.source=phantom",
        "validation.num_studies=4",
        "validation.image_size=48",
        "tracking.validate_every=1",
    )
    with pytest.raises(TrainingError, match="^validation: .*prepared at 48 pixels"):
        train(config(*validation))
    assert not (tmp_path / "run").exists()


# ---- the folder ------------------------------------------------------------------------------------------------------
def test_a_second_run_in_the_same_folder(config: Callable[..., TrainConfig]) -> None:
    settings = config("steps=1")
    holder = rf"/run is in use by another process: process {os.getpid()} on "
    with run_folder.opened(settings, None, Ranks()), pytest.raises(TrainingError, match=holder):
        train(settings)
    train(settings)


def test_a_folder_that_holds_a_model_and_no_checkpoint(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    run = train(config("steps=1"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(TrainingError, match="holds a trained model, but no checkpoint to resume from"):
        train(config("steps=1"), resume="latest")
    assert (run / "model/model_index.json").is_file()


def test_what_others_have_put_into_the_folder_stays(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(ConfigError):
        train(config("batch.micro_size=3"))
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    train(config("steps=1"))


# ---- going on with something else ------------------------------------------------------------------------------------
def test_another_model_than_the_run_was_begun_with(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"

    def begin(embed_dim: int, steps: int, resume: str | None) -> Path:
        recipe = read_yaml(TINY)
        recipe["prompt_encoders"]["embed_dim"] = embed_dim
        file.write_text(yaml.safe_dump(recipe))
        return train(config("init=null", f"model={file}", f"steps={steps}", stage="autoencode"), resume)

    run = begin(32, 1, None)
    before = (run / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"the run changed since step 1: model.prompt_encoders.embed_dim was 32"):
        begin(64, 2, "latest")
    assert (run / "config.yaml").read_text() == before  # still that of the run
    shutil.rmtree(
        run / "checkpoints"
    )  # as if killed before the first of them: begun again, with the model as it is told now
    shutil.rmtree(run / "model")
    begin(64, 1, "latest")
    assert run_folder.read_index(run / "start")[1]["config"]["prompt_encoders"]["embed_dim"] == 64


def test_data_that_were_prepared_anew_in_another_way(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    out = tmp_path / "phantoms"

    def prepared_with(seed: int) -> str:
        shutil.rmtree(out, ignore_errors=True)
        options = {"num_studies": 8, "val": 0, "seed": seed}
        prepare(from_dict(PrepareConfig, {"source": "phantom", "out": str(out), "image_size": 32, "options": options}))
        return f"data.path={out}"

    train(config("steps=1", prepared_with(0)))
    with pytest.raises(CheckpointError, match="the run changed since step 1: dataset was .*Fix: undo the change"):
        train(config("steps=2", prepared_with(1)), resume="latest")


def test_ranks_that_do_not_see_the_same_folder(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    here, there = (config("steps=4", f"out={tmp_path / name}") for name in ("here", "there"))
    train(config("steps=1", f"out={here.out}"))
    train(config("steps=2", f"out={there.out}"))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(forked.free_port()), "WORLD_SIZE": "2"}
    processes = []
    for rank, settings in enumerate((here, there)):
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (settings, "latest", environment, None, f"{settings.out}.rank{rank}.txt")
        processes.append(forked.FORKS.Process(target=forked._rank, args=arguments, daemon=True))
        processes[-1].start()
    assert forked.ended(here, processes, 120) == [TrainingError.exit_code] * 2
    for rank, settings in enumerate((here, there)):
        said = Path(f"{settings.out}.rank{rank}.txt").read_text()
        assert "rank 0 and rank 1 do not begin the same run: step was 1, is 2" in said and "machines share" in said
