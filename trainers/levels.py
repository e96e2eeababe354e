"""Trains an adapter on the likelihoods of all eleven confidences: supervised (SFT), or on the exact expected reward.

A confidence takes eleven values, so the policy pi(c | response) is known in full from the likelihoods of eleven short
answers, their ends included: "1" and "10" exclude each other, and what the eleven lack to 1 is the probability of a
malformed answer. GRPO estimates the gradient of the expected reward from a group of sampled confidences; here it is
differentiated exactly, with no sampling and no group.

    sft     - log pi(the level nearest to the correctness)
    exact   - (sum over c of pi(c) R(c, r) + pi(malformed) R(violation)) - tau H(pi)

The malformed term matters: all rewards are negative, and without it the policy escapes into malformed answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from conrad_bench.engines.inputs import stop_tokens
from conrad_bench.engines.loading import hush_imports
from conrad_bench.errors import ConfigError, TrainingError
from conrad_bench.reading.elicitation import LEVELS
from conrad_bench.storage import write_bytes, write_text
from conrad_bench.trainers.adapters import language_lora, save_adapter
from conrad_bench.trainers.group import add_up, place, wait_for_all
from conrad_bench.trainers.masks import ending_ids, level_ids, marker_ids
from conrad_bench.trainers.prefix import Prefix, Written, continue_from, prefill, rows_of
from conrad_bench.trainers.rewards import log_score, violation_reward
from conrad_bench.trainers.settings import LevelSettings, level_steps, sharing_problem
from conrad_bench.trainers.tracking import log_line, tracked

Objective = Callable[[torch.Tensor, Sequence[float]], torch.Tensor]
"""From log-probabilities of the eleven levels, shape (n, 11), and correctness (n,) to each claim's loss, shape (n,)."""


def supervised(logp: torch.Tensor, correctness: Sequence[float]) -> torch.Tensor:
    """Return the cross-entropy to the level nearest to the correctness (Verbalize Supervised in ConRad, table 1)."""
    target = torch.tensor([round(r * (LEVELS - 1)) for r in correctness], device=logp.device)
    return -logp.gather(1, target[:, None])[:, 0]


def expected_reward(scale: float, eps: float, entropy: float, normalise: bool) -> Objective:
    """Return the objective of exact ConRad: minus the expected log score, minus `entropy` * scale * H(pi).

    With `normalise` each claim's rewards are divided by their deviation under the policy, as GRPO's group scaling does.
    """

    def objective(logp: torch.Tensor, correctness: Sequence[float]) -> torch.Tensor:
        worst = violation_reward(scale, eps)
        rewards = torch.tensor(
            [[log_score(c / (LEVELS - 1), r, scale, eps) for c in range(LEVELS)] for r in correctness],
            device=logp.device,
        )
        p = logp.exp()
        malformed = (1 - p.sum(1)).clamp(min=0.0)
        # Relative to a malformed answer, so that its probability need not be written as a twelfth term.
        advantage = rewards - worst
        if normalise:
            mean = (p * advantage).sum(1, keepdim=True)
            variance = (p * (advantage - mean) ** 2).sum(1, keepdim=True) + malformed[:, None] * mean**2
            advantage = (advantage / variance.sqrt().clamp(min=1e-3 * scale)).detach()
        gain = (p * advantage).sum(1)
        spread = -(p * logp).sum(1)
        unit = 1.0 if normalise else scale
        return -(gain + entropy * unit * spread)

    return objective


def level_log_probabilities(
    model: Any, prefix: Prefix, marker: Sequence[int], levels: Sequence[Sequence[int]], ends: Sequence[int]
) -> torch.Tensor:
    """Return log pi(level, then an end) for each row of the prefix and each level, shape (rows, 11), float32.

    `levels` are the token ids of each level as they stand behind the marker.
    """
    rows, device = len(prefix.mask), prefix.mask.device
    longest = max(map(len, levels))
    padded = [[*marker, *ids, *[ids[-1]] * (longest - len(ids))] for ids in levels]
    cache, mask = rows_of(prefix, [row for row in range(rows) for _ in levels])
    ids = torch.tensor(padded * rows, device=device)
    logits = continue_from(model, ids, cache, mask, keep=longest + 1)[0]
    logp = torch.log_softmax(logits.float(), dim=-1)
    chosen = logp[:, :-1].gather(2, ids[:, len(marker) :, None])[..., 0]
    ended = logp[:, 1:][..., list(ends)].logsumexp(-1)
    lengths = torch.tensor([len(level) for level in levels] * rows, device=device)
    inside = torch.arange(longest, device=device) < lengths[:, None]
    total = (chosen * inside).sum(1) + ended.gather(1, lengths[:, None] - 1)[:, 0]
    return total.reshape(rows, len(levels))


