"""The bundles of a folder, as the front page shows them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.board.schema import read_board
from conrad_bench.leaderboards.bundles.finished import load_manifest


@dataclass(frozen=True)
class Entry:
    """A bundle."""

    folder: Path
    name: str
    """That of its folder."""
    day: str
    """When its records came, YYYY-MM-DD."""
    board: dict[str, Any]
    manifest: dict[str, Any]

    def records(self, method: str, task: str) -> list[Path]:
        """Return the records files of a row, one for each training seed."""
        seeds = [name for name, of in self.board["seeds"].items() if of[0] == method]
        files = [self.folder / "records" / f"{name}@{task}.parquet" for name in seeds or [method]]
        return [path for path in files if path.is_file()]


def entries(parent: Path) -> list[Entry]:
    """Return the bundles in a folder, the newest first. Raises DataError where there is none, or for a damaged one."""
    folders = sorted(path.parent for path in parent.glob("*/bundle.json"))
    if not folders:
        raise DataError(f"{parent} holds no bundle (no */bundle.json); `conrad-bench publish RUN --out DIR` makes one")
    found = [_entry(folder) for folder in folders]
    return sorted(found, key=lambda entry: (entry.day, entry.name), reverse=True)


def _entry(folder: Path) -> Entry:
    for name in ("leaderboard.json", "manifest.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} is no whole bundle: {name} is missing")
    board = read_board(folder / "leaderboard.json")
    return Entry(folder, folder.name, _day(folder), board, load_manifest(folder / "manifest.json"))


def _day(folder: Path) -> str:
    """Return the day on which a bundle's records were committed last, or written where git does not know them."""
    records = folder / "records"
    try:
        asked = ["git", "-C", str(folder), "log", "-1", "--format=%cs", "--", "records"]
        known = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        known = ""
    if known:
        return known
    newest = max((path.stat().st_mtime for path in records.glob("*")), default=0.0)
    return datetime.fromtimestamp(newest, UTC).date().isoformat()
