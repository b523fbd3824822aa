"""A copy of a bundle in which leaks are planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medcodi.turing.bundle.files import seal, zip_folder
from medcodi.turing.bundle.key import AnswerKey, read_key
from medcodi.turing.bundle.payloads import image_content, of_one_length, payload_script, read_payload
from medcodi.turing.lint.attack import lint_bundle


class Planter:
    """A copy of a bundle in which something is done to every generated payload, or to the order; sealed again as the exporter would."""

    def __init__(self, clean: Path, folder: Path) -> None:
        self.path = Path(shutil.copytree(clean, folder / "bundle", copy_function=shutil.copy2))
        self.key = read_key(self.path / "custodian")

    @property
    def readers(self) -> list[Path]:
        return sorted(path for path in (self.path / "readers").iterdir() if path.is_dir())

    def payloads(self, origin: str = "generated", modality: str = "frontal") -> list[Path]:
        return [
            self.path / "readers" / reader / "payloads" / f"{payload}.js"
            for reader, trials in self.key.trials.items()
            for trial in trials.values()
            for payload, told in trial["payloads"].items()
            if (told["origin"], told["modality"]) == (origin, modality)
        ]

    def content(self, path: Path) -> dict:
        trials = self.key.trials[path.parent.parent.name].values()
        return next(trial["payloads"][path.stem] for trial in trials if path.stem in trial["payloads"])

    def change_images(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.write_images({path: change(read_payload(path).image) for path in self.payloads()})

    def write_images(self, images: dict[Path, np.ndarray]) -> None:
        """Write these, and all others again, so that all images have one length as the exporter gives them."""
        for path in [path for reader in self.readers for path in (reader / "payloads").iterdir()]:
            payload = read_payload(path)
            if payload.fields["kind"] == "image":
                images.setdefault(path, payload.image)
        contents = of_one_length([image_content(image, 8) for image in images.values()])
        for path, content in zip(images, contents, strict=True):
            path.write_bytes(payload_script(path.stem, content))

    def seal(self, *, times: bool = True) -> Path:
        for reader in self.readers:
            if times:
                seal(reader)
            zip_folder(reader)
        return self.path

    def found(self, *, times: bool = True, key: bool = True) -> set[str]:
        path = self.seal(times=times)
        return {leak.probe for leak in lint_bundle(path, path / "custodian" if key else None).leaks}

    def replace_key(self, values: dict) -> None:
        key = AnswerKey(values)
        key.save(self.path / "custodian")
        facts = json.loads((self.path / "bundle.json").read_text())
        (self.path / "bundle.json").write_text(json.dumps({**facts, "key_sha256": key.sha256}))
