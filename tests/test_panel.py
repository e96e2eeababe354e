"""Several judges: the mean of their scores, each one's in the records, and intervals that know how they differ."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_run import TOY, Toy
from typer.testing import CliRunner

from conrad_bench.cli import app
from conrad_bench.config import load_config
from conrad_bench.errors import ConfigError, DataError, PlanError
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, Sample
from conrad_bench.leaderboards.metrics.calibration import Brier, DebiasedECE
from conrad_bench.leaderboards.metrics.discrimination import Pearson
from conrad_bench.plan import make_plan
from conrad_bench.progress import Reporter
from conrad_bench.records import judge_columns, read_records, write_records
from conrad_bench.registry import Registry
from conrad_bench.scoring import text_scores
from conrad_bench.tasks.scorers.panel import make_scorer
from conrad_bench.testing import check_scorer
from conrad_bench.types import Claim, Example, Score

PLUGIN = '''
"""Judges that are more lenient than the toy's, by an option."""

from conrad_bench import Score, Scorer, register_scorer


@register_scorer
class Kind(Scorer):
    name = "kind"
    summary = "nothing is quite wrong"
    label = "kind"

    least: float = 0.2

    def score(self, pairs, granularity, model=None):
        return [Score(max(self.least, float(c.text.strip() == e.reference))) for e, c in pairs]


@register_scorer
class Shy(Scorer):
    name = "shy"
    summary = "judges no long answers"
    label = "shy"

    def score(self, pairs, granularity, model=None):
        return [Score(None, "too long") if len(c.text) > 6 else Score(0.5) for _, c in pairs]
