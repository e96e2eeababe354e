"""Finding and loading checkpoints and LoRA adapters: safetensors only, no code from a checkpoint is ever run."""

from __future__ import annotations

import gc
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from conrad_bench.engines.boundary import translated
from conrad_bench.engines.images import see_images_once
from conrad_bench.engines.inputs import TextProcessor
from conrad_bench.engines.pictures import Prepared
from conrad_bench.engines.processors import load_processor
from conrad_bench.errors import ConfigError, EngineError, HubUnreachable, MissingExtra, ModelError
from conrad_bench.hub import quiet_hub
from conrad_bench.rollouts.digests import adapter_digest, files_digest

Item = TypeVar("Item")
Result = TypeVar("Result")

if TYPE_CHECKING:
    import torch

_CHECKPOINT_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}
"""Weights, configuration, chat template and tokenizer."""

_NOT_QUANTIZED = [r".*(vision|visual|projector|connector)", "lm_head"]
"""Patterns of modules that stay in full precision (matched from the start of a module's name)."""


def locate(model: str, revision: str | None) -> dict[str, str]:
    """Return what identifies a checkpoint's files, without reading weights into memory.

    A local folder gives {"model": "sha256:..."} over weights, configuration and tokenizer. A hub id gives {"model": id,
    "revision": commit}, from the local cache if it is there, so that a resumed run stays with its commit and needs no
    network.
    Raises ModelError that says what to do.
    """
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"revision {revision!r} has no meaning for the local folder {model}; remove it")
        files = [path for path in folder.iterdir() if path.suffix in _CHECKPOINT_SUFFIXES and path.is_file()]
        if not (folder / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
            raise ModelError(f"{model} is no checkpoint: it needs config.json and weights as .safetensors")
        return {"model": f"sha256:{files_digest(files)}"}
    return {"model": model, "revision": _commit(model, revision)}


def _commit(model: str, revision: str | None) -> str:
    """Return the commit of a hub model. Raises ModelError."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        path = try_to_load_from_cache(model, "config.json", revision=revision)
        if not isinstance(path, str):
            with quiet_hub():
                path = hf_hub_download(model, "config.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(f"model {model!r}: there is no such folder, and it is no hub id (owner/name)") from error
    except GatedRepoError as error:
        raise ModelError(
            f"model {model!r} needs access: accept its terms on its page on the hub, then log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"model {model!r} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model {model!r} is neither a local folder nor on the hub; if it is private, log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(
            f"model {model!r} is neither a local folder nor in the local cache, and the hub cannot be reached; "
            "connect to the network once, or give the folder of a checkpoint; --model phantom tries a run on the "
            "embedded model"
        ) from error
    except EntryNotFoundError as error:
        raise ModelError(f"model {model!r} has no config.json: not a transformers checkpoint") from error
    except OSError as error:
        raise HubUnreachable(
            f"model {model!r}: the hub answered with {type(error).__name__}; try again later"
        ) from error
    return Path(path).parent.name


def load(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    quantization: str,
    processor: Any = None,
) -> tuple[Any, Any]:
    """Load (model, processor) of an image-text-to-text checkpoint, or of a causal language model (text only).

    `processor` is what `load_preparing` returned, None: it is loaded here. Raises ModelError if the files cannot be
    used, MissingExtra without bitsandbytes, EngineError if the device's memory is too small.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    processor = load_preparing(model, revision) if processor is None else processor
    network_class: Any = AutoModelForCausalLM if isinstance(processor, TextProcessor) else AutoModelForImageTextToText
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with translated(f"model {model!r} cannot be loaded"):
            network, report = network_class.from_pretrained(
                model,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                device_map={"": device},
                quantization_config=_quantization(dtype) if quantization == "nf4" else None,
                revision=revision,
                trust_remote_code=False,
            )
    except torch.OutOfMemoryError as error:
        raise EngineError(f"model {model!r} does not fit into the device's memory; set quantization: nf4") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    if report["missing_keys"]:
        raise ModelError(f"model {model!r} lacks weights, for example {min(report['missing_keys'])}; fetch it again")
    for module in network.modules():
        # bitsandbytes would repack 4-bit weights for these processors, and PEFT, when it loads an adapter, unpack them
        # without their scales: the base model would be another one from then on, in silence.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    see_images_once(network)
    return network, processor


def load_preparing(model: str, revision: str | None, chat_template: str | None = None) -> Any:
    """Load a checkpoint's processor, one that opens and prepares a picture once; arguments and errors as those of
    `load_processor`.
    """
    processor = load_processor(model, revision, chat_template)
    if not isinstance(processor, TextProcessor):
        processor.image_processor = Prepared(processor.image_processor)
    return processor


def _quantization(dtype: torch.dtype) -> Any:
    """Return the configuration of 4-bit NormalFloat weights (Dettmers et al. 2023). Raises MissingExtra."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtra('quantization: nf4 needs bitsandbytes: pip install "conrad-bench[quantization]"')
    from transformers import BitsAndBytesConfig

    hush_imports()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_NOT_QUANTIZED,
    )


def halving(items: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]]) -> list[Result]:
    """Return `run(items)`, in two halves where the device's memory is too small for all at once, and so on.

    Raises EngineError if a single item does not fit.
    """
    import torch

    try:
        return run(items)
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise EngineError(
                "the device's memory is too small for a single prompt; set quantization: nf4, or lower max_tokens"
            ) from error
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return halving(items[:middle], run) + halving(items[middle:], run)


def free_memory() -> None:
    """Let go of what is not in use: models in circles of references, and a GPU's blocks that are kept for later."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def hush_imports() -> None:
    """Keep packages from warning, when they are imported, of what does not matter here.

    bitsandbytes on a CPU: of an optional kernel. trl: of a vLLM that it does not know, which concerns `conrad.vllm`.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)


def adapter_config(folder: Path, base: str) -> dict[str, Any]:
    """Return the configuration of the LoRA adapter in `folder`.

    Raises ModelError if it is damaged, of another kind, or names another model than `base`.
    """
    with translated(_damaged(folder, base)):
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind, made_for = config.get("peft_type"), str(config.get("base_model_name_or_path") or base)
    if kind != "LORA":
        raise ModelError(f"the adapter in {folder} is no LoRA adapter (peft_type {kind!r})")
    if made_for != base and not Path(made_for).is_absolute() and not Path(base).is_dir():
        raise ModelError(f"{_misfit(folder, base)} but for {made_for!r}; fit the method again")
    return config


def empty_model(model: str, revision: str | None) -> Any:
    """Return a checkpoint's network without its weights, on torch's meta device. Raises ModelError."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    with translated(f"model {model!r} cannot be loaded"), torch.device("meta"):
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        network_class: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        return network_class.from_config(config)


def check_adapter(folder: Path, model: str, revision: str | None) -> None:
    """Check that every weight of an adapter belongs to a layer of the model, by name and by shape; reads no weights.

    Raises ModelError.
    """
    from safetensors import safe_open

    layers = dict(empty_model(model, revision).named_modules())
    with translated(_damaged(folder, model)), safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118 - no mapping
    for key, shape in shapes.items():
        name, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        weight = getattr(layers.get(name), "weight", None)
        # A has shape (rank, inputs), B (outputs, rank), the layer's weight (outputs, inputs).
        axis = {"A": 1, "B": 0}.get(side)
        if weight is None or axis is None or len(shape) != 2 or shape[axis] != weight.shape[axis]:
            raise ModelError(f"{_misfit(folder, model)}: their layers differ; fit the method again")


def _misfit(folder: Path, base: str) -> str:
    return f"the adapter in {folder} was not made for the model {base!r}"


def _damaged(folder: Path, base: str) -> str:
    return f"{_misfit(folder, base)}, or is damaged; fit the method again"


@dataclass(slots=True)
class Adapters:
    """The LoRA adapters of one loaded model: each is loaded once, then switched on and off."""

    model: Any
    """The transformers model; its layers take up the adapters in place."""
    wrapper: Any = None
    """The PEFT model around it, once there is an adapter."""

    def activate(self, folder: Path, base: str) -> list[int] | None:
        """Switch on the adapter in `folder`, made for the model named `base`.

        Returns the ids of its invocation tokens if it is an activated LoRA (Greenewald et al. 2025), else None.
        Raises ModelError if the folder holds no adapter of this model; the model must then be loaded again.
        """
        name = adapter_digest(folder)[:16]
        if self.wrapper is None or name not in self.wrapper.peft_config:
            self._load(folder, name, base)
        self.wrapper.set_adapter(name)
        invocation: list[int] | None = self.wrapper.peft_config[name].alora_invocation_tokens
        return invocation

    def _load(self, folder: Path, name: str, base: str) -> None:
        hush_imports()  # peft imports it where it is installed
        import peft

        adapter_config(folder, base)
        with translated(_damaged(folder, base)):
            if self.wrapper is None:
                config = peft.PeftConfig.from_pretrained(str(folder))
                config.inference_mode = True
                config.base_model_name_or_path = self.model.name_or_path  # peft warns of a folder that has moved
                self.wrapper = peft.get_peft_model(self.model, config, adapter_name=name)
            result = self.wrapper.load_adapter(str(folder), adapter_name=name)
        if result.missing_keys or result.unexpected_keys:
            raise ModelError(f"{_misfit(folder, base)}: their layers differ; fit the method again")
        self.wrapper.eval()
