"""Fit the geometry annotator on phantoms: python eval/fit_geometry.py [--version 2] [--train 800] [--held-out 200] [--out checkpoints/demo]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcodi.data.loading import DataConfig
from medcodi.errors import MedCoDiError
from medcodi.evaluation.annotators.geometry import fit_geometry
from medcodi.modality import names


def main(arguments: list[str] | None = None) -> int:
    """Parse, fit, print the R2 of each attribute. Exit code 2 for an error of the user's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--version", type=int, default=1, help="of the phantom: that of the studies that are judged")
    parser.add_argument("--out", default="checkpoints/demo")
    given = parser.parse_args(arguments)
    try:
        train, held_out = (
            DataConfig(
                source="phantom", split=split, num_studies=num, image_size=given.image_size, version=given.version
            ).build()
            for split, num in (("train", given.train), ("val", given.held_out))
        )
        reader = fit_geometry(train, held_out, names("image"))
        for name, scores in reader.r2.items():
            print(
                name,
                *(f"{attribute}: R2 {value:.2f}" for attribute, value in zip(reader.attributes, scores, strict=True)),
            )
        print(reader.save(given.out))
        return 0
    except MedCoDiError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
