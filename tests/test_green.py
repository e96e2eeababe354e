"""GREEN and Precision GREEN: answers are read as radeval reads them, and what cannot be read is no score."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_llama import write_llama

from conrad_bench.engines.base import Engine, Generation, Job
from conrad_bench.engines.inputs import encode
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import EngineError, MissingExtra, ModelError, PlanError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.scorers.green import GREEN_CHAT, Green, GreenCounts, ReportJudge, green_prompt, parse_green
from conrad_bench.tasks.scorers.precision_green import PrecisionGreen, parse_verdict, precision_prompt
from conrad_bench.types import END, LOGPROBS, Claim, Example, Granularity, Message, Prompt, Sampling, Score

KINDS = (
    "False report of a finding in the candidate",
    "Missing a finding present in the reference",
    "Misidentification of a finding's anatomic location/position",
    "Misassessment of the severity of a finding",
    "Mentioning a comparison that isn't in the reference",
    "Omitting a comparison detailing a change from a prior study",
)
SIGNIFICANT, MATCHED = "[Clinically Significant Errors]:", "[Matched Findings]:"
INSIGNIFICANT = (
    "[Clinically Insignificant Errors]:\n(a) False report of a finding in the candidate: 5. Five things.\n\n"
)
BEGIN = "[Explanation]:\nThe candidate misses an effusion.\n\n"
ONE_MISSED = f"{SIGNIFICANT}\n(b) Missing a finding present in the reference: 1. Effusion.\n\n"
TWO_MATCHED = f"{MATCHED}\n2. Normal heart; No pneumothorax."


@pytest.fixture(scope="module")
def radeval_green() -> Any:
    """radeval's own scorer, without a model: its parser."""
    return radeval_module().GREEN(model_name=None, cpu=True)


def radeval_module() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn
        return pytest.importorskip("radeval.metrics.green_score.green", reason="radeval is not installed")


findings = st.lists(
    st.sampled_from(("Small effusion", "No edema", "Heart 12.5 cm wide", "Line at T4 (unchanged)", "1 of 3 ribs")),
    min_size=1,
    max_size=3,
).map("; ".join)


@st.composite
def well_formed(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int]:
    """An answer in the form that the prompt asks for, its significant errors, and its matched findings."""
    markers = draw(st.sampled_from(("abcdef", "123456")))

    def errors(noun: str) -> tuple[str, tuple[int, ...]]:
        listed = draw(st.sets(st.integers(0, 5)))
        if not listed:
            return draw(st.sampled_from((f"No {noun} errors.", "None.", "No errors."))), (0,) * 6
        counts = {i: draw(st.integers(0, 12)) for i in listed}
        lines = [f"({markers[i]}) {KINDS[i]}: {n}. {draw(findings) if n else ''}" for i, n in sorted(counts.items())]
        return "\n".join(lines), tuple(counts.get(i, 0) for i in range(6))

    explanation = draw(st.sampled_from(("The reports agree.", "Errors (a) and (b): 2. See below.", "[It] differs.")))
    significant, counts = errors("clinically significant")
    matched = draw(st.integers(0, 20))
    listed = (
        f"{matched}. {draw(findings)}" if matched else draw(st.sampled_from(("0.", "No matched findings.", "None.")))
    )
    blocks = {
        "[Explanation]:": explanation,
        SIGNIFICANT: significant,
        "[Clinically Insignificant Errors]:": errors("clinically insignificant")[0],
        MATCHED: listed,
    }
    answer = "\n\n".join(f"{header}\n{block}" for header, block in blocks.items())
    return answer + draw(st.sampled_from(("", "\n", "\n\n"))), counts, matched


@given(well_formed())
def test_a_well_formed_answer_is_read_as_it_says(case: tuple[str, tuple[int, ...], int]) -> None:
    answer, errors, matched = case
    counts = parse_green(answer)
    assert counts == GreenCounts(errors, matched)
    assert counts.score == (0 if matched == 0 else pytest.approx(1 / (1 + sum(errors) / matched)))


