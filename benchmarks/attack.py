"""Attacks runs, files, plugins and bundles through the real command line, and says what was seen.

    python benchmarks/attack.py [--only WORD] [--kills 5] [--into docs/reliability.md]

One line an attack: what was done, what has to follow, what was seen. Exit code 1 if any row did not go as it has to.
Rows that take minutes or a cluster are tests and benchmarks of their own; docs/reliability.md names them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import pickle
import platform
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack_tools import (
    Done,
    Server,
    Survived,
    World,
    board,
    changed,
    edit,
    flip,
    little_disk,
    preload,
    records,
    same,
)

from conrad_bench.text import markdown

Act = Callable[[World], str]
ROWS: list[tuple[int | str, str, str, Act]] = []
"""Group, attack, what has to follow, and the function that tries it: it returns what was seen, or raises Survived."""

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


def row(group: int | str, attack: str, expected: str) -> Callable[[Act], Act]:
    """Add an attack to the table."""

    def add(act: Act) -> Act:
        ROWS.append((group, attack, expected, act))
        return act

    return add


def expect(condition: bool, seen: str) -> None:
    """Raise Survived with what was seen unless the condition holds."""
    if not condition:
        raise Survived(seen)


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


# --- a run that goes on after something changed --------------------------------------------------------------------


@row(0, "a reference is corrected, then the same command", "told, and made again")
def _(world: World) -> str:
    report = world.test_study()
    run = world.copy()
    with changed(report, report.read_bytes().replace(b"FINDINGS:", b"FINDINGS: Small left pleural effusion.")):
        return again(world, run, "changed since: test examples")


@row(0, "a picture is replaced by another one", "told, and made again")
def _(world: World) -> str:
    pictures = sorted(world.test_study().with_suffix("").glob("*.jpg"))
    other = next(p for p in sorted(world.data.rglob("*.jpg")) if p.read_bytes() != pictures[0].read_bytes())
    run = world.copy()
    with changed(pictures[0], other.read_bytes()):
        return again(world, run, "changed since: test examples")


@row(0, "a picture is gone", "its study is left out, told, and made again")
def _(world: World) -> str:
    picture = sorted(world.test_study().with_suffix("").glob("*.jpg"))[0]
    run = world.copy()
    with changed(picture, None):
        seen = again(world, run, "changed since: test examples")
        left = json.loads(board(run))["tasks"]["mimic_report"]["left_out"]
        expect("image file not found" in left, f"left out: {left}")
    return f"{seen}; left out: image file not found"


@row(0, "the weights of the model are replaced", "told, and made again")
def _(world: World) -> str:
    from importlib.resources import files

    model, run = world.folder / "model", world.empty()
    shutil.copytree(Path(str(files("conrad_bench.tasks.phantom"))) / "base_model", model)
    world.must(world.run(run, model=str(model), methods="verbalized"))
    weights = max(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-2000:] = bytes(2000)
    weights.write_bytes(bytes(content))
    return again(world, run, "changed since: model", model=str(model), methods="verbalized")


@row(0, "a plugin's file is edited", "told, and made again")
def _(world: World) -> str:
    file, run = world.folder / "mine.py", world.empty()
    text = PLUGIN.format(name="mine", summary="mine", comment="first", act="pass")
    file.write_text(text)
    world.must(world.run(run, "--plugin", str(file), methods="mine"))
    file.write_text(text.replace("first", "second"))
    return again(world, run, "code of the method", "--plugin", str(file), methods="mine")


@row(0, "transformers is upgraded (its version is simulated)", "told, and made again")
def _(world: World) -> str:
    def upgraded() -> None:
        import conrad_bench.engines.transformers as engine

        engine.version = lambda name: "99.0"  # type: ignore[attr-defined]

    run = world.copy()
    done = world.must(world.run(run, before=upgraded))
    expect("changed since: model" in done.err, f"not told; the last line is {done.last!r}")
    expect(same(run, world.reference), "told, but the numbers are others")
    return "told (changed since: model); the same numbers"


@row(0, "a server moves to another port in the middle of a run", "the run goes on, and says so")
def _(world: World) -> str:
    run, servers = world.empty(), [Server(), Server()]
    options = ("--engine", "openai", "-o", "openai.images=false", "--base-url")
    world.must(world.run(run, *options, servers[0].url, methods="verbalized", model="m"))
    before = board(run)
    servers[0].stop()
    (run / "manifest.json").unlink()
    (run / "records" / "verbalized@mimic_report.parquet").unlink()
    done = world.must(world.run(run, *options, servers[1].url, methods="verbalized", model="m"))
    servers[1].stop()
    expect("another setting that changes no answer: options.openai.base_url" in done.err, done.last)
    expect(board(run) == before, "another board")
    return "told; the same board"


@row(0, "another batch size when a run goes on", "the run goes on")
def _(world: World) -> str:
    run = world.copy()
    (run / "manifest.json").unlink()
    world.must(world.run(run, "-o", "transformers.batch_size=3"))
    expect(same(run, world.reference), "another board")
    return "the same board"


@row(0, "an option that changes answers, in the folder of another run", "refused by its name")
def _(world: World) -> str:
    return refused(world.run(world.copy(), "-o", "probe.layer=-2"), "options.probe.layer: not set -> -2")


@row(0, "--keep-stale after a correction", "the old board, because it was asked for")
def _(world: World) -> str:
    report, run = world.test_study(), world.copy()
    with changed(report, report.read_bytes().replace(b"FINDINGS:", b"FINDINGS: Small left pleural effusion.")):
        world.must(world.run(run, "--keep-stale"))
    expect(board(run) == board(world.reference), "another board")
    return "the old board"


@row(2, "two configurations are started at once into one new folder", "one run; the other is refused, leaving nothing")
def _(world: World) -> str:
    run = world.empty()
    started = [world.commands.start(*world.command(run, "--seed", str(seed), methods="verbalized")) for seed in (1, 2)]
    ended = [world.commands.wait(*each) for each in started]
    won = [seed for seed, done in zip((1, 2), ended, strict=True) if done.code == 0]
    expect(len(won) == 1, f"exits {[done.code for done in ended]}")
    expect(f"\nseed: {won[0]}\n" in (run / "config.yaml").read_text(), "the loser's config.yaml lies there")
    loser = ended[2 - won[0]] if won[0] == 1 else ended[0]
    return f"one run, its own config.yaml; the other: {loser.last[:60].split('; ')[0]}"


# --- damage --------------------------------------------------------------------------------------------------------


def damaged(name: str, act: Callable[[Path], object], words: str = "") -> Act:
    """Return the row that damages a file of a finished run and runs the same command again."""

    def attack(world: World) -> str:
        run = world.copy()
        act(run / name)
        return again(world, run, words, clean=world.reference)

    return attack


ARTIFACT = "artifacts/probe@mimic_report"
RECORDS = "records/verbalized@mimic_report.parquet"


def with_nan(path: Path) -> None:
    """Make a weight no number."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    first = next(iter(tensors))
    tensors[first] = np.full_like(tensors[first], np.nan)
    save_file(tensors, path)


