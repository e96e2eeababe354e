"""The vLLM engine on the embedded base model, against plain forward passes and the transformers engine, in float32.

On a CPU vLLM lets an image's tokens attend to earlier tokens only, where the model's own rule is that they all see each
other. So what it says about images is compared with forward passes that are told so.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_gemma3 import MARKER, ask, assert_same, inputs_of, write_adapter
from scipy.stats import chisquare

from conrad_bench.engines.base import Generation, Job
from conrad_bench.engines.inputs import encode, encode_unexpanded, tokenize
from conrad_bench.engines.processors import load_processor
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.engines.vllm import VLLMEngine
from conrad_bench.errors import ConfigError, DataError, EngineError, MissingExtra, ModelError
from conrad_bench.types import END, Message, Prompt, Sampling

LEVELS = [str(level) for level in range(11)]
ENDED = [level + END for level in LEVELS]

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (see docs/engines.md)")
without_vllm = pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")


@pytest.fixture(scope="module")
def engine(base_model: Path) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(model=str(base_model), dtype="float32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def transformers(base_model: Path) -> TransformersEngine:
    return TransformersEngine(model=str(base_model), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def plain(base_model: Path) -> tuple[Any, Any]:
    """The model, called without an engine."""
    return network(base_model), load_processor(str(base_model), None)


@pytest.fixture(scope="module")
def texts() -> list[Prompt]:
    return [
        ask("Write the findings of this chest radiograph."),
        ask("Is the heart enlarged?", prefix="The heart"),
        Prompt((Message("user", "Findings?"), Message("assistant", "Clear."), Message("user", "Sure?"))),
        ask("Indication: shortness of breath. " * 6, prefix="The heart size is normal." + MARKER + " "),
    ]


@pytest.fixture(scope="module")
def seeing(image_files: list[str]) -> list[Prompt]:
    """Prompts with images, of other sizes than the model's too."""
    return [
        ask("Write the findings of this chest radiograph.", image_files[:1]),
        ask("Compare the views.", image_files),
        ask("The lungs are clear.", image_files[1:2], prefix="The heart"),
        Prompt(
            (Message("user", "Findings?"), Message("assistant", "Clear."), Message("user", "Sure?")), (image_files[2],)
        ),
    ]


def network(base_model: Path) -> Any:
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForImageTextToText.from_pretrained(base_model, dtype=torch.float32).eval()


def causal_logits(plain: tuple[Any, Any], prompt: Prompt, ids: Sequence[int] = ()) -> torch.Tensor:
    """Logits of the tokens after the prompt, `ids` among them, where image tokens see earlier tokens only."""
    model, processor = plain
    inputs = inputs_of(processor, prompt, ids)
    inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits[0, -len(ids) - 1 :]
    return logits


def causal_logprobs(plain: tuple[Any, Any], prompt: Prompt, ids: Sequence[int]) -> list[float]:
    logprobs = causal_logits(plain, prompt, ids).log_softmax(dim=-1)
    return [float(row[token]) for row, token in zip(logprobs, ids, strict=False)]


def check(plain: tuple[Any, Any], prompt: Prompt, generation: Generation, greedy: bool = True) -> None:
    """Compare a response with a forward pass over all of it."""
    ids = generation.token_ids
    assert generation.logprobs == pytest.approx(causal_logprobs(plain, prompt, ids), abs=1e-4)
    if greedy:
        assert causal_logits(plain, prompt, ids)[:-1].argmax(dim=-1).tolist() == list(ids)


@without_vllm
def test_a_missing_vllm_is_answered_with_the_command(base_model: Path) -> None:
    engine = VLLMEngine(model=str(base_model))
    with pytest.raises(MissingExtra, match=r"pip install .*vllm"):
        engine.identity()
    with pytest.raises(MissingExtra, match=r"pip install .*vllm"):
        engine.generate([Job(ask("Findings?"))], Sampling(), None)


