"""Checkpoints and adapters of the transformers engine: found, checked, loaded, switched, quantized."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from plain_gemma3 import MARKER, ask, assert_same, inputs_of, plain_logprobs, write_adapter

from conrad_bench.engines.base import Job
from conrad_bench.engines.inputs import tokenize
from conrad_bench.engines.loading import check_adapter, halving
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ConfigError, EngineError, MissingExtra, ModelError
from conrad_bench.rollouts.digests import adapter_digest
from conrad_bench.types import END, Prompt, Sampling

LEVELS = [str(level) for level in range(11)]


@pytest.fixture(scope="module")
def engine(tiny_gemma3: Path) -> TransformersEngine:
    return TransformersEngine(model=str(tiny_gemma3), device="cpu")


@pytest.fixture(scope="module")
def prompts(image_files: list[str]) -> list[Prompt]:
    return [
        ask("Findings?", image_files[:1]),
        ask("Is the heart enlarged?"),
        ask("Compare the views.", image_files[1:]),
    ]


@pytest.fixture(scope="module")
def adapters(tiny_gemma3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two ordinary adapters and one activated LoRA that acts from the confidence marker on."""
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

    marker = tokenize(AutoTokenizer.from_pretrained(tiny_gemma3), MARKER)
    folder = tmp_path_factory.mktemp("adapters")
    made = {"one": (1, None), "two": (2, None), "activated": (3, marker)}
    return {
        name: write_adapter(
            Gemma3ForConditionalGeneration.from_pretrained(tiny_gemma3), folder / name, seed=seed, invocation=invocation
        )
        for name, (seed, invocation) in made.items()
    }


def test_an_adapter_changes_the_outputs_and_leaves_the_base_as_it_was(
    tiny_gemma3: Path, adapters: dict[str, Path], prompts: list[Prompt]
) -> None:
    import peft
    from transformers import Gemma3ForConditionalGeneration

    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    jobs, sampling = [Job(p) for p in prompts[:3]], Sampling(max_tokens=6)
    runs = [engine.generate(jobs, sampling, folder) for folder in (None, adapters["one"], None, adapters["two"])]
    runs += [engine.generate(jobs, sampling, folder) for folder in (adapters["one"], None)]
    base, one, base_again, two, one_again, base_at_last = runs
    for same in (base_again, base_at_last):
        assert_same(base, same)
    assert_same(one, one_again)
    assert len({base[0].logprobs, one[0].logprobs, two[0].logprobs}) == 3
    adapted = peft.PeftModel.from_pretrained(
        Gemma3ForConditionalGeneration.from_pretrained(tiny_gemma3), adapters["one"]
    ).eval()
    _, processor = engine.torch_model()
    for prompt, generation in zip(prompts, one, strict=False):
        assert generation.logprobs == pytest.approx(
            plain_logprobs((adapted, processor), prompt, generation.token_ids), abs=2e-4
        )


def test_an_activated_adapter_acts_from_its_marker_on(
    tiny_gemma3: Path, adapters: dict[str, Path], image_files: list[str]
) -> None:
    import peft
    from transformers import Gemma3ForConditionalGeneration

    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    folder = adapters["activated"]
    asked = [ask("Findings?", image_files[:n], "The lungs are clear." + MARKER) for n in (0, 1, 2)]
    jobs, sampling = [Job(prompt, 3) for prompt in asked], Sampling(1.0, 1.0, 6)
    base, adapted = engine.generate(jobs, sampling, None), engine.generate(jobs, sampling, folder)
    assert [g.token_ids for g in base] != [g.token_ids for g in adapted]

    reference = peft.PeftModel.from_pretrained(
        Gemma3ForConditionalGeneration.from_pretrained(tiny_gemma3), folder
    ).eval()
    plain_base = Gemma3ForConditionalGeneration.from_pretrained(tiny_gemma3).eval()
    _, processor = engine.torch_model()
    continuations = [[f"{text}{END}" for text in (*LEVELS, " 10")]] * 3
    scores = engine.score(asked, continuations, folder)
    answers = [(300, 301), (302,), (303, 304, 305)]
    states = np.concatenate(engine.hidden(asked, answers, 3, "mean", folder))
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    for number, prompt in enumerate(asked):
        inputs = inputs_of(processor, prompt)
        with torch.no_grad():
            under = reference(**inputs, output_hidden_states=True)
            without = plain_base(**inputs, output_hidden_states=True)
        invocation = len(tokenize(processor.tokenizer, MARKER))
        for ours, theirs in zip(under.hidden_states, without.hidden_states, strict=True):
            assert torch.equal(ours[:, :-invocation], theirs[:, :-invocation])
        assert not torch.allclose(under.logits[:, -1], without.logits[:, -1], atol=1e-2)
        for text, value in zip(continuations[number], scores[number], strict=True):
            ids = [*tokenize(processor.tokenizer, text.removesuffix(END)), end]
            assert value == pytest.approx(sum(plain_logprobs((reference, processor), prompt, ids)), abs=2e-4)
        with torch.no_grad():
            passed = reference(**inputs_of(processor, prompt, answers[number]), output_hidden_states=True)
        own = passed.hidden_states[3][0, -len(answers[number]) :].mean(dim=0).numpy()
        assert states[number] == pytest.approx(own, abs=1e-3, rel=1e-4)
        generated = adapted[number]
        assert generated.logprobs == pytest.approx(
            plain_logprobs((reference, processor), prompt, generated.token_ids), abs=2e-4
        )


