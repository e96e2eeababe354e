"""Checks a bundle or a run: every number of its leaderboard against its records, its hashes, its formats."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conrad_bench.errors import ConradBenchError, DataError
from conrad_bench.leaderboards.board.build import FORMAT, build, context_of, run_records
from conrad_bench.leaderboards.board.schema import read_board
from conrad_bench.leaderboards.bundles.privacy import problems
from conrad_bench.leaderboards.bundles.publish import FORMAT as BUNDLE_FORMAT
from conrad_bench.leaderboards.pages.outputs import RENDERED
from conrad_bench.manifest import git_commit
from conrad_bench.storage import file_sha256, load_json
from conrad_bench.version import __version__

READ = (1, BUNDLE_FORMAT)
"""Formats of bundle.json. Of the first, numbers have all digits, and attributes are not looked at together."""
RELATIVE, ABSOLUTE = 1e-6, 1e-8
"""Numbers that differ by less are the same: another processor sums in another order."""


@dataclass
class Findings:
    """What a verification found."""

    differences: list[str] = field(default_factory=list)
    """Each says what differs, and where."""
    notes: list[str] = field(default_factory=list)
    """What could not be compared, and why that is no difference."""
    numbers: int = 0
    """Numbers of leaderboard.json that were computed again."""
    rows: int = 0
    hashes: int = 0


def verify(folder: Path) -> Findings:
    """Compute the leaderboard of a bundle or a run again from its records and compare.

    Raises DataError where the folder holds neither. What is damaged is a difference, no error.
    """
    if not any((folder / name).is_file() for name in ("bundle.json", "leaderboard.json")):
        raise DataError(f"{folder} holds neither a bundle (bundle.json) nor a leaderboard (leaderboard.json)")
    findings = Findings()
    bundle = (folder / "bundle.json").is_file()
    format = _check_hashes(folder, findings) if bundle else None
    is_run = any((folder / name).exists() for name in ("context.json", "rollouts"))
    if not bundle and not is_run and (folder / "records").is_dir():
        findings.differences.append("bundle.json: missing; this is no run, and nothing says which files belong to it")
    try:
        board = read_board(folder / "leaderboard.json")
        if board["format"] != FORMAT:
            raise DataError(
                f"{folder / 'leaderboard.json'} has format {board['format']}, this version computes {FORMAT}; verify "
                f"it with conrad-bench {board['version']}, or write it anew with `conrad-bench leaderboard`"
            )
        if not (folder / "records").is_dir():
            raise DataError(f"{folder} has no records of its own; verify each run that its leaderboard was made of")
        context = context_of(board)
        records = run_records(folder, context.scorers)
        for (task, method), frame in records.items() if format == BUNDLE_FORMAT else ():
            findings.differences += [f"records/{method}@{task}.parquet: {problem}" for problem in problems(frame)]
        again = build(records, context)
        if board.get("subgroups"):
            from conrad_bench.leaderboards.board.subgroups import subgroups

            again |= subgroups(records, context, board["subgroups"][0]["subgroup"]["column"])
    except ConradBenchError as error:
        findings.differences.append(str(error))
        return findings
    findings.rows = len(board["rows"])
    _check_absent(board, again, findings)
    _compare(_by_row(board), _by_row(again), "", findings)
    _check_pages(folder, board, findings)
    return findings


def _check_hashes(folder: Path, findings: Findings) -> int | None:
    """Compare the files of a bundle with the list in bundle.json; return the bundle's format."""
    path = folder / "bundle.json"
    try:
        content = load_json(path)
        listed = dict(content["files"])
        if content["format"] not in READ:
            findings.differences.append(f"{path}: format {content['format']}, this version reads {READ}")
    except (OSError, ValueError, KeyError, TypeError):
        findings.differences.append(f"{path}: cannot be read as the list of a bundle's files")
        return None
    found = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    present = {p.relative_to(folder).as_posix() for p in found} - {"bundle.json"}
    for name in sorted(listed.keys() - present):
        findings.differences.append(f"{name}: missing; bundle.json lists it")
    for name in sorted(present - listed.keys()):
        findings.differences.append(f"{name}: not listed in bundle.json; a bundle holds nothing else")
    for name in sorted(present & listed.keys()):
        findings.hashes += 1
        if not (folder / name).is_file() or (folder / name).is_symlink():
            findings.differences.append(f"{name}: a link or pipe, no file; it would not travel with the bundle")
        elif file_sha256(folder / name) != listed[name]:
            findings.differences.append(f"{name}: its SHA-256 is not the one in bundle.json")
    return content["format"] if isinstance(content["format"], int) else None


def _by_row(board: dict[str, Any]) -> dict[str, Any]:
    """Return a board whose lists of rows, pairs and metrics are keyed by name, so that a difference names its row."""
    keyed = dict(board)
    keyed["rows"] = {f"{row['method']}@{row['task']}": row for row in board["rows"]}
    keyed["metrics"] = {metric["name"]: metric for metric in board["metrics"]}
    if "subgroups" in board:
        keyed["subgroups"] = {
            f"{row['method']}@{row['task']} ({row['subgroup']['value']})": row for row in board["subgroups"]
        }
        keyed["subgroup_gaps"] = {
            f"{gap['method']}@{gap['task']} ({gap['metric']})": gap for gap in board.get("subgroup_gaps", [])
        }
    return keyed


def _compare(said: Any, found: Any, where: str, findings: Findings) -> None:
    """Note every place where a leaderboard says another thing than its records.

    What the computation alone has is what a later version added, rows and announced metrics aside (`_check_absent`).
    """
    if isinstance(said, dict) and isinstance(found, dict):
        for key in sorted(said.keys() - found.keys()):
            findings.differences.append(f"leaderboard.json, {_join(where, key)}: the records do not give this")
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


def _check_absent(board: dict[str, Any], again: dict[str, Any], findings: Findings) -> None:
    """Note rows that are absent, and metrics that the leaderboard announces and a row lacks."""
    announced = {metric["name"] for metric in board["metrics"]}
    rows = _by_row(board)["rows"]
    for name, row in _by_row(again)["rows"].items():
        if name not in rows:
            findings.differences.append(f"leaderboard.json, rows: {name} is missing; there are records of it")
            continue
        for metric in sorted(announced & row["metrics"].keys() - rows[name]["metrics"].keys()):
            findings.differences.append(f"leaderboard.json, rows.{name}.metrics: {metric} is missing")


def _check_pages(folder: Path, board: dict[str, Any], findings: Findings) -> None:
    """Compare the pages with what the leaderboard gives, where this very version of the software wrote them."""
    present = [name for name in RENDERED if (folder / name).is_file()]
    commit = git_commit()
    if (board["version"], board["commit"]) != (__version__, commit) or commit.endswith("+"):
        findings.notes.append(
            f"{', '.join(present)}: written by conrad-bench {board['version']}, commit "
            f"{board['commit'] or 'unknown'}, not by this one; not compared with leaderboard.json"
        )
        return
    for name in present:
        if (folder / name).read_bytes() != RENDERED[name](board).encode():
            findings.differences.append(f"{name}: is not what leaderboard.json gives")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
