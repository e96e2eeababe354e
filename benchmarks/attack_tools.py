"""What `attack.py` attacks with: processes that run the command line, a small data set, a server, a table of rows."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Act = Callable[["World"], str]
ROWS: list[tuple[int | str, str, str, Act]] = []
"""Group, attack, what has to follow, and the function that tries it: it returns what was seen, or raises HarmDone."""

RECORDS = "records/verbalized@mimic_report.parquet"
KILLS = [5]
"""How often a run is killed: set by the command."""
PLUGIN = """
from conrad_bench import Method, register_method
from conrad_bench.methods.verbalized import Verbalized

@register_method
class Mine(Verbalized):
    name = {name!r}
    summary = {summary!r}
    # {comment}
    def estimate(self, *given):
        {act}
        return super().estimate(*given)
"""

TINY = (
    *("--limit", "5", "-o", "bootstrap.replicates=20", "-o", "probe.samples=6", "-o", "probe.validation_samples=4"),
    *("-o", "probe.epochs=1"),
)
LONGEST = 300.0
"""Seconds after which a command counts as hanging."""


class HarmDone(Exception):  # noqa: N818 - said of an attack
    """An attack did harm, or was met by another answer than the one expected; says what was seen."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | None
    """Exit code, negative for a signal, None where it had to be stopped."""
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line that it said on standard error."""
        return (self.err.strip().splitlines() or [""])[-1]


def preload() -> None:
    """Import what commands import, so that each of them is a fork away; a fork shares nothing that it changes."""
    import matplotlib.figure
    import pandas
    import peft
    import pyarrow.parquet
    import scipy.stats
    import torch
    import transformers

    import conrad_bench.cli
    import conrad_bench.pipeline

    assert all((matplotlib, pandas, peft, pyarrow, scipy, torch, transformers, conrad_bench))


class Commands:
    """Runs `conrad-bench` in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, 0

    def start(self, *arguments: str, before: Callable[[], object] | None = None) -> tuple[int, Path]:
        """Start a command; `before` is called in its process first. Return its id, and where it writes."""
        self._number += 1
        said = self.folder / f"said-{self._number}"
        process = os.fork()
        if process == 0:
            code = 70
            try:
                os.setsid()
                os.chdir(self.folder)
                for number, name in ((1, "out"), (2, "err")):
                    os.dup2(os.open(f"{said}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
                sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, errors="backslashreplace") for n in (1, 2))
                sys.argv = ["conrad-bench", *arguments]
                if before is not None:
                    before()
                from conrad_bench.cli import main

                main()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return process, said

    def wait(self, process: int, said: Path, longest: float = LONGEST) -> Done:
        """Wait for a command, and stop it after `longest` seconds."""
        until, code = time.monotonic() + longest, None
        while code is None and time.monotonic() < until:
            ended, status = os.waitpid(process, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0.005)
        if code is None:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        out, err = (Path(f"{said}.{name}").read_text(errors="backslashreplace") for name in ("out", "err"))
        return Done(code, out, err)

    def run(self, *arguments: str, before: Callable[[], object] | None = None, longest: float = LONGEST) -> Done:
        """Run a command to its end."""
        return self.wait(*self.start(*arguments, before=before), longest)


