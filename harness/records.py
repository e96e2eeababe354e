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
| quality, quality_6, quality_8, quality_10 | float64 or null | optional, see `QUALITY`; one value for each example |
| p_0 ... p_10 | float64 or null | optional, see `LEVEL_PROBABILITIES`; in a row all of them or none |
| reading | string or null | optional: how the response's confidence was written (`Claim.reading`) |
| thoughts | float64 or null | optional: 1 where the response held thoughts, which were set aside, else 0 |
| judge:NAME | float64 or null | optional: the score by each of several judges, see `JUDGE` |
| seed | int64 | optional: the training seed of a method that learns or samples; the same in every row |
| tokens_read, tokens_written, training_steps | float64 | optional, see `SPENT`; the same in every row |
| (others) | string or float64, may be null | attributes of the example, for subgroups |

Behind the first nine, columns may stand in any order. The parquet schema's metadata carries the format's version under
`conrad_bench.records`, and in a run folder under `conrad_bench.made_from` what the records are made from.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import DataError, StorageError
from conrad_bench.reading.elicitation import LEVELS
from conrad_bench.reading.thoughts import thinks
from conrad_bench.storage import read_regular, write_bytes
from conrad_bench.types import STATUSES, Estimate, Example, Score

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from conrad_bench.tasks.base import Task

VERSION = 1
COLUMNS = ("task", "method", "example", "cluster", "claim", "confidence", "correctness", "status", "response")
"""The columns that every records file has; further columns are those of `OPTIONAL`, and subgroup attributes."""
QUALITY_ABOVE = {"quality_6": 0.6, "quality_8": 0.8, "quality_10": 1.0}
"""The columns with the quality of what is left of a response when only the claims whose confidence is at least this are
kept (ConRad, Table 3); 0 where nothing is left."""
QUALITY = ("quality", *QUALITY_ABOVE)
"""In [0, 1]: the correctness of the whole response by the task's quality scorer, then of what is left of it."""
LEVEL_PROBABILITIES = tuple(f"p_{level}" for level in range(11))
"""In [0, 1]: the probabilities that the model gives to the eleven confidence answers where it states its confidence.
They sum to at most 1; the rest is the probability of a malformed answer."""
READING, THOUGHTS = "reading", "thoughts"
"""How the response's confidence was written, null where it states none; whether thoughts were set aside (1, 0)."""
JUDGE = "judge:"
"""What the columns begin with that hold each judge's score, of claims that several judges scored: "judge:green".
Numbers in [0, 1] or null; the correctness is their mean."""
SEED = "seed"
"""The training seed of a method that learns or samples; other methods' records, and older ones, lack it."""
SPENT = ("tokens_read", "tokens_written", "training_steps")
"""What an example takes if the method runs alone: tokens that the model reads and writes, means over the test examples;
and the steps of the method's training as planned. The same in every row."""
NUMBERS = (*QUALITY, *LEVEL_PROBABILITIES, THOUGHTS)
"""Optional columns with numbers in [0, 1]."""
OPTIONAL = (*NUMBERS, *SPENT, READING, SEED)
"""Columns that a records file may have. A file with one of `LEVEL_PROBABILITIES` has all eleven."""
RESERVED = (*COLUMNS, *OPTIONAL)
"""Names that the attributes of a task may not have."""

COUNTERFACTUAL = "counterfactual"
"""The folder of the records under other pictures, in a run folder or a bundle."""
ANEW, GIVEN = "anew", "given"
"""What a confidence under other pictures is about: the response to them, or the one to the original pictures."""
SWAPPED = "swapped"
"""The replacement by another patient's pictures."""

MOST_ROWS = 5_000_000
_MOST_COLUMNS, _MOST_CELLS = 200, 100_000_000
_MOST_BYTES = 2**30
_MOST_LETTERS = 10_000
"""What a records file may have at most. It may come from somebody else, and is measured before it is read."""

MEAN_TOLERANCE = 1e-3 + 1e-9
"""How far a correctness may lie from the mean of the judges' scores: in a bundle all of them have three digits."""

METADATA_KEY = b"conrad_bench.records"
"""The key of the format's version in the schema's metadata."""
_MADE_FROM = b"conrad_bench.made_from"
_NUMBERS = ("confidence", "correctness")
_SUM_TOLERANCE = 0.05
"""How far above 1 a sum of probabilities may lie: each answer is scored on its own, in half precision perhaps."""


