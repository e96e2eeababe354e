"""A run folder or a published bundle, as leaderboards and bundles read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.board.build import FORMAT, context_of, installed, run_records
from conrad_bench.leaderboards.board.context import CONTEXT_FORMAT, BoardContext
from conrad_bench.leaderboards.board.counterfactuals import Key, run_counterfactuals
from conrad_bench.leaderboards.board.schema import read_board
from conrad_bench.storage import load_json

if TYPE_CHECKING:
    import pandas as pd

Records = dict[tuple[str, str], "pd.DataFrame"]
"""By task and method."""


@dataclass(frozen=True)
class Finished:
    """A run folder (or a published bundle) as a leaderboard needs it."""

    folder: Path
    context: BoardContext
    records: Records
    fingerprints: dict[str, str]
    """Task -> digest of its examples."""
    format: int
    """Of its leaderboard.json; the present one where it has none yet."""
    manifest: dict[str, Any] | None
    """None where the run did not finish."""
    counterfactuals: dict[Key, pd.DataFrame] = field(default_factory=dict)
    """The records under other pictures."""


def load_run(folder: Path) -> Finished:
    """Read a run folder or a bundle, finished or not.

    Raises DataError if it holds no run or no records or a file is not as conrad-bench writes it, ConfigError for a
    metric that is not installed, StorageError for a damaged records file.
    """
    said, old, made = (folder / name for name in ("context.json", "leaderboard.json", "manifest.json"))
    if not (said.is_file() or old.is_file()):
        raise DataError(f"{folder} holds no run (neither context.json nor leaderboard.json); name a folder of `run`")
    board = read_board(old) if old.is_file() else None
    manifest = load_manifest(made) if made.is_file() else None
    data = manifest.get("data", {}) if manifest else {}
    fingerprints = {task: str(entry.get("fingerprint")) for task, entry in data.items()}
    try:
        if said.is_file():
            content = _json(said, _Said)
            if content["format"] != CONTEXT_FORMAT:
                raise DataError(f"{said} has format {content['format']}, this version reads {CONTEXT_FORMAT}")
            fingerprints, described = content.get("fingerprints", {}), content["context"]
            context = BoardContext.model_validate({**described, "metrics": installed(described["metrics"])})
        else:
            assert board is not None
            context = context_of(board)
    except ConfigError as error:
        raise ConfigError(f"{said if said.is_file() else old}: {error}") from error
    except (ValidationError, KeyError, TypeError):
        raise DataError(f"{said} is not as this version writes it; run the same command again") from None
    format = FORMAT if board is None else int(board["format"])
    records = run_records(folder, context.scorers)
    others = run_counterfactuals(folder, records)
    return Finished(folder, context, records, fingerprints, format, manifest, others)


def load_manifest(path: Path) -> dict[str, Any]:
    """Return the content of a manifest.json. Raises DataError, naming file and key."""
    return _json(path, _Manifest)


class _Said(BaseModel):
    """context.json, as far as it can be checked without its metrics."""

    model_config = ConfigDict(extra="allow")

    format: int
    context: dict[str, Any]
    fingerprints: dict[str, str] = {}


class _Manifest(BaseModel):
    """manifest.json, as far as leaderboards and bundles read it."""

    model_config = ConfigDict(extra="allow")

    versions: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    model: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}
    data: dict[str, dict[str, Any]] = {}
    rollouts: dict[str, Any] = {}
    seconds: dict[str, float] | float = {}


def _json(path: Path, form: type[BaseModel]) -> dict[str, Any]:
    """Return the content of a JSON file. Raises DataError, naming file and key, if it has not the form."""
    again = "; run the same command again to write it anew"
    try:
        content = load_json(path)
        form.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(key) for key in first["loc"]) or "the whole file"
        raise DataError(f"{path}: {where}: {first['msg']}{again}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}){again}") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON{again}") from error
    return dict(content)