class Touching:
    """Leaves a file where somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


for number, attack, name, act, told in (
    (3, "one byte of probe.safetensors is flipped", f"{ARTIFACT}/probe.safetensors", flip, "probe.safetensors changed"),
    (3, "a weight of the probe is NaN", f"{ARTIFACT}/probe.safetensors", with_nan, "probe.safetensors changed"),
    (4, "a number in leaderboard.json is edited", "leaderboard.json",
     lambda p: edit(p, lambda c: c["rows"][0].update(n=7)), ""),
    (4, "leaderboard.json is torn", "leaderboard.json", lambda p: p.write_bytes(p.read_bytes()[:500]), ""),
    (4, "manifest.json is torn", "manifest.json", lambda p: p.write_bytes(p.read_bytes()[:50]), ""),
    (4, "context.json is edited", "context.json", lambda p: edit(p, lambda c: c["context"].update(seed=5)), ""),
    (4, "one byte of the records is flipped", RECORDS, flip, "the records of verbalized on mimic_report"),
    (5, "artifact.json is torn", f"{ARTIFACT}/artifact.json", lambda p: p.write_text("{"), "artifact.json is damaged"),
    (5, "the records are empty", RECORDS, lambda p: p.write_bytes(b""), "the records of verbalized on mimic_report"),
    (5, "digests.json is nonsense", "digests.json", lambda p: p.write_text("[[["), ""),
):  # fmt: skip
    row(number, attack, "set aside or made again, with the same numbers")(damaged(name, act, told))


@row(5, "every shard of the rollouts is torn or flipped, a foreign one beside them", "set aside, generated again")
def _(world: World) -> str:
    run = world.copy()
    shards = sorted((run / "rollouts").glob("*.parquet"))
    for number, shard in enumerate(shards):
        flip(shard) if number % 2 else shard.write_bytes(shard.read_bytes()[:100])
    (run / "rollouts" / "00001-0123456789abcdef.parquet").write_bytes(b"foreign")
    (run / "manifest.json").unlink()
    (run / RECORDS).unlink()
    return again(world, run, f"set aside {len(shards) + 1} damaged file(s)", clean=world.reference)


@row(5, "a pickle stands in the place of the probe's weights, a shard and the records", "nobody unpickles it")
def _(world: World) -> str:
    run, touched = world.copy(), world.folder / "touched"
    shard = sorted((run / "rollouts").glob("*.parquet"))[0]
    for path in (run / ARTIFACT / "probe.safetensors", shard, run / RECORDS):
        path.write_bytes(pickle.dumps(Touching(touched)))
    seen = again(world, run, "made again", clean=world.reference)
    expect(not touched.exists(), "it was unpickled")
    return seen


@row(6, "too little memory for a shard", "an error of the machine; no shard is set aside")
def _(world: World) -> str:
    def forgetful() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def full(*_: Any, **__: Any) -> None:
            raise pa.ArrowMemoryError("malloc failed")

        pq.ParquetFile = full  # type: ignore[misc,assignment]

    run = world.copy()
    (run / "manifest.json").unlink()
    shutil.rmtree(run / "records")
    shards = sorted(path.name for path in (run / "rollouts").glob("*"))
    seen = refused(world.run(run, before=forgetful), "too little memory to read", code=1)
    expect(shards == sorted(path.name for path in (run / "rollouts").glob("*")), "shards were set aside")
    world.must(world.run(run))
    expect(same(run, world.reference), "another board afterwards")
    return f"{seen} no shard set aside; the same command continues"


@row("survived", "kill -9 at random moments, then the same command", "the bytes of an undisturbed run")
def _(world: World) -> str:
    draw, kills = random.Random(0), 0
    for _ in range(KILLS):
        run = world.empty()
        process, said = world.commands.start(*world.command(run))
        time.sleep(draw.uniform(0.2, 6))
        if os.waitpid(process, os.WNOHANG)[0] == 0:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            kills += 1
        world.must(world.run(run))
        expect(same(run, world.reference), f"another board after kill {kills} ({said.name})")
        expect(not list(run.rglob(".*.tmp")), "files are left half-written")
    return f"{kills} of {KILLS} were killed in time; the same bytes"


@row("survived", "a file system with no more room (files end at 16 KiB)", "an error that says so; then the same board")
def _(world: World) -> str:
    run = world.empty()
    done = world.run(run, before=little_disk)
    expect(done.code == 1 and "error: cannot write" in done.err, f"exit {done.code}: {done.last}")
    world.must(world.run(run))
    expect(same(run, world.reference), "another board afterwards")
    return f"exit 1: {done.last.rpartition(': ')[2][:60]}; then the same board"


@row("survived", "a full disk of 60 KiB (tmpfs), then one with room", "an error that says so; then the same board")
def _(world: World) -> str:
    run = world.empty()
    run.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(run)], capture_output=True).returncode:
        return "not tried: no disk can be mounted here"
    try:
        seen = refused(world.run(run), "the disk is full; free some space", code=1)
        subprocess.run(["mount", "-o", "remount,size=10m", str(run)], check=True)
        world.must(world.run(run))
        expect(same(run, world.reference), "another board afterwards")
    finally:
        subprocess.run(["umount", str(run)], check=True)
    return f"{seen} then the same board"


@row(7, "SIGTERM in the middle of a run", "exit 130, and the same command continues")
def _(world: World) -> str:
    run = world.empty()
    process, said = world.commands.start(*world.command(run))
    until = time.monotonic() + 60
    while not list(run.glob("rollouts/*.parquet")) and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process, signal.SIGTERM)
    done = world.commands.wait(process, said)
    expect(done.code == 130 and "the same command continues" in done.err, f"exit {done.code}: {done.last}")
    world.must(world.run(run))
    expect(same(run, world.reference), "another board afterwards")
    return "exit 130; then the same board"


# --- plugins -------------------------------------------------------------------------------------------------------


def with_plugin(world: World, *more: str, **parts: str) -> tuple[Path, Done]:
    """Run a method from a plugin file beside `verbalized`; return the run's folder and how it ended."""
    file, run = world.empty().with_suffix(".py"), world.empty()
    file.write_text(PLUGIN.format(**{"name": "mine", "summary": "mine", "comment": "", "act": "pass"} | parts))
    return run, world.run(run, "--plugin", str(file), *more, methods=f"{parts.get('name', 'mine')},verbalized")


