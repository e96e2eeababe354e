"""vLLM on the lengths of real reports: requests that stay under way, beside batches that have to end.

    python benchmarks/lengths.py [--prompts 512] [--concurrency 128] [--rounds 3]


Responses get as many tokens as the findings of real reports have: the lengths are drawn from the quantiles in
paced.py, of the 3425 findings of IU-Xray (Open-i) in the tokens of Gemma 3, the end of the turn included. The model
is the embedded one, which would write less; so it is not let end before. Both ways go through `conrad_bench.Model`
into a store on disk, with as many requests at once at most. Rates are generated tokens a CPU second, loading and a
first batch left out. On a CPU a step takes longer the more requests it has, so waiting for the last ones of a batch
costs little where the model is tiny; where reading the weights is what takes time, as on a GPU, it costs what it
costs there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # as a plugin, too

from paced import QUANTILES, drawn

from conrad_bench import register_engine
from conrad_bench.engines import vllm
from conrad_bench.engines.vllm import VLLMEngine
from conrad_bench.engines.vllm_requests import Asked, writing
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Message, Prompt, Sampling


def of_length(served: Any, jobs: Any, sampling: Sampling) -> Asked:
    """Ask for responses of the lengths that their seeds draw."""
    asked = [writing(served, [job], replace(sampling, max_tokens=drawn(job.seed))) for job in jobs]
    for each in asked:
        each.requests[0][1].update(ignore_eos=True, stop_token_ids=[])
    return Asked(
        [each.requests[0] for each in asked],
        lambda outputs: [each.read([output])[0] for each, output in zip(asked, outputs, strict=True)],
    )


vllm.writing = of_length


@register_engine
class RealLengths(VLLMEngine):
    """The engine by a name of its own: what loads this file as a plugin gets responses of these lengths."""

    name = "real_lengths"


class Draining(VLLMEngine):
    """The engine as it was: a batch ends before the next begins."""

    name = "draining"

    def at_once(self, method: str, adapter: Path | None) -> int:
        """Every call is a batch."""
        return 0


def prompts(number: int, start: int) -> list[Prompt]:
    """Return prompts that no other round has."""
    return [Prompt((Message("user", f"Write the findings. Study {start + i}."),)) for i in range(number)]


def rate(model: Model, asked: list[Prompt]) -> float:
    """Return the generated tokens a second of this process's CPU time, which other work hardly changes."""
    began = time.process_time()
    responses = model.generate(asked, Sampling(1.0, 1.0, max(QUANTILES)))
    return sum(len(response.token_ids) for response in responses) / (time.process_time() - began)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="vLLM on the lengths of real reports.")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="folder of a checkpoint, in place of the embedded one")
    arguments = parser.parse_args()
    from importlib.resources import files

    path = arguments.model or str(files("conrad_bench.tasks.phantom") / "base_model")
    options: dict[str, Any] = {"model": path, "dtype": "float32", "concurrency": arguments.concurrency}
    options["batch_size"] = arguments.concurrency
    rates: dict[str, list[float]] = {"batches that end": [], "requests that stay under way": []}
    with tempfile.TemporaryDirectory() as folder:
        engine = VLLMEngine(**options)
        draining = Draining(**options)
        engine.generate([], Sampling(), None)
        draining._served = engine._serve(None)  # one model in memory
        models = {}
        for name, each in zip(rates, (draining, engine), strict=True):
            store = RolloutStore(Path(folder) / name).__enter__()
            models[name] = Model(each, store, Reporter(quiet=True))
            rate(models[name], prompts(8, -100))
        for turn in range(arguments.rounds):
            for name in list(rates)[:: 1 if turn % 2 else -1]:
                rates[name].append(rate(models[name], prompts(arguments.prompts, turn * arguments.prompts)))
    print("| | tokens a CPU second (each round) | median |\n| --- | --- | --- |")
    for name, found in rates.items():
        print(f"| {name} | {', '.join(f'{value:,.0f}' for value in found)} | {statistics.median(found):,.0f} |")
    before, after = map(statistics.median, rates.values())
    print(f"\n{after / before:.2f} times as fast.")


if __name__ == "__main__":
    main()