def records_path(run: Path, method: str, task: str) -> Path:
    """Return where the records of one method on one task lie in a run folder."""
    return run / "records" / f"{method}@{task}.parquet"


def counterfactual_path(run: Path, method: str, task: str, replacement: str, reading: str) -> Path:
    """Return where the records of a method under other pictures lie; `reading` is `ANEW` or `GIVEN`."""
    return run / COUNTERFACTUAL / f"{method}@{task}@{replacement}@{reading}.parquet"


def write_records(
    path: Path, rows: Sequence[Mapping[str, object]] | pd.DataFrame, parts: Mapping[str, str] | None = None
) -> None:
    """Write the records of one method on one task atomically, with what they are made from (harness/fingerprints.py).

    `rows` has the columns above, the numbers among them as float or None. Raises DataError naming the column and
    the row that is wrong, and StorageError when the file cannot be written.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    _check_columns(frame.columns, path)
    fields = [(column, _arrow_type(column)) for column in COLUMNS]
    for column in (str(column) for column in frame.columns if column not in COLUMNS):
        is_number = column not in OPTIONAL and _is_number(frame[column])
        fields.append((column, pa.float64() if is_number else _arrow_type(column)))
    metadata = {METADATA_KEY: str(VERSION).encode()}
    if parts is not None:
        metadata[_MADE_FROM] = json.dumps(dict(parts), sort_keys=True).encode()
    schema = pa.schema(fields, metadata=metadata)
    try:
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        # Arrow's message may quote a value; the column and the type that it should have say enough.
        raise DataError(f"{path}: a column has values of another type than the records format asks for") from error
    for field in table.schema:
        if pa.types.is_string(field.type):
            _check_texts(field.name, table.column(field.name).chunks, len(table), path)
    check_records(table.to_pandas(), path)
    buffer = io.BytesIO()
    # from_pandas adds pandas' own metadata; the file carries ours alone, so equal records are equal bytes.
    pq.write_table(table.replace_schema_metadata(schema.metadata), buffer, compression="zstd", write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def made_from(path: Path) -> dict[str, str] | None:
    """Return what a records file is made from; None where it cannot be read or does not say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = read_regular(path, _MOST_BYTES)
        return dict(json.loads((pq.read_schema(pa.BufferReader(data)).metadata or {})[_MADE_FROM]))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def read_records(path: Path) -> pd.DataFrame:
    """Read and check a records file; null numbers become NaN.

    Raises StorageError when the file is missing or damaged, DataError when it is not a records file of this version or
    holds a value out of range.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _bytes(path)
    try:
        # Not read_table: it starts threads, and a process that ends meanwhile, on an error, is aborted by some of them.
        said = pq.read_metadata(pa.BufferReader(data))
        _check_size(said, path)
        # Texts as dictionaries: a file of a few bytes can say one text of a megabyte a million times.
        texts = [said.schema.column(i).name for i in range(said.num_columns) if _is_text(said.schema.column(i))]
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, read_dictionary=texts)
        table = _plain(file.read(use_threads=False), path)
        names = table.column_names
    except OSError as error:
        # pyarrow raises OSError for torn pages, ArrowInvalid for a file that is no parquet at all.
        raise StorageError(f"cannot read {path}: missing or damaged; delete it and run the command again") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:  # no checksum guards the names of columns
        raise StorageError(f"{path} is not a whole parquet file; delete it and run the command again") from error
    version = (table.schema.metadata or {}).get(METADATA_KEY)
    if version is None:
        raise DataError(f"{path} is a parquet file but holds no records of conrad-bench; move it out of the folder")
    if version != str(VERSION).encode():
        raise DataError(
            f"{path} has records format {version.decode(errors='replace')}, this version reads {VERSION}; "
            "delete it and run the command again, or use the version that wrote it"
        )
    _check_columns(names, path)
    for column in filter(reserved, names):
        if table.schema.field(column).type != _arrow_type(column):
            found, wanted = table.schema.field(column).type, _arrow_type(column)
            raise DataError(f"{path}: column {column!r} has type {found}, records have {wanted} under this name")
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    check_records(frame, path)
    return frame


def _bytes(path: Path) -> bytes:
    """Return the bytes of a records file. Raises StorageError."""
    try:
        return read_regular(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise StorageError(f"cannot read {path}: missing or damaged; delete it and run the command again") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; move it away and run the command again") from error


def _check_size(said: Any, path: Path) -> None:
    """Raise DataError where a parquet file says that it holds more than records do."""
    size = sum(said.row_group(i).total_byte_size for i in range(said.num_row_groups))
    for number, most, what in (
        (said.num_rows, MOST_ROWS, "rows"),
        (said.num_columns, _MOST_COLUMNS, "columns"),
        (said.num_rows * said.num_columns, _MOST_CELLS, "cells"),
        (size, _MOST_BYTES, "bytes when unpacked"),
    ):
        if number > most:
            raise DataError(f"{path}: holds {number:,} {what}; records have at most {most:,}")


def _is_text(column: Any) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY" and column.max_repetition_level == 0)


def _plain(table: pa.Table, path: Path) -> pa.Table:
    """Return a table with plain texts for dictionaries of them. Raises DataError for a text that is too long."""
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(index)
            _check_texts(field.name, (chunk.dictionary for chunk in column.chunks), len(column), path)
            plain = pa.field(field.name, field.type.value_type, field.nullable, field.metadata)
            table = table.set_column(index, plain, column.cast(field.type.value_type))
    return table


def _check_texts(name: str, texts: Iterable[pa.Array], rows: int, path: Path) -> None:
    """Raise DataError for a column with a text that is too long, by itself or in so many rows."""
    import pyarrow.compute as pc

    longest = max((pc.max(pc.binary_length(each)).as_py() or 0 for each in texts), default=0)
    if longest > _MOST_LETTERS or longest * rows > _MOST_BYTES:
        raise DataError(
            f"{path}: column {name[:40]!r} has a text of {longest:,} bytes in {rows:,} rows; records hold names and "
            f"attributes, of at most {_MOST_LETTERS:,} bytes and {_MOST_BYTES:,} together"
        )


def reserved(column: str) -> bool:
    """Tell whether an attribute may not have this name."""
    return column in RESERVED or column.startswith(JUDGE)


def judge_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns with each judge's score, in order; none where one scorer judged."""
    return sorted(str(column) for column in frame.columns if str(column).startswith(JUDGE))


