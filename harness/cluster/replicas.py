"""Replicas: copies of an engine in worker processes on Ray, which answer calls until they are closed.

A replica makes the engine anew from its name and options (no weights travel) and loads the model with its first batch.
It stays from one request to the next, so a model is loaded once, and vLLM compiles once. It has as many calls at hand
as its engine works at, and some in advance. A worker that dies is replaced, and the calls that it was at go to the next
replica that is free.

Images, adapters and local checkpoints travel as paths: the nodes of a cluster need the same file system.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Self

from conrad_bench.errors import ConradBenchError, EngineError
from conrad_bench.registry import Registry
from conrad_bench.version import __version__

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.engines.calls import Answered, Call

RETRIES = 3
"""How often a batch or a training is tried again whose worker died, before it fails."""

_BATCHES = 2
"""Batches that a replica has at hand: the one that it is at, and the next."""

_AHEAD = 32
"""Calls that a replica has in advance where its engine works at many of one prompt."""

_TELL = 20.0
_WAIT = 900.0
"""Seconds without a replica after which it is said what Ray waits for, and those after which that is an error."""

_PATIENCE = 30.0
"""Seconds that replicas have to give back their devices before they are ended."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a worker needs to make a replica of an engine."""

    name: str
    options: dict[str, Any]
    identity: dict[str, str]
    plugins: tuple[Path, ...]
    folder: str
    """The working directory that relative paths start from."""
    version: str

    def make(self) -> Engine:
        """Return the engine. Raises EngineError if it would give other answers here than the run's keys say."""
        if self.version != __version__:
            raise EngineError(f"a node has conrad-bench {__version__}, this run {self.version}; install the same there")
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise EngineError(
                f"a node cannot open the folder {self.folder} ({error.strerror}); the nodes of a cluster need the same "
                "file system as the process that starts the run"
            ) from error
        engine = Registry(self.plugins).create("engines", self.name, self.options)
        found = engine.identity()
        different = sorted(key for key in found | self.identity if found.get(key) != self.identity.get(key))
        if different:
            said = "; ".join(f"{key}: {found.get(key)} there, {self.identity.get(key)} here" for key in different)
            raise EngineError(
                f"a replica would not run the model as this process says ({said}); set the options of engine "
                f"{self.name!r} that are left to the machine, such as dtype, or start the run on a node like the others"
            )
        return engine


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in a worker, as it is raised in the process that asked. Ray's own would carry the batch's text."""

    kind: type[ConradBenchError]
    text: str
    unforeseen: bool

    @classmethod
    def of(cls, error: Exception, where: str, kind: type[ConradBenchError] = EngineError) -> Self:
        """Return what may be said of an error. Not the message of one that is not our own: it could quote a report."""
        if isinstance(error, ConradBenchError):
            return cls(type(error), str(error), False)
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"unexpected {type(error).__name__} {where} ({last.filename}, line {last.lineno})"
        return cls(kind, f"{text}; a run without --ray shows more", True)

    def error(self) -> ConradBenchError:
        """Return it as an exception."""
        return self.kind(self.text)


class _Replica:
    """One copy of the engine, in a worker process. Ray calls `answer` in many threads, the engine works in one."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._engine: Engine | None = None
        self._asked: SimpleQueue[tuple[Future[bytes], bytes]] = SimpleQueue()
        self._at: set[Future[bytes]] = set()  # what the engine has taken
        self._lock = Lock()
        self._thread: Thread | None = None

    def answer(self, call: bytes) -> bytes:
        """Return the pickled result of a pickled call, or a Failure."""
        answer: Future[bytes] = Future()
        with self._lock:
            self._asked.put((answer, call))
            if self._thread is None:
                self._thread = Thread(target=self._work, daemon=True)
                self._thread.start()
        return answer.result()

    def close(self) -> None:
        """Let go of the model and its devices."""
        if self._engine is not None:
            self._engine.close()

    def _work(self) -> None:
        """Let the engine answer what is asked, for as long as it does not fail."""
        try:
            if self._engine is None:
                self._engine = self._recipe.make()  # and with it the plugins, which the calls may be made of
            for answer, result in self._engine.stream(self._take):
                self._at.discard(answer)
                answer.set_result(pickle.dumps(result))
        except Exception as error:
            failure = pickle.dumps(Failure.of(error, f"in a replica of engine {self._recipe.name!r}"))
            with self._lock:  # those who ask later start anew
                while not self._asked.empty():
                    self._at.add(self._asked.get()[0])
                self._thread = None
            for answer in self._at:
                answer.set_result(failure)
            self._at.clear()

    def _take(self, wait: bool) -> tuple[Future[bytes], Call] | None:
        try:
            answer, call = self._asked.get(block=wait)
        except Empty:
            return None
        self._at.add(answer)
        return answer, pickle.loads(call)


@dataclass(slots=True)
class _Worker:
    """A replica as this process sees it."""

    handle: Any
    ready: Any
    """Ray's reference to the end of its start, or None once it has started."""
    at: dict[Any, int] = field(default_factory=dict)
    """The calls that it was handed and has not answered: their indices by Ray's references."""

    def awaited(self) -> list[Any]:
        """Return the references that it will answer."""
        return [self.ready] if self.ready is not None else list(self.at)


