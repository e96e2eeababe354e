"""The rollout store: whole or absent, whatever happens to the process and the disk."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conrad_bench.errors import StorageError
from conrad_bench.rollouts.store import RolloutStore, Row


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def row(number: int, tokens: int = 20) -> Row:
    drawn = random.Random(number)
    return {
        "key": key(number),
        "kind": "generate",
        "sample": number % 3,
        "text": f"report {number}",
        "token_ids": [drawn.randrange(262_208) for _ in range(tokens)],
        "logprobs": [-drawn.random() for _ in range(tokens)],
        "finish_reason": "stop",
        "values": None,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rollouts"


def fill(folder: Path, shards: int, rows: int = 2) -> None:
    with RolloutStore(folder) as store:
        for shard in range(shards):
            store.append([row(shard * rows + i) for i in range(rows)])


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_rows_come_back_in_the_order_asked_for_and_missing_keys_are_absent(folder: Path) -> None:
    fill(folder, 3)
    with RolloutStore(folder) as store:
        assert len(store) == 6
        assert key(5) in store
        assert key(6) not in store
        found = store.read([key(5), key(99), key(0), key(3), key(5)])
        assert list(found) == [key(5), key(0), key(3)]
        assert list(found.values()) == [row(5), row(0), row(3)]
        assert store.damaged == []


def test_what_was_appended_can_be_read_at_once(folder: Path) -> None:
    with RolloutStore(folder) as store:
        store.append([row(1)])
        assert store.read([key(1)]) == {key(1): row(1)}


def test_the_first_row_of_a_key_wins(folder: Path) -> None:
    other = {**row(1), "text": "another"}
    with RolloutStore(folder) as store:
        store.append([row(1), other])
        store.append([other])
        assert len(store) == 1
        assert len(shards(folder)) == 1
    with RolloutStore(folder) as store:
        assert store.read([key(1)]) == {key(1): row(1)}


def test_an_empty_append_writes_nothing(folder: Path) -> None:
    with RolloutStore(folder) as store:
        store.append([])
    assert shards(folder) == []


floats = st.floats(width=64, allow_nan=False)
rows: st.SearchStrategy[Row] = st.builds(
    dict,
    key=st.binary(min_size=8, max_size=8).map(bytes.hex),
    sample=st.integers(0, 2**31 - 1),
    text=st.none() | st.text(),
    token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=5),
    logprobs=st.none() | st.lists(floats, max_size=5),
    finish_reason=st.sampled_from([None, "stop", "length"]),
)
kinds = st.one_of(
    st.fixed_dictionaries({"kind": st.just("generate"), "values": st.none()}),
    st.fixed_dictionaries({"kind": st.just("score"), "values": st.lists(floats, max_size=5)}),
    st.fixed_dictionaries(
        {"kind": st.just("hidden"), "values": st.lists(st.floats(width=32, allow_nan=False), max_size=5)}
    ),
)
batches = st.lists(st.lists(st.builds(lambda a, b: {**a, **b}, rows, kinds), max_size=4), max_size=4)


@given(batches)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, appended: list[list[Row]]) -> None:
    folder = tmp_path_factory.mktemp("store")
    expected: dict[str, Row] = {}
    with RolloutStore(folder) as store:
        for batch in appended:
            store.append(batch)
            for item in batch:
                expected.setdefault(item["key"], item)
    with RolloutStore(folder) as store:
        assert store.read(expected) == expected
        assert len(store) == len(expected)
        assert store.damaged == []


APPEND_FOR_EVER = """
import sys
from pathlib import Path
from test_store import row
from conrad_bench.rollouts.store import RolloutStore

store = RolloutStore(Path(sys.argv[1]))
number = len(store)
while True:
    store.append([row(number), row(number + 1)])
    number += 2
    print(number, flush=True)
"""


def killed(script: str, folder: Path, pause: float) -> int:
    """Let a script write rows, kill it, and return how many it says that it had written."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    process.stdout.close()
    return int([line for line in (first + rest).splitlines() if line][-1])


