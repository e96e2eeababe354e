"""Every trainer on a real language model with real-sized films: seconds, memory and gradients of a few steps.

    python benchmarks/real_model.py MODEL --teach TAUGHT        # first: teach the reports' format, write a checkpoint
    python benchmarks/real_model.py TAUGHT [--steps 5] [--trainers conditional,exact,sft,joint,probe] [--studies 40]

MODEL is the folder of an image-text-to-text checkpoint. Studies are those of the phantom world, their pictures films of
2544 x 3056 pixels. A model that has never seen the format must be taught it first: joint rollouts without a confidence
have nothing to learn from. On a CPU each trainer is a process of its own, so that its peak memory is its own; on a
machine with a GPU they run there, one after the other. Joint training takes groups of `--joint-rollouts`, the others
their defaults.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TRAINERS = ("conditional", "exact", "sft", "joint", "probe")
FILM = (2544, 3056)


def studies(folder: Path, number: int, size: tuple[int, int] | None = FILM) -> list[tuple[Any, str]]:
    """Write films into a folder, and return prompts that ask for report and confidence, each with a true report.

    `size` is the films' width and height in pixels; None is the phantom world's own.
    """
    from PIL import Image

    from conrad_bench.tasks.phantom import grammar, render, world
    from conrad_bench.tasks.prompts import report_text
    from conrad_bench.types import Message, Prompt

    out = []
    for i, study in enumerate(world.studies(number, 5, split="train")):
        path = folder / f"{i}.jpg"
        if not path.is_file():
            film = Image.fromarray(render.frontal(study))
            film = film if size is None else film.resize(size, Image.Resampling.BICUBIC)
            film.save(path, quality=90)
        asked = Message("user", report_text(study.indication, "confidence"))
        text = " ".join(grammar.SENTENCES[fact][0] for fact in grammar.facts(study.findings))
        out.append((Prompt((asked,), (str(path),)), text))
    return out


def load(model: str) -> tuple[Any, Any]:
    """Return (model, processor) as the transformers engine loads them."""
    from conrad_bench.engines.transformers import TransformersEngine

    return TransformersEngine(model=model).torch_model()


def teach(model: str, out: Path, films: Path, steps: int) -> None:
    """Teach reports with random confidences, every layer of the decoder but the embeddings, and save the model."""
    import random

    import torch

    from conrad_bench.engines.inputs import collate, encode, tokenize

    draw = random.Random(0)
    network, processor = load(model)
    tokenizer = processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    for name, parameter in network.named_parameters():
        parameter.requires_grad = "language_model" in name and "embed" not in name
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    rows = studies(films, 48)
    encoded = [encode(processor, prompt) for prompt, _ in rows]
    network.train()
    for step in range(steps):
        chosen = draw.sample(range(len(rows)), 2)
        answers = [[*tokenize(tokenizer, f"{rows[i][1]}\nConfidence: {draw.randint(0, 10)}"), end] for i in chosen]
        whole = [encoded[i].followed_by(answer) for i, answer in zip(chosen, answers, strict=True)]
        inputs = collate(whole, tokenizer.pad_token_id, True, network.device, network.dtype)
        logits = network(**inputs, logits_to_keep=max(map(len, answers)) + 1).logits
        losses = []
        for row, answer in zip(logits, answers, strict=True):
            logp = torch.log_softmax(row[-len(answer) - 1 : -1].float(), -1)
            losses.append(-logp[range(len(answer)), answer].mean())
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    network.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)


def measure(trainer: str, model: str, films: Path, number: int, steps: int, joint_rollouts: int) -> dict[str, Any]:
    """Return what a few steps of a trainer took."""
    import torch

    from conrad_bench.engines.inputs import tokenize
    from conrad_bench.trainers.prefix import Written
    from conrad_bench.trainers.settings import GRPOSettings, LevelSettings

    rows = studies(films, number)
    prompts = [prompt for prompt, _ in rows]
    if trainer == "probe":
        return probe(model, rows[: 8 * steps])
    network, processor = load(model)
    cuda = network.device.type == "cuda"
    before = _memory(cuda, reset=True)
    times: list[float] = []
    opened: list[str] = []

    @contextmanager
    def stage(_label: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield lambda _steps: times.append(time.perf_counter() if cuda else time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        common = {"torch_model": network, "processor": processor, "base_model": "base", "seed": 0}
        if trainer == "joint":
            from conrad_bench.trainers.conrad import train_conrad

            joint = GRPOSettings(mode="joint", batch_size=joint_rollouts, max_tokens=64, min_parse_rate=0.0)
            part = joint.model_copy(update={"epochs": steps * joint.claims_per_pass / number})
            with _counting() as opened:
                train_conrad(part, prompts=prompts, reward=_reward, stage=stage, out=out, **common)
        else:
            from conrad_bench.trainers.levels import train_levels
            from conrad_bench.trainers.objectives import expected_reward, sampled, supervised

            objective = {
                "conditional": sampled(100.0, 0.01, 8),
                "exact": expected_reward(100.0, 0.01, 0.0, False),
                "sft": supervised,
            }[trainer]
            settings: Any = GRPOSettings() if trainer == "conditional" else LevelSettings()
            settings = settings.model_copy(update={"min_parse_rate": 0.0})
            part = settings.model_copy(update={"epochs": steps * settings.claims_per_pass / number})
            written = [Written(p, tokenize(processor.tokenizer, text)) for p, text in rows]
            correctness = [i % 5 / 4 for i in range(number)]
            train_levels(
                part, objective, written=written, correctness=correctness, between="\n", stage=stage, out=out,
                **common,
            )  # fmt: skip
        lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    norms = [line["grad_norm"] for line in lines]
    assert len(norms) == steps
    assert all(math.isfinite(norm) and norm > 0 for norm in norms), norms
    taken_s = [b - a for a, b in itertools.pairwise(times)]
    return {
        "rows": joint_rollouts if trainer == "joint" else 8,
        "seconds": statistics.median(taken_s),
        "peak": _memory(cuda) - before,
        "norms": norms,
        "parse_rate": statistics.mean(line["parse_rate"] for line in lines),
        "opened": f"{len(opened)} of {len(set(opened))}" if opened else "-",
        "device": torch.cuda.get_device_name() if cuda else "CPU",
    }


def probe(model: str, rows: list[tuple[Any, str]]) -> dict[str, Any]:
    """Read hidden states of reports, eight to a batch, and fit the probe on them."""
    import numpy as np
    import torch

    from conrad_bench.engines.inputs import tokenize
    from conrad_bench.engines.transformers import TransformersEngine
    from conrad_bench.trainers.probe import train_probe

    engine = TransformersEngine(model=model, batch_size=8)
    tokenizer = engine.tokenizer()
    engine.hidden([rows[0][0]], [[5]], -1, "mean", None)  # loads the model
    cuda = torch.cuda.is_available()
    before = _memory(cuda, reset=True)
    states, seconds = [], []
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        begun = time.perf_counter() if cuda else time.process_time()
        asked = [prompt for prompt, _ in part]
        states.extend(engine.hidden(asked, [tokenize(tokenizer, text) for _, text in part], -1, "mean", None))
        seconds.append((time.perf_counter() if cuda else time.process_time()) - begun)
    x = np.concatenate(states)
    y = np.linspace(0, 1, len(x), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        history = train_probe(
            x, y, x, y, widths=(256,), epochs=5, learning_rate=1e-3, weight_decay=0.0, batch_size=8, patience=5, seed=0,
            advance=lambda _: None, report=lambda *_: None, out=Path(folder),
        )  # fmt: skip
    losses = [line["train_loss"] for line in history]
    assert all(map(math.isfinite, losses))
    return {
        "rows": 8,
        "seconds": statistics.median(seconds),
        "peak": _memory(cuda) - before,
        "norms": [],
        "parse_rate": math.nan,
        "opened": "-",
        "device": torch.cuda.get_device_name() if cuda else "CPU",
    }


@contextmanager
def _counting() -> Iterator[list[str]]:
    """Yield a list that takes up the pictures that a joint training opens."""
    from conrad_bench.engines import pictures

    opened: list[str] = []
    plain = pictures.open_pixels

    def watched(path: str) -> Any:
        opened.append(path)
        return plain(path)

    pictures.open_pixels = watched
    try:
        yield opened
    finally:
        pictures.open_pixels = plain


def _reward(rows: Any, texts: Any) -> tuple[list[float | None], list[bool]]:
    """Reports that are right with probability 0.6."""
    from conrad_bench.reading.claims import report_claim
    from conrad_bench.trainers.rewards import log_score, violation_reward
    from conrad_bench.types import Response

    stated = [report_claim(Response("", text, (), None, "stop"), "confidence").confidence for text in texts]
    return [violation_reward() if c is None else log_score(c, 0.6) for c in stated], [c is not None for c in stated]


def _memory(cuda: bool, reset: bool = False) -> float:
    """Return the peak in MiB since the last reset, of the GPU or of this process; with `reset` what is in use."""
    import torch

    if cuda:
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Teach a model, or measure every trainer in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description="Every trainer on a real language model.")
    parser.add_argument("model")
    parser.add_argument("--teach", type=Path)
    parser.add_argument("--teaching-steps", type=int, default=80)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--joint-rollouts", type=int, default=16)
    parser.add_argument("--trainers", default=",".join(TRAINERS))
    parser.add_argument("--films", type=Path, default=Path(tempfile.gettempdir()) / "conrad-bench-films")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.films.mkdir(exist_ok=True)
    if arguments.teach is not None:
        teach(arguments.model, arguments.teach, arguments.films, arguments.teaching_steps)
        return
    trainers = arguments.trainers.split(",")
    if arguments.here:
        sizes = (arguments.films, arguments.studies, arguments.steps, arguments.joint_rollouts)
        for trainer in trainers:
            print(json.dumps({"trainer": trainer, **measure(trainer, arguments.model, *sizes)}), flush=True)
        return
    print("| trainer | rows | seconds a step | peak above the model (MiB) | gradient norms | parsed | opened | on |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    import torch

    for group in [trainers] if torch.cuda.is_available() else [[trainer] for trainer in trainers]:
        command = [sys.executable, *sys.argv, "--here", "--trainers", ",".join(group)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith('{"trainer"'):
                    _print(json.loads(line))
        if child.returncode:
            sys.exit(child.returncode)


def _print(found: dict[str, Any]) -> None:
    """Print a row of the table."""
    norms = f"{min(found['norms']):.3g} to {max(found['norms']):.3g}" if found["norms"] else "-"
    parsed = "-" if math.isnan(found["parse_rate"]) else f"{found['parse_rate']:.0%}"
    cells = [found["trainer"], f"{found['rows']}", f"{found['seconds']:.2f}", f"{found['peak']:,.0f}", norms, parsed]
    print(f"| {' | '.join([*cells, found['opened'], found['device']])} |", flush=True)


if __name__ == "__main__":
    main()
