"""Opens DICOM pictures as a workstation shows them: rescaled, windowed, the right way round between black and white.

Needs the extra `dicom`. A file holds a patient's name and more: no message says a word of what stands in it, but for
the number of its frames and pixels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.engines.windows import Values, stretched, to_bytes, windowed
from conrad_bench.errors import ImageError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

_MARK = b"DICM"
_GREY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(path: str) -> bool:
    """Tell whether a file begins as DICOM files do; not so of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == _MARK
    except OSError:
        return False


def open_dicom(path: str) -> Image:
    """Read a DICOM picture as grey ("L"), or as RGB where it is in colour.

    Its values are rescaled (or mapped by its modality LUT), then mapped by its VOI LUT or cut to its window, the first
    where it names several; where it names none, 8 bits stay as they are and more are cut to `windows.WINDOW`.
    MONOCHROME1 is turned round: what a model sees has air in black.

    Raises ImageError for a file that is damaged, holds no picture or several frames, is too large, or is in colour of
    more than 8 bits; MissingExtra without the packages that read it.
    """
    from PIL import Image

    dataset = read_header(path, pixels=True)
    try:
        from pydicom.pixels import get_decoder, pixel_array

        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            raise MissingExtra(
                f"image {path} is compressed as {syntax.name}, which no installed package decodes: "
                'pip install "conrad-bench[dicom]"'
            )
        values = pixel_array(dataset)
        if dataset.PhotometricInterpretation not in _GREY:
            return Image.fromarray(values)
        grey = _grey(values, dataset)
    except (MissingExtra, MemoryError):
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything, quoting what they hold
        raise ImageError.of(path, "is damaged, or packed as no installed package reads; export it again") from error
    return Image.fromarray(to_bytes(1.0 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey))


def read_header(path: str, pixels: bool = False) -> Any:
    """Return a file's dataset, with its pixels or without. Raises what `open_dicom` raises of what the header tells."""
    if find_spec("pydicom") is None:
        raise MissingExtra(f'image {path} is DICOM, which needs pydicom: pip install "conrad-bench[dicom]"')
    from PIL import Image
    from pydicom import dcmread

    _hush()
    try:
        dataset = dcmread(path, stop_before_pixels=not pixels)
        there = ("Rows" in dataset and "Columns" in dataset) and (not pixels or "PixelData" in dataset)
        frames = int(dataset.get("NumberOfFrames") or 1) if there else 0
        size = int(dataset.Rows) * int(dataset.Columns) if there else 0
        kind = str(dataset.PhotometricInterpretation) if there else ""
        depth = int(dataset.BitsAllocated) if there else 0
    except Exception as error:
        raise ImageError.of(path, "is damaged, or not as DICOM says; export it again") from error
    if not there or not size:
        raise ImageError.of(path, "is DICOM, and holds no picture or is torn; leave it out, or export it again")
    if frames > 1:
        raise ImageError.of(path, f"holds {frames:,} frames; save the one that is meant as a file of its own")
    most = 2 * (Image.MAX_IMAGE_PIXELS or size)
    if size > most:
        raise ImageError.of(path, f"is too large, more than {most:,} pixels; export it smaller")
    if kind not in _GREY and not (kind.startswith(("RGB", "YBR")) and depth == 8):
        raise ImageError.of(path, "is in colour by a palette, or of more than 8 bits a channel; export it in grey")
    return dataset


def _grey(values: Any, dataset: Any) -> Values:
    """Return the values (rows, columns) as the file says that they are shown, in [0, 1]; MONOCHROME1 as it is."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    found = apply_modality_lut(values, dataset)
    if dataset.get("VOILUTSequence"):
        entries = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(found, dataset) / (2.0**entries - 1))
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if center is not None and width is not None and width > 0 and (width >= 1 or function != "LINEAR"):
        return windowed(np.asarray(found, np.float64), center, width, function)
    plain = not dataset.get("ModalityLUTSequence") and float(dataset.get("RescaleSlope") or 1) > 0
    if plain and int(dataset.BitsStored) <= 8 and not dataset.PixelRepresentation:
        return np.asarray(values / (2.0 ** int(dataset.BitsStored) - 1))
    return stretched(np.asarray(found, np.float64))


def _first(value: Any) -> float | None:
    """Return the first of the numbers that an element holds."""
    from pydicom.multival import MultiValue

    first = value[0] if isinstance(value, MultiValue) and len(value) else value
    return None if first is None or isinstance(first, MultiValue) or first == "" else float(first)


def _hush() -> None:
    """Keep what GDCM says of odd files off the screen: it may quote them."""
    if find_spec("gdcm") is not None:
        import gdcm

        for off in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
            off()
