"""The transformers engine on a real tiny Gemma3, against plain forward passes of the same checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_gemma3 import MARKER, ask, assert_same, inputs_of, plain_logprobs
from scipy.stats import chisquare

from conrad_bench.engines.base import Job
from conrad_bench.engines.decoding import TokenChooser
from conrad_bench.engines.inputs import continuation_ids, tokenize
from conrad_bench.engines.opening import open_image
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import DataError, EngineError
from conrad_bench.types import END, Message, Prompt, Sampling

LEVELS = [str(level) for level in range(11)]
ENDED = [level + END for level in LEVELS]


@pytest.fixture(scope="module")
def engine(tiny_gemma3: Path) -> TransformersEngine:
    return TransformersEngine(model=str(tiny_gemma3), device="cpu")


@pytest.fixture(scope="module")
def plain(tiny_gemma3: Path) -> tuple[Any, Any]:
    """The same checkpoint, loaded and called without the engine."""
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    return Gemma3ForConditionalGeneration.from_pretrained(tiny_gemma3).eval(), AutoProcessor.from_pretrained(
        tiny_gemma3
    )


@pytest.fixture(scope="module")
def prompts(image_files: list[str]) -> list[Prompt]:
    """Seven prompts of different lengths, with none, one and several images, with and without a prefix."""
    return [
        ask("Write the findings of this chest radiograph.", image_files[:1]),
        ask("Is the answer correct? Answer True or False."),
        ask("Compare the views.", image_files[:2]),
        ask("The lungs are clear.", image_files[1:2], prefix="The heart"),
        Prompt(
            (Message("user", "Findings?"), Message("assistant", "Clear."), Message("user", "Sure?")), (image_files[2],)
        ),
        ask("Indication: shortness of breath. " * 6, image_files),
        ask("Answer.", prefix="The heart size is normal." + MARKER),
    ]


def in_batches(items: Sequence[Any], size: int, run: Callable[[Any], list[Any]]) -> list[Any]:
    return [result for start in range(0, len(items), size) for result in run(items[start : start + size])]


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=10), Sampling(1.0, 0.9, 10), Sampling(0.7, 1.0, 10)])
def test_results_do_not_depend_on_the_batch(
    engine: TransformersEngine, prompts: list[Prompt], sampling: Sampling
) -> None:
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(prompts)]
    together = engine.generate(jobs, sampling, None)
    alone = in_batches(jobs, 1, lambda part: engine.generate(part, sampling, None))
    by_three = in_batches(jobs, 3, lambda part: engine.generate(part, sampling, None))
    reversed_order = engine.generate(jobs[::-1], sampling, None)[::-1]
    for other in (alone, by_three, reversed_order):
        assert_same(together, other)


def test_greedy_takes_the_most_probable_token_of_a_plain_forward_pass(
    engine: TransformersEngine, plain: tuple[Any, Any], prompts: list[Prompt]
) -> None:
    model, processor = plain
    for prompt, generation in zip(
        prompts, engine.generate([Job(p) for p in prompts], Sampling(max_tokens=6), None), strict=True
    ):
        with torch.no_grad():
            logits = model(**inputs_of(processor, prompt, generation.token_ids)).logits[0]
        expected = logits[-len(generation.token_ids) - 1 : -1].argmax(dim=-1).tolist()
        assert list(generation.token_ids) == expected


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=8), Sampling(1.3, 0.8, 8)])
def test_logprobs_are_those_of_the_unmodified_distribution(
    engine: TransformersEngine, plain: tuple[Any, Any], prompts: list[Prompt], sampling: Sampling
) -> None:
    for prompt, generation in zip(prompts, engine.generate([Job(p, 5) for p in prompts], sampling, None), strict=True):
        assert generation.logprobs == pytest.approx(plain_logprobs(plain, prompt, generation.token_ids), abs=1e-4)


def test_choices_are_the_only_responses(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    """Greedy and sampled, "1" and "10" among them."""
    choices = tuple(f"Confidence: {level}" for level in LEVELS)
    for sampling in (Sampling(max_tokens=16, choices=choices), Sampling(2.0, 1.0, 16, choices=choices)):
        generations = engine.generate([Job(p, seed) for seed, p in enumerate(prompts * 4)], sampling, None)
        assert {g.text.strip() for g in generations} <= set(choices)
        assert {g.finish_reason for g in generations} == {"stop"}
        assert {g.logprobs for g in generations} == {None}
    assert len({g.text for g in generations}) > 4
    with pytest.raises(EngineError, match=r"the longest of the choices takes \d+ tokens; raise max_tokens"):
        engine.generate([Job(prompts[0])], Sampling(max_tokens=3, choices=choices), None)


def test_samples_differ_by_seed(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    sampling = Sampling(1.0, 1.0, 8)
    texts = [g.token_ids for g in engine.generate([Job(prompts[0], seed) for seed in range(8)], sampling, None)]
    assert len(set(texts)) == 8


def test_sampled_frequencies_match_the_softmax(engine: TransformersEngine, plain: tuple[Any, Any]) -> None:
    prompt, temperature, number = ask("Answer."), 1.7, 4000
    model, processor = plain
    with torch.no_grad():
        expected = (model(**inputs_of(processor, prompt)).logits[0, -1] / temperature).softmax(dim=-1).numpy()
    jobs = [Job(prompt, seed) for seed in range(number)]
    generations = in_batches(jobs, 500, lambda part: engine.generate(part, Sampling(temperature, 1.0, 1), None))
    counts = np.bincount([g.token_ids[0] for g in generations], minlength=len(expected))
    common = expected * number >= 5
    observed = [*counts[common], counts[~common].sum()]
    wanted = [*(expected[common] * number), expected[~common].sum() * number]
    assert common.sum() > 10
    assert chisquare(observed, wanted, sum_check=False).pvalue > 1e-3


def test_a_response_ends_with_a_stop_token_or_with_length(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    _, processor = engine.torch_model()
    stops = set(processor.tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]))
    jobs = [Job(prompts[1], seed) for seed in range(200)]
    generations = engine.generate(jobs, Sampling(3.0, 1.0, 40), None)
    reasons = {g.finish_reason for g in generations}
    assert reasons == {"stop", "length"}
    for g in generations:
        assert len(g.token_ids) == len(g.logprobs or ())
        assert not stops & set(g.token_ids[:-1])
        assert (g.token_ids[-1] in stops) == (g.finish_reason == "stop")
        assert g.finish_reason == "stop" or len(g.token_ids) == 40
        assert "<end_of_turn>" not in g.text


@given(st.integers(2, 12), st.floats(0.05, 1.0), st.floats(0.2, 3.0), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(
    size: int, top_p: float, temperature: float, seed: int
) -> None:
    logits = torch.randn((1, size), generator=torch.Generator().manual_seed(seed)) * 2
    probabilities = (logits[0] / temperature).softmax(dim=-1)
    allowed: set[int] = set()
    mass = 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if mass >= top_p:
            break
        allowed.add(token)
        mass += float(probabilities[token])
    repeated = logits.repeat(50, 1)
    chooser = TokenChooser(range(50), Sampling(temperature, top_p), torch.device("cpu"))
    chosen = chooser.choose(repeated, range(50)).tolist()
    assert set(chosen) <= allowed
    expected = logits[0].log_softmax(dim=-1)
    assert [row[0] for row in chooser.logprobs] == pytest.approx([float(expected[token]) for token in chosen], abs=1e-5)


def test_score_is_the_sum_of_plain_log_probabilities(
    engine: TransformersEngine, plain: tuple[Any, Any], prompts: list[Prompt]
) -> None:
    tokenizer = plain[1].tokenizer
    end_id = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    continuations = [[*LEVELS, " The lungs are clear.", ""][i:] for i in range(len(prompts))]
    for end in (False, True):
        asked = [[text + END * end for text in texts] for texts in continuations]
        scores = engine.score(prompts, asked, None)
        for prompt, texts, row in zip(prompts, continuations, scores, strict=True):
            for text, value in zip(texts, row, strict=True):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [end_id] * end
                expected = sum(plain_logprobs(plain, prompt, ids)) if ids else 0.0
                assert value == pytest.approx(expected, abs=2e-4), (text, end)


def test_with_the_end_one_and_ten_exclude_each_other(
    engine: TransformersEngine, plain: tuple[Any, Any], prompts: list[Prompt]
) -> None:
    prompt = ask("Answer.", prefix="The heart size is normal." + MARKER + " ")
    tokenizer = plain[1].tokenizer
    one, zero, end = (tokenizer.convert_tokens_to_ids(t) for t in ("1", "0", "<end_of_turn>"))
    ((p1, p10),) = engine.score([prompt], [["1" + END, "10" + END]], None)
    ((open1,),) = engine.score([prompt], [["1"]], None)
    with torch.no_grad():
        after_one = plain[0](**inputs_of(plain[1], prompt, [one])).logits[0, -1].softmax(dim=-1)
    assert math.exp(p1) == pytest.approx(math.exp(open1) * float(after_one[end]), rel=1e-3)
    after_zero = plain_logprobs(plain, prompt, [one, zero, end])
    assert p10 == pytest.approx(sum(after_zero), abs=2e-4)


def test_scores_of_all_answers_of_two_tokens_sum_to_one(engine: TransformersEngine, plain: tuple[Any, Any]) -> None:
    """The eleven confidences and all the rest: what begins otherwise, and what goes on otherwise."""
    prompt = ask("Answer.", prefix="Confidence: ")
    model, processor = plain
    tokenizer = processor.tokenizer
    (levels,) = engine.score([prompt], [ENDED], None)
    digits = tokenizer.convert_tokens_to_ids(LEVELS[:10])
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    with torch.no_grad():
        first = model(**inputs_of(processor, prompt)).logits[0, -1].softmax(dim=-1).double()
        rest = 1 - float(first[digits].sum())
        for digit in digits:
            second = model(**inputs_of(processor, prompt, [digit])).logits[0, -1].softmax(dim=-1).double()
            goes_on = 1 - float(second[end])
            if digit == digits[1]:
                third = model(**inputs_of(processor, prompt, [digit, digits[0]])).logits[0, -1].softmax(dim=-1)
                goes_on -= float(second[digits[0]]) * float(third[end])
            rest += float(first[digit]) * goes_on
    assert sum(math.exp(value) for value in levels) + rest == pytest.approx(1, abs=1e-5)


def test_scores_do_not_depend_on_the_batch(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    together = engine.score(prompts, [ENDED] * len(prompts), None)
    alone = [engine.score([prompt], [ENDED], None)[0] for prompt in prompts]
    assert np.array(together) == pytest.approx(np.array(alone), abs=2e-4)


def test_continuations_are_tokenized_as_they_stand_after_the_prefix(plain: tuple[Any, Any]) -> None:
    tokenizer = plain[1].tokenizer
    assert continuation_ids(tokenizer, "Confidence: ", "10") == tokenizer.convert_tokens_to_ids(["1", "0"])
    # "Confid" + "ence" would be other tokens together: then the continuation stands by itself.
    assert tokenize(tokenizer, "Confid") + tokenize(tokenizer, "ence") != tokenize(tokenizer, "Confidence")
    assert continuation_ids(tokenizer, "Confid", "ence") == tokenize(tokenizer, "ence")


@pytest.mark.parametrize("layer", [0, 1, 3, 4, -1, -2])
@pytest.mark.parametrize("at", ["last", "mean"])
def test_hidden_states_equal_a_single_unpadded_pass(
    engine: TransformersEngine, plain: tuple[Any, Any], prompts: list[Prompt], layer: int, at: Any
) -> None:
    answers = [tuple(range(300, 300 + 3 * n + 1)) for n in range(len(prompts))]
    states = np.concatenate(engine.hidden(prompts, answers, layer, at, None))
    assert states.shape == (len(prompts), 64)
    assert states.dtype == np.float32
    model, processor = plain
    for prompt, answer, row in zip(prompts, answers, states, strict=True):
        with torch.no_grad():
            all_states = model(**inputs_of(processor, prompt, answer), output_hidden_states=True).hidden_states
        own = all_states[layer][0, -len(answer) :].numpy()
        expected = own[-1] if at == "last" else own.mean(axis=0)
        assert row == pytest.approx(expected, abs=1e-3, rel=1e-4)


def test_tokens_read_again_are_those_of_a_single_unpadded_pass(
    engine: TransformersEngine, plain: tuple[Any, Any], prompts: list[Prompt]
) -> None:
    """Of more tokens than are looked at together, of several lengths, and of none."""
    answers = [tuple(300 + i % 40 for i in range(70 * n)) for n in range(len(prompts))]
    tables = engine.reread(prompts, answers, None)
    model, processor = plain
    assert tables[0].shape == (0, 4)
    for prompt, answer, table in list(zip(prompts, answers, tables, strict=True))[1:]:
        with torch.no_grad():
            logits = model(**inputs_of(processor, prompt, answer)).logits[0, -len(answer) - 1 : -1].double()
        p = logits.softmax(-1).numpy()
        assert table.dtype == np.float32
        assert table[:, 0] == pytest.approx(np.log(p[range(len(answer)), answer]), abs=1e-3)
        assert table[:, 1] == pytest.approx(-(p * np.log(p)).sum(1), abs=1e-3)
        ordered = np.sort(p, axis=1)
        assert table[:, 2] == pytest.approx(ordered[:, -1] - ordered[:, -2], abs=1e-3)
        assert table[:, 3] == pytest.approx(-np.log(p * p.shape[1]).mean(1), abs=1e-3)


def test_a_response_that_is_read_again_has_the_log_probabilities_that_it_had(
    engine: TransformersEngine, prompts: list[Prompt]
) -> None:
    written = engine.generate([Job(p, i) for i, p in enumerate(prompts)], Sampling(1.0, max_tokens=12), None)
    for each, table in zip(written, engine.reread(prompts, [g.token_ids for g in written], None), strict=True):
        assert table[:, 0] == pytest.approx(each.logprobs, abs=1e-3)


def test_hidden_states_of_no_tokens_or_no_layer_are_errors(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    with pytest.raises(EngineError, match="without tokens"):
        engine.hidden(prompts[:1], [()], 1, "last", None)
    with pytest.raises(EngineError, match="numbered 0 to 4"):
        engine.hidden(prompts[:1], [(5,)], 5, "last", None)


def test_prefix_ids_continue_as_if_generated_in_one_go(engine: TransformersEngine, prompts: list[Prompt]) -> None:
    whole = engine.generate([Job(p) for p in prompts[:3]], Sampling(max_tokens=12), None)
    starts = [ask(p.messages[0].text, p.images, "", g.token_ids[:5]) for p, g in zip(prompts, whole, strict=False)]
    rest = engine.generate([Job(p) for p in starts], Sampling(max_tokens=7), None)
    assert [g.token_ids[5:] for g in whole] == [g.token_ids for g in rest]


def test_images_matter_and_their_order_too(engine: TransformersEngine, image_files: list[str]) -> None:
    first, second = image_files[:2]
    asked = [ask("Findings?", images) for images in ([first], [second], [first, second], [second, first], [])]
    scores = engine.score(asked, [[" The"]] * 5, None)
    assert len({round(row[0], 5) for row in scores}) == 5


def test_an_image_that_cannot_be_read_is_named(
    engine: TransformersEngine, image_files: list[str], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(Path(image_files[0]).read_bytes()[:900])
    with pytest.raises(DataError, match=r"torn\.png cannot be read"):
        engine.generate([Job(ask("Findings?", [str(torn)]))], Sampling(max_tokens=2), None)
    with pytest.raises(DataError, match=r"absent\.png does not exist"):
        open_image(str(tmp_path / "absent.png"))
