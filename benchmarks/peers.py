"""What the same answers cost elsewhere: medvlm and plain transformers beside this package.

    pip install --no-deps medvlm          # left out, with the reason, where it cannot be imported
    OMP_NUM_THREADS=1 python benchmarks/peers.py MODEL [--questions 60] [--samples 5,20]

MODEL is the folder of an image-text-to-text checkpoint; the questions are those of vqa_rad, phantom pictures where
$VQA_RAD_ROOT is not set. Every way gets the same loaded weights, prompts and pictures, and as many tokens an answer at
temperature 0.7 (0 for the greedy one): what reading the prompt once saves is the more, the shorter the answers are.
Counted are seconds of this process's CPU time for all questions, loading left out. Ours go through
`conrad_bench.Model` into a store on disk. Beneath the table stands what agrees: tokens and log-probabilities of greedy
answers, and the probabilities of "True".
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conrad_bench.config import load_config
from conrad_bench.engines.inputs import collate, encode, tokenize
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.plan import load_task, make_plan
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Message, Prompt, Sampling

TEMPLATE = (
    "You are a medical AI assistant. Look at the provided medical image and answer the following question.\n\n"
    "Question: {question}\n\nProvide only the answer, without any explanation.\nFormat:\nAnswer: [your answer]"
)
"""medvlm's prompt, so that all read the same."""


def questions(number: int) -> list[tuple[str, str]]:
    """Return (picture, question) of closed test questions."""
    registry = Registry()
    given: dict[str, Any] = {"methods": ["base"], "tasks": ["vqa_rad"], "options": {"phantom": {"studies": 3000}}}
    if root := os.environ.get("VQA_RAD_ROOT"):
        given["data_roots"] = {"vqa_rad": root}
    plan = make_plan(load_config(None, given, registry), registry)
    found = [(e.images[0], e.context) for e in load_task(plan, "vqa_rad", Reporter(quiet=True)).split("test")]
    return found[:number]


class Ours:
    """This package, on an engine that is loaded once."""

    def __init__(self, model: str, asked: Sequence[tuple[str, str]], batch_size: int, tokens: int) -> None:
        self.warm, self.cold = Sampling(0.7, 1.0, tokens), Sampling(max_tokens=tokens)
        self.engine = TransformersEngine(model=model, device="cpu", dtype="float32", batch_size=batch_size)
        self.prompts = [Prompt((Message("user", TEMPLATE.format(question=q)),), (path,)) for path, q in asked]
        self.engine.generate([], self.cold, None)

    def model(self, folder: str) -> Model:
        """Return the model behind an empty store."""
        return Model(self.engine, RolloutStore(Path(folder)).__enter__(), Reporter(quiet=True))

    def samples(self, number: int) -> Any:
        """Return the texts of several samples of each answer."""
        with tempfile.TemporaryDirectory() as folder:
            return [[r.text for r in row] for row in self.model(folder).sample(self.prompts, number, self.warm)]

    def greedy(self) -> list[tuple[list[int], list[float]]]:
        """Return tokens and log-probabilities of the greedy answers."""
        with tempfile.TemporaryDirectory() as folder:
            return [
                (list(r.token_ids), list(r.logprobs or ()))
                for r in self.model(folder).generate(self.prompts, self.cold)
            ]

    def p_true(self, prompts: Sequence[Prompt]) -> list[float]:
        """Return the probability of True against False of each prompt."""
        with tempfile.TemporaryDirectory() as folder:
            scores = self.model(folder).score(prompts, ("True", "False"))
            return [1 / (1 + math.exp(no - yes)) for yes, no in scores]


