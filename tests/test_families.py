"""Every family of models does what methods ask for: answers alone are those in a batch, and those of a plain pass.

The table in docs/engines.md says which family does what; this file tests it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, NEEDS_IMAGE, ONE_IMAGE, write_family
from plain_gemma3 import ask, assert_same
from test_grpo import silent

from conrad_bench.engines.base import Job
from conrad_bench.engines.inputs import collate, encode, picture_tokens, tokenize
from conrad_bench.engines.loading import load
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import EngineError, ModelError
from conrad_bench.trainers.adapters import language_lora
from conrad_bench.trainers.answers import answer_log_probabilities, tree_of
from conrad_bench.trainers.conrad import train_conrad
from conrad_bench.trainers.joint_sft import Target, train_joint_sft
from conrad_bench.trainers.levels import train_levels
from conrad_bench.trainers.masks import level_ids, marker_ids
from conrad_bench.trainers.objectives import supervised
from conrad_bench.trainers.prefix import Written, prefill
from conrad_bench.trainers.settings import GRPOSettings, LevelSettings
from conrad_bench.types import END, Prompt, Sampling

NEEDS = {"Gemma4": "torchvision", "SmolVLM": "num2words"}
"""Packages without which transformers does not load a family's processor."""
NOT_JOINT = ("Kosmos2", "Mllama", "PaliGemma")
LEVELS = [f"{level}{END}" for level in range(11)]

# transformers warns of what it calls itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pictures that are cut into different numbers of tiles."""
    from PIL import Image

    folder, rng, paths = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, shape in enumerate([(40, 40), (90, 30), (30, 90), (64, 50)]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"transformers' processor of {name} needs {NEEDS[name]}")
    return name


