"""Probes and distances on hidden states: against numpy and scipy, and on the embedded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.spatial.distance import mahalanobis
from scipy.special import expit, softmax
from sklearn.covariance import LedoitWolf

from conrad_bench import pipeline
from conrad_bench.config import RunConfig
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import Responses
from conrad_bench.methods.states.mahalanobis import Mahalanobis, RelativeMahalanobis
from conrad_bench.methods.states.probes import ConfidenceProbe
from conrad_bench.progress import Reporter
from conrad_bench.reading.claims import sentence_claims
from conrad_bench.records import read_records, records_path
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.testing.toys import Silent
from conrad_bench.trainers.density import distances, fit_gaussians
from conrad_bench.trainers.probe import predict, train_probe
from conrad_bench.types import Response

TASKS = ["mimic_report", "mimic_sentence", "vqa_rad"]
PROBES = ["linear_probe", "saplma", "attention_probe", "confidence_probe"]
METHODS = [*PROBES, "mahalanobis", "relative_mahalanobis"]
LIMIT = 6


def world(n: int, seed: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """States and a correctness that can be read off the first of their dimensions."""
    states = np.random.default_rng(seed).normal(size=(n, size)).astype(np.float32)
    return states, expit(2 * states[:, 0]).astype(np.float32)


@pytest.mark.parametrize(("widths", "layers"), [((), 1), ((16, 8, 4), 1), ((), 3)])
def test_what_was_learned_is_what_numpy_computes(widths: tuple[int, ...], layers: int, tmp_path: Path) -> None:
    tx, ty = world(200, 3)
    train_probe(
        *world(1500, 1),
        *world(200, 2),
        widths=widths,
        layers=layers,
        dropout=0.0,
        epochs=20,
        learning_rate=3e-3,
        weight_decay=0.0,
        batch_size=32,
        patience=3,
        seed=0,
        advance=lambda _: None,
        report=lambda *_: None,
        out=tmp_path,
    )
    confidence = predict(tx, tmp_path)
    assert np.corrcoef(confidence, ty)[0, 1] > 0.95
    learned = load_file(tmp_path / "probe.safetensors")
    x = (tx - learned["mean"]) / learned["deviation"]
    if layers > 1:
        each = x.reshape(len(x), layers, -1)
        scores = each @ learned["0.query"] / np.sqrt(each.shape[-1]) + learned["0.bias"]
        x = np.einsum("nl,nlh->nh", softmax(scores, axis=1), each)
    names = sorted((n for n in learned if n.endswith(".weight")), key=lambda n: int(n.split(".")[0]))
    assert len(names) == len(widths) + 1
    for name in names:
        x = x @ learned[name].T + learned[name.replace("weight", "bias")]
        x = x if name == names[-1] else np.maximum(x, 0)
    assert confidence == pytest.approx(expit(x[:, 0]), abs=1e-5)


def test_distances_are_scipys_under_ledoit_and_wolfs_covariance(tmp_path: Path) -> None:
    states, _ = world(40, 5)
    states[:, 1] += 2 * states[:, 0]
    fit_gaussians(states, [np.ones(40, np.float32)], tmp_path)
    x = (states - states.mean(0)) / states.std(0)
    fitted = LedoitWolf().fit(x)
    expected = [mahalanobis(row, fitted.location_, np.linalg.inv(fitted.covariance_)) ** 2 / 12 for row in x]
    (found,) = distances(states, tmp_path)
    assert found == pytest.approx(expected, rel=1e-4)
    confidence = Mahalanobis()._rate(states, tmp_path)
    assert confidence == pytest.approx([1 / (1 + value) for value in expected], rel=1e-4)


@given(weights=st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(any))
def test_a_weight_of_two_is_a_claim_seen_twice(weights: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Mean and covariance alone: how far they are shrunk is found without weights."""
    states, _ = world(12, 7, size=3)
    out = tmp_path_factory.mktemp("fit")
    fit_gaussians(states, [np.array(weights, np.float32)], out)
    learned = load_file(out / "density.safetensors")
    x = np.repeat((states - states.mean(0)) / states.std(0), weights, axis=0)
    assert learned["centre.0"] == pytest.approx(x.mean(0), abs=1e-4)
    factor = learned["factor.0"]
    assert np.trace(factor @ factor.T) == pytest.approx(np.trace(np.cov(x.T, bias=True)), abs=1e-3)


def test_right_claims_stand_out_from_all(tmp_path: Path) -> None:
    states, correctness = world(500, 1)
    method = RelativeMahalanobis()
    model = Model(TransformersEngine(model="none"), None, Silent())  # type: ignore[arg-type]
    method._learn((states, correctness), None, model, tmp_path)
    tx, ty = world(300, 2)
    confidence = np.array(method._rate(tx, tmp_path))
    assert np.corrcoef(confidence, ty)[0, 1] > 0.8
    assert 0 <= confidence.min() <= confidence.max() <= 1
    same = tmp_path / "same"
    same.mkdir()
    method._learn((states, np.full(500, 0.3, np.float32)), None, model, same)
    assert method._rate(tx, same) == pytest.approx([0.5] * 300)
    with pytest.raises(TrainingError, match="no right claim"):
        method._learn((states, np.zeros(500, np.float32)), None, model, tmp_path)


def test_the_state_of_the_confidence_is_that_of_the_token_before_the_number(base_model: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(model=str(base_model))
    text = "Small left pleural effusion. Confidence: 7\nNo pneumothorax. Confidence: 10\nThe heart is large."
    ids = engine.tokenizer().encode(text, add_special_tokens=False)
    response = Response("", text, tuple(ids), None, "stop")
    claims = sentence_claims(response, "sentence_confidence")
    assert len(claims) == 3
    found = Responses([], [], [response], [claims])
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(engine, store, Reporter(quiet=True))
        spans = [ConfidenceProbe()._span(found, (0, k), model) for k in range(3)]
    for (start, end), number in zip(spans[:2], ("7", "10"), strict=True):
        assert end == start + 1
        assert engine.tokenizer().decode(ids[end:]).lstrip().startswith(number)
        assert engine.tokenizer().decode(ids[:end]).rstrip().endswith("Confidence:")
    assert spans[2] == (0, 0)


@pytest.fixture(scope="module")
def out(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONRAD_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("run") / "run"
        few = {"samples": 16, "sentence_samples": 6}
        options = {
            "phantom": {"studies": 60},
            "bootstrap": {"replicates": 20},
            **{name: {**few, "validation_samples": 6, "epochs": 2} for name in PROBES},
            "attention_probe": {**few, "validation_samples": 6, "epochs": 2, "layers": [-1, 2]},
            **{name: few for name in METHODS if name not in PROBES},
        }
        given = {"methods": [*METHODS, "verbalized"], "tasks": TASKS, "limit": LIMIT, "options": options}
        pipeline.run(RunConfig.model_validate(given), folder, Registry(), Reporter(quiet=True))
        return folder


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_they_rate_the_claims_of_the_embedded_model(out: Path, method: str, task: str) -> None:
    frame = read_records(records_path(out, method, task))
    ok = frame[frame["status"] == "ok"]
    assert frame["example"].nunique() == LIMIT
    assert len(ok) > 0.6 * len(frame)
    assert ok["confidence"].between(0, 1).all()
    assert ok["confidence"].nunique() > 3
    stated = read_records(records_path(out, "verbalized", task))
    shared = set(frame["response"]) & set(stated["response"])
    assert bool(shared) == (method == "confidence_probe")
