"""Ray: what of a cluster goes to replicas of the engine, and what to trainings, on one machine or several."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from conrad_bench.cluster.folder import private_folder
from conrad_bench.cluster.replicas import Recipe, Replicas
from conrad_bench.cluster.shares import Share, allot, room
from conrad_bench.cluster.training import train_on_ray
from conrad_bench.cluster.turns import Turns
from conrad_bench.cluster.watch import Watch
from conrad_bench.errors import ConfigError, EngineError, MissingExtra
from conrad_bench.version import __version__

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.engines.calls import Answered, Call
    from conrad_bench.rollouts.protocols import Reporter

LOCAL = "local"
"""The address that starts Ray on this machine, for this process alone."""

_OBJECT_STORE = 512 * 2**20
"""Bytes of shared memory for a local Ray: prompts and answers are small, images are read where they are needed."""


class Cluster:
    """A `conrad_bench.rollouts.model.Pool` of replicas on Ray, started or joined by `with` and left at its end."""

    share: Share
    """The replicas, once Ray was started or joined."""
    training: Share
    """The workers of a training, while no replicas are at work."""

    def __init__(
        self,
        address: str,
        replicas: int | None = None,
        gpus_per_replica: float = 1,
        plugins: Sequence[Path] = (),
        train_workers: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        """Describe the cluster; nothing is started, and ray is not imported.

        `address` is `LOCAL`, or what `ray.init` takes to join a cluster that runs: "auto", or host:port. `plugins` are
        the plugin files of this run, which every replica loads too. Each of the `train_workers` has one GPU, where
        there are GPUs. `say` tells the user what a busy cluster lets wait. Raises MissingExtra without ray, ConfigError
        for values that Ray cannot use.
        """
        if find_spec("ray") is None:
            raise MissingExtra('--ray needs Ray: pip install "conrad-bench[ray]"')
        if "://" in address:
            raise ConfigError(
                f"--ray {address}: Ray's client protocol is not supported; run the command on a node of the cluster "
                "with --ray auto"
            )
        if replicas is not None and replicas < 1:
            raise ConfigError(f"--replicas {replicas}: should be at least 1, or auto")
        if gpus_per_replica <= 0 or (gpus_per_replica > 1 and gpus_per_replica != int(gpus_per_replica)):
            raise ConfigError(f"--gpus-per-replica {gpus_per_replica:g}: should be a part of 1 or a whole number")
        if train_workers < 1:
            raise ConfigError(f"--train-workers {train_workers}: should be at least 1")
        self.address = address
        self._replicas = replicas
        self.train_workers = train_workers
        self._nodes: list[Mapping[str, float]] = []
        self._trainings: list[Share] = []  # those at work
        self._turns = Turns()
        self._pool: Replicas | None = None
        self._folder = ExitStack()
        self._gpus = gpus_per_replica
        self._say = say
        self._plugins = tuple(path.absolute() for path in plugins)

    def __enter__(self) -> Self:
        """Start or join Ray. Raises ConfigError if that fails, or if there is too little room for the replicas."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # nor may a fit start Ray anew whose run was interrupted
        if self.address == LOCAL and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            # Ray's ports are open to the network. With a token of our own Ray does not leave one in the home folder.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with _silent_stderr():  # Ray's C++ part says there that it was told to be silent
            import ray

        try:
            with _silent_stderr(), _own_sigterm():
                ray.init(
                    address=self.address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=_OBJECT_STORE if self.address == LOCAL else None,
                    _temp_dir=str(self._folder.enter_context(private_folder())) if self.address == LOCAL else None,
                )
            nodes = [node for node in ray.nodes() if node["Alive"]]
            self._nodes = [node["Resources"] for node in nodes]
            self.share = allot(self._nodes, self._replicas, self._gpus)
            self.training = allot(self._nodes, self.train_workers, 1, "training worker", "lower --train-workers")
            self._watch = Watch(_parts(nodes))
        except BaseException as error:
            ray.shutdown(wait_for_processes=True)
            self._folder.close()
            if isinstance(error, SystemExit):  # Ray's own handler of SIGTERM, while it starts
                raise KeyboardInterrupt from error
            if isinstance(error, Exception) and not isinstance(error, ConfigError):
                raise ConfigError(f"--ray {self.address}: {error}") from error
            raise
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave Ray, and end what was started: the replicas of this run, and a local Ray.

        Raises EngineError if a part of Ray died, which has interrupted what was at work.
        """
        import ray

        dead = self._watch.stop()
        if dead is None:
            self._end_replicas()
        left = [] if dead is None or self.address != LOCAL else list(_started(os.getpid()))
        ray.shutdown(wait_for_processes=True)
        for process in left:  # without a head, Ray's agents do not hear that all is over
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._folder.close()
        if dead is not None:
            raise EngineError(
                f"Ray cannot go on: {dead} died or cannot be reached; what was finished is kept, and the same command "
                "continues"
            ) from error

    def run(self, engine: Engine, calls: Sequence[Call]) -> Generator[tuple[int, Answered], None, None]:
        """Yield (index, result) of each call as soon as a replica of the engine has answered it, in any order.

        `engine` itself loads nothing. The replicas stay for the next request, until another engine is asked or a
        training begins. Raises what `conrad_bench.cluster.replicas.Replicas.run` raises.
        """
        share, recipe = self._replicas_now(), self._recipe(engine)
        pool = self._pool
        if pool is None or (pool.recipe, pool.cpus, pool.gpus) != (recipe, share.cpus, share.gpus):
            self._end_replicas()
            pool = self._pool = Replicas(recipe, share.cpus, share.gpus, engine.at_once("generate", None), self._say)
        at_once = engine.at_once(calls[0].method, calls[0].adapter) if calls else 0
        yield from pool.run(calls, share.replicas, at_once)

    def train(
        self,
        engine: Engine,
        trainer: Callable[..., None],
        data: Mapping[str, Any],
        calls: Mapping[str, Callable[..., Any]],
        reporter: Reporter,
    ) -> None:
        """Train on the workers of `training`, once they have room; see `conrad_bench.cluster.training.train_on_ray`."""
        share = self.training
        if self._turns.taken():
            self._turns.wait_for(lambda: room(self._free(), share.cpus, share.gpus) >= share.replicas)
        self._end_replicas()
        self._trainings.append(share)
        try:
            with self._turns.aside():
                train_on_ray(self._recipe(engine), share, trainer, data, calls, reporter)
        finally:
            self._trainings.remove(share)

    def side_by_side(self, fits: Sequence[Callable[[], object]]) -> list[Exception | None]:
        """Run fits and return the error that each ended with. While one trains here, the next ones go on.

        They answer their requests one after another, in their order, on what the trainings at work leave free. A fit
        whose training itself asks for answers must not be among them: it could wait for another such one for ever.
        """
        return self._turns.run(fits)

    def _end_replicas(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _recipe(self, engine: Engine) -> Recipe:
        return Recipe(engine.name, engine.model_dump(), engine.identity(), self._plugins, os.getcwd(), __version__)

    def _replicas_now(self) -> Share:
        """Return the replicas that can work now: all, or those that have room beside the trainings at work.

        A fit waits until one has. A training that asks would wait for itself: raises ConfigError.
        """
        if self._turns.taken():
            self._turns.wait_for(lambda: self._beside_trainings() is not None)
        share = self._beside_trainings()
        if share is None:
            raise ConfigError("a judge of rollouts needs room for a replica beside the training: lower --train-workers")
        return share

    def _beside_trainings(self) -> Share | None:
        """Return the replicas that have room beside the trainings at work, or None."""
        free, gpus = self._free(), self.share.gpus
        for cpus in (self.share.cpus, 1):
            replicas = min(self.share.replicas, room(free, cpus, gpus))
            if replicas:
                return Share(replicas, cpus, gpus)
        return None

    def _free(self) -> Sequence[Mapping[str, float]]:
        """Return the resources of the nodes without those of the trainings at work, a node filled before the next."""
        free = [dict(node) for node in self._nodes]
        for share in self._trainings:
            for _ in range(share.replicas):
                node = next(node for node in free if room([node], share.cpus, share.gpus))
                node["CPU"] -= share.cpus
                node["GPU"] = node.get("GPU", 0) - share.gpus
        return free


def _parts(nodes: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    """Return where the parts of Ray listen that this process depends on."""
    import ray

    context = ray.get_runtime_context()
    (here,) = (node for node in nodes if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    return {
        f"its head (gcs_server on {host})": (host.strip("[]"), int(port)),
        "its part on this machine (raylet)": (here["NodeManagerAddress"], here["NodeManagerPort"]),
    }


def _started(parent: int) -> Iterator[int]:
    """Yield the processes of Ray that a process has started, and those that they have."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            with suppress(OSError):  # it has just ended
                if Path(f"/proc/{child}/comm").read_text().startswith(("ray", "gcs_server")):
                    yield child
                yield from _started(child)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray's would write a dump of C++ and end the program in a way of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # another one may not set it, and Ray's does not
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send what is written to the process's standard error, by C++ too, nowhere."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(nowhere)
        os.close(saved)
