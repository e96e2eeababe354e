"""The OpenAI-compatible engine: its errors against a local web server, and everything against vLLM's own server."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import Servers, ask, engine, said

from conrad_bench.config import load_config
from conrad_bench.engines.base import Job
from conrad_bench.engines.openai import OpenAIEngine
from conrad_bench.errors import ConfigError, EngineError, ModelError
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import END, Sampling

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")

SECRET = "sk-a-key-that-must-not-appear"
WORDS = "Xylophonist indication"


def test_tokens_probabilities_and_offsets(serve: Servers) -> None:
    tokens = [("No ", -0.1), ("effusión", -0.2), (".", -0.3), ("<end_of_turn>", -0.4)]
    url, asked = serve(lambda body, n: said("No effusión.", tokens))
    served = engine(url)
    (made,) = served.generate([Job(ask("Findings?"), seed=7)], Sampling(max_tokens=9, temperature=0.5, top_p=0.9), None)
    assert (made.text, made.logprobs, made.finish_reason) == ("No effusión.", (-0.1, -0.2, -0.3, -0.4), "stop")
    assert served.offsets([made.token_ids]) == [[0, 3, 11, 12, 12]]
    (body,) = asked
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (0.5, 0.9, 7, 9)
    assert body["messages"] == [{"role": "user", "content": "Findings?"}]
    served.close()


def test_an_image_that_cannot_be_read_costs_no_answer_twice(serve: Servers, tmp_path: Path) -> None:
    url, asked = serve(lambda body, n: said("No effusion."))
    (tmp_path / "empty.png").touch()
    prompts = [ask(f"Findings {i}?") for i in range(6)]
    prompts.insert(2, ask("Findings?", (str(tmp_path / "empty.png"),)))
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(engine(url, concurrency=2), store, Reporter(quiet=True))
        responses = model.generate(prompts, Sampling(max_tokens=9))
    assert [r.finish_reason == "image_unreadable" for r in responses] == [False] * 2 + [True] + [False] * 4
    assert len(asked) == 6


def test_a_server_without_log_probabilities_is_asked_again_without(serve: Servers) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if "logprobs" in body:
            return 400, {"error": {"message": WORDS, "param": "logprobs", "code": None, "type": "invalid_request"}}
        return said("Clear.")

    url, asked = serve(answer)
    served = engine(url, concurrency=1)
    made = served.generate([Job(ask("a")), Job(ask("b"))], Sampling(), None)
    assert [(g.text, g.logprobs) for g in made] == [("Clear.", None)] * 2
    assert ["logprobs" in body for body in asked] == [True, False, False]
    served.close()


def test_a_busy_server_is_asked_again(serve: Servers) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        return (429, {"error": {"message": "slow down"}}) if number < 3 else said("Clear.")

    url, asked = serve(answer)
    served = engine(url, concurrency=1)
    assert served.generate([Job(ask("a"))], Sampling(), None)[0].text == "Clear."
    assert len(asked) == 3
    served.close()


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, ModelError, r"refuses the key \(401\); set OPENAI_API_KEY"),
        (403, ModelError, r"refuses the key \(403\)"),
        (404, ModelError, "has no model 'the/model'; it serves: the/model"),
        (429, EngineError, r"too busy \(429\) after 1 tries; lower openai.concurrency"),
        (400, EngineError, r"refuses a request \(400, about 'messages'\)"),
        (500, EngineError, r"refuses a request \(500"),
    ],
)
def test_errors_are_explained_without_key_or_text(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception], says: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    error = {"message": f"cannot: {WORDS} {SECRET}", "param": "messages", "code": None, "type": "t"}
    url, asked = serve(lambda body, n: (status, {"error": error}))
    served = engine(url, retries=0)
    with pytest.raises(kind, match=says) as raised:
        served.generate([Job(ask(WORDS))], Sampling(), None)
    assert asked[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(raised.value)
    assert WORDS not in str(raised.value)
    assert SECRET not in json.dumps(served.model_dump()) + json.dumps(served.identity())
    served.close()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = engine(f"http://127.0.0.1:{port}/v1", retries=0)
    with pytest.raises(EngineError, match="cannot be reached; start it, or set --base-url"):
        served.generate([Job(ask("a"))], Sampling(), None)
    served.close()


def test_options_of_two_words_are_scored_from_the_list(serve: Servers) -> None:
    url, asked = serve(lambda body, n: said("True", [("True", -0.2)], [("True", -0.2), ("False", -1.8), ("No", -5.0)]))
    served = engine(url)
    assert served.score([ask("?")], [["True", "False", "Maybe"]], None) == [[-0.2, -1.8, -math.inf]]
    assert (asked[0]["max_tokens"], asked[0]["top_logprobs"]) == (1, 20)
    with pytest.raises(EngineError, match="none of 'Yes' is among the 20 likeliest tokens"):
        served.score([ask("?")], [["Yes"]], None)
    with pytest.raises(EngineError, match="does not score whole answers"):
        served.score([ask("?")], [["7" + END]], None)
    with pytest.raises(EngineError, match="does not continue an answer"):
        served.generate([Job(ask("?", prefix="No"))], Sampling(), None)
    with pytest.raises(EngineError, match="cannot be given an adapter"):
        served.generate([Job(ask("?"))], Sampling(), Path("adapter"))
    served.close()


@pytest.mark.parametrize(
    ("url", "says"), [("localhost:8000", "is no address"), ("http://me:secret@host/v1", "must not hold a key")]
)
def test_addresses_are_checked(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Registry().create("engines", "openai", {"model": "m", "base_url": url})


# The real thing.


@pytest.fixture(scope="module")
def address(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server with the shipped base model."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (.ci/vllm-cpu makes an environment for it)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base_model)]
    options = ["--served-model-name", "phantom", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    small = ["--max-model-len", "1024", "--enforce-eager", "--api-key", SECRET, "--generation-config", "vllm"]
    own = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, *options, *small], env={**os.environ, **own}, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 600
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"vLLM's server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.mark.timeout(900)
def test_vllms_server_writes_what_vllm_writes(address: str, key: None, base_model: Path, tmp_path: Path) -> None:
    """Text prompts: the transformers engine's greedy texts and log-probabilities."""
    from conrad_bench.engines.transformers import TransformersEngine
    from conrad_bench.tasks.prompts import report_text

    served = OpenAIEngine(model="phantom", base_url=address)
    plain = TransformersEngine(model=str(base_model), device="cpu")
    jobs = [
        Job(ask(report_text(text, "confidence"))) for text in ("Cough.", "Fever.", "Trauma.", "Shortness of breath.")
    ]
    for theirs, ours in zip(
        served.generate(jobs, Sampling(max_tokens=64), None),
        plain.generate(jobs, Sampling(max_tokens=64), None),
        strict=True,
    ):
        assert theirs.text == ours.text
        assert theirs.finish_reason == ours.finish_reason
        assert theirs.logprobs is not None
        assert ours.logprobs is not None
        assert theirs.logprobs[: len(ours.logprobs)] == pytest.approx(ours.logprobs[: len(theirs.logprobs)], abs=1e-3)
        offsets = served.offsets([theirs.token_ids])[0]
        assert offsets[-1] == len(theirs.text)
    served.close()


