"""The log of a review: one SQLite file in the run's folder, to which events are added and nothing else is done.

An event is on the disk before `add` returns (write-ahead log, synchronous FULL), so a killed server loses nothing that
it has acknowledged. Several servers and commands may have the file open: writers wait for each other, and each reads
what the others have added before it adds something. The file must lie on a disk of this machine or on a network file
system with locks and shared memory (SQLite, "Write-Ahead Logging", section 1).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conrad_bench.errors import ConfigError, DataError, StorageError
from conrad_bench.reviews.fold import KINDS, Event, Fold, Review
from conrad_bench.storage import storage_errors

NAME = "review.sqlite"
APPLICATION = 0x434F4E52
"""SQLite's application id of these files."""
MOST_NAME = 80
"""Letters of a rater's name."""
_WAIT_S = 30

_TABLES = (
    f"""CREATE TABLE raters (id INTEGER PRIMARY KEY,
        name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND {MOST_NAME})) STRICT""",
    """CREATE TABLE reports (id INTEGER PRIMARY KEY, task TEXT NOT NULL, example TEXT NOT NULL, response TEXT NOT NULL,
        sentences TEXT NOT NULL) STRICT""",
    """CREATE TABLE sources (id INTEGER PRIMARY KEY, run TEXT NOT NULL, model TEXT NOT NULL,
        version TEXT NOT NULL) STRICT""",
    f"""CREATE TABLE events (id INTEGER PRIMARY KEY, at TEXT NOT NULL, rater INTEGER NOT NULL REFERENCES raters,
        report INTEGER NOT NULL REFERENCES reports, source INTEGER NOT NULL REFERENCES sources,
        what TEXT NOT NULL CHECK (what IN {KINDS}), sentence INTEGER CHECK (sentence >= 0),
        before TEXT, after TEXT, undoes INTEGER REFERENCES events) STRICT""",
    "CREATE INDEX reports_of_responses ON reports (response)",
)  # fmt: skip
_KEYS = {
    "raters": "name = NEW.name",
    "reports": "response = NEW.response AND sentences = NEW.sentences",
    "sources": "run = NEW.run AND model = NEW.model AND version = NEW.version",
    "events": "undoes = NEW.undoes",
}
"""What two rows of a table may not share. No UNIQUE: INSERT OR REPLACE would take the old row's place."""
MIGRATIONS: list[tuple[str, ...]] = [
    (
        *_TABLES,
        *(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'nothing is changed here'); END"
            for table in _KEYS
            for verb in ("UPDATE", "DELETE")
        ),
        *(
            f"CREATE TRIGGER {table}_once BEFORE INSERT ON {table} WHEN EXISTS "
            f"(SELECT 1 FROM {table} WHERE id = NEW.id OR {same}) "
            "BEGIN SELECT RAISE(ABORT, 'nothing is said twice'); END"
            for table, same in _KEYS.items()
        ),
    )
]
"""What brings a file from one version of the schema to the next. Never change one: add one."""


@dataclass(frozen=True, slots=True)
class Written:
    """A report as it was when it was opened."""

    task: str
    example: str
    response: str
    """Key of the rollout."""
    sentences: dict[int, str]
    """By their index among the response's claims, or in the report where this is one claim."""


