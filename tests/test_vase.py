"""VASE and its distorted pictures, VRO, SAR by tokens, interrogation, and the named entailment model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conrad_bench.engines.distorting import LONGEST, distorted
from conrad_bench.errors import ConfigError, ImageError, ModelError
from conrad_bench.methods.interrogation import ASKED, Interrogation
from conrad_bench.methods.probability.token_sar import SAR, TokenSAR, pieces, relevances, relevant
from conrad_bench.methods.sampling.base import Drawn, similarities
from conrad_bench.methods.sampling.entailment import entailed, entailment_problem
from conrad_bench.methods.sampling.semantic_sets import SemanticEntropy
from conrad_bench.methods.sampling.vase import VASE, vase
from conrad_bench.methods.sampling.vro import VRO
from conrad_bench.methods.self_consistency import rouge_l
from conrad_bench.rollouts.model import Model
from conrad_bench.testing import ToyEngine
from conrad_bench.testing.settings import toys
from conrad_bench.testing.toys import WORDS, Memory, Silent, ToyTask
from conrad_bench.types import Claim, Example, Prompt, Response, Score

# Distorted pictures


def picture(path: Path, size: tuple[int, int] = (90, 60), mode: str = "L") -> str:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_distortions_are_seeded_and_differ(mode: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "film.png", mode=mode)
    made = [distorted(path, number, 0, tmp_path / "a") for number in (0, 1)]
    again = [distorted(path, number, 0, tmp_path / "b") for number in (0, 1)]
    assert [file.name for file in made] == [file.name for file in again]
    assert [file.read_bytes() for file in made] == [file.read_bytes() for file in again]
    assert made[0].read_bytes() != made[1].read_bytes()
    assert distorted(path, 0, 1, tmp_path / "a") != made[0]
    with Image.open(made[0]) as image:
        assert (image.size, image.mode) == ((90, 60), mode)


def test_distortions_are_small_and_broken_pictures_are_said(tmp_path: Path) -> None:
    with Image.open(distorted(picture(tmp_path / "large.png", (1600, 900)), 0, 0, tmp_path)) as image:
        assert image.size == (LONGEST, 288)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError):
        distorted(str(tmp_path / "broken.png"), 0, 0, tmp_path)


# VASE


def test_vase_by_hand() -> None:
    p, q = np.array([0.75, 0.25, 0.0]), np.array([0.25, 0.25, 0.5])
    weights = np.exp([0.75 + 0.5, 0.25, 0.0 - 0.5])
    shares = weights / weights.sum()
    assert vase(p, q, 1.0) == pytest.approx(math.exp((shares * np.log(shares)).sum()))
    assert vase(np.array([1.0]), np.array([1.0]), 1.0) == 1.0
    assert vase(p, q, 2.0) > vase(p, q, 1.0) > vase(p, q, 0.0)  # what the picture says counts more


class PictureTask(ToyTask):
    """The toy task with a picture."""

    picture: str

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        prompt = super().prompt(example, elicit)
        return Prompt(prompt.messages, (self.picture,), prompt.elicit)


def test_vase_samples_distorted_pictures(tmp_path: Path) -> None:
    setting = toys("answer")
    task = PictureTask(picture=picture(tmp_path / "film.png"))
    test = [e for e in setting.examples if e.split == "test"]
    model = Model(setting.engine, Memory(), Silent(), pictures=tmp_path / "pictures")
    method = VASE(n=4, distortions=2)
    found = method.estimate(task, test, model, setting.judge, None)
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    # One greedy and four samples of each question, and four to distortions.
    assert model.store.count("generate") == 9 * len(test)  # type: ignore[attr-defined]
    assert sum(step.count for step in method.steps(task, [], [], test)) == 9 * len(test)
    assert all(0 < claim.confidence <= 1 for e in found for claim in e.claims if claim.confidence is not None)
    with pytest.raises(ConfigError, match=r"set Model\.pictures"):
        method.estimate(task, test, Model(setting.engine, Memory(), Silent()), setting.judge, None)


def test_samples_must_be_shared_out_evenly() -> None:
    with pytest.raises(ValueError, match="n=10 samples cannot be shared out among 3"):
        VASE(distortions=3)


# Entailment


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny classifiers with random weights, by their kind."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(word.lower() for word in WORDS)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    kinds = {
        "nli": ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
        "similarity": ["LABEL_0"],
        "sentiment": ["good", "bad"],
    }
    folders = {}
    for kind, labels in kinds.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(kind)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
            folder
        )
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(words), id2label=dict(enumerate(labels)), initializer_range=1.0, **sizes)
        BertForSequenceClassification(config).save_pretrained(folder)
        folders[kind] = str(folder)
    return folders


PAIRS = [("heart is large", "heart is small"), ("no effusion seen", "lungs clear"), ("heart is large", "no effusion")]


def test_entailment_is_the_classifiers_probability(classifiers: dict[str, str]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    found = entailed(classifiers["nli"], [*PAIRS, PAIRS[0]])
    assert found[0] == found[3]
    network = AutoModelForSequenceClassification.from_pretrained(classifiers["nli"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifiers["nli"])
    for value, pair in zip(found, PAIRS, strict=False):
        with torch.no_grad():
            logits = network(**tokenizer(*pair, return_tensors="pt")).logits[0]
        assert value == pytest.approx(float(logits.softmax(-1)[2]), abs=1e-6)
    alike = entailed(classifiers["similarity"], PAIRS)
    assert len(set(alike)) == 3
    assert all(0 < value < 1 for value in alike)
    assert entailed("nowhere at all", []) == []


def test_what_is_no_entailment_model_is_said(classifiers: dict[str, str], tmp_path: Path) -> None:
    assert entailment_problem(classifiers["nli"]) is None
    assert entailment_problem("microsoft/deberta-large-mnli") is None
    assert "holds no model" in str(entailment_problem(str(tmp_path)))
    assert "is no folder" in str(entailment_problem("./nowhere"))
    assert "has no label `entailment` (labels: good, bad)" in str(
        SemanticEntropy(entailment=classifiers["sentiment"]).problem("report")
    )
    with pytest.raises(ModelError, match="has no label `entailment`"):
        entailed(classifiers["sentiment"], PAIRS)
    with pytest.raises(ModelError, match="cannot be loaded as a classifier"):
        entailed(str(tmp_path), PAIRS)


def nobody(*_asked: object) -> Any:
    raise AssertionError("the scorer was asked")


def test_entailment_takes_the_similaritys_place(classifiers: dict[str, str]) -> None:
    claims = [Claim(text, (0, len(text))) for text in ("yes", "no", "yes")]
    example = Example("e", "p", "test", (), "Is the heart large?", "")
    drawn = Drawn(example, claims[0], [], claims, "Is the heart large?")
    (matrix,) = similarities([drawn], "scorer", nobody, classifiers["nli"])
    there, back = entailed(
        classifiers["nli"],
        [("Is the heart large? yes", "Is the heart large? no"), ("Is the heart large? no", "Is the heart large? yes")],
    )
    assert matrix.tolist() == [[1, there, 1], [back, 1, back], [1, there, 1]]
    setting = toys("report")
    model = Model(setting.engine, Memory(), Silent())
    test = [e for e in setting.examples if e.split == "test"]
    for cls in (SemanticEntropy, VASE, SAR, TokenSAR):
        method = cls(entailment=classifiers["nli"])
        found = method.estimate(setting.task, test, model, nobody, None)
        assert any(claim.confidence is not None for e in found for claim in e.claims)


# SAR


def test_relevance_is_what_a_text_loses_without_a_token() -> None:
    assert pieces("no effusion. no", [0, 3, 12, 15], (0, 15)) == [
        "no effusion. no",
        "effusion. no",
        "no  no",
        "no effusion.",
    ]
    assert pieces("a b c", [2, 4, 5], (2, 5)) == ["b c", "c", "b "]
    (weights,) = relevances([pieces("no effusion. no", [0, 3, 12, 15, 15], (0, 15))], None)
    assert weights.tolist() == [0.0, 0.5, 0.0, 0.0]  # a word that stands twice is not missed, nor the end of the turn
    logprobs = np.log([0.5, 0.1, 0.2, 0.9])
    assert relevant(logprobs, weights) == pytest.approx(-math.log(0.1))
    assert relevant(logprobs, np.zeros(4)) == pytest.approx(-logprobs.mean())


def test_sar_of_equal_samples_is_certain() -> None:
    text = "heart is large"
    response = Response("k", text, (1, 2, 3), (0.0, 0.0, 0.0), "stop")
    claim = Claim(text, (0, len(text)))
    drawn = Drawn(Example("e", "p", "test", (), "", ""), claim, [response] * 3, [claim] * 3, "", [[0, 6, 9, 14]] * 3)
    assert SAR(similarity="jaccard")._confidences([drawn], nobody) == [pytest.approx(1.0)]


# VRO


def test_vro_takes_the_greedy_report_for_the_reference() -> None:
    claims = [Claim(text, (0, len(text))) for text in ("heart is large", "lungs clear", "heart is small")]
    drawn = Drawn(Example("e", "p", "test", (), "", ""), claims[0], [], claims[1:])

    def judge(examples: Any, found: Any) -> list[list[Score]]:
        assert {example.reference for example in examples} == {"heart is large"}
        return [[Score(None) if claim.text == "lungs clear" else Score(0.25)] for (claim,) in found]

    assert VRO()._confidences([drawn], judge) == [0.25]
    expected = (rouge_l("heart is large", "lungs clear") + rouge_l("heart is large", "heart is small")) / 2
    assert VRO(similarity="rouge_l")._confidences([drawn], nobody) == [pytest.approx(expected)]


# Interrogation


class Answering(ToyEngine):
    """An engine that gives the first answer a probability of its own, and the others what is left."""

    first: float

    def score(self, prompts: Any, continuations: Any, adapter: Any) -> list[list[float]]:
        left = (1 - self.first) / 10
        return [
            [math.log(self.first), *[math.log(left * 10 / (len(row) - 1))] * (len(row) - 1)] for row in continuations
        ]


def test_interrogation_fuses_the_strategies_and_the_expert() -> None:
    setting = toys("report")
    test = [e for e in setting.examples if e.split == "test"][:2]
    model = Model(
        Answering(model="a", first=0.8), Memory(), Silent(), experts={"interrogation": Answering(model="b", first=0.4)}
    )
    asked = Interrogation(strategies=("true", "doubt")).estimate(setting.task, test, model, nobody, None)
    assert [claim.confidence for e in asked for claim in e.claims] == pytest.approx([0.8, 0.8])
    (level,) = {
        c.confidence
        for e in Interrogation(strategies=("levels",)).estimate(setting.task, test, model, nobody, None)
        for c in e.claims
    }
    assert level == pytest.approx(0.2 * sum(range(1, 11)) / 100)
    expert = Interrogation(strategies=("true",), assessor="b", share=0.25)
    found = expert.estimate(setting.task, test, model, nobody, None)
    odds = 0.75 * math.log(4) + 0.25 * math.log(0.4 / 0.6)
    assert found[0].claims[0].confidence == pytest.approx(1 / (1 + math.exp(-odds)))
    with pytest.raises(ConfigError, match=r"set Model\.experts"):
        expert.estimate(setting.task, test, Model(setting.engine, Memory(), Silent()), nobody, None)


def test_each_strategy_asks_something_else() -> None:
    texts = {strategy: question("What is seen?", "A large heart.") for strategy, (question, _, _) in ASKED.items()}
    assert len(set(texts.values())) == len(ASKED)
    assert all("What is seen?" in text and "A large heart." in text for text in texts.values())
    assert all(len(answers) == len(worth) for _, answers, worth in ASKED.values())
