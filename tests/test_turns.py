"""Fits side by side: one at a time in this process, together on the cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_cluster import ask
from test_cluster import pytestmark as pytestmark

from conrad_bench.cluster.cluster import LOCAL, Cluster
from conrad_bench.cluster.turns import Turns
from conrad_bench.engines.base import Engine
from conrad_bench.errors import TrainingError
from conrad_bench.progress import NamedReporter, Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore


def test_the_next_job_begins_when_one_steps_aside_and_one_works_at_a_time() -> None:
    turns, seen, gone_on = Turns(), [], threading.Event()

    def first() -> None:
        seen.append("first asks")
        with turns.aside():
            gone_on.wait(10)
            seen.append("first trains")
        seen.append("first writes")

    def second() -> None:
        seen.append("second asks")
        gone_on.set()
        with pytest.raises(ZeroDivisionError), turns.aside():
            raise ZeroDivisionError
        seen.append("second writes")
        raise TrainingError("the second")

    def third() -> None:
        assert turns.taken()
        seen.append("third asks")

    found = turns.run([first, second, third])
    assert [str(error) for error in found] == ["None", "the second", "None"]
    assert seen[:2] == ["first asks", "second asks"]
    assert [line for line in seen if line.endswith("asks")] == ["first asks", "second asks", "third asks"]
    assert {"first trains", "first writes", "second writes"} < set(seen)
    assert not turns.taken()


def test_a_job_waits_until_another_has_made_room() -> None:
    turns, room, seen = Turns(), [1], []

    def job(name: str) -> None:
        turns.wait_for(lambda: room[0] > 0)
        room[0] -= 1
        with turns.aside():
            threading.Event().wait(0.01)
        seen.append(name)
        assert room[0] == 0
        room[0] += 1

    assert turns.run([partial(job, name) for name in "abc"]) == [None] * 3
    assert seen == ["a", "b", "c"]


def test_outside_of_a_job_nothing_is_held() -> None:
    turns = Turns()
    assert not turns.taken()
    with turns.aside():
        assert turns.run([lambda: None]) == [None]


def test_stages_side_by_side_are_named_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    a, b = NamedReporter(reporter, "a").stage("train", 2), NamedReporter(reporter, "b").stage("train", 1)
    with a as more:
        with b as advance:
            advance(1)
        more(2)
    assert sorted(reporter.times) == ["a: train", "b: train"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("b: train: 1/1 in")
    assert said[1].startswith("a: train: 2/2 in")


TOGETHER = '''
import os
import time
from pathlib import Path
from typing import Any, ClassVar

from conrad_bench import Engine, register_engine
from conrad_bench.engines.base import Generation
from conrad_bench.errors import TrainingError


@register_engine
class Together(Engine):
    """Answers with the prompt, and has no model to train."""

    name = "together"
    summary = "for tests"
    provides: ClassVar[frozenset[str]] = frozenset({"training"})
    model: str = "-"

    def identity(self) -> dict[str, str]:
        return {"engine": self.name}

    def generate(self, jobs: Any, sampling: Any, adapter: Any) -> list[Generation]:
        return [Generation(f"{job.prompt.messages[0].text}! {os.getpid()}", (1,), (-0.5,), "stop") for job in jobs]

    def torch_model(self) -> tuple[None, None]:
        return None, None


def meet(torch_model: None, processor: None, stage: Any, folder: Path, name: str, others: int) -> None:
    """Wait until as many others have come as are expected; say so if they do not."""
    (folder / name).touch()
    for _ in range(600):
        if len(list(folder.iterdir())) > others:
            return
        time.sleep(0.1)
    raise TrainingError(f"{name} was alone")


def consult(torch_model: None, processor: None, stage: Any, out: Path, judged: Any) -> None:
    """Have two steps' reports judged."""
    out.write_text("\\n".join(judged(step) for step in ("one", "two")))
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "together.py"
    path.write_text(TOGETHER)
    return path


@pytest.fixture(scope="module")
def cluster(plugin: Path) -> Iterator[Cluster]:
    """Return a cluster that believes to have five CPUs: two trainings with two each, and a replica beside them."""
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 5}')
        with Cluster(LOCAL, plugins=[plugin]) as started:
            yield started


def of_plugin(plugin: Path, name: str) -> tuple[Engine, Any]:
    """Return the plugin's engine and one of its functions."""
    registry = Registry([plugin])
    return registry.create("engines", "together", {}), registry.get("engines", "together").generate.__globals__[name]


def test_two_trainings_and_the_replicas_of_a_third_fit_work_at_the_same_time(
    cluster: Cluster, plugin: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, meet = of_plugin(plugin, "meet")
    folder = tmp_path / "met"
    folder.mkdir()
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(engine, store, Reporter(quiet=True), pool=cluster)

        def fit(name: str) -> None:
            model.generate(ask(f"for {name}", "for all"))
            model.train(meet, {"folder": folder, "name": name, "others": 2}, {})

        def third() -> None:
            model.generate(ask("for the third", "for all"))
            (folder / "third").touch()

        found = cluster.side_by_side([partial(fit, "first"), partial(fit, "second"), third])
        assert [str(error) for error in found] == ["None"] * 3
        assert len(store) == 4
        assert sorted(path.name for path in folder.iterdir()) == ["first", "second", "third"]
        assert str(cluster.share) == "2 replicas with 2 CPU each"
    assert capfd.readouterr().err == ""


def test_a_judge_stays_beside_the_training_whose_steps_it_judges(
    cluster: Cluster, plugin: Path, tmp_path: Path
) -> None:
    engine, consult = of_plugin(plugin, "consult")
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(engine, store, Reporter(quiet=True), pool=cluster)

        def judged(step: str) -> str:
            return model.generate(ask(*(f"{step} {part}" for part in range(3))))[0].text

        model.train(consult, {"out": tmp_path / "said"}, {"judged": judged})
        after = model.generate(ask("after"))[0].text
    lines = [*(tmp_path / "said").read_text().splitlines(), after]
    assert [line.split("!")[0] for line in lines] == ["one 0", "two 0", "after"]
    assert lines[0].split("! ")[1] == lines[1].split("! ")[1]
