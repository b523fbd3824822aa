"""Ablations of the denoiser at equal processor time: what a choice buys in the findings of frontals generated from held-out reports.

    OMP_NUM_THREADS=1 python benchmarks/ablations.py [--rows baseline min-snr] [--seeds 0 1] [--seconds 240] [--work runs/ablations]

Setting: phantoms of version 2 at 128 x 128, the shipped demo's frozen encoders and autoencoders, a fresh denoiser of frontals of the
demo's layout with half its channels. Every run trains for the same CPU seconds of one thread (the cosine of the learning rate ends with
them), then 128 held-out frontals are generated from reports, and from report and lateral, and judged by the demo's classifier. Each run is
a file in ``--work`` that a later call reads, and so is each cache of encoded studies: a stopped call resumes. Writes
benchmarks/results/ablations.json after each run. Once: 10,000 studies are encoded in about 10 core-minutes for each latent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import machine

from medcodi.config import from_dict, to_dict
from medcodi.data.dataset import read_study
from medcodi.data.loading import DataConfig, collate
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.image_annotators import findings_from_probabilities
from medcodi.evaluation.scoring.findings import counted_findings
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.evaluation.systems.systems import generate_studies
from medcodi.metrics.bootstrap import (
    Statistic,
    bootstrap_interval,
    paired_difference,
    resampling_weights,
)
from medcodi.metrics.distances import Moments, frechet_distance
from medcodi.metrics.findings import Confusion
from medcodi.model import MedCoDi, ModelConfig, demo_checkpoint
from medcodi.model.generation_config import GenerationConfig
from medcodi.randomness import StepRandomness, numpy_generator
from medcodi.stages.autoencode import AutoencodeConfig, AutoencodeStage
from medcodi.stages.diffuse import DiffuseConfig, DiffuseStage
from medcodi.stages.stage import Stage
from medcodi.stages.step import ValidationRandomness
from medcodi.storage import atomic
from medcodi.study import Direction
from medcodi.training.caching import EncodedStudies, cache_key, make_cache
from medcodi.training.config import EmaConfig, OptimizerConfig
from medcodi.training.ema import Ema
from medcodi.training.execution import attention_kernels, choose_attention
from medcodi.training.optimizer import build_optimizer, learning_rate, trained_parameters

TARGET = "frontal"
DIRECTIONS = [Direction.parse(text) for text in ("report->frontal", "lateral+report->frontal")]
MOMENTS_OF_RATE = 1000  # the learning rate follows the share of the seconds that is spent, in thousandths


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice: what differs from the baseline."""

    what: str
    model: Mapping[str, Any] = field(default_factory=dict)  # keys of the model's config
    options: Mapping[str, Any] = field(default_factory=dict)  # of stage diffuse
    tower_weight: float | None = None  # of an image autoencoder that is trained on first; None: the demo's as it is
    chunks: int = 1  # of phantoms

    @property
    def comparable(self) -> bool:
        """Whether its validation loss is of the same prediction in the same latent as the baseline's."""
        return "schedule" not in self.model and self.tower_weight is None


