"""Preparation by one process and by two: images a second on phantom DICOMs of 1024 x 1024, and their ratio.

    python benchmarks/prepare_workers.py [number of files] [repeats] [phantoms]

Writes benchmarks/results/prepare_workers.json. The files are films of the thorax phantom (12 bits, uncompressed), a few
phantoms computed once, each file with grain and a fluence of its own. One process and two are timed in turn.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from medcodi.config import from_dict
from medcodi.data.preparation.prepare import PrepareConfig, prepare

SIDE = 1024
TARGET = 1.7


def write_dicom(path: Path, film: np.ndarray, view: str, index: int) -> None:
    """One film as a file; two files make a study."""
    rng = np.random.default_rng(index)
    grain = rng.integers(-16, 17, (SIDE, SIDE))
    pixels = np.clip(film * rng.uniform(3400, 4000) + grain, 0, 4095).astype("<u2")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"image {index}"])
    data.StudyInstanceUID = generate_uid(entropy_srcs=[f"study {index // 2}"])
    data.PatientID = f"p{index // 2}"
    data.Modality, data.ViewPosition, data.PhotometricInterpretation = "DX", view, "MONOCHROME2"
    data.Rows, data.Columns, data.SamplesPerPixel = SIDE, SIDE, 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def seconds(source: Path, out: Path, num_workers: int) -> float:
    """Wall clock of one preparation, starting the processes included."""
    shutil.rmtree(out, ignore_errors=True)
    values = {"source": "dicom", "path": str(source), "out": str(out), "image_size": 256, "num_workers": num_workers}
    start = time.perf_counter()
    prepare(from_dict(PrepareConfig, {**values, "val": 0.1, "test": 0.1}))
    return time.perf_counter() - start


def main() -> None:
    from medcodi.data.sources.phantom import phantom_study  # here: workers import this file, and need none of it

    num, repeats, phantoms = (*map(int, sys.argv[1:]), *(2000, 3, 20)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "dicom", Path(folder) / "out"
        source.mkdir()
        studies = [phantom_study(0, index, SIDE) for index in range(phantoms)]
        for index in range(num):
            name, view = (("frontal", "PA"), ("lateral", "LATERAL"))[index % 2]
            write_dicom(source / f"{index:05d}.dcm", studies[index // 2 % phantoms].images[name], view, index)
        del studies
        seconds(source, out, 1)  # imports and the page cache
        taken: dict[int, list[float]] = {1: [], 2: []}
        load = []
        for _ in range(repeats):
            for num_workers in taken:
                load.append(psutil.getloadavg()[0])
                taken[num_workers].append(seconds(source, out, num_workers))
    ratios = [one / two for one, two in zip(taken[1], taken[2], strict=True)]
    result = {
        "what": f"medcodi data prepare, {num} phantom DICOMs of {SIDE} x {SIDE}, 12 bits -> 256 x 256, one worker and two",
        "command": f"python benchmarks/prepare_workers.py {num} {repeats} {phantoms}",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average_before_each_run": [round(value, 1) for value in load],
        },
        "files": num,
        "phantoms": phantoms,
        "repeats": repeats,
        "seconds": {str(key): [round(value, 2) for value in values] for key, values in taken.items()},
        "files_per_second": {str(key): round(num / statistics.median(values), 1) for key, values in taken.items()},
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3),
            "max": round(max(ratios), 3),
        },
        "target": TARGET,
    }
    path = Path(__file__).parent / "results" / "prepare_workers.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
