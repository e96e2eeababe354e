"""Replicas on Ray: the answers of a run without it, and what becomes of workers that die and of errors."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.cluster.cluster import LOCAL, Cluster
from conrad_bench.cluster.shares import Share, allot
from conrad_bench.engines.base import Engine
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ConfigError, EngineError, MissingExtra, ModelError
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import END, Message, Prompt, Sampling

# Ray Train warns of its own defaults when it is first used, and Ray leaves sockets to the interpreter's end.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

REPLICAS = 2

WORKER = '''
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from conrad_bench import Engine, register_engine
from conrad_bench.engines.base import Generation
from conrad_bench.errors import ModelError


@register_engine
class Worker(Engine):
    """Answers with the prompt; its log says which process answered what. Some prompts are orders."""

    name = "worker"
    summary = "for tests"
    provides: ClassVar[frozenset[str]] = frozenset({"sampling"})

    model: str = "-"
    log: Path
    many: int = 0
    """How many calls it waits for before it answers any, and then one that dies once, last; 0: it works in batches."""
    somewhere: bool = False
    """Whether its outputs are those of the machine it runs on."""

    def identity(self) -> dict[str, str]:
        place = {"process": str(os.getpid())} if self.somewhere else {}
        return {"engine": self.name, "model": self.model, **place}

    def generate(self, jobs: Sequence[Any], sampling: Any, adapter: Path | None) -> list[Generation]:
        texts = [job.prompt.messages[0].text for job in jobs]
        with open(self.log, "a", encoding="utf-8") as file:
            file.writelines(f"{os.getpid()} {text}\\n" for text in texts)
        for text in texts:
            if text == "die" or (text == "die once" and not self.log.with_suffix(".died").exists()):
                self.log.with_suffix(".died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if text == "refuse":
                raise ModelError("there is no such model; give another")
            if text == "fail":
                raise ValueError("the report of a patient")
        time.sleep(0.1)
        return [Generation(f"{text}!", (len(text),), (-0.5,), "stop") for text in texts]

    def at_once(self, method: str, adapter: Path | None) -> int:
        return self.many

    def stream(self, take: Any) -> Any:
        if not self.many:
            yield from super().stream(take)
            return
        while taken := take(True):
            under_way = [taken]
            while len(under_way) < self.many and (taken := take(False)):
                under_way.append(taken)
            for ticket, call in reversed(under_way):
                yield ticket, call.run(self)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture(scope="module")
def cluster(plugin: Path) -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="ray is not installed")
    if (os.cpu_count() or 1) < REPLICAS:
        pytest.skip(f"{REPLICAS} replicas need {REPLICAS} CPUs")
    with Cluster(LOCAL, REPLICAS, plugins=[plugin]) as started:
        yield started


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RolloutStore]:
    with RolloutStore(tmp_path / "rollouts") as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def engine(plugin: Path, log: Path) -> Engine:
    return Registry([plugin]).create("engines", "worker", {"log": log, "batch_size": 2})


@pytest.fixture
def model(engine: Engine, store: RolloutStore, cluster: Cluster) -> Model:
    return Model(engine, store, Reporter(quiet=True), pool=cluster)


def ask(*texts: str) -> list[Prompt]:
    return [Prompt((Message("user", text),)) for text in texts]


def calls(log: Path) -> list[tuple[int, str]]:
    """Return (process, prompt) of every prompt that was begun."""
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    return [(int(process), text) for process, text in lines]


def test_a_killed_worker_costs_its_batch_and_nothing_is_lost_or_doubled(
    model: Model, store: RolloutStore, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = model.generate(ask("a", "bb", "ccc"))
    texts = ["a", "bb", "ccc", *(f"{n} of many" for n in range(12)), "die once"]
    responses = model.generate(ask(*texts))
    assert [r.text for r in responses] == [f"{text}!" for text in texts]
    assert responses[:3] == kept
    asked = calls(log)
    assert os.getpid() not in {process for process, _ in asked}
    counts = {text: [t for _, t in asked].count(text) for text in texts}
    assert {text: counts[text] for text in texts[:3]} == dict.fromkeys(texts[:3], 1)  # the store had them
    again = {text for text, count in counts.items() if count > 1}
    assert "die once" in again
    assert len(again) <= 2 * model.engine.batch_size  # what it had just answered may not have arrived
    shards = [path.name for path in store.folder.glob("*.parquet")]
    assert len(store) == len(texts)
    assert len(shards) == 2 + 7  # one for each batch: of 3, then of 13 prompts
    assert capfd.readouterr().err == ""


def test_replicas_stay_for_the_next_request_and_one_that_died_meanwhile_is_replaced(model: Model, log: Path) -> None:
    for name in ("first", "second"):
        model.generate(ask(*(f"{n} of the {name}" for n in range(8))))
    served = {name: {process for process, text in calls(log) if text.endswith(name)} for name in ("first", "second")}
    assert served["first"] == served["second"]
    assert len(served["first"]) == REPLICAS
    killed = min(served["first"])
    os.kill(killed, signal.SIGKILL)
    texts = [f"{n} of the third" for n in range(8)]
    assert [response.text for response in model.generate(ask(*texts))] == [f"{text}!" for text in texts]
    third = [(process, text) for process, text in calls(log) if text.endswith("third")]
    assert sorted(text for _, text in third) == texts
    assert killed not in {process for process, _ in third}


def test_an_error_in_a_worker_keeps_its_class_and_text(model: Model, store: RolloutStore) -> None:
    with pytest.raises(ModelError, match=r"^there is no such model; give another$"):
        model.generate(ask("a longer one", "and another", "refuse"))
    assert model.generate(ask("after it"))[0].text == "after it!"


def test_an_unforeseen_error_says_where_and_quotes_nothing(
    model: Model, capfd: pytest.CaptureFixture[str], plugin: Path
) -> None:
    with pytest.raises(EngineError) as caught:
        model.generate(ask("fail"))
    assert "unexpected ValueError in a replica of engine 'worker'" in str(caught.value)
    assert f"{plugin}, line " in str(caught.value)
    said = capfd.readouterr()
    assert "patient" not in f"{caught.value}{said.out}{said.err}"
    assert said.err == said.out == ""


def test_workers_that_die_again_and_again_end_the_request(
    model: Model, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError, match="died 4 times over"):
        model.generate(ask("die"))
    assert len(calls(log)) == 4
    assert capfd.readouterr().err == ""


def test_a_replica_that_would_answer_otherwise_is_refused(plugin: Path, log: Path, model: Model) -> None:
    elsewhere = Registry([plugin]).create("engines", "worker", {"log": log, "somewhere": True})
    with pytest.raises(EngineError, match=rf"process: \d+ there, {os.getpid()} here"):
        Model(elsewhere, model.store, model.reporter, pool=model.pool).generate(ask("a"))
    assert not log.exists()


def test_replicas_of_a_model_answer_like_the_engine_in_this_process(
    cluster: Cluster, base_model: Path, image_files: list[str], tmp_path: Path
) -> None:
    texts = ["Findings?", "Is the heart enlarged?", "Is it clear?", "Indication: cough.", "Is there an effusion?"]
    prompts = [Prompt((Message("user", text),), (image_files[i % 3],)) for i, text in enumerate(texts)]
    warm = Sampling(temperature=1.0, max_tokens=8, seed=3)
    here, there = (TransformersEngine(model=str(base_model), device="cpu", batch_size=2) for _ in range(2))
    with RolloutStore(tmp_path / "here") as near, RolloutStore(tmp_path / "there") as far:
        alone = Model(here, near, Reporter(quiet=True))
        pooled = Model(there, far, Reporter(quiet=True), pool=cluster)
        expected, responses = (m.sample(prompts, 2, warm) for m in (alone, pooled))
        assert [[(r.key, r.text, r.token_ids) for r in row] for row in responses] == [
            [(r.key, r.text, r.token_ids) for r in row] for row in expected
        ]
        first = [row[0] for row in expected]
        scores = [m.score(prompts, ("yes" + END, "no" + END)) for m in (alone, pooled)]
        np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)
        states = [m.hidden(prompts, first, -1, "last") for m in (alone, pooled)]
        np.testing.assert_allclose(states[1], states[0], atol=1e-3, rtol=1e-3)
        assert far.counts() == near.counts() == {"generate": 10, "hidden": 5, "score": 5}
    assert here._loaded is not None
    assert there._loaded is None


NODES = st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 64), "GPU": st.integers(0, 8)}), min_size=1, max_size=5)


@given(nodes=NODES, replicas=st.integers(1, 20) | st.none(), part=st.sampled_from([0.25, 1 / 3, 0.5, 1, 2, 4]))
def test_replicas_never_take_more_than_there_is(
    nodes: list[dict[str, float]], replicas: int | None, part: float
) -> None:
    try:
        found = allot(nodes, replicas, part)
    except ConfigError:
        found = Share(0, 1, 0.0)
    assert replicas is None or found.replicas in (0, replicas)
    assert found.replicas * found.cpus <= sum(node["CPU"] for node in nodes)
    assert found.replicas * found.gpus <= sum(node["GPU"] for node in nodes) + 1e-6
    if any(node["GPU"] for node in nodes):
        assert found.replicas == 0 or found.gpus == part
    elif replicas is None:
        assert found.replicas == (sum(node["CPU"] // 2 for node in nodes) or sum(node["CPU"] for node in nodes))


@pytest.mark.parametrize(
    ("nodes", "replicas", "part", "expected"),
    [
        ([{"CPU": 16, "GPU": 8}], None, 1, "8 replicas with 1 GPU each"),
        ([{"CPU": 16, "GPU": 1}], None, 0.5, "2 replicas with 0.5 GPU each"),
        ([{"CPU": 16, "GPU": 3}, {"CPU": 4}, {"CPU": 16, "GPU": 3}], None, 2, "2 replicas with 2 GPU each"),
        ([{"CPU": 3}, {"CPU": 3}], None, 1, "2 replicas with 2 CPU each"),
        ([{"CPU": 2}], 2, 1, "2 replicas with 1 CPU each"),
        ([{"CPU": 1}], None, 1, "1 replica with 1 CPU each"),
    ],
)
def test_shares(nodes: list[dict[str, float]], replicas: int | None, part: float, expected: str) -> None:
    assert str(allot(nodes, replicas, part)) == expected


@pytest.mark.parametrize(
    ("nodes", "replicas", "part"),
    [([{"CPU": 16, "GPU": 2}], 3, 1), ([{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], None, 4), ([{"CPU": 2}], 3, 1)],
)
def test_too_little_room_is_said(nodes: list[dict[str, float]], replicas: int | None, part: float) -> None:
    with pytest.raises(ConfigError, match=r"lower --replicas or --gpus-per-replica, or add nodes"):
        allot(nodes, replicas, part)


def test_values_that_ray_cannot_use_are_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(ConfigError, match=r"--replicas 0"):
        Cluster(LOCAL, 0)
    for part in (0.0, -1.0, 1.5):
        with pytest.raises(ConfigError, match=r"--gpus-per-replica"):
            Cluster(LOCAL, gpus_per_replica=part)
    with pytest.raises(ConfigError, match=r"--ray auto"):
        Cluster("ray://head:10001")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'pip install "conrad-bench\[ray\]"'):
        Cluster(LOCAL)


def test_a_replica_works_at_many_calls_at_once_and_keeps_each(
    plugin: Path, log: Path, store: RolloutStore, cluster: Cluster
) -> None:
    engine = Registry([plugin]).create("engines", "worker", {"log": log, "many": 5})
    model = Model(engine, store, Reporter(quiet=True), pool=cluster)
    texts = [*(f"{n} of many" for n in range(30)), "die once"]
    assert [r.text for r in model.generate(ask(*texts))] == [f"{text}!" for text in texts]
    asked = [text for _, text in calls(log)]
    assert asked.count("die once") == 2
    assert len(asked) < 2 * len(texts)
    with pytest.raises(ModelError, match="no such model"):
        model.generate(ask(*(f"{n} more" for n in range(9)), "refuse"))
    kept = len(store)
    assert len(model.generate(ask(*(f"{n} more" for n in range(9))))) == 9
    assert kept >= len(texts)
    assert len(store) == len(texts) + 9


def test_a_busy_cluster_says_what_it_waits_for_and_gives_up(
    model: Model, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    @ray.remote(num_cpus=cluster.share.cpus)
    class Other:
        pass

    said: list[str] = []
    cluster._end_replicas()
    others = [Other.remote() for _ in range(REPLICAS)]
    ray.get([other.__ray_ready__.remote() for other in others])
    monkeypatch.setattr(cluster, "_say", said.append)
    monkeypatch.setattr("conrad_bench.cluster.replicas._TELL", 0.5)
    monkeypatch.setattr("conrad_bench.cluster.replicas._WAIT", 3.0)
    with pytest.raises(EngineError, match=r"no room for 0 minutes \(a replica of engine 'worker' needs"):
        model.generate(ask("a"))
    assert 2 <= len(said) <= 4
    assert said[0].startswith("waiting for Ray: a replica of engine 'worker' needs")
    monkeypatch.setattr("conrad_bench.cluster.replicas._WAIT", 60.0)
    threading.Timer(2.0, lambda: [ray.kill(other) for other in others]).start()
    assert model.generate(ask("a"))[0].text == "a!"