ROWS = {
    "baseline": Row(what="v, uniform weights, tokens, any subset of prompts, 10,000 phantoms"),
    "min-snr": Row(what="min-SNR weights, gamma 5", options={"min_snr_gamma": 5.0}),
    "velocity": Row(what="flow matching", model={"schedule": {"prediction_type": "velocity"}}),
    "velocity-shifted": Row(
        what="flow matching, shift 3", model={"schedule": {"prediction_type": "velocity", "shift": 3.0}}
    ),
    "repa": Row(what="REPA, weight 0.5", options={"tower_weight": 0.5}),
    "longer-latent": Row(what="image autoencoder trained on, the control of structured-latent", tower_weight=0.0),
    "structured-latent": Row(what="image autoencoder trained on, its latent held to the tower (0.1)", tower_weight=0.1),
    "more-phantoms": Row(what="three times the phantoms", chunks=3),
    "pooled": Row(what="pooled context", model={"context": "pooled"}),
    "pooled-shifted": Row(
        what="pooled context, flow matching, shift 3",
        model={"context": "pooled", "schedule": {"prediction_type": "velocity", "shift": 3.0}},
    ),
    "pooled-shifted-repa": Row(
        what="the same with REPA, weight 0.5",
        model={"context": "pooled", "schedule": {"prediction_type": "velocity", "shift": 3.0}},
        options={"tower_weight": 0.5},
    ),
    "single-prompt": Row(what="at most one prompt in training", options={"most_prompts": 1}),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rows share."""

    seconds: float = 240.0  # CPU time of a run's training
    autoencoder_seconds: float = 240.0  # of an autoencoder that is trained on
    chunk: int = 10_000  # phantoms
    num_held_out: int = 128
    base_channels: int = 32
    batch_size: int = 32
    lr: float = 1.0e-3
    num_inference_steps: int = 20
    min_positives: int = 5  # studies with a finding, for it to count
    resamples: int = 1000


DRY = Setting(
    seconds=0.5,
    autoencoder_seconds=0.5,
    chunk=8,
    num_held_out=8,
    base_channels=16,
    batch_size=4,
    num_inference_steps=2,
    min_positives=1,
    resamples=20,
)


def phantoms(num: int, split: str, seed: int = 0) -> Any:
    """Phantoms of version 2; every chunk of a split has its own seed."""
    return DataConfig(
        source="phantom", split=split, num_studies=num, image_size=128, seed=seed, version=2, studies_per_patient=1
    ).build()


# ---- training for so many seconds --------------------------------------------------------------------------------
def train(stage: Stage, batch_of: Callable[[int], Any], seconds: float, lr: float, seed: int) -> int:
    """Train for CPU seconds, in bf16; the averaged weights stay. Returns the number of steps."""
    config = OptimizerConfig(lr=lr, warmup_steps=MOMENTS_OF_RATE // 50, min_lr_ratio=0.02)
    optimizer, parameters = build_optimizer(stage, config), trained_parameters(stage)
    ema = Ema(parameters, EmaConfig(decay=0.99))
    stage.train()
    choose_attention(stage, "bf16", torch.device("cpu"))  # as the training loop does
    began, step = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        # The learning rate by the share of the time.
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, int(MOMENTS_OF_RATE * spent / seconds), MOMENTS_OF_RATE)
        batch = batch_of(step)
        with attention_kernels("bf16", torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
            loss = stage(batch, StepRandomness(seed=seed, step=step, samples=tuple(batch.samples))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(step)
        step += 1
    with torch.no_grad():
        for name, average in ema.average.items():
            parameters[name].copy_(average)
    stage.eval()
    return step


def encoders(row: Row, setting: Setting, work: Path) -> MedCoDi:
    """The model whose encoders and autoencoders a row uses: the demo, or with its image autoencoder trained on."""
    if row.tower_weight is None:
        return MedCoDi.from_pretrained(demo_checkpoint())
    folder = work / f"autoencoder-{row.tower_weight:g}-{setting.chunk}-{setting.autoencoder_seconds:g}"
    if not folder.is_dir():
        model, films = MedCoDi.from_pretrained(demo_checkpoint()), phantoms(setting.chunk, "train")
        options = {"kl_weight": 1.0e-5, "hard_weight": 0.25, "tower_weight": row.tower_weight}
        stage = AutoencodeStage(model, AutoencodeConfig(kinds=("image",), **options))

        def batch_of(step: int, size: int = 4) -> Any:
            places = [(step * size + place) % len(films) for place in range(size)]
            return collate([read_study(films, place) for place in places], places, films.image_size)

        train(stage, batch_of, setting.autoencoder_seconds, 3e-4, seed=0)
        # The scale of the latents, from studies that it was trained on.
        stage.finish(batch_of(place, 8) for place in range(min(32, max(1, setting.chunk // 8))))
        model.files = None  # its weights are no longer those of the demo's files
        model.save_pretrained(folder)
    return MedCoDi.from_pretrained(folder)


def encoded(model: MedCoDi, dataset: Any, split: str, work: Path) -> EncodedStudies:
    """Its latents and prompts, from the cache of this model, or encoded now."""
    key = cache_key(model, dataset, split=split, precision="bf16")
    folder = work / "cache" / f"{key.weights[:12]}-{dataset.fingerprint[:12]}"
    tell = lambda done, total: print(f"encoded {done:,} of {total:,} studies", flush=True)  # noqa: E731
    return make_cache(model, dataset, folder, key, on_progress=tell)


def fresh_model(row: Row, setting: Setting, source: MedCoDi, seed: int) -> MedCoDi:
    """A model with the encoders and autoencoders of ``source``, and fresh denoisers."""
    values = to_dict(source.config)
    for key, value in {"image_denoiser": {"base_channels": setting.base_channels}, **row.model}.items():
        values[key] = {**values[key], **value} if isinstance(value, Mapping) else value
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MedCoDi(from_dict(ModelConfig, values), source.tokenizers)
    model.prompt_encoders.load_state_dict(source.prompt_encoders.state_dict())
    model.autoencoders.load_state_dict(source.autoencoders.state_dict())
    model.trained_stages = ("autoencode", "align")
    return model.eval()


# ---- one run -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Judge:
    """The held-out studies and the classifier."""

    held: HeldOutStudies
    classifier: FindingClassifier

    def read(self, films: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Labels ``[N, 14]`` by the classifier at its thresholds, NaN where it is no judge; features ``[N, D]``."""
        classifier = self.classifier
        probabilities, features = classifier.predict([np.asarray(film) for film in films], TARGET)
        thresholds = classifier.thresholds[classifier.view(TARGET)].cpu().numpy()
        targets, judged = classifier.config.targets, classifier.judged(TARGET)
        return findings_from_probabilities(targets, thresholds, judged, probabilities)[0], features

    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`read`, of the real films."""
        return self.read(self.held.values(TARGET, range(len(self.held))))


def run(name: str, seed: int, setting: Setting, judge: Judge, work: Path) -> dict[str, Any]:
    """Train and judge one row with one seed."""
    # Encode the studies, or read them.
    row = ROWS[name]
    source = encoders(row, setting, work)
    chunks = [encoded(source, phantoms(setting.chunk, "train", chunk), "train", work) for chunk in range(row.chunks)]
    held_out = encoded(source, phantoms(setting.num_held_out, "test"), "test", work)

    # Train a fresh denoiser on batches of one chunk each.
    model = fresh_model(row, setting, source, seed)
    stage = DiffuseStage(model, DiffuseConfig(targets=(TARGET,), **row.options))

    def batch_of(step: int) -> Any:
        rng = numpy_generator("ablation", seed, step)
        studies = chunks[int(rng.integers(len(chunks)))]
        return studies.read_batch([int(each) for each in rng.choice(len(studies), setting.batch_size, replace=False)])

    steps = train(stage, batch_of, setting.seconds, setting.lr, seed)

    # The loss on held-out studies, without the weights of the training.
    batch = held_out.read_batch(range(len(held_out)))
    draws = ValidationRandomness(seed=0, step=0, samples=batch.samples, positions=tuple(range(len(batch))))
    with torch.no_grad():
        loss = float(stage(batch, draws).logs[f"loss/{TARGET}"])

    # Generate and read, 32 studies at a time.
    sampling = GenerationConfig(num_inference_steps=setting.num_inference_steps)
    real_features, result = judge.real()[1], {}
    for direction in DIRECTIONS:
        films: list[Any] = []
        for start in range(0, len(judge.held), 32):
            places = list(range(start, min(start + 32, len(judge.held))))
            films += generate_studies(model, direction, judge.held, places, sampling, seed)[TARGET]
        labels, features = judge.read(films)
        enough = len(features) > features.shape[1]
        moments = [Moments.of(values, np.ones(len(values))) for values in (features, real_features)] if enough else []
        result[str(direction)] = {
            "labels": [[None if np.isnan(label) else int(label) for label in each] for each in labels],
            "frechet": round(float(frechet_distance(*moments, strict=False)), 3) if moments else None,
        }
    return {"row": name, "seed": seed, "steps": steps, "validation_loss": loss, "directions": result}


# ---- the table -----------------------------------------------------------------------------------------------------
def macro_f1(truth: np.ndarray, labels: Sequence[np.ndarray], columns: Sequence[int]) -> Statistic:
    """Macro F1 over findings, the mean over seeds."""
    parts = [Confusion.of(truth[:, columns], each[:, columns]).macro_f1() for each in labels]
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)


def table(runs: Sequence[Mapping[str, Any]], setting: Setting, judge: Judge) -> dict[str, Any]:
    """Figures of each row, over its seeds; differences are paired by patient with the baseline's."""
    weights = resampling_weights(judge.held.patients, setting.resamples, 0)
    real, truth = judge.real()[0], judge.held.truth
    columns = counted_findings(truth, ~np.isnan(real).any(0), setting.min_positives)

    def statistic(name: str, direction: Direction) -> Statistic | None:
        labels = [
            np.array(each["directions"][str(direction)]["labels"], np.float32) for each in runs if each["row"] == name
        ]
        return macro_f1(truth, labels, columns) if labels else None

    rows = []
    for name in dict.fromkeys(each["row"] for each in runs):
        own = [each for each in runs if each["row"] == name]
        entry: dict[str, Any] = {"row": name, "what": ROWS[name].what, "seeds": [each["seed"] for each in own]}
        entry["steps"] = [each["steps"] for each in own]
        losses = [round(each["validation_loss"], 5) for each in own]
        entry["validation_loss"] = losses if ROWS[name].comparable else None
        for direction in DIRECTIONS:
            f1, reference = statistic(name, direction), statistic("baseline", direction)
            assert f1 is not None
            figures = {"finding_f1": bootstrap_interval(f1, weights).to_dict()}
            if name != "baseline" and reference is not None:
                figures["minus_baseline"] = paired_difference(f1, reference, weights).to_dict()
            figures["frechet"] = [each["directions"][str(direction)]["frechet"] for each in own]
            entry[str(direction)] = figures
        rows.append(entry)
    ceiling = float(macro_f1(truth, [real], columns)(np.ones((1, len(truth))))[0])
    return {"num_findings": len(columns), "finding_f1_of_real": round(ceiling, 4), "rows": rows}


def shown(entry: Mapping[str, Any]) -> str:
    """A row of the table in Markdown."""
    cells = [entry["row"], entry["what"], "/".join(map(str, entry["steps"]))]
    cells.append("/".join(f"{loss:.4f}" for loss in entry["validation_loss"] or []))
    for direction in DIRECTIONS:
        for key, sign in (("finding_f1", ""), ("minus_baseline", "+")):
            if figure := entry[str(direction)].get(key):
                low, value, high = (format(figure[part], f"{sign}.3f") for part in ("low", "value", "high"))
                cells.append(f"{value} ({low} to {high})")
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the table after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, help=f"CPU seconds of a run, default {Setting.seconds:g}")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ablations.json")
    parser.add_argument("--dry-run", action="store_true", help="a tiny setting, to see that every row runs")
    options = parser.parse_args(arguments)
    setting = DRY if options.dry_run else Setting()
    if options.seconds is not None:
        setting = replace(setting, seconds=options.seconds)
    torch.set_num_threads(1)

    # Runs of the same setting are read, others are made: all rows with one seed, then all with the next.
    digest = hashlib.sha256(json.dumps(asdict(setting)).encode()).hexdigest()[:8]
    runs_folder = options.work / "runs" / digest
    held = HeldOutStudies(phantoms(setting.num_held_out, "test"))
    judge = Judge(held, FindingClassifier.load(demo_checkpoint()))
    command = " ".join(["python benchmarks/ablations.py", *(sys.argv[1:] if arguments is None else arguments)])
    runs = []
    for seed in options.seeds:
        for name in options.rows:
            definition = hashlib.sha256(json.dumps(asdict(ROWS[name]), sort_keys=True).encode()).hexdigest()[:8]
            path = runs_folder / f"{name}-{definition}-{seed}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(path, run(name, seed, setting, judge, options.work), indent=None)
            runs.append(json.loads(path.read_text(encoding="utf-8")))
            result = {"command": command, "machine": machine(), "setting": asdict(setting)}
            result |= table(runs, setting, judge)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_json(options.out, result)
            print(shown(next(entry for entry in result["rows"] if entry["row"] == name)), flush=True)


if __name__ == "__main__":
    main()
