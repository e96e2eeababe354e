"""The log of a review: nothing that was acknowledged is lost, nothing is changed, and the state is a fold of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.errors import ConfigError, DataError, StorageError
from conrad_bench.reviews import store as storing
from conrad_bench.reviews.fold import Fold, Review, WrongEntryError, checked
from conrad_bench.reviews.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "review.sqlite", "r" * 64, "m" * 64, "1")
    yield store
    store.close()


@pytest.fixture
def ids(store: Store) -> tuple[int, int]:
    return store.rater("ann"), store.report("t", "s1", "k1", {0: "A.", 1: "B."})


def plain(review: Review) -> dict[str, Any]:
    return {name: review.value(name, None) for name in ("judgement", "comment")} | {
        "ratings": review.ratings,
        "decisions": review.decisions,
    }


def test_what_is_set_is_there_when_the_file_is_opened_again(store: Store, ids: tuple[int, int]) -> None:
    edit = {"action": "edit", "text": "Klein, Pleuraerguß ‘rechts’."}
    for what, sentence, value in (
        ("opened", None, None), ("rating", 0, 4), ("rating", 1, 2), ("rating", 0, 5), ("decision", 1, edit),
        ("judgement", None, "small"), ("comment", None, "x"),
    ):  # fmt: skip
        assert store.add(*ids, what, sentence, value) is not None
    assert store.add(*ids, "rating", 0, 5) is None  # said before: a request that is sent again adds nothing
    expected = {"ratings": {0: 5, 1: 2}, "decisions": {1: edit}, "judgement": "small", "comment": "x"}
    again = Store(store.path)
    for each in (store, again):
        assert plain(each.review(*ids)) == expected
        assert each.review(*ids).opened == 1
    changes = [(event.what, event.before, event.after) for event in again.events()]
    assert changes[3] == ("rating", 4, 5)
    assert all(event.at.endswith("+00:00") for event in again.events())
    sources = sqlite3.connect(store.path).execute("SELECT run, model FROM sources JOIN events ON source = sources.id")
    assert set(sources) == {("r" * 64, "m" * 64)}
    again.close()


def test_two_raters_do_not_see_each_other(store: Store, ids: tuple[int, int]) -> None:
    bob = store.rater("bob")
    store.add(*ids, "rating", 0, 1)
    store.add(bob, ids[1], "rating", 0, 5)
    store.undo(bob, ids[1])
    assert (store.review(*ids).ratings, store.review(bob, ids[1]).ratings) == ({0: 1}, {})
    assert store.rater("bob") == bob
    assert store.raters() == {ids[0]: "ann", bob: "bob"}


entries = st.one_of(
    st.tuples(st.just("rating"), st.integers(0, 2), st.integers(1, 5)),
    st.tuples(st.just("decision"), st.integers(0, 2), st.sampled_from([{"action": "accept"}, {"action": "reject"}])),
    st.tuples(st.just("judgement"), st.none(), st.sampled_from(["sign", "anew"])),
    st.tuples(st.just("comment"), st.none(), st.sampled_from(["a", "b"])),
    st.just(("undo", None, None)),
)


@given(st.lists(entries, max_size=25))
def test_undo_is_an_event_that_leads_back(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]) -> None:
    """Against a plain list of states."""
    store = Store(tmp_path_factory.mktemp("undo") / "review.sqlite")
    rater, report = store.rater("a"), store.report("t", "e", "k", {0: "A."})
    states = [plain(Review())]
    for what, sentence, value in entries:
        if what == "undo":
            event = store.undo(rater, report)
            assert (event is None) == (len(states) == 1)
            states = states[:-1] or states
        elif store.add(rater, report, what, sentence, value) is not None:
            now = plain(store.review(rater, report))
            states.append({**now, "ratings": dict(now["ratings"]), "decisions": dict(now["decisions"])})
        assert plain(store.review(rater, report)) == states[-1]
    fold = Fold()
    fold.take(store.events())
    assert plain(fold.reviews[rater, report]) == states[-1]
    store.close()


@pytest.mark.parametrize("table", ["raters", "reports", "sources", "events"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {0} SET id = 99", "DELETE FROM {0}", "INSERT OR REPLACE INTO {0} SELECT * FROM {0} WHERE id = 1",
     "REPLACE INTO {0} SELECT * FROM {0}"],
)  # fmt: skip
def test_the_log_refuses_to_be_changed(store: Store, ids: tuple[int, int], table: str, statement: str) -> None:
    """Also by the other door: a REPLACE deletes what is in its way without asking the triggers of a DELETE."""
    store.add(*ids, "rating", 0, 4)
    other = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError, match="nothing is"):
        other.execute(statement.format(table))
    other.close()
    assert store.review(*ids).ratings == {0: 4}


@pytest.mark.parametrize(
    ("column", "value"),
    [("rater", 99), ("report", 99), ("source", 99), ("undoes", 99), ("what", "'other'"), ("sentence", -1),
     ("rater", "'x'"), ("at", "NULL")],
)  # fmt: skip
def test_the_tables_are_strict(store: Store, ids: tuple[int, int], column: str, value: object) -> None:
    row = {"at": "'t'", "rater": 1, "report": 1, "source": 1, "what": "'rating'", "sentence": 0, "after": "'4'"}
    row[column] = value
    other = sqlite3.connect(store.path)
    other.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError):
        other.execute(f"INSERT INTO events ({', '.join(row)}) VALUES ({', '.join(map(str, row.values()))})")
    other.close()


def test_the_file_is_its_owners_and_no_link_is_followed(store: Store, ids: tuple[int, int], tmp_path: Path) -> None:
    store.add(*ids, "rating", 0, 4)
    files = list(tmp_path.glob("review.sqlite*"))
    assert len(files) == 3  # with those of the write-ahead log
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"link\.sqlite"):
        Store(tmp_path / "link.sqlite")
    assert not (tmp_path / "elsewhere").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no database at all " * 100)
    with pytest.raises(StorageError, match="no SQLite file"):
        Store(tmp_path / "a")
    other = sqlite3.connect(tmp_path / "b")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(DataError, match="another program's file"):
        Store(tmp_path / "b")


def test_an_older_file_is_brought_along_and_a_newer_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "review.sqlite"
    old = Store(path)
    ids = old.rater("ann"), old.report("t", "e", "k", {0: "A."})
    old.add(*ids, "rating", 0, 3)
    with monkeypatch.context() as changed:
        changed.setattr(storing, "MIGRATIONS", [*storing.MIGRATIONS, ("CREATE TABLE more (x INTEGER) STRICT",)])
        newer = Store(path)
        assert newer.review(*ids).ratings == {0: 3}
        assert newer._sqlite.execute("PRAGMA user_version").fetchone() == (2,)
        changed.setattr(storing, "MIGRATIONS", [*storing.MIGRATIONS, ("CREATE TABLE",)])
        newer.close()
        with pytest.raises(StorageError):  # one that fails leaves the file as it was
            Store(path)
        changed.undo()
        with pytest.raises(DataError, match="newer version"):
            Store(path)
    old.close()


@pytest.mark.parametrize("name", ["", " ", "a ", "a\nb", "a\x1b[31m", "x" * 81, "‮abc"])
def test_names_that_are_none(store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="rater's name"):
        store.rater(name)


@pytest.mark.parametrize(
    "entry",
    [("rating", 0, 0), ("rating", 0, 6), ("rating", 0, True), ("rating", 0, "4"), ("rating", 3, 4), ("rating", None, 4),
     ("decision", 0, {"action": "edit", "text": " "}), ("decision", 0, {"action": "burn"}), ("comment", 0, "x"),
     ("comment", None, "x" * 5001), ("comment", None, "\ud800"), ("judgement", None, "fine"), ("opened", None, None)],
)  # fmt: skip
def test_what_is_no_entry(entry: tuple[str, Any, Any]) -> None:
    with pytest.raises(WrongEntryError):
        checked(*entry, range(3))


WRITER = """
import sys
from pathlib import Path
from conrad_bench.reviews.store import Store
store = Store(Path(sys.argv[1]))
rater, report = store.rater(sys.argv[2]), store.report("t", "e", "k", {0: "A."})
for number in range(int(sys.argv[3])):
    event = store.add(rater, report, "comment", None, f"{sys.argv[2]} {number}")
    print(event.id, number, flush=True)
