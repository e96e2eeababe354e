"""A step of the joint and of the conditional ConRad beside a step of stock TRL, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/stock.py MODEL [--steps 5] [--rollouts 64] [--max-tokens 64] [--films]

MODEL is the folder of an image-text-to-text checkpoint that writes the reports' format: the embedded model's, or what
benchmarks/real_model.py --teach wrote. Stock is TRL's GRPOTrainer as it comes, with the reward function
`conrad_bench.trl_reward`, on a model and processor as transformers loads them. All sides have the same weights, LoRA,
prompts, pictures, groups of eight, longest response and learning rate; each is a process of its own. `--films` has
pictures of 2544 x 3056 pixels in the place of the phantom world's own.

What differs is what is compared: stock learns from all tokens of a rollout, joint from the confidence's alone;
conditional draws confidences behind reports that were written before. What it takes to write those, once for all
methods of a run and all epochs, is a line of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from real_model import FILM, load, studies

from conrad_bench.trainers.rewards import trl_reward, violation_reward
from conrad_bench.trainers.settings import GRPOSettings

SIDES = ("stock", "joint", "conditional")
CORRECT = 0.6
"""The correctness of every report: judging costs nothing, on any side."""


class Rewarding:
    """The reward of all sides, and the numbers of tokens of the texts that it has seen."""

    def __init__(self, tokenizer: Any) -> None:
        self._reward = trl_reward("log", judge=lambda texts, _: [CORRECT] * len(texts))
        self._tokenizer = tokenizer
        self.lengths: list[int] = []

    def stock(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        """The reward function that TRL is given."""
        self.lengths += [len(self._tokenizer(each[-1]["content"]).input_ids) for each in completions]
        return self._reward(prompts, completions, **columns)

    def joint(self, rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float | None], list[bool]]:
        """The same for joint training, which also asks whether each text has a confidence."""
        earned = self.stock(rows, [[{"content": text}] for text in texts])
        return earned, [each is not None and each > violation_reward() for each in earned]


def stock(model: str, rows: list[tuple[Any, str]], settings: GRPOSettings, out: Path) -> dict[str, Any]:
    """Return the CPU seconds of steps of TRL's own trainer."""
    import torch
    from datasets import Dataset, Image, List
    from transformers import AutoModelForImageTextToText, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from conrad_bench.engines.processors import load_processor
    from conrad_bench.trainers.adapters import language_lora

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    processor = load_processor(model, None)
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    reward = Rewarding(processor.tokenizer)
    chats = [
        {"prompt": [{"role": m.role, "content": m.text} for m in prompt.messages], "images": list(prompt.images)}
        for prompt, _ in rows
    ]
    trainer = GRPOTrainer(
        model=network,
        processing_class=processor,
        reward_funcs=reward.stock,
        args=GRPOConfig(
            output_dir=str(out),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,  # as ours on a CPU
            per_device_train_batch_size=settings.batch_size,
            num_generations=settings.generations,
            max_completion_length=settings.max_tokens,
            max_steps=settings.steps_for(len(rows)),
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            loss_type="grpo",
            scale_rewards=settings.scale_rewards,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(chats).cast_column("images", List(Image(mode="RGB"))),
        peft_config=language_lora(network, settings.rank, None),
        callbacks=[Clock()],
    )
    trainer.train()
    return _found(times, reward.lengths)


def ours(side: str, model: str, rows: list[tuple[Any, str]], settings: GRPOSettings, out: Path) -> dict[str, Any]:
    """Return the CPU seconds of steps of joint or of conditional training."""
    from conrad_bench.engines.inputs import tokenize
    from conrad_bench.trainers.conrad import train_conrad
    from conrad_bench.trainers.levels import train_levels
    from conrad_bench.trainers.objectives import sampled
    from conrad_bench.trainers.prefix import Written

    times: list[float] = []

    @contextmanager
    def stage(_label: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield lambda _steps: times.append(time.process_time())

    network, processor = load(model)
    reward = Rewarding(processor.tokenizer)
    common: dict[str, Any] = {
        "torch_model": network, "processor": processor, "base_model": "base", "seed": 0, "stage": stage, "out": out,
    }  # fmt: skip
    if side == "joint":
        train_conrad(settings, prompts=[prompt for prompt, _ in rows], reward=reward.joint, **common)
    else:
        written = [Written(prompt, tokenize(processor.tokenizer, text)) for prompt, text in rows]
        objective = sampled(settings.reward_scale, settings.reward_eps, settings.generations)
        train_levels(
            settings, objective, written=written, correctness=[CORRECT] * len(rows), between="\n", **common
        )  # fmt: skip
    return _found(times, reward.lengths)


def writing(model: str, rows: list[tuple[Any, str]], settings: GRPOSettings) -> dict[str, Any]:
    """Return the CPU seconds in which the base model writes the reports of steps of conditional training."""
    from conrad_bench.engines.base import Job
    from conrad_bench.engines.transformers import TransformersEngine
    from conrad_bench.types import Sampling

    engine = TransformersEngine(model=model)
    engine._load()
    times, lengths = [time.process_time()], []
    for start in range(0, len(rows), settings.claims_per_pass):
        jobs = [Job(prompt) for prompt, _ in rows[start : start + settings.claims_per_pass]]
        lengths += [len(g.token_ids) for g in engine.generate(jobs, Sampling(max_tokens=settings.max_tokens), None)]
        times.append(time.process_time())
    return _found(times, lengths)


def _found(times: list[float], lengths: list[int]) -> dict[str, Any]:
    return {"seconds": [b - a for a, b in itertools.pairwise(times)], "lengths": lengths}


def measure(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the steps of one side took."""
    model = arguments.model
    settings = GRPOSettings(
        mode="conditional" if side == "conditional" else "joint", batch_size=arguments.rollouts,
        max_tokens=arguments.max_tokens, min_parse_rate=0.0, checkpoints=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pictures, out = Path(folder) / "pictures", Path(folder) / "out"
        pictures.mkdir()
        out.mkdir()
        number = arguments.steps * settings.claims_per_pass
        rows = studies(pictures, number, FILM if arguments.films else None)
        if side == "stock":
            return stock(model, rows, settings, out)
        if side == "writing":
            return writing(model, rows, settings)
        return ours(side, model, rows, settings, out)


def main() -> None:
    """Measure every side in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description="A step of ConRad beside a step of stock TRL.")
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--films", action="store_true")
    parser.add_argument("--side", choices=(*SIDES, "writing"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments)))
        return
    print("| a step of | CPU seconds (each step) | median | of stock's | tokens of a text: mean, longest |")
    print("| --- | --- | --- | --- | --- |")
    base = 0.0
    for side in (*SIDES, "writing"):
        done = subprocess.run([sys.executable, *sys.argv, "--side", side], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        median, lengths = statistics.median(found["seconds"]), found["lengths"]
        base = base or median
        each = ", ".join(f"{seconds:.2f}" for seconds in found["seconds"])
        long = f"{statistics.mean(lengths):.0f}, {max(lengths)}" if lengths else "-"
        name = "writing conditional's reports before" if side == "writing" else side
        print(f"| {name} | {each} | {median:.2f} | {median / base:.2f} | {long} |", flush=True)


if __name__ == "__main__":
    main()
