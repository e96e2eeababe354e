"""The phantom world, its grammar and its scorer."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.plan import is_phantom, phantom_writer
from conrad_bench.tasks.phantom import grammar, render, world
from conrad_bench.tasks.phantom.grammar import Fact
from conrad_bench.tasks.phantom.green import PhantomGreen, phantom_green, phantom_precision_green
from conrad_bench.tasks.phantom.world import Findings
from conrad_bench.types import Claim, Example

SEVERITY = st.integers(0, 2)
BIT = st.integers(0, 1)
FINDINGS = st.builds(
    Findings,
    heart=SEVERITY,
    effusion=st.tuples(SEVERITY, SEVERITY),
    opacity=st.tuples(SEVERITY, SEVERITY),
    opacity_zone=st.tuples(BIT, BIT),
    pneumothorax=st.tuples(BIT, BIT),
    device=SEVERITY,
)
SEED = st.integers(0, 2**32)
NORMAL = "Heart size is normal. The lungs are clear. No pleural effusion. No pneumothorax. No support device is seen."


def write(findings: Findings, seed: int) -> str:
    return " ".join(grammar.write(findings, np.random.default_rng(seed)))


def test_a_study_does_not_depend_on_the_size_of_the_world() -> None:
    small, large = list(world.studies(50, 7)), list(world.studies(400, 7))
    assert large[:50] == small
    test_patients = list(world.studies(100, 7, split="test"))
    assert all(world.split_of(study.patient) == "test" for study in test_patients)
    by_place = {(study.patient, study.index): study for study in large}
    common = [study for study in test_patients if (study.patient, study.index) in by_place]
    assert len(common) > 50
    assert all(by_place[study.patient, study.index] == study for study in common)
    assert list(world.studies(50, 8)) != small
    assert list(world.studies(0, 7)) == []


def test_splits_hold_whole_patients_in_the_stated_fractions() -> None:
    splits = Counter(world.split_of(patient) for patient in range(1000))
    assert splits == {"train": 600, "validate": 100, "test": 300}
    patients: dict[str, set[int]] = {"train": set(), "validate": set(), "test": set()}
    for study in world.studies(2000, 3):
        patients[world.split_of(study.patient)].add(study.patient)
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validate"]
    assert not patients["validate"] & patients["test"]
    with_studies = Counter(world.split_of(study.patient) for study in world.studies(2000, 3))
    assert with_studies["train"] / 2000 == pytest.approx(0.6, abs=0.05)
    assert with_studies["test"] / 2000 == pytest.approx(0.3, abs=0.05)


def test_scanner_changes_prevalence_in_the_stated_direction() -> None:
    def abnormal(prevalence: float) -> float:
        scanner = world.Scanner(prevalence=prevalence)
        return float(np.mean([study.findings.effusion[0] > 0 for study in world.studies(1000, 0, scanner)]))

    assert abnormal(0.5) < abnormal(1.0) < abnormal(2.0)
    # 0.44 is the effusion's prevalence with odds unchanged; at 1,000 studies its standard error is 0.016.
    assert abnormal(1.0) == pytest.approx(0.44, abs=0.06)


def test_images_repeat_and_show_findings_and_quality() -> None:
    study = next(world.studies(1, 0))
    image = render.frontal(study)
    assert image.shape == (render.SIZE, render.SIZE)
    assert image.dtype == np.uint8
    assert (image == render.frontal(study)).all()
    assert (render.lateral(study) != image).any()
    # The poorer half of the studies is the rougher one: neighbouring pixels differ more.
    studies = list(world.studies(200, 0))
    roughness = [np.abs(np.diff(render.frontal(s).astype(float), axis=0)).mean() for s in studies]
    assert np.corrcoef(roughness, [s.quality for s in studies])[0, 1] < -0.5


@given(FINDINGS, SEED)
def test_reading_what_was_written_gives_the_facts(findings: Findings, seed: int) -> None:
    text = write(findings, seed)
    assert [grammar.read(sentence) for sentence in grammar.sentences(text)] == grammar.facts(findings)
    shouted = text.upper().replace(" ", "\n ").replace(".", " .")
    assert [grammar.read(" ".join(s.split())) for s in shouted.split(".")][:-1] == grammar.facts(findings)


@given(FINDINGS, FINDINGS)
def test_different_findings_give_different_facts(one: Findings, other: Findings) -> None:
    def seen(f: Findings) -> tuple[object, ...]:
        # The zone means nothing where there is no opacity.
        zones = [z for z, severity in zip(f.opacity_zone, f.opacity, strict=True) if severity]
        return f.heart, f.effusion, f.opacity, *zones, f.pneumothorax, f.device

    assert (grammar.facts(one) == grammar.facts(other)) == (seen(one) == seen(other))


def test_every_wording_is_read_as_its_own_fact() -> None:
    for fact, wordings in grammar.SENTENCES.items():
        assert [grammar.read(wording) for wording in wordings] == [fact] * len(wordings)
    assert grammar.read("The patient has a cold.") is None
    assert grammar.read("") is None
    assert grammar.read("small right pleural effusion") == Fact("effusion", "right", "", 1)


@given(FINDINGS, FINDINGS, SEED)
def test_score_lies_in_the_unit_interval_and_is_one_for_itself(one: Findings, other: Findings, seed: int) -> None:
    candidate, reference = write(one, seed), write(other, seed + 1)
    assert 0 <= phantom_green(candidate, reference) <= 1
    assert phantom_green(candidate, write(one, seed + 2)) == 1
    assert (phantom_green(candidate, reference) == 1) == (grammar.facts(one) == grammar.facts(other))


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        # One finding with an error: severity, side, zone each cost one error beside four matches.
        ("Small left pleural effusion.", "Large left pleural effusion.", 4 / 5),
        ("Small left pleural effusion.", "Small right pleural effusion.", 4 / 5),
        ("Patchy opacity in the left upper lung.", "Patchy opacity in the left lower lung.", 4 / 5),
        # Severity and side both wrong is still the one finding.
        ("Small left pleural effusion.", "Large right pleural effusion.", 4 / 5),
        # Two findings exchanged cost two errors.
        (
            "Small left pleural effusion. Large right pleural effusion.",
            "Large left pleural effusion. Small right pleural effusion.",
            4 / 6,
        ),
        # Missing and false findings; a wrong statement of absence is not counted a second time.
        ("No pleural effusion.", "Small left pleural effusion.", 4 / 5),
        ("Small left pleural effusion.", "No pleural effusion.", 4 / 5),
        (
            "Small left pleural effusion.",
            "Small left pleural effusion. Large right pleural effusion.",
            5 / 6,
        ),
    ],
)
def test_score_of_hand_counted_errors(candidate: str, reference: str, expected: float) -> None:
    about = "opacity" if "opacity" in candidate else "effusion"
    rest = " ".join(s for s in grammar.sentences(NORMAL) if (fact := grammar.read(s)) and fact.finding != about)
    assert phantom_green(f"{rest} {candidate}", f"{rest} {reference}") == pytest.approx(expected)
    # Candidate and reference exchanged, a wrong side or severity is the same error.
    assert phantom_green(f"{rest} {reference}", f"{rest} {candidate}") == pytest.approx(expected)


def test_score_of_nothing_and_of_nonsense() -> None:
    assert phantom_green("", NORMAL) == 0
    assert phantom_green("It is cold outside.", NORMAL) == 0
    assert phantom_green(f"{NORMAL} It is cold outside.", NORMAL) == pytest.approx(5 / 6)


def test_scorer_judges_reports_and_sentences() -> None:
    example = Example("s1", "p1", "test", (), "", NORMAL)

    def claim(text: str) -> Claim:
        return Claim(text, (0, len(text)))

    scorer = PhantomGreen()
    assert scorer.score([(example, claim(NORMAL))], "report")[0].value == 1
    pairs = [(example, claim(s)) for s in ("The lungs are clear.", "Left pneumothorax.", "Hello.")]
    scores = scorer.score(pairs, "sentence")
    assert [score.value for score in scores] == [1, 0, None]
    assert scores[2].reason
    assert phantom_precision_green("THE LUNGS ARE CLEAR", NORMAL) == 1


@pytest.mark.parametrize("layout", ["mimic", "openi", "vqa_rad"])
def test_a_tree_is_known_as_phantom_wherever_it_lies(tmp_path: Path, layout: str) -> None:
    phantom_writer(layout)(tmp_path / "tree", 3, 0)
    assert is_phantom(tmp_path / "tree")
    assert not is_phantom(tmp_path)
    assert not is_phantom(None)
    (tmp_path / "README.txt").write_text("VQA-RAD, the real one")
    assert not is_phantom(tmp_path)
