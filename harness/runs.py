"""Runs from Python: start one, rehearse one, open what one left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConfigError, DataError, StorageError
from conrad_bench.registry import unknown

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.config import RunConfig
    from conrad_bench.leaderboards.results import Board
    from conrad_bench.registry import Registry


@dataclass(frozen=True)
class Run:
    """A run folder, or a published bundle, finished or not."""

    folder: Path

    def records(self, method: str | None = None, task: str | None = None) -> pd.DataFrame:
        """Return the records, one row a claim (docs/formats.md), of all methods and tasks or those named.

        Raises ConfigError where there are none of that name, StorageError for a damaged file.
        """
        import pandas as pd

        from conrad_bench.records import read_records

        frames = {(str(f["task"].iloc[0]), str(f["method"].iloc[0])): f for f in map(read_records, self._files())}
        for what, name, place in (("task", task, 0), ("method", method, 1)):
            there = sorted({key[place] for key in frames})
            if name is not None and name not in there:
                raise ConfigError(f"{self.folder}: {unknown(what, name, there)}")
        chosen = [f for (t, m), f in sorted(frames.items()) if task in (None, t) and method in (None, m)]
        if not chosen:
            raise ConfigError(f"{self.folder}: there are no records of {method} on {task}")
        return pd.concat(chosen, ignore_index=True)

    def responses(self, method: str | None = None, task: str | None = None) -> pd.DataFrame:
        """Return the records with the text of each response in a column `text`. Handle it as you do the reports.

        Raises DataError where the folder holds no texts (a published bundle has none), StorageError for a damaged file.
        """
        import pandas as pd

        shards = sorted((self.folder / "rollouts").glob("*.parquet"))
        if not shards:
            raise DataError(f"{self.folder} holds no rollouts: texts stay in the run folder, bundles have none")
        records = self.records(method, task)
        texts = pd.concat([_read_texts(path) for path in shards], ignore_index=True)
        found = texts.drop_duplicates("key").set_index("key")["text"]
        return records.assign(text=records["response"].map(found))

    @cached_property
    def board(self) -> Board:
        """The leaderboard as it was written. Raises DataError where there is none yet."""
        from conrad_bench.leaderboards.board.schema import read_board
        from conrad_bench.leaderboards.results import Board

        return Board(read_board(self.folder / "leaderboard.json"))

    def artifact(self, method: str, task: str | None = None) -> Path:
        """Return the folder of what a method learned. Raises ConfigError where that is not one folder."""
        found = sorted((self.folder / "artifacts").glob("*@*/artifact.json"))
        names = {path.parent.name for path in found}
        fitting = [
            name for name in names if name.rpartition("@")[0] == method and task in (None, name.rpartition("@")[2])
        ]
        if len(fitting) != 1:
            raise ConfigError(
                f"{self.folder}: {len(fitting)} artifacts of {method}"
                + f" on {task}" * (task is not None)
                + f"; there are {', '.join(sorted(names)) or 'none'}"
            )
        return self.folder / "artifacts" / fitting[0]

    def _files(self) -> list[Path]:
        files = sorted((self.folder / "records").glob("*.parquet"))
        if not files:
            raise DataError(f"{self.folder} holds no records yet; run its methods first")
        return files


def _read_texts(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(path, columns=["key", "text"])
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path} is damaged; the run's own command sets it aside and makes it again") from error


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run or a bundle."""
    return any((folder / name).exists() for name in ("config.yaml", "context.json", "leaderboard.json"))


def open_run(folder: str | Path) -> Run:
    """Return the run in a folder. Raises DataError where the folder holds neither a run nor a bundle."""
    folder = Path(folder)
    if not is_run(folder):
        raise DataError(f"{folder} holds no run: name the folder that `run` wrote, or a bundle")
    return Run(folder)


def run(
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Run methods on tasks as `conrad-bench run` does, and return the run; the same call again continues it.

    `settings` are keys of the configuration: `model`, `engine`, `limit`, `seed`, `seeds`, `data_roots`, and `options`
    by plugin (`options={"probe": {"samples": 100}}`). Raises what the command reports as errors (conrad_bench.errors).
    """
    from conrad_bench import pipeline
    from conrad_bench.progress import Reporter

    registry, resolved = _resolved(methods, tasks, config, plugins, settings)
    folder = Path(out) if out is not None else default_out(resolved.methods, resolved.tasks)
    pipeline.run(resolved, folder, registry, Reporter(quiet))
    return Run(folder)


def default_out(methods: list[str], tasks: list[str]) -> Path:
    """Return runs/<methods>-<tasks>, shortened by a hash where the name would be too long for a folder."""
    name = f"{','.join(methods)}-{','.join(tasks)}".replace("/", "_")
    if len(name.encode()) > 120:
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path("runs") / name


def rehearse(
    methods: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    *,
    beside: str | Path = "runs",
    config: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    examples: int | None = None,
    steps: int = 3,
    **settings: Any,
) -> dict[str, Any]:
    """Play each stage of a planned run on a few examples at full size, and return the content of rehearsal.json.

    What it makes lies in a temporary folder inside `beside`. Arguments else as in `run`.
    """
    from conrad_bench import rehearsal

    registry, resolved = _resolved(methods, tasks, config, plugins, settings)
    Path(beside).mkdir(parents=True, exist_ok=True)
    return rehearsal.rehearse(resolved, registry, Path(beside), examples, steps)


def _resolved(
    methods: Sequence[str] | None,
    tasks: Sequence[str] | None,
    config: str | Path | None,
    plugins: Sequence[str | Path],
    settings: Mapping[str, Any],
) -> tuple[Registry, RunConfig]:
    from conrad_bench.config import load_config
    from conrad_bench.registry import Registry

    registry = Registry([Path(path) for path in plugins])
    given: dict[str, Any] = {"methods": methods, "tasks": tasks, **settings}
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    path = None if config is None else Path(config)
    return registry, load_config(path, {key: value for key, value in given.items() if value is not None}, registry)
