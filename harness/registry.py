"""Plugins: methods, tasks, scorers, engines and metrics, found by entry points or in a local file.

The names come from the metadata of the installed distributions, so that nothing is imported before it is asked for.
The built-in plugins are declared in the same way as everyone else's. A local file registers its classes with the
decorators below:

    import conrad_bench
    from conrad_bench.methods.base import Method

    @conrad_bench.register_method
    class Brevity(Method):
        name = "brevity"
        ...
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload

from pydantic import BaseModel, ValidationError

from conrad_bench.errors import ConfigError, PluginError
from conrad_bench.text import without_keys
from conrad_bench.variants import label_problem, plugin_name, variant

if TYPE_CHECKING:
    from conrad_bench.engines.base import Engine
    from conrad_bench.leaderboards.metrics.base import Metric
    from conrad_bench.methods.base import Method
    from conrad_bench.tasks.base import Scorer, Task

Kind = Literal["methods", "tasks", "scorers", "engines", "metrics"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VARIED: tuple[Kind, ...] = ("methods", "tasks", "scorers")
"""The kinds that have variants: "conrad.joint" is the method "conrad" under another name."""

BUILT_IN = "built-in"
"""Origin of the plugins that conrad-bench itself declares."""

_LONGEST = 80
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_REQUIRED = {
    "methods": ("name", "summary", "needs", "granularities"),
    "tasks": ("name", "summary", "granularity", "root_variable"),
    "scorers": ("name", "summary", "label"),
    "engines": ("name", "summary", "provides"),
    "metrics": ("name", "summary", "label", "better", "range", "source"),
}

AnyClass = TypeVar("AnyClass", bound=type[BaseModel])

_registered: list[tuple[Kind, type[BaseModel]]] = []
"""What the decorators have registered in this process, files given to `Registry.load_file` aside."""


def _register(kind: Kind, cls: AnyClass) -> AnyClass:
    # A notebook cell that is run again defines its class again: the last definition counts.
    identity = (kind, cls.__module__, cls.__qualname__)
    _registered[:] = [(k, c) for k, c in _registered if (k, c.__module__, c.__qualname__) != identity]
    _registered.append((kind, cls))
    return cls


def register_method(cls: AnyClass) -> AnyClass:
    """Class decorator: register a `Method` under its `name`."""
    return _register("methods", cls)


def register_task(cls: AnyClass) -> AnyClass:
    """Class decorator: register a `Task` under its `name`."""
    return _register("tasks", cls)


def register_scorer(cls: AnyClass) -> AnyClass:
    """Class decorator: register a `Scorer` under its `name`."""
    return _register("scorers", cls)


def register_engine(cls: AnyClass) -> AnyClass:
    """Class decorator: register an `Engine` under its `name`."""
    return _register("engines", cls)


def register_metric(cls: AnyClass) -> AnyClass:
    """Class decorator: register a `Metric` under its `name`."""
    return _register("metrics", cls)


def register_files(paths: Iterable[Path]) -> None:
    """Register the classes of plugin files for every registry of this process. Raises PluginError."""
    for path in paths:
        _registered.extend(Registry().load_file(path))


@dataclass(frozen=True, slots=True)
class _Plugin:
    """Where a name comes from: an entry point, or a class that a decorator registered."""

    origin: str
    source: EntryPoint | type[BaseModel]


class Registry:
    """The plugins of this environment, by kind and name.

    Holds the entry points of the installed distributions, the classes that decorators have registered in this process,
    and those of the plugin files given.
    """

    failures: dict[tuple[Kind, str], PluginError]
    """Why a plugin cannot be used, for those that were asked for or listed."""

    def __init__(self, plugin_files: Iterable[Path] = ()) -> None:
        """Read the names. Raises PluginError for a plugin file that cannot be used; imports no entry point."""
        self.failures = {}
        self._plugins: dict[Kind, dict[str, list[_Plugin]]] = {kind: {} for kind in KINDS}
        self._classes: dict[tuple[Kind, str], type[BaseModel]] = {}
        declared, installed = set[str](), entry_points()
        origins: dict[Distribution | None, str] = {None: "unknown distribution"}
        for kind in KINDS:
            for entry in installed.select(group=f"conrad_bench.{kind}"):
                declared.add(entry.value)
                if entry.dist is not None and entry.dist not in origins:  # the name is parsed each time
                    origins[entry.dist] = BUILT_IN if entry.dist.name == "conrad-bench" else entry.dist.name
                self._plugins[kind].setdefault(entry.name, []).append(_Plugin(origins[entry.dist], entry))
        # A package may use the decorators, too: its import registers what its entry point has named.
        own = [(kind, cls) for kind, cls in _registered if f"{cls.__module__}:{cls.__qualname__}" not in declared]
        self._add(own, "registered in this process")
        for path in plugin_files:
            self.load_file(path)

    def load_file(self, path: Path) -> list[tuple[Kind, type[BaseModel]]]:
        """Run a Python file, and add and return the classes that its decorators register.

        Raises PluginError if the file fails, registers nothing, or registers a name that is already taken.
        """
        if not path.is_file():
            raise PluginError(f"plugin file {path}: there is no such file")
        if path.suffix in (".yaml", ".yml"):
            from conrad_bench.tasks.csv_task import csv_task

            self._single("tasks", self._add([("tasks", csv_task(path))], str(path))[0])
            return [("tasks", csv_task(path))]
        before = list(_registered)
        digest = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]
        module_name = f"conrad_bench_plugin_{path.stem}_{digest}"
        try:
            spec = importlib.util.spec_from_file_location(module_name, path)
            if spec is None or spec.loader is None:
                raise PluginError(f"plugin file {path}: not a Python file (its name should end in .py)")
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module  # pydantic looks a class's annotations up there
            spec.loader.exec_module(module)
            added = [item for item in _registered if item not in before]
        except (Exception, SystemExit) as error:
            sys.modules.pop(module_name, None)
            if isinstance(error, PluginError):
                raise
            raise PluginError(f"plugin file {path} does not import: {_reason(error)}{_line(error, path)}") from error
        finally:
            _registered[:] = before
        if not added:
            raise PluginError(f"plugin file {path} registers nothing; decorate its class with @conrad_bench.register_*")
        for (kind, cls), name in zip(added, self._add(added, str(path)), strict=True):
            _check_class(kind, name, cls, f"plugin file {path}")
            self._single(kind, name)
        return added

    def _add(self, classes: Sequence[tuple[Kind, type[BaseModel]]], origin: str) -> list[str]:
        names = []
        for kind, cls in classes:
            name = getattr(cls, "name", None)
            if not isinstance(name, str):
                raise PluginError(f"class {cls.__name__} ({origin}) has no `name`; give it one: name = ...")
            if problem := name_problem(name):
                raise PluginError(f"class {cls.__name__} ({origin}): {problem}")
            self._plugins[kind].setdefault(name, []).append(_Plugin(origin, cls))
            names.append(name)
        return names

    def names(self, kind: Kind) -> list[str]:
        """Return the sorted names of a kind, those of plugins that turn out not to import included."""
        return sorted(self._plugins[kind])

    def origin(self, kind: Kind, name: str) -> str:
        """Return where a plugin comes from: "built-in", a distribution's name, or a file."""
        return " and ".join(plugin.origin for plugin in self._plugins[kind][name])

    def kinds(self, name: str) -> list[Kind]:
        """Return the kinds that have a plugin of this name, or one that it is a variant of.

        "radeval:bleu" is one scorer of the family "radeval".
        """
        plugin = plugin_name(name)
        known = {"scorers": plugin.partition(":")[0]}
        names = {kind: known.get(kind, plugin) if kind in VARIED else name for kind in KINDS}
        return [kind for kind in KINDS if names[kind] in self._plugins[kind]]

    @overload
    def get(self, kind: Literal["methods"], name: str) -> type[Method]: ...
    @overload
    def get(self, kind: Literal["tasks"], name: str) -> type[Task]: ...
    @overload
    def get(self, kind: Literal["scorers"], name: str) -> type[Scorer]: ...
    @overload
    def get(self, kind: Literal["engines"], name: str) -> type[Engine]: ...
    @overload
    def get(self, kind: Literal["metrics"], name: str) -> type[Metric]: ...
    @overload
    def get(self, kind: Kind, name: str) -> type[Any]: ...
    def get(self, kind: Kind, name: str) -> type[Any]:
        """Return the class of a plugin, imported now; for the name of a variant, its plugin's under that name.

        Raises ConfigError for an unknown name, with the nearest one, and PluginError for a plugin that does not import,
        is not what its kind asks for, or shares its name with another.
        """
        if name not in self._plugins[kind]:
            if kind in VARIED and (base := plugin_name(name)) != name:
                cls = self.get(kind, base)
                if problem := label_problem(name):
                    raise ConfigError(f"{kind[:-1]} {problem}")
                return variant(cls, name)
            family, colon, member = name.partition(":")
            if kind == "scorers" and colon and family in self._plugins[kind]:
                return self._member(family, member)
            raise ConfigError(f"{unknown(kind[:-1], name, self.names(kind))}; one from a file needs --plugin FILE")
        try:
            plugin = self._single(kind, name)
            if (kind, name) not in self._classes:
                self._classes[kind, name] = _load(kind, name, plugin)
        except PluginError as error:
            self.failures[kind, name] = error
            raise
        return self._classes[kind, name]

    def _member(self, family: str, member: str) -> type[Any]:
        """Return one scorer of a family, such as "radeval:bleu", from the family's class method `variant`."""
        cls = self.get("scorers", family)
        if not hasattr(cls, "variant"):
            raise ConfigError(f"scorer {family!r} is no family; leave out {':' + member!r}")
        return cls.variant(member)  # type: ignore[no-any-return]

    def _single(self, kind: Kind, name: str) -> _Plugin:
        plugins = self._plugins[kind][name]
        if len(plugins) > 1:
            raise PluginError(
                f"two {kind} have the name {name!r}: from {self.origin(kind, name)}; uninstall or rename one of them"
            )
        return plugins[0]

    def available(self, kind: Kind) -> dict[str, type[Any]]:
        """Import every plugin of a kind and return those that work, by name; `failures` keeps the others."""
        classes: dict[str, type[Any]] = {}
        for name in self.names(kind):
            try:
                classes[name] = self.get(kind, name)
            except PluginError:
                continue
        return classes

    @overload
    def create(self, kind: Literal["methods"], name: str, options: Mapping[str, Any]) -> Method: ...
    @overload
    def create(self, kind: Literal["tasks"], name: str, options: Mapping[str, Any]) -> Task: ...
    @overload
    def create(self, kind: Literal["scorers"], name: str, options: Mapping[str, Any]) -> Scorer: ...
    @overload
    def create(self, kind: Literal["engines"], name: str, options: Mapping[str, Any]) -> Engine: ...
    @overload
    def create(self, kind: Literal["metrics"], name: str, options: Mapping[str, Any]) -> Metric: ...
    @overload
    def create(self, kind: Kind, name: str, options: Mapping[str, Any]) -> Any: ...
    def create(self, kind: Kind, name: str, options: Mapping[str, Any]) -> Any:
        """Return a plugin with these options. Raises what `get` raises, and ConfigError for options that do not fit."""
        return validated(self.get(kind, name), name, options)


