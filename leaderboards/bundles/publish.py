"""A bundle of a run that can be made public although its data cannot: `conrad-bench publish`.

What goes in is on a list; nothing else does:

- records: task, method, claim index, confidence, correctness, status, the qualities and answer probabilities (numbers,
  rounded), example and cluster ids and the rollout's key as HMAC-SHA-256 under a salt that stays in the run folder
  (`publish.salt`), and attributes as `privacy` lets them out. Rows are sorted by hashed id, so that their order says
  nothing of the data's
- leaderboard.json, .md, .csv and .html, computed from these records. Values differ from the run's by the rounding,
  interval ends by resampling noise, since other ids put the clusters into another order
- config.yaml and manifest.json without paths, host names and free texts (`public_texts`)
- bundle.json, written last: the SHA-256 of every other file

Who has the salt and the data can find the examples again; who has the data and can run the model can find some of them
(docs/submit.md); nobody else can.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from conrad_bench.config import load_config
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.board.build import build
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.schema import Board
from conrad_bench.leaderboards.bundles.merge import Finished, by_this_version, load_run
from conrad_bench.leaderboards.bundles.privacy import SUBGROUPS, anonymous, rounded
from conrad_bench.leaderboards.bundles.public_texts import LEFT_OUT, PublicTexts
from conrad_bench.leaderboards.pages.outputs import RENDERED, json_text
from conrad_bench.plan import PHANTOM_DATA, PHANTOM_MODEL
from conrad_bench.records import COLUMNS, OPTIONAL, records_path, write_records
from conrad_bench.storage import file_sha256, storage_errors, write_bytes, write_text

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
"""Format of bundle.json. Format 1 had numbers of full precision, and attributes that were rare one by one only."""
PAGES = ("leaderboard.md", "leaderboard.csv", "leaderboard.html")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[0-9a-f]{7,64}|main")
_VERSION = re.compile(r"[0-9][\w.+!-]{0,39}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}\+?")


def publish(folder: Path, out: Path) -> Path:
    """Write the bundle of a finished run into the new folder `out`, and return it.

    Of a bundle it is the bundle anew: the same records, and the numbers that this version computes from them. Raises
    DataError for a run that is not finished, ConfigError if `out` is not empty.
    """
    run = load_run(folder)
    if run.manifest is None or not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not finished (no manifest.json); the same `run` command finishes it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is not an empty folder; choose another")
    if (folder / "bundle.json").is_file():
        about = {name: (folder / name).read_text(encoding="utf-8") for name in ("config.yaml", "manifest.json")}
        records, context = run.records, by_this_version(run.context)
        format = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["format"]
    else:
        code = _code(_salt(folder))
        attributes = anonymous(run.records)
        records = {key: published_frame(frame, attributes, code) for key, frame in run.records.items()}
        texts = PublicTexts(run.context)
        context, format = _public_context(run, texts), FORMAT
        manifest = public_manifest(run.manifest, texts)
        about = {
            "config.yaml": _public_config(folder / "config.yaml", run.manifest, texts),
            "manifest.json": json.dumps(manifest, indent=1, sort_keys=True) + "\n",
        }
    board = build(records, context)
    for row in board["rows"]:
        for key in ("figure", "before_after", "token_figure"):
            row.pop(key, None)
    Board.model_validate(board)
    for (task, method), frame in records.items():
        write_records(records_path(out, method, task), frame)
    for name, text in about.items():
        write_text(out / name, text)
    for name in PAGES:
        write_text(out / name, RENDERED[name](board))
    write_text(out / "leaderboard.json", json_text(board))
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    content = {"format": format, "files": {name: file_sha256(out / name) for name in names}}
    write_text(out / "bundle.json", json.dumps(content, indent=1, sort_keys=True) + "\n")
    return out


def published_frame(frame: pd.DataFrame, attributes: pd.DataFrame, code: Callable[[str, object], str]) -> pd.DataFrame:
    """Return the records that a bundle holds for those of a run.

    `attributes` says what is published of each example (`privacy.anonymous`), `code(kind, id)` hides an id.
    """
    kept = [*COLUMNS, *(column for column in OPTIONAL if column in frame)]
    public = rounded(frame[kept])
    for column in ("example", "cluster", "response"):
        public[column] = [code(column, value) for value in frame[column]]
    for column in (column for column in SUBGROUPS if column in frame):
        public[column] = attributes.loc[frame["example"], column].to_numpy(object)
    return public.sort_values(["example", "claim"]).reset_index(drop=True)


def public_manifest(manifest: Mapping[str, Any], texts: PublicTexts) -> dict[str, Any]:
    """Return what a bundle says of a run's manifest.json."""
    model = dict(manifest.get("model", {}))
    identity = {key: texts.value(model[key]) for key in ("engine", "dtype", "quantization") if key in model}
    hashed = str(model.get("model", ""))
    identity["model"] = hashed if hashed.startswith("sha256:") or _HUB_ID.fullmatch(hashed) else LEFT_OUT
    if _REVISION.fullmatch(str(model.get("revision", ""))):
        identity["revision"] = model["revision"]
    hardware = manifest.get("hardware", {})
    versions = manifest.get("versions", {})
    return {
        **{key: manifest[key] for key in ("format", "seed") if isinstance(manifest.get(key), int)},
        **{
            key: manifest[key]
            for key, form in (("version", _VERSION), ("commit", _COMMIT))
            if form.fullmatch(str(manifest.get(key)))
        },
        "versions": {name: text for name, text in versions.items() if _VERSION.fullmatch(str(text))},
        "hardware": {key: hardware[key] for key in ("cpus", "cuda", "machine") if key in hardware},
        "model": identity,
        "methods": {name: texts.options(options) for name, options in manifest.get("methods", {}).items()},
        "data": {
            task: {
                "root": PHANTOM_DATA if entry.get("root") == PHANTOM_DATA else LEFT_OUT,
                **{key: entry[key] for key in ("fingerprint", "examples") if key in entry},
                "left_out": texts.reasons(task, entry.get("left_out", {})),
            }
            for task, entry in manifest.get("data", {}).items()
        },
        "rollouts": {kind: n for kind, n in manifest.get("rollouts", {}).items() if isinstance(n, int)},
        "seconds": round(sum(manifest.get("seconds", {}).values()), 3),
    }


def _public_context(run: Finished, texts: PublicTexts) -> BoardContext:
    """Return the run's context, the model without its folder and other texts as far as `texts` knows them."""
    identity = str((run.manifest or {}).get("model", {}).get("model", ""))
    model = run.context.model
    if not model.startswith("phantom-gemma3") and not _HUB_ID.fullmatch(identity):
        digest = identity.removeprefix("sha256:")[:12] if identity.startswith("sha256:") else "unknown"
        model = f"a local checkpoint ({digest})"
    return texts.context(by_this_version(run.context).model_copy(update={"model": model}))


def _public_config(path: Path, manifest: Mapping[str, Any], texts: PublicTexts) -> str:
    """Return config.yaml without data roots, and without texts that are no choice."""
    values = load_config(path).model_dump(mode="json", exclude={"data_roots"})
    identity = str(manifest.get("model", {}).get("model", ""))
    public = {
        **values,
        "model": values["model"] if values["model"] == PHANTOM_MODEL or _HUB_ID.fullmatch(identity) else LEFT_OUT,
        "options": texts.sections(values["options"]),
    }
    return yaml.safe_dump(public, sort_keys=False, width=120)


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
