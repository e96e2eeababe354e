"""Every method on every kind of task, through the pipeline, with the embedded base model and phantom data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conrad_bench import pipeline
from conrad_bench.config import RunConfig
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ConradBenchError, DataError, PlanError
from conrad_bench.methods.self_consistency import rouge_l
from conrad_bench.plan import make_plan
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records, records_path
from conrad_bench.registry import Registry

METHODS = [
    "base",
    "verbalized",
    "sequence_probability",
    "p_true",
    "self_consistency",
    "probe",
    "sft",
    "conrad_exact",
    "conrad",
    "verbalized+isotonic",
    "sft+platt",
]
TASKS = ["mimic_report", "mimic_sentence", "iu_xray_report", "vqa_rad"]
LIMIT = 12
LEARNED = {"learning_rate": 2e-3, "sentence_samples": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "phantom": {"studies": 120},
    "bootstrap": {"replicates": 200},
    "self_consistency": {"n": 2},
    "probe": {"samples": 24, "validation_samples": 8, "epochs": 2},
    "sft": {**LEARNED, "samples": 16},
    "conrad_exact": {**LEARNED, "samples": 16, "distribution": True},
    "conrad": {**LEARNED, "samples": 16, "batch_size": 16},
    "verbalized": {"distribution": True},
}


class Run:
    """One run of everything, and the prompts that reached the engine to be generated."""

    def __init__(self, out: Path, asked: list[Any]) -> None:
        self.out, self.asked = out, asked

    def records(self, method: str, task: str) -> pd.DataFrame:
        return read_records(records_path(self.out, method, task))


def config(**changes: Any) -> RunConfig:
    values = {"methods": METHODS, "tasks": TASKS, "limit": LIMIT, "options": OPTIONS}
    return RunConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def everything(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONRAD_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        asked: list[Any] = []
        plain = TransformersEngine.generate

        def counted(self: Any, jobs: Sequence[Any], sampling: Any, adapter: Any) -> Any:
            asked.extend((job.prompt, job.seed if sampling.temperature else 0, adapter) for job in jobs)
            return plain(self, jobs, sampling, adapter)

        patch.setattr(TransformersEngine, "generate", counted)
        out = tmp_path_factory.mktemp("run") / "everything"
        pipeline.run(config(), out, Registry(), Reporter())
        yield Run(out, asked)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_records_on_every_task(everything: Run, method: str, task: str) -> None:
    frame = everything.records(method, task)
    assert frame["example"].nunique() == LIMIT
    ok = frame[frame["status"] == "ok"]
    assert len(ok) > 0.6 * len(frame)
    if method == "base":
        assert frame["confidence"].isna().all()
    else:
        assert ok["confidence"].between(0, 1).all()
    if task == "mimic_sentence":
        assert len(frame) > 3 * LIMIT
        assert set(ok["correctness"]) <= {0.0, 1.0}
        assert (frame.groupby("example")["quality"].nunique() == 1).all()
        assert frame["quality"].mean() > 0.2


def test_nothing_is_generated_twice(everything: Run) -> None:
    """Methods that share responses share their generation, whatever they know of each other."""
    times = Counter(repr(request) for request in everything.asked)
    assert max(times.values()) == 1


def test_the_base_responses_are_generated_once_for_all(everything: Run) -> None:
    keys = {
        method: set(everything.records(method, "mimic_report")["response"])
        for method in ("base", "sequence_probability", "p_true", "self_consistency", "probe")
    }
    assert len(set(map(frozenset, keys.values()))) == 1
    stated = [
        set(everything.records(method, "mimic_report")["response"])
        for method in ("verbalized", "sft", "conrad", "conrad_exact", "verbalized+isotonic")
    ]
    assert len(set(map(frozenset, stated))) == 1


def test_out_of_distribution_nothing_is_fitted(everything: Run) -> None:
    fitted = {path.name for path in (everything.out / "artifacts").iterdir()}
    assert not [name for name in fitted if name.endswith("@iu_xray_report")]
    assert {"conrad@mimic_report", "conrad@mimic_sentence", "sft+platt@vqa_rad"} <= fitted


def test_the_eleven_probabilities_fit_what_was_stated(everything: Run) -> None:
    """Greedy decoding takes the likeliest token, in another batch: where two levels tie, the other may be stated."""
    for method in ("verbalized", "conrad_exact"):
        for task in TASKS:
            frame = everything.records(method, task)
            ok = frame[frame["status"] == "ok"]
            p = ok[[f"p_{k}" for k in range(11)]].to_numpy()
            assert (p.sum(1) <= 1 + 1e-6).all()
            assert np.mean(np.abs(p.argmax(1) - ok["confidence"] * 10) < 1.5) > 0.9


def test_sequence_probability_is_the_mean_of_the_stored_probabilities(everything: Run) -> None:
    from conrad_bench.rollouts.store import RolloutStore

    frame = everything.records("sequence_probability", "mimic_report")
    with RolloutStore(everything.out / "rollouts") as store:
        rows = store.read(list(frame["response"]))
    for key, confidence in zip(frame["response"], frame["confidence"], strict=True):
        # The end of turn is no word of the report.
        assert confidence == pytest.approx(np.mean(np.exp(rows[key]["logprobs"][:-1])), abs=1e-9)


def test_recalibration_keeps_order_and_responses(everything: Run) -> None:
    raw = everything.records("verbalized", "mimic_report").set_index("example")
    mapped = everything.records("verbalized+isotonic", "mimic_report").set_index("example")
    assert (raw["response"] == mapped["response"]).all()
    ordered = pd.DataFrame({"raw": raw["confidence"], "mapped": mapped["confidence"]}).dropna().sort_values("raw")
    assert ordered["mapped"].is_monotonic_increasing


def test_the_same_command_again_does_nothing(everything: Run) -> None:
    before, board = len(everything.asked), (everything.out / "leaderboard.json").read_bytes()
    (everything.out / "manifest.json").unlink()
    pipeline.run(config(), everything.out, Registry(), Reporter())
    assert len(everything.asked) == before
    assert (everything.out / "leaderboard.json").read_bytes() == board


def test_the_board_has_the_papers_tables(everything: Run) -> None:
    text = (everything.out / "leaderboard.md").read_text(encoding="utf-8")
    assert "## mimic_sentence" in text
    assert "Flagging" in text
    assert "AUROC" in text


def test_dry_run_shows_that_conrad_writes_no_report(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONRAD_BENCH_CACHE", str(tmp_path / "cache"))
    chosen = config(methods=["verbalized", "conrad", "conrad_exact"], tasks=["mimic_report"])
    plan = pipeline.run(chosen, tmp_path / "run", Registry(), Reporter(), dry_run=True)
    steps = [step for step in plan["steps"] if step["action"] == "generate"]
    tested = [step for step in steps if step["method"] != "verbalized" and "test" in step["what"]]
    assert len(tested) == 2
    assert all(step["there"] == step["count"] for step in tested)
    trained = [step for step in steps if step["method"] == "conrad_exact" and "training" in step["what"]]
    assert trained[0]["there"] == trained[0]["count"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verbalized": {"variant": "top_k"}}, "variant=top_k is for answers"),
        ({"verbalized": {"variant": "cot", "distribution": True}}, "variant=cot is for answers"),
        ({"self_consistency": {"similarity": "exact"}}, "similarity=exact compares short answers"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(changes: dict[str, Any], said: str) -> None:
    chosen = config(methods=list(changes), tasks=["mimic_report"], options=changes)
    with pytest.raises(PlanError, match=said):
        make_plan(chosen, Registry())


def test_an_unknown_recalibrator_is_named() -> None:
    with pytest.raises(ConradBenchError, match=r"unknown recalibrator 'izotonic'; did you mean 'isotonic'"):
        make_plan(config(methods=["verbalized+izotonic"], tasks=["mimic_report"]), Registry())


@pytest.mark.parametrize("variant", ["punish", "linguistic", "two_stage", "restricted", "cot", "top_k"])
def test_the_variants_of_verbalized_run_on_questions(
    variant: str, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONRAD_BENCH_CACHE", str(tmp_path / "cache"))
    chosen = {"variant": "two_stage", "restricted": True} if variant == "restricted" else {"variant": variant}
    options = {**OPTIONS, "verbalized": chosen}
    pipeline.run(
        config(methods=["verbalized"], tasks=["vqa_rad"], options=options), tmp_path / "run", Registry(), Reporter()
    )
    frame = read_records(records_path(tmp_path / "run", "verbalized", "vqa_rad"))
    assert (frame["status"] == "ok").mean() > (0.999 if variant == "restricted" else 0.8)


def test_overlapping_patients_between_fit_and_test_are_counted(tmp_path: Path) -> None:
    from conrad_bench.plan import check_overlap
    from conrad_bench.tasks.base import Loaded
    from conrad_bench.types import Example

    def examples(clusters: list[str], split: Any) -> Loaded:
        return Loaded(examples=[Example(f"{c}-{split}", c, split, (), "", "") for c in clusters])

    plan = make_plan(config(methods=["probe"], tasks=["iu_xray_report"]), Registry())
    data = {
        "iu_xray_report": examples(["a", "b", "c"], "test"),
        "mimic_report": examples(["b", "c", "d"], "train"),
    }
    with pytest.raises(DataError, match=r"2 test patients .*'iu_xray_report' are among those of 'mimic_report'"):
        check_overlap(plan.tasks["iu_xray_report"], data)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3.1
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("Heart normal.", "", 0.0),
    ],
)
def test_rouge_l(a: str, b: str, expected: float) -> None:
    assert rouge_l(a, b) == pytest.approx(expected)
    assert rouge_l(b, a) == pytest.approx(expected)


def test_vqa_rad_runs_on_its_real_images(base_model: Path, tmp_path: Path) -> None:
    """The phantom's model knows nothing of them; loader, images, engine, scorer and board are what is tested."""
    root = Path(__file__).parents[1].parent / "shared" / "data" / "vqa-rad"
    if not root.is_dir():
        pytest.skip("the VQA-RAD files are not there")
    values = {"data_roots": {"vqa_rad": root}, "model": "phantom", "limit": 10, "options": OPTIONS}
    chosen = RunConfig.model_validate({"methods": ["verbalized", "p_true"], "tasks": ["vqa_rad"], **values})
    board = pipeline.run(chosen, tmp_path / "run", Registry(), Reporter())
    assert {row["method"]: row["claims"] for row in board["rows"]} == {"verbalized": 10, "p_true": 10}
    assert board["data"] == "VQA-RAD"
