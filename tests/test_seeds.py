"""Training seeds: from the configuration to one row whose interval knows how seeds differ."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from test_board import CONTEXT, SENTENCES, board_of, frame, row_of, sample_of, sentences
from test_merge import a_run, finish, other

from conrad_bench.config import RunConfig, load_config
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.bundles.merge import leaderboard
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.leaderboards.inference.bootstrap import bootstrap, t_test
from conrad_bench.leaderboards.metrics.calibration import Brier
from conrad_bench.leaderboards.pages import html_task
from conrad_bench.leaderboards.pages.html import page
from conrad_bench.leaderboards.pages.tables import markdown
from conrad_bench.plan import make_plan
from conrad_bench.registry import Registry
from conrad_bench.seeds import row_name, seed_of, with_seeds

SEEDS = {f"conrad.seed{seed}": ("conrad", seed) for seed in (0, 1, 2)}


def seeded(n: int = 160) -> list[pd.DataFrame]:
    """Three seeds' records of one method about the same claims."""
    return [other(frame("conrad", n=n), seed).assign(method=name) for name, (_, seed) in SEEDS.items()]


def test_the_squared_error_is_that_of_patients_and_of_seeds() -> None:
    random = np.random.default_rng(0)
    drawn = 0.3 + 0.02 * random.standard_normal(20_000)
    found = t_test(0.3, drawn, 40, [(0.01**2, 3), (0.02**2, 2)])
    parts = np.array([np.var(drawn, ddof=1), 0.01**2, 0.02**2])
    assert found.error == pytest.approx(np.sqrt(parts.sum()))
    freedom = parts.sum() ** 2 / (parts**2 / np.array([39, 2, 1])).sum()
    assert found.freedom == pytest.approx(freedom)
    assert found.p == pytest.approx(2 * t.sf(0.3 / found.error, freedom))
    assert found.high - found.low == pytest.approx(2 * t.ppf(0.975, freedom) * found.error)


def test_several_seeds_are_one_row_with_both_sources_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = seeded()
    board = board_of(*frames, frame("verbalized", n=160), seeds=SEEDS)
    assert [row["method"] for row in board["rows"]] == ["conrad", "verbalized"]
    row = row_of(board, "conrad")
    samples = [sample_of(data) for data in frames]
    values = [sample.value(Brier().statistic(sample)) for sample in samples]
    assert row["seeds"]["seeds"] == [0, 1, 2]
    assert row["seeds"]["metrics"]["brier"] == pytest.approx(values, abs=1e-8)
    drawn = bootstrap([Brier().statistic(sample) for sample in samples], 40, 300, 0).mean(axis=0)
    expected = t_test(float(np.mean(values)), drawn, 40, [(float(np.var(values, ddof=1)) / 3, 3)])
    interval = {"value": expected.value, "low": expected.low, "high": expected.high}
    assert row["metrics"]["brier"] == pytest.approx(interval, abs=1e-8)
    assert (row["n"], row["n_clusters"], row["effective_clusters"]) == (480, 40, 40.0)
    alone = row_of(board_of(frames[0].assign(method="conrad"), frame("verbalized", n=160)), "conrad")
    assert "seeds" not in alone
    pair = next(p for p in board["tasks"]["mimic_report"]["comparisons"]["pairs"] if p["metric"] == "brier")
    base = row_of(board, "verbalized")["metrics"]["brier"]["value"]
    assert pair["value"] == pytest.approx(np.mean(values) - base, abs=1e-8)
    assert {key: pair[key] for key in ("value", "low", "high")} == row["difference"]["metrics"]["brier"]
    for text in (markdown(board), page(board)):
        assert "conrad: mean over the training seeds 0, 1, 2" in text
    folded = "<details><summary>Each training seed</summary>"
    assert folded not in page(board)
    with monkeypatch.context() as few:
        few.setattr(html_task, "SEEDS_SHOWN", 0)
        assert f'{folded}<p class="small">conrad: mean over the training seeds 0, 1, 2' in page(board)
    text = page(board)
    assert text.count('class="seed"') == 3
    said = re.search(r'data-seeds="(brier:[^"]*)"', text)
    assert said is not None
    offsets = {name: row["seeds"]["metrics"][name] for name in ("brier", "ece", "somers_d", "correctness", "pearson")}
    found = {name: ends for name, _, ends in (part.partition(":") for part in said[1].split(";"))}
    assert set(found) == set(offsets)
    for name, each in offsets.items():
        expected = np.array(each) - row["metrics"][name]["value"]
        assert [float(end) for end in found[name].split(",")] == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_one_seed_of_a_method_that_learns_is_said() -> None:
    board = board_of(frame("conrad"), frame("verbalized"), random=["conrad"])
    assert "One training run each, whose randomness is not in the intervals: conrad." in markdown(board)
    assert "One training run" not in markdown(board_of(*seeded(), seeds=SEEDS, random=["conrad"]))