class Store:
    """The log of one run, for all raters."""

    def __init__(self, path: Path, run: str = "", model: str = "", version: str = "") -> None:
        """Open the file, make it where it is not there, and bring it to this version.

        `run`, `model` and `version` say where what is written comes from: hashes of the run and of its model. Raises
        StorageError for a file that cannot be opened or is damaged, DataError for one that is none of ours or newer.
        """
        self.path = path
        self._lock = threading.Lock()
        self._fold = Fold()
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)  # SQLite gives its other two files the same
            os.close(descriptor)
        with self._errors():
            self._sqlite = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
                self._source = self._row("sources", run=run, model=model, version=version)
            except BaseException:
                self._sqlite.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._sqlite.close()

    def rater(self, name: str) -> int:
        """Return the number of a rater, who is written down if unknown. Raises ConfigError for no name."""
        if not 1 <= len(name) <= MOST_NAME or not name.isprintable() or name != name.strip():
            raise ConfigError(f"a rater's name has 1 to {MOST_NAME} letters that can be printed, no blanks around them")
        with self._errors():
            return self._row("raters", name=name)

    def report(self, task: str, example: str, response: str, sentences: Mapping[int, str]) -> int:
        """Return the number of a report, which is written down if unknown; one with other sentences is another."""
        written = _json([[number, text] for number, text in sentences.items()])
        with self._errors():
            return self._row("reports", task=task, example=example, response=response, sentences=written or "[]")

    def add(self, rater: int, report: int, what: str, sentence: int | None = None, value: Any = None) -> Event | None:
        """Set something, and return the event when it is on the disk; None where it is set like this already."""
        with self._writing():
            before = None if what == "opened" else self._fold.reviews[rater, report].value(what, sentence)
            if what != "opened" and before == value:
                return None
            return self._written(rater, report, what, sentence, before, value, None)

    def undo(self, rater: int, report: int) -> Event | None:
        """Take back what this rater set last in this report, by an event of its own; None where there is nothing."""
        with self._writing():
            review = self._fold.reviews[rater, report]
            if not review.done:
                return None
            last = review.done[-1]
            now = review.value(last.what, last.sentence)
            return self._written(rater, report, "undo", last.sentence, now, last.before, last.id)

    def review(self, rater: int, report: int) -> Review:
        """Return what a rater says of a report now; it is the caller's."""
        with self._errors(), self._lock:
            self._catch_up()
            found = self._fold.reviews.get((rater, report), Review())
            ratings, decisions = dict(found.ratings), dict(found.decisions)
            return Review(ratings, decisions, found.judgement, found.comment, list(found.done), found.opened)

    def reviews(self) -> dict[tuple[int, int], Review]:
        """Return what all raters say now, by rater and report; not to be changed."""
        with self._errors(), self._lock:
            self._catch_up()
            return dict(self._fold.reviews)

    def raters(self) -> dict[int, str]:
        """Return the names of all raters."""
        with self._errors(), self._lock:
            return dict(self._sqlite.execute("SELECT id, name FROM raters ORDER BY id").fetchall())

    def reports(self) -> dict[int, Written]:
        """Return all reports that were opened."""
        with self._errors(), self._lock:
            rows = self._sqlite.execute("SELECT id, task, example, response, sentences FROM reports ORDER BY id")
            return {row[0]: Written(row[1], row[2], row[3], dict(json.loads(row[4]))) for row in rows.fetchall()}

    def events(self, after: int = 0) -> list[Event]:
        """Return the events behind one, in order."""
        with self._errors(), self._lock:
            return list(self._read(after))

    def _prepare(self) -> None:
        run = self._sqlite.execute
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA trusted_schema = OFF")
        application, version = (run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        empty = run("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not empty and application != APPLICATION:
            raise DataError(f"{self.path} is another program's file; move it away")
        if version > len(MIGRATIONS):
            raise DataError(f"{self.path} was written by a newer version of conrad-bench; update this one")
        run("PRAGMA journal_mode = WAL")
        with self._transaction():
            # Anew, inside: another process may have been quicker.
            version = run("PRAGMA user_version").fetchone()[0]
            for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in statements:
                    run(statement)
                run(f"PRAGMA user_version = {number}")
            run(f"PRAGMA application_id = {APPLICATION}")

    def _row(self, table: str, **values: str) -> int:
        """Return the id of a row, which is added where there is none; `table` and the names are ours."""
        # A report is the same by its response and sentences, whatever task or example named it first.
        keys = ("response", "sentences") if table == "reports" else tuple(values)
        find = f"SELECT id FROM {table} WHERE " + " AND ".join(f"{key} = :{key}" for key in keys)
        with self._lock:
            found = self._sqlite.execute(find, values).fetchone()
            if found is None:
                with self._transaction():
                    found = self._sqlite.execute(find, values).fetchone()
                    if found is None:
                        names = ", ".join(values)
                        self._sqlite.execute(
                            f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})", values
                        )
                        found = self._sqlite.execute("SELECT last_insert_rowid()").fetchone()
            return int(found[0])

    def _written(
        self, rater: int, report: int, what: str, sentence: int | None, before: Any, after: Any, undoes: int | None
    ) -> Event:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (at, rater, report, self._source, what, sentence, _json(before), _json(after), undoes)
        self._sqlite.execute(
            "INSERT INTO events (at, rater, report, source, what, sentence, before, after, undoes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        number = int(self._sqlite.execute("SELECT last_insert_rowid()").fetchone()[0])
        return Event(number, at, rater, report, what, sentence, before, after, undoes)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the log for an addition, with all that is in it known."""
        with self._errors(), self._lock, self._transaction():
            self._catch_up()
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sqlite.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._sqlite.execute("ROLLBACK")
            raise
        try:
            self._sqlite.execute("COMMIT")
        except BaseException:
            if self._sqlite.in_transaction:
                self._sqlite.execute("ROLLBACK")
            raise

    def _catch_up(self) -> None:
        self._fold.take(self._read(self._fold.last))

    def _read(self, after: int) -> Iterator[Event]:
        rows = self._sqlite.execute(
            "SELECT id, at, rater, report, what, sentence, before, after, undoes FROM events WHERE id > ? ORDER BY id",
            (after,),
        )
        for row in rows.fetchall():
            number, at, rater, report, what, sentence, before, after, undoes = row
            try:
                old, new = (None if text is None else json.loads(str(text)) for text in (before, after))
            except ValueError as error:
                raise StorageError(f"{self.path}: event {number} is damaged") from error
            yield Event(number, at, rater, report, what, sentence, old, new, undoes)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Its message may quote what was to be written; the name of the error does not.
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            raise StorageError(f"{self.path}: {_SAID.get(name, f'SQLite failed ({name})')}") from error


_SAID = {
    "SQLITE_FULL": "the disk is full; free some space, nothing was lost that was shown as saved",
    "SQLITE_BUSY": f"another program has held it for {_WAIT_S} seconds; end that, or wait",
    "SQLITE_READONLY": "it cannot be written; change its permissions",
    "SQLITE_NOTADB": "it is no SQLite file; move it away",
    "SQLITE_CORRUPT": "it is damaged; copy it and see SQLite's `.recover`",
}


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
