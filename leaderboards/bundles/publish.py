"""A bundle of a run that can be made public although its data cannot: `conrad-bench publish`.

What goes in is on a list; nothing else does:

- records: task, method, claim index, training seed, confidence, correctness, status, the qualities and answer
  probabilities (numbers, rounded), example and cluster ids and the rollout's key as HMAC-SHA-256 under a salt that
  stays in the run folder (`publish.salt`), and attributes as `privacy` lets them out. Rows are sorted by hashed id, so
  that their order says nothing of the data's
- the records under other pictures (`--counterfactual`) likewise
- leaderboard.json, .md, .csv, .tex, .html and the figures (.svg), computed from these records. Values differ from the
  run's by the rounding, interval ends by resampling noise, since other ids put the clusters into another order
- config.yaml and manifest.json without paths, host names and free texts (`public_texts`)
- on demand the results card (`card`), a record of Every Eval Ever (`every_eval_ever`), and weights (`adapters`)
- bundle.json, written last: the SHA-256 of every other file

Runs that differ in the training seed alone make one bundle, the one that `run --seeds` would have given.

Who has the salt and the data can find the examples again; who has the data and can run the model can find some of them
(docs/submit.md); nobody else can.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.config import RunConfig, load_config
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.board.build import build
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.counterfactuals import counterfactuals
from conrad_bench.leaderboards.board.schema import Board
from conrad_bench.leaderboards.bundles.about import what_to_say
from conrad_bench.leaderboards.bundles.adapters import adapter_files
from conrad_bench.leaderboards.bundles.card import CARD, card_text
from conrad_bench.leaderboards.bundles.every_eval_ever import EEE, eee_stamp, eee_text
from conrad_bench.leaderboards.bundles.finished import load_manifest, load_run
from conrad_bench.leaderboards.bundles.merge import by_this_version, differ_in_seed, merge, of_seeds
from conrad_bench.leaderboards.bundles.privacy import SUBGROUPS, anonymous, rounded
from conrad_bench.leaderboards.bundles.public_texts import (
    PublicTexts,
    config_text,
    manifest_text,
    named,
    public_config,
    public_context,
    public_manifest,
)
from conrad_bench.leaderboards.pages.outputs import RENDERED, figure_files, json_text
from conrad_bench.records import COLUMNS, OPTIONAL, counterfactual_path, judge_columns, records_path, write_records
from conrad_bench.seeds import with_seeds
from conrad_bench.storage import file_sha256, load_json, storage_errors, write_bytes, write_text

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
"""Format of bundle.json. Format 1 had numbers of full precision, and attributes that were rare one by one only."""
FIGURE = ".svg"
"""The form of figures in bundles; leaderboard.json names them so."""
DERIVED = (CARD, EEE)
"""What a bundle may hold besides that is made of its leaderboard and manifest."""
OF_A_RUN = ("seed", "version", "commit", "versions", "hardware", "rollouts", "seconds")
"""What manifest.json says of each run where a bundle was made of several."""


def publish(
    folders: Sequence[Path],
    out: Path,
    derived: Collection[str] = (),
    adapters: bool = False,
    acknowledged: Collection[str] = (),
    model_name: str | None = None,
) -> Path:
    """Write the bundle of a finished run, or of several that differ in the seed alone, into the new folder `out`.

    Of a bundle it is the bundle anew: the same records, and the numbers that this version computes from them. `derived`
    names files of `DERIVED` to write besides, `adapters` asks for the weights that methods learned, on data whose
    licences are `acknowledged` by name; `model_name` is what a local checkpoint is called. Returns `out`. Raises
    DataError for a run that is not finished and for runs that make no bundle together, ConfigError if `out` is not
    empty, a licence is not acknowledged or a name does not fit.
    """
    runs = [load_run(folder) for folder in folders]
    for run in runs:
        if not (run.folder / "config.yaml").is_file():
            raise DataError(
                f"{run.folder} is of `evaluate`, which knows no model and no data: bundles are made of runs. Its "
                "leaderboard.html is one file that can be shown as it is"
            )
        if run.manifest is None:
            raise DataError(f"{run.folder} is not finished (no manifest.json); the same `run` command finishes it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is not an empty folder; choose another")
    formats = {_bundle_format(run.folder) for run in runs}
    if adapters and (len(runs) > 1 or formats != {None}):
        raise ConfigError("--adapter: name one run folder; bundles have no weights, and several runs have several")
    if len(formats) > 1:
        raise DataError("these are runs and bundles, or bundles of different formats; name some of one kind")
    format = formats.pop()
    if len(runs) > 1:
        merge(runs)  # raises for what does not belong together
        if not differ_in_seed(runs):
            raise DataError(
                "only runs that differ in the seed alone make one bundle; publish others one by one, under one "
                "publish.salt (copy that of the first run into the other folders), and `conrad-bench leaderboard "
                "BUNDLE BUNDLE --out DIR` puts them on one page"
            )
    if len(runs) > 1 and any(run.counterfactuals for run in runs):
        raise DataError(
            "runs with other pictures (--counterfactual) are published one by one; for several training seeds in one "
            "bundle make one run with --seeds"
        )
    configs = [load_config(run.folder / "config.yaml") for run in runs]
    manifests = [dict(run.manifest or {}) for run in runs]
    if model_name is not None:
        manifests = [named(of, config, model_name) for of, config in zip(manifests, configs, strict=True)]
    if format is None:
        texts = PublicTexts(runs[0].context)
        code = _code(_salt(folders[0]))
        contexts = [public_context(run.context, m, texts) for run, m in zip(runs, manifests, strict=True)]
        configs = [public_config(config, m, texts) for config, m in zip(configs, manifests, strict=True)]
        manifests = [public_manifest(manifest, texts) for manifest in manifests]
    else:
        contexts = [run.context for run in runs]
    context, records, others = contexts[0], runs[0].records, runs[0].counterfactuals
    config, manifest = configs[0], manifests[0]
    if len(runs) > 1:
        of = [
            replace(run, context=c.model_copy(update={key: m.get(key, "") for key in ("version", "commit")}))
            for run, c, m in zip(runs, contexts, manifests, strict=True)
        ]
        context, records = of_seeds(of, [f"seed {run.context.seed}" for run in runs])
        config, manifest = _of_seeds(context, configs, manifests)
    if format is None:
        attributes = anonymous(records)
        records = {key: published_frame(frame, attributes, code) for key, frame in records.items()}
        others = {key: published_frame(frame, attributes, code) for key, frame in others.items()}
    for name, data in (adapter_files(folders[0], manifest, acknowledged) if adapters else {}).items():
        write_bytes(out / name, data)
    for (task, method), frame in records.items():
        write_records(records_path(out, method, task), frame)
    for (task, method, *how), frame in others.items():
        write_records(counterfactual_path(out, method, task, *how), frame)
    write_text(out / "config.yaml", config_text(config))
    write_text(out / "manifest.json", manifest_text(manifest))
    said = by_this_version(what_to_say(out, context)[0])
    board = build(records, said) | counterfactuals(records, others, said)
    write_board(out, board, FORMAT if format is None else format, derived)
    return out


def write_board(folder: Path, board: dict[str, Any], format: int, derived: Collection[str]) -> None:
    """Write what is computed from the records of a bundle, some of `DERIVED` among it, and behind it bundle.json."""
    Board.model_validate(board)
    for name, text in (page_texts(board) | derived_texts(folder, board, derived)).items():
        write_text(folder / name, text)
    for path, files in figure_files(board, [FIGURE]):
        write_bytes(folder / path, files[FIGURE])
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {"format": format, "files": {n: file_sha256(folder / n) for n in names if n != "bundle.json"}}
    write_text(folder / "bundle.json", manifest_text(content))


def page_texts(board: dict[str, Any]) -> dict[str, str]:
    """Return the texts that a bundle holds of its leaderboard, by name."""
    return {**{name: render(board) for name, render in RENDERED.items()}, "leaderboard.json": json_text(board)}


def derived_texts(folder: Path, board: dict[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return the texts of some of `DERIVED`, by name. Raises DataError for a manifest or record that cannot be read."""
    manifest = load_manifest(folder / "manifest.json")
    made = {CARD: lambda: card_text(board, manifest), EEE: lambda: eee_text(board, manifest, eee_stamp(folder))}
    return {name: made[name]() for name in names}


