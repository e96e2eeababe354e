"""Variants: one method, task or scorer several times in a run, told apart by a label behind its name.

`conrad.joint` is the method `conrad` under another name, with the options of the section `conrad` below those of the
section `conrad.joint`. Records, artifacts, rows and figures go by names, so a variant has its own; responses go by what
was asked, so variants share them.

The names of methods that are made of others are read here, too: `verbalized+platt`, `verbalized+hac_platt:vase`,
`ensemble:msp,p_true,vase`, `ensemble:msp,p_true+isotonic`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import new_class
from typing import Any, get_args

from pydantic import BaseModel

from conrad_bench.tasks.base import Task

NAMING = ("scorer", "quality", "fit_on", "fit_scorer")
"""The options of a task whose values are names of scorers or tasks."""

JUDGES = "judges"
"""The family of scorers that are the mean of several: "judges:green,crimson"."""

ENSEMBLE = "ensemble:"
"""What the name of an ensemble begins with; the names of its methods stand behind it."""
ENSEMBLE_SUMMARY = "several methods' confidences as one, weighed on validation claims"

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")

_made: dict[tuple[type[Any], str], type[Any]] = {}
"""The classes of variants, so that two instances of one variant are equal."""


def plugin_name(name: str) -> str:
    """Return the name of the plugin that a name stands for: "conrad" for "conrad.joint" and for "conrad".

    Dots in the names of several judges belong to these, and an ensemble stands for itself.
    """
    return name if name.startswith((f"{JUDGES}:", ENSEMBLE)) else name.partition(".")[0]


def judge_names(scorer: str) -> list[str]:
    """Return the names of a scorer's judges: "green" and "crimson" for "judges:green,crimson", "green" for "green"."""
    return scorer.removeprefix(f"{JUDGES}:").split(",")


def learner_name(name: str) -> str:
    """Return the name of what learns and states: "conrad.joint" for "conrad.joint+isotonic"."""
    return name.partition("+")[0]


def renamed(name: str, of: Callable[[str], str]) -> str:
    """Return the name of a method with those of the methods that it is made of replaced."""
    learner, plus, recalibrator = name.partition("+")
    kind, colon, second = recalibrator.partition(":")
    if learner.startswith(ENSEMBLE):
        learner = ENSEMBLE + ",".join(map(of, learner.removeprefix(ENSEMBLE).split(",")))
    else:
        learner = of(learner)
    return learner + plus + kind + colon + (of(second) if colon else "")


def parts_of(name: str) -> list[str]:
    """Return the names of the methods that a method is made of, its own where it is made of none.

    "probe" and "vase" for "probe+hac_platt:vase".
    """
    found: list[str] = []

    def note(part: str) -> str:
        found.append(part)
        return part

    renamed(name, note)
    return found


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


def variant(cls: type[Any], name: str) -> type[Any]:
    """Return the plugin class `cls` under the name of a variant, the same class for the same name.

    Instances can be pickled: what travels is the class that can be imported, and the name.
    """
    if (cls, name) not in _made:
        namespace = {
            "name": name,
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__reduce__": lambda self: (_empty, (cls, name), self.__getstate__()),
        }
        _made[cls, name] = new_class(cls.__name__, (cls,), exec_body=lambda body: body.update(namespace))
    return _made[cls, name]


def _empty(cls: type[Any], name: str) -> Any:
    """Return an instance of a variant that has yet to get its state."""
    return object.__new__(variant(cls, name))


def set_apart(variant: BaseModel, own: Mapping[str, Any], inherited: Mapping[str, Any]) -> str:
    """Return the options that set a variant apart, as "mode=joint, samples=10".

    `own` are the options of its section, `inherited` those of its plugin's. Texts are shown where they are one of the
    option's choices, or name a scorer or task; any other could be a path.
    """
    shown = []
    for option, field in type(variant).model_fields.items():
        plain = inherited.get(option, field.get_default(call_default_factory=True))
        value = getattr(variant, option)
        if option not in own or plain in (own[option], value):
            continue
        if isinstance(value, str):
            known = value in choices(field.annotation) or (option in NAMING and isinstance(variant, Task))
            shown.append(f"{option}={value if known else '(not shown)'}")
        else:
            plainly = isinstance(value, bool | int | float | None)
            shown.append(f"{option}={json.dumps(value) if plainly else '(not shown)'}")
    return ", ".join(shown)


def choices(annotation: Any) -> list[str]:
    """Return the texts within an annotation's Literals."""
    found: list[str] = []
    for argument in get_args(annotation):
        found += [argument] if isinstance(argument, str) else choices(argument)
    return found
