"""Worlds whose truth is known, for benchmarks/coverage.py: patients with several claims each that depend on each other.

Every function draws from a generator and returns arrays over claims: `unit` (the patient), confidences, correctness.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from conrad_bench.leaderboards.metrics.base import FloatArray, IntArray

STUDIES, PATIENTS = 2_347, 289
"""Of MIMIC-CXR's test split."""
ICC = 0.1


def mimic_patients(random: np.random.Generator) -> IntArray:
    """Return the patient of each study (STUDIES,): everyone has one, the others fall on few patients with many."""
    share = random.gamma(0.7, size=PATIENTS)
    extra = random.choice(PATIENTS, STUDIES - PATIENTS, p=share / share.sum())
    return np.sort(np.concatenate([np.arange(PATIENTS), extra]))


def patients(random: np.random.Generator, n: int, kind: str = "unequal") -> IntArray:
    """Return the patient of each claim, of `n`: "unequal" has 3.2 each on average, "equal" 4, "half" half on one."""
    sizes = {"equal": np.full(n, 4), "half": np.full(n, 2)}.get(kind, random.geometric(1 / 3.2, n))
    if kind == "half":
        sizes[0] = 2 * (n - 1)
    return np.repeat(np.arange(n), sizes)


def normal(random: np.random.Generator, unit: IntArray, icc: float = ICC) -> FloatArray:
    """Return standard normal numbers (n,) with an intraclass correlation."""
    shared = random.standard_normal(int(unit.max()) + 1)[unit]
    return np.asarray(math.sqrt(icc) * shared + math.sqrt(1 - icc) * random.standard_normal(len(unit)))


def bounded(random: np.random.Generator, unit: IntArray, icc: float = ICC) -> FloatArray:
    """Return numbers (n,) in [-1, 1] around 0, sums of two uniform ones, with such a correlation."""
    shared, own = random.uniform(-1, 1, int(unit.max()) + 1)[unit], random.uniform(-1, 1, len(unit))
    a, b = math.sqrt(icc), math.sqrt(1 - icc)
    return np.asarray((a * shared + b * own) / (a + b))


def stated(random: np.random.Generator, unit: IntArray, icc: float, binary: bool) -> tuple[FloatArray, FloatArray]:
    """Return confidences in tenths, too high and correlated with correctness, and correctness; each (n,).

    Binary correctness cuts a normal number at 0, whose ICC is chosen so that the cut one has the one asked for.
    """
    latent = math.sin(math.pi / 2 * icc) if binary else icc
    right = normal(random, unit, latent)
    belief = 0.5 * right + math.sqrt(0.75) * normal(random, unit, latent)
    correctness = (right > 0).astype(float) if binary else ndtr(0.8 * right)
    return np.rint(10 * ndtr(0.7 * belief + 0.8)) / 10, correctness


def off_by(
    random: np.random.Generator, unit: IntArray, error: float, binary: bool, icc: float = ICC
) -> tuple[FloatArray, FloatArray]:
    """Return confidences that are tenths of 2 to 8 and `error` more, and a correctness whose mean is those tenths.

    So the calibration error is `error` at every confidence.
    """
    tenths = np.clip(np.rint(10 * ndtr(normal(random, unit, icc))), 2, 8) / 10
    if binary:
        chance = normal(random, unit, math.sin(math.pi / 2 * icc))
        return tenths + error, (chance < ndtri(tenths)).astype(float)
    return tenths + error, tenths + 0.2 * bounded(random, unit, icc)


def continuous(random: np.random.Generator, unit: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return calibrated confidences of which no two are equal, and binary correctness."""
    confidence = 0.05 + 0.9 * ndtr(normal(random, unit))
    return confidence, (normal(random, unit) < ndtri(confidence)).astype(float)


def nearly_sure(random: np.random.Generator, unit: IntArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Return one calibrated confidence for all claims, and binary correctness; 1.0 gives claims that are all right."""
    right = (normal(random, unit) < ndtri(confidence)).astype(float)
    return np.full(len(unit), min(confidence, 0.99)), right


def unlike_scales(
    random: np.random.Generator, unit: IntArray, r: tuple[float, float], level: tuple[float, float]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return two methods' confidences around two levels with two correlations with correctness, and correctness."""
    y = np.clip(0.5 + 0.17 * normal(random, unit, 0.25), 0, 1)
    z = (y - y.mean()) / y.std()
    a, b = (
        np.clip(at + 0.05 * (rho * z + math.sqrt(1 - rho**2) * random.standard_normal(len(y))), 0, 1)
        for rho, at in zip(r, level, strict=True)
    )
    return a, b, y


def both_sides(random: np.random.Generator, unit: IntArray, error: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return confidences too high and too low by `error`, in levels of 0.05, and continuous correctness."""
    high, y = off_by(random, unit, error, binary=False)
    return high, high - 2 * error, y


def calibrated(random: np.random.Generator, unit: IntArray, icc: float, binary: bool) -> tuple[FloatArray, FloatArray]:
    """Return confidences between .5 and 1, and correctness whose mean at each confidence is the confidence; each (n,).

    Above a threshold t mean correctness is (1 + t) / 2.
    """
    confidence = random.uniform(0.5, 1, len(unit))
    if binary:
        return confidence, (ndtr(normal(random, unit, icc)) < confidence).astype(float)
    return confidence, confidence + (1 - confidence) * bounded(random, unit, icc)