def test_seeds_of_sentences_have_all_parts_of_a_row() -> None:
    frames = [other(sentences("conrad"), seed).assign(method=name) for name, (_, seed) in SEEDS.items()]
    row = row_of(board_of(*frames, **SENTENCES, seeds=SEEDS), "conrad", "mimic_sentence")
    quality = [data.drop_duplicates("example")["quality"].mean() for data in frames]
    assert row["metrics"]["quality"]["value"] == pytest.approx(np.mean(quality), abs=1e-8)
    assert row["flagging"]["thresholds"][0]["quality"]["value"] == pytest.approx(np.mean(quality), abs=1e-8)
    assert sum(point["n"] for point in row["reliability"]) == row["n"] == 3 * 90


def test_runs_that_differ_in_the_seed_alone_are_seeds(tmp_path: Path) -> None:
    runs = [
        a_run(tmp_path / f"run-{seed}", [data, frame("verbalized", n=160)], CONTEXT.model_copy(update={"seed": seed}))
        for seed, data in enumerate(data.assign(method="conrad") for data in seeded())
    ]
    board, _ = leaderboard(runs, tmp_path / "out")
    assert [row["method"] for row in board["rows"]] == ["conrad", "verbalized"]
    row = row_of(board, "conrad")
    assert row["seeds"]["seeds"] == [0, 1, 2]
    assert "seeds" not in row_of(board, "verbalized")
    together = row_of(board_of(*seeded(), frame("verbalized", n=160), seeds=SEEDS), "conrad")
    assert row["metrics"] == together["metrics"]
    assert [run["name"] for run in board["runs"]] == ["run-0", "run-1", "run-2"]


def test_the_seed_in_records_is_the_one_that_counts(tmp_path: Path) -> None:
    """Above that of the run: a method's own option may set another. Two runs with one seed are no two seeds."""
    frames = [data.assign(method="conrad") for data in seeded()[:2]]
    runs = [a_run(tmp_path / str(seed), [data.assign(seed=seed)]) for seed, data in zip((4, 7), frames, strict=True)]
    board, _ = leaderboard(runs, tmp_path / "out")
    assert row_of(board, "conrad")["seeds"]["seeds"] == [4, 7]
    twice = [a_run(tmp_path / name, [data.assign(seed=4)]) for name, data in zip("ab", frames, strict=True)]
    board, _ = leaderboard(twice, tmp_path / "twice")
    assert [row["method"] for row in board["rows"]] == ["conrad [a]", "conrad [b]"]
    with pytest.raises(DataError, match=r"conrad.seed1@mimic_report: their column seed says 0"):
        board_of(*(data.assign(seed=0) for data in seeded()), seeds=SEEDS)


