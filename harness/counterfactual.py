"""Counterfactuals: the test examples with other pictures, to see whether a confidence notices (docs/grounding.md).

    blank         a mid-grey picture of the same size
    swapped       the pictures of another patient's study, of the same view where views are known
    noised-SIGMA  the picture with Gaussian noise, SIGMA being its deviation in units of the grey range

Made pictures are files in the run's folder `pictures/`, named by what they are made of, so that keys, store, resume and
Ray treat them as any picture. Examples without pictures have no counterfactual, nor those with an unreadable one.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.engines.opening import open_pixels, unreadable
from conrad_bench.errors import DataError
from conrad_bench.methods.base import Step
from conrad_bench.records import ANEW, GIVEN, SWAPPED, counterfactual_path
from conrad_bench.rollouts.digests import image_digest
from conrad_bench.storage import write_bytes
from conrad_bench.types import Example

if TYPE_CHECKING:
    from conrad_bench.plan import Plan
    from conrad_bench.progress import Reporter

PICTURES = "pictures"
"""The folder of made pictures in a run folder."""
GREY = 128
"""The value of a blank picture, of 0 to 255."""
LONGEST = 1024
"""Pixels of a noised picture's longer side at most: a film is averaged down to it first, since the model's processor
would otherwise average the noise away with the pixels."""
VERSION = 1
"""Of what replacements are made of a picture; records of another one are made again."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """One method on one task under one replacement."""

    method: str
    task: str
    replacement: str
    reading: str
    """`records.ANEW`: the method does all again. `records.GIVEN`: it judges the response to the original pictures."""

    def path(self, run: Path) -> Path:
        """Return where its records lie."""
        return counterfactual_path(run, self.method, self.task, self.replacement, self.reading)

    @property
    def what(self) -> str:
        """What is estimated, in words."""
        return f"{self.replacement} pictures" + ("" if self.reading == ANEW else ", original responses")

    def __str__(self) -> str:
        return f"{self.task}, {self.what}"


@dataclass(frozen=True, slots=True)
class Replaced:
    """The examples of one task under one replacement."""

    shown: list[Example]
    """With other pictures; their references are those of the original ones."""
    original: list[Example]
    """The same examples as they are."""
    reports: list[Example]
    """With the references that belong to the other pictures where these are another study's, else as they are."""


def counterfactuals(plan: Plan) -> Iterator[Counterfactual]:
    """Yield what a run estimates beside its test estimates, in order."""
    for task in plan.config.tasks:
        for replacement in plan.config.replacements:
            for name, method in plan.methods.items():
                yield Counterfactual(name, task, replacement, ANEW)
                if method.judges_given():
                    yield Counterfactual(name, task, replacement, GIVEN)


def steps_again(plan: Plan, each: Counterfactual, test: Sequence[Example]) -> Iterator[Step]:
    """Yield what a counterfactual asks of the model beside the test estimates: no fit, and no response that is given.

    At most so much: examples without pictures are left out, and equal requests about grey pictures are one.
    """
    if each.reading == GIVEN:
        test = [replace(example, answered=example.images) for example in test]
    for step in plan.methods[each.method].steps(plan.tasks[each.task], [], [], test):
        is_response = bool(step.prompts) and step.sampling.temperature == 0
        if step.action != "train" and step.count and not (is_response and each.reading == GIVEN):
            yield step
    yield Step("score", len(test), f"test responses with {plan.scorers[each.task].name}")


def replaced(examples: Sequence[Example], replacement: str, seed: int, folder: Path, reporter: Reporter) -> Replaced:
    """Return examples with their pictures replaced, writing those that are not in `folder` yet.

    Raises DataError where no example has pictures that can be read, or where there is no other patient to swap with.
    """
    paths = list(dict.fromkeys(path for example in examples for path in example.images))
    sizes: dict[str, tuple[int, int]] = {}
    made: dict[str, str] = {}

    def make(path: str) -> None:
        if replacement.startswith("noised-"):
            made[path] = str(noised(path, float(replacement.removeprefix("noised-")), seed, folder))
        else:
            sizes[path] = open_pixels(path).size

    with reporter.stage(f"{replacement} pictures", len(paths)) as advance:
        broken = unreadable(paths, make, advance)
    original = [e for e in examples if e.images and not any(path in broken for path in e.images)]
    if not original:
        raise DataError("no test example has pictures that can be read, and a counterfactual replaces pictures")
    if replacement == SWAPPED:
        others = swapped(original, seed)
        shown = [replace(example, images=other.images) for example, other in zip(original, others, strict=True)]
        reports = [replace(e, reference=other.reference) for e, other in zip(original, others, strict=True)]
        return Replaced(shown, original, reports)
    if replacement == "blank":
        blanks = {size: str(_blank(size, folder)) for size in sorted(set(sizes.values()))}
        made = {path: blanks[size] for path, size in sizes.items()}
    shown = [replace(example, images=tuple(made[path] for path in example.images)) for example in original]
    return Replaced(shown, original, original)


def swapped(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return for each example one of another patient (cluster): of the same `view` where examples say theirs.

    The patients of a view, in an order drawn by the seed, each get the studies of the next one, the last those of the
    first; so nobody keeps their own. A patient who is alone with a view gets the next one's of all views. Raises
    DataError where there is one patient alone.
    """
    everyone = _next_patients(examples, f"{seed}")
    if not everyone:
        raise DataError("pictures are swapped between patients, and there is one test patient alone; leave out swapped")
    found: dict[str, Example] = {}
    for view in sorted({str(e.attributes.get("view")) for e in examples}):
        group = [e for e in examples if str(e.attributes.get("view")) == view]
        found |= _next_patients(group, f"{seed} {view}")
    return [found.get(example.id, everyone[example.id]) for example in examples]


def _next_patients(examples: Sequence[Example], seed: str) -> dict[str, Example]:
    """Return an example of the next patient by the id of each; nothing where there are not two patients."""
    studies: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: e.id):
        studies.setdefault(example.cluster, []).append(example)
    order = sorted(studies)
    random.Random(seed).shuffle(order)
    if len(order) < 2:
        return {}
    return {
        example.id: studies[other][k % len(studies[other])]
        for patient, other in zip(order, [*order[1:], order[0]], strict=True)
        for k, example in enumerate(studies[patient])
    }


def _blank(size: tuple[int, int], folder: Path) -> Path:
    """Return the file of a grey picture of a size (width, height)."""
    from PIL import Image

    path = folder / f"blank-{size[0]}x{size[1]}.png"
    if not path.is_file():
        _save(Image.new("L", size, GREY), path)
    return path


def noised(path: str, sigma: float, seed: int, folder: Path) -> Path:
    """Return the file of a picture with noise: the same for all sigmas, and for all channels."""
    import numpy as np
    from PIL import Image

    digest = hashlib.sha256(f"{VERSION} {seed} {image_digest(Path(path))}".encode()).hexdigest()
    target = folder / f"noised-{sigma:g}-{digest[:32]}.png"
    if target.is_file():
        return target
    image = open_pixels(path)
    image = image if image.mode == "L" else image.convert("RGB")
    pixels = np.asarray(image.reduce(math.ceil(max(image.size) / LONGEST)), dtype=np.float64)
    noise = np.random.default_rng(int(digest[:15], 16)).standard_normal(pixels.shape[:2])
    noisy = pixels + 255 * sigma * (noise if pixels.ndim == 2 else noise[..., None])
    _save(Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)), target)
    return target


def _save(image: Any, path: Path) -> None:
    written = io.BytesIO()
    image.save(written, "PNG")
    write_bytes(path, written.getvalue())
