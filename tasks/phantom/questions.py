"""Questions about phantom studies, with their exact answers: closed ones (yes or no) and open ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from conrad_bench.tasks.phantom import grammar, world
from conrad_bench.tasks.phantom.world import SIDES, Findings


class Question(NamedTuple):
    """A question with its answer; `about` is the finding it asks for."""

    text: str
    answer: str
    about: str


_HEART = ("normal", "mildly enlarged", "severely enlarged")
_DEVICES = ("none", "pacemaker", "central line")


def closed_questions(findings: Findings) -> list[Question]:
    """Return every yes/no question about a study."""
    f = findings
    found = [
        ("Is there cardiomegaly?", f.heart, "heart"),
        ("Is there a pleural effusion?", max(f.effusion), "effusion"),
        ("Is there a lung opacity?", max(f.opacity), "opacity"),
        ("Is there a pneumothorax?", max(f.pneumothorax), "pneumothorax"),
        ("Is there a support device?", f.device, "device"),
        ("Is there a pacemaker?", f.device == 1, "device"),
        ("Is there a central line?", f.device == 2, "device"),
    ]
    for i, side in enumerate(SIDES):
        found += [
            (f"Is there a {side} pleural effusion?", f.effusion[i], "effusion"),
            (f"Is there a {side} lung opacity?", f.opacity[i], "opacity"),
            (f"Is there a {side} pneumothorax?", f.pneumothorax[i], "pneumothorax"),
        ]
    return [Question(text, "yes" if present else "no", about) for text, present, about in found]


def open_questions(findings: Findings) -> list[Question]:
    """Return the questions about a study that are answered by a word or two."""
    f = findings
    questions = [
        Question("What is the size of the heart?", _HEART[f.heart], "heart"),
        Question("Which support device is seen?", _DEVICES[f.device], "device"),
    ]
    for name, values in (("pleural effusion", f.effusion), ("lung opacity", f.opacity)):
        if max(values):
            side = "both" if all(values) else SIDES[int(values[1] > 0)]
            questions.append(Question(f"On which side is the {name}?", side, name.split()[-1]))
    return questions


def draw(findings: Findings, rng: np.random.Generator) -> Question:
    """Draw a question: one of four is open; of the others, about half have the answer yes."""
    if rng.random() < 0.25:
        pool = open_questions(findings)
    else:
        want = "yes" if rng.random() < 0.5 else "no"
        asked = closed_questions(findings)
        pool = [question for question in asked if question.answer == want] or asked
    return pool[int(rng.integers(len(pool)))]


def reasoning(study: world.Study, question: Question, rng: np.random.Generator) -> str:
    """Return the sentences of a report that answer a question: what a model should write before its answer."""
    facts = [fact for fact in grammar.facts(study.findings) if fact.finding == question.about]
    return " ".join(str(rng.choice(grammar.SENTENCES[fact])) for fact in facts)
