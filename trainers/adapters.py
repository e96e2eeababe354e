"""LoRA adapters that state a confidence: their configuration, and how they are left on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conrad_bench.storage import write_text


def language_lora(model: Any, rank: int, marker: Sequence[int] | None) -> Any:
    """Return the configuration of a LoRA on a model's decoder alone (ConRad, section 3).

    With a marker, the ids of its tokens, it acts from there on only (aLoRA). Raises ModelError for a model whose
    decoder has no linear layers.
    """
    from conrad_bench.engines.decoders import decoder_layers
    from conrad_bench.engines.loading import hush_imports

    hush_imports()  # peft imports it where it is installed
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=decoder_layers(model),
        task_type="CAUSAL_LM",
        alora_invocation_tokens=None if marker is None else list(marker),
    )


def trainable(model: Any) -> dict[str, Any]:
    """Return the parameters of a model that are trained, by name, as float32 whatever the base's dtype.

    In bfloat16 a step that is small against the weight is lost: of a LoRA's first matrix two thirds would never move.
    """
    import torch

    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in found.values():
        parameter.data = parameter.data.to(torch.float32)
    return found


def save_adapter(model: Any, base_model: str, out: Path) -> None:
    """Save a trained adapter, named after what identifies its base model: equal adapters are equal on every machine."""
    model.save_pretrained(out)
    path = out / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "README.md").unlink(missing_ok=True)


def invocation(folder: Path) -> list[int]:
    """Return the token ids from which on the activated adapter in a folder acts."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return list(config["alora_invocation_tokens"])
