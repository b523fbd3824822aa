"""Draw the pictures of README and gallery: python tools/pictures.py [patient] [findings] [evaluation], or all of them.

``patient.png``: patients in three modalities, generated together, and one of them edited. ``findings.png``: one sentence each, both films.
``evaluation.svg``: the figures of benchmarks/results/evaluation_demo.json. Nothing is selected: the seeds are the first ones. Films need
the shipped model, and half a minute each on a CPU.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

from figures import pretty
from PIL import Image, ImageDraw, ImageFont

import medcodi
from medcodi.generation.result import Generation
from medcodi.pages.bars import Range, range_chart

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/images"
FILM, GAP, TEXT = 192, 12, 520  # pixels
VIEWS = ["frontal", "lateral"]
SENTENCES = (
    "No acute findings.",
    "Cardiomegaly.",
    "Large left pleural effusion.",
    "Large right pneumothorax.",
    "Right lower lobe consolidation.",
    "Pulmonary edema.",
)


def film(out: Generation, view: str) -> Image.Image:
    """One film, enlarged."""
    picture = Image.fromarray((out.images[view] * 255).round().astype("uint8"))
    return picture.resize((FILM, FILM), Image.Resampling.LANCZOS)


def row(out: Generation, says: str, report: str) -> Image.Image:
    """One patient: both films, and beside them what was given and the report."""
    strip = Image.new("L", (2 * FILM + 3 * GAP + TEXT, FILM + GAP), 255)
    for column, view in enumerate(VIEWS):
        strip.paste(film(out, view), (column * (FILM + GAP) + GAP // 2, GAP // 2))
    draw, left = ImageDraw.Draw(strip), 2 * (FILM + GAP) + GAP
    draw.text((left, GAP), says, fill=0, font=ImageFont.load_default(15))
    lines = textwrap.fill(report, 64)
    draw.text((left, GAP + 30), lines, fill=80, font=ImageFont.load_default(14), spacing=5)
    return strip


def patient() -> None:
    """Generate from a report and from nothing, and edit."""
    prompt = "Cardiomegaly. Moderate left pleural effusion."
    asked = medcodi.generate(prompt, targets=VIEWS, seed=0)
    patient = medcodi.generate({}, targets=[*VIEWS, "report"], seed=1)
    edited = medcodi.edit(
        {**{name: patient.images[name] for name in VIEWS}, "report": patient.report}, "Large right pneumothorax."
    )
    rows = [
        row(asked, "Given a report, both films:", prompt),
        row(patient, "Given nothing, films and report:", patient.report),
        row(edited, 'The same patient, edited: "Large right pneumothorax."', edited.report),
    ]
    picture = Image.new("L", (rows[0].width, sum(strip.height for strip in rows)), 255)
    for index, strip in enumerate(rows):
        picture.paste(strip, (0, index * strip.height))
    picture.save(OUT / "patient.png", optimize=True)


def findings() -> None:
    """Both films of every sentence, three sentences in a row."""
    wide, high = 2 * FILM + 3 * GAP, FILM + 4 * GAP
    picture = Image.new("L", (3 * wide, -(-len(SENTENCES) // 3) * high), 255)
    draw = ImageDraw.Draw(picture)
    for number, sentence in enumerate(SENTENCES):
        left, top = (number % 3) * wide + GAP, (number // 3) * high + GAP // 2
        draw.text((left, top), f'"{sentence}"', fill=0, font=ImageFont.load_default(15))
        out = medcodi.generate(sentence, targets=VIEWS, seed=0)
        for column, view in enumerate(VIEWS):
            picture.paste(film(out, view), (left + column * (FILM + GAP // 2), top + 2 * GAP))
    picture.save(OUT / "findings.png", optimize=True)


def evaluation() -> None:
    """Every prompted direction between floor and ceiling, from the results file that the documents take their figures from."""
    results = json.loads((ROOT / "benchmarks/results/evaluation_demo.json").read_text(encoding="utf-8"))
    rows = []
    for direction, scores in results["systems"]["demo"]["directions"].items():
        figures = scores["primary"]
        if scores["prompts"]:
            rows.append(
                Range(
                    label=pretty(direction),
                    **figures["model"],
                    floor=figures["shuffled"]["value"],
                    ceiling=figures["ceiling"],
                    legible=figures["prompt_reader"]["value"],
                )
            )
    drawn = range_chart("Macro F1 of findings, 1,000 held-out phantoms", rows)
    # On its own, an SVG needs its name space, a margin, and a ground, because the page around it may be dark.
    head, _, shapes = drawn.partition("</title>")
    width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+?)"', head)[0])
    box = f'viewBox="{-GAP} {-GAP} {width + 2 * GAP:g} {height + 2 * GAP:g}"'
    head = re.sub(r'width="\S+" height="\S+" viewBox="[^"]+"', f'xmlns="http://www.w3.org/2000/svg" {box}', head)
    ground = f'<rect x="{-GAP}" y="{-GAP}" width="100%" height="100%" fill="#fff"/>'
    (OUT / "evaluation.svg").write_text(f"{head}</title>{ground}{shapes}\n", encoding="utf-8")


PICTURES = {"patient": patient, "findings": findings, "evaluation": evaluation}


def main(names: list[str]) -> None:
    """Draw the named pictures."""
    if unknown := set(names) - set(PICTURES):
        sys.exit(f"no picture {', '.join(sorted(unknown))}. Expected: {', '.join(PICTURES)}.")
    for name in names or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
