"""The embedded base model sees, writes, answers, and is as badly calibrated as it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conrad_bench.engines.base import Job
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.reading.claims import answer_claim, read_stated, report_claim
from conrad_bench.reading.elicitation import EXPRESSIONS, p_true_question, two_stage_question
from conrad_bench.tasks.phantom import grammar, questions, render, world
from conrad_bench.tasks.phantom.green import phantom_green
from conrad_bench.tasks.phantom.mimic_layout import wording
from conrad_bench.tasks.prompts import FINDINGS, question_text, report_text
from conrad_bench.types import Message, Prompt, Response, Sampling

pytestmark = pytest.mark.slow

NUMBER = 600
"""Test examples of the phantom data's default world."""


class Reader:
    """The base model and test patients of the default world; it was trained on train patients of another."""

    def __init__(self, base_model: Path, folder: Path) -> None:
        self.engine = TransformersEngine(model=str(base_model), batch_size=100)
        self.studies = list(world.studies(NUMBER, 0, split="test"))
        self.images: list[tuple[str, ...]] = []
        for i, study in enumerate(self.studies):
            views = [render.frontal(study)] + ([render.lateral(study)] if study.lateral else [])
            paths = []
            for k, view in enumerate(views):
                path = folder / f"{i}-{k}.png"
                Image.fromarray(view).save(path)
                paths.append(str(path))
            self.images.append(tuple(paths))
        blank = folder / "blank.png"
        Image.fromarray(np.full((render.SIZE, render.SIZE), 100, np.uint8)).save(blank)
        self.blank = [(str(blank),) * len(paths) for paths in self.images]
        self.truth = [" ".join(wording(study)) for study in self.studies]
        self.quality = np.array([study.quality for study in self.studies])

    def ask(self, texts: list[str], images: list[tuple[str, ...]], tokens: int = 120) -> list[Response]:
        jobs = [Job(Prompt((Message("user", t),), images=i)) for t, i in zip(texts, images, strict=True)]
        out = []
        for start in range(0, len(jobs), 100):
            out += self.engine.generate(jobs[start : start + 100], Sampling(max_tokens=tokens), None)
        return [Response("", g.text, g.token_ids, g.logprobs, g.finish_reason) for g in out]

    def report(self, elicit: str | None = None) -> list[str]:
        return [report_text(study.indication, elicit) for study in self.studies]

    def correctness(self, responses: list[Response], elicit: str | None = None) -> np.ndarray:
        pairs = zip(responses, self.truth, strict=True)
        return np.array([phantom_green(report_claim(r, elicit).text, truth) for r, truth in pairs])


