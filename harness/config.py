"""The configuration of a run: defaults, below a YAML file, below the command line.

A config file holds the fields of `RunConfig`:

    methods: [verbalized, probe]
    tasks: [mimic_report]
    data_roots:
      mimic_report: /data/mimic-cxr
    options:
      probe: {layer: -2}
      bootstrap: {replicates: 2000}

A variant, such as the method `probe.l10`, has the options of the section `probe` below those of `probe.l10`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from conrad_bench.compositions import composition_problems
from conrad_bench.config_file import Places, read_file, read_value
from conrad_bench.errors import ConfigError, DataError, PluginError
from conrad_bench.leaderboards.inference.bootstrap import MOST_REPLICATES
from conrad_bench.registry import KINDS, MISSING, Kind, Registry, option_problems, unknown, validated
from conrad_bench.tasks.phantom import MOST_STUDIES, STUDIES
from conrad_bench.text import without_keys
from conrad_bench.variants import NAMING, judge_names, label_problem, learner_name, parts_of, plugin_name

MOST_SEED = 2**63 - 1
"""What all generators of random numbers take."""

Options = dict[str, dict[str, Any]]
"""Section -> option -> value."""


class PhantomOptions(BaseModel):
    """Section `phantom`: the phantom data that stands in where no data root was configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(default=STUDIES, ge=1, le=MOST_STUDIES)
    """Number of studies to write."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    """Seed of the phantom data (not of the run)."""


class BootstrapOptions(BaseModel):
    """Section `bootstrap`: the intervals of the leaderboard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicates: int = Field(default=10_000, ge=1, le=MOST_REPLICATES)
    """Number of bootstrap resamples."""
    unit: Literal["cluster", "example"] = "cluster"
    """What is drawn: patients (or images), or single examples as in the paper's tables."""
    interval: Literal["percentile", "basic", "bca"] = "percentile"
    """Kind of the intervals. "bca" corrects percentiles for bias and skewness where a metric is smooth enough."""


