"""Trains a ConRad adapter: LoRA, data set, checkpoints, and the adapter that is left at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConfigError, MissingExtra
from conrad_bench.storage import write_text
from conrad_bench.trainers.adapters import language_lora, save_adapter
from conrad_bench.trainers.settings import GRPOSettings, sharing_problem, training_order, training_steps

if TYPE_CHECKING:
    from conrad_bench.trainers.grpo import Reward
    from conrad_bench.trainers.prefix import Written
    from conrad_bench.types import Prompt


def train_conrad(
    settings: GRPOSettings,
    *,
    torch_model: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    reward: Reward,
    written: Sequence[Written],
    between: str,
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train an adapter and leave it in the folder `out` (adapter_model.safetensors, adapter_config.json,
    training.jsonl).

    `prompts` are what is to be answered (joint mode), `written` what the base model wrote before each confidence
    (conditional mode), `between` is what stands before the marker; `reward` gets indices into one or the other.
    `stage(label, total)` is a context manager that yields a function to report progress with. The workers of a group
    train one adapter together, the same one that a single process trains, up to float noise. Raises TrainingError if
    the run loses the format or gets no gradient, ConfigError if a step cannot be shared equally.
    """
    from conrad_bench.engines.loading import hush_imports

    hush_imports()
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.utils import logging
    from trl import GRPOConfig

    from conrad_bench.trainers.group import place, share_random_state, wait_for_all
    from conrad_bench.trainers.grpo import ConditionalTrainer, JointTrainer, Watch
    from conrad_bench.trainers.masks import ending_ids, level_ids, marker_ids
    from conrad_bench.trainers.tracking import tracked

    conditional = settings.mode == "conditional"
    marker = marker_ids(processor.tokenizer, between)
    rows = written_rows(len(written)) if conditional else chat_rows(prompts)
    steps = training_steps(settings, len(rows))
    rank, workers = place()
    cuda = torch.cuda.is_available()
    if settings.vllm != "off":
        _require_vllm(settings.vllm, cuda)
    if problem := sharing_problem(settings, workers):
        raise ConfigError(problem)
    checkpoints = out / "checkpoints"
    logging.set_verbosity_error()
    arguments = GRPOConfig(
        output_dir=str(checkpoints),
        use_cpu=not cuda,
        bf16=cuda,
        per_device_train_batch_size=settings.batch_size // workers,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=cuda and not conditional,
        num_generations=settings.generations,
        max_completion_length=4 if conditional else settings.max_tokens,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        loss_type="grpo",
        scale_rewards=settings.scale_rewards,
        beta=settings.beta,
        temperature=1.0,
        mask_truncated_completions=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=max(1, -(-steps // settings.checkpoints)),
        save_total_limit=1,
        report_to="none",  # tracked() does that, for every trainer alike
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=cuda,
        use_vllm=settings.vllm != "off",
        vllm_mode="colocate" if settings.vllm in ("off", "colocate") else "server",
        vllm_server_base_url=settings.vllm if "://" in settings.vllm else None,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        seed=seed,
        shuffle_dataset=False,
    )
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "model": torch_model,
        "processing_class": processor,
        "args": arguments,
        "train_dataset": Dataset.from_list(rows).select(training_order(settings, len(rows), seed)),
        "peft_config": language_lora(settings.rank, marker if conditional else None),
        "reward": reward,
        "min_parse_rate": settings.min_parse_rate,
    }
    logging.disable_progress_bar()
    trainer: Any
    if conditional:
        unit = settings.reward_scale if settings.scale_rewards == "none" else 1.0
        trainer = ConditionalTrainer(
            written=written,
            marker=marker,
            ending=ending_ids(processor.tokenizer, between),
            openings=sorted({ids[0] for ids in level_ids(processor.tokenizer, between)}),
            entropy=settings.entropy * unit,
            **common,
        )
    else:
        trainer = JointTrainer(**common)
    trainer.remove_callback(PrinterCallback)
    last = _last_checkpoint(checkpoints)
    done = int(last.name.rsplit("-", 1)[1]) if last else 0
    if rank == 0:
        _keep_log_until(out / "training.jsonl", done)
        if last is not None:
            _spread_random_state(last, workers)
    share_random_state()
    options = settings.model_dump(mode="json")
    with stage("training ConRad", steps) as advance, tracked(settings.report_to, out, options, done) as report:
        advance(done)
        trainer.add_callback(Watch(advance, out / "training.jsonl", report, resumed=done > 0))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if rank == 0:
        save_adapter(trainer.accelerator.unwrap_model(trainer.model), base_model, out)
        shutil.rmtree(checkpoints, ignore_errors=True)
    wait_for_all()


def _require_vllm(vllm: str, cuda: bool) -> None:
    """Raise ConfigError without a GPU, MissingExtra without vLLM."""
    if not cuda:
        raise ConfigError(f"conrad.vllm={vllm} needs a GPU; set conrad.vllm=off")
    if find_spec("vllm") is None:
        raise MissingExtra(f"conrad.vllm={vllm} needs vLLM, of a version that trl supports: pip install vllm")


def written_rows(number: int) -> list[dict[str, Any]]:
    """Return rows of a data set for TRL that stand for what was written already."""
    return [{"prompt": [{"role": "user", "content": ""}], "row": i} for i in range(number)]


def chat_rows(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Return prompts as rows of a data set for TRL: chat messages, images, and the number of the row."""
    from conrad_bench.engines.inputs import open_image

    return [
        {
            "prompt": [{"role": message.role, "content": message.text} for message in prompt.messages],
            "images": [open_image(path) for path in prompt.images],
            "row": i,
        }
        for i, prompt in enumerate(prompts)
    ]


def _spread_random_state(checkpoint: Path, workers: int) -> None:
    """Give every worker its file of random states, whatever number of workers wrote the checkpoint: they are equal.

    The first worker's file is whole; others may have died while they wrote theirs.
    """
    found = min(checkpoint.glob("rng_state*.pth"))
    names = [f"rng_state_{rank}.pth" for rank in range(workers)] if workers > 1 else ["rng_state.pth"]
    for name in names:
        if name != found.name:
            shutil.copyfile(found, checkpoint / name)


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    found = [path for path in folder.glob("checkpoint-*") if _is_complete(path)]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written to its end (the trainer's state is its last file) and is not half removed.

    Without one of its files a training would go on in silence with a fresh optimizer or other random numbers.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, ValueError):
        return False
    needed = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state*.pth")
    return all(any(checkpoint.glob(name)) for name in needed)


def _keep_log_until(log: Path, step: int) -> None:
    """Drop the lines of an interrupted training that will be trained again; every step wrote one line."""
    if log.is_file():
        write_text(log, "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[:step]))
