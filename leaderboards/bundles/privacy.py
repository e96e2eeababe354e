"""What a bundle may say of single examples: banded attributes that five patients share, and rounded numbers.

- A combination of published attributes (view, sex, age, ...) that fewer than `FEWEST_CLUSTERS` patients have in any of
  the bundle's files loses attributes until enough patients share what is left: k-anonymity over the columns together
  (Sweeney 2002), by local suppression.
- Confidences, correctness, qualities and answer probabilities have three digits, unless every value of the column is
  shared by that many patients (levels): a number of 16 digits is a name.
- Ids are hashed (`publish`), and how a confidence was written is one of the reader's own words.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import StorageError
from conrad_bench.leaderboards.board.subgroups import AGES, age_names
from conrad_bench.records import (
    COLUMNS,
    JUDGE,
    LEVEL_PROBABILITIES,
    METADATA_KEY,
    OPTIONAL,
    QUALITY,
    READING,
    VERSION,
    judge_columns,
)

if TYPE_CHECKING:
    import pandas as pd

FEWEST_CLUSTERS = 5
"""So many clusters (patients) share every combination of attributes, and every number of more than `DIGITS` digits."""
DIGITS = 3
NUMBERS = ("confidence", "correctness", *QUALITY, *LEVEL_PROBABILITIES)
"""The columns that are rounded."""

_JUDGE = re.compile(rf"{JUDGE}[\w.+-]{{1,64}}(:[\w.+-]{{1,64}})?")
"""The column of a judge, by the scorer's name."""

_LISTED: dict[str, frozenset[str]] = {
    "view": frozenset({"PA", "AP", "LATERAL", "LL"}),
    "sex": frozenset({"F", "M"}),
    "answer_type": frozenset({"closed", "open"}),
    "modality": frozenset({"xray", "ct", "mri", "ultrasound", "angiography", "mammography"}),
    "q_lang": frozenset({"en", "zh"}),
}
"""Columns with names as values, and the values that are published."""
_BANDS: dict[str, tuple[tuple[float, str], ...]] = {
    "age": tuple(zip((*AGES, float("inf")), age_names(), strict=True)),
    "image_quality": ((1 / 3, "low"), (2 / 3, "middle"), (float("inf"), "high")),
}
"""Columns with numbers as values: the upper end (exclusive) and the name of each band."""
SUBGROUPS = (*_LISTED, *_BANDS)
"""The columns of examples that are published."""
_GIVEN_UP = ("age", "image_quality", "modality", "q_lang", "answer_type", "sex", "view")
"""In this order a rare combination loses its attributes: what tells most of a person, and least of a method, first."""
_READING = re.compile(r"(?:8|10|[a-z%/, ])+")
_OTHER_READING = "another way"
_ARROW = b"ARROW:schema"
_WRITER = re.compile(r"parquet-cpp-arrow version [0-9.]{1,20}(-SNAPSHOT)?")


def band(column: str, value: object) -> str | None:
    """Return what is published of an example's value in a column of `SUBGROUPS`, None where it is not on the list."""
    if column in _LISTED:
        text = str(value).strip()
        return next((name for name in _LISTED[column] if name.lower() == text.lower()), None)
    try:
        number = float(str(value))
    except ValueError:
        return None
    return next((name for end, name in _BANDS[column] if number < end), None)


