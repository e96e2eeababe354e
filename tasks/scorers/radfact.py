"""RadFact: whether the phrases of a report follow from the other one (Bannur et al. 2024, MAIRA-2).

A language model first splits both reports into phrases of one finding each, and is then asked about each phrase of
either report whether it is entailed by the phrases of the other:

    reference: ["The heart is large.", "No effusion."]    candidate: ["The heart is large.", "There is edema."]

    -> logical precision 1/2 (of the candidate's phrases), recall 1/2 (of the reference's), F1 1/2

System messages and examples are those of microsoft/RadFact, read from a clone of it: no package on the index has them.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from pydantic import Field

from conrad_bench.errors import DataError, MissingExtra, PlanError
from conrad_bench.reading.thoughts import spoken
from conrad_bench.tasks.scorers.judge import ModelJudge, answers, json_object
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model

REPOSITORY = "https://github.com/microsoft/RadFact"
RADFACT_MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"
"""The model that the authors verified entailment with; they split reports with GPT-4."""

JSON_FORM = (
    '\nAnswer with one JSON object and nothing else: {"sentence_list": [{"orig": "<sentence>", "new": ["<phrase>"]}]}\n'
)
"""How phrases are to be written (wording ours; the published scorer has langchain's words for a JSON schema)."""

_STATUS = re.compile(r"^[ \t]*status[ \t]*:[ \t]*['\"]?(\w+)['\"]?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_EVIDENCE = re.compile(
    r"^[ \t]*evidence[ \t]*:[ \t]*(?:\[[ \t]*['\"\w]|\n[ \t]*-[ \t]*\S)", re.IGNORECASE | re.MULTILINE
)
_STATES = {"entailment": True, "not_entailment": False, "contradiction": False, "neutral": False}


def parse_phrases(answer: str) -> list[str] | str:
    """Return the phrases of a split report, or the reason why the answer gives none.

    A sentence without a finding has an empty phrase, or none.
    """
    found = json_object(answer)
    if isinstance(found, str):
        return found
    sentences = found.get("sentence_list")
    if not isinstance(sentences, list):
        return "the answer has no list of sentences"
    phrases: list[str] = []
    for sentence in sentences:
        new = sentence.get("new") if isinstance(sentence, dict) else None
        if not isinstance(new, list) or not all(isinstance(phrase, str) for phrase in new):
            return "a sentence has no list of phrases"
        phrases += [phrase.strip() for phrase in new if phrase.strip()]
    return phrases


def parse_entailment(answer: str) -> bool | str:
    """Return whether a phrase is entailed, or the reason why the answer does not say.

    As in the published scorer, an entailed phrase needs evidence, and contradiction and neutral are no entailment.
    There an answer that cannot be read counts as "not entailed".
    """
    text = re.sub(r"```\w*", "", spoken(answer))
    states = [state.lower() for state in _STATUS.findall(text)]
    if len(states) != 1:
        return f"the answer has {'no status' if not states else 'several statuses'}"
    if states[0] not in _STATES:
        return f"the status is none of {', '.join(_STATES)}"
    if _STATES[states[0]] and not _EVIDENCE.search(text):
        return "a phrase is said to be entailed without evidence"
    return _STATES[states[0]]


class Prompts:
    """System messages and examples of both steps, read from a clone of RadFact."""

    def __init__(self, folder: Path) -> None:
        system, examples = _files(folder / "report_to_phrases", "system_message.txt")
        split = [
            (example["findings_text"], json.dumps({"sentence_list": example["parsed_report"]["sentence_list"]}))
            for example in examples
        ]
        self._split = _turns(system + JSON_FORM, split)
        system, examples = _files(folder / "nli", "system_message_ev_singlephrase.txt")
        entail = [
            (query(example["input"][other], each["phrase"]), _said(each))
            for example in examples
            for own, other in (("A", "phrases_B"), ("B", "phrases_A"))
            for each in example["output"][f"phrases_{own}_evidenced"]
        ]
        self._entail = _turns(system, entail)

    def split(self, report: str) -> Prompt:
        """Return the prompt that splits a report."""
        return Prompt((*self._split, Message("user", report)))

    def entail(self, reference: Sequence[str], phrase: str) -> Prompt:
        """Return the prompt about a phrase, given the phrases of the other report."""
        return Prompt((*self._entail, Message("user", query(reference, phrase))))


def _turns(system: str, examples: Sequence[tuple[str, str]]) -> list[Message]:
    """Return the turns of examples, the system's message in front of the first."""
    turns = [message for user, said in examples for message in (Message("user", user), Message("assistant", said))]
    return [Message("user", f"{system.strip()}\n\n{turns[0].text}"), *turns[1:]]


def query(reference: Sequence[str], phrase: str) -> str:
    """Return what is asked about a phrase, as the published scorer writes it."""
    return yaml.dump({"reference": list(reference), "hypothesis": phrase}, sort_keys=False)


def _said(example: dict[str, Any]) -> str:
    """Return the answer of an example, its status made one of two."""
    status = "entailment" if _STATES[example["status"]] else "not_entailment"
    answer = {"phrase": example["phrase"], "evidence": example["evidence"], "status": status}
    return yaml.dump(answer, sort_keys=False)


def _files(folder: Path, system: str) -> tuple[str, Any]:
    """Return the system message and the examples for chest X-rays of one step, as the clone's version lays them."""
    found = []
    for name in (system, "few_shot_examples.json"):
        paths = [folder / "prompts" / "cxr" / name, folder / "prompts" / name]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise DataError(f"{paths[0]}: there is no such file; radfact.repository must be a clone of {REPOSITORY}")
        found.append(path.read_text(encoding="utf-8"))
    return found[0], json.loads(found[1])


@cache
def prompts(repository: str | None) -> Prompts:
    """Return the prompts of a clone of RadFact, or of the installed package that is one.

    Raises MissingExtra where there is neither, DataError for a folder that is no such clone.
    """
    if repository is not None:
        folder = Path(repository).expanduser() / "src" / "radfact"
    else:
        spec = importlib.util.find_spec("radfact")
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtra(
                f"scorer 'radfact' takes its prompts from a clone: git clone {REPOSITORY}, then "
                "-o radfact.repository=RadFact"
            )
        folder = Path(next(iter(spec.submodule_search_locations)))
    try:
        return Prompts(folder / "llm_utils")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder}: its prompts cannot be read; take a fresh clone of {REPOSITORY}") from error