@row(8, "a plugin ends the program with SystemExit(0)", "it fails alone; the others have their board")
def _(world: World) -> str:
    run, done = with_plugin(world, act="raise SystemExit(0)")
    seen = refused(done, "mine tried to end the program")
    rows = [r["method"] for r in json.loads(board(run))["rows"]]
    expect(rows == ["verbalized"], f"the board has {rows}")
    return f"{seen} the board has verbalized"


for odd in ("../../escaped", "x" * 300):

    @row(8, f"a method is called {odd if len(odd) < 20 else 'x 300 times'}", "refused when it is registered")
    def _(world: World, odd: str = odd) -> str:
        run, done = with_plugin(world, name=odd)
        expect(not run.exists(), "something was written")
        return refused(done, "has other characters than letters")


# --- files of strangers --------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
NAMED = "methods: [verbalized]\ntasks: [mimic_report]\n"
for attack, text, words in (
    ("a YAML bomb of 1 kB", BOMB, "more than 10,000 values"),
    ("YAML nested 100,000 deep", "a: " + "[" * 100_000, "nested more than 20 deep"),
    ("a configuration of 2 MiB", "#" * 2**21, "it has more than 1 MiB"),
    ("replicates: 10**9 in a configuration", f"{NAMED}options: {{bootstrap: {{replicates: 1000000000}}}}", "100000"),
    ("a seed of 5,000 digits in a configuration", f"{NAMED}seed: {'9' * 5000}", "a number or a date that cannot be"),
    ("an empty configuration", "", "no methods given"),
):

    @row(9, attack, "refused with its reason, at once")
    def _(world: World, text: str = text, words: str = words) -> str:
        file = world.empty().with_suffix(".yaml")
        file.write_text(text)
        return refused(world.commands.run("run", "--config", str(file), longest=60), words)


