"""Replicas: copies of an engine in worker processes on Ray, which answer batches until they are closed.

A replica makes the engine anew from its name and options (no weights travel) and loads the model with its first batch.
It stays from one request to the next, so a model is loaded once, and vLLM compiles once. A worker that dies is
replaced, and the batch that it was at goes to the next replica that is free.

Images, adapters and local checkpoints travel as paths: the nodes of a cluster need the same file system.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from conrad_bench import __version__
from conrad_bench.errors import ConradBenchError, EngineError
from conrad_bench.registry import Registry

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.engines.calls import Answered, Call

RETRIES = 3
"""How often a batch or a training is tried again whose worker died, before it fails."""

_AHEAD = 2
"""Batches that a replica has at hand: the one that it is at, and the next."""

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
    """One copy of the engine, in a worker process."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._engine: Engine | None = None

    def answer(self, call: bytes) -> bytes:
        """Return the pickled result of a pickled call, or a Failure."""
        outcome: Any
        try:
            if self._engine is None:
                self._engine = self._recipe.make()  # and with it the plugins, which the call may be made of
            asked: Call = pickle.loads(call)
            outcome = asked.run(self._engine)
        except Exception as error:
            outcome = Failure.of(error, f"in a replica of engine {self._recipe.name!r}")
        return pickle.dumps(outcome)

    def close(self) -> None:
        """Let go of the model and its devices."""
        if self._engine is not None:
            self._engine.close()


@dataclass(slots=True)
class _Worker:
    """A replica as this process sees it."""

    handle: Any
    ready: Any
    """Ray's reference to the end of its start, or None once it has started."""
    at: deque[tuple[Any, int]] = field(default_factory=deque)
    """References and indices of the calls that it was handed, oldest first."""

    def next(self) -> Any:
        """Return the reference that it will answer next, or None."""
        return self.ready if self.ready is not None else self.at[0][0] if self.at else None


class Replicas:
    """The replicas of one engine, started when there is work for them."""

    def __init__(self, recipe: Recipe, cpus: int, gpus: float) -> None:
        """Describe them, each with its CPUs and GPUs (or a part of one); nothing is started."""
        self.recipe = recipe
        self.cpus = cpus
        self.gpus = gpus
        self._workers: list[_Worker] = []

    def run(self, calls: Sequence[Call], size: int) -> Generator[tuple[int, Answered], None, None]:
        """Yield (index, result) of each call as soon as one of `size` replicas has answered it, in any order.

        Errors of conrad-bench that a replica meets are raised here with their class and text. Raises EngineError for
        any other, and if replicas keep dying. After an error, or if it is left early, the replicas are gone.
        """
        import ray

        finished = False
        waiting, tries, left = deque(range(len(calls))), Counter[int](), len(calls)
        try:
            while len(self._workers) < min(size, len(calls)):
                self._start()
            while left:
                self._hand_out(calls, waiting)
                at = {worker.next(): worker for worker in self._workers if worker.next() is not None}
                done = ray.wait(list(at), num_returns=1)[0][0]
                worker = at[done]
                try:
                    outcome = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise EngineError(self._explain(error)) from error
                except ray.exceptions.RayError as error:  # it died, or its node was lost
                    index = worker.at[0][1] if worker.at else -1
                    tries[index] += 1
                    if tries[index] > RETRIES or getattr(error, "actor_init_failed", False):
                        raise EngineError(self._explain(error)) from error
                    waiting.extendleft(index for _, index in reversed(worker.at))
                    self._workers.remove(worker)
                    ray.kill(worker.handle)
                    self._start()
                    continue
                if done == worker.ready:
                    worker.ready = None
                    continue
                _, index = worker.at.popleft()
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

        idle = [worker.handle.close.remote() for worker in self._workers if worker.next() is None]
        if idle:
            ray.wait(idle, num_returns=len(idle), timeout=_PATIENCE)
        for worker in self._workers:
            ray.kill(worker.handle)
        self._workers = []

    def _start(self) -> None:
        import ray

        handle = ray.remote(_Replica).options(num_cpus=self.cpus, num_gpus=self.gpus or None).remote(self.recipe)
        self._workers.append(_Worker(handle, handle.__ray_ready__.remote()))

    def _hand_out(self, calls: Sequence[Call], waiting: deque[int]) -> None:
        """Give calls to the replicas that have started: one each, and another in advance while there are many."""
        started = [worker for worker in self._workers if worker.ready is None]
        for ahead in range(_AHEAD):
            for worker in started:
                if len(worker.at) == ahead and len(waiting) > ahead * len(started):
                    index = waiting.popleft()
                    worker.at.append((worker.handle.answer.remote(pickle.dumps(calls[index])), index))

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
