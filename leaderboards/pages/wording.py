"""What all forms of a leaderboard say alike: the order of rows, titles of columns, estimates as text, notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0"}

MEASURES = {
    "top": "stated is likeliest ↑",
    "order": "rank order ↑",
    "unimodal": "one hump ↑",
    "malformed": "malformed ↓",
}
_KINDS = {
    "percentile": "percentile",
    "basic": "basic (percentile where a metric is not smooth, and below 50 effective clusters)",
    "bca": "BCa (percentile where a metric is not smooth, and below 50 effective clusters)",
}

_EMBEDDED = "phantom-gemma3"
"""How the label of the embedded model begins."""

ALWAYS_MEAN = "always states the mean"
"""The row without a method: what skill is measured against."""
_OF_A_CONSTANT = {"skill": "0.000", "ece_debiased": "0.000", "ece": "0.000", "auroc": "0.500", "somers_d": "0.000"}
"""What it has in the columns of metrics."""

REFERENCE_NOTE = (
    f"“{ALWAYS_MEAN}” is no method but the bar: whoever states the mean correctness of the test claims for each of "
    "them has this Brier score and skill 0, and tells no claim from another. It is the mean of each method's own test "
    "claims; nobody knows it beforehand."
)
SKILL_NOTE = (
    "Skill = 1 − Brier / (Brier of always stating the mean): 1 is perfect; at 0 or below, the numbers say no more than "
    "the mean does."
)

_FIGURES = ("figure", "before_after", "token_figure")
"""Keys of a row that hold paths."""

_ORDER = ("brier", "skill", "ece_debiased", "ece", "auroc", "somers_d", "correctness", "quality", "pearson")
"""The metrics of the main table in the order of its columns."""

CAVEATS = "These runs do not belong on one leaderboard; it was made all the same (--mixed):"


def task_clusters(board: Mapping[str, Any], task: str) -> str:
    """Return the number of a task's clusters, and the effective number of its largest row in brackets."""
    effective = [row.get("effective_clusters") or 0.0 for row in board["rows"] if row["task"] == task]
    return f"{board['tasks'][task]['n_clusters']:,} ({max(effective, default=0.0):.0f})"


def clusters_text(row: Mapping[str, Any]) -> str:
    """Return the number of a row's clusters, and the effective number in brackets."""
    effective = row.get("effective_clusters")
    return f"{row['n_clusters']:,}" + ("" if effective is None else f" ({effective:.1f})")


def cost_text(row: Mapping[str, Any]) -> str:
    """Return "× 6.1, 300 steps": what a row's method takes; a dash where that is not known."""
    cost = row.get("cost")
    if cost is None:
        return "–"
    tokens = f"{cost['tokens_read'] + cost['tokens_written']:,.0f} tokens"
    said = tokens if cost["times"] is None else f"× {cost['times']:.1f}"
    return f"{said}, {cost['training_steps']:,.0f} steps" if cost["training_steps"] else said


COUNTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "n": lambda row: f"{row['n']:,}",
    "clusters (effective)": clusters_text,
    "unparsed": lambda row: f"{row['unparsed_rate']:.1%}",
    "cost": cost_text,
}
"""The columns of counts of a main table, and what a row has in them."""
COUNTS_SAID = {
    "n": "number of claims that the metrics are computed on",
    "clusters (effective)": "patients (images in questions), and how many of equal size would say as much",
    "unparsed": "share of claims without a usable confidence or answer; they are in no metric",
    "cost": (
        "tokens that the model reads and writes for an example if the method runs alone, as a multiple of those of the "
        "method base (pictures among them; read and written ones count alike), and the steps of its training as planned"
    ),
}
"""What these columns are."""
WORST_SAID = "every unparsed claim counted as confidently wrong, or as right without confidence, whichever is worse"
WORDS = {
    "claim": "what is judged on its own: a report, a sentence of it, or an answer",
    "confidence": "how sure a method says that a claim is right, from 0 to 1",
    "correctness": "how right the claim is, from 0 to 1, as the task's scorer judges it",
    "Brier score": "mean squared distance of confidence and correctness: one number for both faults, lower is better",
    "skill": "the share of the Brier score of “always states the mean” that a method takes away; 0 or less is useless",
    "cal. error, ECE": "how far confidences lie from what they promise; says nothing about telling claims apart",
    "AUROC, Somers' D": "how well confidences put right claims before wrong ones (0.5 and 0: not at all)",
    "letters": "methods that share a letter in a column cannot be told apart there (Holm-adjusted tests at 0.05)",
}
"""What a stranger to the page must know."""
FIELD = {
    "GREEN": (
        "how much of a report is right: findings that match the reference, over these and the significant errors, "
        "counted by a judge (Ostmeier et al. 2024); phantom-GREEN counts by the phantom's own rules"
    ),
}
"""Terms of the field that labels may hold."""
_OF_ANSWERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "correctness": lambda row: estimate_text(row["metrics"].get("correctness")),
    "quality": lambda row: estimate_text(row["metrics"].get("quality")),
}
"""The metrics that belong to the answers rather than to the confidences: the same for methods of the same answers."""


