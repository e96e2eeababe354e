"""Ray Train: one training on several workers, each with a GPU of its own, or with CPUs where there are none.

A worker gets the engine's recipe, the trainer (a function) and its data, loads the torch model, and finds torch's
process group made. What belongs to the process that runs conrad-bench stays there: rewards and the display of progress
are asked for through a desk, an actor that passes calls from the workers to this process and the results back.

A training whose worker died is begun again, on all workers; the trainer itself goes on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from conrad_bench.cluster.replicas import RETRIES, Failure, Recipe
from conrad_bench.cluster.shares import Share
from conrad_bench.errors import TrainingError
from conrad_bench.rollouts.protocols import Reporter

_PAUSE = 0.2
"""Seconds after which it is looked whether the training has ended, while no worker calls."""

_GRACE = 15.0
"""Seconds that a worker waits with an unforeseen error: if another worker's death caused it, Ray sees that first."""

_PATIENCE = 7 * 24 * 3600
"""Seconds that workers wait for each other: as long as a judge may take. Ray notices when one has died."""


def train_on_ray(
    recipe: Recipe,
    share: Share,
    trainer: Callable[..., None],
    data: Mapping[str, Any],
    calls: Mapping[str, Callable[..., Any]],
    reporter: Reporter,
) -> None:
    """Run `trainer(torch_model=..., processor=..., stage=..., **data, **calls)` on the workers of a share.

    `data` travel, `calls` are functions of this process. Errors of conrad-bench that a worker meets are raised here
    with their class and text, and whatever a call raises. Raises TrainingError for others, and if workers keep dying.
    """
    import ray
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for name in ("ray.train", "ray.data"):  # what Ray prints of a failure could quote a prompt
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    work = ray.put(ray.cloudpickle.dumps((trainer, dict(data), sorted(calls))))
    # The desk must not be lost with another node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    for attempt in itertools.count(1):
        desk = ray.remote(num_cpus=0, scheduling_strategy=here)(_Desk).remote()
        try:
            with ExitStack() as stages:
                run = _Run(partial(_fit, share, {"recipe": recipe, "work": work, "desk": desk}))
                _serve(desk, run, calls, reporter, stages)
                if run.error is None:
                    return
                failure = ray.get(desk.failure.remote())
                if failure is not None:
                    raise failure.error()
                if not isinstance(run.error, (WorkerGroupError, RayActorError)):  # Ray's own actor can be lost, too
                    raise TrainingError(f"Ray could not run the training ({type(run.error).__name__})") from run.error
                if attempt > RETRIES:  # no worker said why it ended: one was killed, or its node was lost
                    raise TrainingError(
                        f"training workers died {attempt} times over: the system killed them, for want of memory in "
                        "most cases; lower the method's batch_size, or --train-workers; what was finished is kept, and "
                        "the same command continues"
                    )
        finally:
            ray.kill(desk)


def _fit(share: Share, config: dict[str, Any]) -> None:
    """Run the training once. Ray itself repeats nothing: it would repeat our own errors, too."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})}
    with tempfile.TemporaryDirectory() as folder:  # Ray's own bookkeeping, by default in the home folder
        TorchTrainer(
            _work,
            train_loop_config=config,
            torch_config=TorchConfig(timeout_s=_PATIENCE),
            scaling_config=ScalingConfig(
                num_workers=share.replicas, use_gpu=share.gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=0)),
        ).fit()


class _Run:
    """A function that runs in a thread, and the exception that it ended with. A process that ends does not wait for it.

    Ray Train would take over Ctrl-C in the main thread, which here is busy with the workers' calls.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except Exception as error:
            self.error = error

    @property
    def ended(self) -> bool:
        """Whether the function has returned or failed."""
        return not self._thread.is_alive()


def _serve(
    desk: Any, run: _Run, calls: Mapping[str, Callable[..., Any]], reporter: Reporter, stages: ExitStack
) -> None:
    """Answer the workers' calls until the training has ended; raise what a call raises, once it has."""
    import ray

    known = dict(calls)
    raised: Exception | None = None
    waiting = desk.next.remote()
    while not run.ended or ray.wait([waiting], timeout=0)[0]:
        if not ray.wait([waiting], timeout=_PAUSE)[0]:
            continue
        number, name, arguments = ray.get(waiting)
        waiting = desk.next.remote()
        answer: Any = None
        try:
            if name == "begin":
                stages.close()
                known["advance"] = stages.enter_context(reporter.stage(*arguments))
            else:
                answer = known[name](*arguments)
        except Exception as error:
            raised = raised or error
            answer = Failure.of(error, f"in {name!r}")
        desk.answer.remote(number, answer)
    if raised is not None:
        raise raised


class _Desk:
    """An actor that passes calls from the workers to the process that trains."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[tuple[int, str, tuple[Any, ...]]] = asyncio.Queue()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._failure: Failure | None = None
        self._numbers = itertools.count()

    async def call(self, name: str, *arguments: Any) -> Any:
        """Return the result of a call, once it was answered."""
        number = next(self._numbers)
        self._open[number] = asyncio.get_running_loop().create_future()
        await self._calls.put((number, name, arguments))
        return await self._open[number]

    async def next(self) -> tuple[int, str, tuple[Any, ...]]:
        """Return the next call: its number, the function's name, and its arguments."""
        return await self._calls.get()

    async def answer(self, number: int, result: Any) -> None:
        """Give the result of a call."""
        self._open.pop(number).set_result(result)

    async def fail(self, failure: Failure) -> None:
        """Note why the training cannot go on: the first reason."""
        self._failure = self._failure or failure

    async def failure(self) -> Failure | None:
        """Return why the training could not go on."""
        return self._failure


class _StoppedError(Exception):
    """Ends a worker whose error the desk knows. It carries nothing, since Ray writes it to its log files."""


def _work(config: dict[str, Any]) -> None:
    """Train, in a worker process."""
    import ray
    import torch

    desk = config["desk"]

    def call(name: str, *arguments: Any) -> Any:
        result = ray.get(desk.call.remote(name, *arguments))
        if isinstance(result, Failure):
            raise result.error()
        return result

    failure: Failure | None = None
    try:
        engine = config["recipe"].make()  # and with it the plugins, which the data may be made of
        trainer, data, names = ray.cloudpickle.loads(ray.get(config["work"]))
        if torch.cuda.is_available():
            import ray.train.torch

            torch.cuda.set_device(ray.train.torch.get_device())
        torch_model, processor = engine.torch_model()
        calls = {name: partial(call, name) for name in names}
        stage = partial(_stage, call if torch.distributed.get_rank() == 0 else None)
        trainer(torch_model=torch_model, processor=processor, stage=stage, **data, **calls)
    except Exception as error:
        failure = Failure.of(error, "in a training worker", TrainingError)
    if failure is not None:
        if failure.unforeseen and torch.distributed.get_world_size() > 1:
            time.sleep(_GRACE)
        ray.get(desk.fail.remote(failure))
        raise _StoppedError


@contextmanager
def _stage(call: Callable[..., Any] | None, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Report progress to the process that runs conrad-bench; only one of the workers does."""
    if call is None:
        yield lambda steps: None
    else:
        call("begin", label, total)
        yield partial(call, "advance")
