"""A Ray cluster of two nodes, both on this machine, that is joined by its address; one of them is lost on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
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


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start two nodes with a CPU each, and return the address of the first and the process that keeps the second."""
    if not RAY.is_file():
        pytest.skip("ray is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", os.urandom(32).hex())
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    first = ["--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", "--disable-usage-stats"]
    started = []
    with open(tmp_path / "ray.log", "wb") as log:
        for where in (first, [f"--address={address}"]):
            command = [str(RAY), "start", *where, "--num-cpus=1", "--block"]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
            until = time.monotonic() + 60
            while (tmp_path / "ray.log").read_text().count("--block") < len(started) and time.monotonic() < until:
                time.sleep(0.2)
        yield address, started[1]
        for process in started:
            for each in (*children(process.pid), process.pid):
                os.kill(each, signal.SIGKILL)
            process.wait()


def test_the_other_nodes_finish_what_a_lost_one_was_at(
    nodes: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    # In a process of its own: Ray keeps the token that a process first had.
    address, second = nodes
    command = [sys.executable, __file__, address, str(second.pid), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr


def lose_a_node(address: str, second: int, folder: Path) -> None:
    """Join the cluster, kill the second node between two requests, and get every answer once."""
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
        for process in children(second):
            os.kill(process, signal.SIGKILL)
        texts = [f"{n} of the second" for n in range(8)]
        assert [response.text for response in model.generate(ask(*texts))] == [f"{text}!" for text in texts]
        assert len(store) == asked + 8


if __name__ == "__main__":
    lose_a_node(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
