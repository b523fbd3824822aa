"""Draw docs/images/patient.png: patients in three modalities, generated together, and one of them edited.

    python tools/pictures.py

Nothing is selected: the seeds are the first ones. Needs the shipped model; takes half a minute on a CPU.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import medcodi
from medcodi.generation.result import Generation

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "patient.png"
FILM, GAP, TEXT = 192, 12, 520  # pixels
TARGETS = ["frontal", "lateral", "report"]


def row(out: Generation, says: str, report: str) -> Image.Image:
    """One patient: both films, and beside them what was given and the report."""
    strip = Image.new("L", (2 * FILM + 3 * GAP + TEXT, FILM + GAP), 255)
    for column, film in enumerate(("frontal", "lateral")):
        picture = Image.fromarray((out.images[film] * 255).round().astype("uint8"))
        strip.paste(
            picture.resize((FILM, FILM), Image.Resampling.LANCZOS), (column * (FILM + GAP) + GAP // 2, GAP // 2)
        )
    draw, left = ImageDraw.Draw(strip), 2 * (FILM + GAP) + GAP
    draw.text((left, GAP), says, fill=0, font=ImageFont.load_default(15))
    lines = textwrap.fill(report, 64)
    draw.text((left, GAP + 30), lines, fill=80, font=ImageFont.load_default(14), spacing=5)
    return strip


def main() -> None:
    """Generate, edit, draw, and write the picture."""
    prompt = "Cardiomegaly. Moderate left pleural effusion."
    asked = medcodi.generate(prompt, targets=["frontal", "lateral"], seed=0)
    patient = medcodi.generate({}, targets=TARGETS, seed=1)
    edited = medcodi.edit(
        {**{name: patient.images[name] for name in ("frontal", "lateral")}, "report": patient.report},
        "Large right pneumothorax.",
    )
    rows = [
        row(asked, "Given a report, both films:", prompt),
        row(patient, "Given nothing, films and report:", patient.report),
        row(edited, 'The same patient, edited: "Large right pneumothorax."', edited.report),
    ]
    picture = Image.new("L", (rows[0].width, sum(strip.height for strip in rows)), 255)
    for index, strip in enumerate(rows):
        picture.paste(strip, (0, index * strip.height))
    picture.save(OUT, optimize=True)


if __name__ == "__main__":
    main()
