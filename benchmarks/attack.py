"""Attacks runs, files, plugins and bundles through the real command line, and says what was seen.

    python benchmarks/attack.py [--only WORD] [--kills 5] [--into docs/reliability.md]

One line an attack: what was done, what has to follow, what was seen. Exit code 1 if any row did not go as it has to.
Rows that take minutes or a cluster are tests and benchmarks of their own; docs/reliability.md names them.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import attack_files  # noqa: F401 - adds its rows
import attack_runs  # noqa: F401 - adds its rows
from attack_tools import KILLS, ROWS, HarmDone, World, preload

from conrad_bench.text import markdown


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Attack runs, files, plugins and bundles, and say what was seen.")
    parser.add_argument("--only", default="", help="only rows whose group or attack holds this")
    parser.add_argument("--kills", type=int, default=KILLS[0])
    parser.add_argument("--into", type=Path, help="write the table behind the last heading of this page, too")
    arguments = parser.parse_args()
    KILLS[0] = arguments.kills
    os.environ["OMP_NUM_THREADS"] = "1"
    from conrad_bench.provenance import git_commit

    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    machine = f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release().partition('-')[0]}"
    tell(f"`python benchmarks/attack.py --kills {KILLS[0]}` (commit {git_commit()[:7] or 'unknown'}, {machine}):\n")
    preload()
    rows = sorted(ROWS, key=lambda each: (each[0] == "survived", each[0]))
    wanted = [each for each in rows if arguments.only in f"{each[0]} {each[1]}"]
    harmed, begin = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        world = World(Path(name))
        tell("| | attack | expected | seen |\n| --- | --- | --- | --- |")
        for group, attack, expected, act in wanted:
            try:
                seen = act(world)
            except HarmDone as survived:
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
