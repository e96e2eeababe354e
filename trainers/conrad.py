"""Trains a ConRad adapter: settings, LoRA, data set, checkpoints, and the adapter that is left at the end."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from conrad_bench.storage import write_text

if TYPE_CHECKING:
    from conrad_bench.trainers.grpo import Reward, Written

LANGUAGE_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""LoRA acts on the language model only (ConRad, section 3)."""


class GRPOSettings(BaseModel):
    """Hyperparameters of ConRad. Defaults are the paper's where it gives them."""

    mode: Literal["conditional", "joint"] = "conditional"
    """conditional: the base writes the report, an activated LoRA states the confidence. joint: one LoRA does both."""
    samples: int = Field(3000, ge=1)
    """Training examples (paper: 3000 at report level), drawn at random where there are more."""
    epochs: float = Field(1.0, gt=0)
    generations: int = Field(8, ge=2)
    """Rollouts per example and step: the group of GRPO."""
    batch_size: int = Field(64, ge=2)
    """Rollouts per forward pass, a multiple of `generations`."""
    accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    rank: int = Field(16, ge=1)
    """LoRA rank; alpha is twice the rank."""
    reward_scale: float = Field(100.0, gt=0)
    """lambda of the reward."""
    reward_eps: float = Field(0.01, gt=0, lt=0.5)
    """Confidences are clipped to [eps, 1 - eps] in the reward."""
    scale_rewards: Literal["none", "group", "batch"] = "none"
    """What advantages are divided by: nothing (then lambda has a meaning), the group's or the batch's deviation."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL term to the base model, on the confidence tokens."""
    max_grad_norm: float = Field(1.0, gt=0)
    min_parse_rate: float = Field(0.5, ge=0, le=1)
    """Training stops with an error when fewer rollouts than this state a readable confidence."""
    max_tokens: int = Field(512, ge=1)
    """Longest report, in tokens."""
    checkpoints: int = Field(5, ge=1)
    """Number of checkpoints over the whole training; an interrupted training continues from the last one."""


def train_conrad(
    settings: GRPOSettings,
    *,
    torch_model: Any,
    processor: Any,
    prompts: Sequence[dict[str, Any]],
    reward: Reward,
    written: Sequence[Written],
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train an adapter and leave it in the folder `out` (adapter_model.safetensors, adapter_config.json,
    training.jsonl).

    `prompts` are the rows of the data set: chat messages under "prompt", PIL images under "images" (joint mode), and
    the number of the row under "row". `written` holds the base model's reports (conditional mode). `stage(label,
    total)` is a context manager that yields a function to report progress with. Raises TrainingError if the run loses
    the format or gets no gradient.
    """
    from conrad_bench.engines.loading import hush_bitsandbytes

    hush_bitsandbytes()  # peft imports it where it is installed
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from transformers.utils import logging
    from trl import GRPOConfig

    from conrad_bench.trainers.confidence_tokens import marker_ids
    from conrad_bench.trainers.grpo import ConditionalTrainer, JointTrainer, Watch

    conditional = settings.mode == "conditional"
    marker = marker_ids(processor.tokenizer)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=0.0,
        target_modules=LANGUAGE_LAYERS,
        task_type="CAUSAL_LM",
        alora_invocation_tokens=marker if conditional else None,
    )
    steps = training_steps(settings, len(prompts))
    checkpoints = out / "checkpoints"
    cuda = torch.cuda.is_available()
    arguments = GRPOConfig(
        output_dir=str(checkpoints),
        use_cpu=not cuda,
        bf16=cuda,
        per_device_train_batch_size=settings.batch_size,
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
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=cuda,
        seed=seed,
        shuffle_dataset=False,
    )
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "model": torch_model,
        "processing_class": processor,
        "args": arguments,
        "train_dataset": Dataset.from_list(list(prompts)).select(training_order(settings, len(prompts), seed)),
        "peft_config": lora,
        "reward": reward,
        "min_parse_rate": settings.min_parse_rate,
    }
    logging.disable_progress_bar()
    trainer = ConditionalTrainer(written=written, marker=marker, **common) if conditional else JointTrainer(**common)
    trainer.remove_callback(PrinterCallback)
    last = _last_checkpoint(checkpoints)
    done = int(last.name.rsplit("-", 1)[1]) if last else 0
    _keep_log_until(out / "training.jsonl", done)
    with stage("training ConRad", steps) as advance:
        advance(done)
        trainer.add_callback(Watch(advance, out / "training.jsonl", resumed=done > 0))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.model.save_pretrained(out)
    _name_base(out / "adapter_config.json", base_model)
    shutil.rmtree(checkpoints, ignore_errors=True)
    (out / "README.md").unlink(missing_ok=True)


def training_order(settings: GRPOSettings, examples: int, seed: int) -> list[int]:
    """Return the number of the example of each group of rollouts: epoch after epoch, each in an order of its own.

    The trainer takes them for one pass. Its own shuffling would begin again with the first epoch's order where an
    interrupted training goes on in a later epoch.
    """
    groups = training_steps(settings, examples) * settings.batch_size * settings.accumulation // settings.generations
    draw = random.Random(seed)
    order: list[int] = []
    while len(order) < groups:
        order += draw.sample(range(examples), examples)
    return order[:groups]


def _name_base(path: Path, base_model: str) -> None:
    """Replace the base model's folder by what identifies it: equal adapters are equal on every machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


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


def training_steps(settings: GRPOSettings, examples: int) -> int:
    """Return the number of optimizer steps for a number of training examples."""
    rollouts = examples * settings.epochs * settings.generations
    return max(1, round(rollouts / (settings.batch_size * settings.accumulation)))


def invocation(artifact: Path) -> list[int]:
    """Return the token ids that switch an activated LoRA on, as its adapter_config.json has them."""
    config = json.loads((artifact / "adapter_config.json").read_text(encoding="utf-8"))
    return list(config["alora_invocation_tokens"])
