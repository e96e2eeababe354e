"""Attacks on runs that go on: changes, damage, kills, disks. Rows of `attack.py`."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attack_tools import (
    KILLS,
    PLUGIN,
    RECORDS,
    Act,
    Server,
    World,
    again,
    board,
    changed,
    edit,
    expect,
    flip,
    little_disk,
    refused,
    row,
    same,
)

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
    expect(board(run) == board(world.reference), "told, but the numbers are others")
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
    for _ in range(KILLS[0]):
        run = world.empty()
        process, said = world.commands.start(*world.command(run))
        time.sleep(draw.uniform(0.2, 3))
        if os.waitpid(process, os.WNOHANG)[0] == 0:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            kills += 1
        world.must(world.run(run))
        expect(same(run, world.reference), f"another board after kill {kills} ({said.name})")
        expect(not list(run.rglob(".*.tmp")), "files are left half-written")
    return f"{kills} of {KILLS[0]} were killed in time; the same bytes"


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
    process, said = world.begun(run)
    os.kill(process, signal.SIGTERM)
    done = world.commands.wait(process, said)
    expect(done.code == 130 and "the same command continues" in done.err, f"exit {done.code}: {done.last}")
    world.must(world.run(run))
    expect(same(run, world.reference), "another board afterwards")
    return "exit 130; then the same board"
