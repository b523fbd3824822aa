"""How the artifacts in this folder were made, by version 0.1 (commit 946e8d3): PYTHONPATH=that/tree python make.py FOLDER."""

import os
import shutil
import sys
from pathlib import Path

from medcodi.data.prepare import PrepareConfig, prepare
from medcodi.generation_settings import GenerationSettings

from medcodi.config import from_dict, load
from medcodi.data.dataset import open_dataset
from medcodi.model import MedCoDi, ModelConfig, build_model
from medcodi.synthesis import SynthesisConfig, synthesize
from medcodi.training.caching import cache_key, make_cache
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

STUDIES = 6


def main(folder: Path) -> None:
    recipe = Path(__file__).with_name("model.yaml").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # paths within the artifacts are relative
    values = {
        "source": "phantom",
        "out": "dataset",
        "image_size": 32,
        "val": 0,
        "test": 0,
        "options": {"num_studies": STUDIES},
    }
    prepare(from_dict(PrepareConfig, values))
    dataset = open_dataset("dataset", "train")
    model = build_model(load(ModelConfig, str(recipe)), [study.report for study in dataset], seed=0)
    model.trained_stages = ("autoencode", "align")
    model.save_pretrained("model")

    model = MedCoDi.from_pretrained("model")
    make_cache(model, dataset, Path("cache/train"), cache_key(model, dataset))

    run = {
        "stage": {"name": "diffuse", "options": {"targets": ["report"]}},
        "init": "model",
        "out": "run",
        "steps": 2,
        "data": {"path": "dataset", "image_size": 32},
        "batch": {"global_size": 2},
        "checkpoint": {"every": 2, "keep": 1},
        "optimizer": {"schedule_horizon": 100},
        "tracking": {"tensorboard": False},
    }
    train(from_dict(TrainConfig, run))
    shutil.rmtree("run/model")  # as if it had been stopped after its checkpoint

    Path("manifest.csv").write_text("id,report,targets\na,Clear lungs.,frontal\nb,Large effusion.,frontal+lateral\n")
    settings = SynthesisConfig(generation=GenerationSettings(num_inference_steps=2), batch_size=2)
    synthesize("manifest.csv", "synthesis", model=model, config=settings, device="cpu")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
