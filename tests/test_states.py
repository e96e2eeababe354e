"""Run folders and the store under random sequences of runs, kills, damage and changes.

Whatever has happened, a run gives the board of a clean run over the data, code and options that it has now, or is
refused with a reason. A kill is an exception at a random write here; `benchmarks/kill.py` sends real ones.

    python tests/test_states.py 5000        # so many steps, other ones each time
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_run import TOY, questions

from conrad_bench import pipeline
from conrad_bench.config import load_config
from conrad_bench.errors import ConradBenchError
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.store import RolloutStore

STEPS_EACH = 25
METHODS = "stated,mean,mean+isotonic"
_clean: dict[tuple[Any, ...], str] = {}
"""leaderboard.json of a clean run by what the run was made from."""


class Killed(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def killed_at(write: int | None, after: bool = False) -> Iterator[None]:
    """Let the program die at its n-th write, before or after the file has its name; a half of it may be left."""
    left, replace = [write], os.replace

    def dying(source: Any, target: Any) -> None:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                if after:
                    replace(source, target)
                else:
                    torn = Path(target).with_name(f".{Path(target).name}.999.tmp")
                    torn.write_bytes(Path(source).read_bytes()[: Path(source).stat().st_size // 2])
                raise Killed
        replace(source, target)

    with patch("os.replace", dying), patch("os.fsync", lambda descriptor: None):
        yield


def no_figure(*_: Any) -> dict[str, bytes]:
    """Return a figure that is not drawn: that takes longer than all the rest, and no board depends on it."""
    return {".svg": b"drawn"}


def variants_of_data() -> list[list[dict[str, str]]]:
    """The toy's rows, and those with a corrected reference, another patient, other training, and one row less."""
    rows = questions()
    return [
        rows,
        [{**row, "answer": "yes"} if row["id"] == "q00" else row for row in rows],
        [{**row, "patient": "p9"} if row["id"] == "q01" else row for row in rows],
        [{**row, "says": "no"} if row["id"] == "t1" else row for row in rows],
        [row for row in rows if row["id"] != "q02"],
    ]


DATA = variants_of_data()
CODE = [
    ("", ""),
    ("sum(scores) / len(scores)", "sum(scores) / len(scores) / 2"),
    ("float(c.text", "0.5 * float(c.text"),
]


class RunFolder(RuleBasedStateMachine):
    """One run folder, and the data, code and options of whoever uses it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="states-"))
        self.out, self.plugin = self.folder / "run", self.folder / "toy_plugin.py"
        (self.folder / "data").mkdir()
        self.data = self.code = self.seed = 0
        self.batch = 16
        self.hurt = False  # whether the configuration in the folder was damaged
        self.change_data(0)
        self.edit_plugin(0)

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "folder", Path("nowhere")), ignore_errors=True)

    def _run(self, out: Path) -> dict[str, Any]:
        registry = Registry([self.plugin])
        given = {
            "methods": METHODS.split(","),
            "tasks": ["toy"],
            "engine": "echo",
            "model": "echo",
            "seed": self.seed,
            "data_roots": {"toy": self.folder / "data"},
            "options": {"echo": {"batch_size": self.batch}, "bootstrap": {"replicates": 10}},
        }
        config = load_config(None, given, registry)
        with (
            patch("conrad_bench.leaderboards.pages.figures._files", no_figure),
            patch("conrad_bench.manifest.git_commit", lambda: "abc"),
        ):
            return pipeline.run(config, out, registry, Reporter(quiet=True))

    def _clean(self) -> str:
        key = (self.data, self.code, self.seed)
        if key not in _clean:
            clean = self.folder / "clean"
            with killed_at(None):
                self._run(clean)
            _clean[key] = (clean / "leaderboard.json").read_text()
            shutil.rmtree(clean)
        return _clean[key]

    def change_data(self, number: int) -> None:
        self.data = number
        (self.folder / "data" / "questions.json").write_text(json.dumps(DATA[number]))

    def edit_plugin(self, number: int) -> None:
        self.code = number
        old, new = CODE[number]
        text = TOY.read_text()
        assert old in text
        self.plugin.write_text(text.replace(old, new))

    @rule(change=st.sampled_from(["data", "data", "code", "batch", "seed"]), number=st.integers(0, len(DATA) - 1))
    def change(self, change: str, number: int) -> None:
        """Change the data, the plugin's code, an option that changes no answer, or one that does."""
        if change == "data":
            self.change_data(number)
        elif change == "code":
            self.edit_plugin(number % len(CODE))
        elif change == "batch":
            self.batch = 1 + number
        else:
            self.seed = int(number == 4)

    @rule(write=st.integers(0, 30), after=st.booleans())
    def run_and_kill(self, write: int, after: bool) -> None:
        with killed_at(write, after), contextlib.suppress(Killed, ConradBenchError):
            self._run(self.out)

    @precondition(lambda self: self.out.is_dir())
    @rule(
        which=st.integers(0, 1000),
        ending=st.sampled_from(["", "", "leaderboard.json", "manifest.json", "artifact.json", ".parquet"]),
        how=st.sampled_from(["flip", "flip", "digit", "digit", "cut", "empty", "remove", "swap", "stray"]),
        where=st.floats(0, 1, exclude_max=True),
    )
    def damage(self, which: int, ending: str, how: str, where: float) -> None:
        files = sorted(path for path in self.out.rglob(f"*{ending}") if path.is_file() and path.name != ".lock")
        if not files:
            return
        path = files[which % len(files)]
        content = path.read_bytes()
        self.hurt |= path.name == "config.yaml"
        if how == "stray":
            path.with_name(f".{path.name}.1.tmp").write_bytes(b"left behind")
            (self.out / "rollouts" / "00000-0123456789abcdef.parquet").write_bytes(b"from elsewhere")
        elif how == "remove":
            path.unlink()
        elif how == "swap":
            path.write_bytes(files[(which + 1) % len(files)].read_bytes())
        elif how == "digit":  # what was JSON is JSON still
            at = int(where * len(content))
            path.write_bytes(content[:at] + re.sub(rb"[0-8]", lambda d: bytes([d[0][0] + 1]), content[at:], count=1))
        elif how == "flip" and content:
            at = int(where * len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << which % 8)]) + content[at + 1 :])
        else:
            path.write_bytes(content[: int(where * len(content))] if how == "cut" else b"")

    @rule()
    def run(self) -> None:
        board = None
        try:
            with killed_at(None):
                board = self._run(self.out)
        except ConradBenchError as error:
            refusal = str(error)
        if board is None:
            # Everything but the configuration itself is made again.
            assert "holds a run with another configuration" in refusal or self.hurt, refusal
            if self.hurt:
                shutil.rmtree(self.out)
                self.hurt = False
            return
        assert json.dumps(board, indent=1, allow_nan=False) + "\n" == self._clean()
        assert (self.out / "leaderboard.json").read_text() == self._clean()
        assert (self.out / "manifest.json").is_file()


