"""Names of methods that are made of others, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator

from conrad_bench.registry import unknown
from conrad_bench.trainers.recalibrators import HAC, KINDS
from conrad_bench.variants import ENSEMBLE, learner_name, parts_of

MOST_LETTERS = 160
"""Of a name: with task, replacement and ending it must stay below the 255 bytes that file systems take."""


def composition_problems(name: str) -> Iterator[str]:
    """Yield what is wrong with how a method's name is made of others; not whether there are these."""
    recalibrator = name.partition("+")[2]
    kind, colon, second = recalibrator.partition(":")
    if "," in recalibrator:
        yield f"{name}: the methods of an ensemble are named without recalibrators; their ranks would be the same"
    elif "+" in name and kind not in (*KINDS, HAC):
        yield unknown("recalibrator", kind, (*KINDS, HAC))
    elif kind == HAC and not second:
        yield f"{name} lacks its second signal; write {HAC}:METHOD, such as verbalized+{HAC}:semantic_entropy"
    elif kind != HAC and colon:
        yield f"{name}: {kind} takes no second signal; only {HAC}:METHOD does"
    learner = learner_name(name)
    if not learner.startswith(ENSEMBLE):
        if second and second == learner:
            yield f"{name}: the second signal is the method itself; name another"
        return
    parts = parts_of(learner)
    if len(parts) < 2:
        yield f"{name!r}: an ensemble is of two methods or more, such as {ENSEMBLE}msp,p_true"
    for twice in sorted({part for part in parts if parts.count(part) > 1}):
        yield f"{name}: {twice} is named twice in one ensemble"
    if len(name) > MOST_LETTERS:
        yield f"an ensemble's name becomes that of files, and has at most {MOST_LETTERS} letters; this has {len(name)}"
