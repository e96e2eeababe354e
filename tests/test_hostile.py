"""Files of strangers: what they can hold is measured before it is read, and refused with a reason at once."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_board import CONTEXT, frame
from test_merge import a_run

from conrad_bench.config import load_config, parse_options
from conrad_bench.errors import ConfigError, ConradBenchError, DataError, StorageError
from conrad_bench.leaderboards.bundles.finished import load_run
from conrad_bench.leaderboards.bundles.merge import leaderboard
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.leaderboards.rating_files import read_ratings
from conrad_bench.records import made_from, read_records, write_records
from conrad_bench.storage import read_json, read_regular

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
NAMED = "methods: [verbalized]\ntasks: [mimic_report]\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BOMB, "more than 10,000 values; a configuration needs less"),
        ("a: " + "[" * 100_000, "line 1: nested more than 20 deep"),
        ("".join(f"{' ' * i}a:\n" for i in range(500)), "nested more than 20 deep"),
        ("options: {a: {<<: [" + ", ".join(["{x: 1}"] * 20_000) + "]}}", "more than 10,000 values"),
        (f"{NAMED}seed: {'9' * 5000}\n", "holds a number or a date that cannot be read"),
        (f"{NAMED}seed: 2020-99-99\n", "holds a number or a date that cannot be read"),
        (f"{NAMED}options: {{bootstrap: {{replicates: 1000000000}}}}\n", "less than or equal to 100000"),
        (f"{NAMED}options: {{phantom: {{studies: 1000000000}}}}\n", "less than or equal to 1000000"),
        (f"{NAMED}seed: {10**30}\n", "seed: Input should be less than or equal to"),
        ("#" * (2**20 + 1), "it has more than 1 MiB"),
    ],
)
def test_a_config_file_that_is_too_much(tmp_path: Path, content: str, expected: str) -> None:
    from conrad_bench.registry import Registry

    file = tmp_path / "run.yaml"
    file.write_text(content)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(file, {}, Registry())
    assert time.perf_counter() - start < 5
    assert len(str(caught.value)) < 500


def test_a_setting_that_is_too_much() -> None:
    for value in ("[" * 5000, "9" * 5000, "[" * 30 + "]" * 30):
        with pytest.raises(ConfigError, match=r"-o probe\.layer"):
            parse_options([f"probe.layer={value}"])


@given(
    st.recursive(st.integers() | st.text("a:#['", max_size=3), lambda inner: st.lists(inner, max_size=4), max_leaves=20)
)
def test_a_value_of_common_size_is_read(value: Any) -> None:
    assert parse_options([f"a.b={json.dumps(value)}"]) == {"a": {"b": value}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "run", [frame("verbalized", n=12)], CONTEXT)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("make", [pipe, lambda path: (path.unlink(missing_ok=True), path.mkdir())])
@pytest.mark.parametrize(
    "name", ["records/verbalized@mimic_report.parquet", "leaderboard.json", "context.json", "manifest.json"]
)
def test_what_is_no_regular_file_is_not_waited_for(run: Path, name: str, make: Callable[[Path], object]) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    make(run / name)
    for read in (lambda: load_run(run), lambda: leaderboard([run], run.parent / "out"), lambda: verify(run)):
        with contextlib.suppress(ConradBenchError):  # some can do without the file
            read()
    assert read_json(run / name) is None
    with pytest.raises(OSError, match="no regular file"):
        read_regular(run / name, 10)
    if name.startswith("records"):
        with pytest.raises(StorageError, match="no regular file"):
            read_records(run / name)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="more than 1 MiB"):
        read_regular(path, 2**20)
    assert read_json(path) is None
    assert made_from(path) is None


def columns(rows: int, **texts: str) -> pa.Table:
    """A table with the columns of records, all the same in every row, each text once in the file."""
    plain = {"task": "t", "method": "m", "example": "e", "cluster": "c", "status": "ok", "response": "r", **texts}
    zeros = pa.repeat(pa.scalar(0, pa.int32()), rows)
    arrays: dict[str, Any] = {name: pa.DictionaryArray.from_arrays(zeros, [text]) for name, text in plain.items()}
    arrays["claim"] = pa.repeat(pa.scalar(0), rows)
    arrays |= {name: pa.repeat(pa.scalar(0.5), rows) for name in ("confidence", "correctness")}
    return pa.table(arrays).replace_schema_metadata({"conrad_bench.records": "1"})


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (lambda: columns(5_000_001), "holds 5,000,001 rows; records have at most 5,000,000"),
        (lambda: columns(1, **{f"x{i}": "x" for i in range(300)}), "309 columns; records have at most 200"),
        (lambda: columns(1000, view="x" * 1_000_000), "has a text of 1,000,000 bytes in 1,000 rows"),
        (lambda: columns(150_000, view="x" * 9000), "'view' has a text of 9,000 bytes in 150,000 rows"),
    ],
)
def test_a_small_parquet_file_of_much_is_measured_first(
    tmp_path: Path, table: Callable[[], pa.Table], expected: str
) -> None:
    path = tmp_path / "m@t.parquet"
    pq.write_table(table(), path, compression="zstd")
    assert path.stat().st_size < 3 * 2**20
    with pytest.raises(DataError, match=expected):
        read_records(path)


@pytest.mark.parametrize(
    ("name", "edit", "expected"),
    [
        ("context.json", lambda c: c["context"].update(replicates=10**9), "not as this version writes it"),
        ("leaderboard.json", lambda c: c.update(replicates=10**9), "replicates: Input should be less than or equal"),
        ("leaderboard.json", lambda c: c.update(seed=-1), "seed: Input should be greater than or equal"),
    ],
)
def test_a_board_that_keeps_busy_is_refused(
    run: Path, name: str, edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    content = json.loads((run / name).read_text())
    edit(content)
    (run / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=expected):
        load_run(run)


@pytest.mark.parametrize("name", ["context.json", "leaderboard.json", "manifest.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", '"' * 3, "\xff"])
def test_json_that_no_parser_takes_is_named(run: Path, name: str, content: str) -> None:
    (run / name).write_bytes(content.encode("latin1"))
    with pytest.raises(DataError, match=name):
        load_run(run)


def test_an_attribute_that_no_record_can_hold_is_named(tmp_path: Path) -> None:
    data = frame("verbalized", n=3)
    with pytest.raises(DataError, match="column 'age' has a text of 20,000 bytes in 3 rows"):
        write_records(tmp_path / "a.parquet", data.assign(age="9" * 20_000))
    write_records(tmp_path / "a.parquet", data.assign(age="9" * 5000))
    assert read_records(tmp_path / "a.parquet")["age"].iloc[0] == "9" * 5000


def test_ratings_with_a_number_of_many_digits(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(f"rater,report,sentence,rating\na,e1,{'9' * 5000},3\n")
    with pytest.raises(DataError, match="line 2: the sentence is no index") as caught:
        read_ratings(file)
    assert len(str(caught.value)) < 300
    pipe(file)
    with pytest.raises(DataError, match="no regular file"):
        read_ratings(file)
