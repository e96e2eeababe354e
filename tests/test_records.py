"""Records: what is written is read, equal records are equal bytes, and wrong or damaged files are refused by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conrad_bench.errors import DataError, StorageError
from conrad_bench.records import (
    COLUMNS,
    LEVEL_PROBABILITIES,
    NUMBERS,
    OPTIONAL,
    QUALITY,
    QUALITY_ABOVE,
    RESERVED,
    SPENT,
    VERSION,
    read_records,
    records_path,
    write_records,
)
from conrad_bench.types import STATUSES


def row(example: str | None = "e1", claim: int = 0, **values: object) -> dict[str, object]:
    base: dict[str, object] = {
        "task": "mimic_report", "method": "probe", "example": example, "cluster": "p1", "claim": claim,
        "confidence": 0.5, "correctness": 0.25, "status": "ok", "response": f"key-{example}",
    }  # fmt: skip
    return base | values


units = st.floats(0, 1)
parsed = st.fixed_dictionaries({"status": st.just("ok"), "confidence": units, "correctness": units})
unparsed = st.fixed_dictionaries(
    {
        "status": st.sampled_from(STATUSES[1:]),
        "confidence": st.none() | units,
        "correctness": st.none() | units,
    }
)


def levels(*p: float | None) -> dict[str, object]:
    """The probabilities of the confidence answers, the last one repeated."""
    return {name: p[min(i, len(p) - 1)] for i, name in enumerate(LEVEL_PROBABILITIES)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(parsed | unparsed, min_size=1, max_size=8),
    st.lists(st.none() | st.text(max_size=4), min_size=8),
    st.tuples(*[st.none() | units] * len(QUALITY)),
    st.lists(st.none() | st.lists(st.floats(0, 1 / 11), min_size=11, max_size=11), min_size=8),
)
def test_what_is_written_is_read(
    tmp_path: Path,
    values: list[dict[str, object]],
    views: list[str | None],
    qualities: tuple[float | None, ...],
    answers: list[list[float] | None],
) -> None:
    path = records_path(tmp_path, "probe", "mimic_report")
    rows = [
        row(claim=i, view=view, size=7)
        | v
        | dict(zip(QUALITY, qualities, strict=True))
        | levels(*(p or [None]))
        | {"thoughts": 1.0, **dict(zip(SPENT, (61.75, 47.5, 300.0), strict=True)), "reading": view, "seed": 3}
        for i, (v, view, p) in enumerate(zip(values, views, answers, strict=False))
    ]
    write_records(path, rows)
    frame = read_records(path)
    assert list(frame.columns) == [*COLUMNS, "view", "size", *OPTIONAL]
    assert all(frame[column].dtype == float for column in (*NUMBERS, "size"))
    for i, original in enumerate(rows):
        for column, value in original.items():
            read = frame[column].iloc[i]
            assert pd.isna(read) if value is None else read == value
    first = path.read_bytes()
    write_records(path, frame)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["probe@mimic_report.parquet"]


def test_the_file_carries_its_version_and_no_text_column(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, [row()])
    schema = pq.read_schema(path)
    assert schema.metadata == {b"conrad_bench.records": str(VERSION).encode()}
    assert "text" not in schema.names


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "missing columns"),
        ([row(confidence=1.5)], "'confidence', row 0: a value is outside"),
        ([row(), row("e2", correctness=-0.1)], "'correctness', row 1: a value is outside"),
        ([row(correctness=float("inf"))], "outside"),
        ([row(status="fine")], "'status', row 0"),
        ([row(), row()], "occurs twice"),
        ([row(claim=-1)], "negative"),
        ([row(tokens_read=-1.0)], "'tokens_read', row 0: a cost is"),
        ([row(training_steps=1.0), row("e2", training_steps=2.0)], "'training_steps', row 1: a cost is"),
        ([row(tokens_written=1.0), row("e2", tokens_written=None)], "'tokens_written', row 1: a cost is"),
        ([row(), row(claim=1, cluster="p2")], "two clusters"),
        ([row(), row("e2", task="other")], "one task and one method"),
        ([row(correctness=None)], "no correctness"),
        ([row(), row("e2", confidence=None)], "ok record has no confidence"),
        ([row(example=None)], "'example', row 0: a value is missing"),
        ([row(seed=0), row("e2", seed=1)], "'seed', row 1: one file holds one seed"),
        ([row(seed=-1)], "'seed', row 0: a seed is negative"),
        ([row(seed=0), row("e2", seed=None)], "'seed', row 1: one file holds one seed"),
        ([row(confidence="secret words")], "another type"),
        ([row(quality="secret words")], "another type"),
        ([row(quality_6=1.01)], "'quality_6', row 0: a value is outside"),
        ([row(quality=0.5), row(claim=1, quality=0.25)], "'quality', row 1: one example has two qualities"),
        ([row(quality_10=0.5), row(claim=1, quality_10=None)], "'quality_10', row 1: one example has two"),
        ([row(p_0=0.5)], "missing columns: p_1, p_2"),
        ([row() | levels(-0.1, 0)], "'p_0', row 0: a value is outside"),
        ([row(), row("e2") | levels(0.5, 0.1)], "row 1: the probabilities sum to more than 1"),
        ([row() | levels(0.1) | {"p_4": None}], "row 0: some of the probabilities are missing"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, rows: list[dict[str, object]], problem: str) -> None:
    path = tmp_path / "r.parquet"
    with pytest.raises(DataError, match=problem) as caught:
        write_records(path, rows)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not path.exists()


def test_a_method_without_confidences_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, [row(confidence=None), row("e2", confidence=None)])
    assert read_records(path)["confidence"].isna().all()


def test_the_reserved_names_are_those_of_the_format() -> None:
    assert QUALITY_ABOVE == {"quality_6": 0.6, "quality_8": 0.8, "quality_10": 1.0}
    levels = tuple(f"p_{c}" for c in range(11))
    assert (
        "quality",
        "quality_6",
        "quality_8",
        "quality_10",
        *levels,
        "thoughts",
        *SPENT,
        "reading",
        "seed",
    ) == OPTIONAL
    assert (*COLUMNS, *OPTIONAL) == RESERVED
    assert len(set(RESERVED)) == len(RESERVED)


def test_probabilities_are_known_in_some_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, [row() | levels(0.0, 0.1), row("e2", status="no_confidence", confidence=None) | levels(None)])
    frame = read_records(path)
    assert frame["p_10"].tolist()[0] == 0.1
    assert frame.loc[1, list(LEVEL_PROBABILITIES)].isna().all()


def test_an_older_file_with_another_meaning_of_a_reserved_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    table = pa.Table.from_pylist([row(quality="good")])
    pq.write_table(table.replace_schema_metadata({"conrad_bench.records": "1"}), path)
    with pytest.raises(DataError, match="'quality' has type string, records have double under this name"):
        read_records(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, [row(f"e{i}") for i in range(100)])
    whole = path.read_bytes()
    cuts = [b"", whole[: len(whole) // 2], whole[:-1], b"not parquet at all", whole[:4] + bytes(200) + whole[204:]]
    for damaged in cuts:
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"r\.parquet"):
            read_records(path)
    path.unlink()
    with pytest.raises(StorageError, match="missing"):
        read_records(path)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pd.DataFrame([row()]).to_parquet(path)
    with pytest.raises(DataError, match="holds no records"):
        read_records(path)
    table = pa.Table.from_pylist([row()])
    pq.write_table(table.replace_schema_metadata({"conrad_bench.records": "99"}), path)
    with pytest.raises(DataError, match="records format 99"):
        read_records(path)
    ours = {"conrad_bench.records": str(VERSION)}
    pq.write_table(table.drop_columns(["cluster"]).replace_schema_metadata(ours), path)
    with pytest.raises(DataError, match="missing columns: cluster"):
        read_records(path)
    pq.write_table(pa.Table.from_pylist([row(confidence="0.5")]).replace_schema_metadata(ours), path)
    with pytest.raises(DataError, match="'confidence' has type string"):
        read_records(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, [row(f"e{i}", confidence=i / 50) for i in range(50)])
    expected, whole = read_records(path), bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(whole))
    with suppress(DataError, StorageError):
        pd.testing.assert_frame_equal(read_records(path), expected)
