"""Throughput of the rollout stage beside the bare library, on the same model and prompts of the same kind.

    python benchmarks/rollouts.py --engine vllm|transformers|paced [--prompts 256] [--rounds 5]
                                  [--replicas 2 [--lengths]]

The rollout stage is what a run does: prompts of the phantom world's studies (one or two images each) through
`conrad_bench.Model` into a store on disk. The bare library is `vllm.LLM.chat` on the very object that the engine
holds, or one batched `generate` after another. Every round gives either side prompts of its own, which neither has
seen (nothing comes from a cache), in turns; the rates are medians over rounds, in generated tokens a second. Loading
the model is left out. `--replicas N` measures N replicas on Ray beside one on Ray instead, each from its first
answered batch on; with OMP_NUM_THREADS=1 a replica keeps one core busy. `--lengths` lets vLLM write as many tokens as
real findings have (lengths.py). The engine `paced` (paced.py) takes the time of a GPU in place of the processors', so
that two of them fit on a machine with two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conrad_bench.config import load_config
from conrad_bench.engines.base import Engine, Job
from conrad_bench.engines.calls import Call
from conrad_bench.engines.opening import open_image
from conrad_bench.plan import load_task, make_plan
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Prompt, Sampling

SAMPLING = Sampling(max_tokens=128)


def chat(prompt: Prompt) -> list[dict[str, Any]]:
    """Return a prompt in the chat form of the libraries, with its images opened."""
    images = [{"type": "image", "image": open_image(path)} for path in prompt.images]
    (message,) = prompt.messages
    return [{"role": "user", "content": [*images, {"type": "text", "text": message.text}]}]


def bare_vllm(engine: Any, logprobs: bool) -> Callable[[Sequence[Prompt]], int]:
    """Return a function that answers prompts by vLLM's `LLM.chat` and returns the number of generated tokens."""
    from vllm import SamplingParams

    llm = engine._served.llm
    parameters = SamplingParams(temperature=0.0, max_tokens=SAMPLING.max_tokens, logprobs=0 if logprobs else None)

    def run(prompts: Sequence[Prompt]) -> int:
        chats = [chat(prompt) for prompt in prompts]
        for messages in chats:
            for part in messages[0]["content"][:-1]:
                part["type"], part["image_pil"] = "image_pil", part.pop("image")
        outputs = llm.chat(chats, parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def bare_transformers(engine: Any) -> Callable[[Sequence[Prompt]], int]:
    """Return a function that answers prompts by batched `generate`, the longest first, as the rollout stage does."""
    import torch

    loaded = engine._load()
    model, processor, size = loaded.model, loaded.processor, engine.batch_size

    def run(prompts: Sequence[Prompt]) -> int:
        written = 0
        ordered = sorted(prompts, key=lambda p: -(len(p.images) * 1024 + len(p.messages[0].text)))
        for start in range(0, len(ordered), size):
            inputs = processor.apply_chat_template(
                [chat(prompt) for prompt in ordered[start : start + size]],
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left"},
            ).to(model.device)
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=SAMPLING.max_tokens, do_sample=False)
            tokens = out[:, inputs["input_ids"].shape[1] :]
            written += int((tokens != loaded.pad_id).sum())
        return written

    return run


def staged(engine: Engine, folder: Path) -> Callable[[Sequence[Prompt]], int]:
    """Return a function that answers prompts as a run does, and returns the number of generated tokens."""
    store = RolloutStore(folder).__enter__()
    model = Model(engine, store, Reporter(quiet=True))
    return lambda prompts: sum(len(response.token_ids) for response in model.generate(prompts, SAMPLING))


