"""Generated studies in tables and folders."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

from medcodi.data.images import save_png8
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import DataError, PromptError
from medcodi.generation.watermark import embed
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.bundle.key import read_key
from medcodi.turing.bundle.payloads import read_payload
from medcodi.turing.design.config import SamplingConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from medcodi.turing.lint.files import embedded_metadata
from medcodi.xmp import GENERATED, Mark
from tests.unit.turing.arms import tiny_study


def test_folders_as_generate_writes_them_are_read_and_paired(tmp_path: Path) -> None:
    for index in (20000000, 20000001, 20000002):
        for sample in ("0", "1"):
            folder = tmp_path / "made" / f"phantom-0-{index:07d}" / sample
            folder.mkdir(parents=True)
            save_png8(phantom_study(1, index, 64).images["frontal"], folder / "frontal.png")
    study = tiny_study(num_items=3)
    made = open_generated(str(tmp_path / "made"), study.sampling, 0)
    export_bundle(study, open_real("phantom", num_phantoms=6, image_size=64), made, tmp_path / "out")
    arms: dict[str, set[str]] = {"real": set(), "generated": set()}
    for item in read_key(tmp_path / "out" / "custodian").items.values():
        arms[item["arm"]].add(item["case"])
    assert arms["real"] == arms["generated"] and len(arms["real"]) == 3


def test_films_with_a_watermark_are_refused_and_metadata_do_not_reach_a_reader(tmp_path: Path) -> None:
    real, study = open_real("phantom", num_phantoms=4, image_size=64), tiny_study(num_items=2)
    for index in (20000000, 20000001):
        film = phantom_study(1, index, 64).images["frontal"]
        for name, image in (("plain", film), ("watermarked", embed(film))):
            folder = tmp_path / name / f"phantom-0-{index:07d}"
            folder.mkdir(parents=True)
            save_png8(image, folder / "frontal.png", origin="synthetic", xmp=Mark(source_type=GENERATED).packet())
    # Payloads are PNG files made from pixels alone; the lint finds no chunk in them.
    export_bundle(study, real, open_generated(str(tmp_path / "plain"), study.sampling, 0), tmp_path / "out")
    payloads = [read_payload(path) for path in sorted((tmp_path / "out").rglob("payloads/*.js"))]
    images = [payload for payload in payloads if payload.fields["kind"] == "image"]
    assert images and not any(list(embedded_metadata(payload.data)) for payload in images)
    assert len({path.stat().st_size for path in (tmp_path / "out").rglob("payloads/*.js")}) == 1
    marked = open_generated(str(tmp_path / "watermarked"), study.sampling, 0)
    with pytest.raises(DataError, match="2 of 2 generated films in watermarked carry the watermark"):
        export_bundle(study, real, marked, tmp_path / "refused")
    with pytest.raises(PromptError, match="the sampling of a reader study has a watermark"):
        open_generated("demo", SamplingConfig(watermark=True), 0)


def test_a_generated_image_that_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("study_id,frontal\nx,x.png\n")
    with pytest.raises(DataError, match=r"line 2: there is no frontal at 'x.png'"):
        open_generated(str(tmp_path), SamplingConfig(), 0)


def test_generated_studies_without_ids_or_twice_are_refused(tmp_path: Path) -> None:
    for rows, said in (
        ("name\nx\n", "has name. Expected columns study_id; "),
        ("study_id,report\nx,a\nx,b\n", "line 3: study_id 'x'"),
    ):
        (tmp_path / "results.csv").write_text(rows)
        with pytest.raises(DataError, match=said):
            open_generated(str(tmp_path), SamplingConfig(), 0)
    shutil.rmtree(tmp_path)
    os.mkdir(tmp_path)  # noqa: PTH102
    with pytest.raises(DataError, match="holds no generated studies"):
        open_generated(str(tmp_path), SamplingConfig(), 0)


def test_the_manifest_may_name_text_files(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("Clear lungs.")
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["study_id", "report"], ["a", "r.txt"], ["b", "No effusion."]])
    made = open_generated(str(tmp_path), SamplingConfig(), 0)
    study = tiny_study(modalities=["report"])
    done = export_bundle(study, open_real("phantom", num_phantoms=4, image_size=32), made, tmp_path / "out")
    assert done.num_images == 0 and done.native_size is None