def train_levels(
    settings: LevelSettings,
    objective: Objective,
    *,
    torch_model: Any,
    processor: Any,
    written: Sequence[Written],
    correctness: Sequence[float],
    between: str,
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
    weights: Sequence[float] | None = None,
) -> None:
    """Train an activated adapter and leave it in the folder `out` (adapter_model.safetensors, adapter_config.json,
    training.jsonl).

    `written` are the prompts with what the base model wrote before each confidence, `correctness` (n,) in [0, 1] what
    the scorer says of it, `weights` (n,) what each claim's loss counts (None: 1), `between` what stands before the
    marker. `stage(label, total)` is a context manager that yields a function to report progress with. An interrupted
    training goes on from its last checkpoint and ends with the same bytes; the workers of a group train one adapter
    together, the one that a single process trains, up to float noise. Raises TrainingError if the policy loses the
    format, ConfigError for more workers than claims in a batch.
    """
    hush_imports()  # peft imports it where it is installed
    from peft import get_peft_model

    rank, workers = place()
    if problem := sharing_problem(settings, workers):
        raise ConfigError(problem)
    tokenizer = processor.tokenizer
    marker, levels = marker_ids(tokenizer, between), level_ids(tokenizer, between)
    ends = [*sorted(stop_tokens(torch_model.generation_config, tokenizer)), *ending_ids(tokenizer, between)]
    torch.manual_seed(seed)
    model = get_peft_model(torch_model, language_lora(settings.rank, marker))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=0.0)
    steps = level_steps(settings, len(written))
    order = _order(len(written), steps * settings.batch_size * settings.accumulation, seed)
    checkpoint, log = out / "checkpoint.safetensors", out / "training.jsonl"
    done = _restore(checkpoint, parameters, optimizer)
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)[:done] if done and log.is_file() else []
    save_every = max(1, -(-steps // settings.checkpoints))
    model.train()
    options = settings.model_dump(mode="json")
    with (
        stage("training the confidence", steps) as advance,
        tracked(settings.report_to, out, options, done) as report,
    ):
        advance(done)
        for step in range(done, steps):
            if settings.schedule == "linear":
                optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / steps)
            sums = torch.zeros(2, dtype=torch.float64, device=next(iter(parameters.values())).device)
            for part in range(settings.accumulation):
                at = (step * settings.accumulation + part) * settings.batch_size
                rows = order[at : at + settings.batch_size][rank::workers]
                prefix = prefill(model, processor, [written[row] for row in rows])
                logp = level_log_probabilities(model, prefix, marker, levels, ends)
                losses = objective(logp, [correctness[row] for row in rows])
                if weights is not None:
                    losses = losses * losses.new_tensor([weights[row] for row in rows])
                loss = losses.mean() / settings.accumulation
                part_of_batch = len(rows) / settings.batch_size
                (loss * part_of_batch).backward()
                readable = float(logp.detach().exp().sum(1).mean()) / settings.accumulation
                sums += sums.new_tensor([loss.item(), readable]) * part_of_batch
            add_up([sums])
            add_up(p.grad for p in parameters.values() if p.grad is not None)
            total, parsed = sums.tolist()
            norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm))
            optimizer.step()
            optimizer.zero_grad()
            rate = optimizer.param_groups[0]["lr"]
            values = {"loss": total, "grad_norm": norm, "parse_rate": parsed, "learning_rate": rate}
            report(step + 1, values)
            lines.append(log_line(step + 1, values))
            advance(1)
            if parsed < 0.5 and step >= steps // 2:
                raise TrainingError(
                    f"the training lost the confidence format: at step {step + 1} only {parsed:.0%} of the probability "
                    "is on readable confidences; lower the method's learning_rate"
                )
            if rank == 0 and (step + 1) % save_every == 0 and step + 1 < steps:
                write_text(log, "".join(lines))
                _save(checkpoint, parameters, optimizer, step + 1)
    if rank == 0:
        write_text(log, "".join(lines))
        save_adapter(model, base_model, out)
        checkpoint.unlink(missing_ok=True)
    wait_for_all()


def _order(examples: int, number: int, seed: int) -> list[int]:
    """Return the order of the examples: epoch after epoch, each in an order of its own."""
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < number:
        order += draw.sample(range(examples), examples)
    return order[:number]


def _save(path: Path, parameters: dict[str, Any], optimizer: Any, step: int) -> None:
    """Write weights and optimizer state as one safetensors file: nothing is ever unpickled from a run folder."""
    from safetensors.torch import save

    tensors = {"step": torch.tensor(step)}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors |= {f"weight.{name}": parameter.detach()}
        tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
    write_bytes(path, save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}))


def _restore(path: Path, parameters: dict[str, Any], optimizer: Any) -> int:
    """Load what `_save` wrote and return the number of steps done, 0 where there is no checkpoint."""
    from safetensors.torch import load

    if not path.is_file():
        return 0
    tensors = load(path.read_bytes())
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"weight.{name}"])
        state = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {**state, "step": tensors[f"step.{name}"]}
    return int(tensors["step"])