def training_seed(frame: pd.DataFrame) -> int | None:
    """Return the training seed of the method that records are about; None where they do not say."""
    return int(frame[SEED].iloc[0]) if SEED in frame else None


def check_records(frame: pd.DataFrame, path: Path) -> None:
    """Raise DataError, naming `path`, the column and the first wrong row, unless the values follow the format."""
    if frame.empty:
        raise DataError(f"{path}: there are no records")
    for column in COLUMNS:
        if column not in _NUMBERS:
            _refuse(frame[column].isna(), path, column, "a value is missing")
    if SEED in frame:
        _refuse(frame[SEED] < 0, path, SEED, "a seed is negative")
        _refuse(frame[SEED] != frame[SEED].iloc[0], path, SEED, "one file holds one seed")
    for column in ("task", "method"):
        _refuse(frame[column] != frame[column].iloc[0], path, column, "one file holds one task and one method")
    by_judge = judge_columns(frame)
    optional = [*(column for column in NUMBERS if column in frame), *by_judge]
    for column in (*_NUMBERS, *optional):
        values = frame[column]
        _refuse(values.notna() & ~values.between(0.0, 1.0), path, column, "a value is outside [0, 1]")
    for column in (column for column in SPENT if column in frame):
        wrong = frame[column].isna() | (frame[column] < 0) | (frame[column] != frame[column].iloc[0])
        _refuse(wrong, path, column, "a cost is missing, negative or not the same in every row")
    _refuse(frame["claim"] < 0, path, "claim", "a claim index is negative")
    _refuse(frame.duplicated(["example", "claim"]), path, "claim", "an (example, claim) pair occurs twice")
    clusters = frame.groupby("example")["cluster"].transform("first")
    _refuse(frame["cluster"] != clusters, path, "cluster", "one example has two clusters")
    _refuse(~frame["status"].isin(STATUSES), path, "status", f"a status is none of {', '.join(STATUSES)}")
    ok = frame["status"] == "ok"
    _refuse(ok & frame["correctness"].isna(), path, "correctness", "an ok record has no correctness")
    if frame["confidence"].notna().any():
        _refuse(ok & frame["confidence"].isna(), path, "confidence", "an ok record has no confidence")
    for column in (column for column in QUALITY if column in optional):
        known = frame.groupby("example")[column].transform("first")  # NaN only where all of the example's values are
        _refuse((frame[column] != known) & known.notna(), path, column, "one example has two qualities")
    if by_judge:
        mean = frame[by_judge].mean(axis=1, skipna=False)
        wrong = ok & ~((frame["correctness"] - mean).abs() <= MEAN_TOLERANCE)
        _refuse(wrong, path, "correctness", f"a value is not the mean of {', '.join(by_judge)}")
    if LEVEL_PROBABILITIES[0] in frame:
        _check_level_probabilities(frame[list(LEVEL_PROBABILITIES)], path)


