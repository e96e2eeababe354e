"""Which confidences may be acted on: thresholds certified on some patients of a run and checked on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.bundles.finished import Records, load_run
from conrad_bench.leaderboards.functions import measure
from conrad_bench.leaderboards.inference.certify import FEWEST, Certified, certify
from conrad_bench.leaderboards.metrics.base import Correctness, Sample

if TYPE_CHECKING:
    import pandas as pd

SHIFT_LEVEL = 0.01
"""Below this p the confidences of checked and calibrating patients are called different."""
REPLICATES = 2_000


@dataclass(frozen=True)
class Advice:
    """A threshold of one method on one task."""

    task: str
    method: str
    target: float
    certified: Certified
    claims: int
    """Of the patients that calibrate, with a confidence."""
    patients: int
    checked: int
    """Claims of the patients that check, with or without a confidence."""
    kept: float | None
    """The share of them at or above the threshold."""
    correctness: tuple[float, float | None, float | None] | None
    """Mean correctness of the kept ones, with its 95 % interval over patients."""
    shift: float
    """p of the hypothesis that both sides' mean confidences of a patient come from one distribution."""

    @property
    def note(self) -> str:
        """What a reader has to know beside the numbers."""
        said = []
        if not self.certified.tested:
            said.append(f"fewer than {FEWEST} patients have claims")
        elif self.certified.threshold is None:
            first = self.certified.tested[0]
            fails = first.correctness < self.target
            why = "below the target" if fails else "too few patients to be sure of the target; lower it or take more"
            said.append(
                f"{first.kept:,} claims at {first.threshold:.2f} and above, mean correctness {first.correctness:.3f}: "
                f"{why} (p = {first.p:.3f})"
            )
        if self.shift < SHIFT_LEVEL:
            said.append(f"the checked patients' confidences differ (p = {self.shift:.3g}): the guarantee may not hold")
        return "; ".join(said)


def thresholds(
    folder: Path,
    target: float,
    confidence: float = 0.9,
    per: Literal["claim", "report"] = "claim",
    calibration: Path | None = None,
    seed: int = 0,
) -> list[Advice]:
    """Return the threshold of each method of a run, by task.

    Half of the patients, drawn by `seed`, certify, and the others check; with `calibration`, another run's patients
    certify and all of this run's check. `per` "report" takes whole responses: the lowest confidence of their claims,
    and the claims' mean correctness. Raises ConfigError for a target or confidence outside (0, 1), DataError for runs
    that share no method.
    """
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} is {value:g}; it lies between 0 and 1, as in 0.9")
    records = load_run(folder).records
    others = load_run(calibration).records if calibration is not None else None
    halves = {task: _half(records, task, seed) for task in sorted({task for task, _ in records}) if others is None}
    found = []
    for (task, method), frame in sorted(records.items()):
        if not frame["confidence"].notna().any() or (others is not None and (task, method) not in others):
            continue
        checked = _by(frame, per)
        if others is None:
            here = checked["cluster"].isin(halves[task])
            calibrating, checked = checked[here], checked[~here]
        else:
            calibrating = _by(others[task, method], per)
        found.append(_advice(task, method, calibrating, checked, target, 1 - confidence))
    if not found:
        raise DataError("these runs share no method that states confidences on a task of the same name")
    return found


def _by(frame: pd.DataFrame, per: Literal["claim", "report"]) -> pd.DataFrame:
    """Return cluster, confidence (NaN where there is none) and correctness of each claim or whole response."""
    frame = frame.assign(confidence=frame["confidence"].where(frame["status"] == "ok"))
    if per == "claim":
        return frame[["cluster", "confidence", "correctness"]]
    whole = frame.groupby("example", sort=True)
    return whole.agg(
        cluster=("cluster", "first"),
        confidence=("confidence", lambda values: values.min(skipna=False)),
        correctness=("correctness", "mean"),
    )


def _half(records: Records, task: str, seed: int) -> set[str]:
    """Return half of a task's patients, the same for every method."""
    names = sorted({str(name) for (of, _), frame in records.items() if of == task for name in frame["cluster"]})
    chosen = np.random.default_rng((seed, len(names))).permutation(len(names))[: len(names) // 2]
    return {names[i] for i in chosen}


def _advice(
    task: str, method: str, calibrating: pd.DataFrame, checked: pd.DataFrame, target: float, level: float
) -> Advice:
    from scipy.stats import ks_2samp

    known = calibrating[calibrating["confidence"].notna() & calibrating["correctness"].notna()]
    names, unit = np.unique(known["cluster"].astype(str), return_inverse=True)
    sample = Sample(known["confidence"].to_numpy(float), known["correctness"].to_numpy(float), unit, len(names))
    found = certify(sample, target, level)
    kept, correctness = None, None
    stated = checked[checked["confidence"].notna() & checked["correctness"].notna()]
    if found.threshold is not None and len(checked):
        above = stated[stated["confidence"] >= found.threshold]
        kept = len(above) / len(checked)
        if len(above):
            stated_above, right, cluster = (above[name].to_numpy() for name in ("confidence", "correctness", "cluster"))
            got = measure(Correctness(), stated_above, right, cluster, replicates=REPLICATES)
            correctness = got.value, got.low, got.high
    sides = [part.groupby("cluster")["confidence"].mean().to_numpy(float) for part in (known, stated)]
    shift = float(ks_2samp(*sides, method="asymp").pvalue) if all(len(side) for side in sides) else 1.0
    return Advice(task, method, target, found, len(known), len(names), len(checked), kept, correctness, shift)


def markdown(found: Sequence[Advice], target: float, confidence: float, per: str) -> str:
    """Return the table of thresholds, and what it says."""
    return "\n".join(_lines(found, target, confidence, per))


def _lines(found: Sequence[Advice], target: float, confidence: float, per: str) -> Iterator[str]:
    yield f"| task | method | threshold | {per}s kept | their correctness | patients certify | {per}s check | note |"
    yield "| :--- | :--- | ---: | ---: | ---: | ---: | ---: | :--- |"
    for each in found:
        limit = "none" if each.certified.threshold is None else f"{each.certified.threshold:.3f}"
        kept = "–" if each.kept is None else f"{each.kept:.1%}"
        value = "–"
        if each.correctness is not None:
            mean, low, high = each.correctness
            value = f"{mean:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
        cells = (each.task, each.method, limit, kept, value, f"{each.patients:,}", f"{each.checked:,}", each.note)
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        f"{per.capitalize()}s at or above a threshold have a mean correctness of at least {target:g}, with a "
        f"probability of {confidence:g} for each method. That is an approximation, and holds for patients like those "
        "who certified. What is kept, and its correctness, are of other patients."
    )


def as_json(found: Sequence[Advice]) -> list[dict[str, Any]]:
    """Return the advice as plain values."""
    return [{**asdict(each), "note": each.note} for each in found]
