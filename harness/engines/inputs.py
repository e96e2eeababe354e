"""From prompts to a model's input tensors: chat template, images, prefix, padding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from conrad_bench.engines.opening import open_image
from conrad_bench.engines.pictures import Prepared, picture_state, stand_in
from conrad_bench.errors import ConradBenchError, EngineError
from conrad_bench.reading.thoughts import is_mark
from conrad_bench.types import END, Prompt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


Item = TypeVar("Item")
Result = TypeVar("Result")

_SENSES = re.compile(r"^[<\[].*(image|img|video|vision|audio)", re.IGNORECASE)
_PLACES = re.compile(r"(image|img|video|vision|audio|boi|eoi|boa|eoa|row_col)(_\w+)?_ids?$")
"""Names under which processors keep the ids of tokens that stand for pictures, videos or sound."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt, ready for a batch."""

    ids: list[int]
    """Token ids of the chat and of the prefix."""
    aligned: dict[str, torch.Tensor]
    """Inputs with one value or row a token, shape (tokens, ...): token_type_ids, cross_attention_mask."""
    features: dict[str, torch.Tensor]
    """Inputs of the prompt's images, stacked along their first dimension (pixel_values); empty without images."""
    behind: dict[str, torch.Tensor] = field(default_factory=dict)
    """What each token that is written behind the prompt has of the aligned inputs, shape (1, ...)."""

    def followed_by(self, ids: Sequence[int]) -> Encoded:
        """Return the prompt with text tokens appended."""
        import torch

        aligned = {
            name: torch.cat([values, self.behind[name].expand(len(ids), *values.shape[1:])])
            for name, values in self.aligned.items()
        }
        return Encoded([*self.ids, *ids], aligned, self.features, self.behind)


@dataclass(slots=True, eq=False)
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
    Raises ImageError for an image that cannot be read, EngineError for a prompt that the processor cannot take.
    """
    prepared = getattr(processor, "image_processor", None)
    try:
        if isinstance(prepared, Prepared):
            # Methods ask about the same prompts, behind which different answers stand.
            chat = (prompt.messages, *map(picture_state, prompt.images))
            images = [stand_in(path) for path in prompt.images]
            encoded = prepared.remembered(chat, lambda: _weighed(encode_chat(processor, prompt, images)))
        else:
            encoded = encode_chat(processor, prompt, [open_image(path) for path in prompt.images])
    except ConradBenchError:
        raise
    except (ValueError, TypeError, IndexError, KeyError) as error:  # its message could quote the prompt
        raise EngineError(
            f"the model's processor ({type(processor).__name__}) cannot take a prompt with {len(prompt.images)} images "
            f"({type(error).__name__}); some models read exactly one, and none a text that holds a mark like <image>"
        ) from error
    return encoded.followed_by(_prefix(processor, prompt))


def _weighed(encoded: Encoded) -> tuple[Encoded, int]:
    """Return a prompt with its bytes, about: its pictures, and some hundred for each token."""
    return encoded, sum(tensor.nbytes for tensor in encoded.features.values()) + 100 * len(encoded.ids)


def encode_all(processor: Any, prompts: Sequence[Prompt]) -> list[Encoded]:
    """Return what `encode` makes of each prompt, their pictures prepared beside each other."""
    ahead(processor, prompts)
    return [encode(processor, prompt) for prompt in prompts]


def ahead(processor: Any, prompts: Iterable[Prompt]) -> None:
    """Begin to prepare the pictures of prompts that will be encoded soon, where the processor prepares by threads."""
    prepared = getattr(processor, "image_processor", None)
    if isinstance(prepared, Prepared):
        prepared.ahead(path for prompt in prompts for path in prompt.images)


def encode_chat(processor: Any, prompt: Prompt, images: Sequence[Image]) -> Encoded:
    """Return what the processor makes of a prompt's chat and of its images, without the prefix."""
    chat = _chat(prompt, [{"type": "image", "image": image} for image in images])
    # One prompt at a time: processors disagree on batches that mix prompts with and without images.
    inputs = processor.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = inputs.pop("input_ids")
    inputs.pop("attention_mask")
    # A processor that returns labels tells by token types what is read (0) from what is to be written (1).
    written = int(inputs.pop("labels", None) is not None)
    aligned = {
        name: value[0]
        for name, value in inputs.items()
        if value.shape[:2] == ids.shape and not value.is_floating_point()
    }
    features = {name: value for name, value in inputs.items() if name not in aligned}
    behind = {
        # What is written sees the images that the last token of the prompt sees.
        name: value[-1:] if value.ndim > 1 else value.new_full((1,), written if name == "token_type_ids" else 0)
        for name, value in aligned.items()
    }
    return Encoded(ids[0].tolist(), aligned, features, behind)