for name in (RECORDS, "leaderboard.json", "context.json", "manifest.json"):

    @row(9, f"{name.partition('/')[0]} of a bundle is a pipe", "not waited for")
    def _(world: World, name: str = name) -> str:
        run = world.copy()
        (run / name).unlink()
        os.mkfifo(run / name)
        done = world.commands.run("leaderboard", str(run), "--out", str(world.empty()), longest=60)
        expect(done.code is not None, "it hangs")
        expect("Traceback" not in done.err and "unexpected" not in done.err, done.last)
        return f"exit {done.code}" + (f": {done.last[-70:]}" if done.code else ", from what else is there")


@row(9, "a parquet file of a few kB with 40 million rows", "refused before it is read")
def _(world: World) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run, rows = world.copy(), 10_000_000
    text = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), rows), ["x"])
    table = pa.table({"task": text}, metadata={"conrad_bench.records": "1"})
    with pq.ParquetWriter(run / RECORDS, table.schema, compression="zstd") as writer:
        for _ in range(4):
            writer.write_table(table)
    done = world.commands.run("leaderboard", str(run), "--out", str(world.empty()), longest=60)
    return refused(done, "holds 40,000,000 rows; records have at most 5,000,000")


@row(9, "a parquet file that says a text of 1 MB a thousand times", "refused before it is unpacked")
def _(world: World) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = world.copy()
    table = pq.read_table(run / RECORDS)
    rows = len(table)
    table = table.append_column("view", pa.DictionaryArray.from_arrays([0] * rows, ["x" * 1_000_000]))
    pq.write_table(table, run / RECORDS, compression="zstd")
    done = world.commands.run("leaderboard", str(run), "--out", str(world.empty()), longest=60)
    return refused(done, "has a text of 1,000,000 bytes")