def _bundle_format(folder: Path) -> int | None:
    """Return the format of a bundle; None of a run."""
    path = folder / "bundle.json"
    try:
        return int(load_json(path)["format"]) if path.is_file() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as the list of a bundle's files; `conrad-bench verify` it") from error


def _of_seeds(
    context: BoardContext, configs: Sequence[RunConfig], manifests: Sequence[Mapping[str, Any]]
) -> tuple[RunConfig, dict[str, Any]]:
    """Return configuration and manifest of the run that several seeds would have made, with what each run was."""
    found: dict[str, list[int]] = {}
    for method, seed in context.seeds.values():
        found.setdefault(method, []).append(seed)
    seeds = next(iter(found.values()), [])
    if any(each != seeds for each in found.values()):
        raise DataError("the methods of these runs have different seeds; make one run of them with --seeds")
    config = with_seeds(configs[0].model_copy(update={"seeds": seeds}), found)
    methods = {}
    for name in config.methods:
        method, seed = context.seeds.get(name, (name, seeds[0] if seeds else 0))
        methods[name] = manifests[seeds.index(seed) if seeds else 0].get("methods", {}).get(method, {})
    asked = Counter[str]()
    for manifest in manifests:
        asked.update(manifest.get("rollouts", {}))
    manifest = {
        **manifests[0],
        "methods": methods,
        "rollouts": dict(asked),
        "seconds": round(sum(manifest.get("seconds", 0.0) for manifest in manifests), 3),
        "runs": [{key: manifest[key] for key in OF_A_RUN if key in manifest} for manifest in manifests],
    }
    return config, manifest


def published_frame(frame: pd.DataFrame, attributes: pd.DataFrame, code: Callable[[str, object], str]) -> pd.DataFrame:
    """Return the records that a bundle holds for those of a run.

    `attributes` says what is published of each example (`privacy.anonymous`), `code(kind, id)` hides an id.
    """
    kept = [*COLUMNS, *(column for column in OPTIONAL if column in frame), *judge_columns(frame)]
    public = rounded(frame[kept])
    for column in ("example", "cluster", "response"):
        public[column] = [code(column, value) for value in frame[column]]
    for column in (column for column in SUBGROUPS if column in frame):
        public[column] = attributes.loc[frame["example"], column].to_numpy(object)
    return public.sort_values(["example", "claim"]).reset_index(drop=True)


def _salt(folder: Path) -> bytes:
    """Return the run's salt, drawn and kept in the run folder on first use."""
    path = folder / "publish.salt"
    if not path.is_file():
        write_bytes(path, secrets.token_hex(32).encode() + b"\n")
        with storage_errors(path):
            os.chmod(path, 0o600)
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} holds no salt in hex digits; remove it, and ids are hashed under a new one") from error
    if len(salt) < 16:
        raise DataError(f"{path} holds fewer than 16 bytes; remove it, and ids are hashed under a new one")
    return salt


def _code(salt: bytes) -> Callable[[str, object], str]:
    def code(kind: str, value: object) -> str:
        return hmac.new(salt, f"{kind}:{value}".encode(), hashlib.sha256).hexdigest()[:32]

    return code
