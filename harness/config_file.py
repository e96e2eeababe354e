"""A config file as it stands: its values, and the place of each for error messages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from conrad_bench.errors import ConfigError

Keys = tuple[str, ...]


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
