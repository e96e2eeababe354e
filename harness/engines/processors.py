"""A checkpoint's processor: what turns a chat and its pictures into a model's inputs, loaded and tried.

Only text and pictures are asked of a model here. The parts of a processor that read videos or sound are left out, and
pictures are prepared by Pillow everywhere, with torchvision installed or without: torchvision's resizing gives other
pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conrad_bench.engines.boundary import translated
from conrad_bench.engines.inputs import TextProcessor, chat_text, encode_chat
from conrad_bench.errors import ConfigError, ModelError
from conrad_bench.types import Message, Prompt

_QUESTION, _ANSWER = "Is the heart of 8f3a enlarged?", "It is not, in c2d7."
"""Texts that no template writes of its own."""


_QUIET = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
"""For files that a checkpoint need not have."""

_NOW = datetime.now()
"""When this process began: a template that writes the day writes the same one until it ends."""

_DAY = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
"""Where a template writes the day or the time."""


def load_processor(model: str, revision: str | None, chat_template: str | None = None) -> Any:
    """Load the processor of an image-text-to-text checkpoint, or the tokenizer of a causal language model as one.

    `chat_template` (Jinja) takes the place of the checkpoint's own, which may then be missing. Raises ModelError if the
    files cannot be used, ConfigError for a chat template that is none, MissingExtra without a package that the
    checkpoint's image processor needs.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if chat_template is not None and not re.search(r"\{[{%]", chat_template):
        raise ConfigError(
            f"chat_template of model {model!r} is no Jinja template: {chat_template[:60]!r}; give the template's text, "
            'not the name of its file: -o transformers.chat_template="$(cat FILE)"'
        )
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with translated(f"model {model!r} cannot be loaded: its processor"):
        config = AutoConfig.from_pretrained(model, **options)
        processor: Any
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            processor = _seeing(model, config, options)
        else:
            processor = TextProcessor(load_tokenizer(model, revision))
    if processor.tokenizer.pad_token_id is None:  # what pads is never attended to
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if chat_template is None and getattr(processor, "chat_template", None) is None:
        chat_template = processor.tokenizer.chat_template
    if chat_template is not None:
        processor.chat_template = chat_template
    if isinstance(processor.chat_template, str):
        processor.chat_template = _DAY.sub(lambda call: repr(_NOW.strftime(call[2])), processor.chat_template)
    if getattr(processor, "chat_template", None) is None:
        raise ModelError(
            f"model {model!r} has no chat template; choose an instruction-tuned model, or give a template in Jinja: "
            "-o transformers.chat_template=..."
        )
    return processor


def load_tokenizer(model: str, revision: str | None) -> Any:
    """Load a checkpoint's tokenizer alone. Raises ModelError if its files cannot be used."""
    from transformers import AutoTokenizer

    with translated(f"the tokenizer of {model!r} cannot be loaded"):
        return AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)


def _seeing(model: str, config: Any, options: dict[str, Any]) -> Any:
    """Return the processor of a model that sees, without its parts for other senses."""
    from transformers import AutoProcessor, ProcessorMixin

    kind = _processor_class(model, config, options)
    if kind is None or (set(kind.get_attributes()) <= {"image_processor", "tokenizer"} and find_spec("torchvision")):
        return AutoProcessor.from_pretrained(model, backend="pil", **options)

    def loaded(cls: Any, path: str, *_: Any, **named: Any) -> list[Any]:
        """The parts in the order of the processor's arguments."""
        parts = []
        for name in cls.get_attributes():
            if name == "image_processor":
                parts.append(_image_processor(path, config, named))
            else:
                parts.append(cls._load_tokenizer_from_pretrained(name, path, **named) if "tokenizer" in name else None)
        return parts

    def accepted(self: Any, name: str, part: Any) -> Any:
        """A part that was left out is no mistake."""
        return None if part is None else kind.check_argument_for_proper_class(self, name, part)

    hooks = {
        # What transformers asks of a processor when it loads and makes one; nothing public leaves a part out.
        "_get_arguments_from_pretrained": classmethod(loaded),
        "check_argument_for_proper_class": accepted,
        # The one of all processors: SmolVLM's own asks its part for videos, videos or not.
        "apply_chat_template": ProcessorMixin.apply_chat_template,
    }
    ours: Any = type(kind.__name__, (kind,), hooks)
    processor = ours.from_pretrained(model, **options)
    there = [name for name in kind.get_attributes() if getattr(processor, name) is not None]
    ours.get_attributes = classmethod(lambda _: there)  # what it saves
    return processor


