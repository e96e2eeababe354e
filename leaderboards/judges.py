"""Judges against radiologists: how far a judge's scores of reports order them as radiologists' ratings do.

A row is a candidate report with ratings (a column for each radiologist) and scores (a column for each judge). What is
compared with a judge is the mean over the radiologists who rated the report:

- rank agreement: Kendall's tau-b and Spearman's rho over all reports
- pairwise agreement: of the pairs of reports about one study that the radiologists do not rate equal, the share that
  the judge puts in their order; a tie of the judge counts one half

Each radiologist stands beside the judges, against the mean of the others. Intervals and tests are those of the
leaderboard: patients are drawn, whole, the same ones for every number.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.board.rounding import rounded
from conrad_bench.leaderboards.board.rows import few_units
from conrad_bench.leaderboards.inference.bootstrap import Estimates
from conrad_bench.leaderboards.inference.comparisons import Pair, Runs, Samples, comparisons
from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray, Metric, Sample, Statistic, levels, mean_of
from conrad_bench.leaderboards.metrics.discrimination import Kendall, Spearman
from conrad_bench.leaderboards.pages.wording import estimate_text, p_text
from conrad_bench.leaderboards.predictions.columns import PATIENTS, as_numbers, as_texts, refuse
from conrad_bench.leaderboards.predictions.files import PLACE
from conrad_bench.registry import unknown
from conrad_bench.storage import make_private, write_text
from conrad_bench.text import markdown as plain

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_MOST_CANDIDATES = 2_000
"""Reports about one study: their pairs are all looked at."""


class PairwiseAgreement(Metric):
    """Share of pairs of reports about one study that are in the radiologists' order; a row of its sample is a pair."""

    name: ClassVar[str] = "pairwise"
    summary: ClassVar[str] = "pairs of one study's reports in the radiologists' order, ties of the judge one half"
    label: ClassVar[str] = "pairwise"
    better: ClassVar[Literal["lower", "higher", "zero"]] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    source: ClassVar[str] = "share of concordant pairs"
    confidence: ClassVar[bool] = False
    per: ClassVar[Literal["claim", "example"]] = "example"

    def statistic(self, sample: Sample) -> Statistic:
        """A mean over pairs."""
        return mean_of(sample, sample.correctness)


METRICS: tuple[Metric, ...] = (Kendall(), Spearman(), PairwiseAgreement())


@dataclass(frozen=True)
class _Table:
    """The rows of a file as numbers; larger is better in each of them."""

    judges: dict[str, FloatArray]
    raters: dict[str, FloatArray]
    study: IntArray | None
    """The study of each report, shape (n,)."""
    unit: IntArray
    units: int

    def rating(self, without: str | None = None) -> FloatArray:
        """Return each report's mean rating (n,), one radiologist left out perhaps; NaN where nobody rated it."""
        rated = np.stack([values for name, values in self.raters.items() if name != without])
        known = ~np.isnan(rated)
        count = known.sum(axis=0)
        total = np.where(known, rated, 0.0).sum(axis=0)
        return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))

    def samples(self, scores: FloatArray, rating: FloatArray, rows: Any) -> Samples:
        """Return the chosen reports, and the pairs of them that are rated differently."""
        score, rated, unit = _in_unit(scores[rows]), _in_unit(rating[rows]), self.unit[rows]
        found = {"claim": Sample(score, rated, unit, self.units)}
        if self.study is not None:
            first, second = _pairs(self.study[rows])
            by_rating, by_score = (levels(x[first]) - levels(x[second]) for x in (rated, score))
            differ = by_rating != 0
            right = (1 + np.sign(by_rating[differ]) * np.sign(by_score[differ])) / 2
            found["example"] = Sample(None, right, unit[first][differ], self.units)
        return found


