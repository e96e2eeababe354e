"""Patients and studies of the phantom world: what is there to be seen, before it is drawn or written down.

Everything about patient number `p` of a world with seed `s` follows from the pair (s, p) alone, so a world can be cut
anywhere, and the same seed gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from conrad_bench.types import Split

SIDES = ("left", "right")

INDICATIONS = (
    "Shortness of breath.",
    "Chest pain.",
    "Cough and fever, evaluate for pneumonia.",
    "Preoperative evaluation.",
    "Status post line placement.",
    "Fall, evaluate for injury.",
    "Follow up of known disease.",
    "Weakness.",
)


@dataclass(frozen=True, slots=True)
class Scanner:
    """What differs between hospitals: image quality, contrast and how frequent the findings are."""

    clutter: float = 0.60
    """Amplitude of the spatially correlated clutter at quality 0."""
    contrast: float = 1.0
    """Factor on the contrast of the findings."""
    prevalence: float = 1.0
    """Factor on the odds of every finding."""
    quality: tuple[float, float] = (0.8, 1.2)
    """Parameters (a, b) of the Beta distribution of image quality."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The truth of one study. Severities: 0 absent, 1 mild / small / patchy, 2 severe / large / dense."""

    heart: int
    effusion: tuple[int, int]
    """Severity on the (left, right) side."""
    opacity: tuple[int, int]
    """Severity on the (left, right) side."""
    opacity_zone: tuple[int, int]
    """0 upper, 1 lower, on the (left, right) side; without meaning where there is no opacity."""
    pneumothorax: tuple[int, int]
    """0 or 1 on the (left, right) side."""
    device: int
    """0 none, 1 left chest pacemaker, 2 right central line."""


@dataclass(frozen=True, slots=True)
class Study:
    """One study of one patient."""

    patient: int
    index: int
    """Number of the study among the patient's studies, from 0."""
    findings: Findings
    quality: float
    """Image quality in [0, 1]: it sets noise and clutter of every image of the study."""
    lateral: bool
    """Whether there is a lateral image beside the frontal one."""
    projection: str
    """ViewPosition of the frontal image: PA or AP."""
    indication: str
    sex: str
    age: int
    seed: tuple[int, int, int]
    """Seeds the random numbers of images and wording."""


def _severity(rng: np.random.Generator, odds: float, p1: float, p2: float) -> int:
    """Return 0, 1 or 2, with the odds of p1 + p2 multiplied by `odds`."""
    p = p1 + p2
    scaled = odds * p / (1 - p + odds * p)
    if rng.random() >= scaled:
        return 0
    return 1 if rng.random() < p1 / p else 2


def _patient(seed: int, patient: int, scanner: Scanner) -> list[Study]:
    rng = np.random.default_rng((seed, patient))
    sex = "F" if rng.random() < 0.5 else "M"
    age = int(np.clip(rng.normal(62, 15), 18, 95))
    # What lasts between the studies of one patient: heart size, a device, and how well this patient can be imaged.
    heart_lasting = _severity(rng, scanner.prevalence, 0.30, 0.25)
    device_lasting = int(rng.choice(3, p=(0.60, 0.22, 0.18)))
    imaging = rng.normal(0, 0.6)
    studies = []
    for index in range(1 + int(rng.geometric(0.4))):
        heart = heart_lasting if rng.random() < 0.8 else _severity(rng, scanner.prevalence, 0.30, 0.25)
        effusion, opacity, zone, air = [], [], [], []
        for _ in SIDES:
            effusion.append(_severity(rng, scanner.prevalence, 0.26, 0.22))
            opacity.append(_severity(rng, scanner.prevalence, 0.29, 0.25))
            zone.append(int(rng.random() < 0.5))
            air.append(int(rng.random() < 0.18 * scanner.prevalence))
        device = device_lasting if rng.random() < 0.9 else int(rng.choice(3, p=(0.60, 0.22, 0.18)))
        draw = rng.beta(*scanner.quality)
        logit = np.log((draw + 1e-6) / (1 - draw + 1e-6)) + imaging
        studies.append(
            Study(
                patient=patient,
                index=index,
                findings=Findings(
                    heart=heart,
                    effusion=(effusion[0], effusion[1]),
                    opacity=(opacity[0], opacity[1]),
                    opacity_zone=(zone[0], zone[1]),
                    pneumothorax=(air[0], air[1]),
                    device=device,
                ),
                quality=float(1 / (1 + np.exp(-logit))),
                lateral=bool(rng.random() < 0.6),
                projection="PA" if rng.random() < 0.6 else "AP",
                indication=str(rng.choice(INDICATIONS)),
                sex=sex,
                age=age,
                seed=(seed, patient, index),
            )
        )
    return studies


def split_of(patient: int) -> Split:
    """Return the split that a patient belongs to: 6 of 10 patients train, 1 validates, 3 test.

    Whole patients, never studies, are assigned, and the rule does not depend on the size of the world.
    """
    place = patient % 10
    return "train" if place < 6 else "validate" if place == 6 else "test"


def studies(number: int, seed: int, scanner: Scanner = Scanner(), split: Split | None = None) -> Iterator[Study]:
    """Yield `number` studies of a world, patient after patient; with `split`, of that split's patients only.

    The last patient's studies are cut off where the number is reached.
    """
    patient, left = 0, number
    while left > 0:
        if split is None or split_of(patient) == split:
            for study in _patient(seed, patient, scanner)[:left]:
                left -= 1
                yield study
        patient += 1