class NoiseOptions(BaseModel):
    """Section `counterfactual`: the pictures of `--counterfactual`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise: list[Annotated[float, Field(gt=0, le=10)]] = Field(default=[0.1, 0.3, 1.0], min_length=1)
    """Deviations of the noise of `noised`, in units of the grey range; each is a replacement of its own."""


SECTIONS: dict[str, type[BaseModel]] = {
    "phantom": PhantomOptions,
    "bootstrap": BootstrapOptions,
    "counterfactual": NoiseOptions,
}
"""The sections of `options` that belong to the harness; the others are names of plugins."""


class RunConfig(BaseModel):
    """What a run does. The resolved form is the run folder's config.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: list[str] = Field(min_length=1)
    """Names of the confidence methods; "verbalized+isotonic" is a method under a recalibrator, "probe.l10" a variant of
    the method "probe"."""
    tasks: list[str] = Field(min_length=1)
    """Names of the tasks; "mimic_report.frontal" is a variant of the task "mimic_report"."""
    model: str | None = None
    """Local folder or hub id. None: the embedded phantom model if no data root is configured, else
    google/medgemma-4b-it."""
    engine: str = "transformers"
    """Name of the engine that runs the model."""
    data_roots: dict[str, Path] = {}
    """Task -> folder with its data in the official layout (absolute); a variant has its task's unless it is named."""
    limit: int | None = Field(default=None, ge=1)
    """Number of test examples per task (None: all)."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    """Seed of what is drawn in the run: samples, fits, the bootstrap."""
    seeds: list[Annotated[int, Field(ge=0)]] = []
    """Training seeds: every method that learns or samples is run once with each of them, and they make one row; empty:
    with `seed` alone."""
    counterfactual: list[Literal["blank", "swapped", "noised"]] = Field(default=[], exclude_if=lambda kinds: not kinds)
    """Other pictures that every method estimates the test examples with again: grey ones, another patient's, noised
    ones. Empty: none."""
    options: Options = {}
    """Options by section: the name of a method, task, scorer (variants included) or engine, or one of `SECTIONS`."""

    @field_validator("methods", "tasks", "seeds", "counterfactual")
    @classmethod
    def _distinct(cls, names: list[Any]) -> list[Any]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(map(str, twice))}")
        return names

    @field_validator("model")
    @classmethod
    def _without_keys(cls, model: str | None) -> str | None:
        if model is not None and without_keys(model) != model:
            raise ValueError("holds a key or password; a model's name is written down and shown")
        return model

    @field_validator("data_roots")
    @classmethod
    def _absolute(cls, roots: dict[str, Path]) -> dict[str, Path]:
        return {task: Path(os.path.expanduser(root)).absolute() for task, root in roots.items()}

    def section(self, name: str) -> dict[str, Any]:
        """Return the options that hold for a name (empty if none were set): a variant's own above its plugin's."""
        return {**self.options.get(plugin_name(name), {}), **self.options.get(name, {})}

    @property
    def phantom(self) -> PhantomOptions:
        """The section `phantom`. Raises ConfigError for an option that does not fit."""
        return validated(PhantomOptions, "phantom", self.section("phantom"))

    @property
    def bootstrap(self) -> BootstrapOptions:
        """The section `bootstrap`. Raises ConfigError for an option that does not fit."""
        return validated(BootstrapOptions, "bootstrap", self.section("bootstrap"))

    @property
    def replacements(self) -> list[str]:
        """What replaces the pictures of `counterfactual`: "blank", "swapped", "noised-0.1", ..., in order.

        Raises ConfigError for an option that does not fit.
        """
        options = validated(NoiseOptions, "counterfactual", self.section("counterfactual"))
        noises = [f"noised-{sigma:g}" for sigma in options.noise]
        return [name for kind in self.counterfactual for name in (noises if kind == "noised" else [kind])]


def load_config(
    file: Path | None = None, overrides: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> RunConfig:
    """Return the configuration: defaults, below the YAML file, below `overrides` (fields of RunConfig).

    `options` and `data_roots` are merged entry by entry; other fields are replaced. Relative data roots in a file are
    relative to the file's folder. With a registry, every name and option is checked against the plugins too. Raises
    ConfigError with one line for each problem, naming file and line or the command-line option, and the nearest name.
    """
    places = Places(file, {}, overrides or {})
    values = read_file(file, places) if file is not None else {}
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
    """Read `section.option=value` settings; the value is YAML without mappings, or Jinja. Raises ConfigError.

    The section is what stands before the last dot: "probe.l10.layer=10" sets `layer` of the variant `probe.l10`.
    """
    options: Options = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, option = path.strip().rpartition(".")
        if not (equals and dot and section and option):
            raise ConfigError(f"-o {setting}: should have the form section.option=value, such as probe.layer=-2")
        try:
            # A chat template is text, which YAML would take for a mapping.
            parsed = value if "{%" in value or "{{" in value else read_value(value)
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

    A variant has its task's unless one was configured for itself. Raises DataError if a root was given and is not a
    folder: real data is used or is an error.
    """
    configured = config.data_roots.get(task, config.data_roots.get(plugin_name(task)))
    if configured is not None:
        root, source = configured, "from --data-root or the config file"
    elif os.environ.get(root_variable):
        root, source = Path(os.path.expanduser(os.environ[root_variable])).absolute(), f"from ${root_variable}"
    else:
        return None
    if not root.is_dir():
        raise DataError(f"data root of task {task!r}: {root} ({source}) is not a folder")
    return root


def with_phantom_profile(config: RunConfig, registry: Registry) -> RunConfig:
    """Return the configuration with the embedded phantom model's own defaults below the options that were set.

    A default that contradicts what was set is left out: `conrad.entropy` has no place beside `conrad.mode=joint`. Where
    it contradicts a variant's own options alone, the variant has the plugin's default.
    """
    profile = yaml.safe_load((files("conrad_bench") / "phantom.yaml").read_text(encoding="utf-8"))
    defaults = {
        section: {o: v for o, v in options.items() if _allowed(section, {o: v, **config.section(section)}, registry)}
        for section, options in profile["options"].items()
    }
    profiled = config.model_copy(update={"options": _merge(defaults, config.options)})
    kept: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(part for whole in config.methods for part in parts_of(whole)):
        plugin, own = plugin_name(name), config.options.get(name, {})
        for option, value in defaults.get(plugin, {}).items() if name != plugin else ():
            if option not in own and not _allowed(plugin, {**config.section(name), option: value}, registry):
                kept.setdefault(name, {})[option] = registry.get("methods", plugin).model_fields[option].default
    return profiled.model_copy(update={"options": _merge(profiled.options, kept)})


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


def differences(a: RunConfig, b: RunConfig, free: Collection[str] = ()) -> list[str]:
    """Return the keys whose values differ, each with both values: "options.probe.layer: -1 -> -2".

    The keys in `free` do not count, nor does where a training's curves go (`report_to`): they change nothing of what is
    computed.
    """
    old, new = dict(_flat(a.model_dump())), dict(_flat(b.model_dump()))
    absent = object()
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key, absent) != new.get(key, absent))
    keys = [key for key in keys if not key.endswith(".report_to") and key not in free]
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


