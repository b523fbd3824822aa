"""The work folder of an export: locked, and with the samples that an interrupted export has generated already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medcodi.errors import DataError, MedCoDiError
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind, file_row
from medcodi.study import Direction
from medcodi.turing.bundle.files import check_empty
from medcodi.turing.design.generated_arm import GeneratedContents

EXPORT = JobKind(
    name="an unfinished export of a reader study",
    index_file="export.json",
    record_file="{shard}/record.json",
    staging_name=".{target}.partial",
    error=DataError,
    fix="remove it, or choose another --out",
)


@contextmanager
def opened(out: str | Path, identity: dict[str, Any]) -> Iterator[JobFolder]:
    """The work folder of an export; its content becomes ``out`` when the body ends. A refusal leaves nothing behind."""
    job = JobFolder.beside(check_empty(out), EXPORT, identity)
    with job.opened(restart=True):
        try:
            with atomic.refusing(job.target, error=DataError):
                # Of an interrupted export only the samples are used: the bundle has another salt, and other bytes.
                atomic.remove(job.content)
                job.content.mkdir()
                yield job
                job.publish()
        except MedCoDiError:
            job.clear()
            raise


def stored_samples(job: JobFolder, name: str, make: Callable[[], GeneratedContents]) -> GeneratedContents:
    """The samples of one batch: those that an interrupted export stored, if they are whole; else made now, and stored."""
    path = job.place(name).parent / "samples.npz"
    if not job.verify([name]):
        with np.load(path, allow_pickle=False) as arrays:
            return {
                (case, Direction(tuple(prompts), tuple(targets))): {
                    target: array if array.dtype.kind == "f" else str(array)
                    for target in targets
                    for array in (arrays[f"{number}/{target}"],)
                }
                for number, (case, prompts, targets) in enumerate(json.loads(str(arrays["requests"])))
            }
    samples = make()

    def fill(folder: Path) -> dict[str, Any]:
        requests = [(case, direction.prompts, direction.targets) for case, direction in samples]
        arrays: dict[str, Any] = {
            f"{number}/{target}": np.asarray(value)
            for number, contents in enumerate(samples.values())
            for target, value in contents.items()
        }
        np.savez(folder / path.name, requests=np.array(json.dumps(requests)), **arrays)
        return {"files": {path.name: file_row(folder / path.name)}}

    job.write(name, fill, replace=True)
    return samples
