"""The rollout store: what a model has already answered, on disk, never trusted without its hash.

A folder of parquet shards (zstd), each holding the rows of one `append`. A shard is named after its number and the
SHA-256 of its bytes, `00012-<first 16 hex digits>.parquet`, written to a temporary name, flushed to the disk and
renamed. So a shard is whole or absent, and a torn, altered or foreign file shows: it is set aside as `*.damaged`, and
its rows count as never written.

Answers that come one by one would make a shard each. They go into a journal first, one block after another, each behind
its length and its SHA-256, and into a shard when there are enough of them. A store that is opened makes a shard of what
a killed process left in the journal; a last block that is torn was never written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from conrad_bench.errors import StorageError
from conrad_bench.storage import storage_errors, write_bytes

Row = dict[str, Any]
"""One rollout, with every key of these:

key             hash of everything that determines the rollout (hex)
kind            "generate", "score", "hidden" or "reread"
sample          sample index among the responses to the same prompt
text            str or None
token_ids       list[int] or None
logprobs        log-probability of each token: list[float], kept as float64, or None
finish_reason   str or None
values          list[float] or None: scores of continuations (kept as float64), or a hidden state or the
                statistics of tokens (kept as float32)
"""


def _list(values: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", values))  # the name that parquet gives back


SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("token_ids", _list(pa.int32())),
        pa.field("logprobs", _list(pa.float64())),
        pa.field("finish_reason", pa.string()),
        pa.field("scores", _list(pa.float64())),
        pa.field("hidden", _list(pa.float32())),
    ],
    metadata={"conrad_bench": "rollouts 1"},
)
"""Columns of a shard. `scores` and `hidden` are a row's `values`, by kind."""

_JOURNAL = ".journal"

_NAME = re.compile(r"(\d{5,})-([0-9a-f]{16})\.parquet")
_LOCK = ".lock"
_CACHE_BYTES = 64 * 2**20


