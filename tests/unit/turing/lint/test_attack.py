"""The lint finds each of ten planted leaks and passes the clean bundle."""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from medcodi.app.cli import main
from medcodi.errors import DataError
from medcodi.turing.bundle.files import (
    FIXED_TIME,
    read_study_script,
    seal,
    study_script,
)
from medcodi.turing.bundle.key import AnswerKey
from medcodi.turing.bundle.payloads import image_content, payload_script, read_payload
from medcodi.turing.lint.attack import lint_bundle
from tests.unit.turing.planter import Planter


def test_the_clean_bundle_passes_and_everything_was_tested(bundle: Path) -> None:
    report = lint_bundle(bundle, bundle / "custodian")
    assert report.leaks == []
    probes = {one.what.split(":")[0] for one in report.tested}
    assert probes == {
        "grey offset",
        "border",
        "resolution",
        "burnt-in mark",
        "text format",
        "name",
        "payload size",
        "mtime",
        "classifier",
    }
    assert {one.what for one in report.reported} == {
        "classifier: frontal, what is seen",
        "classifier: report, what is seen",
    }
    assert json.loads(json.dumps(report.to_dict()))["clean"] is True


def test_one_readers_folder_alone_passes_without_the_key(bundle: Path) -> None:
    report = lint_bundle(bundle / "readers" / "reader-02")
    assert report.clean and "no key" in report.notes[0]


def test_leak_1_names_that_sort_by_arm(planter: Planter) -> None:
    values = json.loads(json.dumps(planter.key.values))
    for reader in planter.readers:
        study = read_study_script(reader / "study.js")
        new = {}
        for told in values["trials"][reader.name].values():
            for payload, content in list(told["payloads"].items()):
                new[payload] = ("f" if content["origin"] == "generated" else "0") + payload[1:]
                told["payloads"][new[payload]] = told["payloads"].pop(payload)
                path = reader / "payloads" / f"{payload}.js"
                script = path.read_bytes().replace(payload.encode(), new[payload].encode(), 1)
                path.unlink()
                path.with_stem(new[payload]).write_bytes(script)
        for trial in study["trials"]:
            for panel in trial["panels"]:
                panel["payload"] = new[panel["payload"]]
        (reader / "study.js").write_bytes(study_script(study))
    planter.replace_key(values)
    assert planter.found() == {"name", "classifier"}


def test_leak_2_an_order_that_shows_the_real_ones_first(planter: Planter) -> None:
    for reader in planter.readers:
        study = read_study_script(reader / "study.js")
        told = planter.key.trials[reader.name]
        tasks = [task["id"] for task in study["tasks"]]
        study["trials"].sort(
            key=lambda one: (tasks.index(one["task"]), not one["practice"], told[one["trial"]]["arm"] != "real")
        )
        for position, trial in enumerate(study["trials"]):
            trial["position"] = position
        (reader / "study.js").write_bytes(study_script(study))
    assert planter.found() == {"order"}


def test_leak_3_times_by_arm(planter: Planter) -> None:
    for reader in planter.readers:
        seal(reader)
    for path in planter.payloads():
        os.utime(path, (FIXED_TIME + 60, FIXED_TIME + 60))
    assert planter.found(times=False) == {"mtime", "classifier"}
    assert planter.found(times=False, key=False) == {"mtime"}


def test_leak_4_exif_beside_or_inside_a_payload(planter: Planter) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Generator"
    for path in planter.payloads()[:3]:
        Image.new("L", (32, 32)).save(path.with_suffix(".jpg"), exif=exif)
    assert planter.found(key=False) == {"exif", "unexpected file"}
    for path in planter.payloads()[:3]:
        path.with_suffix(".jpg").unlink()
        path.write_bytes(path.read_bytes().replace(b'"bits":8', b'"bits":8,"exif":"Generator"'))
    assert "exif" in planter.found(key=False)


def with_data(path: Path, data: bytes) -> None:
    """Exchange the data of a payload."""
    fields = {**read_payload(path).fields, "data": base64.b64encode(data).decode()}
    path.write_bytes(payload_script(path.stem, json.dumps(fields, separators=(",", ":")).encode()))


