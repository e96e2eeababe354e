"""The configuration of a run: defaults, below a YAML file, below the command line.

A config file holds the fields of `RunConfig`:

    methods: [verbalized, probe]
    tasks: [mimic_report]
    data_roots:
      mimic_report: /data/mimic-cxr
    options:
      probe: {layer: -2}
      bootstrap: {replicates: 2000}
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from conrad_bench.errors import ConfigError, DataError, PluginError
from conrad_bench.registry import KINDS, MISSING, Registry, option_problems, unknown, validated
from conrad_bench.tasks.phantom import STUDIES
from conrad_bench.trainers.recalibrators import KINDS as KINDS_OF_RECALIBRATORS

Options = dict[str, dict[str, Any]]
"""Section -> option -> value."""


class PhantomOptions(BaseModel):
    """Section `phantom`: the phantom data that stands in where no data root was configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(default=STUDIES, ge=1)
    """Number of studies to write."""
    seed: int = Field(default=0, ge=0)
    """Seed of the phantom data (not of the run)."""


class BootstrapOptions(BaseModel):
    """Section `bootstrap`: the intervals of the leaderboard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicates: int = Field(default=10_000, ge=1)
    unit: Literal["cluster", "example"] = "cluster"
    """What is drawn: patients (or images), or single examples as in the paper's tables."""
    interval: Literal["percentile", "basic", "bca"] = "percentile"
    """Kind of the intervals. "bca" corrects percentiles for bias and skewness where a metric is smooth enough."""


SECTIONS: dict[str, type[BaseModel]] = {"phantom": PhantomOptions, "bootstrap": BootstrapOptions}
"""The sections of `options` that belong to the harness; the others are names of plugins."""


class RunConfig(BaseModel):
    """What a run does. The resolved form is the run folder's config.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: list[str] = Field(min_length=1)
    """Names of the confidence methods; "verbalized+isotonic" is a method under a recalibrator."""
    tasks: list[str] = Field(min_length=1)
    """Names of the tasks."""
    model: str | None = None
    """Local folder or hub id. None: the embedded phantom model if no data root is configured, else
    google/medgemma-4b-it."""
    engine: str = "transformers"
    """Name of the engine that runs the model."""
    data_roots: dict[str, Path] = {}
    """Task -> folder with its data in the official layout (absolute)."""
    limit: int | None = Field(default=None, ge=1)
    """Number of test examples per task (None: all)."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is drawn in the run: samples, fits, the bootstrap."""
    options: Options = {}
    """Options by section: the name of a method, task, scorer or engine, or one of `SECTIONS`."""

    @field_validator("methods", "tasks")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return names

    @field_validator("data_roots")
    @classmethod
    def _absolute(cls, roots: dict[str, Path]) -> dict[str, Path]:
        return {task: Path(os.path.expanduser(root)).absolute() for task, root in roots.items()}

    def section(self, name: str) -> dict[str, Any]:
        """Return the options that were set in a section (empty if none were)."""
        return self.options.get(name, {})

    @property
    def phantom(self) -> PhantomOptions:
        """The section `phantom`. Raises ConfigError for an option that does not fit."""
        return validated(PhantomOptions, "phantom", self.section("phantom"))

    @property
    def bootstrap(self) -> BootstrapOptions:
        """The section `bootstrap`. Raises ConfigError for an option that does not fit."""
        return validated(BootstrapOptions, "bootstrap", self.section("bootstrap"))