@settings(max_examples=300)
@given(case=well_formed())
def test_a_well_formed_answer_is_read_as_radeval_reads_it(
    radeval_green: Any, case: tuple[str, tuple[int, ...], int]
) -> None:
    counts = parse_green(case[0])
    assert isinstance(counts, GreenCounts)
    assert counts.score == radeval_green.compute_green(case[0])
    assert [*counts.significant, counts.matched] == radeval_green.compute_error_count(case[0])


@given(st.text() | st.text("[]:()abf 12.\n\tNone").map(lambda text: f"{SIGNIFICANT}{text}{MATCHED}{text}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    counts = parse_green(text)
    assert isinstance(counts, str) or (0 <= counts.score <= 1 and len(counts.significant) == 6)


# Answers that radeval's parser scores without saying that it could not read them: (answer, its silent score, reason).
SILENT = {
    "no significant block": (BEGIN + INSIGNIFICANT + TWO_MATCHED, 1.0, "significant errors] block is missing"),
    "misspelt heading": (
        BEGIN + ONE_MISSED.replace("Significant Errors", "Significant Erors") + TWO_MATCHED,
        1.0,
        "significant errors] block is missing",
    ),
    "empty significant block": (BEGIN + f"{SIGNIFICANT}\n\n" + INSIGNIFICANT + TWO_MATCHED, 2 / 7, "block is empty"),
    "no matched block": (BEGIN + ONE_MISSED + INSIGNIFICANT, 0, "matched findings] block is missing"),
    "cut off at the last heading": (BEGIN + ONE_MISSED + MATCHED, 0, "matched findings] block is empty"),
    "nothing at all": ("", 0, "significant errors] block is missing"),
    "a count that measures": (BEGIN + ONE_MISSED + f"{MATCHED}\n3 cm nodule.", 0, "number of matched findings"),
    "a list without count": (
        BEGIN + ONE_MISSED + f"{MATCHED}\nNo edema; No effusion.",
        0,
        "number of matched findings",
    ),
    "a count in words": (BEGIN + ONE_MISSED + f"{MATCHED}\nTwo. Heart; lungs.", 0, "number of matched findings"),
    "a numbered list": (BEGIN + ONE_MISSED + f"{MATCHED}\n1. Heart.\n2. Lungs.\n3. Bones.", 0.5, "numbered"),
    "a decimal": (BEGIN + ONE_MISSED + f"{MATCHED}\n1.5 cm nodule.", 0.5, "number of matched findings"),
    "errors in words": (
        f"{SIGNIFICANT}\n(a) False report: two. Edema; mass.\n\n" + TWO_MATCHED,
        1.0,
        "(a) has no count",
    ),
    "errors and a measure": (f"{SIGNIFICANT}\n(a) False report: 2 cm\n\n" + TWO_MATCHED, 1.0, "(a) has no count"),
    "errors that measure": (f"{SIGNIFICANT}\n(d) Severity: 1.5 cm.\n\n" + TWO_MATCHED, 2 / 3, "(d) has no count"),
    "errors as a sentence": (f"{SIGNIFICANT}\nThe effusion is missing.\n\n" + TWO_MATCHED, 1.0, "has no counts"),
    "errors that begin with No": (f"{SIGNIFICANT}\nNodule missed.\n\n" + TWO_MATCHED, 1.0, "has no counts"),
    "an unknown category": (f"{SIGNIFICANT}\n(g) Other: 2. Edema; mass.\n\n" + TWO_MATCHED, 1.0, "(g) has no count"),
    "denied and counted": (f"{SIGNIFICANT}\nNo errors but\n(b) Missing: 1. Mass.\n\n" + TWO_MATCHED, 1.0, "denies"),
    "two categories in a line": (
        f"{SIGNIFICANT}\n(a) False: 1. Edema. (b) Missing: 1. Mass.\n\n" + TWO_MATCHED,
        2 / 3,
        "one line counts",
    ),
    "a category twice": (
        f"{SIGNIFICANT}\n(a) False: 1. Edema.\n(a) False: 1. Mass.\n\n" + TWO_MATCHED,
        2 / 3,
        "(a) are counted twice",
    ),
    "letters and numbers": (
        f"{SIGNIFICANT}\n(a) False: 1. Edema.\n(2) Missing: 1. Mass.\n\n" + TWO_MATCHED,
        2 / 3,
        "by letters and by numbers",
    ),
    "two answers": (BEGIN + ONE_MISSED + TWO_MATCHED + "\n\n" + ONE_MISSED, 2 / 3, "two [clinically significant"),
}


@pytest.mark.parametrize(("answer", "silent", "reason"), SILENT.values(), ids=SILENT)
def test_an_answer_that_cannot_be_read_is_refused_with_the_reason(answer: str, silent: float, reason: str) -> None:
    found = parse_green(answer)
    assert isinstance(found, str)
    assert reason in found.lower()


@pytest.mark.parametrize(("answer", "silent", "reason"), SILENT.values(), ids=SILENT)
def test_radeval_scores_these_answers_silently(radeval_green: Any, answer: str, silent: float, reason: str) -> None:
    assert radeval_green.compute_green(answer) == pytest.approx(silent)


def test_plain_answers_that_radeval_misreads() -> None:
    """It ends a block at the first blank line and not at the next heading, and takes any "(b) " for a category."""
    apart = f"{SIGNIFICANT}\n(a) False: 1. Edema.\n\n(b) Missing: 1. Mass.\n\n" + INSIGNIFICANT + TWO_MATCHED
    assert parse_green(apart) == GreenCounts((1, 1, 0, 0, 0, 0), 2)
    together = f"{SIGNIFICANT}\n(b) Missing: 1. Mass.\n" + INSIGNIFICANT + TWO_MATCHED
    assert parse_green(together) == GreenCounts((0, 1, 0, 0, 0, 0), 2)
    numbered = f"{SIGNIFICANT}\n(1) False: 1. Line at T4 (b) unchanged.\n\n" + TWO_MATCHED
    assert parse_green(numbered) == GreenCounts((1, 0, 0, 0, 0, 0), 2)


FORMS = (
    "plain",
    "bold",
    "bullets",
    "no stops",
    "no brackets",
    "thoughts",
    "headings",
    "no colons",
    "capitals",
    "letters",
)
BEHIND = ":", " -", " –", " findings:", " matched findings."


@given(well_formed(), st.sampled_from((*FORMS, *BEHIND)))
def test_what_a_human_reads_at_once_is_read(case: tuple[str, tuple[int, ...], int], form: str) -> None:
    answer, errors, matched = case
    said = {
        "plain": answer,
        "bold": re.sub(r"(\[[A-Z][\w ]+\]:)", r"**\1**", answer),
        "bullets": re.sub(r"^(\([a-f1-6]\) )", r"- \1", answer, flags=re.MULTILINE),
        "no stops": re.sub(r"(: \d+)\. ?$", r"\1", answer, flags=re.MULTILINE),
        "no brackets": re.sub(r"^\[([A-Z][\w ]+)\]:", r"**\1:**", answer, flags=re.MULTILINE),
        "thoughts": f"<think>{answer}</think>{answer}",
        "headings": re.sub(r"^(\[[A-Z])", r"### \1", answer, flags=re.MULTILINE),
        "no colons": re.sub(r"^\[([A-Z][\w ]+)\]:", r"## \1", answer, flags=re.MULTILINE),
        "capitals": re.sub(r"^(\([a-f]\) )", lambda found: found[1].upper(), answer, flags=re.MULTILINE),
        "letters": re.sub(r"^\(([a-f])\) ", r"\1. ", answer, flags=re.MULTILINE),
    }.get(form) or re.sub(r"(: \d+|^\d+)\.(?= [A-Za-z])", rf"\1{form}", answer, flags=re.MULTILINE)
    assert parse_green(said) == GreenCounts(errors, matched)


@pytest.mark.parametrize(
    "nothing", ["None", "N/A", "No findings matched.", "There are no matches.", "0 findings", "0."]
)
@pytest.mark.parametrize("none", ["There are no clinically significant errors.", "No errors", "Zero errors.", "0"])
def test_nothing_is_said_in_many_ways(none: str, nothing: str) -> None:
    assert parse_green(f"{SIGNIFICANT}\n{none}\n\n{MATCHED}\n{nothing}") == GreenCounts((0,) * 6, 0)


SUPPORTED_FORM = "[Explanation]:\nBoth say so.\n\n[Supported]:\n{}"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (SUPPORTED_FORM.format("Yes"), True),
        (SUPPORTED_FORM.format("yes."), True),
        ("```\n" + SUPPORTED_FORM.format("No.") + "\n```", False),
        (SUPPORTED_FORM.format("<Yes or No>"), "neither yes nor no"),
        (SUPPORTED_FORM.format("Yes and no"), "neither yes nor no"),
        (SUPPORTED_FORM.format("Yes") + "\n\n[Supported]:\nNo", "two [Supported] blocks"),
        (SUPPORTED_FORM.format("**Yes**"), True),
        (SUPPORTED_FORM.format("Yes, the reference says so."), True),
        (SUPPORTED_FORM.format("No. The reference does not mention it."), False),
        ("**[Supported]:** No", False),
        ("**Supported:** Yes", True),
        ("<think>[Supported]: No</think>[Supported]: Yes", True),
        (SUPPORTED_FORM.format(""), "neither yes nor no"),
        (SUPPORTED_FORM.format("No - it is not mentioned."), False),
        ("- Supported: yes", True),
        ("### Supported\nYes", True),
        ("[Supported] No", False),
        ("Yes", "no [Supported] block"),
        ("", "no [Supported] block"),
        # GREEN's own form: omissions are no errors of a sentence, everything else is.
        (ONE_MISSED + TWO_MATCHED, True),
        (ONE_MISSED.replace("(b)", "(f)") + TWO_MATCHED, True),
        *((ONE_MISSED.replace("(b)", f"({kind})") + TWO_MATCHED, False) for kind in "acde"),
        (ONE_MISSED + f"{MATCHED}\n0.", False),
        (ONE_MISSED + f"{MATCHED}\n3 findings", True),
        (ONE_MISSED + f"{MATCHED}\n3 cm", "no [Supported] block"),
    ],
)
def test_a_verdict_is_yes_or_no_or_refused(answer: str, verdict: bool | str) -> None:
    found = parse_verdict(answer)
    if isinstance(verdict, str):
        assert verdict in str(found)
    else:
        assert found is verdict


