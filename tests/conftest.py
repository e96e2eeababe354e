"""Shared fixtures: a tiny Gemma3 checkpoint with random weights, and images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from served import Servers

# The same examples on every machine, but for constants that hypothesis takes from the modules that happen to be
# imported; `--hypothesis-profile=default` looks for new ones. How many inputs a test passes over is for its author.
settings.register_profile(
    "suite",
    settings.get_profile("ci"),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
settings.load_profile("suite")

os.environ.setdefault("OMP_NUM_THREADS", "1")

CORPUS = [
    "The heart is enlarged. The lungs are clear. No pleural effusion or pneumothorax is seen.",
    "There is a small right pleural effusion with adjacent atelectasis.",
    "Write the findings of this chest radiograph. Indication: shortness of breath.",
    "Is the answer correct? Answer True or False.",
    *(f"The heart size is normal.\nConfidence: {level}" for level in range(11)),
]


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma3ForConditionalGeneration checkpoint of 0.3 million random weights with its processor."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig

    from conrad_bench.trainers.phantom.tokenizer import IMAGE_TOKENS, build_processor, build_tokenizer, save

    tokenizer = build_tokenizer(CORPUS * 4, vocab_size=560)
    vocab = tokenizer.get_vocab()
    size = (len(tokenizer) + 63) // 64 * 64
    config = Gemma3Config(
        text_config={
            "vocab_size": size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "max_position_embeddings": 1024,
            # Shorter than the prompts, so that both kinds of attention layers are at work.
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "vision_use_head": False,
        },
        mm_tokens_per_image=IMAGE_TOKENS,
        image_token_index=vocab["<image_soft_token>"],
        boi_token_index=vocab["<start_of_image>"],
        eoi_token_index=vocab["<end_of_image>"],
        eos_token_id=[vocab["<eos>"], vocab["<end_of_turn>"]],
        pad_token_id=vocab["<pad>"],
        bos_token_id=vocab["<bos>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(config)
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(0, 0.125)
        language_model = model.model.language_model
        # Small embeddings and loud sublayers: a tied random Gemma would repeat its last token for ever.
        language_model.embed_tokens.weight.normal_(0, 0.1)
        for layer in language_model.layers:
            layer.self_attn.v_proj.weight.normal_(0, 0.3)
            layer.mlp.down_proj.weight.normal_(0, 0.3)
            layer.post_attention_layernorm.weight.fill_(3.0)
            layer.post_feedforward_layernorm.weight.fill_(3.0)
        language_model.norm.weight.fill_(2.0)
    # Defaults that would change what is sampled; an engine must not take them over.
    model.generation_config = GenerationConfig(
        bos_token_id=vocab["<bos>"],
        pad_token_id=vocab["<pad>"],
        eos_token_id=[vocab["<eos>"], vocab["<end_of_turn>"]],
        do_sample=True,
        top_k=5,
        repetition_penalty=1.7,
    )
    folder = tmp_path_factory.mktemp("tiny_gemma3")
    save(model, build_processor(tokenizer), folder)
    return folder


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three images with different pixels and shapes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for number, shape in enumerate([(64, 64), (80, 72), (50, 90)]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def serve() -> Iterator[Servers]:
    """Starts web servers that answer as they are told."""
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The embedded base model of the phantom world."""
    from importlib.resources import files

    return Path(str(files("conrad_bench.tasks.phantom"))) / "base_model"