def test_leak_5_png_chunks(planter: Planter) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "sampler")
    for path in planter.payloads()[:3]:
        file = io.BytesIO()
        Image.fromarray((read_payload(path).image // 257).astype(np.uint8)).save(file, "PNG", pnginfo=info)
        with_data(path, file.getvalue())
    assert "png chunk" in planter.found(key=False)


def test_leak_5b_bytes_behind_a_png(planter: Planter) -> None:
    for path in planter.payloads()[:3]:
        with_data(path, read_payload(path).data + b"generated")
    assert "png chunk" in planter.found(key=False)


def test_leak_6_payloads_of_another_size(planter: Planter) -> None:
    for path in planter.payloads():
        path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert planter.found() == {"payload size", "classifier"}
    assert planter.found(key=False) == {"payload size"}


@pytest.mark.parametrize("offset", [300, -300])
def test_leak_7_a_grey_offset(planter: Planter, offset: int) -> None:
    planter.change_images(lambda image: np.clip(image.astype(int) + offset, 0, 65535).astype(np.uint16))
    found = planter.found()
    assert "grey offset" in found if offset > 0 else "grey offset" in planter.found(key=False)


def test_leak_8_a_border(planter: Planter) -> None:
    def framed(image: np.ndarray) -> np.ndarray:
        inner = np.full_like(image, 0)
        inner[2:-2, 2:-2] = image[2:-2, 2:-2]
        inner.flat[int(np.argmax(inner))] = 65535
        return inner

    planter.change_images(framed)
    assert {"border", "classifier"} <= planter.found()


def test_leak_9_another_resolution(planter: Planter) -> None:
    def coarser(image: np.ndarray) -> np.ndarray:
        small = Image.fromarray(image.astype(np.float32)).resize((46, 46), Image.Resampling.BICUBIC)
        back = np.clip(np.asarray(small.resize(image.shape, Image.Resampling.BICUBIC)), 0, 65535).astype(np.uint16)
        back[image == 0] = 0
        back.flat[int(np.argmax(back))] = 65535
        return back

    planter.change_images(coarser)
    assert "resolution" in planter.found()


def test_leak_9b_images_of_another_size(planter: Planter) -> None:
    for path in planter.payloads():
        content = image_content(np.ascontiguousarray(read_payload(path).image[:-8, :-8]), 8)
        path.write_bytes(payload_script(path.stem, content))
    assert {"resolution", "payload size"} <= planter.found(key=False)


@pytest.mark.parametrize("place", [(44, 6), (2, 2)])  # at the upper edge; in a corner, which the exporter masks
def test_leak_10_a_burnt_in_mark(planter: Planter, place: tuple[int, int]) -> None:
    def marked(image: np.ndarray) -> np.ndarray:
        layer = Image.new("L", image.shape)
        ImageDraw.Draw(layer).text(place, "L", fill=255)
        across, down = place
        ground = image[down : down + 10, across : across + 8].mean()
        return np.where(np.asarray(layer) > 127, 65535 if ground < 32768 else 0, image).astype(np.uint16)

    planter.change_images(marked)
    assert "burnt-in mark" in planter.found()


def test_marks_on_a_few_images_of_one_arm_are_found_too(planter: Planter) -> None:
    def marked(image: np.ndarray) -> np.ndarray:
        image = image.copy()
        image[2:9, 2:9] = 65535
        return image

    images = {}
    for path in planter.payloads():
        content = planter.content(path)
        if int(content["case"].rsplit("-", 1)[1]) % 2:
            images[path] = marked(read_payload(path).image)
    planter.write_images(images)
    report = lint_bundle(planter.seal(), planter.path / "custodian")
    assert any("stand out" in leak.detail for leak in report.leaks if leak.probe == "burnt-in mark")


def test_names_of_studies_in_the_page_are_found(planter: Planter) -> None:
    reader = planter.readers[0]
    study = read_study_script(reader / "study.js")
    study["title"] = "Case made-003"
    (reader / "study.js").write_bytes(study_script(study))
    case = next(item["case"] for item in planter.key.items.values())
    study["title"] = f"Case {case}"
    (reader / "study.js").write_bytes(study_script(study))
    assert planter.found() == {"name"}


def test_an_archive_that_differs_from_its_folder_is_found(planter: Planter) -> None:
    path = planter.seal()
    archive = path / "readers" / "reader-01.zip"
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("answers.txt", "real")
    assert {leak.probe for leak in lint_bundle(path).leaks} == {"order", "mtime", "payload size", "archive"}


def test_a_key_of_another_bundle_or_a_changed_one_is_refused(planter: Planter) -> None:
    values = dict(planter.key.values)
    with pytest.raises(DataError, match="not of this one"):
        lint_bundle(planter.path, AnswerKey({**values, "bundle_id": "another"}))
    with pytest.raises(DataError, match="not the one whose SHA-256"):
        lint_bundle(planter.path, AnswerKey({**values, "medcodi": "9"}))
    with pytest.raises(DataError, match="no key at"):
        lint_bundle(planter.path, planter.path / "readers")
    with pytest.raises(DataError, match="is no bundle"):
        lint_bundle(planter.path / "custodian")


def test_the_command_leaves_with_1_for_a_leak(
    planter: Planter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for code in (0, 1):
        with pytest.raises(SystemExit) as left:
            main(["turing", "lint", str(planter.path), "--report", str(tmp_path / "lint.json")])
        said = capfd.readouterr().out
        assert left.value.code == code, said
        assert ("LEAK mtime" in said) == bool(code)
        os.utime(planter.payloads()[0])
    assert json.loads((tmp_path / "lint.json").read_text())["clean"] is False
