"""phantom_green: GREEN's formula on phantom reports, computed from the grammar instead of judged by a language model.

GREEN (Ostmeier et al. 2024, section 3) = matched findings / (matched findings + significant errors), and 0 where
nothing matched. Its error categories that can occur here are counted as it counts them: a false finding, a missing
finding, a finding at the wrong place (side or zone), a wrong severity. This score is not GREEN and is never called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from conrad_bench.errors import DataError
from conrad_bench.tasks.base import Scorer
from conrad_bench.tasks.phantom.grammar import Fact, read, sentences
from conrad_bench.types import Claim, Example, Granularity, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model


def _read_all(text: str) -> tuple[set[Fact], int]:
    """Return the facts of a text and the number of its sentences that state none."""
    read_facts = [read(sentence) for sentence in sentences(text)]
    return {fact for fact in read_facts if fact}, sum(fact is None for fact in read_facts)


def phantom_green(candidate: str, reference: str) -> float:
    """Return the correctness of a phantom report in [0, 1] (1: every finding right, nothing invented).

    A finding present in both reports but at another side or zone, or with another severity, is one error, not two. A
    sentence of the candidate that states no fact of the grammar counts as a false finding. A statement of absence
    matches where the reference states the same absence; where it contradicts the reference, the error is the missing
    finding, which is counted once.
    """
    stated, unreadable = _read_all(candidate)
    truth, _ = _read_all(reference)
    matched = len(stated & truth)
    false = [fact for fact in stated - truth if fact.severity]
    missing = [fact for fact in truth - stated if fact.severity]
    errors = unreadable
    # Pair what is left, closest first: same side and zone (severity wrong), then same side (zone wrong), then other
    # side.
    for closeness in (lambda f: (f.finding, f.side, f.zone), lambda f: (f.finding, f.side), lambda f: f.finding):
        for fact in list(false):
            twin = next((other for other in missing if closeness(other) == closeness(fact)), None)
            if twin is not None:
                false.remove(fact)
                missing.remove(twin)
                errors += 1
    errors += len(false) + len(missing)
    return 0.0 if matched == 0 else matched / (matched + errors)


def phantom_precision_green(sentence: str, reference: str) -> float | None:
    """Return 1 if the reference supports the sentence, 0 if not, None if it is not a sentence of the grammar."""
    fact = read(sentence)
    if fact is None:
        return None
    return float(fact in _read_all(reference)[0])


class PhantomGreen(Scorer):
    """Exact GREEN-style correctness for phantom reports; for single sentences, whether the reference supports them."""

    name: ClassVar[str] = "phantom_green"
    summary: ClassVar[str] = "GREEN's formula, exact, for phantom (synthetic) reports"
    source: ClassVar[str] = "Ostmeier et al. 2024 (GREEN), section 3; applied to the phantom grammar"
    label: ClassVar[str] = "phantom-GREEN"

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse reports that were not written in the phantom grammar: their score would mean nothing."""
        if not any(_read_all(example.reference)[0] for example in examples[:20]):
            raise DataError(
                "scorer 'phantom_green' judges phantom (synthetic) reports only, and these reports are real ones; "
                "choose a scorer that reads them with -o TASK.scorer=NAME (conrad-bench list scorers)"
            )

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Score reports with the GREEN formula, sentences with its Precision form."""
        if granularity == "report":
            return [Score(phantom_green(claim.text, example.reference)) for example, claim in pairs]
        values = [phantom_precision_green(claim.text, example.reference) for example, claim in pairs]
        return [Score(value, "" if value is not None else "not a sentence of the phantom grammar") for value in values]
