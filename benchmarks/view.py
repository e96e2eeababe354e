"""How long the viewer takes over a run of many studies: its start, the list, and the way from example to example.

    python benchmarks/view.py [--studies 5000] [--pages 60] [--keep FOLDER]

A run is made up: a csv task of reports, two films of 2544 x 3056 pixels a study (twenty JPEG files under other names;
the last study's is a PNG of 16 bits), three methods, nine sentences a report, usual texts. Everything else is real: the
folder is written by the project's own writers, `conrad-bench view` serves it in a process of its own, and the times are
those of a client that waits for each page; "with pictures" has fetched both pictures of the example as well, opened and
scaled on the server. The client rests a second on each example, as a reader would at least.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
from PIL import Image

from conrad_bench.config import RunConfig, dump_config
from conrad_bench.records import records_path, write_records
from conrad_bench.rollouts.store import RolloutStore

DEEP = "deep.png"
FILMS, SENTENCES, METHODS = 20, 9, ("verbalized", "p_true", "conrad")
WORDS = """
    heart lungs pleura effusion opacity left right lower upper lobe small large moderate patchy dense clear normal size
    contour mediastinal silhouette consolidation edema pneumothorax catheter tip projects over cavoatrial junction mild
    unchanged compared with prior study bibasilar atelectasis seen there is no evidence of
"""
YAML = """
title: made-up chest studies
granularity: sentence
file: studies.csv
instruction: Write the findings of this chest X-ray.
"""


def films(folder: Path) -> list[str]:
    """Write films of full size, and return their names."""
    rng, names = np.random.default_rng(0), []
    for number in range(FILMS):
        rough = Image.fromarray(rng.integers(20, 235, (48, 40), np.uint8)).resize(
            (2544, 3056), Image.Resampling.BICUBIC
        )
        film = np.asarray(rough).astype(np.float32) + rng.normal(0, 4, (3056, 2544)).astype(np.float32)
        names.append(f"film{number}.jpg")
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=95)
    Image.fromarray((film.clip(0, 255) * 16).astype(np.uint16)).save(folder / DEEP, compress_level=1)
    return names


def sentence(rng: random.Random) -> str:
    """Return a sentence of a report's length."""
    return " ".join(rng.choices(WORDS.split(), k=rng.randint(6, 14))).capitalize() + "."


