"""Importing a checkpoint in the published layout: seconds and memory, on files of zeros of the released shapes.

    python benchmarks/import_xgem.py                  the golden test's size, 0.2 GB
    python benchmarks/import_xgem.py --size full      the released size: reads 20 GB of zeros that take no disk, writes 20 GB

Writes benchmarks/results/import_xgem.json. The peer is plain copying: the bytes of the result read, hashed and written once
more, without a look at them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import os
import platform
import resource
import shutil
import struct
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from medcodi.interop.xgem import DTYPES, import_xgem
from medcodi.interop.xgem_layout import LayoutConfig

ROOT = Path(__file__).parents[1]
GOLDEN, RESULT = ROOT / "tests/golden/xgem", ROOT / "benchmarks/results/import_xgem.json"
SIZES = {"g32": GOLDEN / "g32/keys.csv", "full": GOLDEN / "keys_full.csv.gz"}
G32 = LayoutConfig(text_heads=4, image_heads=4, report_heads=4, decoder_heads=4, image_size=128)
UNTOLD = {"g32": G32, "full": LayoutConfig()}


def fabricate(keys: Path, path: Path) -> int:
    """A safetensors file of these shapes: holes, but for the buffers that an import checks; its length in bytes."""
    content = keys.read_bytes()
    text = (gzip.decompress(content) if keys.suffix == ".gz" else content).decode()
    header, written, start = {}, {}, 0
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    schedule = {"betas": betas, "alphas_cumprod": np.cumprod(1 - betas)}
    for row in csv.DictReader(text.splitlines()):
        key, shape = row["key"], [int(side) for side in row["shape"].split("x") if side]
        is_number = row["dtype"] == "int64"
        end = start + int(np.prod(shape, dtype=np.int64)) * (8 if is_number else 4)
        header[key] = {"dtype": "I64" if is_number else "F32", "shape": shape, "data_offsets": [start, end]}
        if key in schedule:
            written[start] = schedule[key].astype(np.float32)
        elif is_number:
            written[start] = np.arange(shape[-1], dtype=np.int64)
        elif key.endswith(".attn.bias"):
            written[start] = np.tril(np.ones(shape, np.float32))
        start = end
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for offset, values in written.items():
            file.seek(8 + len(head) + offset)
            file.write(values.tobytes())
        file.truncate(8 + len(head) + start)
    return path.stat().st_size


def copy_seconds(folder: Path, spare: Path) -> float:
    """Seconds to read, hash and write the components again, one after the other."""
    started = time.perf_counter()
    for path in sorted(folder.glob("*.safetensors")):
        digest = hashlib.sha256()
        with path.open("rb") as source, spare.open("wb") as target:
            while piece := source.read(2**24):
                digest.update(piece)
                target.write(piece)
        spare.unlink()
    return time.perf_counter() - started


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: str, dtype: str, work: Path) -> dict:
    source = work / "published.safetensors"
    source_bytes = fabricate(SIZES[size], source)
    before, started, last = peak(), time.perf_counter(), time.perf_counter()
    seconds: dict[str, float] = {}

    def on_component(name: str, done: int, total: int, was_there: bool) -> None:
        nonlocal last
        seconds[name], last = time.perf_counter() - last, time.perf_counter()
        print(f"  {name:20} {seconds[name]:7.1f} s   peak {peak() / 2**20:8.0f} MiB", flush=True)

    done = import_xgem(source, work / "model", dtype=dtype, layout=UNTOLD[size], on_component=on_component)
    whole = time.perf_counter() - started
    after = peak()
    sizes = {path.stem: path.stat().st_size for path in done.folder.glob("*.safetensors")}
    copied = copy_seconds(done.folder, work / "copy")
    largest = max(sizes.values())
    return {
        "dtype": dtype,
        "keys": done.counts,
        "source_bytes": source_bytes,
        "written_bytes": sum(sizes.values()),
        "largest_component_bytes": largest,
        "seconds": round(whole, 1),
        "seconds_of_copying": round(copied, 1),
        "times_copying": round(whole / copied, 2),
        "peak_rss_bytes": after,
        "rss_before_bytes": before,
        "peak_over_largest_component": round(after / largest, 3),
        "grown_over_largest_component": round((after - before) / largest, 3),
        "machine": {
            "cpus": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="g32")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--work", type=Path, help="where the files lie while it runs; default: the system's temporary folder"
    )
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="import-xgem-", dir=options.work))
    try:
        found = measure(options.size, options.dtype, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    results[f"{options.size} {options.dtype}"] = found
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({"benchmark": "import_xgem", "size": options.size, **found}))


if __name__ == "__main__":
    main()
