"""Files of predictions: csv, tsv, jsonl and parquet, as one table that knows where each row came from."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.registry import unknown

if TYPE_CHECKING:
    import pandas as pd

PLACE = "(place)"
"""The column that says which file and row a row came from, such as "preds.csv, row 3"."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_MOST_ROWS = 5_000_000
_FIRST = {".csv": 2, ".tsv": 2, ".jsonl": 1, ".parquet": 0}
"""What the first row is called: its line in a text, its index in a parquet file."""
_SHOWN = {".csv": "line", ".tsv": "line", ".jsonl": "line", ".parquet": "row"}


def read_predictions(paths: Sequence[Path], names: dict[str, str] | None = None) -> pd.DataFrame:
    """Return the rows of one or several files, with their places.

    `names` maps our names of columns to the files' (`{"confidence": "score"}`). Where several files have no column
    `method`, each file's name is its method. Raises DataError for a file that cannot be read as what its ending says,
    ConfigError for a column that is to be mapped and is not there.
    """
    import pandas as pd

    frames = []
    for path in paths:
        frame = _read(path)
        frame.columns = [str(column) for column in frame.columns]
        frame = renamed(frame, names or {}, str(path))
        if len(paths) > 1 and "method" not in frame:
            frame["method"] = path.stem
        places = range(_FIRST[_suffix(path)], _FIRST[_suffix(path)] + len(frame))
        frame[PLACE] = [f"{path.name}, {_SHOWN[_suffix(path)]} {place}" for place in places]
        frames.append(frame)
    together = pd.concat(frames, ignore_index=True)
    if together.empty:
        raise DataError(f"{', '.join(path.name for path in paths)}: there are no rows")
    return together


def renamed(frame: pd.DataFrame, names: dict[str, str], where: str) -> pd.DataFrame:
    """Return a table with our names of columns. Raises ConfigError for a column that is not there."""
    for ours, theirs in names.items():
        if theirs not in frame.columns:
            raise ConfigError(f"--map {ours}={theirs}: {where}: {unknown('column', theirs, list(frame.columns))}")
    taken = [ours for ours in names if ours in frame.columns and ours not in names.values()]
    return frame.drop(columns=taken).rename(columns={theirs: ours for ours, theirs in names.items()})


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if _suffix(path) not in SUFFIXES:
        raise DataError(f"{path}: predictions are files that end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        if _suffix(path) == ".parquet":
            frame = pd.read_parquet(path)
        else:
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = _objects(file, path) if _suffix(path) == ".jsonl" else _cells(file, path)
            frame = pd.DataFrame(rows)
    except MemoryError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text; save it as UTF-8") from error
    except (ValueError, OSError, KeyError) as error:
        # The message may quote a cell.
        raise DataError(f"{path}: is damaged, or no {_suffix(path)[1:]}") from error
    if len(frame) > _MOST_ROWS:
        raise DataError(f"{path}: holds {len(frame):,} rows; at most {_MOST_ROWS:,} can be evaluated")
    return frame


def _objects(file: TextIO, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a jsonl file."""
    rows = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path.name}, line {number}: is no JSON object; each line must be one")
        rows.append(row)
    return rows


def _cells(file: TextIO, path: Path) -> list[dict[str, str | None]]:
    """Return the rows of a csv or tsv file; empty cells are None.

    Cells stay texts ("007", "NA"): only what must be a number becomes one, and is checked then.
    """
    reader = csv.reader(file, delimiter="," if _suffix(path) == ".csv" else "\t", strict=True)
    try:
        header = next(reader, None)
        if not header or len(set(header)) < len(header):
            raise DataError(f"{path}: the first line must name the columns, each once")
        rows = []
        for number, cells in enumerate(reader, start=2):
            if len(cells) != len(header):
                raise DataError(f"{path.name}, line {number}: {len(cells)} cells, the header has {len(header)} names")
            rows.append({name: cell or None for name, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: is no {_suffix(path)[1:]} ({error})") from error
    return rows