class Replicas:
    """The replicas of one engine, started when there is work for them."""

    def __init__(self, recipe: Recipe, cpus: int, gpus: float, at_once: int, say: Callable[[str], None]) -> None:
        """Describe them, each with its CPUs and GPUs (or a part of one); nothing is started.

        `at_once` is the highest number of calls that the engine works at, `say` tells the user what is waited for.
        """
        self.recipe = recipe
        self.cpus = cpus
        self.gpus = gpus
        self._threads = max(at_once + _AHEAD, _BATCHES) + 1
        self._say = say
        self._workers: list[_Worker] = []

    def run(self, calls: Sequence[Call], size: int, at_once: int = 0) -> Generator[tuple[int, Answered], None, None]:
        """Yield (index, result) of each call as soon as one of `size` replicas has answered it, in any order.

        `at_once` is the number of these calls that the engine works at; 0: one after the other. Errors of conrad-bench
        that a replica meets are raised here with their class and text. Raises EngineError for any other, if replicas
        keep dying, and if Ray has no room for one for a quarter of an hour. After an error, or if it is left early, the
        replicas are gone.
        """
        import ray

        finished = False
        at_hand = at_once + _AHEAD if at_once else _BATCHES
        waiting, tries, left = deque(range(len(calls))), Counter[int](), len(calls)
        began, told = time.monotonic(), _TELL
        try:
            while len(self._workers) < min(size, len(calls)):
                self._start()
            while left:
                self._hand_out(calls, waiting, at_hand)
                of = {reference: worker for worker in self._workers for reference in worker.awaited()}
                none_started = all(worker.ready is not None for worker in self._workers)
                done, _ = ray.wait(list(of), num_returns=1, timeout=_TELL if none_started else None)
                if not done and none_started:
                    told = self._tell(time.monotonic() - began, told)
                    continue
                more, _ = ray.wait(list(of), num_returns=len(of), timeout=0)
                for reference in more or done:
                    worker = of[reference]
                    if worker not in self._workers:
                        continue
                    try:
                        outcome = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise EngineError(self._explain(error)) from error
                    except ray.exceptions.RayError as error:  # it died, or its node was lost
                        tries.update(worker.at.values() or [-1])
                        if max(tries.values()) > RETRIES or getattr(error, "actor_init_failed", False):
                            raise EngineError(self._explain(error)) from error
                        waiting.extendleft(reversed(worker.at.values()))
                        self._workers.remove(worker)
                        ray.kill(worker.handle)
                        self._start()
                        began, told = time.monotonic(), _TELL
                        continue
                    if reference == worker.ready:
                        worker.ready = None
                        continue
                    index = worker.at.pop(reference)
                    result = pickle.loads(outcome)
                    if isinstance(result, Failure):
                        raise result.error()
                    left -= 1
                    yield index, result
            finished = True
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """End the processes, those that are at work without waiting for them."""
        import ray

        idle = [worker.handle.close.remote() for worker in self._workers if not worker.awaited()]
        if idle:
            ray.wait(idle, num_returns=len(idle), timeout=_PATIENCE)
        for worker in self._workers:
            ray.kill(worker.handle)
        self._workers = []

    def _start(self) -> None:
        import ray

        actor = ray.remote(_Replica).options(
            num_cpus=self.cpus, num_gpus=self.gpus or None, max_concurrency=self._threads
        )
        handle = actor.remote(self.recipe)
        self._workers.append(_Worker(handle, handle.__ray_ready__.remote()))

    def _hand_out(self, calls: Sequence[Call], waiting: deque[int], at_hand: int) -> None:
        """Give calls to the replicas that have started, in turns: those that have least first, up to `at_hand` each.

        Of the last ones each gets its part: none has calls in advance while another has nothing to do.
        """
        started = [worker for worker in self._workers if worker.ready is None]
        if not started:
            return
        left = len(waiting) + sum(len(worker.at) for worker in started)
        most = min(at_hand, -(-left // len(started)))
        for worker in sorted(started, key=lambda worker: len(worker.at)):
            while waiting and len(worker.at) < most:
                index = waiting.popleft()
                worker.at[worker.handle.answer.remote(pickle.dumps(calls[index]))] = index

    def _tell(self, waited: float, told: float) -> float:
        """Say what Ray waits for, now and then; return after how many seconds it will be said again.

        Raises EngineError when it has waited too long.
        """
        import ray

        has = ray.available_resources()
        free = f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
        needs = f"{self.gpus:g} GPUs and a CPU" if self.gpus else f"{self.cpus} CPUs"
        what = f"a replica of engine {self.recipe.name!r} needs {needs} on one node; free on the whole cluster: {free}"
        if waited > _WAIT:
            raise EngineError(
                f"Ray has had no room for {waited / 60:.0f} minutes ({what}); end what else runs there, or wait: "
                "what was finished is kept, and the same command continues"
            )
        if waited < told:
            return told
        self._say(f"waiting for Ray: {what}; gives up {(_WAIT - waited) / 60:.0f} minutes from now")
        return 2 * waited

    def _explain(self, error: Exception) -> str:
        """Say what an error of Ray means for the run."""
        from ray.exceptions import RayActorError

        name = self.recipe.name
        kept = "what was finished is kept, and the same command continues"
        if isinstance(error, RayActorError) and not error.actor_init_failed:
            return (
                f"replicas of engine {name!r} died {RETRIES + 1} times over: the system killed them, for want of "
                f"memory in most cases; lower {name}.batch_size or --replicas; {kept}"
            )
        return (
            f"Ray could not run replicas of engine {name!r} ({type(error).__name__}); every node needs the same "
            f"Python with conrad-bench {__version__} and the engine's packages; {kept}"
        )
