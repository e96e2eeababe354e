"""Which texts of a run a bundle may hold: names, and what is known to come from installed code.

Anything else was typed by somebody, or comes from a file that nobody else can read, and could be a path or a name. The
same rule holds for values, for the keys of options that are mappings, and for the one-line summaries of plugins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel

from conrad_bench.config import SECTIONS
from conrad_bench.errors import ConfigError, UserError
from conrad_bench.plan import PHANTOM_DATA, PHANTOM_MODEL
from conrad_bench.provenance import PACKAGES
from conrad_bench.registry import BUILT_IN, KINDS, Kind, Registry
from conrad_bench.types import Split
from conrad_bench.variants import ENSEMBLE, ENSEMBLE_SUMMARY, choices, learner_name, parts_of, plugin_name

if TYPE_CHECKING:
    from conrad_bench.config import RunConfig
    from conrad_bench.leaderboards.board.context import BoardContext

LEFT_OUT = "(left out)"
"""Stands where a text was."""
NAME_LENGTH = 80
"""Characters of the name that a local checkpoint is published under."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[0-9a-f]{7,64}|main")
_VERSION = re.compile(r"[0-9][\w.+!-]{0,39}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}\+?")
_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_HARDWARE = {
    "cpus": re.compile(r"\d{1,5}"),
    "cuda": re.compile(r"\[('[\w .,()/+-]{1,60}'(, )?)*\]"),
    "machine": re.compile(r"\w{1,20}"),
}
"""What is said of a machine, each value as Python shows it."""
_PACKAGES = {"python", *PACKAGES}
_SPLITS = get_args(Split)
_ROLLOUTS = ("generate", "score", "hidden", "reread")
_PRIVATE = re.compile(r"[/\\~]\w|\w[/\\]|://|\w@\w|\d{5,}|\d{4}-\d\d|\d\.\d+\.\d+\.\d")
"""What lines of plugins from elsewhere must not hold: paths, addresses, long numbers, dates."""