def test_runs_that_differ_in_the_seed_alone_make_one_bundle(tmp_path: Path) -> None:
    runs = []
    for seed, data in enumerate(data.assign(method="conrad", seed=n) for n, data in enumerate(seeded())):
        context = CONTEXT.model_copy(update={"seed": seed, "model": "phantom-gemma3 (embedded)"})
        run = a_run(tmp_path / f"run-{seed}", [data, frame("verbalized", n=160)], context, fingerprint="f1" * 8)
        made = {"version": "0.1.0", "commit": f"abc123{seed}"}
        runs.append(finish(run, seed, rollouts={"generate": 160}, seconds={"all": 2.0}, **made))
    bundle = publish(runs, tmp_path / "bundle")
    board = json.loads((bundle / "leaderboard.json").read_text())
    assert [row["method"] for row in board["rows"]] == ["conrad", "verbalized"]
    assert row_of(board, "conrad")["seeds"]["seeds"] == [0, 1, 2]
    assert [(run["name"], run["commit"]) for run in board["runs"]] == [(f"seed {n}", f"abc123{n}") for n in range(3)]
    assert board["tasks"]["mimic_report"]["n_clusters"] == frame("conrad", n=160)["cluster"].nunique()
    assert {path.stem for path in (bundle / "records").iterdir()} == {
        f"{name}@mimic_report" for name in (*SEEDS, "verbalized")
    }
    config = load_config(bundle / "config.yaml")
    assert config.seeds == [0, 1, 2]
    assert config.methods == [*SEEDS, "verbalized"]
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [run["seed"] for run in manifest["runs"]] == [0, 1, 2]
    assert manifest["methods"]["conrad.seed2"] == {"seed": 2}
    assert (manifest["seconds"], manifest["rollouts"]) == (6.0, {"generate": 480})
    assert verify(publish([bundle], tmp_path / "again")).differences == []
    alone = [publish([run], tmp_path / f"bundle-{n}") for n, run in enumerate(runs)]
    with pytest.raises(DataError, match="hashed under different salts"):
        leaderboard(alone, tmp_path / "out")
    with pytest.raises(DataError, match="hashed under different salts"):
        publish(alone, tmp_path / "no")
    for n, run in enumerate(runs):
        (run / "publish.salt").write_bytes((runs[0] / "publish.salt").read_bytes())
        alone[n] = publish([run], tmp_path / f"salted-{n}")
    joint, _ = leaderboard(alone, tmp_path / "out")
    assert joint["rows"] == board["rows"]
    again = publish(alone, tmp_path / "joint")
    assert (again / "leaderboard.json").read_bytes() == (bundle / "leaderboard.json").read_bytes()
    with pytest.raises(DataError, match="runs and bundles"):
        publish([runs[0], alone[1]], tmp_path / "mixture")


def test_other_runs_make_no_bundle_together(tmp_path: Path) -> None:
    runs = [finish(a_run(tmp_path / name, [frame(name)], fingerprint="f1" * 8)) for name in ("conrad", "probe")]
    with pytest.raises(DataError, match="only runs that differ in the seed alone make one bundle"):
        publish(runs, tmp_path / "bundle")


def test_the_same_data_under_other_names_are_not_more_patients(tmp_path: Path) -> None:
    hashed = frame("conrad").assign(**{column: lambda d, c=column: "x" + d[c] for column in ("example", "cluster")})
    runs = [a_run(tmp_path / "a", [frame("conrad")]), a_run(tmp_path / "b", [hashed])]
    with pytest.raises(DataError, match="no example in common: their ids were hashed under different salts"):
        leaderboard(runs, tmp_path / "out")
    with pytest.raises(DataError, match=r"publish them anew with one publish\.salt") as caught:
        leaderboard(runs, tmp_path / "out", mixed=True)
    assert "--mixed" not in str(caught.value)


def test_a_configuration_with_seeds_has_a_variant_for_each() -> None:
    config = RunConfig(
        methods=["verbalized", "probe+platt", "conrad.joint"],
        tasks=["mimic_report"],
        seeds=[3, 5],
        options={"conrad.joint": {"mode": "joint"}},
    )
    found = with_seeds(config, ["probe+platt", "conrad.joint"])
    assert found.methods == [
        "verbalized", "probe.seed3+platt", "probe.seed5+platt", "conrad.joint-seed3", "conrad.joint-seed5",
    ]  # fmt: skip
    assert found.options["conrad.joint-seed5"] == {"mode": "joint", "seed": 5}
    assert with_seeds(found, found.methods[1:]) == found
    assert seed_of("probe.seed3+platt", found) == ("probe+platt", 3)
    assert row_name("conrad.joint-seed5", found) == "conrad.joint"
    assert row_name("verbalized", found) == "verbalized"
    # A variant that somebody called so is none of these.
    assert seed_of("probe.seed9", found) is None
    assert seed_of("conrad.seed3", found) is None


def test_a_plan_runs_once_with_each_seed_what_learns_or_samples() -> None:
    given = {"methods": ["verbalized", "probe", "self_consistency"], "tasks": ["mimic_report"], "seeds": [0, 7]}
    registry = Registry()
    plan = make_plan(load_config(None, given, registry), registry)
    assert list(plan.methods) == [
        "verbalized", "probe.seed0", "probe.seed7", "self_consistency.seed0", "self_consistency.seed7",
    ]  # fmt: skip
    assert [method.seed for method in plan.methods.values()] == [0, 0, 7, 0, 7]
    with pytest.raises(ConfigError, match="seeds"):
        load_config(None, {**given, "seeds": ["a"]}, registry)
    with pytest.raises(ConfigError, match="named twice: 1"):
        load_config(None, {**given, "seeds": [1, 1]}, registry)
