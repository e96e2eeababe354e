"""The sentence splitter: nasty hand-made texts, properties of any text, the phantom grammar, all IU-Xray findings."""

import os
import re
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conrad_bench.reading.sentences import sentence_spans
from conrad_bench.tasks.phantom import grammar, world
from conrad_bench.tasks.phantom.writing import wording

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORTS = DATA / "iu-xray" / "NLMCXR_reports.tgz"


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        # Abbreviations, numbers and names.
        ("Seen by Dr. X. No effusion.", ["Seen by Dr. X.", "No effusion."]),
        ("Told to Dr. J. K. Smith. Lungs clear.", ["Told to Dr. J. K. Smith.", "Lungs clear."]),
        ("Discussed with J. Smith by phone.", ["Discussed with J. Smith by phone."]),
        ("Read by Mary B. Jones. No change.", ["Read by Mary B. Jones.", "No change."]),
        ("Known hepatitis C. Lungs clear.", ["Known hepatitis C.", "Lungs clear."]),
        ("A 1.5 cm nodule. Tip 2.0 cm. above it.", ["A 1.5 cm nodule.", "Tip 2.0 cm. above it."]),
        ("Nodule of 8 mm. The rest is clear.", ["Nodule of 8 mm.", "The rest is clear."]),
        ("Patient s/p CABG. Wires intact.", ["Patient s/p CABG.", "Wires intact."]),
        ("Moved at 5 a.m. and at 6 p.m. The tip is low.", ["Moved at 5 a.m. and at 6 p.m.", "The tip is low."]),
        ("Called at 5 p.m. ___ by phone.", ["Called at 5 p.m. ___ by phone."]),
        ("Atelectasis vs. Pneumonia.", ["Atelectasis vs. Pneumonia."]),
        ("Lines, e.g. Swan-Ganz, are unchanged.", ["Lines, e.g. Swan-Ganz, are unchanged."]),
        ("No. 2 line in place. Effusion: no. Heart fine.", ["No. 2 line in place.", "Effusion: no.", "Heart fine."]),
        ("R. lung and L. lung clear.", ["R. lung and L. lung clear."]),
        ("Fracture of rib 4. The rest of T12. Intact.", ["Fracture of rib 4.", "The rest of T12.", "Intact."]),
        ("Clear lungs. 6 mm nodule.", ["Clear lungs.", "6 mm nodule."]),
        # Redactions.
        ("XXXX. XXXX are clear.", ["XXXX.", "XXXX are clear."]),
        ("Dr. ___ saw ___. ___ is stable.", ["Dr. ___ saw ___.", "___ is stable."]),
        # Punctuation.
        ("Edema? No pneumonia ? infiltrate. ?Effusion!", ["Edema?", "No pneumonia ? infiltrate.", "?Effusion!"]),
        ('Normal. (Unchanged.) "Clear." **Good.** End', ["Normal.", "(Unchanged.)", '"Clear."', "**Good.**", "End"]),
        ("No effusion.. Heart ... is normal . Clear", ["No effusion..", "Heart ... is normal .", "Clear"]),
        ("Lungs clear.The heart is normal.", ["Lungs clear.", "The heart is normal."]),
        ("lungs clear. heart normal", ["lungs clear.", "heart normal"]),
        ("Heart normal. . ", ["Heart normal. ."]),
        ("Clear. 19/33.", ["Clear. 19/33."]),
        # Lists.
        ("1. Heart normal. 2. Lungs clear.", ["1. Heart normal.", "2. Lungs clear."]),
        ("1. Heart normal 2. Lungs clear", ["1. Heart normal", "2. Lungs clear"]),
        ("(1) Heart normal. (2) Lungs clear.", ["(1) Heart normal.", "(2) Lungs clear."]),
        ("1) Heart normal\n2) Lungs clear\n", ["1) Heart normal", "2) Lungs clear"]),
        ("A. Heart normal. B. Lungs clear.", ["A. Heart normal.", "B. Lungs clear."]),
        ("- heart normal\n- lungs clear\n* no air", ["- heart normal", "- lungs clear", "* no air"]),
        ("Findings:\n\n- **Heart:** Normal.\n- Clear", ["Findings:\n\n- **Heart:** Normal.", "- Clear"]),
        # Headings before a list.
        ("IMPRESSION:\n\n1. Plaques.\n\n2. No air.", ["IMPRESSION:\n\n1. Plaques.", "2. No air."]),
        ("Findings:\n1. Heart normal.\n2. Clear.", ["Findings:\n1. Heart normal.", "2. Clear."]),
        ("IMPRESSION: 1. Plaques. 2. No air. 3. Ok.", ["IMPRESSION: 1. Plaques.", "2. No air.", "3. Ok."]),
        ("Impression: 1. Plaques 2. No air", ["Impression: 1. Plaques", "2. No air"]),
        ("IMPRESSION: 1. Stable.", ["IMPRESSION: 1. Stable."]),
        ("Impression\n1. Stable heart.\n2. No air.", ["Impression\n1. Stable heart.", "2. No air."]),
        ("**Findings**\n\nHeart normal. Clear.", ["**Findings**\n\nHeart normal.", "Clear."]),
        ("## Chest film\n- Heart normal\n- Clear", ["## Chest film\n- Heart normal", "- Clear"]),
        ("IMPRESSION:\na. Plaques.\nb. No air.", ["IMPRESSION:\na. Plaques.", "b. No air."]),
        ("IMPRESSION: #1. Plaques. #2. No air.", ["IMPRESSION: #1. Plaques.", "#2. No air."]),
        ("Grade of effusion: 1. Heart normal.", ["Grade of effusion: 1.", "Heart normal."]),
        # Lines.
        ("Heart normal\nLungs clear", ["Heart normal", "Lungs clear"]),
        ("Heart normal\n\nlungs clear", ["Heart normal", "lungs clear"]),
        ("There is a small\nleft pleural effusion.", ["There is a small\nleft pleural effusion."]),
        ("The tip of the\nSwan-Ganz catheter.", ["The tip of the\nSwan-Ganz catheter."]),
        ("Told to Dr.\nSmith. Lungs\r\nclear.\r\n\r\nGood", ["Told to Dr.\nSmith.", "Lungs\r\nclear.", "Good"]),
        (
            "There is no evidence of pneumothorax, and the position of the upper\nSwan-Ganz catheter is unchanged.",
            ["There is no evidence of pneumothorax, and the position of the upper\nSwan-Ganz catheter is unchanged."],
        ),
        # Nothing said.
        ("", []),
        (" \n\n ", []),
        ("___ ... 12. \n", []),
    ],
)
def test_hand_made_texts(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


PIECES = st.sampled_from(
    [*"aB7.?!:,;-*()[]\"'_ \n\r\t", "..", "\n\n", "\n- ", "1. ", "2) ", "XXXX", "___", "Dr. ", "a.m. ", "No. ", "lungs"]
)
TEXT = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=60))