def test_an_adapter_fits_a_model_that_has_moved(
    tiny_gemma3: Path, adapters: dict[str, Path], engine: TransformersEngine, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_gemma3, tmp_path / "moved")
    job, sampling = [Job(ask("Findings?"))], Sampling(max_tokens=4)
    there = TransformersEngine(model=str(moved), device="cpu").generate(job, sampling, adapters["two"])
    assert_same(there, engine.generate(job, sampling, adapters["two"]))


def test_an_activated_adapter_without_its_marker_is_an_error(
    engine: TransformersEngine, adapters: dict[str, Path]
) -> None:
    with pytest.raises(EngineError, match="acts only after the tokens"):
        engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=2), adapters["activated"])


def test_an_adapter_of_another_model_is_refused_and_the_model_still_works(
    tiny_gemma3: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import Gemma3ForConditionalGeneration

    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    job, sampling = [Job(ask("Findings?"))], Sampling(max_tokens=4)
    before = engine.generate(job, sampling, None)
    config = Gemma3ForConditionalGeneration.from_pretrained(tiny_gemma3).config
    config.text_config.hidden_size = 96
    wider = write_adapter(Gemma3ForConditionalGeneration(config), tmp_path / "wider")
    config.text_config.hidden_size, config.text_config.num_hidden_layers = 64, 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    shallower = write_adapter(Gemma3ForConditionalGeneration(config), tmp_path / "shallower")
    for folder in (wider, shallower):
        with pytest.raises(ModelError, match="was not made for the model"):
            engine.generate(job, sampling, folder)
        assert_same(engine.generate(job, sampling, None), before)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors missing"):
        adapter_digest(empty)
    written = json.loads((adapters["one"] / "adapter_config.json").read_text())
    (wider / "adapter_config.json").write_text(json.dumps({**written, "peft_type": "IA3"}))
    with pytest.raises(ModelError, match="no LoRA adapter"):
        engine.generate(job, sampling, wider)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_torn_adapter_is_a_model_error_and_the_model_still_works(
    tiny_gemma3: Path, adapters: dict[str, Path], tmp_path: Path, kept: float
) -> None:
    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    job, sampling = [Job(ask("Findings?"))], Sampling(max_tokens=4)
    before = engine.generate(job, sampling, None)
    torn = Path(shutil.copytree(adapters["one"], tmp_path / "torn"))
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(kept * weights.stat().st_size)])
    with pytest.raises(
        ModelError, match=r"the adapter in .*torn was not made for .*, or is damaged; fit the method again: "
    ):
        engine.generate(job, sampling, torn)
    assert_same(engine.generate(job, sampling, None), before)