def judges_table(
    frame: pd.DataFrame,
    ratings: Sequence[str],
    judges: Sequence[str],
    lower: Sequence[str] = (),
    replicates: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how far each judge orders reports as radiologists do, rounded, as judges.json holds it.

    `ratings` and `judges` name columns of the frame (`predictions.files.read_predictions`), `lower` those among them in
    which lower is better. Optional columns: `example`, the study that a report is about, which pairs are made within;
    `cluster` (or one of `PATIENTS`), which intervals are over. Cells may be empty: reports that nobody rated, and those
    that a judge did not score, are counted and left out. Raises DataError, naming row and column, ConfigError for a
    column that there is not.
    """
    table, resampled = _read(frame, ratings, judges, lower)
    rating = table.rating()
    if not (rated := ~np.isnan(rating)).any():
        raise DataError(f"no row has a rating in {', '.join(ratings)}")
    sides = {name: (scores, rating) for name, scores in table.judges.items()}
    others = {name: (scores, table.rating(name)) for name, scores in table.raters.items()} if len(ratings) > 1 else {}
    known = {("judge", name): side for name, side in sides.items()} | {("rater", n): side for n, side in others.items()}
    own = {key: table.samples(*side, ~np.isnan(side[0]) & ~np.isnan(side[1])) for key, side in known.items()}
    pairs: dict[Pair, tuple[Runs, Runs]] = {}
    for a, b in combinations(sides, 2):
        both = rated & ~np.isnan(sides[a][0]) & ~np.isnan(sides[b][0])
        pairs[a, b] = [table.samples(*sides[a], both)], [table.samples(*sides[b], both)]
    everything = [*own.values(), *(samples for two in pairs.values() for (samples,) in two)]
    wanted = [(samples[m.per], m) for samples in everything for m in METRICS if m.per in samples]
    estimates = Estimates(wanted, table.units, replicates, seed)
    entries = {key: _entry(key[1], samples, estimates) for key, samples in own.items()}
    for (kind, name), entry in entries.items():
        entry["better"] = "lower" if name in lower else "higher"
        entry["missing"] = int((rated & np.isnan(sides[name][0])).sum()) if kind == "judge" else None
    values = {
        m.name: {name: entries["judge", name]["metrics"][m.name]["value"] for name in sides}
        for m in METRICS
        if m.per in everything[0]
    }
    defined = {m: {name: v for name, v in of.items() if not np.isnan(v)} for m, of in values.items()}
    return dict(
        rounded(
            {
                "format": FORMAT,
                "reports": len(frame),
                "rated": int(rated.sum()),
                "studies": None if table.study is None else len(np.unique(table.study[rated])),
                "ratings": list(ratings),
                "ratings_better": "lower" if ratings[0] in lower else "higher",
                "resampled": resampled,
                "units": len(np.unique(table.unit[rated])),
                "replicates": replicates,
                "seed": seed,
                "judges": [entry for (kind, _), entry in entries.items() if kind == "judge"],
                "radiologists": [entry for (kind, _), entry in entries.items() if kind == "rater"],
                "comparisons": comparisons(pairs, METRICS, defined, estimates)["pairs"],
            }
        )
    )


def _entry(name: str, samples: Samples, estimates: Estimates) -> dict[str, Any]:
    """Return what is said of one judge or radiologist."""
    reports, pairs = samples["claim"], samples.get("example")
    return {
        "name": name,
        "reports": len(reports),
        "pairs": None if pairs is None else len(pairs),
        "ties": None if pairs is None else int((pairs.correctness == 0.5).sum()),
        "effective_units": reports.effective,
        "warning": few_units(reports.effective, "cluster"),
        "metrics": {m.name: estimates.of(samples[m.per], m) for m in METRICS if m.per in samples},
    }


def check_names(columns: Sequence[str], ratings: Sequence[str], judges: Sequence[str], lower: Sequence[str]) -> None:
    """Raise ConfigError for names of columns that there are not, or that do not go together."""
    named, there = [*ratings, *judges], [column for column in columns if column != PLACE]
    if not ratings:
        raise ConfigError("--ratings: name the columns that hold the radiologists' ratings")
    for option, names, known in (
        ("--ratings", ratings, there),
        ("--judges", judges, there),
        ("--lower-is-better", lower, named),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(f"{option}: {unknown('column', name, known)}")
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"column {twice!r} is named twice; a column holds one radiologist's ratings or one judge's")
    if 0 < len(set(ratings) & set(lower)) < len(ratings):
        raise ConfigError(
            "--lower-is-better names some of the ratings only, and their mean is compared; the radiologists' ratings "
            "need one scale"
        )


def _read(
    frame: pd.DataFrame, ratings: Sequence[str], judges: Sequence[str], lower: Sequence[str]
) -> tuple[_Table, str]:
    """Return the file's numbers, and what is resampled."""
    named = [*ratings, *judges]
    check_names([str(column) for column in frame.columns], ratings, judges, lower)
    patients = [name for name in PATIENTS if name in frame]
    if patients and "cluster" not in frame:
        frame = frame.rename(columns={patients[0]: "cluster"})
    numbers = {name: as_numbers(frame, name).to_numpy() * (-1 if name in lower else 1) for name in named}
    ids = {name: as_texts(frame, name, None).to_numpy() for name in ("example", "cluster") if name in frame}
    if len(ids) == 2:
        first = frame.assign(cluster=ids["cluster"]).groupby(ids["example"])["cluster"].transform("first")
        refuse(frame, "cluster", ids["cluster"] != first.to_numpy(), "is not the one that the study has in another row")
    codes = {name: np.unique(values.astype(str), return_inverse=True)[1] for name, values in ids.items()}
    unit = codes.get("cluster", codes.get("example", np.arange(len(frame))))
    resampled = "patients" if "cluster" in codes else "studies" if "example" in codes else "reports"
    return (
        _Table(
            {name: numbers[name] for name in judges},
            {name: numbers[name] for name in ratings},
            codes.get("example"),
            unit.astype(np.int64),
            int(unit.max()) + 1,
        ),
        resampled,
    )


def _in_unit(values: FloatArray) -> FloatArray:
    """Return values (n,) moved to [0, 1] in their order."""
    if not len(values) or not (spread := np.ptp(values)) > 0:
        return np.zeros_like(values)
    return np.asarray((values - values.min()) / spread)


def _pairs(study: IntArray) -> tuple[IntArray, IntArray]:
    """Return the rows of each two reports about one study, both of shape (pairs,)."""
    found: list[Any] = []
    order = np.argsort(study, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(study[order])) + 1):
        if len(rows) > _MOST_CANDIDATES:
            raise DataError(
                f"one study has {len(rows):,} reports, and at most {_MOST_CANDIDATES:,} can be paired; the column "
                "`example` should say which study a report is about"
            )
        found.append(rows[np.stack(np.triu_indices(len(rows), 1))])
    first, second = np.concatenate(found, axis=1) if found else np.empty((2, 0), np.int64)
    return first, second


