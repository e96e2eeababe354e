"""Attacks with plugins, files and texts of others, and on bundles. Rows of `attack.py`."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack_tools import PLUGIN, RECORDS, Done, Server, World, board, edit, expect, records, refused, row, same

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
        expect(done.code == 0 or "it is no regular file" in done.err, done.last)
        return "exit 1: ...it is no regular file..." if done.code else "exit 0, from what else is there"


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
    done = world.commands.run("ratings", "score", str(world.reference), "--file", str(file))
    return refused(done, "line 2: the sentence is no index")


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
    process, said = world.begun(run)
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


def forged(world: World, change: Callable[[Path], object], words: str) -> str:
    """Change a bundle, write its hashes anew, and expect `verify` to name what was done."""
    from conrad_bench.storage import file_sha256

    out = world.empty()
    world.must(world.commands.run("publish", str(world.copy()), "--out", str(out)))
    change(out)
    files = {p.relative_to(out).as_posix(): file_sha256(p) for p in out.rglob("*") if p.is_file()}
    files.pop("bundle.json")
    (out / "bundle.json").write_text(json.dumps({"files": files, "format": 2}, indent=1, sort_keys=True) + "\n")
    done = world.commands.run("verify", str(out))
    expect(done.code == 1 and words in done.out, f"exit {done.code}: {done.last}")
    return f"exit 1: ...{words}..."


def with_metadata(out: Path) -> None:
    """Write a name into the metadata of a records file, and of one of its columns."""
    import pyarrow.parquet as pq

    path = out / "records" / "probe@mimic_report.parquet"
    table = pq.read_table(path)
    field = table.schema.field("status").with_metadata({"patient": "Zebrafinch"})
    pq.write_table(table.set_column(table.schema.get_field_index("status"), field, table.column("status")), path)


def with_column(out: Path) -> None:
    """Add a column with names to the records."""
    from conrad_bench.records import write_records

    path = out / "records" / "probe@mimic_report.parquet"
    write_records(path, records(out, "probe").assign(patient="Zebrafinch"))


def in_board(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes the leaderboard.json of a bundle."""
    return lambda out: edit(out / "leaderboard.json", change)


for attack, change, words in (
    (
        "a script in the page",
        lambda out: (out / "leaderboard.html").write_text("<script>x()</script>"),
        "leaderboard.html: is not what this version makes",
    ),
    (
        "another number in the csv",
        lambda out: (out / "leaderboard.csv").write_text((out / "leaderboard.csv").read_text().replace("0.", "9.", 1)),
        "leaderboard.csv: is not what this version makes",
    ),
    ("another model's name", in_board(lambda b: b.update(model="google/medgemma-4b-it")), "leaderboard.json, model:"),
    ("phantom: false", in_board(lambda b: b.update(phantom=False)), "leaderboard.json, phantom: false"),
    ("no comparisons", in_board(lambda b: b["tasks"]["mimic_report"].pop("comparisons")), "comparisons: missing"),
    ("another manifest", lambda out: (out / "manifest.json").write_text("{}\n"), "manifest.json: another seed than"),
    ("a column with names", with_column, "columns that no bundle has: patient"),
    ("text in the metadata of a records file's column", with_metadata, "metadata of columns that no bundle has"),
):

    @row(13, f"a bundle with {attack}, all hashes written anew", "verify names it")
    def _(world: World, change: Callable[[Path], object] = change, words: str = words) -> str:
        return forged(world, change, words)