def _check_level_probabilities(p: pd.DataFrame, path: Path) -> None:
    known = p.notna().sum(axis=1)
    _refuse((known > 0) & (known < len(p.columns)), path, "p_0 ... p_10", "some of the probabilities are missing")
    _refuse(p.sum(axis=1) > 1 + _SUM_TOLERANCE, path, "p_0 ... p_10", "the probabilities sum to more than 1")


def _check_columns(columns: Any, path: Path) -> None:
    wanted = COLUMNS if not set(columns) & set(LEVEL_PROBABILITIES) else (*COLUMNS, *LEVEL_PROBABILITIES)
    missing = [column for column in wanted if column not in set(columns)]
    if missing:
        raise DataError(f"{path}: missing columns: {', '.join(missing)}")


def _arrow_type(column: str) -> Any:
    import pyarrow as pa

    whole = column in ("claim", SEED)
    number = column in (*_NUMBERS, *NUMBERS, *SPENT) or column.startswith(JUDGE)
    return pa.float64() if number else pa.int64() if whole else pa.string()


def _is_number(values: pd.Series[Any]) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _refuse(wrong: pd.Series[Any], path: Path, column: str, problem: str) -> None:
    """Raise DataError when any row is wrong."""
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataError(f"{path}: column {column!r}, row {row}: {problem} ({int(wrong.sum())} such rows)")


def record_rows(
    method: str,
    task: Task,
    examples: Sequence[Example],
    estimates: Sequence[Estimate],
    scores: Sequence[Sequence[Score]],
    qualities: Sequence[dict[str, float | None]],
    spent: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> list[dict[str, object]]:
    """Return one record for each claim; `seed` is the training seed of a method that learns or samples.

    `estimates` are in the order of the examples, `spent` has the columns of `SPENT` where they are known. A claim whose
    correctness is unknown becomes `scorer_failed`; one without a response, since an image of its example cannot be
    read, `image_unreadable`.
    """
    attributes = sorted({name for example in examples for name in example.attributes})
    read = any(claim.distribution for estimate in estimates for claim in estimate.claims)
    by_judge = sorted({name for found in scores for score in found for name, _ in score.by})
    written = any(claim.reading for estimate in estimates for claim in estimate.claims)
    thoughtful = [thinks(estimate.response) for estimate in estimates]
    rows: list[dict[str, object]] = []
    together = zip(examples, estimates, scores, qualities, thoughtful, strict=True)
    for example, estimate, scored, quality, thought in together:
        for index, (claim, score) in enumerate(zip(estimate.claims, scored, strict=True)):
            status = "scorer_failed" if score.value is None and claim.status == "ok" else claim.status
            if estimate.response.finish_reason == "image_unreadable":
                status = "image_unreadable"
            p = claim.distribution or (None,) * LEVELS
            judged = status not in ("empty", "image_unreadable", "method_failed")
            rows.append(
                {
                    "task": task.name,
                    "method": method,
                    "example": example.id,
                    "cluster": example.cluster,
                    "claim": index,
                    "confidence": claim.confidence,
                    "correctness": score.value if judged else None,
                    "status": status,
                    "response": estimate.response.key,
                    **quality,
                    **{f"{JUDGE}{name}": dict(score.by).get(name) if judged else None for name in by_judge},
                    **({f"p_{level}": p[level] for level in range(LEVELS)} if read else {}),
                    **({READING: claim.reading or None} if written else {}),
                    **({THOUGHTS: float(thought)} if any(thoughtful) else {}),
                    **({} if seed is None else {SEED: seed}),
                    **(spent or {}),
                    **{name: example.attributes.get(name) for name in attributes},
                }
            )
    return rows
