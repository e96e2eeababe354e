"""Every metric beside an independent implementation, where inputs are least kind to it.

The references below share no code with the metrics: they are those of scikit-learn, scipy, torch and relplot, or the
definition written out claim by claim. Other files compare with packages on random inputs: `test_metrics`,
`test_calibration`, `test_ranking` and `test_corp`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, norm, pearsonr, rankdata, spearmanr
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, mean_squared_error, r2_score, roc_auc_score
from test_board import board_of, frame, row_of
from test_metrics import Rows, all_rows, sample

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.bootstrap import bootstrap
from conrad_bench.leaderboards.metrics.base import FloatArray, Sample
from conrad_bench.leaderboards.metrics.calibration import Brier, LogScore
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN
from conrad_bench.records import read_records, records_path, write_records

NAN = float("nan")
UNIT = 3  # claims of a unit, in the order in which they are given


def groups(c: FloatArray) -> list[Any]:
    """The masks of the groups of ECE."""
    billionths = [round(each * 10**9) for each in c.tolist()]
    if len(set(billionths)) > 21 or 2 * len(set(billionths)) > len(c):
        billionths = [max(1, -(-each // 10**8)) for each in billionths]
    keys = np.array(billionths)
    return [keys == key for key in set(billionths)]


def ece(c: FloatArray, y: FloatArray) -> float:
    return sum(m.mean() * abs(c[m].mean() - y[m].mean()) for m in groups(c))


def ece_mass(c: FloatArray, y: FloatArray) -> float:
    if len(set(np.round(c, 9))) <= min(21, len(c) / 2):
        return ece(c, y)
    place = np.rint(2 * rankdata(np.round(c, 9)) - 1).astype(int) * 10 // (2 * len(c))
    return float(pd.Series(c - y).groupby(place).sum().abs().sum() / len(c))


def ece_debiased(c: FloatArray, y: FloatArray) -> float:
    """Products of the residual sums of every two different units, over the products of their numbers of claims."""
    total, n = 0.0, 0
    for mask in groups(c):
        of_unit = pd.Series(c - y)[mask].groupby(np.flatnonzero(mask) // UNIT)
        sums, sizes = of_unit.sum().to_numpy(), of_unit.size().to_numpy()
        if len(sums) > 1:
            apart = sizes.sum() ** 2 - (sizes**2).sum()
            total += mask.sum() * ((sums.sum() ** 2 - (sums**2).sum()) / apart)
            n += mask.sum()
    return math.copysign(math.sqrt(abs(total / n)), total) if n else NAN


def mce(c: FloatArray, y: FloatArray) -> float:
    return max(abs(c[m].mean() - y[m].mean()) for m in groups(c))


def smoothed_error(c: FloatArray, residual: FloatArray, width: float) -> float:
    """The mean absolute residual after a Gaussian reflected at 0 and 1, its images written out."""
    points = (np.arange(1_000) + 0.5) / 1_000
    density = np.zeros((len(points), len(c)))
    for k in range(-3, 4):
        density += norm.pdf(points[:, None], 2 * k + c, width) + norm.pdf(points[:, None], 2 * k - c, width)
    return float(np.abs(density @ residual).mean() / len(c))


def smece(c: FloatArray, y: FloatArray) -> float:
    """The smallest width on a grid of 1/1024 at which the error is no larger than the width."""
    if len(c) > 1_000:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that relplot imports
            return float(pytest.importorskip("relplot").smECE(c, y))
    values, place = np.unique(c, return_inverse=True)
    residual = np.bincount(place, c - y)
    scale = len(values) / len(c)
    low, high = 0, 1024
    while high - low > 1:
        middle = (low + high) // 2
        within = middle / 1024 >= 0.001 and smoothed_error(values, residual, middle / 1024) * scale <= middle / 1024
        low, high = (low, middle) if within else (middle, high)
    return smoothed_error(values, residual, high / 1024) * scale


def corp(c: FloatArray, y: FloatArray) -> tuple[float, float, float]:
    fit = IsotonicRegression().fit_transform(np.round(c, 12), y)
    return float(np.mean((c - y) ** 2 - (fit - y) ** 2)), float(np.var(y) - np.mean((fit - y) ** 2)), float(np.var(y))


def log_score(c: FloatArray, y: FloatArray) -> float:
    clipped = torch.tensor(c).clip(0.01, 0.99)
    return float(torch.nn.functional.binary_cross_entropy(clipped, torch.tensor(y)))


def constant(*sides: FloatArray) -> bool:
    return any(np.ptp(np.round(side, 12)) == 0 for side in sides)


def rank_correlation(of: Callable[[Any, Any], Any]) -> Callable[[FloatArray, FloatArray], float]:
    return lambda c, y: NAN if constant(c, y) else float(of(np.round(c, 12), np.round(y, 12)).statistic)


def somers_d(c: FloatArray, y: FloatArray) -> float:
    """From tau-b, which divides the same pairs by the geometric mean of those that differ in c and in y."""
    if constant(y):
        return NAN
    if constant(c):
        return 0.0
    differ = [len(c) ** 2 - float((np.unique(np.round(v, 12), return_counts=True)[1] ** 2.0).sum()) for v in (c, y)]
    return float(kendalltau(np.round(c, 12), np.round(y, 12)).statistic * math.sqrt(differ[0] / differ[1]))


def one_class(y: FloatArray) -> bool:
    return len(set(y.tolist())) < 2


def expected_losses(c: FloatArray, y: FloatArray) -> FloatArray:
    """The summed loss of the k most confident claims, each tied claim with the mean loss of its ties."""
    loss = pd.Series(1 - y).groupby(np.round(c, 12)).transform("mean").to_numpy()
    return np.cumsum(loss[np.argsort(-np.round(c, 12), kind="stable")])


def aurc(c: FloatArray, y: FloatArray) -> float:
    return float(np.mean(expected_losses(c, y) / np.arange(1, len(c) + 1)))


def augrc(c: FloatArray, y: FloatArray) -> float:
    return float(np.trapezoid(np.append(0, expected_losses(c, y)) / len(c), dx=1 / len(c)))


def coverage_at_risk(c: FloatArray, y: FloatArray) -> float:
    kept = np.flatnonzero(expected_losses(c, y) <= 0.2 * np.arange(1, len(c) + 1) + 1e-10)
    return float(kept[-1] + 1) / len(c) if len(kept) else 0.0


def mean(c: FloatArray, y: FloatArray) -> float:
    return math.fsum(y) / len(y)


REFERENCES: dict[str, Callable[[FloatArray, FloatArray], float]] = {
    "ece": ece,
    "ece_debiased": ece_debiased,
    "pearson": lambda c, y: NAN if constant(c, y) else float(pearsonr(c, y).statistic),
    "brier": lambda c, y: float(mean_squared_error(y, c)),
    "skill": lambda c, y: NAN if constant(y) else float(r2_score(y, c)),
    "auroc": lambda c, y: NAN if one_class(y) else float(roc_auc_score(y, np.round(c, 12))),
    "correctness": mean,
    "quality": mean,
    "smece": smece,
    "ece_mass": ece_mass,
    "mce": mce,
    "in_the_large": lambda c, y: (math.fsum(c) - math.fsum(y)) / len(c),
    "log_score": log_score,
    "brier_mcb": lambda c, y: corp(c, y)[0],
    "brier_dsc": lambda c, y: corp(c, y)[1],
    "brier_unc": lambda c, y: corp(c, y)[2],
    "spearman": rank_correlation(spearmanr),
    "kendall": rank_correlation(kendalltau),
    "somers_d": somers_d,
    "auprc": lambda c, y: NAN if not y.any() else float(average_precision_score(y, np.round(c, 12))),
    "aurc": aurc,
    "eaurc": lambda c, y: aurc(c, y) - aurc(y, y),
    "augrc": augrc,
    "coverage_at_risk": coverage_at_risk,
}


def cases() -> dict[str, tuple[FloatArray, FloatArray]]:
    random = np.random.default_rng(0)
    tenths, large = np.arange(11) / 10, random.random(100_000)
    right = (random.random(100_000) < large).astype(float)
    shares = np.rint(7 * np.clip(large + 0.3 * random.standard_normal(100_000), 0, 1)) / 7
    return {
        "one claim, right": (np.array([0.7]), np.array([1.0])),
        "one claim, a certain error": (np.array([1.0]), np.array([0.0])),
        "one claim, half right": (np.array([0.5]), np.array([0.5])),
        "two claims, the wrong way round": (np.array([0.9, 0.1]), np.array([0.0, 1.0])),
        "all equal": (np.full(9, 0.8), np.full(9, 0.4)),
        "one confidence": (np.full(30, 0.7), np.repeat([0.0, 1.0], 15)),
        "all right": (np.tile(tenths, 3), np.ones(33)),
        "all wrong": (np.tile(tenths, 3), np.zeros(33)),
        "one right of many": (random.random(40), np.eye(40)[7]),
        "ties": (np.repeat(tenths, 6), (random.random(66) < 0.6).astype(float)),
        "ties up to rounding": (np.array([0.3, 3 * 0.1, 0.1 + 0.2, 0.7, 1 - 0.3] * 4), np.tile([0.0, 1.0], 10)),
        "right before wrong within ties": (np.repeat([0.9, 0.5], 10), np.tile(np.repeat([1.0, 0.0], 5), 2)),
        "wrong before right within ties": (np.repeat([0.9, 0.5], 10), np.tile(np.repeat([0.0, 1.0], 5), 2)),
        "perfect order": (np.linspace(0, 1, 50), np.linspace(0, 1, 50) ** 2),
        "reversed order": (np.linspace(0, 1, 50), np.linspace(1, 0, 50)),
        "certain or not at all": (np.repeat([0.0, 1.0], 20), (random.random(40) < 0.5).astype(float)),
        "one level more than levels may be": (np.arange(22) / 21, (random.random(22) < 0.5).astype(float)),
        "edges of bins": (np.concatenate([tenths, random.random(60)]), random.random(71)),
        "continuous": (random.random(200), random.random(200)),
        "continuous with ties in both": (np.round(random.random(200), 2), np.rint(4 * random.random(200)) / 4),
        "continuous, right or wrong": (random.random(150), (random.random(150) < 0.3).astype(float)),
        "100,000 continuous": (large, shares),
        "100,000 continuous, right or wrong": (large, right),
        "100,000 tenths, right or wrong": (np.rint(10 * large) / 10, right),
    }


CASES = cases()


def value(name: str, c: FloatArray, y: FloatArray) -> float:
    metric = next(metric for metric in BUILT_IN if metric.name == name)
    unit = np.arange(len(c)) // UNIT
    data = Sample(c if metric.confidence else None, y, unit, int(unit[-1]) + 1)
    return data.value(metric.statistic(data))


@pytest.mark.parametrize("case", CASES)
def test_every_metric_agrees_with_its_reference(case: str) -> None:
    c, y = CASES[case]
    binary = set(y.tolist()) <= {0.0, 1.0}
    for metric in BUILT_IN:
        if metric.binary and not binary:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn and scipy warn of some of these inputs
            expected = REFERENCES[metric.name](c, y)
        close: dict[str, float] = {"abs": 1e-9}
        if metric.name == "smece":  # relplot's grid has 200 points; ours for the width 4,096
            close = {"rel": 0.02, "abs": 1e-3} if len(c) > 1_000 else {"abs": 1e-3}
        assert value(metric.name, c, y) == pytest.approx(expected, nan_ok=True, **close), metric.name


def test_every_metric_has_a_reference() -> None:
    assert set(REFERENCES) == {metric.name for metric in BUILT_IN}


def test_claims_without_a_confidence_are_left_out() -> None:
    """None among the confidences: every metric of the board is that of the other claims."""
    records = frame("conrad", n=160, unparsed=30, binary=True)
    assert records["confidence"].isna().sum() == 30
    row = row_of(board_of(records), "conrad")
    ok = records[records["status"] == "ok"]
    c, y = (ok[name].to_numpy(float) for name in ("confidence", "correctness"))
    for name, found in row["metrics"].items():
        if name in ("smece", "ece_debiased"):  # its units are the clusters; smECE: above
            continue
        assert found["value"] == pytest.approx(REFERENCES[name](c, y), abs=1e-8), name
    assert set(row["worst_case"]) == {"ece", "brier", "auroc", "correctness"}
    for name, found in row["worst_case"].items():
        fills = [
            REFERENCES[name](
                records["confidence"].fillna(confidence).to_numpy(float),
                np.where(records["status"] == "ok", records["correctness"], correctness),
            )
            for confidence, correctness in ((1, 0), (0, 1))
        ]
        worst = max if name in ("ece", "brier") else min
        assert found == pytest.approx(worst(*fills, row["metrics"][name]["value"]), abs=1e-8), name


@pytest.mark.parametrize("missing", [None, NAN])
def test_a_parsed_claim_without_a_confidence_among_others_is_refused(missing: float | None, tmp_path: Any) -> None:
    records = frame("conrad")
    path = records_path(tmp_path, "conrad", "mimic_report")
    path.parent.mkdir()
    rows = records.to_dict("records")
    rows[3]["confidence"] = missing
    with pytest.raises(DataError, match="confidence"):
        write_records(path, rows)
    write_records(path, records)
    assert not read_records(path)["confidence"].isna().any()


def test_splitting_clusters_changes_intervals_and_not_values() -> None:
    """Claims of a cluster that are alike: apart, they seem to say more than they do."""
    random = np.random.default_rng(1)
    cluster = np.repeat(np.arange(50), 8)
    shift = 0.25 * random.standard_normal(50)[cluster]
    c = np.clip(0.5 + 0.3 * random.standard_normal(50)[cluster] + 0.05 * random.standard_normal(400), 0, 1)
    y = (random.random(400) < np.clip(c + shift, 0.02, 0.98)).astype(float)
    together, apart = Sample(c, y, cluster, 50), Sample(c, y, np.arange(400), 400)
    for metric in BUILT_IN:
        if metric.per != "claim":
            continue
        found = [data.value(metric.statistic(data)) for data in (together, apart)]
        if metric.name != "ece_debiased":  # which corrects for the dependence
            assert found[0] == pytest.approx(found[1], abs=1e-12), metric.name
        if metric.interval:
            widths = [
                np.nanstd(bootstrap([metric.statistic(data)], data.units, 300, 0, 400)) for data in (together, apart)
            ]
            assert widths[0] != pytest.approx(widths[1], rel=1e-3), metric.name
            if metric.name in ("correctness", "brier", "in_the_large", "log_score", "augrc"):
                assert widths[0] > 1.2 * widths[1], metric.name


@settings(deadline=None, max_examples=50)
@given(all_rows, st.floats(0, 1))
def test_no_confidence_scores_better_than_the_mean_correctness_at_its_level(rows: Rows, share: float) -> None:
    """Moving confidences, all or part of the way, to the mean correctness there makes no proper score worse."""
    means = {c: np.mean([y for d, y, _ in rows if d == c]) for c, _, _ in rows}
    moved: Rows = [(float((1 - share) * c + share * means[c]), y, unit) for c, y, unit in rows]
    for metric in (Brier(), LogScore()):
        before, after = (data.value(metric.statistic(data)) for data in (sample(rows), sample(moved)))
        assert after <= before + 1e-9