class Plain:
    """transformers as its documentation says: one prompt after the other, `num_return_sequences` for samples."""

    def __init__(self, ours: Ours) -> None:
        loaded = ours.engine._load()
        self.network, self.processor, self.stops = loaded.model, loaded.processor, loaded.stop_ids
        self.prompts, self.tokens = ours.prompts, ours.cold.max_tokens

    def _inputs(self, prompt: Prompt) -> Any:
        return collate([encode(self.processor, prompt)], 0, True, "cpu", self.network.dtype)

    def samples(self, number: int) -> Any:
        """Return the texts of several samples of each answer."""
        import torch

        found = []
        for prompt in self.prompts:
            inputs = self._inputs(prompt)
            with torch.no_grad():
                out = self.network.generate(
                    **inputs,
                    do_sample=True,
                    temperature=0.7,
                    top_k=0,
                    max_new_tokens=self.tokens,
                    num_return_sequences=number,
                )
            written = out[:, inputs["input_ids"].shape[1] :]
            found.append(self.processor.tokenizer.batch_decode(written, skip_special_tokens=True))
        return found

    def greedy(self) -> list[tuple[list[int], list[float]]]:
        """Return tokens and log-probabilities of the greedy answers."""
        import torch

        found = []
        for prompt in self.prompts:
            inputs = self._inputs(prompt)
            with torch.no_grad():
                out = self.network.generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=self.tokens,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            values = [float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, ids, strict=True)]
            found.append((ids, values))
        return found

    def p_true(self, prompts: Sequence[Prompt]) -> list[float]:
        """Return the probability of True against False of each prompt."""
        import torch

        yes, no = (tokenize(self.processor.tokenizer, word)[0] for word in ("True", "False"))
        found = []
        for prompt in prompts:
            with torch.no_grad():
                row = self.network(**self._inputs(prompt)).logits[0, -1].log_softmax(-1)
            found.append(1 / (1 + math.exp(float(row[no] - row[yes]))))
        return found


def medvlm_samples(ours: Ours, asked: Sequence[tuple[str, str]]) -> Callable[[int], Any]:
    """Return medvlm's sampling on the same model. Its loader knows three families by name; its loop knows none."""
    from medvlm.confidence import sampling
    from medvlm.configs import ModelConfig

    from conrad_bench.engines.opening import open_image
    from conrad_bench.engines.processors import load_processor

    network, processor = ours.engine._load().model, load_processor(ours.engine.model, None)

    def run(number: int) -> Any:
        examples = [{"image": open_image(path), "question": question} for path, question in asked]
        sampling.PROMPT_MAX_TOKENS["base"] = ours.cold.max_tokens
        found = sampling.compute_sampling_confidence(
            network, processor, ModelConfig("qwen-vl"), examples, number, 0.7, show_progress=False
        )
        return [each.raw_responses for each in found]

    return run


def measured(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a function, and what it returns."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="The same answers elsewhere.")
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--samples", default="5,20")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    arguments = parser.parse_args()
    asked = questions(arguments.questions)
    numbers = [int(number) for number in arguments.samples.split(",")]
    ours = Ours(arguments.model, asked, max(numbers), arguments.tokens)
    plain = Plain(ours)
    try:
        medvlm: Callable[[int], Any] | str = medvlm_samples(ours, asked)
    except ImportError as error:
        medvlm = str(error)
    print(f"{len(asked)} questions, at most {arguments.tokens} tokens an answer, CPU seconds\n")
    print("| | conrad-bench | plain transformers | medvlm | ours / medvlm |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for number in numbers:
        mine, _ = measured(lambda number=number: ours.samples(number))  # type: ignore[misc]
        theirs, _ = measured(lambda number=number: plain.samples(number))  # type: ignore[misc]
        cells = ["-", "-"]
        if not isinstance(medvlm, str):
            peer, _ = measured(lambda number=number: medvlm(number))  # type: ignore[misc]
            cells = [f"{peer:.1f}", f"{mine / peer:.2f}"]
        print(f"| {number} samples | {mine:.1f} | {theirs:.1f} | {' | '.join(cells)} |", flush=True)
    (mine, answers), (theirs, others) = measured(ours.greedy), measured(plain.greedy)
    print(f"| greedy with log-probabilities | {mine:.1f} | {theirs:.1f} | - | - |", flush=True)
    turned = [
        Prompt((Message("user", f"{prompt.messages[0].text}\n\nIs this answer right? True or False?"),), prompt.images)
        for prompt in ours.prompts
    ]
    (mine, values), (theirs, their_values) = (
        measured(lambda: ours.p_true(turned)),
        measured(lambda: plain.p_true(turned)),
    )
    print(f"| P(True) | {mine:.1f} | {theirs:.1f} | - | - |\n", flush=True)
    same = sum(a == b for (a, _), (b, _) in zip(answers, others, strict=True))
    far = max(
        (
            abs(x - y)
            for (a, p), (b, q) in zip(answers, others, strict=True)
            if a == b
            for x, y in zip(p, q, strict=True)
        ),
        default=math.nan,
    )
    print(
        f"Greedy answers that agree token for token: {same} of {len(answers)}; log-probabilities differ by {far:.1e}."
    )
    print(f"P(True) differs by {max(abs(a - b) for a, b in zip(values, their_values, strict=True)):.1e}.")
    if isinstance(medvlm, str):
        print(f"medvlm was left out: {medvlm}.")


if __name__ == "__main__":
    main()