class Store(RuleBasedStateMachine):
    """One store: what it gives back was written, and nothing is lost but what was damaged."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="states-"))
        self.written: dict[str, dict[str, Any]] = {}
        self.maybe: dict[str, dict[str, Any]] = {}  # what a killed write may have left
        self.store = RolloutStore(self.folder)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _row(self, number: int) -> dict[str, Any]:
        written = number % 3 == 0
        return {
            "key": f"{number:064x}",
            "kind": ("generate", "score", "hidden")[number % 3],
            "sample": number % 5,
            "text": f"text {number}" if written else None,
            "token_ids": [number, 1] if written else None,
            "logprobs": [-number / 7] if written else None,
            "finish_reason": "stop" if written else None,
            "values": None if written else [number / 8],
        }

    @rule(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=6))
    def append(self, numbers: list[int]) -> None:
        rows = [self._row(number) for number in numbers]
        self.store.append(rows)
        self.written |= {row["key"]: row for row in rows}

    @rule(numbers=st.lists(st.integers(0, 60), min_size=1, max_size=6), after=st.booleans())
    def append_and_kill(self, numbers: list[int], after: bool) -> None:
        rows = [self._row(number) for number in numbers]
        with contextlib.suppress(Killed), killed_at(0, after):
            self.store.append(rows)
        self.maybe |= {row["key"]: row for row in rows}
        self.reopen()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = RolloutStore(self.folder)

    @rule(which=st.integers(0, 100), where=st.floats(0, 1, exclude_max=True), cut=st.booleans(), again=st.booleans())
    def damage(self, which: int, where: float, cut: bool, again: bool) -> None:
        shards = sorted(self.folder.glob("*.parquet"))
        if not shards:
            return
        self.store.close()
        path = shards[which % len(shards)]
        content = path.read_bytes()
        at = int(where * len(content))
        path.write_bytes(content[:at] if cut else content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with RolloutStore(self.folder) as store:
            assert len(store.damaged) == 1
            left = {key for key in self.written | self.maybe if key in store}
        lost = self.written.keys() - left
        assert len(lost) <= 6  # the rows of one shard
        self.maybe |= {key: self.written.pop(key) for key in lost}
        self.store = RolloutStore(self.folder)

    @invariant()
    def what_is_there_is_what_was_written(self) -> None:
        if not hasattr(self, "store"):
            return
        everything = self.written | self.maybe
        found = self.store.read(everything)
        assert self.written.keys() <= found.keys()
        assert found == {key: everything[key] for key in found}
        assert len(self.store) == len(found)


def machine(kind: type[RuleBasedStateMachine], steps: int, **more: Any) -> None:
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=max(1, steps // STEPS_EACH),
            stateful_step_count=STEPS_EACH,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def test_a_run_folder_gives_the_board_of_a_clean_run_or_a_reason() -> None:
    machine(RunFolder, 500)


def test_a_store_gives_back_what_was_written() -> None:
    machine(Store, 1000)


if __name__ == "__main__":
    for tried in (RunFolder, Store):
        machine(tried, int(sys.argv[1]), derandomize=False, print_blob=True)
        print(f"{tried.__name__}: {sys.argv[1]} steps, nothing wrong")
