"""How long a bundle of 100 items at 512 x 512 takes to export, and how large an image and a reader's archive are.

    python benchmarks/turing_export.py [number of repeats] [number of clean bundles]

Writes benchmarks/results/turing_export.json. Both arms are files, as they are in a real study: 50 phantoms prepared as a dataset at 512 pixels,
and 50 others as 8-bit PNGs; drawing them, and training or running a model, is not timed. Arms are opened, items chosen, images blinded,
a reader's folder and its zip written. Then the lint is run on clean bundles, whose arms are phantoms of one kind, each with cases, order and
ids of its own: how often does it raise a false alarm?
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL

from medcodi.config import from_dict
from medcodi.data.images import save_png8
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources.phantom import phantom_study
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from medcodi.turing.lint.attack import lint_bundle

PER_ARM, SIDE, READERS = 50, 512, 1


def make_arms(folder: Path) -> None:
    options = {"num_studies": 0, "test": PER_ARM}
    values = {"source": "phantom", "out": str(folder / "real"), "image_size": SIDE, "options": options}
    prepare(from_dict(PrepareConfig, values))
    (folder / "generated").mkdir()
    with (folder / "generated" / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "frontal"])
        for index in range(PER_ARM):
            save_png8(phantom_study(7, index, SIDE).images["frontal"], folder / "generated" / f"{index}.png")
            writer.writerow([f"made-{index}", f"{index}.png"])


def false_alarms(folder: Path, num: int) -> dict[str, object]:
    """Lint clean bundles: 2 readers, 20 frontals and 10 reports of each arm, shown at 128 pixels."""
    pool = 120
    values = {
        "source": "phantom",
        "out": str(folder / "pool"),
        "image_size": 128,
        "options": {"num_studies": 0, "test": pool},
    }
    prepare(from_dict(PrepareConfig, values))
    (folder / "made").mkdir()
    with (folder / "made" / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "frontal", "report"])
        for index in range(pool):
            study = phantom_study(7, index, 128)
            save_png8(study.images["frontal"], folder / "made" / f"{index}.png")
            writer.writerow([f"made-{index}", f"{index}.png", study.report])
    tasks = [
        {"id": "frontal", "kind": "rating", "modalities": ["frontal"], "num_items": 20, "repeats": 4},
        {"id": "report", "kind": "rating", "modalities": ["report"], "num_items": 10},
    ]
    leaks: list[str] = []
    alarms = 0
    for seed in range(num):
        values = {"name": "clean", "title": "Reading", "tasks": tasks, "readers": 2, "image_size": 128, "seed": seed}
        study = from_dict(ReaderStudyConfig, {**values, "blinding": {"crop": "none"}})
        out = folder / f"clean-{seed}"
        made = open_generated(str(folder / "made"), study.sampling, 0)
        export_bundle(study, open_real(str(folder / "pool")), made, out, salt=f"clean {seed}")
        found = lint_bundle(out, out / "custodian").leaks
        alarms += bool(found)
        leaks += [f"{leak.probe}: {leak.detail}" for leak in found]
        shutil.rmtree(out)
    return {"clean_bundles": num, "with_an_alarm": alarms, "alarms": leaks}


def main() -> None:
    """Export several times, print and keep the figures."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    num_clean = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    task = {"id": "frontal", "kind": "rating", "modalities": ["frontal"], "num_items": PER_ARM}
    values = {"name": "speed", "title": "Reading", "tasks": [task], "readers": READERS, "image_size": SIDE}
    study = from_dict(ReaderStudyConfig, {**values, "blinding": {"crop": "none"}})
    wall, cpu, sizes = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_arms(folder)
        for repeat in range(repeats):
            start = time.perf_counter(), time.process_time()
            real = open_real(str(folder / "real"))
            made = open_generated(str(folder / "generated"), study.sampling, 0)
            done = export_bundle(study, real, made, folder / f"bundle-{repeat}")
            wall.append(time.perf_counter() - start[0])
            cpu.append(time.process_time() - start[1])
            payloads = list((done.folder / "readers" / "reader-01" / "payloads").iterdir())
            sizes.append(max(path.stat().st_size for path in payloads) / 1e6)
        archive = (done.folder / "readers" / "reader-01.zip").stat().st_size / 1e6
        start = time.perf_counter(), time.process_time()
        report = lint_bundle(done.folder, done.folder / "custodian")
        lint = {
            "wall_s": time.perf_counter() - start[0],
            "cpu_s": time.process_time() - start[1],
            "leaks": len(report.leaks),
        }
        alarms = false_alarms(folder, num_clean)
    result = {
        "what": f"medcodi turing export, {2 * PER_ARM} items of {SIDE} x {SIDE}, {READERS} reader",
        "command": f"python benchmarks/turing_export.py {repeats} {num_clean}",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average_at_end": [round(value, 1) for value in os.getloadavg()],
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "items": done.num_items,
        "repeats": repeats,
        "export_wall_s": {"median": statistics.median(wall), "min": min(wall), "max": max(wall)},
        "export_cpu_s": {"median": statistics.median(cpu), "min": min(cpu), "max": max(cpu)},
        "image_mb": max(sizes),
        "archive_mb": archive,
        "lint": lint,
        "lint_false_alarms": alarms,
    }
    out = Path(__file__).parent / "results" / "turing_export.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
