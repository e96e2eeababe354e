"""The phantom reports: an invertible grammar between findings and English sentences.

`write` turns findings into sentences, choosing among synonyms; `read` turns one sentence back into the fact it states.
For every study, reading what was written gives exactly `facts(findings)`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from conrad_bench.tasks.phantom.world import SIDES, Findings

ZONES = ("upper", "lower")


class Fact(NamedTuple):
    """What one sentence states. `severity` 0 says that the finding is absent (then `side` and `zone` are empty)."""

    finding: str
    """heart, opacity, effusion, pneumothorax or device."""
    side: str = ""
    zone: str = ""
    severity: int = 0


_FIXED: dict[Fact, tuple[str, ...]] = {
    Fact("heart"): (
        "Heart size is normal.",
        "The cardiac silhouette is normal.",
        "The heart is normal in size.",
    ),
    Fact("heart", severity=1): ("There is mild cardiomegaly.", "The heart is mildly enlarged."),
    Fact("heart", severity=2): ("There is severe cardiomegaly.", "The heart is severely enlarged."),
    Fact("opacity"): ("The lungs are clear.", "There is no focal opacity."),
    Fact("effusion"): ("No pleural effusion.", "There is no pleural effusion."),
    Fact("pneumothorax"): ("No pneumothorax.", "There is no pneumothorax."),
    Fact("device"): ("No support device is seen.", "There is no support device."),
    Fact("device", "left", severity=1): ("A left chest pacemaker is present.", "There is a left chest pacemaker."),
    Fact("device", "right", severity=2): ("A right central line is present.", "There is a right central line."),
}


def _build() -> dict[Fact, tuple[str, ...]]:
    sentences = dict(_FIXED)
    for side in SIDES:
        for severity, word in ((1, "small"), (2, "large")):
            sentences[Fact("effusion", side, severity=severity)] = (
                f"{word.capitalize()} {side} pleural effusion.",
                f"There is a {word} {side} pleural effusion.",
            )
        for zone in ZONES:
            for severity, word in ((1, "patchy"), (2, "dense")):
                sentences[Fact("opacity", side, zone, severity)] = (
                    f"{word.capitalize()} opacity in the {side} {zone} lung.",
                    f"There is a {word} {side} {zone} lung opacity.",
                )
        sentences[Fact("pneumothorax", side, severity=1)] = (
            f"{side.capitalize()} pneumothorax.",
            f"There is a {side} pneumothorax.",
        )
    return sentences


SENTENCES = _build()
"""Every fact with its synonyms."""


def _normalise(sentence: str) -> str:
    return " ".join(re.sub(r"[^a-z ]", " ", sentence.lower()).split())


_FACT_OF = {_normalise(text): fact for fact, texts in SENTENCES.items() for text in texts}


def read(sentence: str) -> Fact | None:
    """Return the fact that a sentence states, or None if it is not a sentence of this grammar.

    Capitals, punctuation and spacing do not matter.
    """
    return _FACT_OF.get(_normalise(sentence))


def facts(findings: Findings) -> list[Fact]:
    """Return the facts of a complete report, in the order in which reports state them."""
    out = [Fact("heart", severity=findings.heart)]
    opacities = [
        Fact("opacity", side, ZONES[findings.opacity_zone[i]], findings.opacity[i])
        for i, side in enumerate(SIDES)
        if findings.opacity[i]
    ]
    effusions = [
        Fact("effusion", side, severity=findings.effusion[i]) for i, side in enumerate(SIDES) if findings.effusion[i]
    ]
    air = [Fact("pneumothorax", side, severity=1) for i, side in enumerate(SIDES) if findings.pneumothorax[i]]
    out += opacities or [Fact("opacity")]
    out += effusions or [Fact("effusion")]
    out += air or [Fact("pneumothorax")]
    out.append(
        (Fact("device"), Fact("device", "left", severity=1), Fact("device", "right", severity=2))[findings.device]
    )
    return out


def write(findings: Findings, rng: np.random.Generator) -> list[str]:
    """Return the sentences of a report, each fact in one of its wordings."""
    return [str(rng.choice(SENTENCES[fact])) for fact in facts(findings)]


def sentences(text: str) -> list[str]:
    """Split a text into sentences at full stops and line ends; empty ones are dropped."""
    return [part.strip() for part in re.findall(r"[^.\n]+\.?", text) if re.search(r"\w", part)]