def test_the_precision_prompt_holds_the_reference_and_the_sentence_cut_to_300_words() -> None:
    reference, sentence = " ".join(f"r{i}" for i in range(400)), "There is a {nodule} 5%s."
    prompt = precision_prompt(reference, sentence)
    assert "r299" in prompt
    assert "r300" not in prompt
    assert sentence in prompt


@pytest.fixture
def prompt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with radeval's layout whose import fails: the prompt's file must be read without it."""
    folder = tmp_path / "site" / "radeval" / "metrics" / "green_score"
    folder.mkdir(parents=True)
    (tmp_path / "site" / "radeval" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "utils.py").write_text("def make_prompt(text1, text2, max_len=300):\n    return f'R {text1} C {text2}'\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    green_prompt.cache_clear()
    yield
    green_prompt.cache_clear()


@pytest.mark.usefixtures("prompt_file")
def test_the_prompt_is_read_without_importing_the_package_around_it() -> None:
    assert green_prompt()("clear lungs", "edema") == "R clear lungs C edema"


def test_without_radeval_the_pip_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "radeval").mkdir()
    (tmp_path / "radeval" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    green_prompt.cache_clear()
    with pytest.raises(MissingExtra, match=r'pip install "conrad-bench\[green\]"'):
        Green().check([])
    green_prompt.cache_clear()


def test_the_real_prompt_cuts_both_reports_to_300_words() -> None:
    pytest.importorskip("radeval", reason="radeval is not installed")
    green_prompt.cache_clear()
    long = [" ".join(f"{letter}{i}" for i in range(400)) for letter in "rc"]
    prompt = green_prompt()(*long)
    assert all(f"{letter}299" in prompt and f"{letter}300" not in prompt for letter in "rc")
    assert prompt.index("r0") < prompt.index("c0")


class Scripted(Engine):
    """Answers a prompt with the answer whose key it contains."""

    name: ClassVar[str] = "scripted"
    summary: ClassVar[str] = "answers by heart"
    provides: ClassVar[frozenset[str]] = frozenset({LOGPROBS})
    answers: dict[str, str]

    def identity(self) -> dict[str, str]:
        return {"engine": self.name}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        assert sampling == Sampling(max_tokens=2048)
        texts = [next(t for k, t in self.answers.items() if k in job.prompt.messages[0].text) for job in jobs]
        return [Generation(text, (1,), (0.0,), "length" if text == ONE_MISSED else "stop") for text in texts]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    with RolloutStore(tmp_path / "rollouts") as opened:
        yield opened


def pair(claim: str, reference: str = "Clear lungs.") -> tuple[Example, Claim]:
    return Example("e", "p", "test", (), "", reference), Claim(claim, (0, len(claim)))


@pytest.mark.usefixtures("prompt_file")
def test_green_scores_reports(store: RolloutStore) -> None:
    answers = {
        "C one": ONE_MISSED + TWO_MATCHED,
        "C same C": "",
        "C cut": ONE_MISSED,
        "C none": f"{SIGNIFICANT}\nNone.\n\n{MATCHED}\n0.",
        "R same C same": f"{SIGNIFICANT}\nNone.\n\n{TWO_MATCHED}",
    }
    model = Model(Scripted(model="-", answers=answers), store, Reporter())
    pairs = [pair("one"), pair(" "), pair("cut"), pair("none"), pair("same", "same"), pair("one", "")]
    scores = Green().score(pairs, "report", model)
    assert scores == [
        Score(2 / 3),
        Score(0.0),
        Score(None, "the judge's answer was cut off after 2048 tokens"),
        Score(0.0),
        Score(1.0),
        Score(None, "the reference is empty"),
    ]
    # The same again is answered by the store: an engine that knows no answer would fail.
    assert Green().score(pairs, "report", Model(Scripted(model="-", answers={}), store, Reporter())) == scores


def test_precision_green_scores_sentences(store: RolloutStore) -> None:
    answers = {"Quiet.": SUPPORTED_FORM.format("Yes"), "Edema.": SUPPORTED_FORM.format("No"), "Odd.": "It may be."}
    model = Model(Scripted(model="-", answers=answers), store, Reporter())
    found = PrecisionGreen().score([pair(text, "Lungs.") for text in answers], "sentence", model)
    assert found == [Score(1.0), Score(0.0), Score(None, "the answer has no [Supported] block")]


@pytest.mark.parametrize(
    ("scorer", "granularity", "says"),
    [
        (Green(), "sentence", "'green' judges at report level, and these claims are at sentence level"),
        (PrecisionGreen(), "report", "'precision_green' judges at sentence level"),
        (Green(), "answer", "at answer level"),
        (Green(), "report", "asks a judge"),
    ],
)
def test_what_a_scorer_cannot_judge_is_an_error(scorer: ReportJudge, granularity: Granularity, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        scorer.score([pair("clear")], granularity)


def test_the_judge_is_named_with_its_chat_form() -> None:
    assert Green().judge() == (
        "transformers",
        {"model": "StanfordAIMI/GREEN-RadLlama2-7b", "chat_template": GREEN_CHAT, "dtype": "float16"},
    )
    assert Green.model_validate({"dtype": "bfloat16"}).judge()[1]["dtype"] == "bfloat16"
    other = PrecisionGreen.model_validate({"model": "judge", "engine": "openai", "chat": "model", "batch_size": 2})
    assert other.judge() == ("openai", {"model": "judge", "batch_size": 2})


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-only LlamaForCausalLM with random weights, and a byte-level tokenizer without chat template."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    write_llama(folder)
    return folder


def judge_of(scorer: ReportJudge) -> TransformersEngine:
    name, options = scorer.judge()
    assert name == "transformers"
    return TransformersEngine.model_validate(options)


@pytest.mark.parametrize("ends", [range(130), range(1)], ids=["nonsense", "nothing"])
def test_an_untrained_judge_gives_no_scores(tiny_llama: Path, store: RolloutStore, tmp_path: Path, ends: range) -> None:
    """Either half of the tokens end an answer, so that it stops after some nonsense; or the first token ends it."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    network = LlamaForCausalLM.from_pretrained(tiny_llama)
    network.generation_config.eos_token_id = list(ends)
    if len(ends) == 1:
        network.lm_head.weight.data.zero_()  # all logits are equal, and the first token is taken
    network.save_pretrained(tmp_path / "judge")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "judge")
    scorer = PrecisionGreen.model_validate({"model": str(tmp_path / "judge"), "device": "cpu", "batch_size": 2})
    pairs = [pair("The lungs are clear."), pair("There is edema."), pair("Heart?")]
    engine = judge_of(scorer)
    scores = scorer.score(pairs, "sentence", Model(engine, store, Reporter()))
    assert scores == [Score(None, "the answer has no [Supported] block")] * 3
    texts = [generation.text for generation in engine.generate([Job(QUESTION)], Sampling(max_tokens=50), None)]
    assert all(bool(text) == (len(ends) > 1) for text in texts)


