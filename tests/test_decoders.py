"""Which layers of a model an adapter is trained on, and that text-only models can be trained, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from plain_llama import write_llama
from test_grpo import silent

from conrad_bench.engines.decoders import decoder_layers
from conrad_bench.engines.inputs import tokenize
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ModelError
from conrad_bench.trainers.conrad import train_conrad
from conrad_bench.trainers.levels import train_levels
from conrad_bench.trainers.objectives import supervised
from conrad_bench.trainers.prefix import Written
from conrad_bench.trainers.settings import GRPOSettings, LevelSettings
from conrad_bench.types import Message, Prompt

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
FAMILIES = ["Gemma3", "Idefics3", "SmolVLM", "Llava", "PaliGemma", "Qwen2_5_VL", "Kosmos2", "Mistral3"]


def matched(model: Any, pattern: str) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(pattern, name)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoders_layers_are_found_in_any_family(family: str) -> None:
    """Every linear layer of the language model, and none of another sense or of the head."""
    config = getattr(transformers, f"{family}Config")()
    config.get_text_config().pad_token_id = 0  # some defaults lie outside the vocabulary
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    found = matched(model, decoder_layers(model))
    layers = config.text_config.layers if family == "Kosmos2" else config.get_text_config().num_hidden_layers
    assert len(found) >= 4 * layers
    assert not [name for name in found if re.search("vision|visual|projector|connector|lm_head", name)]
    assert {int(number) for name in found for number in re.findall(r"layers\.(\d+)\.", name)} == set(range(layers))


def test_those_of_gemma_are_the_ones_that_adapters_have(base_model: Path) -> None:
    model, _ = TransformersEngine(model=str(base_model)).torch_model()
    expected = matched(model, r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)")
    assert matched(model, decoder_layers(model)) == expected != set()


def test_a_model_without_linear_layers_is_refused() -> None:
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1))
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no linear layers in its decoder"):
        decoder_layers(model)


@pytest.fixture(scope="module")
def text_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights, a byte-level tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("text_only")
    write_llama(folder, TEMPLATE)
    return folder


PROMPTS = [Prompt((Message("user", f"Is {n} even? State a confidence."),)) for n in range(4)]


def test_a_text_only_model_learns_behind_what_it_wrote(text_only: Path, tmp_path: Path) -> None:
    model, processor = TransformersEngine(model=str(text_only)).torch_model()
    written = [Written(prompt, tokenize(processor.tokenizer, "yes")) for prompt in PROMPTS]
    settings = LevelSettings(batch_size=2, min_parse_rate=0.0, rank=4)
    train_levels(
        settings, supervised, torch_model=model, processor=processor, written=written, correctness=[0.1, 0.5, 0.9, 1.0],
        between="\n", base_model="base", seed=0, stage=silent, out=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_a_text_only_model_learns_what_it_rolls_out(text_only: Path, tmp_path: Path) -> None:
    def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float | None], list[bool]]:
        return [float(len(set(text))) for text in texts], [True] * len(texts)

    model, processor = TransformersEngine(model=str(text_only)).torch_model()
    settings = GRPOSettings(mode="joint", batch_size=8, generations=4, max_tokens=400, min_parse_rate=0.0, rank=4)
    train_conrad(
        settings, torch_model=model, processor=processor, prompts=PROMPTS, reward=reward, base_model="base", seed=0,
        stage=silent, out=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "adapter_model.safetensors").is_file()