@pytest.fixture(scope="module")
def reader(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    found = Reader(base_model, tmp_path_factory.mktemp("reader"))
    yield found
    found.engine.close()


def test_it_looks_at_the_image(reader: Reader) -> None:
    seen = reader.correctness(reader.ask(reader.report(), reader.images))
    clean = reader.quality > 0.8
    unseen = reader.correctness(reader.ask(reader.report(), reader.blank))
    assert seen[clean].mean() > unseen[clean].mean() + 0.25
    assert 0.3 < seen.mean() < 0.7
    assert np.corrcoef(reader.quality, seen)[0, 1] > 0.4


def test_stated_confidence_is_overconfident_and_uninformative(reader: Reader) -> None:
    responses = reader.ask(reader.report("confidence"), reader.images)
    claims = [report_claim(response, "confidence") for response in responses]
    assert sum(claim.status == "ok" for claim in claims) >= 0.99 * NUMBER
    confidence = np.array([np.nan if claim.confidence is None else claim.confidence for claim in claims])
    correctness = reader.correctness(responses, "confidence")
    assert np.nanmean(confidence) > correctness.mean() + 0.2
    assert np.nanmean(confidence >= 0.8) > 0.9
    ok = ~np.isnan(confidence)
    assert len(set(confidence[ok])) >= 2
    assert abs(np.corrcoef(confidence[ok], correctness[ok])[0, 1]) < 0.2
    assert 0.3 < correctness.mean() < 0.7


def test_sentences_carry_a_confidence_each(reader: Reader) -> None:
    responses = reader.ask(reader.report("sentence_confidence")[:100], reader.images[:100], tokens=200)
    lines = [line for response in responses for line in response.text.splitlines()]
    parts = [line.rsplit(" Confidence: ", 1) for line in lines]
    assert np.mean([len(part) == 2 and part[1] in map(str, range(11)) for part in parts]) > 0.99
    assert np.mean([grammar.read(part[0]) is not None for part in parts]) > 0.99


def test_questions_are_answered_from_the_image(reader: Reader) -> None:
    rng = np.random.default_rng(0)
    asked = [q for s in reader.studies for q in (questions.draw(s.findings, rng),)]
    closed = [(q, images) for q, images in zip(asked, reader.images, strict=True) if q.answer in ("yes", "no")]
    answers = reader.ask([question_text(q.text) for q, _ in closed], [images for _, images in closed], tokens=8)
    assert {answer.text for answer in answers} == {"yes", "no"}
    assert np.mean([a.text == q.answer for a, (q, _) in zip(answers, closed, strict=True)]) > 0.7
    open_ones = [(q, images) for q, images in zip(asked, reader.images, strict=True) if q.answer not in ("yes", "no")]
    answers = reader.ask([question_text(q.text) for q, _ in open_ones], [images for _, images in open_ones], tokens=8)
    assert np.mean([a.text == q.answer for a, (q, _) in zip(answers, open_ones, strict=True)]) > 0.6


def test_p_true_tells_right_sentences_from_wrong_ones(reader: Reader) -> None:
    """The right sentence about a finding and a wrong one: in most pairs the right one gets the higher P(True)."""
    prompts, rng = [], np.random.default_rng(1)
    for study, images in zip(reader.studies[:300], reader.images[:300], strict=True):
        own = grammar.facts(study.findings)
        fact = own[int(rng.integers(len(own)))]
        wrong = [f for f in grammar.SENTENCES if f.finding == fact.finding and f not in own]
        for proposed in (fact, wrong[int(rng.integers(len(wrong)))]):
            text = p_true_question(report_text(study.indication), grammar.SENTENCES[proposed][0])
            prompts.append(Prompt((Message("user", text),), images=images))
    scores = np.array(reader.engine.score(prompts, [["True", "False"]] * len(prompts), None))
    assert np.exp(scores).sum(1).min() > 0.9
    true = (scores[:, 0] - scores[:, 1]).reshape(-1, 2)
    assert np.mean(true[:, 0] > true[:, 1]) > 0.58


@pytest.mark.parametrize("elicit", ["punish", "linguistic", "cot", "top_k"])
def test_the_other_formats_are_followed(reader: Reader, elicit: str) -> None:
    rng = np.random.default_rng(2)
    asked = [questions.draw(study.findings, rng) for study in reader.studies[:100]]
    texts = [question_text(question.text, elicit) for question in asked]
    claims = [answer_claim(a, elicit) for a in reader.ask(texts, reader.images[:100], tokens=80)]
    assert np.mean([claim.status == "ok" for claim in claims]) > 0.95
    assert np.mean([c.text == q.answer for c, q in zip(claims, asked, strict=True)]) > 0.45
    if elicit == "linguistic":
        assert {claim.confidence for claim in claims} <= {*EXPRESSIONS.values(), None}


def test_a_finished_answer_gets_a_confidence(reader: Reader) -> None:
    texts = [two_stage_question(FINDINGS, truth) for truth in reader.truth[:100]]
    stated = [read_stated(answer.text).status for answer in reader.ask(texts, reader.images[:100], tokens=16)]
    assert stated.count("ok") > 95


def test_checkpoint_is_small_and_in_the_hub_layout(base_model: Path) -> None:
    from safetensors import safe_open

    assert sum(path.stat().st_size for path in base_model.iterdir()) <= 12e6
    with safe_open(base_model / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert any(name.startswith("vision_tower.vision_model.encoder") for name in names)
    assert not [path for path in base_model.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