'''


RUN: dict[str, Any] = {"methods": ["verbalized"], "tasks": ["mimic_report"]}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "kind.py"
    path.write_text(PLUGIN)
    return path


def pair(claim: str, reference: str) -> tuple[Example, Claim]:
    return Example("e", "p", "test", (), "", reference), Claim(claim, (0, len(claim)))


def test_the_mean_is_of_all_judges_or_there_is_none(plugin: Path) -> None:
    registry = Registry([TOY, plugin])
    config = load_config(None, {**RUN, "options": {"kind": {"least": 0.4}}}, registry)
    scorer = make_scorer("judges:toy_match,kind,shy", config, registry)
    found = scorer.score([pair("yes", "yes"), pair("no", "yes"), pair("certainly", "yes")], "answer")
    assert found[0] == Score(pytest.approx(2.5 / 3), by=(("toy_match", 1.0), ("kind", 1.0), ("shy", 0.5)))  # type: ignore[arg-type]
    assert found[1].value == pytest.approx(0.3)
    assert found[2] == Score(None, "shy: too long", (("toy_match", 0.0), ("kind", 0.4)))
    assert make_scorer("kind", config, registry).score([pair("a", "b")], "answer") == [Score(0.4)]


def test_variants_of_one_scorer_are_judges_and_a_panel_keeps_the_promises_of_a_scorer(plugin: Path) -> None:
    registry = Registry([plugin])
    options = {"kind": {"least": 0.1}, "kind.b": {"least": 0.5}, "mimic_report": {"scorer": "judges:kind,kind.b"}}
    scorer = make_scorer("judges:kind,kind.b", load_config(None, {**RUN, "options": options}, registry), registry)
    assert scorer.score([pair("a", "b")], "answer")[0].by == (("kind", 0.1), ("kind.b", 0.5))
    registry = Registry()
    kept = make_scorer("judges:vqa_match,vqa_match.b", load_config(None, RUN, registry), registry)
    check_scorer(kept)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("judges:kind", "two different scorers or more"),
        ("judges:kind,kind", "two different scorers or more"),
        ("judges:kind,judges:shy", "no single judge"),
        ("judges:kind,strange", "unknown scorer 'strange'"),
    ],
)
def test_what_is_no_panel_is_named(plugin: Path, name: str, message: str) -> None:
    registry = Registry([plugin])
    with pytest.raises(ConfigError, match=message):
        make_scorer(name, load_config(None, RUN, registry), registry)


def test_a_family_without_names_and_a_judge_that_asks_a_model_are_refused_by_themselves(plugin: Path) -> None:
    registry = Registry([plugin])
    config = load_config(None, RUN, registry)
    with pytest.raises(ConfigError, match="judges:A,B"):
        make_scorer("judges", config, registry).check([])
    green = make_scorer("judges:precision_green,kind", config, registry)
    with pytest.raises(PlanError, match="precision_green asks a judge of its own"):
        green.score([pair("a", "b")], "sentence")


def test_the_plan_checks_every_judge_and_gives_each_its_engine(plugin: Path) -> None:
    registry = Registry([plugin])
    named = {**RUN, "options": {"mimic_report": {"scorer": "judges:phantom_green,green"}}}
    judges = make_plan(load_config(None, named, registry), registry).judges
    assert list(judges) == ["green"]
    wrong = {**RUN, "options": {"mimic_report": {"scorer": "judges:kind,precision_green"}}}
    with pytest.raises(PlanError, match="'precision_green' judges claims at sentence level"):
        make_plan(load_config(None, wrong, registry), registry)


UNITS, JUDGES = 60, 3


def judged(seed: int = 0, severity: float = 0.1, shift: float = 0.0) -> Sample:
    """Three claims of each of 60 patients by judges of different severity."""
    random = np.random.default_rng(seed)
    unit = np.repeat(np.arange(UNITS), 3)
    quality = random.uniform(0.3, 0.7, len(unit))
    scores = quality[:, None] + severity * np.array([-1.0, 0.0, 1.0]) + random.normal(0, 0.02, (len(unit), JUDGES))
    confidence = np.clip(quality + shift + random.normal(0, 0.1, len(unit)), 0, 1)
    return Sample(confidence, scores.mean(axis=1), unit, UNITS, np.arange(len(unit)), scores)


def plain(sample: Sample) -> Sample:
    return Sample(sample.confidence, sample.correctness, sample.unit, sample.units, sample.example)


def test_the_variance_between_judges_is_added_with_its_own_t() -> None:
    sample = judged()
    assert sample.judged is not None
    alone = plain(sample)
    wanted = [(sample, CORRECTNESS), (alone, CORRECTNESS)]
    estimates = Estimates(wanted, UNITS, 400, 0)
    found = estimates.of(sample)
    assert found["value"] == estimates.of(alone)["value"]
    patients = float(estimates.replicates((alone,), CORRECTNESS).var(ddof=1))
    means = sample.judged.mean(axis=0)
    # What the judges' errors on single claims move a judge's mean, from the patients' own sums.
    apart = sample.judged - sample.judged.mean(axis=1, keepdims=True)
    per_unit = np.stack([np.bincount(sample.unit, column, UNITS) for column in apart.T], axis=1) / 3
    errors = float(per_unit.var(axis=0, ddof=1).sum() / UNITS / (JUDGES - 1) / JUDGES)
    between = float(means.var(ddof=1)) / JUDGES - errors
    half = math.sqrt(stats.t.ppf(0.975, UNITS - 1) ** 2 * patients + stats.t.ppf(0.975, JUDGES - 1) ** 2 * between)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize("metric", [CORRECTNESS, Brier(), Pearson(), DebiasedECE()], ids=lambda metric: metric.name)
def test_interval_and_p_agree_and_judges_that_agree_add_nothing(metric: Any) -> None:
    a, b = judged(0, 0.1), judged(1, 0.1, shift=0.2)
    twice = [np.stack([s.correctness, s.correctness], axis=1) for s in (a, b)]
    same = [
        Sample(s.confidence, s.correctness, s.unit, UNITS, s.example, both)
        for s, both in zip((a, b), twice, strict=True)
    ]
    samples = [a, b, *same, *map(plain, (a, b))]
    estimates = Estimates([(sample, metric) for sample in samples], UNITS, 400, 0)
    for mine, other in ((a, b), (same[0], same[1])):
        test = estimates.test(mine, other, metric)
        assert (test.p < 0.05) == (not test.low <= 0 <= test.high)
    agreed, alone = (estimates.test(*two, metric) for two in ((same[0], same[1]), (samples[4], samples[5])))
    assert astuple(agreed) == pytest.approx(astuple(alone))
    # More severe for both: hardly a difference between them.
    wide, narrow = (estimates.test(*two, metric) for two in ((a, b), (samples[4], samples[5])))
    assert wide.error >= narrow.error - 1e-12
    single = estimates.of(a, metric)
    assert single["low"] <= single["value"] <= single["high"]


def test_p_is_the_level_at_which_the_interval_begins_at_0() -> None:
    from conrad_bench.leaderboards.inference.bootstrap import t_test

    random = np.random.default_rng(0).normal(0, 0.01, 4000)
    for value in (0.001, 0.02, 0.05, 0.5):
        found = t_test(value, random, 50, (), [(1e-4, 3)])
        t = [stats.t.ppf(1 - found.p / 2, freedom) for freedom in (49, 2)]
        assert math.sqrt(t[0] ** 2 * random.var(ddof=1) + t[1] ** 2 * 1e-4) == pytest.approx(value)
    assert t_test(0.0, random, 50, (), [(1e-4, 3)]).p == 1
    assert math.isnan(t_test(0.1, random, 50, (), [(float("nan"), 3)]).p)


def benchmark() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "judges.py"
    spec = importlib.util.spec_from_file_location("judges_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_cover_what_other_judges_say_and_those_of_patients_alone_do_not() -> None:
    found = benchmark().coverage(3, 0.0, worlds=120, replicates=150)
    assert found["correctness"][0] >= 0.88
    assert found["correctness"][1] <= 0.6
    assert found["level"][0] <= 0.1


def test_a_run_by_several_judges_is_published_verified_and_judged_by_others(tmp_path: Path, plugin: Path) -> None:
    toy, out, bundle = Toy(tmp_path), tmp_path / "judged", tmp_path / "bundle"
    plugins = ["--plugin", str(TOY), "--plugin", str(plugin)]
    options = ["--tasks", "toy", "--engine", "echo", "--model", "echo", "--data-root", f"toy={toy.root}"]
    options += ["-o", "bootstrap.replicates=20", "-o", "kind.least=0.3", *plugins]
    command = ["run", "--methods", "stated,mean", *options, "--judges", "toy_match,kind", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert load_config(out / "config.yaml").options["toy"] == {"scorer": "judges:toy_match,kind"}
    frame = read_records(out / "records" / "stated@toy.parquet")
    columns = judge_columns(frame)
    assert columns == ["judge:kind", "judge:toy_match"]
    ok = frame[frame["status"] == "ok"]
    assert ok["correctness"].tolist() == pytest.approx(ok[columns].mean(axis=1).tolist())
    assert ok["judge:kind"].min() == 0.3
    # What learns is taught by the mean, too.
    learned = json.loads((out / "artifacts" / "mean@toy" / "mean.json").read_text())
    stated = read_records(out / "records" / "mean@toy.parquet")["confidence"].dropna().unique()
    assert stated.tolist() == pytest.approx([learned])
    row = next(row for row in json.loads((out / "leaderboard.json").read_text())["rows"] if row["method"] == "stated")
    assert row["judges"] == pytest.approx({name.removeprefix("judge:"): ok[name].mean() for name in columns})
    for page in ("leaderboard.md", "leaderboard.html"):
        assert "Correctness is the mean of 2 judges" in (out / page).read_text()
        assert "where several judges scored, Student" in (out / page).read_text()
    assert not verify(out).differences
    publish([out], bundle)
    findings = verify(bundle)
    assert not findings.differences, findings.differences
    changed = read_records(bundle / "records" / "stated@toy.parquet").assign(**{"judge:kind": 0.9})
    with pytest.raises(DataError, match="is not the mean of judge:kind, judge:toy_match"):
        write_records(bundle / "records" / "stated@toy.parquet", changed)
    again = CliRunner().invoke(app, ["score", str(out), *plugins, "--judges", "kind,shy"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "judged-judges-kind-shy" / "leaderboard.json").is_file()
    nothing = CliRunner().invoke(app, ["score", str(out), *plugins])
    assert "name the scorer: --scorer NAME, or several: --judges A,B" in str(nothing.exception)


def test_a_correctness_that_is_not_the_judges_mean_is_refused(tmp_path: Path) -> None:
    rows = [
        {
            "task": "t", "method": "m", "example": f"e{i}", "cluster": f"p{i}", "claim": 0, "confidence": 0.5,
            "correctness": 0.5, "status": "ok", "response": "", "judge:a": 0.4, "judge:b": 0.6,
        }
        for i in range(3)
    ]  # fmt: skip
    write_records(tmp_path / "a.parquet", rows)
    assert read_records(tmp_path / "a.parquet")["judge:b"].tolist() == [0.6] * 3
    rows[1]["correctness"] = 0.52
    with pytest.raises(DataError, match="row 1: a value is not the mean of judge:a, judge:b"):
        write_records(tmp_path / "b.parquet", rows)
    rows[1] |= {"correctness": 0.4, "judge:b": None}
    with pytest.raises(DataError, match="row 1: a value is not the mean"):
        write_records(tmp_path / "b.parquet", rows)
    rows[1] |= {"correctness": 1.3, "judge:b": 2.2}
    with pytest.raises(DataError, match="a value is outside"):
        write_records(tmp_path / "b.parquet", rows)


def predictions(**columns: Any) -> pd.DataFrame:
    random = np.random.default_rng(0)
    n = 80
    quality = random.uniform(0.2, 0.8, n)
    frame = pd.DataFrame({"confidence": np.round(quality, 1), "patient": [f"p{i // 2}" for i in range(n)]})
    return frame.assign(**{"judge:a": quality - 0.15, "judge:b": quality + 0.15}).assign(**columns)


def test_predictions_may_have_judges(tmp_path: Path) -> None:
    import conrad_bench as cb

    board = cb.evaluate(predictions(), replicates=200).content
    mean = predictions()[["judge:a", "judge:b"]].mean(axis=1)
    one = cb.evaluate(
        predictions().drop(columns=["judge:a", "judge:b"]).assign(correctness=mean), replicates=200
    ).content
    (row,), (alone,) = board["rows"], one["rows"]
    assert row["metrics"]["correctness"]["value"] == alone["metrics"]["correctness"]["value"]
    widths = [r["metrics"]["correctness"]["high"] - r["metrics"]["correctness"]["low"] for r in (row, alone)]
    assert widths[0] > 3 * widths[1]
    assert "judges" not in alone
    source, out = tmp_path / "p.csv", tmp_path / "out"
    predictions(**{"judge:b": lambda f: f["judge:b"].where(f.index > 3)}).to_csv(source, index=False)
    found = CliRunner().invoke(app, ["evaluate", str(source), "--out", str(out), "--replicates", "100"])
    assert found.exit_code == 0, found.output
    frame = read_records(next((out / "records").glob("*.parquet")))
    assert frame["status"].value_counts().to_dict() == {"ok": 76, "scorer_failed": 4}
    assert not verify(out).differences


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"judge:a": 1.2}, "column 'judge:a': 1.2 is outside"),
        ({"correctness": 0.9}, "is not the mean of judge:a, judge:b"),
        ({"judge:a": "good"}, "column 'judge:a': is no number"),
    ],
)
def test_predictions_of_judges_that_are_none(columns: dict[str, Any], message: str) -> None:
    import conrad_bench as cb

    with pytest.raises(DataError, match=message):
        cb.evaluate(predictions(**columns))
    with pytest.raises(DataError, match="the only judge's column"):
        cb.evaluate(predictions().drop(columns="judge:b"))


def test_texts_are_judged_by_several_scorers(plugin: Path) -> None:
    frame = pd.DataFrame({"response": ["yes", "no"], "reference": ["yes", "yes"]})
    found = text_scores(frame, "judges:toy_match,kind", {}, Registry([TOY, plugin]), Reporter(quiet=True))
    assert [score.value for score in found] == [1.0, pytest.approx(0.1)]
