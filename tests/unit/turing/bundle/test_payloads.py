"""Payloads: pixels and texts come back, all of a kind have one length, and what is no payload is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.turing.bundle.payloads import image_content, of_one_length, payload_script, read_payload, text_content

PNG = base64.b64decode(json.loads(image_content(np.zeros((31, 17), np.uint16), 8))["data"])


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(payload_script(path.stem, content))
    return path


@pytest.mark.parametrize("bits", [6, 8, 10, 16])
def test_an_image_comes_back_in_its_levels(tmp_path: Path, bits: int) -> None:
    levels = np.random.default_rng(0).integers(0, 2**bits, (31, 17))
    image = np.rint(levels * (65535 / (2**bits - 1))).astype(np.uint16)
    path = written(tmp_path / "a.js", image_content(image, bits))
    payload = read_payload(path)
    assert payload.pid == "a" and np.array_equal(payload.image, image)


def test_all_payloads_of_a_kind_have_one_length(tmp_path: Path) -> None:
    flat, noisy = np.zeros((64, 64), np.uint16), np.random.default_rng(0).integers(0, 65536, (64, 64), np.uint16)
    contents = of_one_length([image_content(image, 8) for image in (flat, noisy)])
    paths = [written(tmp_path / f"{name}.js", content) for name, content in zip("ab", contents, strict=True)]
    assert len({path.stat().st_size for path in paths}) == 1 and not read_payload(paths[0]).image.any()
    # Half of what 16 bits take, even for noise, which has no shorter form.
    assert paths[0].stat().st_size < 0.55 * 64 * 64 * 2 * 4 / 3
    texts = {"x": "Clear.", "y": "Größe: 5 cm."}
    first, second = (written(tmp_path / f"{name}.js", text_content(text, 64)) for name, text in texts.items())
    assert first.stat().st_size == second.stat().st_size
    assert read_payload(second).text == "Größe: 5 cm."


def test_an_image_of_the_version_before_is_read(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (5, 7), np.uint16)
    data = base64.b64encode(image.astype("<u2").tobytes()).decode()
    content = f'{{"kind":"image","width":7,"height":5,"bits":16,"data":"{data}"}}'
    assert np.array_equal(read_payload(written(tmp_path / "a.js", content.encode())).image, image)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MEDCODI_PAYLOAD(1)",
        'MEDCODI_PAYLOAD("a", {"kind":"text"});',
        'X=1;MEDCODI_PAYLOAD("a", {});',
        'MEDCODI_PAYLOAD("a", {"kind":"text","data":"?"});',
    ],
)
def test_what_is_no_payload_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text(text)
    with pytest.raises(DataError, match=r"a\.js (is not a payload|cannot be read)"):
        read_payload(tmp_path / "a.js")


@pytest.mark.parametrize("change", [{"width": 18}, {"bits": 9}, {"height": None}, {"data": base64.b64encode(PNG[:45])}])
def test_a_damaged_image_is_refused(change: dict, tmp_path: Path) -> None:
    fields = {"kind": "image", "width": 17, "height": 31, "bits": 8, "data": base64.b64encode(PNG)} | change
    text = json.dumps({**fields, "data": fields["data"].decode()})
    with pytest.raises(DataError, match="payload a is no grey image of the size it states"):
        _ = read_payload(written(tmp_path / "a.js", text.encode())).image
