"""DICOM pictures: what a workstation shows is what the model sees; what cannot be read is said without its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import apply_windowing  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    generate_uid,
)

from conrad_bench.engines.opening import check_header, departures, open_image, open_pixels, shrink  # noqa: E402
from conrad_bench.errors import ImageError, MissingExtra  # noqa: E402

NAME = "Doe^Jane"


def film(values: np.ndarray, path: Path, **elements: Any) -> str:
    """Write a film with these values and elements, and return its path."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.PatientName, made.PatientID, made.Modality = NAME, "0815", "CR"
    made.Rows, made.Columns = values.shape[-2:]
    bits = values.dtype.itemsize * 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.SamplesPerPixel, made.PixelRepresentation = 1, int(values.dtype.kind == "i")
    made.PhotometricInterpretation = "MONOCHROME2"
    made.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)
    return str(path)


def ramp(low: int, high: int, kind: type = np.uint16) -> np.ndarray:
    return np.linspace(low, high, 64 * 48).reshape(64, 48).astype(kind)


def seen(path: str) -> np.ndarray:
    image = open_pixels(path)
    assert image.mode == "L"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("low", "high", "kind"), [(0, 4095, np.uint16), (-1024, 3000, np.int16)])
@pytest.mark.parametrize("rescale", [None, (2, -1000), (0.5, 10)])
def test_windows_are_those_of_pydicom(
    function: str, low: int, high: int, kind: type, rescale: Any, tmp_path: Path
) -> None:
    values = ramp(low, high, kind)
    elements: dict[str, Any] = {"WindowCenter": 900, "WindowWidth": 1500, "VOILUTFunction": function}
    if rescale is not None:
        elements |= {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1]}
    path = film(values, tmp_path / "a.dcm", **elements)
    real = values * float(rescale[0] if rescale else 1) + (rescale[1] if rescale else 0.0)
    shown = apply_windowing(real, pydicom.dcmread(path))
    ends = apply_windowing(np.array([[-1e5, 1e5]]), pydicom.dcmread(path)).ravel()
    wanted = (shown - ends[0]) / (ends[1] - ends[0]) * 255
    assert np.abs(seen(path) - wanted).max() <= 0.51


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    values = ramp(0, 4095)
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    plain = seen(film(values, tmp_path / "a.dcm", **window))
    turned = seen(film(values, tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1", **window))
    assert plain[0, 0] == 0
    assert plain[-1, -1] == 255
    assert np.abs(plain + turned - 255).max() <= 1


def test_a_table_comes_before_a_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], [int(65535 * (i / 255) ** 2) for i in range(256)]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    path = film(ramp(0, 255), tmp_path / "a.dcm", VOILUTSequence=[table], WindowCenter=10, WindowWidth=5)
    assert np.abs(seen(path) - 255 * (ramp(0, 255) / 255) ** 2).max() <= 1


def test_of_several_windows_the_first_counts(tmp_path: Path) -> None:
    one = film(ramp(0, 4095), tmp_path / "a.dcm", WindowCenter=1000, WindowWidth=200)
    two = film(ramp(0, 4095), tmp_path / "b.dcm", WindowCenter=[1000, 3000], WindowWidth=[200, 4000])
    assert np.array_equal(seen(one), seen(two))


@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": 100, "WindowWidth": 0}, {"WindowCenter": None, "WindowWidth": None}]
)
def test_without_a_window_eight_bits_stay_and_more_are_stretched(window: dict[str, Any], tmp_path: Path) -> None:
    eight = ramp(40, 90, np.uint8)
    assert np.array_equal(seen(film(eight, tmp_path / "a.dcm", **window)), eight)
    assert np.array_equal(seen(film(eight, tmp_path / "b.dcm", RescaleSlope=1, RescaleIntercept=0, **window)), eight)
    deep = seen(film(ramp(1000, 1400), tmp_path / "c.dcm", **window))
    assert (deep.min(), deep.max()) == (0, 255)


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("image_dfl.dcm", None),
        ("JPEG2000.dcm", None),
        ("693_J2KI.dcm", None),
        ("J2K_pixelrep_mismatch.dcm", None),
        ("JPEGLSNearLossless_16.dcm", None),
    ],
)
def test_packed_pictures_are_those_that_were_packed(packed: str, plain: str | None) -> None:
    found = seen(str(get_testdata_file(packed, download=False)))
    assert found.std() > 1
    if plain is not None:
        assert np.array_equal(found, seen(str(get_testdata_file(plain, download=False))))


def test_lossless_jpeg(tmp_path: Path) -> None:
    """pydicom packs none itself; GDCM does."""
    gdcm = pytest.importorskip("gdcm")
    plain = film(ramp(0, 4095), tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=3000)
    reader = gdcm.ImageReader()
    reader.SetFileName(plain)
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    packed = str(tmp_path / "b.dcm")
    writer.SetFileName(packed)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert np.array_equal(seen(packed), seen(plain))


def test_colour_stays_colour() -> None:
    image = open_pixels(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm", download=False)))
    assert image.mode == "RGB"
    assert open_image(str(get_testdata_file("MR_small.dcm", download=False))).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SC_rgb_rle_2frame.dcm", "holds 2 frames"),
        ("rtdose.dcm", "holds 15 frames"),
        ("test-SR.dcm", "holds no picture"),
        ("examples_palette.dcm", "in colour by a palette"),
        ("badVR.dcm", "is damaged"),
        ("MR_truncated.dcm", "is damaged"),
    ],
)
def test_what_cannot_be_read_is_named_without_its_content(name: str, said: str) -> None:
    path = str(get_testdata_file(name, download=False))
    with pytest.raises(ImageError, match=said) as caught:
        open_pixels(path)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"image {path} cannot be read: it ")


def test_a_torn_file_says_nothing_of_the_patient(tmp_path: Path) -> None:
    path = Path(film(ramp(0, 4095), tmp_path / "a.dcm", WindowCenter=1, WindowWidth=9))
    whole = path.read_bytes()
    for cut in range(140, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(ImageError) as caught:
            open_pixels(str(path))
        assert "Doe" not in str(caught.value)
        assert "0815" not in str(caught.value)


def test_a_header_tells_frames_and_departures(tmp_path: Path) -> None:
    path = film(ramp(0, 255, np.uint8), tmp_path / "a.dcm")
    check_header(path)
    assert departures(path) == "dicom"
    frames = film(np.zeros((3, 8, 8), np.uint8), tmp_path / "b.dcm", NumberOfFrames=3)
    with pytest.raises(ImageError, match="holds 3 frames"):
        check_header(frames)
    with pytest.raises(ImageError):
        shrink(path, 10)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = film(np.zeros((8, 8), np.uint8), tmp_path / "a.dcm", Rows=60000, Columns=60000)
    with pytest.raises(ImageError, match="is too large"):
        open_pixels(path)


def test_without_pydicom_the_pip_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(np.zeros((8, 8), np.uint8), tmp_path / "a.dcm")
    monkeypatch.setattr("conrad_bench.engines.dicom.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "conrad-bench\[dicom\]"'):
        open_pixels(path)
