"""Trains an adapter on the likelihoods of all eleven confidences behind what the base model wrote.

One function serves SFT, R-Tuning, exact ConRad and conditional ConRad; they differ in the objective
(trainers/objectives.py), and R-Tuning in its two answers.
Nothing before the confidence marker depends on the activated adapter: keys and values up to there are computed once for
a claim, without gradient, and the forward and backward pass of a step covers one small tree of answers for each claim.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conrad_bench.engines.inputs import stop_tokens
from conrad_bench.engines.loading import hush_imports
from conrad_bench.reading.elicitation import STATED, Wording
from conrad_bench.trainers.adapters import language_lora
from conrad_bench.trainers.answers import answer_log_probabilities, tree_of
from conrad_bench.trainers.group import row_seed
from conrad_bench.trainers.loop import train_adapter
from conrad_bench.trainers.masks import ending_ids, level_ids, marker_ids
from conrad_bench.trainers.objectives import Claims, Objective, spread
from conrad_bench.trainers.prefix import Written, prefill
from conrad_bench.trainers.settings import TrainingSettings


def train_levels(
    settings: TrainingSettings,
    objective: Objective,
    *,
    torch_model: Any,
    processor: Any,
    written: Sequence[Written],
    correctness: Sequence[float],
    weights: Sequence[float] | None = None,
    between: str,
    wording: Wording = STATED,
    noised: Sequence[Written] | None = None,
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train an activated adapter and leave it in the folder `out` (adapter_model.safetensors, adapter_config.json,
    training.jsonl).

    `written` are the prompts with what the base model wrote before each confidence, `correctness` (n,) in [0, 1] what
    the scorer says of it, `weights` (n,) how much each claim counts (None: all alike, 1), `between` what stands before
    the marker, `wording` the marker and its answers, `noised` (n,) the same beside noised pictures, where the objective
    compares them. `stage(label, total)` is a context manager that yields a function to report progress with. An
    interrupted training goes on from its last checkpoint and ends with the same bytes; the workers of a group train one
    adapter together, the one that a single process trains, up to float noise. Raises TrainingError if the policy loses
    the format, never has it, or gets no gradient (`guard.Guard`), ConfigError for more workers than claims in a pass.
    """
    hush_imports()  # peft imports it where it is installed
    from peft import get_peft_model

    tokenizer = processor.tokenizer
    marker, levels = marker_ids(tokenizer, between, wording), level_ids(tokenizer, between, wording)
    ends = [*sorted(stop_tokens(torch_model.generation_config, tokenizer)), *ending_ids(tokenizer, between)]
    tree = tree_of(marker, levels, ends)
    torch.manual_seed(seed)
    model = get_peft_model(torch_model, language_lora(torch_model, settings.rank, marker))

    def likelihoods(rows: Sequence[Written], beside_base: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the log-likelihoods of the answers to some claims, under the adapter and, where asked, the base."""
        order: list[int] = []
        found, known = [], []
        for which, prefix in prefill(model, processor, rows):
            order += which
            if beside_base:
                with torch.no_grad(), model.disable_adapter():
                    again = replace(prefix, cache=copy.deepcopy(prefix.cache))
                    known.append(answer_log_probabilities(model, again, tree))
            found.append(answer_log_probabilities(model, prefix, tree))
        back = torch.tensor(order).argsort()
        return torch.cat(found)[back], torch.cat(known)[back] if known else None

    def learn(step: int, rows: Sequence[int], places: Sequence[int], share: float) -> torch.Tensor:
        logp, reference = likelihoods([written[row] for row in rows], bool(getattr(settings, "beta", 0.0)))
        seeds = [row_seed(seed, step, place) for place in places]
        beside = None if noised is None else likelihoods([noised[row] for row in rows], False)[0]
        loss, reward = objective(logp, Claims([correctness[row] for row in rows], seeds, reference, beside))
        if weights is not None:
            loss = loss * loss.new_tensor([weights[row] for row in rows])
        (loss.sum() * share).backward()
        kept = logp.detach()
        return torch.stack([loss.detach(), reward, kept.exp().sum(1), spread(kept)]).sum(1)

    train_adapter(
        settings,
        model,
        learn,
        names=("loss", "reward", "parse_rate", "entropy"),
        label="training the confidence",
        processor=processor,
        prompts=[w.prompt for w in written],
        base_model=base_model,
        seed=seed,
        stage=stage,
        out=out,
    )
