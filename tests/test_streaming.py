"""Engines that work at many requests at once: each answer is kept as it comes, whatever happens to the others."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from served import Servers, ask, engine, refused, said

from conrad_bench.engines.base import Engine, Generation, Job, Take, Ticket
from conrad_bench.engines.calls import Answered, Call
from conrad_bench.errors import EngineError
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import LOGPROBS, SAMPLING, Sampling

PROMPTS = [ask(f"Question {number}?") for number in range(23)]
WARM = Sampling(1.0, 1.0, 8)


class Typist(Engine):
    """Answers many requests at once, in a random order, with words that the seed alone determines."""

    name: ClassVar[str] = "typist"
    summary: ClassVar[str] = ""
    provides: ClassVar[frozenset[str]] = frozenset({LOGPROBS, SAMPLING})
    streaming: bool = True
    fails_at: int = -1
    """The number of answers after which it fails."""

    def identity(self) -> dict[str, str]:
        return {"model": self.model}

    def generate(self, jobs: Sequence[Job], sampling: Sampling, adapter: Path | None) -> list[Generation]:
        return [self._write(job) for job in jobs]

    def at_once(self, method: str, adapter: Path | None) -> int:
        return 7 if self.streaming else 0

    def stream(self, take: Take[Ticket]) -> Generator[tuple[Ticket, Answered], None, None]:
        if not self.streaming:
            yield from super().stream(take)
            return
        under_way: list[tuple[Ticket, Call]] = []
        order, done = random.Random(0), 0
        while True:
            while len(under_way) < 7 and (taken := take(not under_way)) is not None:
                assert len(taken[1].prompts()) == 1
                under_way.append(taken)
            if not under_way:
                return
            if done == self.fails_at:
                raise EngineError("the typist fell asleep")
            ticket, call = under_way.pop(order.randrange(len(under_way)))
            done += 1
            yield ticket, call.run(self)

    def _write(self, job: Job) -> Generation:
        drawn = random.Random(f"{job.prompt.messages[0].text} {job.seed}")
        ids = tuple(drawn.randrange(100) for _ in range(drawn.randrange(1, 9)))
        return Generation(" ".join(map(str, ids)), ids, tuple(-drawn.random() for _ in ids), "stop")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    with RolloutStore(tmp_path / "rollouts") as store:
        yield store


def rows(store: RolloutStore, model: Model) -> dict[str, Any]:
    return store.read([key for row in model.keys(PROMPTS, WARM, 3) for key in row])


def test_the_rows_are_those_of_batches(store: RolloutStore, tmp_path: Path) -> None:
    streamed = Model(Typist(model="m", batch_size=10), store, Reporter(quiet=True))
    found = streamed.sample(PROMPTS, 3, WARM)
    with RolloutStore(tmp_path / "batched") as other:
        batched = Model(Typist(model="m", batch_size=10, streaming=False), other, Reporter(quiet=True))
        assert batched.sample(PROMPTS, 3, WARM) == found
        assert rows(other, batched) == rows(store, streamed)
    assert len(list(store.folder.glob("*.parquet"))) == 7  # of 10 answers each, and the last of 9


def test_what_was_answered_before_a_failure_is_kept(store: RolloutStore) -> None:
    model = Model(Typist(model="m", fails_at=9), store, Reporter(quiet=True))
    with pytest.raises(EngineError, match="fell asleep"):
        model.sample(PROMPTS, 3, WARM)
    assert len(store) == 9
    store.close()
    with RolloutStore(store.folder) as again:
        assert len(again) == 9
        whole = Model(Typist(model="m"), again, Reporter(quiet=True))
        assert len(whole.sample(PROMPTS, 3, WARM)) == len(PROMPTS)
        assert len(again) == 3 * len(PROMPTS)


needs_openai = pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")


def asked_for(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


@needs_openai
def test_a_slow_answer_of_a_server_holds_up_no_other(serve: Servers, store: RolloutStore) -> None:
    """The first one is answered when all others are, however many batches that would be."""
    others = threading.Event()
    seen: list[str] = []

    def answer(body: dict[str, Any], _number: int) -> Any:
        seen.append(asked_for(body))
        if len(seen) == len(PROMPTS):
            others.set()
        if seen[0] == asked_for(body):
            assert others.wait(30)
        return said(asked_for(body))

    url, _ = serve(answer)
    served = engine(url, concurrency=3, batch_size=4)
    texts = [response.text for response in Model(served, store, Reporter(quiet=True)).generate(PROMPTS)]
    served.close()
    assert texts == [prompt.messages[0].text for prompt in PROMPTS]


@needs_openai
def test_requests_under_way_when_another_fails_are_still_kept(serve: Servers, store: RolloutStore) -> None:
    failed = threading.Event()
    answered: list[str] = []

    def answer(body: dict[str, Any], number: int) -> Any:
        if number == 9:
            failed.set()
            return refused(500)
        if number > 6:  # under way beside the one that fails
            failed.wait(30)
        answered.append(asked_for(body))
        return said(asked_for(body))

    url, _ = serve(answer)
    served = engine(url, concurrency=4, retries=0)
    with pytest.raises(EngineError, match=r"\(500"):
        Model(served, store, Reporter(quiet=True)).generate(PROMPTS)
    served.close()
    assert len(store) == len(answered) < len(PROMPTS)


KILLED = """
import sys
from pathlib import Path
from served import ask, engine
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore

store = RolloutStore(Path(sys.argv[1]))
Model(engine(sys.argv[2], concurrency=4), store, Reporter(quiet=True)).generate([ask(str(n)) for n in range(60)])
"""


@needs_openai
def test_a_process_that_is_killed_loses_nothing_that_was_answered(serve: Servers, tmp_path: Path) -> None:
    held = threading.Event()
    url, _ = serve(lambda body, number: said(asked_for(body)) if number <= 21 else held.wait(30) and said("late"))
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "rollouts"), url]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(arguments, env=environment) as process:
        journal = tmp_path / "rollouts" / ".journal"
        blocks = 0
        while blocks < 21:  # the last answers are on their way while the next requests are held
            time.sleep(0.05)
            assert process.poll() is None
            blocks = journal.read_bytes().count(b"rollouts 1") if journal.exists() else 0
        process.send_signal(signal.SIGKILL)
    held.set()
    with RolloutStore(tmp_path / "rollouts") as store:
        assert store.counts() == {"generate": 21}
