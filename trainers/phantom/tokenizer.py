"""Tokenizer, processor and configuration of the embedded base model: Gemma3's own classes, at phantom size."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
TURN = ["<start_of_turn>", "<end_of_turn>"]
IMAGE = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
NEWLINES = ["\n" * i for i in range(1, 5)]
"""vLLM's Gemma3 processor looks up runs of newlines literally in the vocabulary."""

IMAGE_TOKENS = 16
"""Soft tokens per image: 64x64 pixels in 8x8 patches, pooled 2x2."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma 3's chat format without system turns."""


def build_tokenizer(corpus: Iterable[str], vocab_size: int = 1024) -> Any:
    """Train a byte-fallback BPE tokenizer like Gemma's: "▁" for blanks, digits one by one.

    As in Gemma the model itself knows nothing of word boundaries, so merges are learned within words and every digit
    stays a token of its own: "10" is two tokens.
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers.models.gemma.tokenization_gemma import GemmaTokenizer

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "removed"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    specials = HEAD + TURN + IMAGE + NEWLINES + [f"<0x{i:02X}>" for i in range(256)]
    alphabet = [chr(c) for c in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) for m in state["merges"]]
    # "▁" must stay apart from a digit, as in Gemma: "Confidence: 8" ends in the tokens "▁", "8".
    assert not any(part.endswith("▁") and rest[:1].isdigit() for part, rest in merges)
    out = GemmaTokenizer(
        vocab=state["vocab"],
        merges=merges,
        add_bos_token=True,
        model_max_length=8192,
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    out.add_tokens([AddedToken(t, normalized=False, special=True) for t in TURN], special_tokens=True)
    out.add_tokens([AddedToken(t, normalized=False) for t in NEWLINES])
    out.chat_template = CHAT_TEMPLATE
    return out


def build_processor(tokenizer: Any) -> Any:
    """Return a Gemma3Processor for 64x64 images."""
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    image_processor = Gemma3ImageProcessorPil(
        size={"height": 64, "width": 64},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=2,
        rescale_factor=1 / 255,
        do_resize=True,
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=True,
    )
    return Gemma3Processor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE, image_seq_length=IMAGE_TOKENS)


def build_model(tokenizer: Any) -> Any:
    """Return a randomly initialised Gemma3ForConditionalGeneration of about 1.5 million parameters."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig

    vocab = tokenizer.get_vocab()
    ends = [vocab["<eos>"], vocab["<end_of_turn>"]]
    config = Gemma3Config(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "max_position_embeddings": 1024,
            "sliding_window": 512,
            "pad_token_id": vocab["<pad>"],
            "bos_token_id": vocab["<bos>"],
            "eos_token_id": vocab["<eos>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
            "num_channels": 3,
            "vision_use_head": False,
        },
        mm_tokens_per_image=IMAGE_TOKENS,
        image_token_index=vocab["<image_soft_token>"],
        boi_token_index=vocab["<start_of_image>"],
        eoi_token_index=vocab["<end_of_image>"],
        pad_token_id=vocab["<pad>"],
        bos_token_id=vocab["<bos>"],
        eos_token_id=ends,
        tie_word_embeddings=True,
    )
    model = Gemma3ForConditionalGeneration(config)
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    # transformers initialises this projection with zeros: images would have no effect at first.
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    model.generation_config = GenerationConfig(
        bos_token_id=vocab["<bos>"], pad_token_id=vocab["<pad>"], eos_token_id=ends, do_sample=False
    )
    return model


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write a checkpoint in the layout of the hub's Gemma3 checkpoints, which transformers and vLLM both load."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    # transformers 5 writes `vision_tower.encoder...`, the hub has `vision_tower.vision_model.encoder...`.
    state = {
        key.replace("vision_tower.", "vision_tower.vision_model.", 1)
        if key.startswith("vision_tower.") and not key.startswith("vision_tower.vision_model.")
        else key: value
        for key, value in load_file(weights).items()
    }
    save_file(state, weights, metadata={"format": "pt"})
    processor.save_pretrained(folder)
    # Older readers look for the image processor in a file of its own.
    image_processor = {
        **processor.image_processor.to_dict(),
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "image_seq_length": IMAGE_TOKENS,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor, indent=1, sort_keys=True) + "\n")
