"""Precision GREEN: whether the reference report supports one sentence.

ConRad (section 3) scores sentences with "an adapted GREEN (Precision GREEN) that only evaluates whether the finding in
that sentence is supported by the reference report", and does not print its prompt. The prompt here is ours: GREEN's
without the errors that one sentence cannot make (what it leaves out), and with a verdict in place of counts:

    [Explanation]:
    Both describe a small right pleural effusion.

    [Supported]:
    Yes.

    -> 1
"""

from __future__ import annotations

import re
from typing import ClassVar

from conrad_bench.reading.thoughts import spoken
from conrad_bench.tasks.scorers.answers import polarity
from conrad_bench.tasks.scorers.green import ReportJudge, parse_green
from conrad_bench.types import Granularity

WORDS = 300
"""The reference and the sentence are cut to so many words, as GREEN's prompt cuts both reports."""

PROMPT = """\
Objective: Evaluate whether one sentence of a candidate radiology report is supported by a reference radiology report \
composed by expert radiologists.

    Process Overview: You will be presented with:

    1. The criteria for making a judgment.
    2. The reference radiology report.
    3. The candidate sentence.
    4. The desired format for your assessment.

    1. Criteria for Judgment:

    The candidate sentence is supported if the reference report states or clearly implies every finding in it.
    It is not supported if it contains a clinically significant error of one of these categories:

    a) False report of a finding in the candidate.
    b) Misidentification of a finding's anatomic location/position.
    c) Misassessment of the severity of a finding.
    d) Mentioning a comparison that isn't in the reference.
    Note: Concentrate on the clinical findings rather than the writing style. Findings of the reference report that \
the candidate sentence does not mention are no errors.

    2. Reference Report:
    {reference}

    3. Candidate Sentence:
    {sentence}

    4. Reporting Your Assessment:

    Follow this specific format for your output:
    ```
    [Explanation]:
    <Explanation>

    [Supported]:
    <Yes or No>
    ```
"""

_VERDICT = re.compile(r"(?:^[ \t]*|\[)Supported(?:\][ \t]*:?|[ \t]*[:?]|[ \t]*$)", re.IGNORECASE | re.MULTILINE)
_OMISSIONS = (1, 5)
"""GREEN's categories (b) missing finding and (f) omitted comparison: no sentence states the whole report."""


def precision_prompt(reference: str, sentence: str) -> str:
    """Return the judge's prompt about one sentence."""
    reference, sentence = (" ".join(text.split()[:WORDS]) for text in (reference, sentence))
    return PROMPT.format(reference=reference, sentence=sentence)


def parse_verdict(answer: str) -> bool | str:
    """Return whether the judge finds the sentence supported; where the answer does not say, the reason.

    The verdict begins with "Yes" or "No" and says nothing against it. GREEN's own model was trained on one form of
    answer and may keep to it: an answer in GREEN's form supports the sentence if a finding matched and none is false,
    misplaced, of another severity or compared with what the reference does not mention.
    """
    plain = re.sub(r"[*_`#]|^[ \t]*[-•][ \t]+", "", spoken(answer), flags=re.MULTILINE)
    verdicts = list(_VERDICT.finditer(plain))
    if not verdicts:
        counts = parse_green(answer)
        if isinstance(counts, str):
            return "the answer has no [Supported] block"
        wrong = sum(n for i, n in enumerate(counts.significant) if i not in _OMISSIONS)
        return counts.matched > 0 and wrong == 0
    if len(verdicts) > 1:
        return "the answer has two [Supported] blocks"
    said = polarity(plain[verdicts[0].end() :].strip(" \n<>[]"))
    return said == "yes" if said in ("yes", "no") else "the answer's [Supported] block is neither yes nor no"


class PrecisionGreen(ReportJudge):
    """Whether the reference supports a sentence."""

    name: ClassVar[str] = "precision_green"
    summary: ClassVar[str] = "whether the reference supports a sentence, judged by GREEN-RadLlama2-7b or another model"
    source: ClassVar[str] = "ConRad, section 3 (Precision GREEN); the prompt is conrad-bench's own"
    label: ClassVar[str] = "Precision GREEN"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"sentence"})

    def ask(self, reference: str, candidate: str) -> str:
        """Return the prompt about one sentence."""
        return precision_prompt(reference, candidate)

    def read(self, answer: str) -> float | str:
        """Return 1 for a supported sentence and 0 for another, or the reason why the answer says neither."""
        verdict = parse_verdict(answer)
        return verdict if isinstance(verdict, str) else float(verdict)
