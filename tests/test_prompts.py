"""Processors and chat templates are tried before a run, and a template that writes the day is part of the key."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import pytest
from families import TEMPLATE, write_family
from families import _tokenizer as written_tokenizer
from plain_gemma3 import ask
from plain_llama import write_llama
from test_cli import conrad_bench

from conrad_bench.engines import processors
from conrad_bench.engines.boundary import translated
from conrad_bench.engines.inputs import decoded, same_shapes, token_offsets
from conrad_bench.engines.processors import load_processor, load_tokenizer
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ConfigError, HubUnreachable, MissingExtra, ModelError
from conrad_bench.progress import Reporter
from conrad_bench.reading.claims import answer_claim
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Response

STRINGS = "{% for m in messages %}<turn>{{ m['role'] + ': ' + m['content'] }}</turn>{% endfor %}"
PRINTED = "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] }}</turn>{% endfor %}"
NEEDS_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TEMPLATE
NO_ANSWERS = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] == 'user' %}")
NO_PICTURES = TEMPLATE.replace("MARK", "")
BROKEN = "{% for m in messages %}{{ m['role'] }}"
DATED = "Today is {{ strftime_now('%d %B %Y') }}. " + TEMPLATE.replace("MARK", "<start_of_image>")


def seen_by(model: Path, template: str | None) -> TransformersEngine:
    return TransformersEngine(model=str(model), device="cpu", chat_template=template)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (STRINGS, "fails on a user turn"),
        (PRINTED, "takes plain strings"),
        (NEEDS_SYSTEM, "fails on a user turn .*no system turn.*needs a system turn"),
        (NO_ANSWERS, "leaves out what the model answered"),
        (NO_PICTURES, "cannot read a question with a picture"),
        (BROKEN, "fails on a user turn"),
    ],
    ids=["strings", "printed", "system", "answers", "pictures", "broken"],
)
def test_a_template_that_fails_names_the_model_and_the_option(tiny_gemma3: Path, template: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        seen_by(tiny_gemma3, template).check_prompts()
    assert str(tiny_gemma3) in str(caught.value)
    assert "-o transformers.chat_template=" in str(caught.value)


def test_templates_that_work_pass(tiny_gemma3: Path, base_model: Path, tmp_path: Path) -> None:
    for template in (None, TEMPLATE.replace("MARK", "<start_of_image>"), DATED):
        seen_by(tiny_gemma3, template).check_prompts()
    seen_by(base_model, None).check_prompts()
    write_llama(tmp_path)  # text alone: turns are plain strings there
    seen_by(tmp_path, STRINGS).check_prompts()


def test_the_name_of_a_file_is_no_template(tiny_gemma3: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Jinja template: 'chat\.jinja'.*not the name of its file"):
        seen_by(tiny_gemma3, "chat.jinja").check_prompts()


def test_a_dry_run_ends_with_2(tiny_gemma3: Path, tmp_path: Path) -> None:
    arguments = ["run", "--dry-run", "--methods", "verbalized", "--tasks", "mimic_report", "--model", str(tiny_gemma3)]
    for template in (NEEDS_SYSTEM, "chat.jinja"):
        done = conrad_bench(
            *arguments, "-o", "phantom.studies=20", "-o", f"transformers.chat_template={template!r}", cwd=tmp_path
        )
        assert done.returncode == 2, done.stderr
        assert "chat_template" in done.stderr
        assert "bug" not in done.stderr


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_damaged_processor_is_a_model_error(tiny_gemma3: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_gemma3, tmp_path / "copy"))
    if not (folder / name).is_file():
        pytest.skip("this checkpoint has no such file")
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    if name == "preprocessor_config.json":
        (folder / "processor_config.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_processor(str(folder), None)


def test_parts_for_videos_are_left_out(tmp_path: Path) -> None:
    """A processor of a family with videos prepares pictures with Pillow, and is saved without that part."""
    folder = write_family("Qwen2VL", tmp_path / "model")
    processor = load_processor(str(folder), None)
    assert type(processor).__name__ == "Qwen2VLProcessor"
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"
    assert processor.video_processor is None
    processor.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "processor_config.json").read_text()).get("video_processor") is None


@pytest.mark.parametrize(
    ("message", "name", "package"),
    [
        ("Package `num2words` is required: install it with `pip install num2words`.", None, "num2words"),
        ("No module named 'detectron9'", "detectron9", "detectron9"),
        ("A class requires the Torchvision library but it was not found.", None, "torchvision"),
    ],
)
def test_a_missing_package_is_named(message: str, name: str | None, package: str) -> None:
    error = ModuleNotFoundError("Could not import module 'Processor'")
    error.__cause__ = ImportError(message, name=name)
    said = f"model 'm' cannot be loaded: it needs {package}: pip install {package}$"
    with pytest.raises(MissingExtra, match=said), translated("model 'm' cannot be loaded"):
        raise error


def test_a_model_that_is_cached_in_part_needs_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for load in (load_processor, load_tokenizer):
        with pytest.raises(HubUnreachable, match="connect to the network once"):
            load("somebody/some-model-that-is-not-here", None)


@pytest.mark.parametrize("dated", [True, False])
def test_a_template_that_writes_the_day_makes_new_keys_every_day(
    tiny_gemma3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dated: bool
) -> None:
    folder = Path(shutil.copytree(tiny_gemma3, tmp_path / "dated"))
    if dated:
        (folder / "chat_template.jinja").write_text(DATED)
    keys = []
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(seen_by(folder, None), store, Reporter(quiet=True))
        for day in (3, 3, 4):
            processors._dated_processor.cache_clear()
            monkeypatch.setattr(processors, "_NOW", datetime(2031, 7, day))
            keys += model.keys([ask("Findings?"), ask("Is it?")])
            text = processors.dated_texts([ask("Findings?")], str(folder), None, None)[0]
            assert (text is not None and f"Today is 0{day} July 2031." in text) == dated
    assert keys[:2] == keys[2:4]
    assert (keys[:2] != keys[4:]) == dated
    processors._dated_processor.cache_clear()


def test_the_embedded_models_prompts_are_not_in_its_keys() -> None:
    model = str(files("conrad_bench.tasks.phantom") / "base_model")
    assert TransformersEngine(model=model).dated([ask("Findings?")]) == [None]


def test_only_prompts_of_one_shape_are_a_batch() -> None:
    """Prompts without pictures go along with the first others; the order of prompts is that of their groups."""
    import torch

    from conrad_bench.engines.inputs import Encoded

    def encoded(tiles: int, length: int = 3, row: bool = False) -> Encoded:
        features = {"pixel_values": torch.zeros(1, tiles, 3, 2, 2)} if tiles else {}
        aligned = {"cross_attention_mask": torch.zeros(length, 1, tiles)} if row else {}
        return Encoded([1] * length, aligned, features)

    assert same_shapes([encoded(n) for n in (0, 2, 3, 0, 2)]) == [[0, 1, 3, 4], [2]]
    assert same_shapes([encoded(n) for n in (2, 2)]) == [[0, 1]]
    assert same_shapes([encoded(0), encoded(2, row=True), encoded(2, row=True)]) == [[0], [1, 2]]
    assert same_shapes([encoded(2, 3), encoded(2, 4), encoded(2, 3)], same_length=True) == [[0, 2], [1]]


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<|channel>", "<channel|>")])
def test_special_tokens_that_mark_thoughts_are_written(marks: tuple[str, str]) -> None:
    tokenizer = written_tokenizer({}, marks)
    opening = marks[0] + "thought" * (marks[0] == "<|channel>")
    text = f"{opening}\nno. Confidence: 2{marks[1]}Yes\nConfidence: 8"
    ids = tokenizer(f"<turn>{text}</s>", add_special_tokens=False)["input_ids"]
    assert decoded(tokenizer, ids) == text
    offsets = token_offsets(tokenizer, ids)
    assert [decoded(tokenizer, ids[:i]) for i in range(len(ids) + 1)] == [text[:end] for end in offsets]
    claim = answer_claim(Response("key", text, tuple(ids), None, "stop"), "confidence")
    assert (claim.text, claim.confidence) == ("Yes", 0.8)