def markdown(table: Mapping[str, Any]) -> str:
    """Return the table of `judges_table` as a Markdown page."""
    import tabulate

    metrics = [m for m in METRICS if m.name in table["judges"][0]["metrics"]]
    header = ["", *(m.label for m in metrics), "reports", "pairs (ties)", "not scored"]
    body = [
        [
            f"{plain(entry['name'])} {'↓' if entry['better'] == 'lower' else '↑'}" + ", radiologist" * human,
            *(estimate_text(entry["metrics"][m.name]) for m in metrics),
            f"{entry['reports']:,}",
            "–" if entry["pairs"] is None else f"{entry['pairs']:,} ({entry['ties']:,})",
            "–" if entry["missing"] is None else f"{entry['missing']:,}",
        ]
        for human, entries in enumerate((table["judges"], table["radiologists"]))
        for entry in entries
    ]
    align = ["left", *["right"] * (len(header) - 1)]
    lines = [
        "# Judges against radiologists",
        "",
        tabulate.tabulate(body, header, "pipe", colalign=align, disable_numparse=True),
        "",
    ]
    if table["comparisons"]:
        labels = {m.name: m.label for m in METRICS}
        lines += ["## Differences between judges", ""]
        rows = [
            [plain(pair["a"]), plain(pair["b"]), labels[pair["metric"]], estimate_text(pair), p_text(pair["p_holm"])]
            for pair in table["comparisons"]
        ]
        columns = ["judge", "less judge", "", "difference", "p (Holm)"]
        lines += [tabulate.tabulate(rows, columns, "pipe", disable_numparse=True), ""]
    return "\n".join([*lines, *_notes(table), ""])


def _notes(table: Mapping[str, Any]) -> list[str]:
    """Return what the numbers mean."""
    one = len(table["ratings"]) == 1
    lines = [
        f"- {table['rated']:,} of {table['reports']:,} reports have ratings ({', '.join(map(plain, table['ratings']))};"
        f" {table['ratings_better']} is better). Agreement is with {'them' if one else 'their mean'}; 1 is the same "
        "order, whichever way a column points (↑ higher is better, ↓ lower).",
    ]
    if table["radiologists"]:
        lines.append("- A radiologist is compared with the mean of the others: what a judge can be asked for.")
    if table["studies"] is None:
        lines.append("- No pairs: no column `example` says which study a report is about (--map example=COLUMN).")
    else:
        lines.append(
            f"- Pairwise: of the pairs of reports about one of the {table['studies']:,} studies that are not rated "
            "equal, the share in the radiologists' order. Ties of the judge (in brackets) count one half, so 0.5 is "
            "chance. Studies count by their pairs."
        )
    lines.append(
        f"- In brackets behind a number: 95 % bootstrap, {table['replicates']:,} replicates over {table['units']:,} "
        f"{table['resampled']}, seed {table['seed']}; the radiologists are these, not a sample of others. Differences "
        "are on the reports that both judges scored."
    )
    if table["resampled"] == "reports":
        lines.append("- No column said which patient a report is of: reports count as independent of each other.")
    warnings = {entry["warning"] for entry in table["judges"]} - {None}
    return lines + [f"- {warning}." for warning in sorted(warnings)]


def as_csv(table: Mapping[str, Any]) -> str:
    """Return a line for each number of the table."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(["who", "kind", "better", "metric", "value", "low", "high", "reports", "pairs", "ties", "not_scored"])
    for kind, entries in (("judge", table["judges"]), ("radiologist", table["radiologists"])):
        for entry in entries:
            counts = [entry["reports"], entry["pairs"], entry["ties"], entry["missing"]]
            for metric, found in entry["metrics"].items():
                numbers = [found["value"], found["low"], found["high"]]
                rows.writerow([entry["name"], kind, entry["better"], metric, *numbers, *counts])
    return written.getvalue()


def check_folder(out: Path) -> None:
    """Raise ConfigError for a folder that holds something else than an earlier comparison, which is written anew."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    names = {path.name for path in out.glob("*")} if out.is_dir() else set()
    if names - {"judges.json", "judges.md", "judges.csv", "rollouts"}:
        raise ConfigError(f"--out {out} is not empty and holds no comparison of judges; choose another folder")


def write(table: Mapping[str, Any], out: Path) -> None:
    """Write judges.json, judges.md and judges.csv. Raises ConfigError as `check_folder`, StorageError."""
    check_folder(out)
    make_private(out)
    write_text(out / "judges.md", markdown(table))
    write_text(out / "judges.csv", as_csv(table))
    write_text(out / "judges.json", json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