def _structure_problems(error: ValidationError, places: Places) -> Iterator[str]:
    for path, text in option_problems(RunConfig, error, "key"):
        if text == MISSING:
            file = f"{places.file}: " if places.file is not None else ""
            yield f"{file}no {path[0]} given: name them with --{path[0]} A,B or in a config file as `{path[0]}: [A, B]`"
        else:
            yield f"{places.name(path)}: {text}"


def _name_problems(config: RunConfig, registry: Registry, places: Places) -> Iterator[str]:
    """Check the names of methods, tasks and engine against the plugins."""
    for index, name in enumerate(config.methods):
        wrong = [*composition_problems(name)]
        made_of = parts_of(learner_name(name) if wrong else name)
        found = [_name_problem("methods", part, registry) for part in made_of]
        yield from (f"{places.name(('methods', str(index)))}: {problem}" for problem in (*found, *wrong) if problem)
    named = [(("tasks", str(index)), name) for index, name in enumerate(config.tasks)]
    roots = [(("data_roots", name), name) for name in config.data_roots]
    for path, name in [*named, *roots]:
        if problem := _name_problem("tasks", name, registry):
            yield f"{places.name(path)}: {problem}"
    mentioned = _mentioned(config, registry)
    for path, name in roots:
        if plugin_name(name) != name and name not in mentioned:
            yield f"{places.name(path)}: {_absent(name, mentioned)}"
    for names in (config.methods, config.tasks):
        seen: dict[str, str] = {}
        for name in names:
            if (other := seen.setdefault(name.lower(), name)) != name:
                yield f"{other} and {name}: not all file systems tell capital letters from small ones; rename one"
    if config.engine not in registry.names("engines"):
        yield f"{places.name(('engine',))}: {unknown('engine', config.engine, registry.names('engines'))}"


def _name_problem(kind: Kind, name: str, registry: Registry) -> str | None:
    """Return what is wrong with the name of a method or task, or of a variant."""
    if plugin_name(name) not in registry.names(kind):
        return f"{unknown(kind[:-1], plugin_name(name), registry.names(kind))}; one from a file needs --plugin FILE"
    return label_problem(name)


def _mentioned(config: RunConfig, registry: Registry) -> set[str]:
    """Return the names of methods, tasks and scorers that the run speaks of."""
    names = {*config.tasks, *(part for name in config.methods for part in parts_of(name))}
    for options in config.options.values():
        names |= {name for key in NAMING if options.get(key) for name in judge_names(str(options[key]))}
    for task in {plugin_name(task) for task in config.tasks} & set(registry.names("tasks")):
        try:
            fields = registry.get("tasks", task).model_fields
        except PluginError:
            continue
        names |= {str(fields[key].default) for key in NAMING if key in fields}
    return names


def _absent(name: str, mentioned: Iterable[str]) -> str:
    """Say that a variant stands nowhere in the run, and which do."""
    variants = sorted(other for other in mentioned if plugin_name(other) != other)
    return f"{unknown('variant', name, variants)}; methods, tasks, and a task's {', '.join(NAMING)} name variants"


def _section_problems(config: RunConfig, registry: Registry, places: Places) -> Iterator[str]:
    """Check the sections and their options against the plugins that they belong to.

    A plugin's section may stand there unused, in a file for several runs; a variant's is then a slip of the pen.
    """
    mentioned = _mentioned(config, registry)
    named = {name for name in mentioned if plugin_name(name) != name}
    names = sorted({*SECTIONS, *named, *(name for kind in KINDS for name in registry.names(kind))})
    for section, options in config.options.items():
        labelled = plugin_name(section) != section
        if section not in SECTIONS and not registry.kinds(section):
            yield f"{places.name(('options', section))}: {unknown('section', section, names)}"
            continue
        if labelled and section not in mentioned:
            yield f"{places.name(('options', section))}: {_absent(section, mentioned)}"
            continue
        if label_problem(section):
            continue  # said where the name stands
        models: list[type[BaseModel]] = [SECTIONS[section]] if section in SECTIONS else []
        for kind in registry.kinds(section):
            try:
                models.append(registry.get(kind, section))
            except PluginError:
                continue  # an error only for a run that asks for the plugin
        for model in models:
            try:
                model.model_validate(config.section(section))
            except ValidationError as error:
                for path, text in option_problems(model, error):
                    # The harness supplies an engine's model; what a variant inherits is said of its plugin's section.
                    if text != MISSING and (not path or path[0] in options):
                        yield f"{places.name(('options', section, *path))}: {text}"
