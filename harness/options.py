"""Options as they are told to users: the fields of a plugin's class, each with what it may be and the text below it."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError

_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a plugin, or one key of a section."""

    name: str
    type: str
    """"whole number", "number or null", "one of" ..."""
    default: str
    """As it is written behind `-o NAME.OPTION=`; "required" where there is none."""
    allowed: str
    """The choices, or the range; empty where the type says all."""
    doc: str
    """The text below the field, on one line; empty where there is none, or the source cannot be read."""


def options(cls: type[BaseModel]) -> list[Option]:
    """Return the options of a plugin's class in the order of its fields, those that it inherits first."""
    docs = field_docs(cls)
    found = []
    for name, field in cls.model_fields.items():
        schema = _schema(field)
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        found.append(Option(name, _type(schema), default, _allowed(schema), docs.get(name, "")))
    return found


def field_docs(cls: type[BaseModel]) -> dict[str, str]:
    """Return the texts below the fields of a class and of its bases, each on one line.

    They are read when somebody asks: pydantic's `use_attribute_docstrings` would read every source file at each import,
    and forget the text of a field that a subclass gives another default.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= _own_docs(base)
    return docs


@cache
def _own_docs(cls: type) -> dict[str, str]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # a class that was made without a file, or in C
        return {}
    docs = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                docs[field.target.id] = " ".join(text.split())
    return docs


def _schema(field: Any) -> dict[str, Any]:
    """Return the JSON schema of a field; an empty one for a type that has none."""
    try:
        return TypeAdapter(Annotated[field.annotation, "", *field.metadata]).json_schema()
    except PydanticUserError:
        return {}


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return "choice"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}s"
    if schema.get("format") == "path":
        return "path"
    return _TYPES.get(str(schema.get("type")), "mapping" if schema.get("type") == "object" else "value")


def _allowed(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return ", or ".join(filter(None, map(_allowed, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(_value, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return _allowed(schema.get("items", {}))
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    said = [f"{word} {schema[key]}" for key, word in limits.items() if key in schema]
    if schema.get("minLength", 0) > 0:
        said.append("not empty")
    if "pattern" in schema:
        said.append(f"matches {schema['pattern']}")
    return ", ".join(said)


def _value(value: Any) -> str:
    """Write a value as an option takes it."""
    if isinstance(value, str) and value:
        return value
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)
