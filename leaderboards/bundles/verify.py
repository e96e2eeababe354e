"""Checks a bundle or a run: every number of its leaderboard against its records, and all that is made of it.

Of a bundle: the files and their hashes, what records hold beside their numbers (`privacy`), what configuration and
manifest say (`about`), leaderboard.json against what records, configuration and manifest give, and pages and figures
against leaderboard.json. What leaderboard.json, pages and figures lack or have too much can be written anew (`render`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.config import load_config
from conrad_bench.errors import ConfigError, ConradBenchError, DataError
from conrad_bench.leaderboards.board.build import FORMAT, build, context_of, run_records
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.counterfactuals import Key, counterfactuals, run_counterfactuals
from conrad_bench.leaderboards.board.schema import read_board
from conrad_bench.leaderboards.bundles.about import about
from conrad_bench.leaderboards.bundles.adapters import ADAPTERS, adapter_problems
from conrad_bench.leaderboards.bundles.finished import Records, load_manifest, load_run
from conrad_bench.leaderboards.bundles.merge import by_this_version
from conrad_bench.leaderboards.bundles.privacy import hidden, problems
from conrad_bench.leaderboards.bundles.publish import DERIVED, FIGURE, derived_texts, page_texts, write_board
from conrad_bench.leaderboards.bundles.publish import FORMAT as BUNDLE_FORMAT
from conrad_bench.leaderboards.pages.figures import SUFFIXES
from conrad_bench.leaderboards.pages.outputs import figure_files
from conrad_bench.records import COUNTERFACTUAL, counterfactual_path, records_path
from conrad_bench.storage import file_sha256, load_json

if TYPE_CHECKING:
    import pandas as pd

READ = (1, BUNDLE_FORMAT)
"""Formats of bundle.json. Of the first, numbers have all digits, and attributes are not looked at together."""
RELATIVE, ABSOLUTE = 1e-6, 1e-8
"""Numbers that differ by less are the same: another processor sums in another order."""
UNKNOWN = (
    "what no check can tell: whether a model stated these confidences and a scorer gave these scores; that takes the "
    "data, and a run of config.yaml"
)


@dataclass
class Findings:
    """What a verification found."""

    differences: list[str] = field(default_factory=list)
    """Each says what differs, and where."""
    lasting: list[str] = field(default_factory=list)
    """Those among them that no rendering mends."""
    notes: list[str] = field(default_factory=list)
    """What could not be compared."""
    numbers: int = 0
    """Numbers of leaderboard.json that were computed again."""
    rows: int = 0
    hashes: int = 0

    def last(self, *said: str) -> None:
        """Note differences that no rendering mends."""
        self.differences += said
        self.lasting += said


@dataclass
class _Subject:
    """What is verified."""

    folder: Path
    format: int | None
    """Of a bundle."""
    records: Records
    context: BoardContext
    """What the board has to say beside its numbers."""
    subgroup: str | None
    """The column of its subgroups."""
    others: dict[Key, pd.DataFrame]
    """The records under other pictures."""

    def board(self) -> dict[str, Any]:
        """Return the content of leaderboard.json that the records give."""
        board = build(self.records, self.context) | counterfactuals(self.records, self.others, self.context)
        if self.subgroup is not None:
            from conrad_bench.leaderboards.board.subgroups import subgroups

            board |= subgroups(self.records, self.context, self.subgroup)
        return board


def verify(folder: Path) -> Findings:
    """Compute the leaderboard of a bundle or a run again from its records and compare.

    Raises DataError where the folder holds neither. What is damaged is a difference, no error.
    """
    findings = Findings()
    board, subject = _read(folder, findings)
    if subject is None:
        return findings
    if {task for task, _ in subject.records} - subject.context.scorers.keys():
        return findings  # config.yaml names other tasks, which was noted
    try:
        again = subject.board()
    except ConradBenchError as error:
        findings.last(str(error))
        return findings
    findings.rows = len(board["rows"])
    before = len(findings.differences)
    _compare(_by_name(board), _by_name(again), "", findings)
    # Where they agree, the digits of leaderboard.json: those computed here may differ in the last ones.
    same = len(findings.differences) == before
    _check_rendered(folder, board if same else again, subject.format is not None, findings)
    return findings


def render(folder: Path) -> Findings:
    """Write leaderboard.json, pages and figures of a bundle anew from its records, and verify it.

    Where something differs that this does not mend, nothing is written. Raises ConfigError for a folder that is no
    bundle.
    """
    if not (folder / "bundle.json").is_file():
        raise ConfigError(f"{folder} is no bundle; of a run, `conrad-bench leaderboard {folder}` writes the pages anew")
    findings = Findings()
    _, subject = _read(folder, findings)
    if findings.lasting or subject is None or subject.format is None:
        return verify(folder)
    subject.context = by_this_version(subject.context)
    board = subject.board()
    wanted = {row[key] for row in board["rows"] for key in ("figure", "before_after", "token_figure") if key in row}
    for path in (folder / "figures").glob("*"):
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    write_board(folder, board, subject.format, [name for name in DERIVED if (folder / name).is_file()])
    return verify(folder)


def _read(folder: Path, findings: Findings) -> tuple[dict[str, Any], _Subject | None]:
    """Return what leaderboard.json says, and what it is to be verified against; None where that cannot be read."""
    if not any((folder / name).is_file() for name in ("bundle.json", "leaderboard.json")):
        raise DataError(f"{folder} holds neither a bundle (bundle.json) nor a leaderboard (leaderboard.json)")
    bundle = (folder / "bundle.json").is_file()
    format = _check_hashes(folder, findings) if bundle else None
    is_run = any((folder / name).exists() for name in ("context.json", "rollouts"))
    if not bundle and not is_run and (folder / "records").is_dir():
        findings.last("bundle.json: missing; this is no run, and nothing says which files belong to it")
    try:
        board = read_board(folder / "leaderboard.json")
        if board["format"] != FORMAT:
            raise DataError(
                f"{folder / 'leaderboard.json'} has format {board['format']}, this version computes {FORMAT}; verify "
                f"it with conrad-bench {board['version']}, or write it anew with `conrad-bench leaderboard`"
            )
        if not (folder / "records").is_dir():
            raise DataError(f"{folder} has no records of its own; verify each run that its leaderboard was made of")
        said = context_of(board)
        records = run_records(folder, said.scorers)
        subject = _Subject(folder, format, records, said, None, run_counterfactuals(folder, records))
        if board.get("subgroups"):
            subject.subgroup = board["subgroups"][0]["subgroup"]["column"]
        if bundle:
            _check_bundle(subject, findings)
        elif is_run:
            subject.context = _of_run(folder, said)
    except (OSError, ValueError, KeyError, TypeError) as error:
        findings.last(f"{folder}: cannot be read ({type(error).__name__}); it is not as this version writes it")
        return {}, None
    except ConradBenchError as error:
        findings.last(str(error))
        return {}, None
    return board, subject


def _check_bundle(subject: _Subject, findings: Findings) -> None:
    """Check what a bundle says beside its numbers; take what its board has to say from configuration and manifest."""
    paths = {records_path(subject.folder, method, task): f for (task, method), f in subject.records.items()}
    paths |= {
        counterfactual_path(subject.folder, method, task, *how): frame
        for (task, method, *how), frame in subject.others.items()
    }
    for path, frame in paths.items():
        found = [*problems(frame, full_numbers=subject.format == 1), *hidden(path)]
        findings.last(*(f"{path.relative_to(subject.folder).as_posix()}: {problem}" for problem in found))
    if subject.format == 1:
        findings.notes.append("bundle.json: format 1, whose numbers have all digits; rare attributes are not looked at")
    told = about(subject.folder, subject.context, subject.records, subject.others)
    findings.last(*told.problems)
    config, manifest = load_config(subject.folder / "config.yaml"), load_manifest(subject.folder / "manifest.json")
    findings.last(*adapter_problems(subject.folder, config, manifest))
    findings.notes += told.notes
    subject.context = told.context


def _of_run(folder: Path, said: BoardContext) -> BoardContext:
    """Return what the board of a run folder has to say, which `leaderboard` may have given another baseline."""
    if not (folder / "context.json").is_file():
        return said
    kept = {name: getattr(said, name) for name in ("version", "commit", "baseline")}
    return load_run(folder).context.model_copy(update=kept)


def _check_hashes(folder: Path, findings: Findings) -> int | None:
    """Compare the files of a bundle with the list in bundle.json; return the bundle's format."""
    path = folder / "bundle.json"
    try:
        content = load_json(path)
        listed = dict(content["files"])
        if content["format"] not in READ:
            findings.last(f"{path}: format {content['format']}, this version reads {READ}")
        if content.keys() != {"files", "format"}:
            findings.last(f"{path}: holds more than format and files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        findings.last(f"{path}: cannot be read as the list of a bundle's files")
        return None
    found = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    present = {p.relative_to(folder).as_posix() for p in found} - {"bundle.json"}
    for name in sorted(listed.keys() - present):
        _differs(findings, name, f"{name}: missing; bundle.json lists it")
    for name in sorted(present - listed.keys()):
        findings.last(f"{name}: not listed in bundle.json; a bundle holds nothing else")
    for name in sorted(present & listed.keys()):
        findings.hashes += 1
        if not (folder / name).is_file() or (folder / name).is_symlink():
            findings.last(f"{name}: a link or pipe, no file; it would not travel with the bundle")
        elif file_sha256(folder / name) != listed[name]:
            _differs(findings, name, f"{name}: its SHA-256 is not the one in bundle.json")
        top = name.partition("/")[0]
        if top not in _TOP or name.count("/") > (2 if top == ADAPTERS else 1):
            findings.last(f"{name}: no file of a bundle")
    return content["format"] if isinstance(content["format"], int) else None


_PAGES = {f"leaderboard.{suffix}" for suffix in ("json", "md", "csv", "tex", "html")}
_TOP = {"config.yaml", "manifest.json", "records", COUNTERFACTUAL, "figures", ADAPTERS, *DERIVED, *_PAGES}
"""What a bundle holds beside bundle.json."""


def _differs(findings: Findings, name: str, said: str) -> None:
    """Note a difference of a file, which can be mended where the file is made of the others."""
    mended = name in _PAGES or name in DERIVED or name.startswith("figures/")
    (findings.differences.append if mended else findings.last)(said)


def _by_name(board: dict[str, Any]) -> dict[str, Any]:
    """Return a board whose lists of rows, pairs and metrics are keyed by name, so that a difference names its row."""
    keyed = dict(board)
    keyed["rows"] = {f"{row['method']}@{row['task']}": row for row in board["rows"]}
    keyed["metrics"] = {metric["name"]: metric for metric in board["metrics"]}
    keyed["metrics, in order"] = [metric["name"] for metric in board["metrics"]]
    keyed["rows, in order"] = [f"{row['method']}@{row['task']}" for row in board["rows"]]
    keyed["tasks"] = {task: _pairs_by_name(info) for task, info in board["tasks"].items()}
    if "subgroups" in board:
        keyed["subgroups"] = {
            f"{row['method']}@{row['task']} ({row['subgroup']['value']})": row for row in board["subgroups"]
        }
        keyed["subgroup_gaps"] = {
            f"{gap['method']}@{gap['task']} ({gap['metric']})": gap for gap in board.get("subgroup_gaps", [])
        }
    if "counterfactuals" in board:
        keyed["counterfactuals"] = {
            f"{each['method']}@{each['task']} ({each['replacement']}, {each['reading']})": each
            for each in board["counterfactuals"]
        }
    return keyed


def _pairs_by_name(task: dict[str, Any]) -> dict[str, Any]:
    found = task.get("comparisons") or {}
    pairs = {f"{pair['metric']}: {pair['a']}, {pair['b']}": pair for pair in found.get("pairs", [])}
    return {**task, **({"comparisons": {**found, "pairs": pairs}} if found else {})}


def _compare(said: Any, found: Any, where: str, findings: Findings) -> None:
    """Note every place where a leaderboard says another thing than its records give, or nothing, or more."""
    if isinstance(said, dict) and isinstance(found, dict):
        for key in sorted(said.keys() - found.keys()):
            findings.differences.append(f"leaderboard.json, {_join(where, key)}: the records do not give this")
        for key in sorted(found.keys() - said.keys()):
            findings.differences.append(f"leaderboard.json, {_join(where, key)}: missing; the records give it")
        for key in sorted(said.keys() & found.keys()):
            _compare(said[key], found[key], _join(where, key), findings)
        return
    if isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        for index, (one, other) in enumerate(zip(said, found, strict=True)):
            _compare(one, other, _join(where, str(index)), findings)
        return
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (said, found))
    findings.numbers += numbers
    same = math.isclose(said, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE) if numbers else said == found
    if not same:
        findings.differences.append(f"leaderboard.json, {where}: {_short(said)}, the records give {_short(found)}")