@row(9, "a rating of 5,000 digits in a csv", "refused by its line")
def _(world: World) -> str:
    file = world.folder / "ratings.csv"
    file.write_text(f"rater,report,sentence,rating\na,e,{'9' * 5000},3\n")
    return refused(world.commands.run("ratings", str(world.reference), str(file)), "line 2: the sentence is no index")


# --- text that travels ---------------------------------------------------------------------------------------------


def spoilt_run(world: World, value: str) -> Path:
    """Return a run of a stranger, whose records have an attribute with this value and whose texts hold it, too."""
    from conrad_bench.records import write_records

    run = world.copy()
    for path in (run / "records").iterdir():
        frame = records(run, path.name.partition("@")[0])
        write_records(path, frame.assign(view=[value] * len(frame)))
    edit(run / "context.json", lambda c: c["context"].update(notes=[value], model=value))
    (run / "leaderboard.json").unlink()
    return run


@row(10, "ANSI, bidi marks and a title sequence in a board's texts", "nothing that does not print reaches the terminal")
def _(world: World) -> str:
    run = spoilt_run(world, "\x1b[31mred\x1b]0;title\x07\u202etxt\x9b2J")
    done = world.must(world.commands.run("leaderboard", str(run), "--out", str(world.empty()), "--by", "view"))
    shown = done.out + done.err
    expect(not any((c < " " and c not in "\n") or c in "\x7f\x9b\u202e\x1b" for c in shown), "they reach it")
    expect("\\x1b[31mred" in shown, "they are gone without a trace")
    return "written as \\x1b[31m..."


@row(10, "HTML, links and code in a board's texts", "text in .md, .html and .tex")
def _(world: World) -> str:
    run, out = spoilt_run(world, "<script>x</script>](javascript:y)`|\\input{z}"), world.empty()
    world.must(world.commands.run("leaderboard", str(run), "--out", str(out), "--by", "view"))
    pages = {kind: (out / f"leaderboard.{kind}").read_text() for kind in ("md", "html", "tex")}
    expect("<script" not in pages["md"], "HTML in .md")
    expect("](javascript" not in pages["md"].replace("\\](javascript", ""), "a link in .md")
    expect(pages["html"].count("<script") == 1, "a script in .html")
    expect("\\input{z}" not in pages["tex"], "a command in .tex")
    return "text everywhere"


@row(10, "=HYPERLINK(...) in an attribute", "a text in leaderboard.csv; numbers stay numbers")
def _(world: World) -> str:
    out = world.empty()
    run = spoilt_run(world, '=HYPERLINK("http://x")')
    world.must(world.commands.run("leaderboard", str(run), "--out", str(out), "--by", "view"))
    rows = list(csv.DictReader(io.StringIO((out / "leaderboard.csv").read_text())))
    cells = {cell for line in rows for cell in line.values() if cell.startswith(("=", "+", "@"))}
    expect(not cells, f"cells {cells}")
    expect(all(float(line["n"]) >= 0 and float(line["pearson"] or 0) <= 1 for line in rows), "numbers are texts")
    return f"{rows[-1]['subgroup_value']!r}"


@row(10, "a server's error names a key as its parameter; its list of models holds one", "no key is echoed")
def _(world: World) -> str:
    server = Server({"message": "sk-hunter2", "param": "hunter2-hunter2", "code": None, "type": "x"})
    options = ("--engine", "openai", "-o", "openai.images=false", "-o", "openai.retries=0", "--base-url", server.url)
    done = world.run(world.empty(), *options, methods="verbalized", model="m")
    server.stop()
    expect(done.code not in (0, None) and "Traceback" not in done.err, f"exit {done.code}: {done.last}")
    expect("hunter2" not in done.err + done.out, "the key is echoed")
    return f"exit {done.code}, without it"