def test_completed_appends_outlive_a_kill(folder: Path) -> None:
    for pause in (0.02, 0.15, 0.05):
        completed = killed(APPEND_FOR_EVER, folder, pause)
        with RolloutStore(folder) as store:
            assert completed <= len(store) <= completed + 2
            assert store.damaged == []
            read = store.read([key(number) for number in range(completed)])
            assert list(read.values()) == [row(number) for number in range(completed)]
        assert not list(folder.glob(".*.tmp"))


NOTE_FOR_EVER = APPEND_FOR_EVER.replace("store.append([row(number), row(number + 1)])", "store.note([row(number)], 7)")
NOTE_FOR_EVER = NOTE_FOR_EVER.replace("number += 2", "number += 1")


def test_what_was_noted_outlives_a_kill(folder: Path) -> None:
    """Row for row, whether it had come into a shard or not."""
    for pause in (0.02, 0.15, 0.05):
        completed = killed(NOTE_FOR_EVER, folder, pause)
        with RolloutStore(folder) as store:
            assert completed <= len(store) <= completed + 1
            assert store.damaged == []
            read = store.read([key(number) for number in range(completed)])
            assert list(read.values()) == [row(number) for number in range(completed)]
        assert not (folder / ".journal").exists()


def test_noted_rows_are_read_counted_and_put_together(folder: Path) -> None:
    with RolloutStore(folder) as store:
        for number in range(5):
            store.note([row(number), row(number)], enough=3)
            assert store.read([key(number)]) == {key(number): row(number)}
        assert len(store) == 5
        assert key(4) in store
        assert store.counts() == {"generate": 5}
        assert len(shards(folder)) == 1
        store.append([row(4), row(5)])
        assert store.read(map(key, range(6))) == {key(i): row(i) for i in range(6)}
        store.settle()
        store.settle()
        assert len(shards(folder)) == 3
        assert (folder / ".journal").stat().st_size == 0
        store.note([row(6)], enough=3)
    with RolloutStore(folder) as store:
        assert store.read(map(key, range(7))) == {key(i): row(i) for i in range(7)}


@given(cut=st.floats(0, 1))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_a_torn_journal_the_whole_blocks_are_kept(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder, ends = tmp_path_factory.mktemp("store"), [0]
    with RolloutStore(folder) as store:
        for number in range(4):
            store.note([row(number)], enough=99)
            ends.append((folder / ".journal").stat().st_size)
    size = int(cut * ends[-1])
    os.truncate(folder / ".journal", size)
    whole = sum(end <= size for end in ends) - 1
    with RolloutStore(folder) as store:
        assert len(store) == whole
        store.note([row(9)], enough=99)
    with RolloutStore(folder) as store:
        assert store.read(map(key, [*range(4), 9])) == {key(i): row(i) for i in [*range(whole), 9]}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_a_damaged_shard_is_set_aside_once_and_its_rows_are_made_again(folder: Path, damage: object) -> None:
    assert callable(damage)
    fill(folder, 3)
    victim = shards(folder)[1]
    damage(victim)
    with RolloutStore(folder) as store:
        assert store.damaged == [victim.name]
        assert len(store) == 4
        assert key(2) not in store
        assert store.read([key(1), key(2)]) == {key(1): row(1)}
        store.append([row(2), row(3)])
    assert (folder / f"{victim.name}.damaged").is_file()
    with RolloutStore(folder) as store:
        assert store.damaged == []
        assert store.read(map(key, range(6))) == {key(i): row(i) for i in range(6)}


def test_a_shard_damaged_while_the_store_is_open_is_not_trusted(folder: Path) -> None:
    fill(folder, 2)
    with RolloutStore(folder) as store:
        victim = shards(folder)[0]
        flip(victim)
        assert store.read([key(0), key(3)]) == {key(3): row(3)}
        assert store.damaged == [victim.name]
        assert key(0) not in store
        store.append([row(0)])
        assert store.read([key(0)]) == {key(0): row(0)}


def test_foreign_files_are_set_aside(folder: Path) -> None:
    fill(folder, 1)
    pq.write_table(pa.table({"key": [key(7)]}), folder / "mine.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": [key(8)], "text": ["x"]}), sink)
    data = sink.getvalue().to_pybytes()
    honest = folder / f"00007-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    honest.write_bytes(data)
    noise = b"not parquet at all"
    named = folder / f"00008-{hashlib.sha256(noise).hexdigest()[:16]}.parquet"
    named.write_bytes(noise)
    os.mkfifo(folder / "00009-0123456789abcdef.parquet")
    (folder / "notes.txt").write_text("left alone")
    copied = folder / f"00003-{'0' * 16}.parquet"
    copied.write_bytes(shards(folder)[0].read_bytes())
    with RolloutStore(folder) as store:
        assert len(store) == 2
        assert set(store.damaged) == {
            "mine.parquet",
            honest.name,
            named.name,
            copied.name,
            "00009-0123456789abcdef.parquet",
        }
        assert (folder / "notes.txt").read_text() == "left alone"
        store.append([row(2)])
    assert shards(folder)[-1].name.startswith("00010-")


