"""`conrad-bench site`: the front page over a folder of bundles, the pages of its rows, and the bundles' own pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.leaderboards.pages.html import page
from conrad_bench.leaderboards.pages.html_top import DOWNLOADS
from conrad_bench.leaderboards.site.entries import Entry, entries
from conrad_bench.leaderboards.site.front import front
from conrad_bench.leaderboards.site.rows import row_page
from conrad_bench.records import read_records
from conrad_bench.storage import write_text
from conrad_bench.text import csv_cell

COPIED = (*DOWNLOADS, "config.yaml", "manifest.json", "bundle.json")


def write_site(parent: Path, out: Path, title: str, tell: Callable[[str], None] | None = None) -> list[str]:
    """Write the site of the bundles in `parent` into the new folder `out`, and return the names of those left out.

    With `tell`, every bundle is verified first (`verify`); one that differs is left out, and told of. Raises DataError
    where no bundle is left, ConfigError if `out` is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is not an empty folder; choose another")
    found, left_out = entries(parent), []
    if tell is not None:
        for entry in list(found):
            differences = verify(entry.folder).differences
            tell(f"{entry.folder}: {f'{len(differences)} difference(s), left out' if differences else 'all agree'}")
            if differences:
                found.remove(entry)
                left_out.append(entry.name)
    if not found:
        raise DataError(f"no bundle in {parent} agrees with its records; `conrad-bench verify` says where they differ")
    for entry in found:
        _write_entry(entry, out / entry.name)
    write_text(out / "index.html", front(found, title))
    return left_out


def _write_entry(entry: Entry, out: Path) -> None:
    write_text(out / "leaderboard.html", page(entry.board))
    for name in COPIED:
        if (entry.folder / name).is_file():
            shutil.copyfile(entry.folder / name, out / name)
    if (entry.folder / "figures").is_dir():
        shutil.copytree(entry.folder / "figures", out / "figures")
    for row in entry.board["rows"]:
        method, task = row["method"], row["task"]
        write_text(out / "rows" / f"{method}@{task}.html", row_page(entry, row))
        for path in entry.records(method, task):
            frame = read_records(path).map(csv_cell)
            write_text(out / "records" / f"{path.stem}.csv", frame.to_csv(index=False))
