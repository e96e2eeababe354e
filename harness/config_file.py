"""A config file as it stands: its values, and the place of each for error messages.

A file may come from somebody else, so it is measured before it is read: a kilobyte of YAML can name itself into
billions of values, or nest deeper than Python can follow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from conrad_bench.errors import ConfigError
from conrad_bench.storage import read_regular

Keys = tuple[str, ...]

_MOST_BYTES = 2**20
_DEEPEST = 20
_MOST_VALUES = 10_000
"""What a config file may have at most: bytes, lists within lists, values with every alias written out."""


class Places:
    """Where each value was set, for error messages."""

    def __init__(self, file: Path | None, lines: dict[Keys, int], overrides: Mapping[str, Any]) -> None:
        self.file, self.lines, self.overrides = file, lines, overrides

    def name(self, path: Keys) -> str:
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

    def _in_file(self, path: Keys) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.file}, line {self.lines[path[:length]]}: {'.'.join(path)}"
        return ".".join(path)


def read_file(file: Path, places: Places) -> dict[str, Any]:
    """Read a config file, and note the line of every key. Raises ConfigError."""
    try:
        text = read_regular(file, _MOST_BYTES).decode("utf-8")
        _measure(text)
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
        what = "" if isinstance(error, _TooMuchError) else "not YAML: "
        raise ConfigError(f"{file}{line}: {what}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {file}: not YAML in UTF-8") from error
    except ValueError as error:
        raise ConfigError(
            f"config file {file}: holds a number or a date that cannot be read; put quotes around text of that look"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file}: should hold `key: value` lines, such as `methods: [verbalized]`")
    roots = values.get("data_roots")
    if isinstance(roots, dict):
        folder = file.absolute().parent
        values["data_roots"] = {
            task: folder / os.path.expanduser(root) if isinstance(root, str) else root for task, root in roots.items()
        }
    return values


def read_value(text: str) -> Any:
    """Return the value that a piece of YAML has. Raises yaml.YAMLError or ValueError."""
    _measure(text)
    return yaml.safe_load(text)


class _TooMuchError(yaml.MarkedYAMLError):
    """YAML that is larger than any configuration."""


def _measure(text: str) -> None:
    """Raise _TooMuchError at the place where YAML is nested too deeply, or has too many values.

    What an alias stands for counts each time. Nothing is built: the events of the parser are enough.
    """
    total = 0
    open_nodes: list[tuple[str | None, int]] = []  # the anchor of each, and the total before it
    sizes: dict[str, int] = {}  # of what an anchor names
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if len(open_nodes) > _DEEPEST or total > _MOST_VALUES:
            too = f"nested more than {_DEEPEST} deep" if total <= _MOST_VALUES else f"more than {_MOST_VALUES:,} values"
            mark: Any = event.start_mark
            raise _TooMuchError(None, None, f"{too}; a configuration needs less", mark)


def _note_lines(node: yaml.Node, path: Keys, file: Path, lines: dict[Keys, int], within: Sequence[yaml.Node]) -> None:
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
