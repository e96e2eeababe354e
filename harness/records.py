"""Records: one row for each claim, the only thing that leaderboards are computed from. They hold no text.

A records file is `records/<method>@<task>.parquet` in a run folder, with these columns in this order:

| column | type | meaning |
| --- | --- | --- |
| task | string | name of the task; the same in every row |
| method | string | name of the method; the same in every row |
| example | string | id of the example |
| cluster | string | patient (or image): the unit of the bootstrap; one for each example |
| claim | int64 | index of the claim in its response, from 0; (example, claim) is unique |
| confidence | float64 or null | in [0, 1]; null where the response stated none, or the method never does |
| correctness | float64 or null | in [0, 1]; null where the scorer could not judge the claim |
| status | string | one of `types.STATUSES`; `ok` rows have a correctness, and a confidence if any row has one |
| response | string | key of the rollout, to join the texts |
| (others) | string or float64, may be null | attributes of the example, for subgroups |

The parquet schema's metadata carries the format's version under `conrad_bench.records`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import DataError, StorageError
from conrad_bench.storage import write_bytes
from conrad_bench.types import STATUSES

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
COLUMNS = ("task", "method", "example", "cluster", "claim", "confidence", "correctness", "status", "response")
"""The columns that every records file has; further columns are subgroup attributes."""

_METADATA_KEY = b"conrad_bench.records"
_NUMBERS = ("confidence", "correctness")


def records_path(run: Path, method: str, task: str) -> Path:
    """Return where the records of one method on one task lie in a run folder."""
    return run / "records" / f"{method}@{task}.parquet"


def write_records(path: Path, rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> None:
    """Write the records of one method on one task atomically.

    `rows` has the columns above, confidence and correctness as float or None. Raises DataError naming the column and
    the row that is wrong, and StorageError when the file cannot be written.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    _check_columns(frame.columns, path)
    subgroups = [str(column) for column in frame.columns if column not in COLUMNS]
    fields = [(column, _arrow_type(column)) for column in COLUMNS]
    fields += [(column, pa.float64() if _is_number(frame[column]) else pa.string()) for column in subgroups]
    schema = pa.schema(fields, metadata={_METADATA_KEY: str(VERSION).encode()})
    try:
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        # Arrow's message may quote a value; the column and the type that it should have say enough.
        raise DataError(f"{path}: a column has values of another type than the records format asks for") from error
    check_records(table.to_pandas(), path)
    buffer = io.BytesIO()
    # from_pandas adds pandas' own metadata; the file carries ours alone, so equal records are equal bytes.
    pq.write_table(table.replace_schema_metadata(schema.metadata), buffer, compression="zstd", write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def read_records(path: Path) -> pd.DataFrame:
    """Read and check a records file; null numbers become NaN.

    Raises StorageError when the file is missing or damaged, DataError when it is not a records file of this version or
    holds a value out of range.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
    except OSError as error:
        # pyarrow raises OSError for torn pages, ArrowInvalid for a file that is no parquet at all.
        raise StorageError(f"cannot read {path}: missing or damaged; delete it and run the command again") from error
    except pa.ArrowException as error:
        raise StorageError(f"{path} is not a whole parquet file; delete it and run the command again") from error
    version = (table.schema.metadata or {}).get(_METADATA_KEY)
    if version is None:
        raise DataError(f"{path} is a parquet file but holds no records of conrad-bench; move it out of the folder")
    if version != str(VERSION).encode():
        raise DataError(
            f"{path} has records format {version.decode(errors='replace')}, this version reads {VERSION}; "
            "delete it and run the command again, or use the version that wrote it"
        )
    _check_columns(table.column_names, path)
    for column in COLUMNS:
        if table.schema.field(column).type != _arrow_type(column):
            raise DataError(f"{path}: column {column!r} has type {table.schema.field(column).type}")
    frame: pd.DataFrame = table.to_pandas()
    check_records(frame, path)
    return frame


def check_records(frame: pd.DataFrame, path: Path) -> None:
    """Raise DataError, naming `path`, the column and the first wrong row, unless the values follow the format."""
    if frame.empty:
        raise DataError(f"{path}: there are no records")
    for column in COLUMNS:
        if column not in _NUMBERS:
            _refuse(frame[column].isna(), path, column, "a value is missing")
    for column in ("task", "method"):
        _refuse(frame[column] != frame[column].iloc[0], path, column, "one file holds one task and one method")
    for column in _NUMBERS:
        values = frame[column]
        _refuse(values.notna() & ~values.between(0.0, 1.0), path, column, "a value is outside [0, 1]")
    _refuse(frame["claim"] < 0, path, "claim", "a claim index is negative")
    _refuse(frame.duplicated(["example", "claim"]), path, "claim", "an (example, claim) pair occurs twice")
    clusters = frame.groupby("example")["cluster"].transform("first")
    _refuse(frame["cluster"] != clusters, path, "cluster", "one example has two clusters")
    _refuse(~frame["status"].isin(STATUSES), path, "status", f"a status is none of {', '.join(STATUSES)}")
    ok = frame["status"] == "ok"
    _refuse(ok & frame["correctness"].isna(), path, "correctness", "an ok record has no correctness")
    if frame["confidence"].notna().any():
        _refuse(ok & frame["confidence"].isna(), path, "confidence", "an ok record has no confidence")


def _check_columns(columns: Any, path: Path) -> None:
    missing = [column for column in COLUMNS if column not in set(columns)]
    if missing:
        raise DataError(f"{path}: missing columns: {', '.join(missing)}")


def _arrow_type(column: str) -> Any:
    import pyarrow as pa

    return pa.float64() if column in _NUMBERS else pa.int64() if column == "claim" else pa.string()


def _is_number(values: pd.Series[Any]) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _refuse(wrong: pd.Series[Any], path: Path, column: str, problem: str) -> None:
    """Raise DataError when any row is wrong."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(f"{path}: column {column!r}, row {row}: {problem} ({int(wrong.sum())} such rows)")