@row(10, "an address with a password or a key, for --base-url and --model", "refused, and not echoed")
def _(world: World) -> str:
    for url in ("http://me:hunter2hunter2@host/v1", "http://host/v1?api_key=hunter2hunter2", "http://host/v1#hunter2"):
        done = world.run(world.empty(), "--engine", "openai", "--base-url", url, methods="verbalized", model="m")
        refused(done, "must not hold a key or password")
        expect("hunter2hunter2" not in done.err, "echoed")
    done = world.run(world.empty(), methods="verbalized", model="https://me:hunter2hunter2@host/model")
    refused(done, "holds a key or password")
    expect("hunter2hunter2" not in done.err, "echoed")
    return "exit 2: ...must not hold a key or password...; not echoed"


@row(10, "an argument with ANSI in it", "refused, and written as an escape")
def _(world: World) -> str:
    done = world.commands.run("run", "--\x1b[31mred")
    expect("\x1b" not in done.err, "it reaches the terminal")
    return refused(done, "holds control characters")


@row(11, "another user looks into a run folder", "closed to others; a bundle is open")
def _(world: World) -> str:
    out = world.empty()
    run = world.copy()
    world.must(world.commands.run("publish", str(run), "--out", str(out)))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (world.reference, out)]
    expect(modes[0] == 0o700 and modes[1] & 0o055 == 0o055, f"modes {[oct(mode) for mode in modes]}")
    return f"{modes[0]:04o} and {modes[1]:04o}"


@row(12, "standard output is closed while a result is printed", "no bug is reported")
def _(world: World) -> str:
    def closed() -> None:
        end, mine = os.pipe()
        os.close(end)
        os.dup2(mine, 1)

    done = world.commands.run("list", before=closed)
    expect("this is a bug" not in done.err and "Traceback" not in done.err, done.last)
    return f"exit {done.code}, silent"


PHANTOM = ("run", "--methods", "verbalized", "--tasks", "mimic_report", "-o", "phantom.studies=24", "--limit", "3")


def with_cache(world: World, cache: Path, *more: str) -> Done:
    """Run on phantom data of a cache of its own."""
    arguments = (*PHANTOM, "-o", "bootstrap.replicates=20", "--out", str(world.empty()), *more)
    return world.commands.run(*arguments, before=lambda: os.environ.update(CONRAD_BENCH_CACHE=str(cache)))


@row(12, "the cache cannot be written", "the variable that names another one is said")
def _(world: World) -> str:
    file = world.empty()
    file.write_text("no folder")
    return refused(with_cache(world, file / "cache"), "set CONRAD_BENCH_CACHE to a folder", code=1)


@row(12, "the phantom data in the cache are damaged", "the folder to remove is said")
def _(world: World) -> str:
    cache = world.empty()
    world.must(with_cache(world, cache, "--dry-run"))
    split = next(cache.rglob("mimic-cxr-2.0.0-split.csv.gz"))
    split.write_bytes(split.read_bytes()[:50])
    return refused(with_cache(world, cache), "are damaged: remove that folder")


@row(12, "kill -9 while the phantom data are written", "what is half-written goes with the next run")
def _(world: World) -> str:
    cache = world.empty()
    process, _ = world.commands.start(
        *PHANTOM, "-o", "phantom.studies=3000", before=lambda: os.environ.update(CONRAD_BENCH_CACHE=str(cache))
    )
    until = time.monotonic() + 60
    while not list(cache.rglob("*.jpg")) and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    left = len(list(cache.iterdir()))
    world.must(with_cache(world, cache, "--dry-run"))
    names = sorted(path.name for path in cache.iterdir())
    expect(len(names) == 1, f"the cache holds {names}")
    return f"{left} half-written folder left, gone after the next run"


@row(12, "the run's folder vanishes while it runs", "said; the same command goes on")
def _(world: World) -> str:
    run = world.empty()
    process, said = world.commands.start(*world.command(run))
    until = time.monotonic() + 60
    while not list(run.glob("rollouts/*.parquet")) and time.monotonic() < until:
        time.sleep(0.005)
    run.rename(world.empty())
    done = world.commands.wait(process, said)
    expect(done.code == 1 and str(run) in done.last, f"exit {done.code}: {done.last}")
    world.must(world.run(run))
    expect(same(run, world.reference), "another board afterwards")
    return f"exit 1: {done.last.replace(str(run), '')[:70]}; then the same board"


