"""The loop of the trainers that need no rollouts: shared steps, schedule, log, guard, checkpoints, and the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from conrad_bench.engines.inputs import ahead
from conrad_bench.errors import ConfigError
from conrad_bench.storage import write_bytes
from conrad_bench.trainers.adapters import save_adapter, trainable
from conrad_bench.trainers.group import add_up, place, wait_for_all
from conrad_bench.trainers.guard import Guard
from conrad_bench.trainers.settings import TrainingSettings, sharing_problem
from conrad_bench.trainers.tracking import keep_log_until, log_line, tracked
from conrad_bench.types import Prompt

_REMEDY = "lower the method's learning_rate, or look at what the model writes: conrad-bench run --methods verbalized"


class Learn(Protocol):
    """One forward and backward pass."""

    def __call__(self, step: int, rows: Sequence[int], places: Sequence[int], share: float) -> torch.Tensor:
        """Add `share` times the gradient of the rows' losses to the parameters; return the sums of the named numbers.

        `places` are the rows' places in the step, whichever worker has them.
        """


def train_adapter(
    settings: TrainingSettings,
    model: Any,
    learn: Learn,
    *,
    names: Sequence[str],
    label: str,
    processor: Any,
    prompts: Sequence[Prompt],
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train a PEFT model on rows, one for each of `prompts`, and leave its adapter in the folder `out`
    (adapter_model.safetensors, adapter_config.json, training.jsonl).

    `names` are those of the numbers that `learn` sums; `parse_rate`, where it is among them, is watched by the guard,
    as is the gradient. The pictures of a pass are prepared while the model is at the one before. An interrupted
    training goes on from its last checkpoint and ends with the same bytes; the workers of a group train one adapter
    together, the one that a single process trains, up to float noise. Raises TrainingError if the guard stops it,
    ConfigError for more workers than rows in a pass.
    """
    rank, workers = place()
    if problem := sharing_problem(settings, workers):
        raise ConfigError(problem)
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=0.0)
    steps, order = settings.steps_for(len(prompts)), settings.order_of(len(prompts), seed)
    size, passes = settings.claims_per_pass, settings.accumulation
    share = 1 / (size * passes)
    checkpoint, log = out / "checkpoint.safetensors", out / "training.jsonl"
    done = _restore(checkpoint, parameters, optimizer)
    if rank == 0:
        keep_log_until(log, done)
    guard = Guard(settings.min_parse_rate, _REMEDY)
    wait_for_all()
    guard.resume(log)
    save_every = max(1, -(-steps // settings.checkpoints))
    model.train()

    def rows_of(nth: int) -> list[int]:
        """Return this worker's rows of the nth pass of the training, none behind the last."""
        return list(order[nth * size : (nth + 1) * size][rank::workers]) if nth < steps * passes else []

    def one_pass(step: int, part: int) -> torch.Tensor:
        nth = step * passes + part
        ahead(processor, [prompts[row] for row in rows_of(nth) + rows_of(nth + 1)])
        places = range(part * size, (part + 1) * size)[rank::workers]
        return learn(step, rows_of(nth), places, share).double()

    with (
        stage(label, steps) as advance,
        tracked(settings.report_to, out, settings.model_dump(mode="json"), done) as report,
    ):
        advance(done)
        for step in range(done, steps):
            rate = settings.rate_at(step, steps)
            optimizer.param_groups[0]["lr"] = rate
            sums = torch.stack([one_pass(step, part) for part in range(passes)]).sum(0) * share
            add_up([sums])
            add_up(p.grad for p in parameters.values() if p.grad is not None)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm))
            values = {**dict(zip(names, sums.tolist(), strict=True)), "grad_norm": norm, "learning_rate": rate}
            report(step + 1, values)
            if rank == 0:
                with open(log, "a", encoding="utf-8") as file:
                    file.write(log_line(step + 1, values))
            guard.step(values.get("parse_rate"), norm)
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
    """Load what `_save` wrote and return the number of steps done, 0 where there is no whole checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        return 0
    try:
        tensors = load(path.read_bytes())
    except SafetensorError:  # torn: the training begins again
        return 0
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"weight.{name}"])
        state = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {**state, "step": tensors[f"step.{name}"]}
    return int(tensors["step"])