class PublicTexts:
    """Decides about the texts of one run."""

    def __init__(self, context: BoardContext) -> None:
        self._registry = Registry()
        judging = (*context.scorers.values(), *context.quality.values(), *context.fitted_by.values())
        names = (*context.methods, *context.scorers, *context.variants, *(scorer for scorer, _ in judging))
        made_of = (*context.methods, *context.seeds)
        names += (*context.seeds, *(part for name in made_of for part in (learner_name(name), *parts_of(name))))
        self._names = {*names, *(name for kind in KINDS for name in self._registry.names(kind)), PHANTOM_MODEL}
        self._choices: set[str] = set()
        self._fields = {"methods"}  # of an ensemble, which is no plugin
        for kind in KINDS:
            for cls in self._registry.available(kind).values():
                for model in _models(cls):
                    self._fields |= set(model.model_fields)
                    for field in model.model_fields.values():
                        self._choices |= set(choices(field.annotation))

    def value(self, value: Any) -> Any:
        """Return a JSON-like value whose texts and keys are known ones; numbers stay."""
        if isinstance(value, Mapping):
            shown: dict[str, Any] = {}
            for key, item in sorted(value.items()):
                known = key in self._fields or key in self._names or key in self._choices
                shown[key if known else f"{LEFT_OUT} {1 + len(shown)}"] = self.value(item)
            return shown
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return LEFT_OUT if isinstance(value, str) and value not in self._names | self._choices else value

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a plugin's options; their own names are those of its class, which takes no others."""
        return {name: self.value(item) for name, item in sorted(options.items()) if name.isidentifier()}

    def sections(self, sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the sections of a configuration whose names are known."""
        known = {*SECTIONS, *self._names}
        return {name: self.options(options) for name, options in sorted(sections.items()) if name in known}

    def reasons(self, task: str, counted: Mapping[str, int]) -> dict[str, int]:
        """Return how many examples of a task were left out, by reasons that are known."""
        cls, shown = self._class("tasks", task), dict[str, int]()
        for reason, number in counted.items():
            said = reason if cls is not None and self._allowed("tasks", task, reason) else LEFT_OUT
            shown[said] = shown.get(said, 0) + number
        return shown

    def context(self, context: BoardContext) -> BoardContext:
        """Return a context whose lines are known."""
        sources = {cls.summary.partition(":")[0] for cls in self._registry.available("tasks").values()}
        data = [each if each in {*sources, PHANTOM_DATA} else LEFT_OUT for each in context.data.split(", ")]
        return context.model_copy(
            update={
                "data": ", ".join(dict.fromkeys(data)),
                "methods": {name: self._line(name, text) for name, text in context.methods.items()},
                "variants": {
                    name: text if self._class("tasks", name) or self._class("scorers", name) else LEFT_OUT
                    for name, text in context.variants.items()
                },
                "scorers": {task: self._label(*scorer) for task, scorer in context.scorers.items()},
                "quality": {task: self._label(*scorer) for task, scorer in context.quality.items()},
                "fitted_by": {task: self._label(*scorer) for task, scorer in context.fitted_by.items()},
                "left_out": {task: self.reasons(task, counted) for task, counted in context.left_out.items()},
                "notes": [LEFT_OUT if _PRIVATE.search(note) else note for note in context.notes],
            }
        )

    def _line(self, method: str, text: str) -> str:
        """Return the line about a method: its summary, and what the harness says of a variant behind it."""
        learner = learner_name(method)
        if learner.startswith(ENSEMBLE):
            return text if text.startswith(ENSEMBLE_SUMMARY) else LEFT_OUT
        cls = self._class("methods", learner)
        if cls is None or not text.startswith(cls.summary) or not self._allowed("methods", learner, cls.summary):
            return LEFT_OUT
        return text

    def _label(self, scorer: str, label: str) -> tuple[str, str]:
        known = self._class("scorers", scorer) is not None and self._allowed("scorers", scorer, label)
        return scorer, label if known else scorer

    def _allowed(self, kind: Kind, name: str, line: str) -> bool:
        """Tell whether a line of a plugin's code may be published: of ours any, of others one without private marks."""
        family = plugin_name(name).partition(":")[0]
        return self._registry.origin(kind, family) == BUILT_IN or not _PRIVATE.search(line)

    def _class(self, kind: Kind, name: str) -> type[Any] | None:
        """Return the class of an installed plugin, None of one that was given as a file, or is gone."""
        try:
            cls: type[Any] = self._registry.get(kind, name)
        except UserError:
            return None
        return cls


def config_text(config: RunConfig) -> str:
    """Return the text of a bundle's config.yaml."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude={"data_roots"}), sort_keys=False, width=120)


def manifest_text(content: Mapping[str, Any]) -> str:
    """Return the text of a bundle's manifest.json and bundle.json."""
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def is_version(text: str) -> bool:
    """Tell whether a text is a version's number."""
    return _VERSION.fullmatch(text) is not None


def is_commit(text: str) -> bool:
    """Tell whether a text is a commit, changed sources ("+") included."""
    return _COMMIT.fullmatch(text) is not None


def public_manifest(manifest: Mapping[str, Any], texts: PublicTexts) -> dict[str, Any]:
    """Return what a bundle says of a run's manifest.json; of a bundle's own, the same again."""
    model = dict(manifest.get("model", {}))
    identity = {key: texts.value(model[key]) for key in ("engine", "dtype", "quantization") if key in model}
    hashed = str(model.get("model", ""))
    identity["model"] = hashed if hashed.startswith("sha256:") or _HUB_ID.fullmatch(hashed) else LEFT_OUT
    if _given_name(manifest):
        identity["name"] = model["name"]
    if _REVISION.fullmatch(str(model.get("revision", ""))):
        identity["revision"] = model["revision"]
    return {
        **{key: manifest[key] for key in ("format",) if isinstance(manifest.get(key), int)},
        **_of_a_run(manifest),
        **({"fitted_by": texts.value(manifest["fitted_by"])} if "fitted_by" in manifest else {}),
        "model": identity,
        "methods": {name: texts.options(options) for name, options in manifest.get("methods", {}).items()},
        "data": {
            task: {
                "root": PHANTOM_DATA if entry.get("root") == PHANTOM_DATA else LEFT_OUT,
                **{key: entry[key] for key in ("fingerprint",) if _DIGEST.fullmatch(str(entry.get(key)))},
                **{key: _numbers(entry[key], _SPLITS) for key in ("examples",) if key in entry},
                "left_out": texts.reasons(task, entry.get("left_out", {})),
            }
            for task, entry in manifest.get("data", {}).items()
        },
        **({"runs": [_of_a_run(run) for run in manifest["runs"]]} if "runs" in manifest else {}),
    }


def _of_a_run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what manifest.json says of how a run was made."""
    hardware, versions = manifest.get("hardware", {}), manifest.get("versions", {})
    seconds = manifest.get("seconds", {})
    return {
        **{key: manifest[key] for key in ("seed",) if isinstance(manifest.get(key), int)},
        **{
            key: manifest[key]
            for key, form in (("version", _VERSION), ("commit", _COMMIT))
            if form.fullmatch(str(manifest.get(key)))
        },
        "versions": {
            name: text for name, text in versions.items() if name in _PACKAGES and _VERSION.fullmatch(str(text))
        },
        "hardware": {
            key: hardware[key] for key, form in _HARDWARE.items() if form.fullmatch(str(hardware.get(key, "")))
        },
        "rollouts": _numbers(manifest.get("rollouts", {}), _ROLLOUTS),
        "seconds": round(sum(seconds.values()), 3) if isinstance(seconds, Mapping) else seconds,
    }


def _numbers(counted: Mapping[str, Any], names: Collection[str]) -> dict[str, int]:
    return {name: n for name, n in counted.items() if name in names and type(n) is int}


def public_context(context: BoardContext, manifest: Mapping[str, Any], texts: PublicTexts) -> BoardContext:
    """Return a run's context, the model without its folder and other texts as far as `texts` knows them."""
    identity = str(manifest.get("model", {}).get("model", ""))
    model = context.model
    if not model.startswith("phantom-gemma3") and not _HUB_ID.fullmatch(identity):
        digest = identity.removeprefix("sha256:")[:12] if identity.startswith("sha256:") else "unknown"
        model = f"{_given_name(manifest) or 'a local checkpoint'} ({digest})"
    return texts.context(context.model_copy(update={"model": model}))


def _given_name(manifest: Mapping[str, Any]) -> str:
    """Return what `publish --model-name` called a local checkpoint; an empty text where it has no such name."""
    name = str(manifest.get("model", {}).get("name", ""))
    return "" if _PRIVATE.search(name) or len(name) > NAME_LENGTH else name


def named(manifest: Mapping[str, Any], config: RunConfig, name: str) -> dict[str, Any]:
    """Return a manifest that calls its model, a local checkpoint, by a name.

    Raises ConfigError for a model that has a public name, and a name that is none or may hold something private.
    """
    model = dict(manifest.get("model", {}))
    if config.model == PHANTOM_MODEL or _HUB_ID.fullmatch(str(model.get("model", ""))):
        raise ConfigError("--model-name is for a checkpoint in a folder; this model has a name that everybody knows")
    if not name.strip() or not name.isprintable() or len(name) > NAME_LENGTH or _PRIVATE.search(name):
        raise ConfigError(
            f"--model-name: give a line of at most {NAME_LENGTH} characters, without paths, addresses, dates and long "
            "numbers; it is published as it is"
        )
    return {**manifest, "model": {**model, "name": name.strip()}}


def public_config(config: RunConfig, manifest: Mapping[str, Any], texts: PublicTexts) -> RunConfig:
    """Return a configuration without data roots, and without texts that are no choice."""
    identity = str(manifest.get("model", {}).get("model", ""))
    public = config.model == PHANTOM_MODEL or _HUB_ID.fullmatch(identity)
    return config.model_copy(
        update={
            "model": config.model if public else LEFT_OUT,
            "data_roots": {},
            "options": texts.sections(config.options),
        }
    )


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield a model, and those within the annotations of its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models(field.annotation)
    for argument in get_args(annotation):
        yield from _models(argument)