def anonymous(frames: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Return the attributes that are published of each example, by its id: columns of `SUBGROUPS`, None for nothing.

    `frames` are the records of all files of a bundle; an example says the same in each of them.
    """
    import pandas as pd

    held = {key: [column for column in SUBGROUPS if column in frame] for key, frame in frames.items()}
    banded = [
        pd.DataFrame({"example": frame["example"], **{c: [band(c, v) for v in frame[c]] for c in held[key]}})
        for key, frame in frames.items()
    ]
    values = pd.concat(banded).groupby("example").first().reindex(columns=list(SUBGROUPS)).astype(object)
    values = values.where(values.notna(), None)
    examples = {key: frame[["example", "cluster"]].drop_duplicates("example") for key, frame in frames.items()}
    rare = True
    while rare:
        rare = False
        for key, of in examples.items():
            said = values.loc[of["example"], held[key]]
            sharing = _sharing(said, of["cluster"].to_numpy())
            blank = said.isna().all(axis=1).to_numpy()
            few = sharing < FEWEST_CLUSTERS
            if (few & ~blank).any():
                _give_up(values, said.index[few & ~blank], 1)
            elif (few & blank).any() and not blank.all():
                # Too few without attributes are as rare as too few with some: the smallest combination joins them.
                smallest = said[(sharing == sharing[~blank].min()) & ~blank].iloc[0]
                joins = (said.eq(smallest) | (said.isna() & smallest.isna())).all(axis=1)
                _give_up(values, said.index[joins], len(SUBGROUPS))
            else:
                continue
            rare = True
    return values


def _sharing(said: pd.DataFrame, cluster: Any) -> Any:
    """Return how many clusters have the same combination as each row (n,)."""
    combination = (
        said.astype(object).where(said.notna(), "").astype(str).agg("|".join, axis=1)
        if len(said.columns)
        else said.index.map(lambda _: "")
    )
    return _of(cluster).groupby(list(combination)).transform("nunique").to_numpy()


def _of(values: Any) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values)


def _give_up(values: pd.DataFrame, examples: pd.Index[Any], number: int) -> None:
    """Take that many of their attributes from examples, in the order of `_GIVEN_UP`."""
    left = _of([number] * len(examples))
    for column in _GIVEN_UP:
        has = values.loc[examples, column].notna().to_numpy() & (left.to_numpy() > 0)
        values.loc[examples[has], column] = None
        left -= has


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return records with the numbers that a bundle holds; the same again for records that have them already."""
    public = frame.copy()
    for column in _rounded(frame):
        sharing = frame.groupby(column)["cluster"].nunique()
        if (sharing < FEWEST_CLUSTERS).any():
            public[column] = frame[column].round(DIGITS)
    if READING in frame:
        public[READING] = _read(frame[READING])
    return public


def _rounded(frame: pd.DataFrame) -> list[str]:
    """Return the columns whose numbers are rounded."""
    return [*(column for column in NUMBERS if column in frame), *judge_columns(frame)]


def _read(written: pd.Series[Any]) -> pd.Series[Any]:
    """Return how confidences were written, in the reader's own words."""
    return written.map(lambda text: _OTHER_READING if isinstance(text, str) and not _READING.fullmatch(text) else text)


def problems(frame: pd.DataFrame, full_numbers: bool = False) -> list[str]:
    """Return what the records of a bundle say and must not.

    With `full_numbers` (bundles of format 1) numbers may have all digits, and attributes may be rare together.
    """
    found = []
    judges = {column for column in judge_columns(frame) if _JUDGE.fullmatch(column)}
    foreign = sorted(set(frame.columns) - {*COLUMNS, *OPTIONAL, *SUBGROUPS, *judges})
    if foreign:
        found.append(f"columns that no bundle has: {', '.join(name[:40] for name in foreign)}")
    for column in ("example", "cluster", "response"):
        if not frame[column].str.fullmatch("[0-9a-f]{32}").all():
            found.append(f"column {column}: ids that are no hashes of 32 hex digits")
    if not frame["example"].is_monotonic_increasing:
        found.append("its rows are not in the order of the hashed ids")
    if READING in frame and not frame[READING].equals(_read(frame[READING])):
        found.append(f"column {READING}: words that are not the reader's")
    for column in (column for column in SUBGROUPS if column in frame):
        values = {value for value in frame[column].dropna().unique() if not _published(column, str(value))}
        if values:
            found.append(f"column {column}: {len(values)} value(s) that no bundle has")
    if full_numbers:
        return found
    one_each = frame.drop_duplicates("example")
    said = one_each[[column for column in SUBGROUPS if column in frame]]
    sharing = _sharing(said, one_each["cluster"].to_numpy())
    if (rare := (sharing < FEWEST_CLUSTERS) & said.notna().any(axis=1).to_numpy()).any():
        found.append(
            f"{rare.sum():,} examples have attributes that fewer than {FEWEST_CLUSTERS} clusters share together"
        )
    again = rounded(frame)
    for column in _rounded(frame):
        if not frame[column].equals(again[column]):
            found.append(f"column {column}: values with more digits than a bundle may have")
    return found


def hidden(path: Path) -> list[str]:
    """Return what a records file of a bundle holds beside its rows, and must not: texts in its metadata, other bytes.

    Raises StorageError where it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {METADATA_KEY: str(VERSION).encode()}
    try:
        data = path.read_bytes()
        said = pq.read_metadata(pa.BufferReader(data))
        schema = pq.read_schema(pa.BufferReader(data))
        stored = pa.ipc.read_schema(pa.BufferReader(base64.b64decode((said.metadata or {}).get(_ARROW, b""))))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"{path}: its metadata cannot be read; publish the run anew") from error
    found = []
    foreign = {*(said.metadata or {})} - {_ARROW, *wanted}
    if foreign or schema.metadata != wanted or stored.metadata != wanted:
        found.append("metadata of the file that no bundle has")
    if any(field.metadata for each in (schema, stored) for field in each) or stored.names != schema.names:
        found.append("metadata of columns that no bundle has")
    chunks = [said.row_group(i).column(j) for i in range(said.num_row_groups) for j in range(said.num_columns)]
    # Older versions of pyarrow do not tell what a chunk's metadata are.
    if any(getattr(chunk, "metadata", None) or chunk.file_path for chunk in chunks):
        found.append("metadata of parts of columns that no bundle has")
    if not _WRITER.fullmatch(str(said.created_by)):
        found.append("the name of a writer that is not pyarrow's")
    ends = 2 * len(b"PAR1") + 4
    extra = len(data) - ends - said.serialized_size - sum(chunk.total_compressed_size for chunk in chunks)
    if extra:
        found.append(f"{abs(extra):,} bytes that belong to no column")
    return found


def _published(column: str, value: str) -> bool:
    return value in (_LISTED[column] if column in _LISTED else {name for _, name in _BANDS[column]})