class RadFact(ModelJudge):
    """RadFact of whole reports (logical F1) and of sentences (logical precision)."""

    name: ClassVar[str] = "radfact"
    summary: ClassVar[str] = "RadFact: phrases that follow from the other report, both ways, judged by a model"
    source: ClassVar[str] = "Bannur et al. 2024 (MAIRA-2), RadFact; microsoft/RadFact"
    label: ClassVar[str] = "RadFact"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report", "sentence"})
    answer_tokens: ClassVar[int] = 1024

    model: str = Field(default=RADFACT_MODEL, min_length=1)
    """The judge of both steps: folder of a checkpoint, or a hub id."""
    measure: Literal["f1", "precision", "recall"] | None = None
    """What the score is; None: F1 of reports, precision of sentences."""
    repository: str | None = None
    """Folder of a clone of microsoft/RadFact, which holds the prompts; None: the installed package radfact."""

    def check(self, examples: Sequence[Example]) -> None:
        """Raise MissingExtra or DataError where the prompts are not there."""
        prompts(self.repository)

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Split the reports, then ask about every phrase; all prompts of a step go to the judge together.

        A claim gets None with the reason where one of its answers cannot be read. Raises PlanError as `begin` does, and
        for a recall of sentences.
        """
        measure = self.measure or ("precision" if granularity == "sentence" else "f1")
        if granularity == "sentence" and measure != "precision":
            raise PlanError(f"radfact.measure={measure}: a sentence does not state the whole report; use precision")
        scores, asked, judge = self.begin(pairs, granularity, model)
        made = prompts(self.repository)
        texts = list(dict.fromkeys(text for i in asked for text in (pairs[i][0].reference, pairs[i][1].text)))
        replies = answers(judge, [made.split(text) for text in texts], self.answer_tokens)
        phrases = {text: reply.reason or parse_phrases(reply.text) for text, reply in zip(texts, replies, strict=True)}
        questions: list[tuple[int, str, Prompt]] = []
        for i in asked:
            sides = [phrases[text] for text in (pairs[i][0].reference, pairs[i][1].text)]
            problem = next((side for side in sides if isinstance(side, str)), None)
            if problem is not None:
                scores[i] = Score(None, f"splitting into phrases: {problem}")
                continue
            reference, candidate = (list(side) for side in sides)
            if not reference or (not candidate and measure == "precision"):
                scores[i] = Score(None, f"the {'claim' if reference else 'reference'} has no phrase about a finding")
                continue
            if not candidate:
                continue  # it says nothing that the reference says: 0
            if measure != "recall":
                questions += [(i, "precision", made.entail(reference, phrase)) for phrase in candidate]
            if measure != "precision":
                questions += [(i, "recall", made.entail(candidate, phrase)) for phrase in reference]
        replies = answers(judge, [prompt for *_, prompt in questions], self.answer_tokens)
        found: dict[int, dict[str, list[bool]]] = {}
        unread: dict[int, str] = {}
        for (i, side, _), reply in zip(questions, replies, strict=True):
            entailed = reply.reason or parse_entailment(reply.text)
            if isinstance(entailed, str):
                unread.setdefault(i, f"entailment: {entailed}")
            else:
                found.setdefault(i, {}).setdefault(side, []).append(entailed)
        for i, sides_of in found.items():
            scores[i] = Score(_measured(sides_of, measure))
        return [Score(None, unread[i]) if i in unread else score for i, score in enumerate(scores)]


def _measured(sides: dict[str, list[bool]], measure: str) -> float:
    """Return precision, recall or F1 of one claim."""
    shares = {side: sum(entailed) / len(entailed) for side, entailed in sides.items()}
    if measure != "f1":
        return shares[measure]
    precision, recall = shares["precision"], shares["recall"]
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0
