"""A Ray cluster of two nodes that is joined by its address; one of them is lost on the way.

Both nodes are processes of this machine, or hosts with addresses of their own (`hosts.py`), one of which is unplugged.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import two_hosts
from test_cluster import WORKER, ask, calls
from test_cluster import pytestmark as pytestmark

from conrad_bench.cluster.cluster import Cluster
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore

RAY = Path(sys.executable).with_name("ray")


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill what keeps a node, and the node."""
    for each in (*children(process.pid), process.pid):
        os.kill(each, signal.SIGKILL)
    process.wait()


@contextmanager
def node(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a node with a CPU, and kill it at the end."""
    with open(log, "wb") as said:
        process = subprocess.Popen([*command, "--num-cpus=1", "--block"], stdout=said, stderr=said)
        try:
            until = time.monotonic() + 60
            while "--block" not in log.read_text() and time.monotonic() < until:
                time.sleep(0.2)
            yield process
        finally:
            if process.poll() is None:
                end(process)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for Ray that is short enough for its sockets, and the environment of its nodes."""
    if not RAY.is_file():
        pytest.skip("ray is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", os.urandom(32).hex())
    found = Path(tempfile.mkdtemp(dir="/tmp"))
    yield found
    shutil.rmtree(found)


def head(folder: Path, port: int) -> list[str]:
    """Return the command that starts the head, its folder below one that only we may enter."""
    where = [f"--port={port}", f"--temp-dir={folder / 'ray'}"]
    return [str(RAY), "start", "--head", *where, "--include-dashboard=false", "--disable-usage-stats"]


def test_the_other_nodes_finish_what_a_lost_one_was_at(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    with (
        node(head(folder, int(address.partition(":")[2])), tmp_path / "head.log"),
        node([str(RAY), "start", f"--address={address}"], tmp_path / "node.log") as second,
    ):
        # In a process of its own: Ray keeps the token that a process first had.
        check([sys.executable, __file__, address, str(tmp_path)], tmp_path, lambda: end(second))


def test_a_host_is_unplugged_and_the_other_finishes_what_it_was_at(folder: Path, tmp_path: Path) -> None:
    with two_hosts() as hosts:
        one, two = hosts.addresses
        first = hosts.command(0, [*head(folder, 6379), f"--node-ip-address={one}"])
        other = [str(RAY), "start", f"--address={one}:6379", f"--node-ip-address={two}"]
        with node(first, tmp_path / "head.log"), node(hosts.command(1, other), tmp_path / "node.log"):
            run = hosts.command(0, [sys.executable, __file__, f"{one}:6379", str(tmp_path)])
            check(run, tmp_path, hosts.unplug)


def check(command: list[str], folder: Path, lose: Callable[[], object]) -> None:
    """Run `lose_a_node` in a process, and lose one when it asks for that."""
    with open(folder / "errors", "w+") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors)
        until = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < until:
            if (folder / "ready").exists():
                lose()
                (folder / "ready").rename(folder / "lost")
            time.sleep(0.1)
        process.kill()
        assert process.wait() == 0, (folder / "errors").read_text()


def lose_a_node(address: str, folder: Path) -> None:
    """Join the cluster, have the second node lost in the middle of a request, and get every answer once."""
    plugin, log = folder / "worker.py", folder / "worker.log"
    plugin.write_text(WORKER)
    engine = Registry([plugin]).create("engines", "worker", {"log": log, "batch_size": 2})
    with RolloutStore(folder / "rollouts") as store, Cluster(address, plugins=[plugin]) as cluster:
        assert str(cluster.share) == "2 replicas with 1 CPU each"
        model = Model(engine, store, Reporter(quiet=True), pool=cluster)
        asked, processes = 0, set[int]()
        while len(processes) < 2:  # a replica may begin late
            assert asked < 400
            model.generate(ask(*(f"{asked + n} of the first" for n in range(8))))
            asked, processes = asked + 8, {process for process, _ in calls(log)}
        texts = [f"{n} of the second" for n in range(100)]
        (folder / "ready").touch()
        began = time.monotonic()
        assert [response.text for response in model.generate(ask(*texts))] == [f"{text}!" for text in texts]
        assert (folder / "lost").exists()
        print(f"the other answered all after {time.monotonic() - began:.0f} s")
        assert len(store) == asked + 100


if __name__ == "__main__":
    lose_a_node(sys.argv[1], Path(sys.argv[2]))