def harmless(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """Return the content of leaderboard.json with all of its texts changed, paths of figures aside."""
    if isinstance(value, dict):
        return {change(name): harmless(item, change, name) for name, item in value.items()}
    if isinstance(value, list):
        return [harmless(item, change) for item in value]
    return change(value) if isinstance(value, str) and key not in _FIGURES else value


def is_tiny(board: Mapping[str, Any]) -> bool:
    """Tell whether the embedded model alone wrote what a leaderboard is about."""
    models = [run["model"] for run in board.get("runs", [])] or [board["model"]]
    return all(model.startswith(_EMBEDDED) for model in models)


def phantom_note(board: Mapping[str, Any]) -> str:
    """Return what numbers from phantom images mean, and of the model only what it was."""
    tiny = " and a tiny model trained on them" if is_tiny(board) else ""
    return (
        f"These numbers come from phantom images that a program drew{tiny}. They show that the software works; they "
        "say nothing about real radiographs or about any medical model."
    )


def ranked(board: dict[str, Any], task: str) -> Iterator[dict[str, Any]]:
    """Return the rows of a task, lowest Brier score first, those without one last."""

    def key(row: dict[str, Any]) -> tuple[bool, float, str]:
        value = row["metrics"].get("brier", {}).get("value")
        return value is None, value or 0.0, row["method"]

    return iter(sorted((row for row in board["rows"] if row["task"] == task), key=key))


def with_reference(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """Yield rows in their order with their names, and (None, `ALWAYS_MEAN`) at its place by its Brier score."""
    found = always_mean(rows)
    for row in rows:
        value = row["metrics"].get("brier", {}).get("value")
        if found and (value is None or value > sum(found) / 2):
            yield None, ALWAYS_MEAN
            found = None
        yield row, row["method"]
    if found:
        yield None, ALWAYS_MEAN


def always_mean(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return the smallest and the largest Brier score of always stating the mean correctness of a method's test claims.

    They are one where all methods that state confidences have the same claims. None where no row has a skill.
    """
    known = [
        row["metrics"]["brier_unc"]["value"]
        for row in rows
        if row["metrics"].get("brier", {}).get("value") is not None
        and row["metrics"].get("brier_unc", {}).get("value") is not None
    ]
    return (min(known), max(known)) if known else None


def reference_text(metric: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the row "always states the mean" has in a metric's column; a dash where it has nothing to say."""
    found = always_mean(rows)
    if metric == "brier" and found:
        low, high = (f"{value:.3f}" for value in found)
        return low if low == high else f"{low} to {high}"
    return _OF_A_CONSTANT.get(metric, "–")


def columns(board: dict[str, Any], rows: list[dict[str, Any]], headline: bool) -> list[str]:
    """Return the metrics that any row has, those of the main table or the others, in the board's order.

    The main table has the headline metrics, with Somers' D in the place of AUROC where correctness is not binary, and
    of Pearson's correlation always; what is the same in every row has no column (`same_note` says it).
    """
    there = [metric for metric in board["metrics"] if any(metric["name"] in row["metrics"] for row in rows)]
    names = {metric["name"] for metric in there}
    main = {metric["name"] for metric in there if metric["headline"]}
    if names & {"auroc", "somers_d"}:
        main = main - {"pearson", "somers_d"} | ({"auroc"} if "auroc" in names else {"somers_d"})
    if not headline:
        return [metric["name"] for metric in there if metric["name"] not in main]
    main -= {name for name, text in _OF_ANSWERS.items() if _same(rows, text)}
    return sorted((metric["name"] for metric in there if metric["name"] in main), key=_place)


def _place(metric: str) -> tuple[int, str]:
    """Return where a metric stands in the main table: the built-in ones in their order, others behind them by name."""
    return (_ORDER.index(metric), "") if metric in _ORDER else (len(_ORDER), metric)


def counts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return which columns of counts differ between the rows of a main table: keys of `COUNTS`."""
    return [title for title, text in COUNTS.items() if not _same(rows, text) and {text(row) for row in rows} != {"–"}]


def same_note(board: dict[str, Any], task: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return what is the same in every row of a task's main table, and has no column there; empty where nothing is."""
    said = [
        f"{column_label(board, task, name)} {text(rows[0])}"
        for name, text in _OF_ANSWERS.items()
        if any(name in row["metrics"] for row in rows) and _same(rows, text)
    ]
    same = {title: text(rows[0]) for title, text in COUNTS.items() if _same(rows, text)}
    said += [f"{title} {text}" for title, text in same.items() if text != "–"]
    return f"The same in every row: {'; '.join(said)}." if said else ""


def _same(rows: Sequence[Mapping[str, Any]], text: Callable[[Mapping[str, Any]], str]) -> bool:
    return len(rows) > 1 and len({text(row) for row in rows}) == 1


def rank_text(board: dict[str, Any], task: str, method: str, metric: str = "brier") -> str:
    """Return the ranks that a method may have, "2–3", a dash where there are none."""
    found = (board["tasks"][task].get("comparisons") or {}).get("ranks", {}).get(metric, {}).get(method)
    return "–" if found is None else "–".join(str(rank) for rank in dict.fromkeys(found))


def metric_info(board: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the leaderboard says about a metric."""
    return next(metric for metric in board["metrics"] if metric["name"] == name)


def column_label(board: dict[str, Any], task: str, metric: str) -> str:
    """Return a metric's column title; mean correctness and quality go by their scorers' labels."""
    about = board["tasks"][task]
    if metric == "correctness":
        return str(about["label"])
    if metric != "quality":
        return str(metric_info(board, metric)["label"])
    label = str(about["quality"]["label"])
    return label if label != about["label"] else f"{label} (whole)"  # the same scorer judges both


def column_title(board: dict[str, Any], task: str, metric: str) -> str:
    """Return a metric's label with an arrow towards its better values."""
    return f"{column_label(board, task, metric)} {_ARROWS[metric_info(board, metric)['better']]}"


def metric_title(board: dict[str, Any], metric: str) -> str:
    """Return a metric's label with an arrow, where no task is at hand."""
    info = metric_info(board, metric)
    return f"{info['label']} {_ARROWS[info['better']]}"


def variants_of(board: dict[str, Any], task: str) -> dict[str, str]:
    """Return in what a task and its scorers differ from those that they are variants of, by name."""
    about = board["tasks"][task]
    names = (task, about["scorer"], *(about[key]["scorer"] for key in ("quality", "fitted_by") if about.get(key)))
    said = board.get("variants", {})
    return {name: said[name] for name in names if name in said}


def fitted_note(about: Mapping[str, Any]) -> str:
    """Return by which scorer the methods of a task learned, where the table's is another one; else ""."""
    by = about.get("fitted_by")
    if by is None:
        return ""
    return (
        f"Methods that learn were fitted on correctness by {by['label']} (scorer {by['scorer']}), and samples were "
        "compared by it; the claims were judged anew."
    )


def estimate_text(estimate: dict[str, float | None] | None) -> str:
    """Return "0.106 [0.093, 0.118]", without brackets where there is no interval and a dash where there is no value."""
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:z.3f}"
    return f"{estimate['value']:z.3f} [{estimate['low']:z.3f}, {estimate['high']:z.3f}]"


def p_text(p: float | None) -> str:
    """Return a p value with three digits, "< 0.001" below them, and a dash where there is none."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def few_notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what to bear in mind where the clusters of some rows are few, and why some have no null band of ECE."""
    for key, start in (("warning", "Few clusters"), ("ece_null_reason", "No p of calibration")):
        said: dict[str, list[str]] = {}
        for row in rows:
            if row.get(key):
                said.setdefault(row[key], []).append(row["method"])
        if said:
            yield f"{start}: " + "; ".join(f"{', '.join(methods)}: {text}" for text, methods in said.items()) + "."


def worst_text(board: dict[str, Any], task: str, row: dict[str, Any]) -> str:
    """Return a row's worst case on one line, empty where it has none."""
    values = row.get("worst_case", {})
    names = [metric["name"] for metric in board["metrics"] if values.get(metric["name"]) is not None]
    return ", ".join(f"{column_label(board, task, name)} {values[name]:.3f}" for name in names)


def threshold_text(point: dict[str, Any]) -> str:
    """Return "all", "= 10" or "≥ 6": which sentences a flagging entry keeps."""
    if point["confidence"] is None:
        return "all"
    return "= 10" if point["confidence"] == 1 else f"≥ {10 * point['confidence']:.0f}"


def run_text(run: dict[str, Any]) -> str:
    """Return one line about a run that a leaderboard was made of."""
    said = f"{run['name']}: {run['model']}, conrad-bench {run['version']}, commit {run['commit'] or 'unknown'}"
    return said if run["finished"] else f"{said}, not finished"


def interval_note(board: dict[str, Any]) -> str:
    """Return the sentence that says what stands in brackets."""
    unit = "clusters" if board["unit"] == "cluster" else "single claims, clusters ignored"
    said = f"In brackets: 95 % {_KINDS[board['interval']]} bootstrap, {board['replicates']:,} replicates over {unit}"
    if any(row.get("judges") for row in board["rows"]):
        said += "; where several judges scored, Student's t of that variance and the judges' together"
    return f"{said}."


def gap_notes(board: Mapping[str, Any], task: str) -> Iterator[str]:
    """Yield what the gaps between a task's subgroups are, if it has any."""
    if any(gap["task"] == task for gap in board.get("subgroup_gaps", [])):
        yield (
            "Gap between the best and the worst subgroup. The two were picked by looking: interval and p are those of "
            "the range of all subgroups' errors, and hold whichever two are picked. Holm's adjustment is for the "
            "number of methods. Left out: subgroups of fewer than 8 effective clusters, examples without a value, and "
            "ECE, whose bias grows as subgroups shrink."
        )


def footnotes(board: dict[str, Any]) -> Iterator[str]:
    """Yield the footnotes."""
    yield (
        f"{interval_note(board)} Seed {board['seed']}. All methods of a task share the resampling weights; the paired "
        "differences of all methods, with intervals and p values, are in leaderboard.json. Both come from the "
        "difference's bootstrap standard error and Student's t, so that p is below 0.05 where the interval excludes 0."
    )
    yield (
        "ECE groups claims by distinct confidence where a method has at most 21 of them and they repeat, else into "
        "10 equal-width bins closed on the right; the groups are those of all its claims and stay fixed under "
        "resampling. ECE is never negative, so near 0 it is biased upwards, and so are its replicates: it has no "
        "interval. Cal. error (calibration error) is the root mean square of the same groups' gaps without that bias; "
        "it may be negative, and its interval is the one to read. Differences of it are signed roots of differences of "
        "squares."
    )
    yield (
        "Clusters (effective): number of clusters, and how many of equal size would say as much (Kish). Below 30 there "
        "is a warning and no p of calibration, below 8 no interval and no p value."
    )
    yield (
        "Unparsed claims (no usable confidence, empty or cut off, or not judged by the scorer) are in no metric. Above "
        "1 % the worst case counts all of them as confidence 1 with correctness 0, or as confidence 0 with correctness "
        "1, whichever is worse (correlation has none); it is never better than the value."
    )
    if any("image_unreadable" in row["unparsed"] for row in board["rows"]):
        yield (
            "Among the unparsed claims are those of examples with an image that cannot be read (image_unreadable): the "
            "model was not asked about them."
        )
    if any("quality" in row["metrics"] for row in board["rows"]):
        yield (
            "The quality of whole responses is a mean over examples, each counted once, whatever the status of its "
            "claims."
        )
    yield "Distinct (largest share): number of distinct confidences, and the share of claims at the commonest one."
    yield f"conrad-bench {board['version']}, commit {board['commit']}."


def written_notes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield how a task's methods wrote their confidences, where not all as a plain integer, and who thought aloud."""
    for row in rows:
        readings = row.get("readings") or {}
        if set(readings) - {"8", "an expression"}:
            counts = sorted(readings.items(), key=lambda item: (-item[1], item[0]))
            said = ", ".join(f"{reading} ({n:,})" for reading, n in counts)
            yield f"Confidences of {row['method']} were written as: {said}; 8 stands for any integer."
        if row.get("thoughts"):
            yield f"{row['thoughts']:,} responses of {row['method']} held thoughts, which were set aside."
