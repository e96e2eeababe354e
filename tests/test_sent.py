"""Pictures as they are sent to a server."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from conrad_bench.engines.opening import open_image
from conrad_bench.engines.sent import data_url
from conrad_bench.errors import DataError

NAME = b"Xylophonist"


def sent(path: Path) -> tuple[str, bytes, Image.Image]:
    """The kind, the bytes and the picture that go out."""
    head, _, coded = data_url(str(path)).partition(",")
    data = base64.b64decode(coded)
    return head.removeprefix("data:image/").removesuffix(";base64"), data, Image.open(io.BytesIO(data))


def noise(mode: str) -> Image.Image:
    shape = (96, 80) if mode == "L" else (96, 80, 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def described() -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x010E] = NAME.decode()
    return {"exif": exif, "comment": NAME, "icc_profile": NAME * 9}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True, "quality": 60, "restart_marker_rows": 1}]
)
def test_a_jpeg_goes_out_as_it_is_without_what_it_holds_besides(
    tmp_path: Path, mode: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.jpg"
    noise(mode).save(path, **described(), **options)
    path.write_bytes(path.read_bytes() + b"\xff\xd8" + NAME)
    kind, data, image = sent(path)
    assert (kind, image.mode, NAME in data) == ("jpeg", mode, False)
    assert len(data) < path.stat().st_size
    assert ImageChops.difference(image.convert("RGB"), open_image(str(path))).getbbox() is None


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_goes_out_without_its_texts(tmp_path: Path, mode: str) -> None:
    note = PngInfo()
    note.add_text("PatientName", NAME.decode())
    noise(mode).save(tmp_path / "a.png", pnginfo=note)
    kind, data, image = sent(tmp_path / "a.png")
    assert (kind, image.mode, NAME in data) == ("png", mode, False)
    assert ImageChops.difference(image, noise(mode)).getbbox() is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tif"])
def test_grey_pictures_go_out_as_grey_whatever_their_file(tmp_path: Path, name: str) -> None:
    noise("L").convert("RGB").save(tmp_path / name)
    _, data, image = sent(tmp_path / name)
    assert image.mode == "L"
    assert ImageChops.difference(image.convert("RGB"), open_image(str(tmp_path / name))).getbbox() is None
    assert len(data) < 1.1 * 96 * 80


def test_what_is_sent_has_the_pixels_that_other_engines_see(tmp_path: Path) -> None:
    for mode, name in [("P", "a.png"), ("1", "b.png"), ("CMYK", "c.jpg"), ("LA", "d.png")]:
        noise("RGB").convert(mode).save(tmp_path / name)
        _, _, image = sent(tmp_path / name)
        assert ImageChops.difference(image.convert("RGB"), open_image(str(tmp_path / name))).getbbox() is None


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_a_turned_picture_is_sent_upright(tmp_path: Path, name: str) -> None:
    """What goes out has no EXIF data that could turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("L").save(tmp_path / name, exif=exif)
    _, _, image = sent(tmp_path / name)
    assert (image.size, image.getexif().get(0x0112)) == ((96, 80), None)
    assert ImageChops.difference(image.convert("RGB"), open_image(str(tmp_path / name))).getbbox() is None


def test_transparent_and_deep_pictures_are_sent_as_they_are_seen(tmp_path: Path) -> None:
    grey = np.asarray(noise("L"))
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    Image.merge("LA", [noise("L"), Image.fromarray((grey > 99).astype(np.uint8) * 255)]).save(tmp_path / "clear.png")
    for name in ("deep.png", "clear.png"):
        _, _, image = sent(tmp_path / name)
        assert image.mode == "L"
        assert ImageChops.difference(image.convert("RGB"), open_image(str(tmp_path / name))).getbbox() is None


def test_a_torn_file_is_an_error(tmp_path: Path) -> None:
    noise("L").save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        data_url(str(tmp_path / "a.jpg"))