"""


def writer(path: Path, name: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(times)], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    acknowledged: dict[int, str] = {}
    for turn in range(3):
        process = writer(path, f"r{turn}", 100_000)
        assert process.stdout is not None
        for _ in range(50):
            number, said = process.stdout.readline().split()
            acknowledged[int(number)] = f"r{turn} {said}"
        os.kill(process.pid, signal.SIGKILL)
        for line in process.stdout.read().splitlines():
            if len(line.split()) == 2:
                number, said = line.split()
                acknowledged[int(number)] = f"r{turn} {said}"
        process.wait()
        process.stdout.close()
    store = Store(path)
    kept = {event.id: event.after for event in store.events()}
    assert {number: kept[number] for number in acknowledged} == acknowledged
    assert store._sqlite.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    """Each sees what the others wrote, so what was there before is right in every event."""
    path = tmp_path / "review.sqlite"
    names = ["ann", "ann", "bob"]
    processes = [writer(path, name, 60) for name in names]
    for process in processes:
        assert len(process.communicate(timeout=120)[0].splitlines()) == 60
        assert process.returncode == 0
    store = Store(path)
    last: dict[int, Any] = {}
    for event in store.events():
        assert event.before == last.get(event.rater)
        last[event.rater] = event.after
    assert len(store.events()) == 180
    store.close()
