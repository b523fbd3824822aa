"""DICOM -> dataset: images a second and core at 2048 x 2048, 12 bits, uncompressed, and whether memory stays constant.

    python benchmarks/prepare.py [number of images]

Writes benchmarks/results/prepare.json. One process, one thread.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from medcodi.config import from_dict
from medcodi.data.preparation.prepare import PrepareConfig, prepare

SIDE = 2048
REPEATS = 5


def write_dicom(path: Path, index: int) -> None:
    """A smooth 12-bit frontal with grain."""
    rng = np.random.default_rng(index)
    wave = np.sin(np.linspace(0, 6 + index % 5, SIDE))
    pixels = (2000 + 1500 * wave[:, None] * wave[None, :] + rng.integers(0, 64, (SIDE, SIDE))).astype("<u2")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    data.StudyInstanceUID, data.PatientID = generate_uid(), f"p{index}"
    data.Modality, data.ViewPosition, data.PhotometricInterpretation = "DX", "PA", "MONOCHROME2"
    data.Rows, data.Columns, data.SamplesPerPixel = SIDE, SIDE, 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = pixels.tobytes()
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
    )
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def main() -> None:
    """Write the files, prepare them several times, print and keep the figures."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "dicom"
        source.mkdir()
        for index in range(num):
            write_dicom(source / f"{index}.dcm", index)
        options = {"source": "dicom", "path": str(source), "out": str(Path(folder) / "out"), "overwrite": True}
        options |= {"image_size": 256, "test": 0.0, "val": 0.0}
        cpu, wall, peaks = [], [], []
        for _ in range(REPEATS + 1):  # the first warms imports and the page cache
            start = time.process_time(), time.perf_counter()
            prepare(from_dict(PrepareConfig, options))
            cpu.append(num / (time.process_time() - start[0]))
            wall.append(num / (time.perf_counter() - start[1]))
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    result = {
        "what": "medcodi data prepare, DICOM 2048 x 2048, 12 bits, uncompressed -> 256 x 256",
        "command": "python benchmarks/prepare.py " + str(num),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "N": num,
        "repeats": REPEATS,
        "images_per_second_of_cpu": {"median": statistics.median(cpu[1:]), "min": min(cpu[1:]), "max": max(cpu[1:])},
        "images_per_second_of_wall_clock": {
            "median": statistics.median(wall[1:]),
            "min": min(wall[1:]),
            "max": max(wall[1:]),
        },
        "peak_memory_mib_after_each_run": [round(peak) for peak in peaks],
    }
    out = Path(__file__).parent / "results" / "prepare.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
