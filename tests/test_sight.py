"""Whether a served model sees pictures is found out before a run, and its boards say what could not be told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import Servers, engine, picture_of, refused, said
from test_cli import conrad_bench

from conrad_bench import pipeline
from conrad_bench.config import load_config
from conrad_bench.engines.base import Job
from conrad_bench.errors import EngineError, ModelError
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.tasks.phantom.vqa_layout import write_vqa_rad
from conrad_bench.types import Message, Prompt, Sampling

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")

UNTOLD = "Whether the model saw the pictures that its server was sent could not be told from its answers."
DROPS = "drops pictures: 'the/model' answers as if there were none; serve a model that sees, or set openai.images=false"
CANNOT = r"cannot read pictures with 'the/model': it answers a question, but not one about a picture \({}\)"


def notes(url: str, pictures: bool = True, **options: Any) -> tuple[str, ...]:
    served = engine(url, **{"retries": 0, **options})
    try:
        return served.notes(pictures)
    finally:
        served.close()


@pytest.fixture(scope="module")
def seeing(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any], bool], Any]:
    """The embedded model as a server asks it: with the pictures of a request, or without."""
    from conrad_bench.engines.transformers import TransformersEngine

    model = TransformersEngine(model=str(base_model), device="cpu")
    folder, lock = tmp_path_factory.mktemp("pictures"), threading.Lock()

    def answer(body: dict[str, Any], drop: bool) -> Any:
        content, images = body["messages"][0]["content"], []
        if not isinstance(content, str):
            for number, part in enumerate(content[:-1]):
                path = folder / f"{number}.png"
                path.write_bytes(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
                images += [] if drop else [str(path)]
            content = content[-1]["text"]
        with lock:
            prompt = Prompt((Message("user", content),), tuple(images))
            (made,) = model.generate([Job(prompt)], Sampling(max_tokens=body["max_tokens"]), None)
        tokens = [(str(token), value) for token, value in zip(made.token_ids, made.logprobs or (), strict=True)]
        return made.text, tokens, len(content) + 16 * len(images)

    return answer


@pytest.mark.parametrize("logprobs", [True, False])
@pytest.mark.parametrize("counts", [True, False])
def test_a_model_that_sees_and_one_whose_server_drops_pictures(
    serve: Servers, seeing: Callable[[dict[str, Any], bool], Any], logprobs: bool, counts: bool
) -> None:
    def replies(drop: bool) -> Callable[[dict[str, Any], int], Any]:
        def answer(body: dict[str, Any], number: int) -> Any:
            text, tokens, counted = seeing(body, drop)
            return said(text, tokens if logprobs else None, prompt_tokens=counted if counts else None)

        return answer

    url, asked = serve(replies(drop=False))
    assert notes(url) == ()
    assert len(asked) <= 4
    url, asked = serve(replies(drop=True))
    if logprobs or counts:
        with pytest.raises(ModelError, match=DROPS):
            notes(url)
    else:
        assert notes(url) == (UNTOLD,)
    assert len(asked) <= 4


@pytest.mark.parametrize(
    ("status", "message", "requests"),
    [
        (500, "image input is not supported - hint: you may need to provide the mmproj", 2),
        (500, "", 3),
        (400, "", 2),
        (422, "", 2),
        (404, "No endpoints found that support image input", 2),
        (413, "", 2),
    ],
)
def test_a_server_that_refuses_pictures_is_named_after_one_request(
    serve: Servers, status: int, message: str, requests: int
) -> None:
    url, asked = serve(lambda body, n: refused(status, message=message) if picture_of(body) else said("Clear."))
    with pytest.raises(ModelError, match=CANNOT.format(status)):
        notes(url, retries=6)
    assert len(asked) == requests
    assert notes(url, pictures=False) == ()
    assert notes(url, images=False) == (
        "The model was sent no pictures (openai.images=false): it answered from the text alone.",
    )
    assert not any(picture_of(body) for body in asked[requests:])


def test_a_busy_or_stumbling_server_is_not_taken_for_a_blind_one(serve: Servers) -> None:
    for trouble in (refused(429), refused(503), refused(500), (200, "<html>busy</html>")):
        url, _ = serve(lambda body, n, trouble=trouble: trouble if n == 2 else said(str(picture_of(body))[-40:]))
        assert notes(url, retries=1) == ()
    url, _ = serve(lambda body, n: refused(500))
    with pytest.raises(EngineError, match=r"refuses a request \(500\)"):
        notes(url)


def wobbling(body: dict[str, Any], number: int) -> Any:
    """A blind server whose log-probabilities differ from time to time, as those of a busy GPU do."""
    return said("Clear.", [("Clear.", -0.5 - 0.003 * number)], prompt_tokens=30)


def marking(body: dict[str, Any], number: int) -> Any:
    """A blind server with a mark in the prompt for every picture."""
    return said("Clear.", [("Clear.", -0.5)], prompt_tokens=32 if picture_of(body) else 30)


def caching(body: dict[str, Any], number: int) -> Any:
    """A blind server that counts only the tokens that it has not read before."""
    return said("Clear.", prompt_tokens=30 if number == 1 else 1)


def sampling(body: dict[str, Any], number: int) -> Any:
    """A server that writes something else each time."""
    return said(f"Clear {number}.")


@pytest.mark.parametrize(("answer", "told"), [(wobbling, False), (caching, False), (marking, True), (sampling, True)])
def test_what_looks_like_sight_and_is_none(serve: Servers, answer: Any, told: bool) -> None:
    url, _ = serve(answer)
    if told:
        assert notes(url) == (UNTOLD,)
    else:
        with pytest.raises(ModelError, match=DROPS):
            notes(url)


def test_pictures_of_two_sizes_that_are_counted_are_seen(serve: Servers) -> None:
    url, asked = serve(lambda body, n: said("Clear.", prompt_tokens=20 + len(str(picture_of(body)))))
    assert notes(url) == ()
    assert len(asked) == 4


def test_a_server_that_takes_no_temperature_is_a_note(serve: Servers) -> None:
    url, _ = serve(lambda body, n: refused(400, param="temperature") if "temperature" in body else said("Clear."))
    assert notes(url, pictures=False) == (
        "The server takes no temperature: it chose tokens at its own, in place of the methods'.",
    )


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    write_vqa_rad(tmp_path / "tree", 8, 0)
    return tmp_path / "tree"


def test_boards_say_what_could_not_be_told_and_the_server_is_tried_once(
    serve: Servers, questions: Path, tmp_path: Path
) -> None:
    url, asked = serve(lambda body, n: said("Yes\nConfidence: 8"))
    given = {
        "methods": ["verbalized"],
        "tasks": ["vqa_rad"],
        "engine": "openai",
        "model": "the/model",
        "data_roots": {"vqa_rad": str(questions)},
        "limit": 4,
        "options": {"openai": {"base_url": url}, "bootstrap": {"replicates": 20}},
    }
    registry, out = Registry(), tmp_path / "run"
    config = load_config(None, given, registry)
    board = pipeline.run(config, out, registry, Reporter(quiet=True))
    assert board["notes"] == [UNTOLD]
    for page in ("leaderboard.md", "leaderboard.html", "leaderboard.tex"):
        assert UNTOLD in (out / page).read_text()
    assert json.loads((out / "context.json").read_text())["context"]["notes"] == [UNTOLD]
    (out / "manifest.json").unlink()
    del asked[:]
    assert pipeline.run(config, out, Registry(), Reporter(quiet=True)) == board
    assert asked == []


def test_a_run_with_a_server_that_cannot_read_pictures_ends_before_it_begins(
    serve: Servers, questions: Path, tmp_path: Path
) -> None:
    url, asked = serve(lambda body, n: refused(500) if picture_of(body) else said("Yes\nConfidence: 8"))
    command = ["run", "--engine", "openai", "--base-url", url, "--model", "the/model", "--methods", "verbalized"]
    command += ["--tasks", "vqa_rad", "--data-root", f"vqa_rad={questions}", "-o", "bootstrap.replicates=20"]
    done = conrad_bench(*command, "--out", "run", cwd=tmp_path)
    assert (done.returncode, len(asked)) == (2, 3)
    assert "cannot read pictures with 'the/model'" in done.stderr
    done = conrad_bench(*command, "--out", "blind", "-o", "openai.images=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The model was sent no pictures" in done.stdout
    assert sum(picture_of(body) is not None for body in asked) == 2