class World:
    """A small phantom data set, a finished run on it, and what rows share."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, Commands(folder)
        self.data, self.reference = folder / "data", folder / "reference"
        self._copies = 0
        os.environ |= {"CONRAD_BENCH_CACHE": str(folder / "cache"), "MIMIC_CXR_ROOT": "", "GIT_DIR": os.devnull}
        os.environ.pop("OPENAI_API_KEY", None)
        self.must(self.commands.run("data", "phantom", "--out", str(self.data), "--studies", "24"))
        self.must(self.run(self.reference))

    def must(self, done: Done) -> Done:
        """Return a command that ended well. Raises HarmDone with its last words if it did not."""
        if done.code != 0:
            raise HarmDone(f"exit {done.code}: {done.last}")
        return done

    def command(self, out: Path, *more: str, methods: str = "verbalized,probe", model: str = "phantom") -> list[str]:
        """Return a tiny run's command."""
        what = ["run", "--methods", methods, "--tasks", "mimic_report", "--model", model, "--out", str(out)]
        return [*what, "--data-root", f"mimic_report={self.data}", *TINY, *more]

    def run(self, out: Path, *more: str, before: Callable[[], object] | None = None, **which: str) -> Done:
        """Run it to its end."""
        return self.commands.run(*self.command(out, *more, **which), before=before)

    def copy(self, of: Path | None = None) -> Path:
        """Return a copy of the finished run, to be attacked."""
        self._copies += 1
        return Path(shutil.copytree(of or self.reference, self.folder / f"copy-{self._copies}"))

    def empty(self) -> Path:
        """Return the path of a folder that is not there yet."""
        self._copies += 1
        return self.folder / f"new-{self._copies}"

    def begun(self, run: Path) -> tuple[int, Path]:
        """Start a run, and return once it has kept answers: its process, and where it writes what it says."""
        process, said = self.commands.start(*self.command(run))
        until = time.monotonic() + 60
        while not list(run.glob("rollouts/*.parquet")) and time.monotonic() < until:
            time.sleep(0.005)
        return process, said

    def test_study(self) -> Path:
        """Return the report of the first study that the run is evaluated on."""
        frame = records(self.reference, "verbalized")
        return next(self.data.rglob(f"{frame['example'].iloc[0]}.txt"))


def records(run: Path, method: str) -> Any:
    """Return a method's records."""
    from conrad_bench.records import read_records, records_path

    return read_records(records_path(run, method, "mimic_report"))


def board(run: Path) -> bytes:
    """Return the bytes of a run's leaderboard."""
    return (run / "leaderboard.json").read_bytes()


def same(run: Path, reference: Path) -> bool:
    """Tell whether two runs have the same leaderboard and numbers in their records."""
    names = sorted(path.name for path in (reference / "records").iterdir())
    same_records = all(
        records(run, name.partition("@")[0]).equals(records(reference, name.partition("@")[0])) for name in names
    )
    return same_records and board(run) == board(reference)


@contextmanager
def changed(path: Path, content: bytes | None) -> Iterator[None]:
    """Give a file another content (None: it is gone) for a while."""
    before = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def flip(path: Path, where: float = 0.5) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(bytes(content))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file says."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def little_disk() -> None:
    """Let no file grow beyond 16 KiB: the kernel's answer is that of a file system that has no more room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 2**10, 16 * 2**10))


class Server:
    """A server with OpenAI's interface that states a confidence, or refuses with an error of its own."""

    def __init__(self, refuse: dict[str, Any] | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = {"role": "assistant", "content": "The heart is normal.\nConfidence: 8"}
                choice = {"index": 0, "finish_reason": "stop", "message": answer}
                told = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"]}
                self._send(*((400, {"error": refuse}) if refuse else (200, {**told, "choices": [choice]})))

            def do_GET(self) -> None:
                listed = [{"id": "m", "object": "model"}, {"id": "\x1b[31msk-abcdefghij0123456789abcd", "object": "x"}]
                self._send(200, {"object": "list", "data": listed})

            def _send(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def row(group: int | str, attack: str, expected: str) -> Callable[[Act], Act]:
    """Add an attack to the table."""

    def add(act: Act) -> Act:
        ROWS.append((group, attack, expected, act))
        return act

    return add


def expect(condition: bool, seen: str) -> None:
    """Raise HarmDone with what was seen unless the condition holds."""
    if not condition:
        raise HarmDone(seen)


def refused(done: Done, words: str, code: int = 2) -> str:
    """Return the message of a command that was refused as it has to be."""
    expect(done.code == code, f"exit {done.code}: {done.last}")
    expect(words in done.err, f"the message is {done.last!r}")
    expect("Traceback" not in done.err, "a traceback")
    return f"exit {code}: ...{words}..."


def again(world: World, run: Path, words: str, *more: str, clean: Path | None = None, **which: Any) -> str:
    """Run the same command again; it has to say `words` and give the board of a clean run."""
    done = world.must(world.run(run, *more, **which))
    expect(words in done.err, f"not told; the last line is {done.last!r}")
    if clean is None:
        clean = world.empty()
        world.must(world.run(clean, *more, **which))
    expect(same(run, clean), "told, but the board is not that of a clean run")
    return f"told ({words}); the board of a clean run" if words else "the board of a clean run"
