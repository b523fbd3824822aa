from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcodi.data.image_files import is_dicom, read_image
from medcodi.data.images import fit_square, from_uint16, save_png8, save_png16, to_uint16
from medcodi.data.refusals import Refused

HEIGHT, WIDTH = 40, 48


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).random((height, width), dtype=np.float32)


def refused(value: object) -> Refused:
    with pytest.raises(Refused) as refusal:
        read_image(value)
    assert refusal.value.expected
    return refusal.value


def test_gray_png_of_8_and_of_16_bits(tmp_path: Path) -> None:
    image = picture()
    save_png8(image, tmp_path / "a.png")
    save_png16(image, tmp_path / "b.png")
    eight, sixteen = read_image(tmp_path / "a.png"), read_image(str(tmp_path / "b.png"))
    assert eight.dtype == sixteen.dtype == np.float32
    assert eight.shape == sixteen.shape == (HEIGHT, WIDTH)
    assert np.abs(eight - image).max() <= 0.5 / 255 + 1e-6
    assert np.abs(sixteen - image).max() <= 0.5 / 65535 + 1e-6
    assert len(np.unique(sixteen)) > 1000  # 16 bit are kept


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_few_bits_in_a_16_bit_file_are_not_nearly_black(tmp_path: Path, bits: int) -> None:
    image = picture()
    levels = np.round(image * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png") - levels / (2**bits - 1)).max() <= 1e-6
    save_png16(image / 20, tmp_path / "dark.png")  # ours says that all its bits are used
    assert np.abs(read_image(tmp_path / "dark.png") - image / 20).max() <= 0.5 / 65535 + 1e-6


@pytest.mark.parametrize("suffix", ["jpg", "tif", "bmp"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    smooth = np.add.outer(np.linspace(0, 0.5, HEIGHT), np.linspace(0, 0.5, WIDTH)).astype(np.float32)
    Image.fromarray((smooth * 255).astype(np.uint8)).save(tmp_path / f"x.{suffix}")
    assert np.abs(read_image(tmp_path / f"x.{suffix}") - smooth).max() < 0.03


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    save_png8(picture(), tmp_path / "scan.jpg")
    (tmp_path / "scan.jpg").rename(tmp_path / "scan")
    assert read_image(tmp_path / "scan").shape == (HEIGHT, WIDTH)


def test_colour_becomes_luminance_and_alpha_is_dropped(tmp_path: Path) -> None:
    colours = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    colours[..., 0], colours[: HEIGHT // 2, :, 1] = 255, 255
    colours[..., 3] = np.arange(WIDTH)
    expected = np.where(np.arange(HEIGHT) < HEIGHT // 2, 0.299 + 0.587, 0.299)[:, None]
    Image.fromarray(colours, "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(colours[..., :3], "RGB").save(tmp_path / "rgb.png")
    for name in ("rgba.png", "rgb.png"):
        assert np.allclose(read_image(tmp_path / name), expected, atol=1e-5)
    assert np.allclose(read_image(np.moveaxis(colours, -1, 0)), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["1", "LA", "P", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_of_pil(mode: str) -> None:
    gray = np.zeros((HEIGHT, WIDTH), np.uint8)
    gray[:, WIDTH // 2 :] = 255
    if mode in ("I", "I;16"):
        image = Image.fromarray(gray.astype(np.int32 if mode == "I" else np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(gray.astype(np.float32) / 255)
    else:
        image = Image.fromarray(gray).convert(mode)
    assert image.mode == mode
    assert np.allclose(read_image(image), gray / 255, atol=0.02)


def test_arrays_and_tensors() -> None:
    image = picture()
    for value in (image, image[None], image[..., None], image.astype(np.float64), np.stack([image] * 3)):
        assert np.allclose(read_image(value), image, atol=1e-5)
    for tensor in (torch.from_numpy(image), torch.from_numpy(image)[None].requires_grad_()):
        assert np.array_equal(read_image(tensor), image)
    assert np.allclose(read_image(torch.from_numpy(image).bfloat16()), image, atol=0.01)
    assert np.allclose(read_image(torch.from_numpy(to_uint16(image))), image, atol=1e-5)
    assert set(np.unique(read_image(image > 0.5))) == {0.0, 1.0}


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture8 = Image.fromarray((picture() * 255).astype(np.uint8))
    exif = picture8.getexif()
    exif[0x0112] = 6  # the camera was turned
    picture8.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").shape == (WIDTH, HEIGHT)


def test_dicom_is_told_by_its_magic_number_or_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "a.dcm").write_bytes(b"anything")
    (tmp_path / "b.png").write_bytes(b"anything")
    found = {path.name: is_dicom(path) for path in tmp_path.iterdir()}
    assert found == {"IM0001": True, "a.dcm": True, "b.png": False}


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        refusal = refused(path)
        assert refusal.reason == "missing file"
        assert str(path) in str(refusal)


def test_a_report_given_for_an_image_is_no_path() -> None:
    refusal = refused("The lungs are clear. " * 300)  # longer than a file name may be
    assert refusal.reason == "missing file"
    assert len(str(refusal)) < 400


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert refused(tmp_path / "empty.png").reason == "empty file"


def test_no_image_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("patient,view\n1,PA\n" * 50)
    assert refused(tmp_path / "text.png").reason == "unreadable"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_files_cut_short_are_refused_from_path_and_from_pil(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray((picture(200, 200) * 255).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refused(path).reason in ("corrupt", "unreadable")
    if suffix != "tif":  # whose directory stands at the end: Pillow cannot open it at all
        with Image.open(path) as opened:
            assert refused(opened).reason == "corrupt"


def test_a_png_with_a_flipped_byte(tmp_path: Path) -> None:
    save_png8(picture(), tmp_path / "flip.png")
    data = bytearray((tmp_path / "flip.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "flip.png").write_bytes(data)
    assert refused(tmp_path / "flip.png").reason == "corrupt"


def test_several_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray((picture() * 200 + frame).astype(np.uint8)) for frame in range(3)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    refusal = refused(tmp_path / "stack.tif")
    assert refusal.reason == "multi-frame"
    assert "3 frames" in str(refusal)


def test_too_small() -> None:
    refusal = refused(picture(9, 12))
    assert refusal.reason == "too small"
    assert "12×9" in str(refusal)
    assert read_image(picture(32, 32)).shape == (32, 32)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images(value: float) -> None:
    assert refused(np.full((HEIGHT, WIDTH), value)).reason == "constant"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(bad: float) -> None:
    image = picture()
    image[3, 4] = bad
    assert refused(image).reason == "not finite"
    assert refused(torch.from_numpy(image)).reason == "not finite"


@pytest.mark.parametrize(
    "value",
    [
        picture() * 255,
        picture() - 0.5,
        (picture() * 255).astype(np.int64),
        (picture() * 255).astype(np.int16),
        picture().astype(np.complex64),
        Image.fromarray(np.full((HEIGHT, WIDTH), -1, np.int32)),
    ],
    ids=["0..255 as float", "negative", "int64", "int16", "complex", "negative PIL"],
)
def test_values_that_are_no_gray_levels(value: object) -> None:
    assert refused(value).reason == "bad values"


@pytest.mark.parametrize("shape", [(), (40,), (0, 40), (40, 48, 2), (2, 3, 40, 48), (5, 40, 48)])
def test_shapes_that_are_no_image(shape: tuple[int, ...]) -> None:
    assert refused(np.zeros(shape, np.float32)).reason == "bad shape"


@pytest.mark.parametrize("value", [None, 3, b"\x89PNG", ["a.png"]])
def test_what_is_no_image_at_all(value: object) -> None:
    refusal = refused(value)
    assert refusal.reason == "not an image"
    assert type(value).__name__ in str(refusal)


def test_messages_name_what_was_given() -> None:
    with pytest.raises(Refused, match="the array is all of one value"):
        read_image(np.zeros((40, 40)))


@pytest.mark.parametrize(("height", "width"), [(60, 40), (40, 60), (200, 33), (64, 64), (32, 500)])
def test_fit_square_keeps_the_aspect_and_pads_with_black(height: int, width: int) -> None:
    square = fit_square(np.full((height, width), 0.75, np.float32), 64)
    assert square.shape == (64, 64)
    assert square.dtype == np.float32
    inside = square > 0
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert len(rows) == max(1, round(64 * height / max(height, width)))
    assert len(columns) == max(1, round(64 * width / max(height, width)))
    assert np.allclose(square[inside], 0.75, atol=1e-4)  # the padding does not bleed into the image
    for found in (rows, columns):
        assert abs(found[0] - (63 - found[-1])) <= 1  # centred


def test_fit_square_leaves_an_image_of_the_right_size_alone() -> None:
    image = picture(64, 64)
    assert np.array_equal(fit_square(image, 64), image)


def test_fit_square_is_antialiased() -> None:
    checkers = (np.indices((512, 512)).sum(0) % 2).astype(np.float32)
    assert np.abs(fit_square(checkers, 64)[2:-2, 2:-2] - 0.5).max() < 0.02


def test_uint16_round_trip() -> None:
    image = np.linspace(0, 1, 100_000, dtype=np.float32)
    assert np.abs(from_uint16(to_uint16(image)) - image).max() <= 1 / 131070 + 1e-7
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_uint16(from_uint16(every)), every)
    assert to_uint16(np.array([-0.5, 1.5])).tolist() == [0, 65535]
