"""Opening images: what a viewer shows is what the model sees, over modes, orientations and formats."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conrad_bench.engines.opening import check_header, departures, open_image, shrink, unreadable
from conrad_bench.errors import DataError, ImageError

ORIENTATION = 0x0112
FORMATS = ("jpg", "png", "webp", "tiff", "avif")
TURNED_BACK = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores an upright image under each mark."""


def scene(height: int = 40, width: int = 64) -> np.ndarray:
    """Grey of shape (height, width) that no turn or mirror leaves as it is."""
    grey = np.full((height, width), 60, np.uint8)
    grey[4:14, 36:58] = 230
    grey[24:36, 4:10] = 0
    return grey


def pixels(path: Path) -> np.ndarray:
    """What the model sees, shape (height, width, 3)."""
    image = open_image(str(path))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    lossless = {"webp": {"lossless": True, "exact": True}, "jpg": {"quality": 98}, "avif": {"quality": 100}}
    image.save(path, **{**lossless.get(path.suffix[1:], {}), **options})
    return path


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "CMYK", "RGBA", "LA"])
@pytest.mark.parametrize("orientation", TURNED_BACK)
def test_an_image_is_upright_in_every_mode_and_format(kind: str, mode: str, orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(scene()).convert("RGB").convert(mode)
    way = TURNED_BACK[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = upright if way is None else upright.transpose(way)
    try:
        path = saved(stored, tmp_path / f"image.{kind}", exif=exif)
    except OSError:
        pytest.skip(f"{kind} has no {mode}")
    shown = np.asarray(upright.convert("RGB")).astype(int)
    seen = pixels(path)
    assert seen.shape == shown.shape
    assert ("turned" in departures(str(path))) == (way is not None)
    off = np.abs(seen - shown).mean()
    assert off < 5 if kind in ("jpg", "avif") else off == 0  # what is lost lies at edges


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "CMYK"])
@pytest.mark.parametrize("kind", FORMATS)
def test_ordinary_images_are_as_they_are_stored(kind: str, mode: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (33, 50, 3), dtype=np.uint8)
    try:
        path = saved(Image.fromarray(noise).convert(mode), tmp_path / f"image.{kind}")
    except OSError:
        pytest.skip(f"{kind} has no {mode}")
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))
    assert departures(str(path)) == ""


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_a_mark_without_a_meaning_turns_nothing(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(Image.fromarray(scene()), tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(pixels(path)[..., 0], scene())


def test_torn_exif_data_turn_nothing(tmp_path: Path) -> None:
    path = saved(Image.fromarray(scene()), tmp_path / "image.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(pixels(path)[..., 0], scene())


def test_transparency_is_laid_on_black(tmp_path: Path) -> None:
    """A film that was cut out: what is around it is black, as around a film, whatever colour lies hidden there."""
    grey = np.random.default_rng(1).integers(20, 240, (40, 50), dtype=np.uint8)
    alpha = np.zeros((40, 50), np.uint8)
    alpha[5:35, 5:45] = 255
    for hidden in (0, 255):
        colour = np.where(alpha > 0, grey, hidden).astype(np.uint8)
        clear = Image.merge("LA", [Image.fromarray(colour), Image.fromarray(alpha)])
        for mode in ("LA", "RGBA"):
            path = saved(clear.convert(mode), tmp_path / f"{mode}-{hidden}.png")
            np.testing.assert_array_equal(pixels(path)[..., 0], np.where(alpha > 0, grey, 0))


def test_half_transparency_is_mixed_with_the_ground(tmp_path: Path) -> None:
    clear = np.full((8, 8, 2), 200, np.uint8)
    clear[..., 1] = np.arange(64).reshape(8, 8) * 4
    path = saved(Image.fromarray(clear, "LA"), tmp_path / "image.png")
    assert np.abs(pixels(path)[..., 0] - 200 * clear[..., 1].astype(float) / 255).max() <= 1


def test_dark_on_nothing_is_laid_on_white(tmp_path: Path) -> None:
    """A drawing in black: on black nothing of it would be seen."""
    for ink in (0, 12):
        clear = np.full((20, 30, 2), ink, np.uint8)
        clear[..., 1] = 0
        clear[5:15, 5:25, 1] = 255
        path = saved(Image.fromarray(clear, "LA"), tmp_path / f"{ink}.png")
        assert departures(str(path)) == "laid"
        np.testing.assert_array_equal(pixels(path)[..., 0], np.where(clear[..., 1] > 0, ink, 255))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_colour_that_stands_for_transparency(mode: str, tmp_path: Path) -> None:
    """PNG's tRNS chunk: one value (or entry of the palette) is transparent."""
    grey = np.full((10, 12), 255, np.uint8)
    grey[2:8, 2:8] = 0
    key: object = {"L": 255, "RGB": (255, 255, 255), "1": 255}.get(mode)
    image = Image.fromarray(grey).convert("RGB").convert(mode)
    if mode == "P":
        key = image.getpixel((0, 0))
    path = saved(image, tmp_path / "image.png", transparency=key)
    np.testing.assert_array_equal(pixels(path)[..., 0], grey)  # black in it: on white


def test_wholly_transparent_is_refused(tmp_path: Path) -> None:
    path = saved(Image.new("RGBA", (8, 8), (10, 200, 30, 0)), tmp_path / "image.png")
    with pytest.raises(ImageError, match=r"image\.png cannot be read: it is wholly transparent"):
        open_image(str(path))


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
@pytest.mark.parametrize(("low", "high"), [(0, 4095), (0, 65535), (900, 1900), (30000, 33000)])
def test_deep_grey_is_cut_to_its_window(kind: str, low: int, high: int, tmp_path: Path) -> None:
    """12 bits in 16, all 16, or a narrow band: the darkest is black, the brightest white, the rest in proportion."""
    share = np.linspace(0, 1, 200 * 100).reshape(100, 200)
    deep = np.round(low + share * (high - low)).astype(np.uint16)
    image = Image.fromarray(deep)
    path = saved(image.convert("I") if kind == "pgm" else image, tmp_path / f"image.{kind}")
    assert departures(str(path)) == "windowed"
    assert np.abs(pixels(path)[..., 0] - 255 * share).max() < 2


def test_a_few_stray_values_do_not_set_the_window(tmp_path: Path) -> None:
    share = np.linspace(0, 1, 200 * 100).reshape(100, 200)
    deep = np.round(share * 4095).astype(np.uint16)
    deep[50, 100:105] = 65535
    path = saved(Image.fromarray(deep), tmp_path / "image.png")
    seen = pixels(path)[..., 0]
    assert np.delete(np.abs(seen - 255 * share), slice(100, 105), axis=1).max() < 2


def test_deep_grey_that_is_nearly_all_background(tmp_path: Path) -> None:
    deep = np.zeros((100, 100), np.uint16)
    deep[50, 50] = 3000
    seen = pixels(saved(Image.fromarray(deep), tmp_path / "image.png"))[..., 0]
    assert seen[50, 50] == seen.sum() == 255
    flat = saved(Image.fromarray(np.full((9, 9), 700, np.uint16)), tmp_path / "flat.png")
    assert pixels(flat).max() == 0


def test_deep_grey_is_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    deep = scene(100, 160).astype(np.uint16) * 16
    for kind in ("png", "tiff"):
        stored = Image.fromarray(deep).transpose(Image.Transpose.ROTATE_90)
        path = saved(stored, tmp_path / f"image.{kind}", exif=exif)
        assert np.abs(pixels(path)[..., 0] - scene(100, 160) * (255 / 230)).max() < 2


def test_white_is_zero(tmp_path: Path) -> None:
    """Photometric interpretation 0 of TIFF, as MONOCHROME1 of DICOM: 0 is the brightest value."""
    share = np.linspace(0, 1, 100 * 80).reshape(80, 100)
    for depth in (np.uint8, np.uint16):
        top = np.iinfo(depth).max
        path = tmp_path / "image.tiff"
        path.write_bytes(white_is_zero(np.round((1 - share) * top).astype(depth)))
        assert np.abs(pixels(path)[..., 0] - 255 * share).max() < 2, depth


def white_is_zero(values: np.ndarray) -> bytes:
    """A plain TIFF of one strip whose photometric interpretation is 0."""
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 0, 273: 8, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_float_grey(tmp_path: Path) -> None:
    share = np.linspace(0, 1, 100 * 80, dtype=np.float32).reshape(80, 100)
    assert np.abs(pixels(saved(Image.fromarray(share), tmp_path / "f.tiff"))[..., 0] - 255 * share).max() < 2
    share[3, 3] = np.nan
    with pytest.raises(ImageError, match=r"f\.tiff cannot be read: it has values that are no finite numbers"):
        open_image(str(saved(Image.fromarray(share), tmp_path / "f.tiff")))


def png(colour: int, channels: int) -> bytes:
    """A PNG of 4 x 4 pixels with 16 bits a channel, in the colour type of this number."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(8 * channels)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [png(2, 3), png(4, 2), png(6, 4), b"P6 2 2 65535\n" + bytes(24)])
def test_deep_colour_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    for opened in (open_image, check_header):
        with pytest.raises(ImageError, match="in colour of 16 bits a channel; convert it to 8 bits"):
            opened(str(path))


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.touch()
    for opened in (open_image, check_header):
        with pytest.raises(ImageError, match=r"image\.png cannot be read: it is empty \(0 bytes\)"):
            opened(str(path))


def test_another_file_is_called_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    for content in (b"<html>not found</html>", b"\0" * 300, b"DICM" * 100, b"\x89PNG"):
        path.write_bytes(content)
        for opened in (open_image, check_header):
            with pytest.raises(
                ImageError, match=r"image\.png cannot be read: it is (no image in a format|damaged|DICOM)"
            ):
                opened(str(path))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_torn_file_is_called_damaged(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"image.{kind}")
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match=r"damaged|is no image"):
            open_image(str(path))


def test_any_change_of_a_file_is_an_image_or_an_image_error(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for kind in FORMATS:
        path = saved(Image.fromarray(scene()), tmp_path / f"image.{kind}")
        whole = path.read_bytes()
        for _ in range(60):
            changed = bytearray(whole)
            for place in random.integers(0, len(whole), 3):
                changed[place] = random.integers(0, 256)
            path.write_bytes(bytes(changed))
            with suppress(ImageError):
                assert open_image(str(path)).mode == "RGB"


def test_too_large_is_called_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(scene()), tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 64 // 2 - 1)
    for opened in (open_image, check_header):
        with pytest.raises(ImageError, match=r"image\.png cannot be read: it is too large, more than 2,558 pixels"):
            opened(str(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 64 // 2)  # Pillow warns of it; a warning here is an error
    assert open_image(str(path)).size == (64, 40)


def test_a_missing_file_is_the_data_roots_trouble(tmp_path: Path) -> None:
    for opened in (open_image, check_header):
        with pytest.raises(DataError, match=r"image .*absent\.png does not exist") as caught:
            opened(str(tmp_path / "absent.png"))
        assert not isinstance(caught.value, ImageError)


def test_unreadable_images_are_found_among_many(tmp_path: Path) -> None:
    paths = []
    for i in range(40):
        path = saved(Image.fromarray(scene()), tmp_path / f"{i}.png")
        if i % 10 == 3:
            path.write_bytes(path.read_bytes()[:-30] if i == 13 else b"")
        paths.append(str(path))
    told: list[int] = []
    found = unreadable([*paths, *paths], advance=told.append)
    assert list(found) == [paths[3], paths[13], paths[23], paths[33]]
    assert sum(told) == 40
    assert list(unreadable(paths, check_header)) == [paths[3], paths[23], paths[33]]  # its header is whole


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("colour", [False, True])
def test_an_image_that_is_too_large_is_made_smaller_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, colour: bool
) -> None:
    image = Image.fromarray(scene()).convert("RGB") if colour else Image.fromarray(scene())
    path, mark = tmp_path / name, Image.Exif()
    mark[ORIENTATION] = 6
    image.save(path, **({} if name == "a.bmp" else {"exif": mark}))
    before = path.read_bytes()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's limit is twice that
    with pytest.raises(ImageError, match=f"too large.*: conrad-bench data shrink {path}"):
        open_image(str(path))
    assert shrink(str(path), 700) == ((32, 20) if name == "a.bmp" else (20, 32))
    assert (tmp_path / f"{name}.large").read_bytes() == before
    whole = image if name == "a.bmp" else image.transpose(Image.Transpose.ROTATE_270)
    expected = np.asarray(whole.convert("RGB").reduce(2)).astype(int)
    assert np.abs(np.asarray(open_image(str(path))).astype(int) - expected).max() <= (40 if name == "a.jpg" else 1)
    assert shrink(str(path), 700) is None
    assert Image.MAX_IMAGE_PIXELS == 1000
