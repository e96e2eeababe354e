"""Tiny checkpoints with random weights of many image-text-to-text families, each read by its own processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EYE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
GRID = [[16, 32], [32, 16], [32, 32]]
"""Shapes that pictures are cut into tiles of 16 x 16 pixels for."""
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
QWEN = {"image": "<|image_pad|>", "video": "<|video_pad|>", "start": "<|vision_start|>", "end": "<|vision_end|>"}
QWEN_EYE = {"patch_size": 8, "spatial_merge_size": 2, "depth": 2, "num_heads": 2}

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}MARK{% else %}{{ part['text'] }}{% endif %}{% endfor %}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)

FAMILIES = (
    "Gemma3",
    "Gemma4",
    "Idefics3",
    "InternVL",
    "Kosmos2",
    "Llava",
    "LlavaNext",
    "LlavaOnevision",
    "Mllama",
    "PaliGemma",
    "Qwen2VL",
    "Qwen2_5_VL",
    "Qwen3VL",
    "SmolVLM",
)
ONE_IMAGE = ("Kosmos2",)
"""Those whose processor takes one picture a prompt at most."""
NEEDS_IMAGE = ("Kosmos2", "PaliGemma")
"""Those that read no prompt without one."""


def _tokenizer(marks: dict[str, str], extra: tuple[str, ...] = ()) -> Any:
    """Return a byte-level tokenizer without merges; `marks` become its attributes (image_token ...)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>", "<turn>", "</turn>", *marks.values(), *extra)
    vocab = {token: i for i, token in enumerate((*special, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    backend = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=marks,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "</turn>", *extra]})
    return tokenizer


def _square(**more: Any) -> dict[str, Any]:
    return {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **more}