def encode_unexpanded(processor: Any, prompt: Prompt) -> list[int]:
    """Return the token ids of `encode`, but for each image the chat template's single mark in the place of its tokens.

    For an engine that puts the images' tokens there itself; no image is read.
    """
    if not prompt.images:
        return encode(processor, prompt).ids
    text = chat_text(processor, prompt, len(prompt.images))
    first = processor.tokenizer.bos_token
    # As processors do: no second beginning of the sequence where the template writes it.
    ids = processor.tokenizer(text, add_special_tokens=first is None or not text.startswith(first))["input_ids"]
    return [*ids, *_prefix(processor, prompt)]


def chat_text(processor: Any, prompt: Prompt, images: int = 0) -> str:
    """Return the text that the chat template makes of a prompt with some images, up to where the answer begins."""
    chat = _chat(prompt, [{"type": "image"}] * images)
    text: str = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return text


def _chat(prompt: Prompt, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the prompt as a chat template takes it, with the images first in the first user turn."""
    chat: list[dict[str, Any]] = [
        {"role": message.role, "content": [{"type": "text", "text": message.text}]} for message in prompt.messages
    ]
    chat[0]["content"][:0] = images
    return chat


def _prefix(processor: Any, prompt: Prompt) -> Sequence[int]:
    return readable(processor, prompt.prefix_ids) or tokenize(processor.tokenizer, prompt.prefix)


@lru_cache(maxsize=4)
def picture_tokens(processor: Any) -> frozenset[int]:
    """Return the ids of the tokens that stand for pictures, videos or sound, or for their beginnings and ends.

    No response may hold one: a model that reads one of them where no picture is raises an error, or moves the features
    of the next picture there.
    """
    found: set[Any] = set()
    for name, value in getattr(processor, "__dict__", {}).items():
        if _PLACES.search(name):
            found.update(value if isinstance(value, (list, tuple)) else [value])
    added = getattr(processor.tokenizer, "added_tokens_decoder", {})
    found.update(i for i, token in added.items() if _SENSES.search(str(token)))
    # A mark that the vocabulary lacks is its unknown token.
    return frozenset(i for i in found if isinstance(i, int) and i >= 0) - {processor.tokenizer.unk_token_id}


def readable(processor: Any, ids: Sequence[int]) -> list[int]:
    """Return the tokens of a response as the model can read them: padding in the place of what stands for pictures."""
    barred, pad = picture_tokens(processor), processor.tokenizer.pad_token_id
    return [pad if i in barred else i for i in ids]


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of `text` without special tokens at its ends."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@lru_cache(maxsize=4)
def _unwritten(tokenizer: Any) -> frozenset[int]:
    """Return the special tokens that no response's text holds: all but the marks of thoughts."""
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(token for token, what in added.items() if what.special)}
    return frozenset(token for token in special if not (token in added and is_mark(added[token].content)))


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of a response's tokens, without special ones but for those that mark its thoughts."""
    unwritten = _unwritten(tokenizer)
    kept = [token for token in ids if token not in unwritten]
    text: str = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def token_offsets(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Return len(ids) + 1 character offsets: token i of a response covers offsets[i] to offsets[i + 1]."""
    text = decoded(tokenizer, ids)
    special = _unwritten(tokenizer)
    again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if again["input_ids"] == [token for token in ids if token not in special]:
        starts = [*(start for start, _ in again["offset_mapping"]), len(text)]
        offsets, plain = [], 0
        for token in ids:
            offsets.append(starts[plain])
            plain += token not in special
        return [*offsets, len(text)]
    # The tokenizer would write this text in other tokens: decode every beginning of it.
    return [len(decoded(tokenizer, ids[:i])) for i in range(len(ids) + 1)]


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


def same_shapes(batch: Sequence[Encoded], same_length: bool = False) -> list[list[int]]:
    """Return the indices of prompts in groups that `collate` can make a batch of, in the order of their first members.

    The features of the images of a group stack: pictures that a processor cuts into different numbers of tiles come
    into different groups, and so do prompts with and without images where tokens have inputs of their own for images.
    With `same_length` a group's prompts have one number of tokens, so that none is padded.
    """
    groups: dict[Any, list[int]] = {}
    for i, encoded in enumerate(batch):
        outer = (*sorted((name, *v.shape[1:]) for name, v in encoded.aligned.items()), same_length * len(encoded.ids))
        inner = tuple(sorted((name, *value.shape[1:]) for name, value in encoded.features.items()))
        if not inner:
            inner = next((known for seen, known in groups if seen == outer), inner)
        elif (outer, inner) not in groups and (outer, ()) in groups:
            groups[outer, inner] = groups.pop((outer, ()))
        groups.setdefault((outer, inner), []).append(i)
    return sorted(groups.values())


def by_shape(
    batch: Sequence[Encoded],
    items: Sequence[Item],
    run: Callable[[Sequence[Encoded], Sequence[Item]], list[Result]],
    same_length: bool = False,
) -> list[Result]:
    """Return the results of `run` for prompts and what belongs to each, in their order, one group of shapes a call."""
    results: dict[int, Result] = {}
    for group in same_shapes(batch, same_length):
        found = run([batch[i] for i in group], [items[i] for i in group])
        results.update(zip(group, found, strict=True))
    return [results[i] for i in range(len(batch))]


def collate(batch: Sequence[Encoded], pad: int, left: bool, device: Any, dtype: Any) -> dict[str, torch.Tensor]:
    """Pad prompts of a group of `same_shapes` to one length, on the left (to generate) or on the right, and stack their
    images in order.

    Integer inputs have shape (batch, longest, ...); padding has attention mask 0. Floating-point features take `dtype`.
    """
    import torch

    longest = max(len(encoded.ids) for encoded in batch)

    def padded(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        fill = [row.new_full((longest - len(row), *row.shape[1:]), value) for row in rows]
        return torch.stack([torch.cat([f, row] if left else [row, f]) for f, row in zip(fill, rows, strict=True)]).to(
            device
        )

    inputs = {
        "input_ids": padded([torch.tensor(encoded.ids) for encoded in batch], pad),
        "attention_mask": padded([torch.ones(len(encoded.ids), dtype=torch.long) for encoded in batch], 0),
    }
    for name in batch[0].aligned:
        inputs[name] = padded([encoded.aligned[name] for encoded in batch], 0)
    for name in dict.fromkeys(name for encoded in batch for name in encoded.features):
        stacked = torch.cat([encoded.features[name] for encoded in batch if name in encoded.features])
        inputs[name] = stacked.to(device, dtype if stacked.is_floating_point() else None)
    return inputs


def seen_behind(
    inputs: dict[str, torch.Tensor], first: Any, tokens: int, rows: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return what a model wants to hear of its pictures again when a batch is continued by some tokens from the cache.

    `inputs` and `first` are those and the output of the batch's pass, `rows` picks its rows (None: all). Layers that
    look at pictures by cross-attention are told for every token which it sees: what the last one of its row sees.
    """
    import torch

    told = {}
    if getattr(first, "image_embeds", None) is not None:  # asked for, and then read from the cache
        told["image_embeds"] = first.image_embeds
    if "cross_attention_mask" in inputs:
        seen = inputs["cross_attention_mask"] if rows is None else inputs["cross_attention_mask"][rows]
        more = seen[:, -1:].expand(-1, tokens, *seen.shape[2:])
        told["cross_attention_mask"] = torch.cat([seen, more], dim=1)
    return told


def find_last(ids: list[int], wanted: list[int]) -> int:
    """Return where `wanted` last occurs in `ids`, or -1."""
    places = (i for i in range(len(ids) - len(wanted), -1, -1) if ids[i : i + len(wanted)] == wanted)
    return next(places, -1)
