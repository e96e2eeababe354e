"""GREEN: correctness of a radiology report as a language model judges it (Ostmeier et al. 2024).

The judge reads the reference and the candidate and answers in blocks:

    [Explanation]:
    The candidate misses the effusion.

    [Clinically Significant Errors]:
    (b) Missing a finding present in the reference: 1. Small right pleural effusion.

    [Clinically Insignificant Errors]:
    None.

    [Matched Findings]:
    2. Normal heart size; No pneumothorax.

    -> GREEN = matched / (matched + significant errors) = 2 / 3

The prompt is radeval's, and so is the arithmetic. Reading is stricter: an answer that radeval's parser reads as 0 or 1
because it could not read it is no score here (`parse_green`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from pydantic import Field

from conrad_bench.errors import MissingExtra
from conrad_bench.reading.thoughts import spoken
from conrad_bench.tasks.scorers.judge import ModelJudge
from conrad_bench.types import Example, Granularity

GREEN_MODEL = "StanfordAIMI/GREEN-RadLlama2-7b"

GREEN_CHAT = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ ('<|user|>\n' if message['role'] == 'user' else '<|assistant|>\n') + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|assistant|>\n' + eos_token + '\n<|assistant|>\n' + eos_token }}"
    "{% endif %}"
)
"""Chat template (Jinja) that gives the judge the tokens that the published scorer gives it.