@pytest.fixture(scope="module")
def engine(family: str, tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    return TransformersEngine(model=str(write_family(family, tmp_path_factory.mktemp("families"))), device="cpu")


@pytest.fixture(scope="module")
def prompts(family: str, pictures: list[str]) -> list[Prompt]:
    """One, several and no pictures of several shapes, prompts of several lengths, one with a prefix."""
    found = [
        ask("Findings?", pictures[:1]),
        ask("Is the heart enlarged, or is it not?", pictures[1:2]),
        ask("Q", pictures[2:3], prefix="The heart"),
        ask("And?", pictures[:1]),
    ]
    if family not in ONE_IMAGE:
        found += [ask("Compare.", pictures[:2]), ask("Compare all.", [pictures[3], pictures[0], pictures[2]])]
    if family not in NEEDS_IMAGE:
        found.append(ask("Only a text."))
    return found


def test_the_table_in_the_docs_is_what_is_tested_here() -> None:
    text = (Path(__file__).parents[1] / "docs" / "engines.md").read_text(encoding="utf-8")
    found = {row[0]: row[1:] for row in re.findall(r"^" + r"\| ([^|]*?) ?" * 7 + r"\|$", text, re.M)}
    rows = {name: found[name] for name in found if name in FAMILIES}
    assert tuple(rows) == FAMILIES
    for name, (*sure, joint, images, needs) in rows.items():
        assert sure == ["yes"] * 3
        assert joint == ("no" if name in NOT_JOINT else "yes")
        several, none = name not in ONE_IMAGE, name not in NEEDS_IMAGE
        assert (
            images == {(True, True): "any number", (True, False): "one or more", (False, False): "one"}[several, none]
        )
        assert needs == (f"`{NEEDS[name]}`" if name in NEEDS else "")


def plain(engine: TransformersEngine, prompt: Prompt, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of token ids behind a prompt, by one forward pass without cache or padding."""
    loaded = engine._load()
    whole = encode(loaded.processor, prompt).followed_by(ids)
    with torch.no_grad():
        logits = loaded.model(**collate([whole], 0, True, "cpu", torch.float32)).logits[0, -len(ids) - 1 : -1]
    return [float(row[token]) for row, token in zip(logits.log_softmax(-1), ids, strict=True)]


def test_pictures_that_are_prepared_once_are_those_of_the_processor(
    engine: TransformersEngine, prompts: list[Prompt]
) -> None:
    prepared, own = (load(engine.model, None, torch.float32, torch.device("cpu"), "none")[1] for _ in range(2))
    own.image_processor = own.image_processor._processor  # without what keeps pictures
    prepared.image_processor.ahead([path for prompt in prompts for path in prompt.images])
    for prompt in (*prompts, *prompts):
        with_kept, without = encode(prepared, prompt), encode(own, prompt)
        assert with_kept.ids == without.ids
        for kept, fresh in ((with_kept.features, without.features), (with_kept.aligned, without.aligned)):
            assert kept.keys() == fresh.keys()
            assert all(torch.equal(kept[name], fresh[name]) for name in kept)


def test_samples_of_one_prompt_are_read_together_and_written_as_if_alone(
    engine: TransformersEngine, prompts: list[Prompt]
) -> None:
    sampling = Sampling(1.0, 1.0, 8)
    jobs = [Job(prompt, seed) for seed in range(3) for prompt in prompts[:3]]
    alone = [engine.generate([job], sampling, None)[0] for job in jobs]
    read: list[int] = []
    network = engine._load().model
    hook = network.register_forward_pre_hook(
        lambda _module, _args, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    try:
        together = engine.generate(jobs, sampling, None)
    finally:
        hook.remove()
    assert_same(together, alone)
    longest = max(len(encode(engine._load().processor, prompt).ids) for prompt in prompts[:3])
    assert sum(n for n in read if n > len(jobs)) <= 3 * longest  # each prompt once, and not once a sample


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=8), Sampling(1.0, 0.9, 8)], ids=["greedy", "sampled"])
def test_responses_do_not_depend_on_the_batch(
    engine: TransformersEngine, prompts: list[Prompt], sampling: Sampling
) -> None:
    engine.check_prompts()
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(prompts)]
    together = engine.generate(jobs, sampling, None)
    assert_same(together, [engine.generate([job], sampling, None)[0] for job in jobs])
    for job, written in zip(jobs, together, strict=True):
        assert written.logprobs == pytest.approx(plain(engine, job.prompt, written.token_ids), abs=1e-4)
    begun = [
        ask(job.prompt.messages[0].text, job.prompt.images, "", written.token_ids[:3])
        for job, written in zip(jobs, together, strict=True)
        if not job.prompt.prefix and sampling.temperature == 0 and len(written.token_ids) == 8
    ]
    for prompt, rest in zip(begun, engine.generate([Job(p) for p in begun], Sampling(max_tokens=5), None), strict=True):
        whole = next(w for j, w in zip(jobs, together, strict=True) if j.prompt.messages == prompt.messages)
        assert whole.token_ids == (*prompt.prefix_ids, *rest.token_ids)


def test_scores_are_those_of_a_plain_pass(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    texts = [f"1{END}", f"10{END}", " The lungs", "", "yes"]
    scores = engine.score(prompts, [texts] * len(prompts), None)
    end, tokenizer = engine._load().end_id, engine.tokenizer()
    for prompt, row in zip(prompts, scores, strict=True):
        for text, value in zip(texts, row, strict=True):
            ids = tokenize(tokenizer, text.removesuffix(END)) + [end] * text.endswith(END)
            assert value == pytest.approx(sum(plain(engine, prompt, ids)) if ids else 0.0, abs=2e-4), text
    alone = [engine.score([prompt], [texts], None)[0] for prompt in prompts]
    assert np.array(scores) == pytest.approx(np.array(alone), abs=1e-4)
    assert abs(scores[0][-1] - scores[3][-1]) > 0
    other = engine.score([ask("Findings?", prompts[1].images)], [["yes"]], None)[0][0]
    assert abs(other - scores[0][-1]) > 1e-2  # the picture matters


def test_hidden_states_are_those_of_a_plain_pass(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    loaded = engine._load()
    layers = loaded.model.config.get_text_config().num_hidden_layers
    answers = [tuple(tokenize(engine.tokenizer(), "No effusion."[: 3 + i])) for i in range(len(prompts))]
    for layer in (0, 1, layers - 1, layers, -1):
        together = np.concatenate(engine.hidden(prompts, answers, layer, "mean", None))
        for prompt, answer, row in zip(prompts, answers, together, strict=True):
            assert row == pytest.approx(engine.hidden([prompt], [answer], layer, "mean", None)[0][0], abs=1e-4)
            whole = encode(loaded.processor, prompt).followed_by(answer)
            inputs = collate([whole], 0, True, "cpu", torch.float32)
            with torch.no_grad():
                states = loaded.model(**inputs, output_hidden_states=True).hidden_states
            if len(states) == layers + 1:  # a list without the layers that were left out has other numbers
                assert row == pytest.approx(states[layer][0, -len(answer) :].mean(0).numpy(), abs=1e-3, rel=1e-3)


def test_no_response_holds_a_picture(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    """Nor does one that another program wrote end what reads it."""
    barred = picture_tokens(engine._load().processor)
    assert barred
    jobs = [Job(prompts[0], seed) for seed in range(8)]
    # So hot that all words are alike: a tenth of the tokens and more would stand for pictures.
    written = [i for g in engine.generate(jobs, Sampling(1e4, 1.0, 60), None) for i in g.token_ids]
    assert len(written) > 200
    assert not barred & {*written}
    answer = (*tokenize(engine.tokenizer(), "No"), min(barred), max(barred))
    (states,) = engine.hidden(prompts[:1], [answer], 1, "last", None)
    assert np.isfinite(states).all()
    begun = ask("Findings?", prompts[0].images, "", answer)
    assert math.isfinite(engine.score([begun], [["yes"]], None)[0][0])


def test_answers_behind_a_claim_are_read_as_a_tree(
    engine: TransformersEngine, prompts: list[Prompt], tmp_path: Path
) -> None:
    """As one plain pass for each answer under the adapter, and as the engine scores them with the adapter's files."""
    from peft import get_peft_model

    model, processor = engine.torch_model()
    tokenizer, end = processor.tokenizer, engine._load().end_id
    marker, ids = marker_ids(tokenizer), level_ids(tokenizer)
    adapted = get_peft_model(model, language_lora(model, 4, marker)).eval()
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    claims = [p for p in prompts if not p.prefix]
    written = [Written(p, tokenize(tokenizer, "It is fine."[: 5 + 2 * i])) for i, p in enumerate(claims)]
    found = torch.zeros(len(written), len(ids))
    for which, prefix in prefill(adapted, processor, written):
        found[which] = answer_log_probabilities(adapted, prefix, tree_of(marker, ids, [end]))
    for w, row in zip(written[:3], found, strict=False):
        for level, value in zip(ids, row, strict=True):
            whole = encode(processor, w.prompt).followed_by([*w.ids, *marker, *level, end])
            with torch.no_grad():
                logits = adapted(**collate([whole], 0, True, "cpu", torch.float32)).logits[0, -len(level) - 2 : -1]
            expected = logits.log_softmax(-1)[range(len(level) + 1), [*level, end]].sum()
            assert value.item() == pytest.approx(expected.item(), abs=1e-4)
    adapted.save_pretrained(tmp_path)
    asked = [ask(w.prompt.messages[0].text, w.prompt.images, "", (*w.ids, *marker)) for w in written]
    scores = engine.score(asked, [LEVELS] * len(asked), tmp_path)
    assert np.array(scores) == pytest.approx(found.detach().numpy(), abs=1e-4)
    jobs = [Job(prompt) for prompt in asked]
    together = engine.generate(jobs, Sampling(max_tokens=3), tmp_path)
    assert_same(together, [engine.generate([job], Sampling(max_tokens=3), tmp_path)[0] for job in jobs])


def adapter_of(family: str, how: str, engine: TransformersEngine, prompts: list[Prompt], out: Path) -> bool:
    """Train one step or two in some way, and tell whether there is an adapter."""
    model, processor = engine.torch_model()
    shared: dict[str, Any] = {
        "torch_model": model, "processor": processor, "base_model": "base", "seed": 0, "stage": silent, "out": out,
    }  # fmt: skip
    levels = LevelSettings(batch_size=4, min_parse_rate=0.0, rank=4)
    if how == "conditional":
        written = [Written(p, tokenize(processor.tokenizer, "yes")) for p in prompts]
        train_levels(levels, supervised, written=written, correctness=[0.5] * len(prompts), between="\n", **shared)
    elif how == "sft joint":
        train_joint_sft(levels, targets=[Target(p, "Fine.\nConfidence: 8") for p in prompts], **shared)
    else:
        joint = GRPOSettings(
            mode="joint", batch_size=4, generations=2, max_tokens=300, min_parse_rate=0.0, rank=4, samples=4
        )

        def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float | None], list[bool]]:
            return [float(len(set(text))) for text in texts], [True] * len(texts)

        train_conrad(joint, prompts=prompts[:4], reward=reward, **shared)
    return (out / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("how", ["conditional", "sft joint", pytest.param("conrad joint", marks=pytest.mark.slow)])
def test_adapters_are_trained(
    family: str, how: str, engine: TransformersEngine, prompts: list[Prompt], tmp_path: Path
) -> None:
    asked = [prompt for prompt in prompts if not prompt.prefix]
    if how == "conrad joint" and family in NOT_JOINT:
        pytest.skip("TRL cannot train it so")
    if how == "conrad joint":
        asked = [ask(text, asked[0].images) for text in ("Findings?", "Is it?", "Q", "What is to be seen?")]
    engine.close()
    assert adapter_of(family, how, engine, asked, tmp_path)


def test_the_plan_knows_what_can_be_trained(family: str, engine: TransformersEngine) -> None:
    engine.check_training()
    if family in NOT_JOINT:
        with pytest.raises(ModelError, match=r"TRL cannot train .*; use conrad\.mode=conditional"):
            engine.check_training(joint=True)
    else:
        engine.check_training(joint=True)


@pytest.mark.parametrize("how", ["two images", "no image"])
def test_what_a_family_does_not_read_is_said(
    family: str, how: str, engine: TransformersEngine, pictures: list[str]
) -> None:
    if family not in (ONE_IMAGE if how == "two images" else NEEDS_IMAGE):
        pytest.skip("it reads that")
    prompt = ask("Findings?", pictures[:2] if how == "two images" else [])
    with pytest.raises(EngineError, match="cannot take a prompt"):
        engine.generate([Job(prompt)], Sampling(max_tokens=2), None)
