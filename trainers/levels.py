"""Trains an adapter on the likelihoods of all eleven confidences behind what the base model wrote.

One loop serves SFT, exact ConRad and conditional ConRad; they differ in the objective (trainers/objectives.py). Nothing
before the confidence marker depends on the activated adapter: keys and values up to there are computed once for a
claim, without gradient, and the forward and backward pass of a step covers one small tree of answers for each claim.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from conrad_bench.engines.inputs import stop_tokens
from conrad_bench.engines.loading import hush_imports
from conrad_bench.errors import ConfigError
from conrad_bench.storage import write_bytes
from conrad_bench.trainers.adapters import language_lora, save_adapter, trainable
from conrad_bench.trainers.answers import answer_log_probabilities, tree_of
from conrad_bench.trainers.group import add_up, place, row_seed, wait_for_all
from conrad_bench.trainers.guard import Guard
from conrad_bench.trainers.masks import ending_ids, level_ids, marker_ids
from conrad_bench.trainers.objectives import Claims, Objective, spread
from conrad_bench.trainers.prefix import Prefix, Written, prefill
from conrad_bench.trainers.settings import TrainingSettings, sharing_problem
from conrad_bench.trainers.tracking import keep_log_until, log_line, tracked

REMEDY = "lower the method's learning_rate, or look at what the model writes: conrad-bench run --methods verbalized"
"""What may help where the confidence format is not kept."""


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
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train an activated adapter and leave it in the folder `out` (adapter_model.safetensors, adapter_config.json,
    training.jsonl).

    `written` are the prompts with what the base model wrote before each confidence, `correctness` (n,) in [0, 1] what
    the scorer says of it, `weights` (n,) how much each claim counts (None: all alike, 1), `between` what stands before
    the marker. `stage(label, total)` is a context manager that yields a function to report progress with. An
    interrupted training goes on from its last checkpoint and ends with the same bytes; the workers of a group train one
    adapter together, the one that a single process trains, up to float noise. Raises TrainingError if the policy loses
    the format, never has it, or gets no gradient (`guard.Guard`), ConfigError for more workers than claims in a pass.
    """
    hush_imports()  # peft imports it where it is installed
    from peft import get_peft_model

    rank, workers = place()
    if problem := sharing_problem(settings, workers):
        raise ConfigError(problem)
    tokenizer = processor.tokenizer
    marker, levels = marker_ids(tokenizer, between), level_ids(tokenizer, between)
    ends = [*sorted(stop_tokens(torch_model.generation_config, tokenizer)), *ending_ids(tokenizer, between)]
    tree = tree_of(marker, levels, ends)
    torch.manual_seed(seed)
    model = get_peft_model(torch_model, language_lora(torch_model, settings.rank, marker))
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=0.0)
    steps, order = settings.steps_for(len(written)), settings.order_of(len(written), seed)
    size, passes = settings.claims_per_pass, settings.accumulation
    checkpoint, log = out / "checkpoint.safetensors", out / "training.jsonl"
    done = _restore(checkpoint, parameters, optimizer)
    if rank == 0:
        keep_log_until(log, done)
    guard = Guard(settings.min_parse_rate, REMEDY)
    wait_for_all()
    guard.resume(log)
    save_every = max(1, -(-steps // settings.checkpoints))
    model.train()

    def likelihoods(prefix: Prefix, base: bool = False) -> torch.Tensor:
        with model.disable_adapter() if base else nullcontext():
            return answer_log_probabilities(model, prefix, tree)

    def one_pass(step: int, part: int) -> torch.Tensor:
        """Add the gradient of one forward pass; return the sums of loss, reward, readable mass and entropy."""
        at = (step * passes + part) * size
        numbers = range(at, at + size)[rank::workers]
        rows = [order[number] for number in numbers]
        prefix = prefill(model, processor, [written[row] for row in rows])
        reference = None
        if getattr(settings, "beta", 0.0):
            with torch.no_grad():
                reference = likelihoods(Prefix(copy.deepcopy(prefix.cache), prefix.mask), base=True)
        logp = likelihoods(prefix)
        seeds = [row_seed(seed, step, number - step * passes * size) for number in numbers]
        loss, reward = objective(logp, Claims([correctness[row] for row in rows], seeds, reference))
        if weights is not None:
            loss = loss * loss.new_tensor([weights[row] for row in rows])
        (loss.sum() / (size * passes)).backward()
        kept = logp.detach()
        found = torch.stack([loss.detach(), reward, kept.exp().sum(1), spread(kept)])
        return found.sum(1).double()

    with (
        stage("training the confidence", steps) as advance,
        tracked(settings.report_to, out, settings.model_dump(mode="json"), done) as report,
    ):
        advance(done)
        for step in range(done, steps):
            optimizer.param_groups[0]["lr"] = settings.rate_at(step, steps)
            sums = torch.stack([one_pass(step, part) for part in range(passes)]).sum(0) / (size * passes)
            add_up([sums])
            add_up(p.grad for p in parameters.values() if p.grad is not None)
            total, reward, parsed, entropy = sums.tolist()
            norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm))
            values = {
                "loss": total,
                "grad_norm": norm,
                "reward": reward,
                "parse_rate": parsed,
                "entropy": entropy,
                "learning_rate": settings.rate_at(step, steps),
            }
            report(step + 1, values)
            if rank == 0:
                with open(log, "a", encoding="utf-8") as file:
                    file.write(log_line(step + 1, values))
            guard.step(parsed, norm)
            optimizer.step()
            optimizer.zero_grad()
            advance(1)
            if rank == 0 and (step + 1) % save_every == 0 and step + 1 < steps:
                _save(checkpoint, parameters, optimizer, step + 1)
    guard.end()
    if rank == 0:
        save_adapter(model, base_model, out)
        checkpoint.unlink(missing_ok=True)
    wait_for_all()


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
