"""Two hospitals improve one model without sharing a study: each trains an adapter with a promise, and the adapters are averaged.

    python examples/federated/two_sites.py --out runs/two-sites

The sites are phantoms of two populations, and the films of the second come from another scanner: darker, of harder contrast. Each
site sends its adapter (a file of some hundred KB) and its number of patients, nothing else. Prints the denoising loss of the base,
of each site's adapter and of their average on held-out patients of both sites, and what each site promised its patients.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from medcodi.config import from_dict
from medcodi.data.dataset import PHANTOMS_PER_SPLIT, SPLITS, open_dataset
from medcodi.data.images import save_png8
from medcodi.data.loading import collate
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources.phantom import phantom_study
from medcodi.model import MedCoDi
from medcodi.model.adapter import ADAPTER, read_adapter
from medcodi.model.merging import merge
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

GAMMA = {"a": 1.0, "b": 1.8}  # site -> exponent of its scanner's tone curve


def site_data(
    folder: Path, site: str, image_size: int, patients: int, held_out: int, gamma: float | None = None
) -> Path:
    """A prepared dataset of one site; its films never leave it. ``gamma``: of its scanner, else that of ``GAMMA``."""
    gamma = GAMMA[site] if gamma is None else gamma
    table = folder / "films" / "studies.csv"
    table.parent.mkdir(parents=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["study_id", "patient_id", "split", "frontal", "lateral", "report"])
        for split, count in (("train", patients), ("test", held_out)):
            for index in range(count):
                # A population of its own, as its scanner shows it.
                study = phantom_study(ord(site), SPLITS.index(split) * PHANTOMS_PER_SPLIT + index, image_size)
                films = {}
                for view in ("frontal", "lateral"):
                    films[view] = f"{split}{index}_{view}.png"
                    film = np.asarray(study.contents[view]) ** gamma
                    save_png8(film, table.parent / films[view], origin="phantom")
                name = f"{site}-{split}-{index}"
                rows.writerow([name, name, split, films["frontal"], films["lateral"], study.contents["report"]])
    values = {"source": "csv", "path": str(table), "out": str(folder / "data"), "image_size": image_size}
    prepare(from_dict(PrepareConfig, values))
    return folder / "data"


def site_adapter(folder: Path, base: str, data: Path, patients: int, steps: int, epsilon: float) -> Path:
    """The adapter that a site trains on its own studies; what its run's folder holds beside it stays at the site."""
    values = {
        "stage": {"name": "diffuse", "options": {"targets": ["frontal"]}},
        "init": base,
        "data": str(data),
        "out": str(folder / "run"),
        "steps": steps,
        "batch": {"global_size": max(2, patients // 4), "micro_size": 8},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "low_rank": {"rank": 4, "layers": ["attention"]},
        "privacy": {"epsilon": epsilon, "delta": 0.1 / patients, "clip": 0.1},
        "tracking": {"tensorboard": False},
    }
    return train(from_dict(TrainConfig, values)) / ADAPTER


def held_out_loss(model: MedCoDi, data: Path) -> float:
    """Mean denoising loss of the frontal film over a site's held-out studies, from the same draws for every model."""
    dataset = open_dataset(data, "test")
    model.trained_stages = ("autoencode", "align", "diffuse")
    stage = build_stage("diffuse", model, {"targets": ["frontal"]}).eval()
    samples = tuple(range(len(dataset)))
    batch = collate([dataset[sample] for sample in samples], samples, dataset.image_size)
    with torch.no_grad():
        draws = [StepRandomness(seed=0, step=step, samples=samples) for step in range(4)]
        losses = [stage.study_losses(stage.study_inputs(batch, each)) for each in draws]
    return float(torch.stack(losses).mean())


def main(out: Path, base: str, patients: int, held_out: int, steps: int, epsilon: float) -> dict:
    """Train at both sites, merge, and compare."""
    image_size = MedCoDi.from_pretrained(base, lazy=True).config.image_size
    data, adapters, promises = {}, {}, {}
    for site in GAMMA:
        data[site] = site_data(out / site, site, image_size, patients, held_out)
        adapters[site] = site_adapter(out / site, base, data[site], patients, steps, epsilon)
        promises[site] = read_adapter(adapters[site]).training["privacy"]

    # The coordinator has the adapters and the numbers of patients.
    together = merge(list(adapters.values()), base=base, weights=[patients] * len(adapters))
    together.save_pretrained(out / "model")
    models = {"base": MedCoDi.from_pretrained(base), "average": together}
    models |= {f"adapter of site {site}": merge([adapter], base=base) for site, adapter in adapters.items()}
    losses = {name: {site: held_out_loss(model, data[site]) for site in data} for name, model in models.items()}

    # Print what came of it.
    for name, by_site in losses.items():
        print(f"{name:20}", *(f"site {site}: {loss:.4f}" for site, loss in by_site.items()))
    for site, promise in promises.items():
        print(f"site {site} promises: epsilon {promise['epsilon']:.3g} at delta {promise['delta']:.2g}")
    results = {"losses": losses, "promises": promises}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/two-sites"), help="a new folder")
    parser.add_argument("--base", default="demo", help="the public model that both sites start from")
    parser.add_argument("--patients", type=int, default=200, help="of each site, for training")
    parser.add_argument("--held-out", type=int, default=32, help="patients of each site, for the comparison")
    parser.add_argument("--steps", type=int, default=50, help="of each site's run")
    parser.add_argument("--epsilon", type=float, default=8.0, help="what each run may spend")
    main(**vars(parser.parse_args()))