def on_ray(engine: Engine, plugins: Sequence[Path], replicas: int, prompts: Sequence[Prompt]) -> float:
    """Return the rate of replicas on Ray, each of which has answered one batch before."""
    from conrad_bench.cluster.cluster import Cluster

    size, first = 1 if engine.at_once("generate", None) else engine.batch_size, replicas * engine.batch_size
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    calls = [Call("generate", ([Job(prompt) for prompt in batch], SAMPLING, None)) for batch in batches]
    written = 0
    with Cluster("local", replicas, plugins=plugins) as cluster:
        deque(cluster.run(engine, calls[: first // size]), maxlen=0)
        began = time.perf_counter()
        for _, answered in cluster.run(engine, calls[first // size :]):
            written += sum(len(generation.token_ids) for generation in answered.answers)
        return written / (time.perf_counter() - began)


def compare_replicas(
    engine: Engine, plugins: Sequence[Path], replicas: int, rounds: int, prompts: Sequence[Prompt]
) -> None:
    """Print the rates of one replica and of several, in turns."""
    rates: dict[int, list[float]] = {1: [], replicas: []}
    part = len(prompts) // (2 * rounds)
    for turn in range(2 * rounds):
        number = (1, replicas)[turn % 2]
        rates[number].append(on_ray(engine, plugins, number, prompts[turn * part : (turn + 1) * part]))
    print("| replicas | tokens a second (each round) | median |\n| --- | --- | --- |")
    for number, found in rates.items():
        print(f"| {number} | {', '.join(f'{rate:,.0f}' for rate in found)} | {statistics.median(found):,.0f} |")
    share = statistics.median(rates[replicas]) / (replicas * statistics.median(rates[1]))
    print(f"\n{replicas} replicas reach {share:.2f} of {replicas} times the rate of one.")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Throughput of the rollout stage beside the bare library.")
    parser.add_argument("--engine", choices=("vllm", "transformers", "paced"), required=True)
    parser.add_argument("--prompts", type=int, default=256, help="prompts in each round, on each side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--lengths", action="store_true", help="responses as long as real findings, with --replicas")
    arguments = parser.parse_args()
    own = "lengths.py" if arguments.lengths else "paced.py" if arguments.engine == "paced" else None
    plugins = [Path(__file__).with_name(own)] if own is not None else []
    registry = Registry(plugins)
    sides = 3 if arguments.engine == "vllm" and not arguments.replicas else 2
    needed = sides * (arguments.rounds * arguments.prompts + 8)
    given = {
        "methods": ["base"],
        "tasks": ["mimic_report"],
        "engine": "real_lengths" if arguments.lengths else arguments.engine,
        "model": "phantom" if arguments.engine != "paced" else "paced",
        "options": {"phantom": {"studies": 4 * needed}},
    }
    plan = make_plan(load_config(None, given, registry), registry)
    examples = load_task(plan, "mimic_report", Reporter(quiet=True)).examples
    prompts = [plan.tasks["mimic_report"].prompt(example, None) for example in examples][:needed]
    if len(prompts) < needed:
        raise SystemExit(f"{needed} prompts are needed, and the phantom world gave {len(prompts)}")
    if arguments.replicas:
        compare_replicas(plan.engine, plugins, arguments.replicas, arguments.rounds, prompts)
        return
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[Sequence[Prompt]], int]] = {"rollout stage": staged(plan.engine, Path(folder) / "1")}
        next_prompts = iter(prompts)

        def take(number: int) -> list[Prompt]:
            return [next(next_prompts) for _ in range(number)]

        runs["rollout stage"](take(8))  # loads the model
        if arguments.engine == "vllm":
            runs["LLM.chat with log-probabilities"] = bare_vllm(plan.engine, True)
            runs["LLM.chat, text alone"] = bare_vllm(plan.engine, False)
        else:
            runs["batched generate"] = bare_transformers(plan.engine)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for run in list(runs.values())[1:]:
            run(take(8))
        for turn in range(arguments.rounds):
            for name, run in list(runs.items())[:: 1 if turn % 2 else -1]:
                asked = take(arguments.prompts)
                start = time.perf_counter()
                tokens = run(asked)
                rates[name].append(tokens / (time.perf_counter() - start))
        print("| | tokens a second (each round) | median | rollout stage / this |\n| --- | --- | --- | --- |")
        ours = statistics.median(rates["rollout stage"])
        for name, found in rates.items():
            each = ", ".join(f"{rate:,.0f}" for rate in found)
            print(f"| {name} | {each} | {statistics.median(found):,.0f} | {ours / statistics.median(found):.2f} |")


if __name__ == "__main__":
    main()