That scorer hands over an empty answer before it asks for one, and its tokenizer adds both a beginning and an end of
sequence. All published GREEN numbers were obtained so; an input that looks tidier is another metric.
"""

GREEN_DTYPE = "float16"
"""The precision of the weights in which the published scorer runs the judge."""

_HEADERS = "Explanation", "Clinically Significant Errors", "Clinically Insignificant Errors", "Matched Findings"
_HEADER = re.compile(
    rf"(?:^[ \t]*|\[)({'|'.join(_HEADERS)})(?:\][ \t]*:?|[ \t]*:|[ \t]*$)", re.IGNORECASE | re.MULTILINE
)
_ADORNED = re.compile(r"\*\*|__|`|^[ \t]*(?:#+|[-*•])[ \t]+", re.MULTILINE)
"""Emphasis, headings and bullets of Markdown."""
_THERE = r"(?:There (?:are|were|is) )?"
_NO_ERRORS = re.compile(
    rf"(?:{_THERE}none|N/A|0(?= *\.? *$)|{_THERE}(?:no|zero|0) (?:\w+ ){{0,3}}errors?)\b", re.IGNORECASE | re.MULTILINE
)
# Not any "No ...": "No pleural effusion; ..." is a list of matched findings that lacks its number.
_MATCH = r"match(?:es|ed|ing)?"
_NO_MATCH = re.compile(
    rf"(?:None|N/A|{_THERE}no (?:{_MATCH}|findings? (?:(?:are|were|that) )?{_MATCH}))\b", re.IGNORECASE
)
_MARKER = re.compile(r"(?<!\w)\(([a-z0-9])\) |^([a-z])[).] ")
# A count ends with a full stop or its line; "1.5 cm", "2 cm" and "3 - 4 cm" are measures.
_WHOLE = r"(?:\.(?!\d)|$| *[:(–—]| +-(?! *\d)| +(?:match(?:ed|ing) +)?(?:findings?|errors?)\b)"
_COUNTED = re.compile(rf"(?:\(?(?P<kind>[a-f]|(?<=\()[1-6])\)|(?P<bare>[a-f])\.) [^:]*: *(?P<count>\d+){_WHOLE}")
_MATCHED = re.compile(rf"(\d+){_WHOLE}")


@dataclass(frozen=True, slots=True)
class GreenCounts:
    """What the judge counted."""

    significant: tuple[int, ...]
    """Clinically significant errors by category, (a) to (f): false finding, missing finding, wrong place, wrong
    severity, comparison that is not in the reference, omitted comparison."""
    matched: int
    """Findings that both reports state."""

    @property
    def score(self) -> float:
        """GREEN in [0, 1]: matched / (matched + significant errors), 0 where nothing matched (section 3)."""
        return self.matched / (self.matched + sum(self.significant)) if self.matched else 0.0


def parse_green(answer: str) -> GreenCounts | str:
    """Read the judge's answer; where it cannot be read, return the reason why (a sentence without the answer's text).

    An answer in the form that the prompt asks for gives what radeval's parser gives. Both blocks that count must be
    there once, since without that of significant errors the score would be perfect, and without that of matched
    findings 0. Errors are lines "(a) ...: 2. ...", at most one a category, or "No ... errors" or "None". Matched
    findings begin with their number, or are "No ... matched" or "None". Behind a number stands a full stop, a colon, a
    bracket, a dash, "findings" or nothing. A block ends at the next heading, not at the first blank line, so that no
    line of it is overlooked and no line of another block is counted. Thoughts, emphasis and bullets change nothing.
    """
    answer = _ADORNED.sub("", spoken(answer))
    headers = list(_HEADER.finditer(answer))
    blocks: dict[str, str] = {}
    ends = [*(header.start() for header in headers), len(answer)][1:]
    for header, end in zip(headers, ends, strict=True):
        name = header[1].title()
        if name in blocks:
            return f"the answer has two [{name}] blocks"
        blocks[name] = answer[header.end() : end].strip()
    for name in ("Clinically Significant Errors", "Matched Findings"):
        if not blocks.get(name):
            return f"the answer's [{name}] block is {'empty' if name in blocks else 'missing'}"
    significant = _errors(blocks["Clinically Significant Errors"])
    if isinstance(significant, str):
        return significant
    matched = _matched(blocks["Matched Findings"])
    return matched if isinstance(matched, str) else GreenCounts(significant, matched)


def _errors(block: str) -> tuple[int, ...] | str:
    """Return the errors of each of the six categories, or why the block cannot be read."""
    counts: dict[str, int] = {}
    for line in (line.strip().lower() for line in block.splitlines()):
        markers = [bracketed or bare for bracketed, bare in _MARKER.findall(line)]
        if not markers:
            continue
        counted = _COUNTED.match(line)
        if counted is None:
            return f"the line of errors ({markers[0]}) has no count"
        if _COUNTED.search(line, counted.end("count")):
            return "one line counts errors of two categories"
        kind = counted["kind"] or counted["bare"]
        if kind in counts:
            return f"errors ({kind}) are counted twice"
        counts[kind] = int(counted["count"])
    denied = _NO_ERRORS.match(block)
    if not counts and not denied:
        return "the block of significant errors has no counts"
    if any(counts.values()) and denied:
        return "the block of significant errors denies errors and counts some"
    kinds = "123456" if all(kind.isdigit() for kind in counts) else "abcdef"
    if counts.keys() - set(kinds):
        return "errors are counted by letters and by numbers"
    return tuple(counts.get(kind, 0) for kind in kinds)


def _matched(block: str) -> int | str:
    """Return the number of matched findings, or why the block cannot be read."""
    lines = [line.strip() for line in block.splitlines()]
    counted = [match for match in map(_MATCHED.match, lines) if match]
    if len(counted) > 1:
        return "the matched findings are numbered, not counted"
    if counted and _MATCHED.match(lines[0]):
        return int(counted[0][1])
    return 0 if _NO_MATCH.match(block) and not counted else "the number of matched findings is missing"


@cache
def green_prompt() -> Callable[[str, str], str]:
    """Return radeval's function (reference, candidate) -> prompt; both reports are cut to their first 300 words.

    Raises MissingExtra without radeval, or with one that has no such function.
    """
    make_prompt: Callable[[str, str], str] = radeval_file("green_score/utils.py", "green").make_prompt
    return make_prompt


def radeval_file(name: str, scorer: str) -> ModuleType:
    """Return a file of radeval's metrics, run by itself: importing the package around it would start downloads and
    change global settings.

    Raises MissingExtra where radeval is not there, or has no such file.
    """
    package = importlib.util.find_spec("radeval")
    path = Path((package and package.origin) or "").parent / "metrics" / name
    module_name = f"conrad_bench_radeval_{scorer}"
    spec = importlib.util.spec_from_file_location(module_name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise MissingExtra(f'scorer {scorer!r} takes its prompt from radeval: pip install "conrad-bench[green]"')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ReportJudge(ModelJudge):
    """What the scorers that ask GREEN's model share. Not a scorer by itself."""

    model: str = Field(default=GREEN_MODEL, min_length=1)
    """The judge: folder of a checkpoint, or a hub id."""
    chat: Literal["green", "model"] = "green"
    """The form of the judge's input: that of GREEN's own model, or the judge's own chat template (any other model)."""

    def judge(self) -> tuple[str, dict[str, Any]]:
        """Return the judge's engine and its options."""
        engine, options = super().judge()
        form = {"chat_template": GREEN_CHAT, "dtype": GREEN_DTYPE} if self.chat == "green" else {}
        return engine, {**form, **options}


class Green(ReportJudge):
    """GREEN of whole reports."""

    name: ClassVar[str] = "green"
    summary: ClassVar[str] = "GREEN of a report, judged by GREEN-RadLlama2-7b or another model"
    source: ClassVar[str] = "Ostmeier et al. 2024 (GREEN), section 3; ConRad, section 3"
    label: ClassVar[str] = "GREEN"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report"})

    def check(self, examples: Sequence[Example]) -> None:
        """Raise MissingExtra without radeval, which holds the prompt."""
        green_prompt()

    def ask(self, reference: str, candidate: str) -> str:
        """Return radeval's GREEN prompt."""
        return green_prompt()(reference, candidate)

    def read(self, answer: str) -> float | str:
        """Return GREEN, or the reason why the answer gives none."""
        counts = parse_green(answer)
        return counts if isinstance(counts, str) else counts.score