def test_identity_hashes_the_files_without_loading(tiny_gemma3: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    identity = engine.identity()
    assert (identity["engine"], identity["dtype"], identity["quantization"]) == ("transformers", "float32", "none")
    assert identity["transformers"] == version("transformers")
    moved = Path(shutil.copytree(tiny_gemma3, tmp_path / "moved"))
    other = TransformersEngine(model=str(moved), device="cpu")
    assert other.identity() == identity
    generation_config = json.loads((moved / "generation_config.json").read_text())
    (moved / "generation_config.json").write_text(json.dumps({**generation_config, "eos_token_id": [1]}))
    assert other.identity()["model"] != identity["model"]
    assert TransformersEngine(model=str(tiny_gemma3), device="cpu", dtype="bfloat16").identity() != identity
    assert engine._loaded is None
    assert other._loaded is None


def test_a_model_that_cannot_be_found_says_what_to_do(
    tiny_gemma3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hub cannot be reached"):
        TransformersEngine(model="somebody/some-model").identity()
    with pytest.raises(ModelError, match="no such folder"):
        TransformersEngine(model="./models/not/here").identity()
    with pytest.raises(ModelError, match="no checkpoint"):
        TransformersEngine(model=str(tmp_path)).identity()
    with pytest.raises(ConfigError, match="revision"):
        TransformersEngine(model=str(tiny_gemma3), revision="main").identity()
    cached = tmp_path / "models--somebody--some-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    identity = TransformersEngine(model="somebody/some-model").identity()
    assert (identity["model"], identity["revision"]) == ("somebody/some-model", "0" * 40)


def test_a_damaged_or_incomplete_checkpoint_is_a_model_error(tiny_gemma3: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_gemma3, tmp_path / "copy"))
    weights = folder / "model.safetensors"
    state = load_file(weights)
    missing = next(key for key in state if "down_proj" in key)
    save_file({key: value for key, value in state.items() if key != missing}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights"):
        TransformersEngine(model=str(folder), device="cpu").torch_model()
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        TransformersEngine(model=str(folder), device="cpu").torch_model()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "garbage": lambda _: bytes(range(256)) * 4,
    "web page": lambda _: b"<html>not found</html>",
    "object": lambda _: b"{}",
    "list": lambda _: b"[]",
    "null": lambda _: b"null",
}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
def test_damage_of_any_kind_to_a_checkpoint_is_a_model_error(tiny_gemma3: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_gemma3, tmp_path / "copy"))
    whole = (folder / name).read_bytes()
    others = []
    if name == "config.json":
        others = [{"text_config": "small"}, {"pad_token_id": "none"}, {"architectures": 5}]
    elif name == "generation_config.json":
        others = [{"eos_token_id": "end"}, {"pad_token_id": "none"}]
    changed = [json.dumps({**json.loads(whole), **other}).encode() for other in others]
    for data in (*(damage(whole) for damage in DAMAGES.values()), *changed):
        (folder / name).write_bytes(data)
        refusal = ""
        try:
            engine = TransformersEngine(model=str(folder), device="cpu")
            engine.check_training()
            engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=1), None)
        except ModelError as error:
            refusal = str(error)
        # transformers can do without the one file.
        assert (str(folder) in refusal) or (not refusal and name == "generation_config.json")
        assert "\n" not in refusal


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_damage_of_any_kind_to_an_adapter_is_a_model_error(
    tiny_gemma3: Path, adapters: dict[str, Path], tmp_path: Path, name: str, damage: str
) -> None:
    folder = Path(shutil.copytree(adapters["one"], tmp_path / "adapter"))
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    said = (
        "is no LoRA adapter" if (name, damage) == ("adapter_config.json", "object") else "or is damaged; fit the method"
    )
    with pytest.raises(ModelError, match=said):
        TransformersEngine(model=str(tiny_gemma3), device="cpu").generate(
            [Job(ask("Findings?"))], Sampling(max_tokens=1), folder
        )
    if name == "adapter_model.safetensors":
        with pytest.raises(ModelError, match="or is damaged; fit the method again"):
            check_adapter(folder, str(tiny_gemma3), None)


@pytest.mark.parametrize(("option", "value"), [("r", "four"), ("r", 8), ("target_modules", 5), ("rank_pattern", 5)])
def test_a_configuration_that_does_not_fit_its_adapter_is_a_model_error(
    tiny_gemma3: Path, adapters: dict[str, Path], tmp_path: Path, option: str, value: object
) -> None:
    folder = Path(shutil.copytree(adapters["one"], tmp_path / "adapter"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), option: value}))
    with pytest.raises(ModelError, match="or is damaged; fit the method again"):
        TransformersEngine(model=str(tiny_gemma3), device="cpu").generate(
            [Job(ask("Findings?"))], Sampling(max_tokens=1), folder
        )


def test_a_weight_of_another_shape_is_no_adapter_of_the_model(
    tiny_gemma3: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(adapters["one"], tmp_path / "adapter"))
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    for shape in ((), (3,), (3, 3), (3, 3, 3)):
        save_file({**state, next(iter(state)): torch.zeros(shape)}, path)
        with pytest.raises(ModelError, match="was not made for the model"):
            check_adapter(folder, str(tiny_gemma3), None)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "a device"])