@without_vllm
def test_while_a_gpu_holds_a_model_in_training_transformers_answers(
    base_model: Path, transformers: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where vLLM would be asked, its absence is met."""
    engine = VLLMEngine(model=str(base_model), dtype="float32")
    monkeypatch.setattr("conrad_bench.engines.vllm.has_gpu", lambda: True)
    jobs, sampling = [Job(ask("Findings?"))], Sampling(max_tokens=4)
    model, _ = engine.torch_model()
    assert_same(engine.generate(jobs, sampling, None), transformers.generate(jobs, sampling, None))
    assert engine.score([jobs[0].prompt], [ENDED], None) == [
        pytest.approx(row, abs=1e-4) for row in transformers.score([jobs[0].prompt], [ENDED], None)
    ]
    del model
    with pytest.raises(MissingExtra):
        engine.generate(jobs, sampling, None)


def test_importing_the_engine_does_not_import_vllm() -> None:
    code = "import sys, conrad_bench.engines.vllm; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_prompts_are_tokenized_as_for_transformers(
    plain: tuple[Any, Any], texts: list[Prompt], seeing: list[Prompt]
) -> None:
    processor = plain[1]
    mark = processor.tokenizer.convert_tokens_to_ids(processor.boi_token)
    for prompt in [*texts, *seeing]:
        short, whole = encode_unexpanded(processor, prompt), encode(processor, prompt).ids
        assert short.count(mark) == len(prompt.images)
        assert short.count(processor.tokenizer.bos_token_id) == 1
        text = processor.tokenizer.decode(short)
        assert text.replace(processor.boi_token, processor.full_image_sequence) == processor.tokenizer.decode(whole)
        assert prompt.images or short == whole


@needs_vllm
def test_identity_names_the_model_the_precision_and_vllm(engine: VLLMEngine, transformers: TransformersEngine) -> None:
    identity = engine.identity()
    assert identity.pop("vllm")[0].isdigit()
    assert identity == {**transformers.identity(), "engine": "vllm"}


@needs_vllm
def test_greedy_text_equals_the_transformers_engine(
    engine: VLLMEngine, transformers: TransformersEngine, texts: list[Prompt]
) -> None:
    jobs, sampling = [Job(prompt) for prompt in texts], Sampling(max_tokens=60)
    generations = engine.generate(jobs, sampling, None)
    assert_same(generations, transformers.generate(jobs, sampling, None))
    assert "stop" in {generation.finish_reason for generation in generations}


@needs_vllm
def test_greedy_text_about_images_equals_a_causal_forward_pass(
    engine: VLLMEngine, plain: tuple[Any, Any], seeing: list[Prompt]
) -> None:
    generations = engine.generate([Job(prompt) for prompt in seeing], Sampling(max_tokens=20), None)
    for prompt, generation in zip(seeing, generations, strict=True):
        check(plain, prompt, generation)


@needs_vllm
@pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning")  # vLLM's own
def test_choices_are_the_only_responses(
    engine: VLLMEngine, transformers: TransformersEngine, texts: list[Prompt]
) -> None:
    choices = tuple(f"Confidence: {level}" for level in range(11))
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(texts)]
    greedy = Sampling(max_tokens=16, choices=choices)
    generations = engine.generate(jobs, greedy, None)
    # vLLM lets a text be written in any tokens: behind a prefix they need not be those of the tokenizer.
    whole = [i for i, prompt in enumerate(texts) if not prompt.prefix]
    expected = transformers.generate([jobs[i] for i in whole], greedy, None)
    assert [generations[i] for i in whole] == expected
    sampled = engine.generate(jobs, Sampling(2.0, 1.0, 16, choices=choices), None)
    assert {g.text.strip() for g in [*generations, *sampled]} <= set(choices)
    assert len({g.text for g in sampled}) > 1


@needs_vllm
def test_images_matter_and_their_order_too(engine: VLLMEngine, image_files: list[str]) -> None:
    first, second = image_files[:2]
    asked = [ask("Findings?", images) for images in ([first], [second], [first, second], [second, first], [])]
    scores = engine.score(asked, [["The"]] * 5, None)
    assert len({round(row[0], 5) for row in scores}) == 5


@needs_vllm
def test_a_response_ends_with_a_stop_token_or_with_length(engine: VLLMEngine, plain: tuple[Any, Any]) -> None:
    tokenizer = plain[1].tokenizer
    stops = set(tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]))
    jobs = [Job(ask("Is the heart enlarged?"), seed) for seed in range(60)]
    generations = engine.generate(jobs, Sampling(2.0, 1.0, 12), None)
    assert {g.finish_reason for g in generations} == {"stop", "length"}
    for g in generations:
        assert len(g.token_ids) == len(g.logprobs or ())
        assert not stops & set(g.token_ids[:-1])
        assert (g.token_ids[-1] in stops) == (g.finish_reason == "stop")
        assert g.finish_reason == "stop" or len(g.token_ids) == 12
        assert g.text == tokenizer.decode(g.token_ids, skip_special_tokens=True)


@needs_vllm
def test_prefix_ids_continue_as_if_generated_in_one_go(engine: VLLMEngine, seeing: list[Prompt]) -> None:
    whole = engine.generate([Job(p) for p in seeing[:3]], Sampling(max_tokens=12), None)
    starts = [
        Prompt(p.messages, p.images, None, p.prefix, (*encode_prefix(engine, p), *g.token_ids[:5]))
        for p, g in zip(seeing, whole, strict=False)
    ]
    rest = engine.generate([Job(p) for p in starts], Sampling(max_tokens=7), None)
    assert [g.token_ids[5:] for g in whole] == [g.token_ids for g in rest]


def encode_prefix(engine: VLLMEngine, prompt: Prompt) -> list[int]:
    return tokenize(load_processor(engine.model, None).tokenizer, prompt.prefix) if prompt.prefix else []


@needs_vllm
def test_a_seed_determines_its_response_whatever_else_is_in_the_batch(
    engine: VLLMEngine, plain: tuple[Any, Any], texts: list[Prompt], seeing: list[Prompt]
) -> None:
    prompts, sampling = [*texts, *seeing], Sampling(1.0, 0.9, 12)
    jobs = [Job(prompt, 2**59 + seed) for seed, prompt in enumerate(prompts)]
    together = engine.generate(jobs, sampling, None)
    assert_same(together, engine.generate(jobs[::-1], sampling, None)[::-1])
    assert_same(together, [engine.generate([job], sampling, None)[0] for job in jobs])
    for prompt, generation in zip(prompts, together, strict=True):
        check(plain, prompt, generation, greedy=False)


@needs_vllm
def test_seeded_samples_of_prompts_longer_than_one_step_reads(engine: VLLMEngine, image_files: list[str]) -> None:
    jobs = [Job(ask(f"Case {seed}. " + "Is the heart enlarged? " * 60, image_files[:1]), seed) for seed in range(24)]
    assert len(engine.generate(jobs, Sampling(1.0, 1.0, 2), None)) == 24


@needs_vllm
def test_sampled_frequencies_match_the_softmax(engine: VLLMEngine, plain: tuple[Any, Any]) -> None:
    prompt, temperature, number = ask("Answer."), 1.7, 2000
    expected = (causal_logits(plain, prompt)[0] / temperature).softmax(dim=-1).numpy()
    jobs = [Job(prompt, seed) for seed in range(number)]
    generations = engine.generate(jobs, Sampling(temperature, 1.0, 1), None)
    counts = np.bincount([g.token_ids[0] for g in generations], minlength=len(expected))
    common = expected * number >= 5
    observed = [*counts[common], counts[~common].sum()]
    wanted = [*(expected[common] * number), expected[~common].sum() * number]
    assert common.sum() > 10
    assert chisquare(observed, wanted, sum_check=False).pvalue > 1e-3
    kept = engine.generate(jobs[:200], Sampling(temperature, 0.3, 1), None)
    order = np.sort(expected)[::-1]
    least = order[int(np.searchsorted(order.cumsum(), 0.3))]
    assert len({g.token_ids for g in kept}) > 1
    assert min(expected[g.token_ids[0]] for g in kept) >= least


@needs_vllm
def test_scores_equal_the_transformers_engine(
    engine: VLLMEngine, transformers: TransformersEngine, texts: list[Prompt]
) -> None:
    continuations = [[*LEVELS, *ENDED, " True", "The lungs are clear.", " The lungs are clear." + END, END, ""]]
    asked = [row[i:] for i, row in enumerate(continuations * len(texts))]
    scores, expected = engine.score(texts, asked, None), transformers.score(texts, asked, None)
    for row, other in zip(scores, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)
    assert [row[-1] for row in scores] == [0.0] * len(texts)


@needs_vllm
def test_scores_after_images_equal_a_causal_forward_pass(
    engine: VLLMEngine, plain: tuple[Any, Any], seeing: list[Prompt]
) -> None:
    tokenizer = plain[1].tokenizer
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    scores = engine.score(seeing, [[*ENDED, " True", " False"]] * len(seeing), None)
    for prompt, row in zip(seeing, scores, strict=True):
        for text, value in zip([*ENDED, " True", " False"], row, strict=True):
            ids = tokenize(tokenizer, text.removesuffix(END)) + [end] * text.endswith(END)
            if prompt.prefix:  # tokenized as it stands behind the prefix
                both = tokenize(tokenizer, prompt.prefix + text.removesuffix(END))
                ids = both[len(tokenize(tokenizer, prompt.prefix)) :] + [end] * text.endswith(END)
            assert value == pytest.approx(math.fsum(causal_logprobs(plain, prompt, ids)), abs=1e-4), text


@needs_vllm
def test_ten_is_two_tokens_and_excludes_one(engine: VLLMEngine, plain: tuple[Any, Any]) -> None:
    prompt = ask("Answer.", prefix="The heart size is normal." + MARKER + " ")
    one, zero, end = (plain[1].tokenizer.convert_tokens_to_ids(t) for t in ("1", "0", "<end_of_turn>"))
    ((p1, p10, open1),) = engine.score([prompt], [["1" + END, "10" + END, "1"]], None)
    assert p10 == pytest.approx(math.fsum(causal_logprobs(plain, prompt, [one, zero, end])), abs=1e-4)
    assert p1 == pytest.approx(math.fsum(causal_logprobs(plain, prompt, [one, end])), abs=1e-4)
    assert math.exp(p1) + math.exp(p10) <= math.exp(open1) + 1e-6
    (levels,) = engine.score([prompt], [ENDED], None)
    assert sum(map(math.exp, levels)) <= 1


@needs_vllm
def test_hidden_states_offsets_and_the_torch_model_are_those_of_transformers(
    engine: VLLMEngine, transformers: TransformersEngine, seeing: list[Prompt]
) -> None:
    prompts = (seeing * 5)[:18]  # more than one batch of the transformers engine
    answers = [tuple(range(300, 303 + i)) for i in range(18)]
    states, expected = (np.concatenate(e.hidden(prompts, answers, -1, "mean", None)) for e in (engine, transformers))
    assert states == pytest.approx(expected, abs=1e-4)
    tables = [np.concatenate(e.reread(prompts, answers, None)) for e in (engine, transformers)]
    assert tables[0] == pytest.approx(tables[1], abs=1e-4)
    assert engine.offsets(answers) == transformers.offsets(answers)
    model, processor = engine.torch_model()
    assert model.config.model_type == "gemma3"
    assert processor.tokenizer.bos_token == "<bos>"


@needs_vllm
def test_what_cannot_be_done_is_said(engine: VLLMEngine, base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"temperature must be in \[0, 2\]"):
        engine.generate([Job(ask("Findings?"))], Sampling(temperature=3.0), None)
    with pytest.raises(EngineError, match="maximum context length is 1024 tokens"):
        engine.generate([Job(ask("Findings? " * 1000))], Sampling(), None)
    with pytest.raises(EngineError, match="longer than 1024 tokens; raise max_model_len"):
        engine.generate([Job(ask("1" * 1010))], Sampling(max_tokens=400), None)
    with pytest.raises(DataError, match=r"absent\.png does not exist"):
        engine.generate([Job(ask("Findings?", [str(tmp_path / "absent.png")]))], Sampling(), None)
    with pytest.raises(ConfigError, match="nf4 needs a GPU"):
        VLLMEngine(model=str(base_model), quantization="nf4").generate([Job(ask("Findings?"))], Sampling(), None)
    assert engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=3), None)


@needs_vllm
def test_nothing_that_a_prompt_says_is_printed(engine: VLLMEngine, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    engine.generate([Job(ask("Mrs Xylander. " * 5))], Sampling(max_tokens=3), None)
    with pytest.raises(EngineError):
        engine.generate([Job(ask("Mrs Xylander. " * 1000))], Sampling(max_tokens=3), None)
    out, err = capfd.readouterr()
    assert out == ""
    assert "ylander" not in err


@pytest.fixture(scope="module")
def adapters(base_model: Path, plain: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three ordinary adapters and an activated LoRA that acts from the confidence marker on."""
    marker = tokenize(plain[1].tokenizer, "." + MARKER)[1:]
    folder = tmp_path_factory.mktemp("adapters")
    made = {"one": None, "two": None, "three": None, "activated": marker}
    return {
        name: write_adapter(network(base_model), folder / name, seed=seed, invocation=invocation)
        for seed, (name, invocation) in enumerate(made.items())
    }


@needs_vllm
def test_adapters_act_alone_and_leave_the_base_as_it_was(
    engine: VLLMEngine, transformers: TransformersEngine, texts: list[Prompt], adapters: dict[str, Path]
) -> None:
    jobs, sampling = [Job(prompt) for prompt in texts], Sampling(max_tokens=8)
    seen = set()
    for name in ("", "one", "", "two", "three", "one", ""):
        folder = adapters[name] if name else None
        generations = engine.generate(jobs, sampling, folder)
        assert_same(generations, transformers.generate(jobs, sampling, folder))
        scores = engine.score(texts, [ENDED] * len(texts), folder)
        expected = transformers.score(texts, [ENDED] * len(texts), folder)
        assert np.array(scores) == pytest.approx(np.array(expected), abs=1e-3, rel=1e-4)
        seen.add(tuple(g.text for g in generations))
    assert len(seen) == 4


@needs_vllm
def test_an_adapter_acts_on_what_is_said_about_images(
    engine: VLLMEngine, base_model: Path, plain: tuple[Any, Any], seeing: list[Prompt], adapters: dict[str, Path]
) -> None:
    import peft

    adapted = peft.PeftModel.from_pretrained(network(base_model), adapters["one"]).eval()
    generations = engine.generate([Job(prompt) for prompt in seeing], Sampling(max_tokens=6), adapters["one"])
    for prompt, generation in zip(seeing, generations, strict=True):
        check((adapted, plain[1]), prompt, generation)


@needs_vllm
def test_an_activated_adapter_is_served_by_transformers(
    engine: VLLMEngine, transformers: TransformersEngine, seeing: list[Prompt], adapters: dict[str, Path]
) -> None:
    folder, report = adapters["activated"], "The heart size is normal." + MARKER
    prompts = [Prompt(p.messages, p.images, None, report) for p in seeing]
    jobs, sampling = [Job(prompt, 3) for prompt in prompts], Sampling(1.0, 1.0, 4)
    assert_same(engine.generate(jobs, sampling, folder), transformers.generate(jobs, sampling, folder))
    scores = engine.score(prompts, [ENDED] * len(prompts), folder)
    assert np.array(scores) == pytest.approx(np.array(transformers.score(prompts, [ENDED] * len(prompts), folder)))
    base = transformers.score(prompts, [ENDED] * len(prompts), None)
    assert np.abs(np.array(scores) - np.array(base)).max() > 0.1


@needs_vllm
def test_an_adapter_of_another_model_is_refused_and_the_engine_lives_on(
    engine: VLLMEngine, tiny_gemma3: Path, tmp_path: Path
) -> None:
    other = write_adapter(network(tiny_gemma3), tmp_path / "other")
    with pytest.raises(ModelError, match="was not made for the model"):
        engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=2), other)
    with pytest.raises(ModelError, match="is not a LoRA adapter"):
        engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=2), tmp_path)
    assert engine.generate([Job(ask("Findings?"))], Sampling(max_tokens=2), None)