Model = TypeVar("Model", bound=BaseModel)


def validated(cls: type[Model], section: str, options: Mapping[str, Any]) -> Model:
    """Return `cls(**options)`. Raises ConfigError with one line for each wrong option, named `<section>.<option>`."""
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        problems = option_problems(cls, error)
        raise ConfigError("\n".join(f"{'.'.join((section, *path))}: {text}" for path, text in problems)) from None


MISSING = "has no value"
"""What `option_problems` says of a field that must be set and is not."""


def option_problems(
    cls: type[BaseModel], error: ValidationError, what: str = "option"
) -> list[tuple[tuple[str, ...], str]]:
    """Say what is wrong with a model's fields: (path of the field, sentence) for each.

    `what` is the word for a field; an unknown one is answered with the nearest that there is.
    """
    problems = []
    for item in error.errors(include_url=False):
        path = tuple(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            text = unknown(what, path[-1], sorted(cls.model_fields))
        elif item["type"] == "missing":
            text = MISSING
        else:
            text = item["msg"].removeprefix("Value error, ")
            if isinstance(item["input"], str | int | float | None):
                text += f" (given: {_quoted(item['input'])})"
        problems.append((path, text))
    return problems


def _quoted(value: object) -> str:
    """Return a value as messages quote it: short, and without keys."""
    try:
        text = without_keys(repr(value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number too long to be written"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def unknown(what: str, name: str, names: Sequence[str]) -> str:
    """Say that there is no such name, which one is nearest, and which there are."""
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    there_are = f" ({what}s: {', '.join(names)})" if names else f" (there are no {what}s)"
    return f"unknown {what} {name!r}{hint}{there_are}"


def _load(kind: Kind, name: str, plugin: _Plugin) -> type[BaseModel]:
    """Import a plugin's class and check that it is one of its kind."""
    where = f"{kind[:-1]} {name!r} from {plugin.origin}"
    loaded: Any = plugin.source
    if isinstance(loaded, EntryPoint):
        try:
            loaded = loaded.load()
        except (Exception, SystemExit) as error:
            raise PluginError(f"{where} does not import: {_reason(error)}") from error
    _check_class(kind, name, loaded, where)
    cls: type[BaseModel] = loaded
    return cls


def _check_class(kind: Kind, name: str, loaded: Any, where: str) -> None:
    """Raise PluginError if an object is not a complete plugin class of its kind."""
    base = _base(kind)
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise PluginError(f"{where} is not a subclass of {base.__module__}.{base.__name__}")
    if problem := name_problem(name):
        raise PluginError(f"{where}: {problem}")
    lacks = [attribute for attribute in _REQUIRED[kind] if not hasattr(loaded, attribute)]
    if lacks:
        raise PluginError(f"{where}: class {loaded.__name__} lacks {', '.join(lacks)}")
    if "." in name:
        raise PluginError(f"{where}: a dot in a name stands before the label of a variant; rename the class")
    own = getattr(loaded, "name", None)
    if own != name:
        raise PluginError(f"{where}: class {loaded.__name__} calls itself {own!r}; the two names must be the same")


def name_problem(name: str) -> str | None:
    """Return what is wrong with a plugin's name: it becomes the name of files."""
    if _NAME.fullmatch(name) and not name.startswith("."):
        return None
    return f"the name {name[:40]!r} has other characters than letters, digits, _ . + -, or more than 64; rename it"


def _base(kind: Kind) -> type[BaseModel]:
    if kind == "methods":
        from conrad_bench.methods.base import Method

        return Method
    if kind == "engines":
        from conrad_bench.engines.base import Engine

        return Engine
    if kind == "metrics":
        from conrad_bench.leaderboards.metrics.base import Metric

        return Metric
    from conrad_bench.tasks.base import Scorer, Task

    return Task if kind == "tasks" else Scorer


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _line(error: BaseException, path: Path) -> str:
    """Return " (line N)" for the last line of `path` that an exception passed through."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.absolute()):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" (line {lines[-1]})" if lines else ""