@given(TEXT)
@example("\n\n_\n")
def test_spans_are_ordered_and_lose_only_white_space(text: str) -> None:
    spans = sentence_spans(text)
    parts = [text[start:end] for start, end in spans]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert all(part == part.strip() and any(c.isalpha() for c in part) for part in parts)
    assert bool(spans) == any(c.isalpha() for c in text)
    if spans:
        assert "".join("".join(parts).split()) == "".join(text.split())


@given(TEXT)
@example("\n\n_\n")
def test_blank_lines_end_sentences_unless_a_colon_announces(text: str) -> None:
    for part in split(text):
        for blank in re.finditer(r"\n\s*\n", part):
            before, after = part[: blank.start()], part[blank.end() :]
            unlettered = not (any(c.isalpha() for c in before) and any(c.isalpha() for c in after))
            assert unlettered or before.rstrip("*_ \t\r\n").endswith(":")


@given(st.integers(0, 10_000), st.lists(st.sampled_from([" ", "\n", "  ", "\r\n"]), min_size=1, max_size=30))
def test_phantom_reports_split_as_their_grammar_does(seed: int, blanks: list[str]) -> None:
    study = next(world.studies(1, seed))
    sentences = wording(study)
    report = " ".join(sentences)
    assert split(report) == grammar.sentences(report) == sentences
    # Whatever blanks stand between words and sentences.
    words = report.split()
    broken = "".join(word + blanks[i % len(blanks)] for i, word in enumerate(words))
    assert [" ".join(part.split()) for part in split(broken)] == sentences
    # One sentence a line, without full stops.
    assert split("\n".join(s.rstrip(".") for s in sentences)) == [s.rstrip(".") for s in sentences]


@pytest.mark.skipif(not REPORTS.is_file(), reason=f"{REPORTS} is not there (CONRAD_BENCH_TEST_DATA names its folder)")
def test_all_findings_of_iu_xray() -> None:
    texts = []
    with tarfile.open(REPORTS) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                tree = ElementTree.fromstring(file.read())
                texts += [part.text for part in tree.iter("AbstractText") if part.get("Label") == "FINDINGS"]
    findings = [text for text in texts if text and text.strip()]
    assert len(findings) == 3425
    reports = [split(text) for text in findings]
    for text, report in zip(findings, reports, strict=True):
        assert report
        assert "".join("".join(report).split()) == "".join(text.split())
    sentences = [sentence for report in reports for sentence in report]
    assert 4 < np.mean([len(report) for report in reports]) < 5.5
    assert max(len(report) for report in reports) <= 20
    lengths = np.array([len(sentence) for sentence in sentences])
    assert 40 < lengths.mean() < 55
    assert lengths.max() < 300
    # Nearly all end in a stop, and hardly any holds a stop inside: numbering, times, and stops standing alone.
    assert np.mean([sentence[-1] in ".?!" for sentence in sentences]) > 0.995
    inside = [sentence for sentence in sentences if re.search(r"\w[.?!]\s+\w", sentence)]
    assert len(inside) <= 10
    # The sentences that recur most are whole ones.
    usual = Counter(sentences).most_common(3)
    assert {"Lungs are clear.", "The lungs are clear."} <= {sentence for sentence, _ in usual}
