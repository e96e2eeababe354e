"""The results card of a bundle, `card.md`: reporting checklists, filled in as far as configuration, manifest and
leaderboard say; the rest are questions to the author.

Items go by the numbers that the checklists give them, in our own short words:

- MI-CLEAR-LLM: Park et al. 2024, Korean Journal of Radiology 25:865-868, items 1 to 6
- CLAIM: Mongan, Moy & Kahn 2020, Radiology: Artificial Intelligence 2:e200029, items 1 to 42 (the update of 2024 counts
  them in another way)
- TRIPOD-LLM: Gallifant et al. 2025, Nature Medicine 31:60-69, main items 1 to 19, whose parts have letters there
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conrad_bench.leaderboards.pages.summary import sentences
from conrad_bench.leaderboards.pages.wording import (
    columns,
    cost_text,
    estimate_text,
    fitted_note,
    footnotes,
    harmless,
    metric_title,
    phantom_note,
    ranked,
)
from conrad_bench.text import code
from conrad_bench.text import markdown as plain

CARD = "card.md"

_Items = Sequence[tuple[str, str, str, str]]
"""Number, what is asked, the name of the answer ("" where nothing is known of it), and what is left to the author."""

_MI_CLEAR: _Items = (
    (
        "1",
        "Name, version and maker of the model; dates",
        "model",
        "When was it asked, until when do its training data go, and can it look things up on the web?",
    ),
    ("2", "How chance in its answers was dealt with", "chance", ""),
    ("3", "Wording of the prompts", "prompts", ""),
    ("4", "How prompts were put into sessions", "sessions", ""),
    (
        "5",
        "How prompts were tried and chosen",
        "",
        "On which data were prompts and options chosen, and why these words?",
    ),
    (
        "6",
        "Whether the model may know the test data",
        "",
        "Could the test data, or texts about them, be among the model's training data?",
    ),
)
_CLAIM: _Items = (
    ("1", "Title names the technique", "title", ""),
    ("3", "Background, intended use and clinical role", "", "What is the use, and who would act on a confidence?"),
    ("4", "Objectives and hypotheses", "", "What was to be shown, and was it written down before?"),
    ("5", "Prospective or retrospective", "", "How and when were the data collected?"),
    ("7", "Data sources", "data", ""),
    ("8", "Eligibility criteria", "left_out", "How did patients come into the data set?"),
    ("9", "Preprocessing", "", "Was anything done to the data beyond what the task does?"),
    ("12", "De-identification", "", "How were the data de-identified?"),
    ("13", "Missing data", "missing", ""),
    ("14", "Reference standard", "reference", ""),
    ("16", "Who annotated", "", "Who wrote the references, with which training?"),
    ("18", "Variability between annotators", "", "Was it measured?"),
    ("19", "Sample size", "sizes", "How was it determined?"),
    ("20", "How data were split", "splits", ""),
    ("21", "At which level splits are disjoint", "disjoint", ""),
    ("22", "The model", "model", ""),
    ("23", "Software", "software", ""),
    ("24", "Initial parameters", "initial", ""),
    ("25", "Training", "training", ""),
    ("26", "How the final model was selected", "", "Were options or methods chosen by looking at test numbers?"),
    ("28", "Measures of performance", "metrics", ""),
    ("29", "Significance and uncertainty", "inference", ""),
    ("30", "Robustness", "", "Which seeds, prompts or subgroups were tried besides?"),
    ("32", "External data", "", "Which test data come from elsewhere than the training data?"),
    ("33", "Flow of cases", "flow", ""),
    (
        "34",
        "Demographic and clinical characteristics",
        "",
        "Of which age, sex and illness are the patients of each split?",
    ),
    ("35", "Performance", "performance", ""),
    ("37", "Failures", "failures", "Which wrong claims had a high confidence?"),
    ("38", "Limitations", "", "What do these numbers not show?"),
    ("40", "Registration", "", "Where was the study registered?"),
    ("41", "Protocol", "protocol", ""),
    ("42", "Funding", "", "Who paid, and what was their part?"),
)
_TRIPOD: _Items = (
    ("1", "Title", "title", ""),
    ("3", "Background", "", "Which place in care, which users, and what is done there today?"),
    ("4", "Objectives", "objectives", ""),
    ("5", "Data", "data", "From when are the oldest and the newest of them?"),
    ("6", "Analytical methods", "model", ""),
    ("7", "Output of the model", "output", ""),
    ("8", "Annotation", "reference", "Who annotated, how many, and how far did they agree?"),
    ("9", "Prompting", "prompts", "On which data were the prompts developed?"),
    ("11", "Instruction tuning and alignment", "training", ""),
    ("12", "Compute", "compute", ""),
    ("13", "Ethics", "", "Which committee approved or waived it? Which terms of use do the data have?"),
    ("14", "Open science", "protocol", "Funding, conflicts of interest, registration, where data can be had?"),
    ("15", "Patients and public", "", "Were they involved?"),
    ("16", "Participants", "flow", "Of which age, sex and origin are they?"),
    ("17", "Performance", "performance", ""),
    ("18", "Updating", "", "Was the model updated, and what did that change?"),
    ("19", "Interpretation, limits, use", "", "What follows, for whom, and what must be known before anyone uses it?"),
)
_LISTS = (
    ("MI-CLEAR-LLM", "Park et al. 2024, Korean Journal of Radiology 25:865-868", _MI_CLEAR),
    ("CLAIM", "Mongan, Moy & Kahn 2020, Radiology: Artificial Intelligence 2:e200029; numbers of 2020", _CLAIM),
    ("TRIPOD-LLM", "Gallifant et al. 2025, Nature Medicine 31:60-69; main items", _TRIPOD),
)


def card_text(board: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return the text of card.md, from the content of a bundle's leaderboard.json and manifest.json."""
    shown = harmless(dict(board), plain)
    answers = dict(_answers(shown, harmless(dict(manifest), plain)))
    lines = [f"# Results card: {shown['title']}", ""]
    if shown["phantom"]:
        lines += [phantom_note(shown), ""]
    lines += [
        f"What conrad-bench {shown['version']} could fill in from config.yaml, manifest.json and leaderboard.json of "
        "this bundle. **Question:** only the authors can answer; answer it in a copy, since `verify` compares this "
        "file. Items that are neither filled in nor asked for here are about the text of a paper.",
        "",
        *(f"- {sentence}" for sentence in sentences(shown)),
        "",
    ]
    for name, source, items in _LISTS:
        lines += [f"## {name}", "", f"{source}.", "", "| item | asks for | this run |", "| ---: | :--- | :--- |"]
        for number, asked, known, question in items:
            cells = [answers.get(known, ""), f"**Question:** {question}" if question else ""]
            lines.append(f"| {number} | {asked} | {'<br>'.join(filter(None, cells))} |")
        lines.append("")
    return "\n".join(lines)