class RolloutStore:
    """Append-only store of rollouts in one folder, for one process at a time.

    Opening reads the keys; rows are read from their shards when asked for. The first row of a key wins.
    """

    damaged: list[str]
    """Names of the files that were set aside since the store was opened; their rows will be made again."""

    def __init__(self, folder: Path) -> None:
        """Open or create the store. Raises StorageError if it is in use or the folder cannot be written."""
        self.folder = folder
        self.damaged = []
        self._shards: list[Path] = []
        self._index: dict[str, tuple[int, int, str]] = {}  # key -> (shard, row in the shard, kind)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cached = 0  # bytes
        self._next = 0
        self._noted: dict[str, Row] = {}  # rows that are in the journal alone
        self._journal: IO[bytes] | None = None
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(folder)
        try:
            with storage_errors(folder):
                self._scan()
                self._recover()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes open the store; what is in the journal stays there for the next."""
        if self._journal is not None:
            self._journal.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._index) + len(self._noted)

    def __contains__(self, key: object) -> bool:
        return key in self._index or key in self._noted

    def check_there(self) -> None:
        """Raise StorageError if the folder is another one than was opened, or gone: nothing may be written there."""
        try:
            there = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.folder / _LOCK))
        except OSError:
            there = False
        if not there:
            raise StorageError(
                f"{self.folder} was removed, moved or unmounted while this was at work; put it back or not: the same "
                "command goes on with what is there"
            )

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows as one shard; they are on the disk when this returns. Rows whose key is stored are left out.

        Raises StorageError if the disk is full, the folder gone or not to be written; then no row was added.
        """
        table = self._fresh(rows)
        if table is None:
            return
        self.check_there()
        data = _packed(table)
        path = self.folder / f"{self._next:05d}-{_digest(data)}.parquet"
        write_bytes(path, data)
        self._add(path, table)
        self._next += 1

    def note(self, rows: Iterable[Row], enough: int) -> None:
        """Write rows into the journal, and all of it into a shard once it holds `enough` of them.

        When this returns they outlive the death of this process, and that of the machine once they are in a shard.
        Rows whose key is stored are left out. Raises StorageError as `append` does.
        """
        table = self._fresh(rows)
        if table is None:
            return
        self.check_there()
        data = _packed(table)
        block = memoryview(len(data).to_bytes(8) + hashlib.sha256(data).digest() + data)
        path = self.folder / _JOURNAL
        with storage_errors(path):
            if self._journal is None:
                self._journal = open(path, "ab", buffering=0)  # noqa: SIM115 (closed with the store)
            whole = os.fstat(self._journal.fileno()).st_size
            try:
                while block:
                    block = block[os.write(self._journal.fileno(), block) :]
            except OSError:
                self._journal.truncate(whole)  # what would come behind a torn block would not be found
                raise
        self._noted |= {row["key"]: _row(row) for row in table.to_pylist()}
        if len(self._noted) >= enough:
            self.settle()

    def settle(self) -> None:
        """Write what is in the journal into a shard. Raises StorageError as `append` does."""
        noted, self._noted = self._noted, {}
        try:
            self.append(noted.values())
        except BaseException:
            self._noted = noted
            raise
        if self._journal is not None:
            with storage_errors(self.folder / _JOURNAL):
                self._journal.truncate(0)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each kind: every one was made by the model once, whoever asked for it."""
        kinds = [*(kind for _, _, kind in self._index.values()), *(row["kind"] for row in self._noted.values())]
        return dict(sorted(Counter(kinds).items()))

    def read(self, keys: Iterable[str]) -> dict[str, Row]:
        """Return the rows of those keys that are stored, in the order of `keys`.

        A shard that no longer matches its name is set aside, and its rows are absent from the answer.
        """
        wanted = list(dict.fromkeys(key for key in keys if key in self))
        rows = {key: dict(self._noted[key]) for key in wanted if key in self._noted}
        by_shard: dict[int, list[str]] = {}
        for key in wanted:
            if key not in rows:
                by_shard.setdefault(self._index[key][0], []).append(key)
        for shard, shard_keys in sorted(by_shard.items()):
            table = self._table(shard)
            if table is not None:
                picked = table.take([self._index[key][1] for key in shard_keys])
                rows.update((row["key"], _row(row)) for row in picked.to_pylist())
        return {key: rows[key] for key in wanted if key in rows}

    def _scan(self) -> None:
        """Index every shard that is whole, set the others aside, and remove what a killed process left half-written."""
        numbered = []
        for path in self.folder.iterdir():
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                path.unlink()
            elif path.suffix == ".parquet":
                match = _NAME.fullmatch(path.name)
                if match is None:
                    self._set_aside(path)
                else:
                    numbered.append((int(match[1]), path))
        for number, path in sorted(numbered):
            self._next = number + 1
            keys = _read_shard(path, ["key", "kind"])
            if keys is None:
                self._set_aside(path)
            else:
                self._add(path, keys)

    def _recover(self) -> None:
        """Write what a killed process left in the journal into a shard, and forget a block that is torn."""
        path = self.folder / _JOURNAL
        if not path.is_file():
            return
        rows: list[Row] = []
        with open(path, "rb") as journal:
            while len(head := journal.read(40)) == 40:
                data = journal.read(int.from_bytes(head[:8]))
                table = _unpacked(data) if hashlib.sha256(data).digest() == head[8:] else None
                if table is None:
                    break
                rows += map(_row, table.to_pylist())
        self.append(rows)
        path.unlink()

    def _fresh(self, rows: Iterable[Row]) -> pa.Table | None:
        """Return rows as a table, without those whose key is stored; None where that leaves none."""
        fresh: dict[str, Row] = {}
        for row in rows:
            if row["key"] not in self:
                fresh.setdefault(row["key"], row)
        return pa.Table.from_pylist([_columns(row) for row in fresh.values()], schema=SCHEMA) if fresh else None

    def _add(self, path: Path, table: pa.Table) -> None:
        shard = len(self._shards)
        self._shards.append(path)
        for position, (key, kind) in enumerate(zip(*(table[c].to_pylist() for c in ("key", "kind")), strict=True)):
            self._index.setdefault(key, (shard, position, kind))

    def _table(self, shard: int) -> pa.Table | None:
        """Return a shard's rows, from memory if they were read lately; None if the shard is damaged."""
        if shard in self._cache:
            self._cache.move_to_end(shard)
            return self._cache[shard]
        with storage_errors(self.folder):
            table = _read_shard(self._shards[shard])
            if table is None:
                self.check_there()
                self._set_aside(self._shards[shard])
        if table is None:
            self._index = {key: place for key, place in self._index.items() if place[0] != shard}
            return None
        self._cache[shard] = table
        self._cached += table.nbytes
        while len(self._cache) > 1 and self._cached > _CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= oldest.nbytes
        return table

    def _set_aside(self, path: Path) -> None:
        self.damaged.append(path.name)
        if os.path.lexists(path):
            path.rename(path.with_name(f"{path.name}.damaged"))


def _read_shard(path: Path, columns: list[str] | None = None) -> pa.Table | None:
    """Read a shard, or return None if its bytes do not match its name or it is not a table of rollouts."""
    match = _NAME.fullmatch(path.name)
    if match is None or not path.is_file():
        return None
    data = path.read_bytes()
    if _digest(data) != match[2]:
        return None
    try:
        return _unpacked(data, columns)
    except MemoryError as error:  # Arrow's is an ArrowException, too
        size = f"{len(data) / 2**20:,.0f} MiB"
        raise StorageError(
            f"too little memory to read {path} ({size}); free some, the same command continues"
        ) from error


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _unpacked(data: bytes, columns: list[str] | None = None) -> pa.Table | None:
    """Return the table of rollouts that bytes hold, or None where they hold none. Raises MemoryError."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if not file.schema_arrow.equals(SCHEMA, check_metadata=True):
            return None
        return file.read(columns, use_threads=False)  # Arrow's threads can outlive a short command and abort it
    except MemoryError:
        raise
    except (pa.ArrowException, OSError):
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _columns(row: Row) -> Row:
    """Return a row as columns: its values stand under `scores` or `hidden`, by kind."""
    columns = {name: value for name, value in row.items() if name != "values"}
    return {**columns, {"score": "scores"}.get(row["kind"], "hidden"): row["values"]}


def _row(columns: Row) -> Row:
    scores, hidden = columns.pop("scores"), columns.pop("hidden")
    return {**columns, "values": hidden if scores is None else scores}


def _take_lock(folder: Path) -> IO[str]:
    """Return the locked lock file of a folder. Raises StorageError if another process holds it."""
    path = folder / _LOCK
    with storage_errors(path):
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held open: closing it releases the lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StorageError(
                f"{folder} is in use by another run; wait for it to end, or choose another folder with --out"
            ) from None
        except OSError:
            file.close()
            raise
    return file