def text_of(engine: TransformersEngine, prompt: Prompt) -> str:
    _, processor = engine.torch_model()
    return str(processor.tokenizer.decode(encode(processor, prompt).ids))


QUESTION = Prompt((Message("user", "Clear lungs?"),))


def test_the_judge_reads_the_chat_form_of_the_published_scorer(tiny_llama: Path) -> None:
    engine = TransformersEngine(model=str(tiny_llama), device="cpu", chat_template=GREEN_CHAT)
    read = text_of(engine, QUESTION)
    assert read == "<s><|user|>\nClear lungs?</s>\n<|assistant|>\n</s>\n<|assistant|>\n</s>"


def test_these_are_the_tokens_of_radeval(tiny_llama: Path) -> None:
    """All but the beginning of sequence, which radeval gets or not depending on the version of transformers."""
    green = radeval_module().GREEN(model_name=str(tiny_llama), cpu=True)
    chat = [{"from": "human", "value": "Clear lungs?"}, {"from": "gpt", "value": ""}]
    text = green.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    theirs = [i for i in green.tokenizer(text)["input_ids"] if i != green.tokenizer.bos_token_id]
    engine = TransformersEngine(model=str(tiny_llama), device="cpu", chat_template=GREEN_CHAT)
    ours = encode(engine.torch_model()[1], QUESTION).ids
    assert ours == [green.tokenizer.bos_token_id, *theirs]