def _answers(board: dict[str, Any], manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is known, by name. All texts are harmless in Markdown."""
    tasks, rows, data = board["tasks"], board["rows"], manifest.get("data", {})
    identity = {key: value for key, value in manifest.get("model", {}).items() if value != "none"}
    methods = ", ".join(code(name) for name in board["methods"])
    yield "title", f"A vision-language model with confidences: {board['title']}."
    yield "objectives", f"Evaluation of confidence methods ({methods}), the fitted ones developed on training patients."
    yield "model", f"{board['model']}; " + "; ".join(f"{key} {value}" for key, value in sorted(identity.items())) + "."
    random = ", ".join(map(code, board.get("random", []))) or "none"
    seeds = sorted({seed for _, seed in board.get("seeds", {}).values()}) or [board["seed"]]
    yield (
        "chance",
        f"Seeds of training and sampling: {', '.join(map(str, seeds))}. Methods that learn or sample: {random}; their "
        "temperatures and numbers of samples are in manifest.json, and every sample's seed follows from the request. "
        "Other answers are greedy. Several seeds of a method are one row, whose interval includes how they differ.",
    )
    source = f"conrad-bench {board['version']}, commit {board['commit'] or 'unknown'}"
    yield "prompts", f"Word for word in the source: `harness/reading/elicitation.py` and `tasks/` of {source}."
    yield (
        "sessions",
        "Each example is asked alone, in a session of its own; only methods of two stages ask again within it.",
    )
    yield "data", f"{board['data']}: " + "; ".join(_data(name, of) for name, of in data.items()) + "."
    yield "left_out", " ".join(_left_out(name, of) for name, of in data.items()) or "Nothing was left out."
    yield (
        "missing",
        "Claims without a usable confidence, and claims that could not be judged, are in no metric; their share stands "
        "in each row (unparsed), and above 1 % a worst case beside each value.",
    )
    judged = [f"{task}: {about['label']} (scorer {code(about['scorer'])})" for task, about in tasks.items()]
    fitted = [note for about in tasks.values() if (note := fitted_note(about))]
    yield (
        "reference",
        " ".join([f"Correctness is computed against the data's references, {'; '.join(judged)}.", *fitted]),
    )
    sizes = [f"{task}: {about['n_clusters']:,} patients or images" for task, about in tasks.items()]
    yield "sizes", "; ".join(sizes) + "."
    yield "splits", "The data's own splits: " + "; ".join(_split(name, of) for name, of in data.items()) + "."
    yield (
        "disjoint",
        "By patient (by image in visual question answering): a patient in two splits ends a run with an error.",
    )
    versions = manifest.get("versions", {})
    yield "software", ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + f"; {source}."
    yield (
        "initial",
        "The base model is that of item 22; adapters, if any, begin as no change to it (LoRA).",
    )
    steps = [
        f"{code(row['method'])} on {row['task']} {row['cost']['training_steps']:,.0f}"
        for row in rows
        if row.get("cost") and row["cost"]["training_steps"]
    ]
    yield (
        "training",
        f"Methods that learn or sample: {random}; fits see training and validation patients alone. Steps of training: "
        f"{'; '.join(steps) or 'none'}. All options are in manifest.json.",
    )
    headline = [metric_title(board, name) for name in columns(board, rows, headline=True)]
    yield "metrics", ", ".join(headline) + "; definitions are in docs/statistics.md of conrad-bench."
    yield "inference", next(footnotes(board))
    yield (
        "output",
        "A response in text, cut into claims, each with a confidence in [0, 1] and a status; nothing is thresholded.",
    )
    yield (
        "flow",
        "; ".join(f"{_split(name, of)} examples" for name, of in data.items())
        + ". Claims and patients of each row are in leaderboard.md.",
    )
    yield "performance", "<br>".join(_performance(board, task) for task in tasks)
    worst = max(rows, key=lambda row: float(row["unparsed_rate"]), default=None)
    if worst is not None and worst["unparsed_rate"]:
        most = f"{code(worst['method'])} on {worst['task']}, {worst['unparsed_rate']:.1%}"
        yield "failures", f"Most claims without a usable confidence: {most}; the reasons are in leaderboard.md."
    yield (
        "protocol",
        "config.yaml of this bundle is the run's whole configuration; its records are the numbers that all of this was "
        f"computed from, by {source}.",
    )
    yield "compute", _compute(rows, manifest)


def _data(task: str, of: Mapping[str, Any]) -> str:
    return f"{task}, fingerprint {str(of.get('fingerprint', 'unknown'))[:12]}"


def _split(task: str, of: Mapping[str, Any]) -> str:
    counted = ", ".join(f"{number:,} {split}" for split, number in of.get("examples", {}).items())
    return f"{task} {counted}"


def _left_out(task: str, of: Mapping[str, Any]) -> str:
    said = "; ".join(f"{why} ({number:,})" for why, number in of.get("left_out", {}).items())
    return f"Left out of {task}: {said}." if said else ""


def _performance(board: dict[str, Any], task: str) -> str:
    """Return the headline numbers of a task's best row."""
    rows = [row for row in ranked(board, task) if row["metrics"]]
    if not rows:
        return f"{task}: nothing could be judged."
    row = rows[0]
    names = [name for name in columns(board, [row], headline=True) if name in row["metrics"]]
    said = ", ".join(f"{metric_title(board, name)} {estimate_text(row['metrics'][name])}" for name in names)
    return f"{task}, {code(row['method'])}: {said}; the other methods are in leaderboard.md."


def _compute(rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> str:
    hardware = manifest.get("hardware", {})
    where = ", ".join(map(str, hardware.get("cuda") or [])) or f"{hardware.get('cpus', '?')} processors, no GPU"
    costs = [f"{code(row['method'])} on {row['task']} {cost_text(row)}" for row in rows if row.get("cost")]
    said = f"{float(manifest.get('seconds') or 0):,.0f} s on {where}."
    return said + (f" Of an example: {'; '.join(costs)}." if costs else "")