def test_a_temporary_file_left_behind_is_removed(folder: Path) -> None:
    fill(folder, 1)
    left = folder / ".00001-0123456789abcdef.parquet.99.tmp"
    left.write_bytes(b"half a sh")
    with RolloutStore(folder) as store:
        assert store.damaged == []
        assert len(store) == 2
    assert not left.exists()


def test_a_second_process_is_refused_until_the_first_is_done(folder: Path) -> None:
    script = "import sys; from pathlib import Path; from conrad_bench.rollouts.store import RolloutStore\n"
    script += "RolloutStore(Path(sys.argv[1]))"
    with RolloutStore(folder):
        other = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert "StorageError" in other.stderr
        assert "in use by another run" in other.stderr
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 4 KiB: a real failure of write().

    The limit holds for the file that pytest itself writes its progress to, so it must end within the test.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_adds_nothing_and_leaves_nothing(folder: Path) -> None:
    with RolloutStore(folder) as store:
        store.append([row(0, tokens=1)])
        with small_files(), pytest.raises(StorageError, match=r"cannot write .*00001-"):
            store.append([row(1, tokens=2000)])
        assert key(1) not in store
        store.append([row(2, tokens=1)])
        assert len(store) == 2
    assert len(shards(folder)) == 2
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".tmp") == []


def test_a_note_that_fails_hides_none_that_follows(folder: Path) -> None:
    with RolloutStore(folder) as store:
        store.note([row(0, tokens=1)], enough=9)
        with small_files(), pytest.raises(StorageError, match=r"cannot write .*journal"):
            store.note([row(1, tokens=2000)], enough=9)
        assert key(1) not in store
        store.note([row(2, tokens=1)], enough=9)
    with RolloutStore(folder) as store:
        assert list(store.read(map(key, range(3)))) == [key(0), key(2)]


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import row
from conrad_bench.errors import StorageError
from conrad_bench.rollouts.store import RolloutStore

store = RolloutStore(Path(sys.argv[1]) / "rollouts")
try:
    for number in range(100):
        store.append([row(number, tokens=2000)])
except StorageError as error:
    assert "the disk is full" in str(error), error
    assert len(store) == number > 0
    store.close()
    with RolloutStore(Path(sys.argv[1]) / "rollouts") as again:
        assert len(again) == number and again.damaged == []
    print("refused")
"""
    mount = "mount -t tmpfs -o size=128k tmpfs " + str(tmp_path)
    arguments = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", f'{mount} && exec "$@"', "sh", *arguments]
    probe = subprocess.run([*command[:5], mount], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this system does not let the test mount a small file system")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


def test_a_read_only_folder_is_a_storage_error(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from conrad_bench.errors import StorageError
from conrad_bench.rollouts.store import RolloutStore

os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
for folder in ("sealed", "sealed/new"):
    try:
        RolloutStore(Path(folder))
    except StorageError as error:
        print("permission denied" in str(error) and "--out" in str(error))
"""
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    sealed.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    sealed.chmod(0o755)
    assert done.stdout == "True\nTrue\n", done.stderr


def test_many_small_shards_open_fast(folder: Path) -> None:
    fill(folder, 500, rows=10)
    start = time.process_time()
    with RolloutStore(folder) as store:
        assert len(store) == 5000
    assert time.process_time() - start < 2
