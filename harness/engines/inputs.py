"""From prompts to a model's input tensors: chat template, images, prefix, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conrad_bench.engines.opening import open_image
from conrad_bench.errors import EngineError
from conrad_bench.types import END, Prompt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt, ready for a batch."""

    ids: list[int]
    """Token ids of the chat and of the prefix."""
    aligned: dict[str, list[int]]
    """Inputs with one value a token (token_type_ids); 0 over the prefix."""
    features: dict[str, torch.Tensor]
    """Inputs of the prompt's images, stacked along their first dimension (pixel_values); empty without images."""

    def followed_by(self, ids: Sequence[int]) -> Encoded:
        """Return the prompt with text tokens appended."""
        aligned = {name: values + [0] * len(ids) for name, values in self.aligned.items()}
        return Encoded([*self.ids, *ids], aligned, self.features)


@dataclass(slots=True)
class TextProcessor:
    """The tokenizer of a model that reads text only, in the shape of the processors of models that see images."""

    tokenizer: Any

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's chat template, in Jinja."""
        template: str | None = self.tokenizer.chat_template
        return template

    @chat_template.setter
    def chat_template(self, template: str) -> None:
        self.tokenizer.chat_template = template

    def apply_chat_template(self, chat: Sequence[dict[str, Any]], **options: Any) -> Any:
        """Apply the tokenizer's chat template, which expects plain strings. Raises EngineError if there are images."""
        if any(part["type"] != "text" for message in chat for part in message["content"]):
            raise EngineError("the model reads text only, and a prompt has images; choose a vision-language model")
        plain = [{**message, "content": "".join(part["text"] for part in message["content"])} for message in chat]
        return self.tokenizer.apply_chat_template(plain, **options)


def encode(processor: Any, prompt: Prompt) -> Encoded:
    """Apply the chat template with the images first in the first user turn, and append the prefix as token ids.

    The prefix is `prefix_ids` if given, else `prefix` tokenized by itself without special tokens.
    Raises ImageError for an image that cannot be read.
    """
    chat = _chat(prompt, [{"type": "image", "image": open_image(path)} for path in prompt.images])
    # One prompt at a time: processors disagree on batches that mix prompts with and without images.
    inputs = processor.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = inputs.pop("input_ids")
    inputs.pop("attention_mask")
    aligned = {name: value[0].tolist() for name, value in inputs.items() if value.shape == ids.shape}
    features = {name: value for name, value in inputs.items() if name not in aligned}
    return Encoded(ids[0].tolist(), aligned, features).followed_by(_prefix(processor, prompt))


def encode_unexpanded(processor: Any, prompt: Prompt) -> list[int]:
    """Return the token ids of `encode`, but for each image the chat template's single mark in the place of its tokens.

    For an engine that puts the images' tokens there itself; no image is read.
    """
    if not prompt.images:
        return encode(processor, prompt).ids
    chat = _chat(prompt, [{"type": "image"}] * len(prompt.images))
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    first = processor.tokenizer.bos_token
    # As processors do: no second beginning of the sequence where the template writes it.
    ids = processor.tokenizer(text, add_special_tokens=first is None or not text.startswith(first))["input_ids"]
    return [*ids, *_prefix(processor, prompt)]


def _chat(prompt: Prompt, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the prompt as a chat template takes it, with the images first in the first user turn."""
    chat: list[dict[str, Any]] = [
        {"role": message.role, "content": [{"type": "text", "text": message.text}]} for message in prompt.messages
    ]
    chat[0]["content"][:0] = images
    return chat


def _prefix(processor: Any, prompt: Prompt) -> Sequence[int]:
    return prompt.prefix_ids or tokenize(processor.tokenizer, prompt.prefix)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of `text` without special tokens at its ends."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def token_offsets(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Return len(ids) + 1 character offsets: token i of a response covers offsets[i] to offsets[i + 1]."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    special = set(tokenizer.all_special_ids)
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if again["input_ids"] == [token for token in ids if token not in special]:
        starts = [*(start for start, _ in again["offset_mapping"]), len(text)]
        offsets, plain = [], 0
        for token in ids:
            offsets.append(starts[plain])
            plain += token not in special
        return [*offsets, len(text)]
    # The tokenizer would write this text in other tokens: decode every beginning of it.
    return [len(tokenizer.decode(ids[:i], skip_special_tokens=True)) for i in range(len(ids) + 1)]


def continuation_ids(tokenizer: Any, prefix: str, continuation: str) -> list[int]:
    """Tokenize a continuation as it stands after the prefix.

    It is the rest of the tokens of prefix + continuation after those of the prefix. Where the tokenizer would merge
    characters across the boundary there is no such rest, since the prefix's tokens are given; then the continuation is
    tokenized by itself.
    """
    before = tokenize(tokenizer, prefix)
    whole = tokenize(tokenizer, prefix + continuation)
    return whole[len(before) :] if whole[: len(before)] == before else tokenize(tokenizer, continuation)


def scored_ids(tokenizer: Any, prefix: str, text: str, end_id: int) -> tuple[int, ...]:
    """Return the tokens of a continuation as `continuation_ids` does, and `end_id` where the text ends with `END`."""
    return (*continuation_ids(tokenizer, prefix, text.removesuffix(END)), *[end_id] * text.endswith(END))


def stop_tokens(generation_config: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end a response: those of a model's generation config, and the end of the sequence."""
    ends = generation_config.eos_token_id
    return {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}


def end_of_turn(processor: Any, stop_ids: set[int]) -> int:
    """Return the token that the chat template writes behind an answer, or else the tokenizer's end of sequence."""
    answer = "0123456789"
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    tokenizer = processor.tokenizer
    after = tokenize(tokenizer, processor.apply_chat_template(chat, tokenize=False).rpartition(answer)[2])
    if after and after[0] in {*stop_ids, *tokenizer.all_special_ids}:
        return after[0]
    end: int = tokenizer.eos_token_id
    return end


def collate(batch: Sequence[Encoded], pad: int, left: bool, device: Any, dtype: Any) -> dict[str, torch.Tensor]:
    """Pad prompts to one length, on the left (to generate) or on the right, and stack their images in order.

    Integer inputs have shape (batch, longest); padding has attention mask 0. Floating-point features take `dtype`.
    """
    import torch

    longest = max(len(encoded.ids) for encoded in batch)

    def padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
        fill = [[value] * (longest - len(row)) for row in rows]
        return torch.tensor([f + row if left else row + f for f, row in zip(fill, rows, strict=True)], device=device)

    inputs = {
        "input_ids": padded([encoded.ids for encoded in batch], pad),
        "attention_mask": padded([[1] * len(encoded.ids) for encoded in batch], 0),
    }
    for name in batch[0].aligned:
        inputs[name] = padded([encoded.aligned[name] for encoded in batch], 0)
    for name in dict.fromkeys(name for encoded in batch for name in encoded.features):
        stacked = torch.cat([encoded.features[name] for encoded in batch if name in encoded.features])
        inputs[name] = stacked.to(device, dtype if stacked.is_floating_point() else None)
    return inputs