def _recipe(family: str) -> tuple[Any, dict[str, Any], dict[str, str], dict[str, Any], str]:
    """Return (tokenizer, options of the config, parts of the processor, the image processor's options, image mark)."""
    if family in ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL"):
        tokenizer = _tokenizer({}, tuple(QWEN.values()))
        text = {**TEXT, "rope_parameters": {**MROPE, "mrope_interleaved": True} if family == "Qwen3VL" else MROPE}
        eye = {
            "Qwen2VL": {**QWEN_EYE, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
            "Qwen2_5_VL": {**QWEN_EYE, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48,
                           "window_size": 32, "fullatt_block_indexes": [1]},
            "Qwen3VL": {**QWEN_EYE, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48,
                        "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        }[family]  # fmt: skip
        if family == "Qwen3VL":
            text["head_dim"] = 16
        names = {"image": "image_token_id", "video": "video_token_id", "start": "vision_start_token_id",
                 "end": "vision_end_token_id"}  # fmt: skip
        ids = {names[key]: tokenizer.convert_tokens_to_ids(mark) for key, mark in QWEN.items()}
        pixels = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 2048}}
        parts = {"image_processor_type": "Qwen2VLImageProcessor", "video_processor_type": "Qwen2VLVideoProcessor"}
        return tokenizer, {"text_config": text, "vision_config": eye, **ids}, parts, pixels, "".join(
            (QWEN["start"], QWEN["image"], QWEN["end"])
        )  # fmt: skip
    if family == "InternVL":
        tokenizer = _tokenizer({"start_image_token": "<img>", "end_image_token": "</img>",
                                "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"})  # fmt: skip
        config = {
            "text_config": {**TEXT, "model_type": "qwen2"},
            "vision_config": {**EYE, "image_size": 16, "patch_size": 4},
            "image_token_id": tokenizer.context_image_token_id,
            "image_seq_length": 4,
        }
        parts = {"image_processor_type": "GotOcr2ImageProcessor", "video_processor_type": "InternVLVideoProcessor"}
        return tokenizer, config, {**parts, "image_seq_length": 4}, _square(
            crop_to_patches=True, max_patches=4
        ), "<IMG_CONTEXT>"  # fmt: skip
    if family in ("Idefics3", "SmolVLM"):
        rows = tuple(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7))
        extra = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows)
        tokenizer = _tokenizer({}, extra)
        config = {
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {**EYE, "image_size": 16, "patch_size": 4},
            "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
            "scale_factor": 2,
            "pad_token_id": 0,
        }
        parts = {"image_processor_type": f"{family}ImageProcessor", "image_seq_len": 4}
        if family == "SmolVLM":
            parts["video_processor_type"] = "SmolVLMVideoProcessor"
        return tokenizer, config, parts, {
            "size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}
        }, "<image>"  # fmt: skip
    if family in ("Llava", "LlavaNext", "LlavaOnevision"):
        tokenizer = _tokenizer({}, ("<image>", "<video>"))
        clip = family != "LlavaOnevision"
        eye = {**EYE, "image_size": 16, "patch_size": 4, **({} if clip else {"vision_use_head": False})}
        config = {
            "text_config": {**TEXT, "model_type": "llama" if clip else "qwen2"},
            "vision_config": {**eye, "model_type": "clip_vision_model" if clip else "siglip_vision_model"},
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        }
        kind = {"Llava": "CLIPImageProcessor"}.get(family, f"{family}ImageProcessor")
        parts = {"image_processor_type": kind}
        pixels: dict[str, Any] = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
        if clip:
            parts |= {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
            config |= {"vision_feature_select_strategy": "default", "vision_feature_layer": -2}
        else:
            config["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
            parts |= {"num_image_tokens": 16, "vision_feature_select_strategy": "full",
                      "video_processor_type": "LlavaOnevisionVideoProcessor"}  # fmt: skip
            pixels = _square()
        if family != "Llava":
            config["image_grid_pinpoints"] = pixels["image_grid_pinpoints"] = GRID
        return tokenizer, config, parts, pixels, "<image>"
    if family == "Mllama":
        tokenizer = _tokenizer({}, ("<|image|>", "<|python_tag|>"))
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
        eye = {**EYE, "attention_heads": 2, "num_global_layers": 1, "vision_output_dim": 64, "image_size": 16,
               "patch_size": 4, "intermediate_layers_indices": [0]}  # fmt: skip
        del eye["num_attention_heads"]
        config = {
            "text_config": {**TEXT, "cross_attention_layers": [1]},
            "vision_config": eye,
            "image_token_index": tokenizer.convert_tokens_to_ids("<|image|>"),
        }
        return tokenizer, config, {"image_processor_type": "MllamaImageProcessor"}, _square(
            max_image_tiles=4
        ), "<|image|>"  # fmt: skip
    if family == "PaliGemma":
        tokenizer = _tokenizer({}, ("<image>",))
        config = {
            "text_config": {**TEXT, "model_type": "gemma", "head_dim": 16},
            "vision_config": {**EYE, "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 4,
                              "vision_use_head": False},
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "projection_dim": 32,
        }  # fmt: skip
        return tokenizer, config, {"image_processor_type": "SiglipImageProcessor"}, _square(
            image_seq_length=16
        ), "<image>"  # fmt: skip
    if family == "Kosmos2":
        tokenizer = _tokenizer({})
        config = {
            "text_config": {"embed_dim": 32, "ffn_dim": 48, "layers": 3, "attention_heads": 2, "dropout": 0.0,
                            "attention_dropout": 0.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            "vision_config": {**EYE, "image_size": 16, "patch_size": 4},
            "latent_query_num": 64,
        }  # fmt: skip
        pixels = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
        return (
            tokenizer,
            config,
            {"image_processor_type": "CLIPImageProcessor", "num_patch_index_tokens": 4},
            pixels,
            "",
        )
    gemma = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    layers = {"sliding_window": 24, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
    if family == "Gemma3":
        tokenizer = _tokenizer(gemma)
        config = {
            "text_config": {**TEXT, **layers, "head_dim": 16, "query_pre_attn_scalar": 16},
            "vision_config": {**EYE, "image_size": 16, "patch_size": 4, "vision_use_head": False},
            "mm_tokens_per_image": 4,
            "image_token_index": tokenizer.image_token_id,
            "boi_token_index": tokenizer.boi_token_id,
            "eoi_token_index": tokenizer.eoi_token_id,
        }
        parts = {"image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 4}
        return tokenizer, config, parts, _square(), "<start_of_image>"
    tokenizer = _tokenizer({**gemma, "audio_token": "<audio_soft_token>", "boa_token": "<boa>", "eoa_token": "<eoa>"},
                           ("<|video|>",))  # fmt: skip
    config = {
        "text_config": {**TEXT, **layers, "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 8,
                        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
                        "num_kv_shared_layers": 2},
        "vision_config": {**EYE, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4, "pooling_kernel_size": 2,
                          "position_embedding_size": 128},
        "image_token_id": tokenizer.image_token_id,
        "boi_token_id": tokenizer.boi_token_id,
        "eoi_token_id": tokenizer.eoi_token_id,
        "audio_token_id": tokenizer.audio_token_id,
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video|>"),
        "audio_config": None,
    }  # fmt: skip
    parts = {"image_processor_type": "Gemma4ImageProcessor", "video_processor_type": "Gemma4VideoProcessor"}
    return tokenizer, config, parts, {
        "patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70
    }, tokenizer.image_token  # fmt: skip


def write_family(family: str, folder: Path, template: str = TEMPLATE) -> Path:
    """Write a tiny checkpoint of a family: weights, config, tokenizer, processor and chat template."""
    import torch
    import transformers

    tokenizer, options, parts, pixels, mark = _recipe(family)
    folder.mkdir(parents=True, exist_ok=True)
    size = len(tokenizer) + (11 + 1024 + 128 if family in ("Kosmos2", "PaliGemma") else 0)
    options["text_config"]["vocab_size"] = size
    if family == "Gemma4":
        options["text_config"]["vocab_size_per_layer_input"] = size
    config = getattr(transformers, f"{family}Config")(**options)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
        for name, weights in model.named_parameters():
            # Loud enough that every picture and every token matters to what is written.
            if weights.ndim >= 2:
                weights.normal_(0, 1.5 / weights.shape[-1] ** 0.5)
            elif "gate" in name:
                weights.fill_(0.8)
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.chat_template = template.replace("MARK", mark)
    tokenizer.save_pretrained(folder)
    kinds = {part.removesuffix("_type"): kind for part, kind in parts.items() if part.endswith("_type")}
    described = {"processor_class": f"{family}Processor"}
    described |= {part: value for part, value in parts.items() if not part.endswith("_type")}
    for part, kind in kinds.items():
        described[part] = {f"{part}_type": kind, **(pixels if part == "image_processor" else {})}
    (folder / "processor_config.json").write_text(json.dumps(described, indent=1))
    return folder