def _image_processor(path: str, config: Any, named: dict[str, Any]) -> Any:
    """Return the image processor that prepares pictures with Pillow."""
    # transformers' own name for it asks for torchvision, the class does not.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(path, backend="pil", **named)
    except (ImportError, ValueError):
        # Without torchvision the Pillow class of some families is hidden by mistake; its module can be imported.
        family = config.model_type.replace("-", "_")
        name = f"transformers.models.{family}.image_processing_pil_{family}"
        if find_spec("torchvision") is not None or find_spec(name) is None:
            raise
        made = [value for key, value in vars(import_module(name)).items() if key.endswith("ImageProcessorPil")]
        return made[0].from_pretrained(path, **named)


def _processor_class(model: str, config: Any, options: dict[str, Any]) -> Any:
    """Return the class that a checkpoint's files name for its processor, else that of its kind of model, else None."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import cached_file

    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        path = cached_file(model, name, revision=options["revision"], **_QUIET)
        if path is None:
            continue
        with open(path, encoding="utf-8") as file:
            named = json.load(file).get("processor_class")
        if named is not None:
            return getattr(transformers, named, None)
    return PROCESSOR_MAPPING.get(type(config), None)


def dated_texts(
    prompts: Sequence[Prompt], model: str, revision: str | None, chat_template: str | None
) -> list[str | None]:
    """Return the prompts as the chat template writes them where it writes the day, too, else None for each."""
    processor = _dated_processor(model, revision, chat_template)
    if processor is None:
        return [None] * len(prompts)
    return [chat_text(processor, prompt, len(prompt.images)) for prompt in prompts]


@lru_cache(maxsize=2)
def _dated_processor(model: str, revision: str | None, chat_template: str | None) -> Any:
    """Return a model's processor if its chat template writes the day, else None, with nothing loaded."""
    texts = _configs(model, revision) if chat_template is None else [chat_template]
    dated = any("strftime_now" in text for text in texts)
    return load_processor(model, revision, chat_template) if dated else None


def _configs(model: str, revision: str | None) -> Iterator[str]:
    """Yield the texts of those files of a checkpoint that may hold its chat template."""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        path: str | None = str(Path(model) / name)
        if not Path(model).is_dir():
            from transformers.utils import cached_file

            path = cached_file(model, name, revision=revision, **_QUIET)
        if path is not None and Path(path).is_file():
            yield Path(path).read_text(encoding="utf-8")


def check_prompts(processor: Any, model: str) -> None:
    """Write a question, a picture and an answer with a chat template, and see that they come out as they should.

    Raises ModelError that names the model and the option that takes another template.
    """
    from PIL import Image

    sees = not isinstance(processor, TextProcessor)
    whose = f"the chat template of model {model!r}"
    remedy = "give another one in Jinja: -o transformers.chat_template=..."
    question, answer = Message("user", _QUESTION), Message("assistant", _ANSWER)
    try:
        asked = chat_text(processor, Prompt((question,)))
        answered = chat_text(processor, Prompt((question, answer)))
        seen = chat_text(processor, Prompt((question,)), images=1) if sees else asked
    except Exception as error:  # jinja2's own, and whatever a template's code meets
        said = next(iter(str(error).strip().splitlines()), "")[:200]
        raise ModelError(
            f"{whose} fails on a user turn ({type(error).__name__}: {said}); one that needs a system turn, or takes "
            f"plain strings where a turn is a list of texts and pictures, cannot be used: {remedy}"
        ) from error
    if re.search(r"['\"]type['\"]\s*:", asked + seen) or _QUESTION not in asked or _QUESTION not in seen:
        raise ModelError(
            f"{whose} does not write what a turn says: it takes plain strings, where a turn is a list of texts and "
            f"pictures; {remedy}"
        )
    if _ANSWER not in answered:
        raise ModelError(f"{whose} leaves out what the model answered; {remedy}")
    if sees:
        try:
            encode_chat(processor, Prompt((question,)), [Image.new("RGB", (224, 224), "grey")])
        except Exception as error:
            said = next(iter(str(error).strip().splitlines()), "")[:200]
            raise ModelError(
                f"the processor of model {model!r} cannot read a question with a picture ({type(error).__name__}: "
                f"{said}); where {whose} writes no mark for a picture, {remedy}"
            ) from error
