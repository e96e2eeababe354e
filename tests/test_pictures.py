"""Pictures are opened and prepared once, by threads, within a budget, and are those of the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from conrad_bench.engines import pictures
from conrad_bench.engines.opening import open_image, open_pixels
from conrad_bench.engines.pictures import Fit, Pictures, Prepared, stand_in
from conrad_bench.errors import ImageError


@pytest.fixture
def films(tmp_path: Path) -> list[str]:
    rng, paths = np.random.default_rng(0), []
    for number, shape in enumerate([(90, 70), (33, 200), (64, 48, 3), (20, 20)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were opened, each slowly enough for threads to meet."""
    found: list[str] = []

    def watch(path: str) -> Any:
        found.append(path)
        time.sleep(0.02)
        return open_pixels(path)

    monkeypatch.setattr(pictures, "open_pixels", watch)
    return found


@pytest.fixture(scope="module")
def processor() -> Any:
    """A processor that has one size for all pictures, as Gemma 3's does."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    return Gemma3ImageProcessorPil(size={"height": 32, "width": 32})


def eventually(holds: Callable[[], bool]) -> bool:
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.01)
    return False


def test_a_processor_with_one_size_is_found_out(processor: Any) -> None:
    assert Pictures(processor).fit == Fit((32, 32), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("how", ["tiles", "no size", "keeps small pictures"])
def test_a_processor_to_which_size_matters_gets_pictures_as_they_are(how: str, processor: Any) -> None:
    def call(images: Any, **named: Any) -> Any:
        (image,) = images
        if how == "keeps small pictures" and image.width < 30:
            return {"pixel_values": np.zeros(1)}
        made = dict(processor(images, **named))
        return {**made, "tiles": image.width // 20} if how == "tiles" else made

    class Other:
        do_resize, resample = True, Image.Resampling.BILINEAR
        size = SimpleNamespace(shortest_edge=32) if how == "no size" else SimpleNamespace(width=32, height=32)
        __call__ = staticmethod(call)

    assert Pictures(Other()).fit is None


def test_small_pictures_have_the_pixels_of_the_resized_ones(processor: Any, films: list[str]) -> None:
    kept = Pictures(processor)
    for path in (*films, *films):
        wanted = open_image(path).resize((32, 32), Image.Resampling.BILINEAR)
        assert kept.open(path).mode == "RGB"
        assert ImageChops.difference(kept.open(path), wanted).getbbox() is None


def test_a_picture_is_opened_once_though_threads_and_the_model_ask_for_it(
    processor: Any, films: list[str], opened: list[str]
) -> None:
    prepared = Prepared(processor)
    first = prepared([stand_in(films[0])], return_tensors="pt")
    prepared.ahead(films)
    rows = prepared([[stand_in(path) for path in films]], return_tensors="pt")["pixel_values"]
    assert (rows[:1] == first["pixel_values"]).all()
    assert sorted(opened) == films
    plain = processor([open_image(path) for path in films], return_tensors="pt")["pixel_values"]
    assert (rows == plain).all()


def test_a_changed_file_is_opened_again(processor: Any, films: list[str], opened: list[str]) -> None:
    kept = Pictures(processor)
    before = kept.open(films[0])
    Image.new("L", (50, 50), 7).save(films[0])
    assert kept.open(films[0]).getextrema() == ((7, 7),) * 3 != before.getextrema()
    assert len(opened) == 2


def test_no_more_is_kept_than_the_budget(processor: Any, films: list[str], opened: list[str]) -> None:
    row = 3 * 32 * 32 * 4
    prepared = Prepared(processor, budget=2 * row)
    for path in (*films, films[-1], films[-2]):
        prepared([stand_in(path)], return_tensors="pt")
    assert prepared._rows._bytes == 2 * row
    assert len(prepared._rows._made) == 2
    prepared.ahead(films[:2])  # as many as half of the budget holds, so that what is needed now stays
    assert eventually(lambda: films[0] in "".join(prepared._rows._made))
    assert films[1] not in "".join(prepared._rows._made)


def test_an_error_is_raised_by_who_asks_and_not_kept(processor: Any, tmp_path: Path, opened: list[str]) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"")
    kept = Pictures(processor)
    kept.ahead([str(path)])
    assert eventually(lambda: len(opened) == 1)
    with pytest.raises(ImageError, match="empty"):
        kept.open(str(path))
    Image.new("L", (9, 9), 3).save(path)
    assert kept.open(str(path)).getextrema() == ((3, 3),) * 3
