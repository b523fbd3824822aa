"""The price of a promise: finding F1 of the demo model on another scanner's films, after full, low-rank and private fine-tuning.

    python benchmarks/private.py [--patients 1000] [--steps 200] [--batch 64] [--test 256] [--gamma 0.4] [--work runs/private-benchmark]

The site is phantoms of another population (examples/federated/two_sites.py), whose scanner shows them far too bright, so that the
demo describes its films worse than its own. Every way of training changes the denoiser of reports alone, on the same studies, for
the same number of steps. Scored: macro F1 of findings in reports generated from held-out frontals, as the labeler reads them.
What is in ``--work`` is used again. Writes benchmarks/results/private.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch is imported
    os.environ.setdefault(name, "1")

from measuring import machine, report  # noqa: E402

from medcodi.config import from_dict  # noqa: E402
from medcodi.evaluation import EvaluateConfig, evaluate  # noqa: E402
from medcodi.model import MedCoDi  # noqa: E402
from medcodi.model.adapter import ADAPTER, read_adapter  # noqa: E402
from medcodi.model.merging import merge  # noqa: E402
from medcodi.training.config import TrainConfig  # noqa: E402
from medcodi.training.loop import train  # noqa: E402

DIRECTION = "frontal->report"


def rate(value: float, **more: float) -> dict[str, Any]:
    """An optimiser of this learning rate."""
    return {"optimizer": {"lr": value, "warmup_steps": 5, **more}}


def low_rank(value: float) -> dict[str, Any]:
    """Low-rank training at this learning rate."""
    return {"low_rank": {"rank": 8, "layers": ["attention"]}, **rate(value, weight_decay=0.0)}


def promise(**values: float) -> dict[str, Any]:
    """Private low-rank training."""
    return {**low_rank(1e-3), "privacy": {"delta": 1e-4, "clip": 0.1, **values}}


WAYS: dict[str, dict[str, Any] | None] = {
    "demo as it is": None,
    "full, rate 1e-4": rate(1e-4),
    "full, rate 3e-4": rate(3e-4),
    "low rank, rate 1e-3": low_rank(1e-3),
    "low rank, rate 3e-3": low_rank(3e-3),
    "private, epsilon ∞": promise(noise=0.0),
    "private, epsilon 8": promise(epsilon=8.0),
}


def site_data(work: Path, patients: int, test: int, gamma: float) -> Path:
    """The site's prepared studies."""
    path = Path(__file__).resolve().parents[1] / "examples/federated/two_sites.py"
    spec = importlib.util.spec_from_file_location("two_sites", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = work / "site/data"
    return data if data.exists() else module.site_data(work / "site", "b", 128, patients, test, gamma)


def fine_tuned(
    work: Path, way: str, values: dict[str, Any] | None, data: Path, steps: int, batch: int
) -> tuple[Path, dict[str, Any]]:
    """The model folder of one way of training, and what is known of its run."""
    folder = work / way.replace(" ", "-").replace(",", "")
    if values is None:
        return Path(MedCoDi.from_pretrained("demo", lazy=True).save_pretrained(folder / "model")), {}
    started = time.process_time()
    run = {
        "stage": {"name": "diffuse", "options": {"targets": ["report"]}},
        "init": "demo",
        "data": str(data),
        "out": str(folder / "run"),
        "steps": steps,
        "batch": {"global_size": batch, "micro_size": 16},
        "ema": {"decay": 0.9},
        "cache": str(work / "cache"),
        "tracking": {"tensorboard": False, "mfu": False},
        **values,
    }
    if not (folder / "run/model").exists() and not (folder / "run" / ADAPTER).exists():
        train(from_dict(TrainConfig, run), resume="latest")
        seconds = {"training_cpu_seconds": round(time.process_time() - started, 1)}
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    facts: dict[str, Any] = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    if "low_rank" not in values:
        return folder / "run/model", facts
    adapter = read_adapter(folder / "run" / ADAPTER)
    whole = MedCoDi.from_pretrained("demo").denoisers["report"]
    facts["share_of_weights"] = round(adapter.num_parameters / sum(p.numel() for p in whole.parameters()), 4)
    facts["promise"] = adapter.training.get("privacy")
    if not (folder / "merged").exists():
        merge([folder / "run" / ADAPTER], base="demo").save_pretrained(folder / "merged")
    return folder / "merged", facts


def finding_f1(folder: Path, model: Path, data: Path, test: int) -> dict[str, Any]:
    """Macro F1 of the findings in generated reports (``model``, with its interval), and of the real ones (``ceiling``)."""
    values = {
        "model": str(model),
        "data": {"path": str(data), "split": "test"},
        "num_studies": test,
        "directions": [DIRECTION],
        "metrics": ["findings"],
        "sampler": "dpm++",
        "num_inference_steps": 10,
        "batch_size": 32,
        "bootstrap_samples": 500,
        "name": "model",
        "out": str(folder),
    }
    results = evaluate(from_dict(EvaluateConfig, values), quiet=True)
    return results["systems"]["model"]["directions"][DIRECTION]["primary"]


def main() -> None:
    """Train in every way, generate, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--gamma", type=float, default=0.4)
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("runs/private-benchmark"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    data = site_data(arguments.work, arguments.patients, arguments.test, arguments.gamma)
    rows, results = [], {}
    for way, values in WAYS.items():
        model, facts = fine_tuned(arguments.work, way, values, data, arguments.steps, arguments.batch)
        scored = arguments.work / "scores" / way.replace(" ", "-").replace(",", "")
        primary = finding_f1(scored, model, data, arguments.test)
        results[way] = {**facts, "finding_f1": primary}
        f1 = primary["model"]
        rows.append(
            [
                way,
                f"{f1['value']:.3f} [{f1['low']:.3f}, {f1['high']:.3f}]",
                f"{primary['ceiling']:.3f}",
                facts.get("share_of_weights", "–"),
            ]
        )
    setting = {name: value for name, value in vars(arguments).items() if name != "work"}
    report(
        "private",
        {"machine": machine(), "setting": setting, "ways": results},
        ["fine-tuned", "finding F1", "real reports", "of the weights"],
        rows,
    )
    shutil.rmtree(arguments.work / "cache", ignore_errors=True)


if __name__ == "__main__":
    main()
