"""Variants: one method, task or scorer several times in a run, told apart by a label behind its name.

`conrad.joint` is the method `conrad` under another name, with the options of the section `conrad` below those of the
section `conrad.joint`. Records, artifacts, rows and figures go by names, so a variant has its own; responses go by what
was asked, so variants share them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel

NAMING = ("scorer", "quality", "fit_on")
"""The options of a task whose values are names of scorers or tasks."""

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def plugin_name(name: str) -> str:
    """Return the name of the plugin that a name stands for: "conrad" for "conrad.joint" and for "conrad"."""
    return name.partition(".")[0]


def learner_name(name: str) -> str:
    """Return the name of what learns and states: "conrad.joint" for "conrad.joint+isotonic"."""
    return name.partition("+")[0]


def unlabelled(row: str) -> str:
    """Return a row's name without the label: "conrad+isotonic [b]" for "conrad.joint+isotonic [b]"."""
    method, bracket, run = row.partition(" [")
    learner, plus, recalibrator = method.partition("+")
    return plugin_name(learner) + plus + recalibrator + bracket + run


def label_problem(name: str) -> str | None:
    """Return what is wrong with the label of a name; None if it is in order, or there is none."""
    plugin, dot, label = name.partition(".")
    if not dot or _LABEL.fullmatch(label):
        return None
    if not label:
        return f"{name!r} lacks the label behind its dot; write {plugin!r}, or a variant such as {plugin + '.b'!r}"
    return f"{name!r}: a label has 1 to 64 of the letters a to z and A to Z, the digits, _ and -"


@cache
def variant(cls: type[AnyModel], name: str) -> type[AnyModel]:
    """Return the plugin class `cls` under the name of a variant, the same class for the same name.

    Instances can be pickled: what travels is the class that can be imported, and the name.
    """
    namespace = {
        "name": name,
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reduce__": lambda self: (_empty, (cls, name), self.__getstate__()),
    }
    made: type[AnyModel] = type(cls)(cls.__name__, (cls,), namespace)
    return made


def _empty(cls: type[AnyModel], name: str) -> AnyModel:
    """Return an instance of a variant that has yet to get its state."""
    made = variant(cls, name)
    return made.__new__(made)


def set_apart(cls: type[BaseModel], own: Mapping[str, Any], inherited: Mapping[str, Any]) -> str:
    """Return the options that set a variant apart, as "mode=joint, samples=10"; `inherited` are its plugin's.

    Texts are shown where they are one of the option's choices or a name; any other could be a path.
    """
    shown = []
    for option, field in cls.model_fields.items():
        plain = inherited.get(option, field.get_default(call_default_factory=True))
        if option in own and own[option] != plain:
            value = own[option]
            if not isinstance(value, str):
                free = not isinstance(value, bool | int | float | None)
                shown.append(f"{option}={'(not shown)' if free else json.dumps(value)}")
            else:
                known = option in NAMING or value in choices(field.annotation)
                shown.append(f"{option}={value if known else '(not shown)'}")
    return ", ".join(shown)


def choices(annotation: Any) -> list[str]:
    """Return the texts within an annotation's Literals."""
    found: list[str] = []
    for argument in get_args(annotation):
        found += [argument] if isinstance(argument, str) else choices(argument)
    return found
