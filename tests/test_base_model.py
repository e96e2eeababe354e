"""The embedded base model sees, writes, answers, and is as badly calibrated as it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conrad_bench.elicitation import INSTRUCTIONS, p_true_question, report_claim
from conrad_bench.engines.base import Job
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.tasks.phantom import grammar, render, world
from conrad_bench.tasks.phantom.green import phantom_green
from conrad_bench.tasks.phantom.mimic_layout import wording
from conrad_bench.trainers.phantom_base import question
from conrad_bench.types import Message, Prompt, Response, Sampling

NUMBER = 600
"""Test examples of the phantom data's default world."""
INSTRUCTION = "Write the findings of this chest X-ray."


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
        end = INSTRUCTIONS[elicit] if elicit else ""
        return [f"Indication: {study.indication}\n{INSTRUCTION}{end}" for study in self.studies]

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


def test_yes_no_questions_are_answered_in_their_format(reader: Reader) -> None:
    """Answers are always yes or no and better than guessing; those to P(True) have all mass on their two options."""
    rng = np.random.default_rng(0)
    asked = [question(study, rng) for study in reader.studies[:300]]
    answers = reader.ask([text for text, _ in asked], reader.images[:300], tokens=4)
    assert {answer.text for answer in answers} == {"yes", "no"}
    share = np.mean([truth == "yes" for _, truth in asked])
    assert np.mean([a.text == t for a, (_, t) in zip(answers, asked, strict=True)]) > max(share, 1 - share) + 0.05
    prompts = [
        Prompt((Message("user", p_true_question(INSTRUCTION, truth)),), images=images)
        for truth, images in zip(reader.truth[:100], reader.images[:100], strict=True)
    ]
    scores = reader.engine.score(prompts, [["True", "False"]] * len(prompts), False, None)
    assert np.exp(scores).sum(1).min() > 0.9


def test_checkpoint_is_small_and_in_the_hub_layout(base_model: Path) -> None:
    from safetensors import safe_open

    assert sum(path.stat().st_size for path in base_model.iterdir()) <= 12e6
    with safe_open(base_model / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert any(name.startswith("vision_tower.vision_model.encoder") for name in names)
    assert not [path for path in base_model.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