@needs_vllm
def test_a_whole_run_and_nothing_is_generated_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["run", "--engine", "vllm", "--methods", "verbalized,p_true,probe", "--tasks", "mimic_report"]
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", *arguments]
    command += ["-o", "phantom.studies=120", "-o", "probe.epochs=2"]
    environment = {**os.environ, "CONRAD_BENCH_CACHE": str(tmp_path / "cache")}

    def run(out: Path = out, *more: str) -> None:
        asked = [*command, "--out", str(out), *more]
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False, timeout=800)
        assert done.returncode == 0, done.stderr

    run()
    board = (out / "leaderboard.json").read_text()
    shards = {path.name: path.read_bytes() for path in (out / "rollouts").iterdir()}
    for path in [*(out / "records").iterdir(), out / "manifest.json"]:
        path.unlink()
    run()
    assert (out / "leaderboard.json").read_text() == board
    again = {path.name: path.read_bytes() for path in (out / "rollouts").iterdir()}
    assert {name: data for name, data in again.items() if name.endswith(".parquet")} == {
        name: data for name, data in shards.items() if name.endswith(".parquet")
    }
    pytest.importorskip("ray", reason="ray is not installed")
    run(tmp_path / "replica", "--ray", "local", "--replicas", "1")
    assert (tmp_path / "replica" / "leaderboard.json").read_text() == board