def make(folder: Path, studies: int) -> tuple[Path, Path]:
    """Write data and run, and return the task's file and the run's folder."""
    rng = random.Random(0)
    data, run = folder / "data", folder / "run"
    data.mkdir(parents=True)
    run.mkdir()
    names = films(data)
    with open(data / "studies.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "patient", "images", "indication", "reference", "split", "sex", "age", "view"])
        for i in range(studies):
            reference = " ".join(sentence(rng) for _ in range(SENTENCES))
            shown = []
            for film in rng.sample(names, 2) if i < studies - 1 else [DEEP]:
                shown.append(f"s{i:06d}-{film}")
                os.link(data / film, data / shown[-1])
            about = [rng.choice("FM"), rng.randint(18, 95), rng.choice(["AP", "PA"])]
            rows.writerow([f"s{i:06d}", f"p{i:06d}", ";".join(shown), sentence(rng), reference, "test", *about])
    (data / "made_up.yaml").write_text(YAML)
    options = {"bootstrap": {"replicates": 100}}
    config = RunConfig(methods=list(METHODS), tasks=["made_up"], data_roots={"made_up": data}, options=options)
    (run / "config.yaml").write_text(dump_config(config))
    with open(data / "studies.csv", newline="") as file:
        about_each = list(csv.DictReader(file))
    with RolloutStore(run / "rollouts") as store:
        for method in METHODS:
            records, texts = [], []
            for row in about_each:
                key = f"{method}-{row['id']}"
                said = [sentence(rng) for _ in range(SENTENCES)]
                levels = [rng.choice((5, 7, 8, 9, 9, 10)) for _ in said]
                stated = method != "p_true"
                lines = [f"{s} Confidence: {k}" for s, k in zip(said, levels, strict=True)] if stated else said
                texts.append(
                    {
                        "key": key, "kind": "generate", "sample": 0, "text": "\n".join(lines), "token_ids": [1],
                        "logprobs": None, "finish_reason": "stop", "values": None,
                    }
                )  # fmt: skip
                records += [
                    {
                        "task": "made_up", "method": method, "example": row["id"],
                        "cluster": row["patient"], "claim": n,
                        "confidence": level / 10 if stated else rng.random(), "correctness": float(rng.random() < 0.6),
                        "status": "ok", "response": key, "sex": row["sex"], "age": float(row["age"]),
                        "view": row["view"],
                    }
                    for n, level in enumerate(levels)
                ]  # fmt: skip
            for start in range(0, len(texts), 256):
                store.append(texts[start : start + 256])
            write_records(records_path(run, method, "made_up"), records)
    return data / "made_up.yaml", run


class Reader:
    """A browser's part: keeps the connection and the cookie, and takes the time."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._cookie = ""
        self._connection.request("GET", f"/?{parts.query}")
        answer = self._connection.getresponse()
        answer.read()
        self._cookie = str(answer.getheader("set-cookie")).partition(";")[0]

    def get(self, path: str) -> tuple[bytes, float]:
        """Return what an address answers and the milliseconds that it took."""
        start = time.perf_counter()
        self._connection.request("GET", path, headers={"Cookie": self._cookie})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
        return data, 1000 * (time.perf_counter() - start)


def line(what: str, times: list[float]) -> None:
    """Print median, 95th percentile and maximum of some milliseconds."""
    low, high = np.percentile(times, [50, 95])
    print(f"| {what} | {low:.0f} | {high:.0f} | {max(times):.0f} |")


@contextmanager
def served(
    command: str, pages: int, *more: str
) -> Iterator[tuple[argparse.Namespace, subprocess.Popen[str], str, float]]:
    """Make the run and serve it; yield what was asked for, the server, its address, and the seconds until then."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--pages", type=int, default=pages)
    parser.add_argument("--keep", type=Path, help="folder of the made-up run, written if it is not there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "made"
        if not folder.is_dir():
            make(folder, arguments.studies)
        words = [str(Path(sys.executable).with_name("conrad-bench")), command, str(folder / "run"), "--no-browser"]
        words += ["--plugin", str(folder / "data" / "made_up.yaml"), *more]
        start = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            yield arguments, server, address, time.perf_counter() - start
            server.terminate()


def memory(server: subprocess.Popen[str]) -> None:
    """Print the most memory that a server has had."""
    with open(f"/proc/{server.pid}/status") as file:
        print(next(row.strip() for row in file if row.startswith("VmHWM")))


def main() -> None:
    """Make the run, serve it, read it."""
    with served("view", 60) as (arguments, server, address, ready):
        reader = Reader(address)
        _, first = reader.get("/")
        print(f"{arguments.studies:,} studies: ready after {ready:.1f} s, first page {first:.0f} ms")
        memory(server)
        lists, pages, whole = [], [], []
        for number in range(arguments.pages):
            query = {"method": METHODS[number % 3], "confidence.to": 0.5 + number / 200, "by.sex": "FM"[number % 2]}
            lists.append(reader.get(f"/?{urlencode(query)}")[1])
        listed, _ = reader.get("/?sort=over&method=conrad")
        path = unescape(re.findall(r'<th scope="row"><a href="([^"#]+)', listed.decode())[0])
        for _ in range(arguments.pages):
            found, took = reader.get(path)
            text = found.decode()
            pictures = re.findall(r'<img src="([^"]+)"', text)
            pages.append(took)
            whole.append(took + sum(reader.get(picture)[1] for picture in pictures))
            path = unescape(re.findall(r'<a href="([^"]+)" rel="next"', text)[0])
            time.sleep(1)
        deep, _ = reader.get(f"/example?of=made_up&id=s{arguments.studies - 1:06d}")
        took = [reader.get(picture)[1] for picture in re.findall(r'<img src="([^"]+)"', deep.decode())]
        print(f"a film of 16 bits that was not opened before: {took[0]:.0f} ms")
        print("| milliseconds | median | 95 % | most |\n| --- | --- | --- | --- |")
        line("the list under a filter that is new", lists)
        line("the next example", pages[1:])
        line("with its two pictures", whole[1:])


if __name__ == "__main__":
    main()