# --- publishing ----------------------------------------------------------------------------------------------------


@row(13, "a plugin's options, summary and notes hold names and paths", "none of them in the bundle; it verifies")
def _(world: World) -> str:
    mark, out = "Zebrafinch", world.empty()
    run, done = with_plugin(world, summary=f"{mark}, fitted on /data/{mark}")
    world.must(done)
    edit(run / "manifest.json", lambda c: c["methods"]["mine"].update(weights={f"/data/{mark}": 1, mark: mark}))
    edit(run / "context.json", lambda c: c["context"].update(notes=[f"asked http://{mark}:8000"]))
    world.must(world.commands.run("publish", str(run), "--out", str(out)))
    found = [path.name for path in out.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()]
    expect(not found, f"found in {found}")
    world.must(world.commands.run("verify", str(out)))
    return "not found; verified"


@row(13, "confidences of a bundle are matched to those of the run, by all their digits", "three digits at most")
def _(world: World) -> str:
    out = world.empty()
    world.must(world.commands.run("publish", str(world.copy()), "--out", str(out)))
    exact, public = (set(records(folder, "probe")["confidence"]) for folder in (world.reference, out))
    expect(all(round(value, 3) == value for value in public), "more digits")
    return f"{len(exact & public)} of {len(exact)} confidences are found again"


@row(13, "a stranger's bundle with more digits, or a rare combination of attributes", "verify names it")
def _(world: World) -> str:
    from conrad_bench.records import write_records
    from conrad_bench.storage import file_sha256

    out = world.empty()
    world.must(world.commands.run("publish", str(world.copy()), "--out", str(out)))
    path = out / "records" / "probe@mimic_report.parquet"
    frame = records(out, "probe")
    write_records(path, frame.assign(confidence=frame["confidence"] / 3, view=["PA"] + [None] * (len(frame) - 1)))
    edit(out / "bundle.json", lambda c: c["files"].update({f"records/{path.name}": file_sha256(path)}))
    done = world.commands.run("verify", str(out))
    expect(done.code == 1, f"exit {done.code}")
    expect("values with more digits" in done.out and "fewer than 5 clusters share" in done.out, done.out[-200:])
    return "exit 1: both are named"


KILLS = 5


def main() -> None:
    """Print the table."""
    global KILLS
    parser = argparse.ArgumentParser(description="Attack runs, files, plugins and bundles, and say what was seen.")
    parser.add_argument("--only", default="", help="only rows whose group or attack holds this")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--into", type=Path, help="write the table behind the last heading of this page, too")
    arguments = parser.parse_args()
    KILLS = arguments.kills
    os.environ["OMP_NUM_THREADS"] = "1"
    from conrad_bench.manifest import git_commit

    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    machine = f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release().partition('-')[0]}"
    tell(f"`python benchmarks/attack.py --kills {KILLS}` (commit {git_commit()[:7] or 'unknown'}, {machine}):\n")
    preload()
    wanted = [each for each in ROWS if arguments.only in f"{each[0]} {each[1]}"]
    harmed, begin = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        world = World(Path(name))
        tell("| | attack | expected | seen |\n| --- | --- | --- | --- |")
        for group, attack, expected, act in wanted:
            try:
                seen = act(world)
            except Survived as survived:
                harmed += 1
                seen = f"FAILED: {survived}"
            tell(f"| {group} | {markdown(attack)} | {markdown(expected)} | {markdown(seen.replace(name, ''))} |")
    seconds = time.perf_counter() - begin
    tell(f"\n{len(wanted) - harmed} of {len(wanted)} attacks ended as they have to, in {seconds:.0f} s.")
    if arguments.into is not None:
        page, heading, _ = arguments.into.read_text().rpartition("\n## ")
        title = arguments.into.read_text()[len(page) + len(heading) :].partition("\n")[0]
        arguments.into.write_text(page + heading + title + "\n\n" + "\n".join(lines) + "\n")
    sys.exit(1 if harmed else 0)


if __name__ == "__main__":
    main()
