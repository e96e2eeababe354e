"""How many studies a second the host prepares for a model, with films of 2544 x 3056 pixels.

    python benchmarks/host.py [--studies 120] [--films FOLDER]

The engine costs nothing: it makes each prompt's inputs, chat, tokens and pictures at 896 pixels, as the transformers
engine does, and answers without a model. Everything else is a run's: keys, batches, threads that prepare pictures
ahead, the store on disk. The first pass opens every film, the second asks the same prompts again with another seed, as
the next sample, score or hidden state does. "one by one" is the library alone: each picture opened and given to the
processor in its turn. A study has one or two films; `--films` keeps them between calls.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.engines.calls import Call
from conrad_bench.engines.inputs import encode
from conrad_bench.engines.pictures import Prepared
from conrad_bench.engines.processors import load_processor
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import SAMPLING, Message, Prompt, Sampling

FILM = (2544, 3056)
SIDE = 896


class Idle(Engine):
    """Makes inputs and answers nothing."""

    name: ClassVar[str] = "idle"
    summary: ClassVar[str] = "for measuring"
    provides: ClassVar[frozenset[str]] = frozenset({SAMPLING})
    ahead: bool = True
    """Whether pictures are prepared once, by threads; else one by one."""
    _processor: Any = PrivateAttr()

    def model_post_init(self, _context: Any, /) -> None:
        """Load the processor, for pictures of another size."""
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        self._processor = load_processor(self.model, None)
        self._processor.image_processor = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
        if self.ahead:
            self._processor.image_processor = Prepared(self._processor.image_processor)

    def identity(self) -> dict[str, str]:
        """Return the engine's name."""
        return {"engine": self.name}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        """Make the inputs of each prompt."""
        for job in jobs:
            assert encode(self._processor, job.prompt).features["pixel_values"].shape[-1] == SIDE
        return [Generation("", (0,), (0.0,), "stop") for _ in jobs]

    def prepare(self, call: Call) -> None:
        """Prepare the pictures of the next batch, as the transformers engine does."""
        if self.ahead:
            self._processor.image_processor.ahead(path for prompt in call.prompts() for path in prompt.images)


def write_films(folder: Path, number: int) -> list[Prompt]:
    """Write films where there are none, and return prompts of one or two of them each."""
    import numpy as np
    from PIL import Image

    from conrad_bench.tasks.phantom import render, world

    paths = []
    for i, study in enumerate(world.studies(number, 5, split="train")):
        paths.append(str(folder / f"{i}.jpg"))
        if not Path(paths[-1]).is_file():
            film = Image.fromarray(render.frontal(study)).resize(FILM, Image.Resampling.BICUBIC)
            grain = np.random.default_rng(i).normal(0, 6, (FILM[1], FILM[0]))
            Image.fromarray(np.clip(np.asarray(film) + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    ask = Message("user", "Write the findings of this chest radiograph.")
    pairs, i = [], 0
    while i < len(paths):
        pairs.append(tuple(paths[i : i + 1 + len(pairs) % 2]))
        i += len(pairs[-1])
    return [Prompt((ask,), pair) for pair in pairs]


def measure(prompts: Sequence[Prompt], engine: Idle) -> list[tuple[float, float]]:
    """Return (studies a second, CPU seconds a study) of the first pass and of the second."""
    found = []
    with tempfile.TemporaryDirectory() as folder, RolloutStore(Path(folder)) as store:
        model = Model(engine, store, Reporter(quiet=True))
        for seed in (0, 1):
            wall, cpu = time.perf_counter(), time.process_time()
            model.sample(prompts, 1, Sampling(1.0, 1.0, 1, seed))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            found.append((len(prompts) / wall, cpu / len(prompts)))
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Studies a second that the host prepares.")
    parser.add_argument("--studies", type=int, default=120, help="number of films; a study has one or two")
    parser.add_argument("--films", type=Path)
    arguments = parser.parse_args()
    model = str(files("conrad_bench.tasks.phantom") / "base_model")
    with tempfile.TemporaryDirectory() if arguments.films is None else nullcontext(arguments.films) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        prompts = write_films(Path(folder), arguments.studies)
        pictures = sum(len(prompt.images) for prompt in prompts)
        print(f"{len(prompts)} studies with {pictures} films, {os.cpu_count()} processors\n")
        print("| | studies a second: first pass | second pass | CPU seconds a study: first pass | second pass |")
        print("| --- | --- | --- | --- | --- |")
        for name, ahead in (("one by one", False), ("prepared once, ahead, by threads", True)):
            (first, first_cpu), (second, second_cpu) = measure(prompts, Idle(model=model, ahead=ahead))
            print(f"| {name} | {first:.1f} | {second:.1f} | {first_cpu:.3f} | {second_cpu:.3f} |")


if __name__ == "__main__":
    main()