def test_a_text_only_engine_agrees_with_plain_transformers(tiny_llama: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    engine = TransformersEngine(model=str(tiny_llama), device="cpu", chat_template=GREEN_CHAT)
    long = Prompt((Message("user", "A longer question about the heart and the lungs."),))
    made = engine.generate([Job(QUESTION), Job(long)], Sampling(max_tokens=12), None)
    plain, tokenizer = LlamaForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    for prompt, generation in zip((QUESTION, long), made, strict=True):
        asked = f"<s><|user|>\n{prompt.messages[0].text}</s>\n<|assistant|>\n</s>\n<|assistant|>\n</s>"
        ids = torch.tensor([tokenizer(asked, add_special_tokens=False)["input_ids"]])
        for token, logprob in zip(generation.token_ids, generation.logprobs or (), strict=True):
            with torch.no_grad():
                row = plain(ids).logits[0, -1].log_softmax(-1)
            assert token == int(row.argmax())
            assert logprob == pytest.approx(float(row[token]), abs=1e-4)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert engine.hidden([QUESTION], [made[0].token_ids], -1, "mean", None)[0].shape == (1, 32)
    scores = engine.score([QUESTION], [("Yes" + END, "No" + END)], None)
    assert all(value < 0 for value in scores[0])


def test_a_chat_template_is_part_of_the_identity_and_is_needed(tiny_llama: Path) -> None:
    bare = TransformersEngine(model=str(tiny_llama), device="cpu")
    chat = TransformersEngine(model=str(tiny_llama), device="cpu", chat_template=GREEN_CHAT)
    assert chat.identity() == {**bare.identity(), "chat_template": GREEN_CHAT}
    with pytest.raises(ModelError, match="no chat template"):
        bare.torch_model()


def test_a_text_only_model_refuses_images(tiny_llama: Path, image_files: list[str]) -> None:
    engine = TransformersEngine(model=str(tiny_llama), device="cpu", chat_template=GREEN_CHAT)
    with pytest.raises(EngineError, match="reads text only"):
        engine.generate([Job(Prompt((Message("user", "?"),), tuple(image_files[:1])))], Sampling(max_tokens=2), None)
