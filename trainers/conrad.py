"""Trains a joint ConRad adapter: LoRA, data set, checkpoints, and the adapter that is left at the end."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConfigError, MissingExtra
from conrad_bench.trainers.adapters import language_lora, save_adapter, trainable
from conrad_bench.trainers.guard import Guard
from conrad_bench.trainers.settings import GRPOSettings, sharing_problem

if TYPE_CHECKING:
    from conrad_bench.trainers.grpo import Reward
    from conrad_bench.types import Prompt

_REMEDY = "lower conrad.learning_rate, or use conrad.mode=conditional, which cannot change the report"


def train_conrad(
    settings: GRPOSettings,
    *,
    torch_model: Any,
    processor: Any,
    prompts: Sequence[Prompt],
    reward: Reward,
    base_model: str,
    seed: int,
    stage: Callable[[str, int], Any],
    out: Path,
) -> None:
    """Train an adapter that writes report and confidence, and leave it in the folder `out`
    (adapter_model.safetensors, adapter_config.json, training.jsonl).

    `prompts` are what is to be answered; `reward` gets indices into them. `stage(label, total)` is a context manager
    that yields a function to report progress with. The model's device and dtype are those of the training. The workers
    of a group train one adapter together, the same one that a single process trains, up to float noise. Raises
    TrainingError if the run loses the format, never has it or gets no gradient, ConfigError if a step cannot be shared
    equally.
    """
    from conrad_bench.engines.loading import hush_imports

    hush_imports()
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.utils import logging
    from trl import GRPOConfig

    from conrad_bench.engines.images import freeze_vision
    from conrad_bench.engines.inputs import TextProcessor, picture_tokens
    from conrad_bench.trainers.group import place, wait_for_all
    from conrad_bench.trainers.grpo import JointTrainer, Watch
    from conrad_bench.trainers.tracking import keep_log_until, tracked

    steps = settings.steps_for(len(prompts))
    rank, workers = place()
    device, dtype = torch_model.device, torch_model.dtype
    cuda = device.type == "cuda"
    if settings.vllm != "off":
        _require_vllm(settings.vllm, cuda)
    if problem := sharing_problem(settings, workers):
        raise ConfigError(problem)
    if cuda and device.index is not None:
        torch.cuda.set_device(device)  # the one that accelerate takes
    checkpoints = out / "checkpoints"
    logging.set_verbosity_error()
    arguments = one_device(
        GRPOConfig(
            output_dir=str(checkpoints),
            use_cpu=not cuda,
            bf16=dtype == torch.bfloat16,
            fp16=dtype == torch.float16,
            per_device_train_batch_size=settings.batch_size // workers,
            gradient_accumulation_steps=settings.accumulation,
            gradient_checkpointing=cuda,
            num_generations=settings.generations,
            max_completion_length=settings.max_tokens,
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
    )
    torch.manual_seed(seed)
    logging.disable_progress_bar()
    processor.tokenizer.padding_side = "left"  # TRL pads ids there, and leaves the rest to the tokenizer
    trainer: Any = JointTrainer(
        model=torch_model,
        processing_class=processor.tokenizer if isinstance(processor, TextProcessor) else processor,
        args=arguments,
        train_dataset=Dataset.from_list(chat_rows(prompts)).select(settings.order_of(len(prompts), seed)),
        peft_config=language_lora(torch_model, settings.rank, None),
        reward=reward,
        barred=picture_tokens(processor),
    )
    freeze_vision(torch_model)
    trainable(trainer.model)  # under 4-bit weights TRL makes them bfloat16
    trainer.remove_callback(PrinterCallback)
    last = _last_checkpoint(checkpoints)
    done = int(last.name.rsplit("-", 1)[1]) if last else 0
    log = out / "training.jsonl"
    if rank == 0:
        keep_log_until(log, done)
    wait_for_all()
    guard = Guard(settings.min_parse_rate, _REMEDY)
    guard.resume(log)
    options = settings.model_dump(mode="json")
    with stage("training ConRad", steps) as advance, tracked(settings.report_to, out, options, done) as report:
        advance(done)
        trainer.add_callback(Watch(advance, log, report, guard))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    guard.end()
    if rank == 0:
        save_adapter(trainer.accelerator.unwrap_model(trainer.model), base_model, out)
        shutil.rmtree(checkpoints, ignore_errors=True)
    wait_for_all()


def one_device(arguments: Any) -> Any:
    """Return a trainer's arguments for one GPU: with several in sight transformers would share each batch out."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _require_vllm(vllm: str, cuda: bool) -> None:
    """Raise ConfigError without a GPU, MissingExtra without vLLM."""
    if not cuda:
        raise ConfigError(f"conrad.vllm={vllm} needs a GPU; set conrad.vllm=off")
    if find_spec("vllm") is None:
        raise MissingExtra(f"conrad.vllm={vllm} needs vLLM, of a version that trl supports: pip install vllm")


def chat_rows(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Return prompts as rows of a data set for TRL: chat messages, paths of images, and the number of the row.

    A row holds paths, never pixels: pictures are opened when their step comes.
    """
    return [
        {
            "prompt": [{"role": message.role, "content": message.text} for message in prompt.messages],
            "paths": list(prompt.images),
            "row": i,
        }
        for i, prompt in enumerate(prompts)
    ]


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    found = [path for path in folder.glob("checkpoint-*") if _is_complete(path)]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written to its end (the trainer's state is its last file), and none of its files is
    torn or gone.

    Without one of its files a training would go on in silence with a fresh optimizer. What is drawn is seeded by step
    and row, so no state of a random generator is needed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        for name in ("trainer_state.json", "adapter_config.json"):
            json.loads((checkpoint / name).read_bytes())
        with safe_open(checkpoint / "adapter_model.safetensors", "pt"):
            pass  # its header says how long the file has to be
        torn = [zipfile.ZipFile(checkpoint / name).testzip() for name in ("optimizer.pt", "scheduler.pt")]
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return not any(torn)