def _check_rendered(folder: Path, board: dict[str, Any], bundle: bool, findings: Findings) -> None:
    """Compare pages and figures with what leaderboard.json gives; a bundle has all of them, and no other."""
    texts = page_texts(board)
    if bundle:
        texts |= derived_texts(folder, board, [name for name in DERIVED if (folder / name).is_file()])
    wanted: dict[str, bytes] = {name: text.encode() for name, text in texts.items()}
    for name, data in _figures(board, None if bundle else folder):
        wanted[name] = data
    anew = (
        f"{folder.name}: `conrad-bench verify --render` writes a bundle's pages and figures anew; they were written by "
        f"conrad-bench {board['version']}, commit {board['commit'] or 'unknown'}"
        if bundle
        else f"{folder.name}: `conrad-bench leaderboard` writes a run's pages anew"
    )
    wrong = []
    for name, data in wanted.items():
        path = folder / name
        if not path.is_file():
            wrong += [f"{name}: missing"] if bundle else []
        elif path.read_bytes() != data:
            wrong.append(f"{name}: is not what this version makes of the records")
    present = {p.relative_to(folder).as_posix() for p in (folder / "figures").glob("*")} if bundle else set()
    wrong += [f"{name}: leaderboard.json names no such figure" for name in sorted(present - wanted.keys())]
    findings.differences += wrong
    if wrong:
        findings.notes.append(anew)


def _figures(board: dict[str, Any], run: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield the figures of a bundle, or those of a run folder that are there, by name."""
    for path, files in figure_files(board, [FIGURE] if run is None else SUFFIXES):
        for suffix, data in files.items():
            name = Path(path).with_suffix(suffix).as_posix()
            if run is None or (run / name).is_file():
                yield name, data


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
