"""A server is asked in the words that it takes; what is no answer is asked for again; what was answered is kept."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import CHAT, Servers, ask, engine, refused, said

from conrad_bench.engines.base import Engine, Job
from conrad_bench.engines.calls import Answered, Call
from conrad_bench.errors import EngineError, ModelError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Sampling

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")

DRAWN = Sampling(1.0, 0.9, 9)


def write(url: str, sampling: Sampling = Sampling(), jobs: int = 2, **options: Any) -> list[Any]:
    """Let a server answer prompts, one after the other."""
    served = engine(url, concurrency=1, **{"retries": 0, **options})
    try:
        return served.generate([Job(ask(str(number)), seed=5) for number in range(jobs)], sampling, None)
    finally:
        served.close()


REFUSALS = [
    (400, {"param": "{}"}),
    (422, {"message": "Extra inputs are not permitted: {}"}),
    (403, {"message": "You are not allowed to request {}"}),
    (400, {}),
    (403, {}),
]
INSTEAD = {"logprobs": None, "max_tokens": "max_completion_tokens", "temperature": None}


@pytest.mark.parametrize(
    ("status", "error", "word"),
    [
        *((status, error, word) for status, error in REFUSALS for word in INSTEAD),
        (500, {"message": "{} is not supported for models created with logits_all=False"}, "logprobs"),
    ],
)
def test_what_a_server_refuses_is_asked_in_its_words_and_remembered(
    serve: Servers, status: int, error: dict[str, str], word: str
) -> None:
    instead = INSTEAD[word]
    told = {key: text.format(word) for key, text in error.items()}
    url, asked = serve(lambda body, n: refused(status, **told) if word in body else said("Clear."))
    assert [made.text for made in write(url, DRAWN, 3)] == ["Clear."] * 3
    assert [word in body for body in asked][-3:] == [False] * 3
    assert sum(word in body for body in asked) <= (1 if error else 3)
    if instead:
        assert all(body[instead] == 9 for body in asked[-3:])
    others = {"logprobs", "temperature", "max_tokens"} - {word}
    assert all(other in asked[-1] for other in others)


def test_a_server_that_refuses_several_words_one_after_the_other(serve: Servers) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        word = next((word for word in ("max_tokens", "temperature", "logprobs") if word in body), None)
        return refused(400, param=word, code="unsupported_parameter") if word else said("Clear.")

    url, asked = serve(answer)
    assert [made.text for made in write(url)] == ["Clear."] * 2
    assert len(asked) == 5
    assert set(asked[-1]) & {"top_p", "temperature", "logprobs", "top_logprobs"} == set()


def test_the_words_are_not_changed_for_a_refusal_that_is_about_something_else(serve: Servers) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        return refused(400, message="too long") if body["messages"][0]["content"] == "1" else said("Clear.")

    url, asked = serve(answer)
    with pytest.raises(EngineError, match=r"refuses a request \(400\)"):
        write(url)
    assert len(asked) == 2

    # A temperature that is out of range is not left out behind the first answer.
    url, asked = serve(lambda body, n: refused(400, param="temperature") if body["temperature"] > 1 else said("Clear."))
    served = engine(url, concurrency=1, retries=0)
    served.generate([Job(ask("a"))], Sampling(), None)
    with pytest.raises(EngineError, match=r"\(400, about 'temperature'\)"):
        served.generate([Job(ask("a"))], Sampling(1.5), None)
    served.close()


def test_403_is_about_the_key_where_nothing_helps(serve: Servers) -> None:
    url, asked = serve(lambda body, n: refused(403))
    with pytest.raises(ModelError, match=r"refuses the key \(403\)"):
        write(url, jobs=1)
    assert len(asked) < 6


def test_log_probabilities_are_asked_for_so_that_llama_cpp_gives_some(serve: Servers) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        return said("Clear.", [("Clear.", -0.5)] if body.get("top_logprobs", 0) >= 1 else None)

    url, _ = serve(answer)
    assert write(url, jobs=1)[0].logprobs == (-0.5,)
    url, asked = serve(
        lambda body, n: refused(400, param="top_logprobs") if "top_logprobs" in body else said("A", [("A", -0.5)])
    )
    assert write(url, jobs=1)[0].logprobs == (-0.5,)
    assert "logprobs" in asked[-1]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((200, "<html>gateway</html>"), "sent text/html, which is not JSON"),
        ((200, {"error": {"code": 429}}), r"sent an error \(429\) with status 200, no choices"),
        ((200, {"choices": []}), "sent an empty list of choices"),
        (said(None), "sent a message whose content is null"),
        (said([{"type": "text", "text": "Yes"}]), "sent content in parts"),
        ((502, "<html>bad gateway</html>"), r"refuses a request \(502\)"),
    ],
)
def test_what_is_no_answer_is_asked_for_again(serve: Servers, reply: Any, says: str) -> None:
    url, asked = serve(lambda body, n: reply if n == 1 else said("Clear."))
    assert write(url, jobs=1, retries=1)[0].text == "Clear."
    assert len(asked) == 2
    url, asked = serve(lambda body, n: reply)
    with pytest.raises(EngineError, match=says):
        write(url, jobs=1, retries=1)
    assert len(asked) == 2


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", "/openai/v1/chat/completions"])
def test_an_address_is_tried_with_v1_as_well(serve: Servers, path: str) -> None:
    url, asked = serve(lambda body, n: said("Clear."), path)
    start = url.removesuffix("/v1") + ("/openai" if "openai" in path else "")
    assert [made.text for made in write(start)] == ["Clear."] * 2
    assert len(asked) == 2


def test_a_page_at_the_wrong_address_is_no_end(serve: Servers) -> None:
    url, _ = serve(lambda body, n: (200, "<html>welcome</html>"), "/chat/completions")
    with pytest.raises(EngineError, match="sent text/html, which is not JSON in place of an answer, after 1 tries"):
        write(url.removesuffix("/v1"), jobs=1)
    url, _ = serve(lambda body, n: said("Clear."), "/elsewhere")
    with pytest.raises(ModelError, match="has no model 'the/model'; it serves: the/model"):
        write(url.removesuffix("/v1"), jobs=1)
    with pytest.raises(ModelError, match=r"no chat interface at this address \(404\); check --model and --base-url"):
        write(f"{url}/more", jobs=1)


def test_an_account_without_credit_is_not_called_busy(serve: Servers) -> None:
    url, _ = serve(lambda body, n: refused(429, code="insufficient_quota"))
    with pytest.raises(EngineError, match=r"no credit left for this key \(429\)"):
        write(url, jobs=1)


def test_a_filtered_prompt_or_answer_is_one_that_was_cut_off(serve: Servers) -> None:
    filters = {0: refused(400, code="content_filter", param="prompt"), 1: said(None, finish="content_filter")}
    url, _ = serve(lambda body, n: filters.get(int(body["messages"][0]["content"]), said("Clear.")))
    made = write(url, jobs=3)
    assert [(one.text, one.finish_reason) for one in made] == [("", "length"), ("", "length"), ("Clear.", "stop")]


def test_choices_that_a_server_does_not_keep_to_are_an_error(serve: Servers) -> None:
    sampling = Sampling(max_tokens=9, choices=("Confidence: 1", "Confidence: 10"))
    url, asked = serve(lambda body, n: said(" Confidence: 10\n", reasoning_content="Sure."))
    assert write(url, sampling, jobs=1)[0].text == "<think>Sure.</think> Confidence: 10\n"
    assert asked[0]["structured_outputs"] == {"choice": list(sampling.choices)}
    assert "logprobs" not in asked[0]
    for finish in ("stop", "length"):
        url, _ = serve(lambda body, n, finish=finish: said("I am sure.", finish=finish))
        with pytest.raises(EngineError, match="does not keep to the choices of a restricted answer") as raised:
            write(url, sampling, jobs=1)
        assert "I am sure" not in str(raised.value)
    url, _ = serve(lambda body, n: (422, {"detail": "Unexpected fields in the request: {'structured_outputs'}"}))
    with pytest.raises(EngineError, match="does not keep to the choices of a restricted answer"):
        write(url, sampling, jobs=1)
    url, _ = serve(lambda body, n: said("Confid", finish="length"))
    assert write(url, sampling, jobs=1)[0].finish_reason == "length"


class Elsewhere:
    """A pool whose results travel, as those of replicas do."""

    def run(self, served: Engine, calls: Sequence[Call]) -> Generator[tuple[int, Answered], None, None]:
        for index, call in enumerate(calls):
            yield index, pickle.loads(pickle.dumps(call.run(served)))

    def train(self, *_: Any) -> None:
        raise AssertionError("nothing is trained here")


@pytest.mark.parametrize("pool", [None, Elsewhere()], ids=["here", "elsewhere"])
@pytest.mark.parametrize("kind", ["generate", "score"])
def test_what_was_answered_before_a_failure_is_kept(
    serve: Servers, tmp_path: Path, kind: str, pool: Elsewhere | None
) -> None:
    broken = threading.Event()

    def answer(body: dict[str, Any], number: int) -> Any:
        if number > 50 and not broken.is_set():
            return refused(500)
        return said("True", [("True", -0.2)], [("True", -0.2)])

    url, asked = serve(answer)
    served = engine(url, retries=0, concurrency=1)
    prompts = [ask(str(number)) for number in range(60)]

    def work(model: Model) -> Any:
        return model.generate(prompts) if kind == "generate" else model.score(prompts, ["True"])

    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(served, store, Reporter(quiet=True), pool=pool)
        with pytest.raises(EngineError, match=r"refuses a request \(500"):
            work(model)
        assert store.counts() == {kind: 50}
        broken.set()
        del asked[:]
        assert len(work(model)) == 60
        assert len(asked) == 10
    served.close()


@pytest.mark.parametrize(("param", "shown"), [("messages", True), ("sk-hunter2hunter2", False), ("\x1b[31m", False)])
def test_what_a_server_calls_its_parameter_is_said_where_it_is_one_of_ours(
    serve: Servers, param: str, shown: bool
) -> None:
    url, _ = serve(lambda body, number: refused(400, param=param, message="hunter2"))
    with pytest.raises(EngineError, match="refuses a request") as caught:
        write(url, jobs=1)
    assert (f"about {param!r}" in str(caught.value)) is shown
    assert "hunter2" not in str(caught.value)