@pytest.mark.timeout(900)
def test_errors_of_vllms_server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(ModelError, match=r"refuses the key \(401\)"):
        OpenAIEngine(model="phantom", base_url=address).generate([Job(ask("a"))], Sampling(), None)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(ModelError, match="has no model 'medgemma'; it serves: phantom"):
        OpenAIEngine(model="medgemma", base_url=address).generate([Job(ask("a"))], Sampling(), None)
    with pytest.raises(EngineError, match=r"refuses a request \(400"):
        OpenAIEngine(model="phantom", base_url=address).generate([Job(ask("word " * 3000))], Sampling(), None)


def test_vllms_model_sees(address: str, key: None) -> None:
    for url in (address, address.removesuffix("/v1")):
        assert OpenAIEngine(model="phantom", base_url=url).notes(True) == ()


def test_vllms_server_keeps_to_the_choices(address: str, key: None) -> None:
    choices = tuple(f"Confidence: {level}" for level in range(11))
    engine = OpenAIEngine(model="phantom", base_url=address)
    asked = [Job(ask("Sure?"), seed) for seed in range(4)]
    for sampling in (Sampling(max_tokens=16, choices=choices), Sampling(2.0, 1.0, 16, choices=choices)):
        assert {g.text.strip() for g in engine.generate(asked, sampling, None)} <= set(choices)


@pytest.mark.timeout(900)
def test_a_whole_run_on_vllms_server(address: str, key: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conrad_bench import pipeline

    monkeypatch.setenv("CONRAD_BENCH_CACHE", str(tmp_path / "cache"))
    given = {
        "methods": ["verbalized", "p_true", "sequence_probability", "self_consistency"],
        "tasks": ["mimic_report"],
        "engine": "openai",
        "model": "phantom",
        "options": {
            "openai": {"base_url": address, "model": "phantom"},
            "phantom": {"studies": 60},
            "bootstrap": {"replicates": 50},
        },
    }
    registry = Registry()
    board = pipeline.run(load_config(None, given, registry), tmp_path / "run", registry, Reporter(quiet=True))
    assert [row["method"] for row in board["rows"]] == sorted(given["methods"])
    assert all(row["n"] > 5 and row["metrics"]["ece"]["value"] is not None for row in board["rows"])
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