def test_a_device_that_torch_does_not_know_is_a_configuration_error(tiny_gemma3: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: '{device}' is no device of torch"):
        TransformersEngine(model=str(tiny_gemma3), device=device).identity()


def test_memory_that_is_too_small_halves_the_batch() -> None:
    sizes: list[int] = []

    def needs_memory(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError
        return [2 * item for item in items]

    def needs_too_much(_items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError

    assert halving(range(7), needs_memory) == [2 * item for item in range(7)]
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    with pytest.raises(EngineError, match="single prompt"):
        halving([1, 2], needs_too_much)


def test_torch_model_is_fresh_and_trainable(engine: TransformersEngine) -> None:
    model, processor = engine.torch_model()
    other, _ = engine.torch_model()
    assert model is not other
    inputs = inputs_of(processor, ask("Findings?"))
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None)


def test_closing_frees_the_model_and_it_loads_again(tiny_gemma3: Path) -> None:
    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    job, sampling = [Job(ask("Findings?"))], Sampling(max_tokens=3)
    first = engine.generate(job, sampling, None)
    engine.close()
    assert engine._loaded is None
    assert_same(engine.generate(job, sampling, None), first)


def test_the_processor_is_loaded_once(tiny_gemma3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real tokenizer takes seconds, and a run with nine trainings asks for it twenty times."""
    from conrad_bench.engines import loading

    loaded = []
    plain = loading.load_processor
    monkeypatch.setattr(loading, "load_processor", lambda *given: loaded.append(given) or plain(*given))
    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu")
    engine.check_prompts()
    for _ in range(2):
        engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=3), None)
        engine.close()
    _, processor = engine.torch_model()
    assert engine.tokenizer() is processor.tokenizer
    assert len(loaded) == 1


def test_a_chat_is_remembered_up_to_a_budget_and_its_prefix_is_not(tiny_gemma3: Path, tmp_path: Path) -> None:
    from PIL import Image

    from conrad_bench.engines.inputs import encode
    from conrad_bench.engines.pictures import Prepared

    processor = TransformersEngine(model=str(tiny_gemma3), device="cpu").torch_model()[1]
    path = tmp_path / "a.png"
    Image.new("L", (60, 60), 40).save(path)
    prompt = ask("Is it?", [str(path)])
    first = encode(processor, prompt)
    again = encode(processor, replace(prompt, prefix="Yes."))
    assert again.features is first.features
    assert again.ids[: len(first.ids)] == first.ids
    assert len(again.ids) > len(first.ids)
    Image.new("L", (61, 60), 200).save(path)
    other = encode(processor, prompt)
    assert not torch.equal(other.features["pixel_values"], first.features["pixel_values"])
    small = Prepared(processor.image_processor._processor, budget=1)
    assert small.remembered("chat", lambda: (first, 2)) is first
    assert small.remembered("chat", lambda: (other, 2)) is other


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bit_weights_load_and_generate(
    tiny_gemma3: Path, adapters: dict[str, Path], prompts: list[Prompt], caplog: pytest.LogCaptureFixture
) -> None:
    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu", quantization="nf4")
    assert engine.identity()["quantization"] == "nf4"
    with caplog.at_level(logging.WARNING):
        generations = engine.generate([Job(p) for p in prompts], Sampling(max_tokens=5), None)
    assert not [record for record in caplog.records if "kernels" in record.getMessage()]
    assert all(len(g.token_ids) > 0 and np.isfinite(g.logprobs).all() for g in generations)  # type: ignore[arg-type]
    adapted = engine.generate([Job(p) for p in prompts], Sampling(max_tokens=5), adapters["one"])
    assert [g.logprobs for g in adapted] != [g.logprobs for g in generations]
    model, _ = engine.torch_model()
    quantized = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert quantized
    assert all("language_model" in name for name in quantized)


def test_four_bit_weights_without_bitsandbytes_name_the_command(
    tiny_gemma3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    engine = TransformersEngine(model=str(tiny_gemma3), device="cpu", quantization="nf4")
    with pytest.raises(MissingExtra, match=r'pip install "conrad-bench\[quantization\]"'):
        engine.torch_model()


def test_an_adapter_leaves_4_bit_weights_as_they_were(base_model: Path, tmp_path: Path) -> None:
    """Base, adapter, base again: bitsandbytes' repacking for some processors and PEFT's loading would not agree."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    import torch
    from peft import get_peft_model

    from conrad_bench.trainers.adapters import language_lora, save_adapter

    model, _ = TransformersEngine(model=str(base_model)).torch_model()
    torch.manual_seed(0)
    adapted = get_peft_model(model, language_lora(model, 4, None))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_adapter(adapted, "base", tmp_path)
    engine = TransformersEngine(model=str(base_model), quantization="nf4")
    asked = [ask("Write the findings.")]
    before = engine.score(asked, [["No pneumothorax.", "Small left pleural effusion."]], None)
    under = engine.score(asked, [["No pneumothorax.", "Small left pleural effusion."]], tmp_path)
    after = engine.score(asked, [["No pneumothorax.", "Small left pleural effusion."]], None)
    assert after[0] == pytest.approx(before[0], abs=1e-4)
    assert under[0] != pytest.approx(before[0], abs=1e-2)