def load_config(
    file: Path | None = None, overrides: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> RunConfig:
    """Return the configuration: defaults, below the YAML file, below `overrides` (fields of RunConfig).

    `options` and `data_roots` are merged entry by entry; other fields are replaced. Relative data roots in a file are
    relative to the file's folder. With a registry, every name and option is checked against the plugins too. Raises
    ConfigError with one line for each problem, naming file and line or the command-line option, and the nearest name.
    """
    places = _Places(file, {}, overrides or {})
    values = _read(file, places) if file is not None else {}
    try:
        config = RunConfig.model_validate(_merge(values, places.overrides))
    except ValidationError as error:
        raise ConfigError("\n".join(_structure_problems(error, places))) from None
    if registry is not None:
        problems = [*_name_problems(config, registry, places), *_section_problems(config, registry, places)]
        if problems:
            raise ConfigError("\n".join(problems))
    return config


def parse_options(settings: Iterable[str]) -> Options:
    """Read `section.option=value` settings; the value is YAML without mappings. Raises ConfigError."""
    options: Options = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, option = path.strip().partition(".")
        if not (equals and dot and section and option):
            raise ConfigError(f"-o {setting}: should have the form section.option=value, such as probe.layer=-2")
        try:
            parsed = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise ConfigError(f"-o {path}: cannot read the value {value!r}; put quotes around text") from None
        if isinstance(parsed, Mapping):
            raise ConfigError(f"-o {path}: {value!r} is a YAML mapping; put quotes around text with a colon in it")
        if not value.strip():
            raise ConfigError(f"-o {path}: has no value; write null for none, '\"\"' for empty text")
        options.setdefault(section, {})[option] = parsed
    return options


def parse_data_roots(settings: Iterable[str]) -> dict[str, str]:
    """Read `task=folder` settings. Raises ConfigError."""
    roots = {}
    for setting in settings:
        task, equals, folder = setting.partition("=")
        if not (equals and task and folder):
            raise ConfigError(f"--data-root {setting}: should have the form TASK=DIR, such as mimic_report=/data/mimic")
        roots[task] = folder
    return roots


def resolve_data_root(task: str, root_variable: str, config: RunConfig) -> Path | None:
    """Return a task's data root: configured, else from the environment variable, else None.

    Raises DataError if a root was given and is not a folder: real data is used or is an error.
    """
    if task in config.data_roots:
        root, source = config.data_roots[task], "from --data-root or the config file"
    elif os.environ.get(root_variable):
        root, source = Path(os.path.expanduser(os.environ[root_variable])).absolute(), f"from ${root_variable}"
    else:
        return None
    if not root.is_dir():
        raise DataError(f"data root of task {task!r}: {root} ({source}) is not a folder")
    return root


def with_phantom_profile(config: RunConfig, registry: Registry) -> RunConfig:
    """Return the configuration with the embedded phantom model's own defaults below the options that were set.

    A default that contradicts what was set is left out: `conrad.entropy` has no place beside `conrad.mode=joint`.
    """
    profile = yaml.safe_load((files("conrad_bench") / "phantom.yaml").read_text(encoding="utf-8"))
    defaults = {
        section: {o: v for o, v in options.items() if _allowed(section, {o: v, **config.section(section)}, registry)}
        for section, options in profile["options"].items()
    }
    return config.model_copy(update={"options": _merge(defaults, config.options)})


def _allowed(section: str, options: Mapping[str, Any], registry: Registry) -> bool:
    """Tell whether the plugins of a section take these options together."""
    for kind in registry.kinds(section):
        plugin = registry.get(kind, section)
        try:
            plugin.model_validate(options)
        except ValidationError as error:
            if any(text != MISSING for _, text in option_problems(plugin, error)):
                return False
    return True


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML that `load_config` reads back; the same configuration gives the same text."""
    values = config.model_dump()
    values["data_roots"] = {task: str(root) for task, root in sorted(config.data_roots.items())}
    values["options"] = {name: dict(sorted(options.items())) for name, options in sorted(config.options.items())}
    return yaml.safe_dump(values, sort_keys=False, width=120)


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """Return the keys whose values differ, each with both values: "options.probe.layer: -1 -> -2".

    Where a training's curves go (`report_to`) does not count: it changes nothing of what is computed.
    """
    old, new = dict(_flat(a.model_dump())), dict(_flat(b.model_dump()))
    absent = object()
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key, absent) != new.get(key, absent))
    keys = [key for key in keys if not key.endswith(".report_to")]
    return [f"{key}: {_shown(old, key)} -> {_shown(new, key)}" for key in keys]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "not set"


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings, entry by entry where both hold a mapping."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


_Keys = tuple[str, ...]


class _Places:
    """Where each value was set, for error messages."""

    def __init__(self, file: Path | None, lines: dict[_Keys, int], overrides: Mapping[str, Any]) -> None:
        self.file, self.lines, self.overrides = file, lines, overrides

    def name(self, path: _Keys) -> str:
        """Name a command-line option, or file, line and key."""
        value: Any = self.overrides
        for key in path:
            if not isinstance(value, Mapping):
                break
            if key not in value:
                return self._in_file(path)
            value = value[key]
        if path[0] == "options":
            return f"-o {'.'.join(path[1:])}"
        return f"--data-root {path[-1]}" if path[0] == "data_roots" else f"--{path[0]}"

    def _in_file(self, path: _Keys) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.file}, line {self.lines[path[:length]]}: {'.'.join(path)}"
        return ".".join(path)


def _structure_problems(error: ValidationError, places: _Places) -> Iterator[str]:
    for path, text in option_problems(RunConfig, error, "key"):
        if text == MISSING:
            yield f"no {path[0]} given: name them with --{path[0]} A,B or in a config file as `{path[0]}: [A, B]`"
        else:
            yield f"{places.name(path)}: {text}"


def _name_problems(config: RunConfig, registry: Registry, places: _Places) -> Iterator[str]:
    """Check the names of methods, tasks and engine against the plugins."""
    for index, name in enumerate(config.methods):
        method, plus, recalibrator = name.partition("+")
        if method not in registry.names("methods"):
            yield f"{places.name(('methods', str(index)))}: {unknown('method', method, registry.names('methods'))}"
        if plus and recalibrator not in KINDS_OF_RECALIBRATORS:
            problem = unknown("recalibrator", recalibrator, KINDS_OF_RECALIBRATORS)
            yield f"{places.name(('methods', str(index)))}: {problem}"
    tasks = registry.names("tasks")
    named = [(("tasks", str(index)), name) for index, name in enumerate(config.tasks)]
    for path, name in [*named, *((("data_roots", name), name) for name in config.data_roots)]:
        if name not in tasks:
            yield f"{places.name(path)}: {unknown('task', name, tasks)}"
    if config.engine not in registry.names("engines"):
        yield f"{places.name(('engine',))}: {unknown('engine', config.engine, registry.names('engines'))}"


def _section_problems(config: RunConfig, registry: Registry, places: _Places) -> Iterator[str]:
    """Check the sections and their options against the plugins that they belong to."""
    names = sorted({*SECTIONS, *(name for kind in KINDS for name in registry.names(kind))})
    for section, options in config.options.items():
        if section not in SECTIONS and not registry.kinds(section):
            yield f"{places.name(('options', section))}: {unknown('section', section, names)}"
            continue
        models: list[type[BaseModel]] = [SECTIONS[section]] if section in SECTIONS else []
        for kind in registry.kinds(section):
            try:
                models.append(registry.get(kind, section))
            except PluginError:
                continue  # an error only for a run that asks for the plugin
        for model in models:
            try:
                model.model_validate(options)
            except ValidationError as error:
                for path, text in option_problems(model, error):
                    if text != MISSING:  # the harness supplies an engine's model
                        yield f"{places.name(('options', section, *path))}: {text}"


def _read(file: Path, places: _Places) -> dict[str, Any]:
    """Read a config file, and note the line of every key. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        _note_lines(node, (), file, places.lines, ())
        values = loader.construct_document(node)
    except OSError as error:
        raise ConfigError(f"config file {file}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ConfigError(f"{file}{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"config file {file}: not YAML in UTF-8") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file}: should hold `key: value` lines, such as `methods: [verbalized]`")
    roots = values.get("data_roots")
    if isinstance(roots, dict):
        folder = file.absolute().parent
        values["data_roots"] = {
            task: folder / os.path.expanduser(root) if isinstance(root, str) else root for task, root in roots.items()
        }
    return values


def _note_lines(node: yaml.Node, path: _Keys, file: Path, lines: dict[_Keys, int], within: Sequence[yaml.Node]) -> None:
    """Note the line of every key below `node`; refuse what YAML readers pass over in silence."""
    if any(node is outer for outer in within):
        raise ConfigError(f"{file}, line {node.start_mark.line + 1}: the alias contains itself")
    within = (*within, node)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, str(index))] = item.start_mark.line + 1
            _note_lines(item, (*path, str(index)), file, lines, within)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{file}, line {line}: the key should be text; put quotes around it")
            if key.value in seen:
                raise ConfigError(f"{file}, line {line}: the key {key.value!r} stands here a second time")
            seen.add(key.value)
            lines[(*path, key.value)] = line
            _note_lines(value, (*path, key.value), file, lines, within)
