"""How long a whole run still takes, from its rehearsal or from what has run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conrad_bench import course
from conrad_bench.course import Course, rehearsed
from conrad_bench.progress import Reporter

PARTS = [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    return now


def test_what_has_run_tells_what_is_left(clock: list[float]) -> None:
    found = Course(PARTS, {})
    assert str(found) == "part 1 of 4"
    with found.part(PARTS[0]):
        clock[0] += 60
        assert found.left() is None
    assert str(found) == "part 2 of 4, about 3 min 0 s left for all"
    with found.part(PARTS[1]):
        clock[0] += 180
        assert found.left() == 120  # what was expected of it is over, not what it takes
    assert found.left() == 60 + 180  # each as the same method's other part
    with found.part(PARTS[2]):
        clock[0] += 45
        assert found.left() == 15 + 180
        assert str(found) == "part 3 of 4, about 3 min 15 s left for all"


def test_a_rehearsal_tells_it_from_the_start(clock: list[float], tmp_path: Path) -> None:
    hours = {("a", "x"): 1.0, ("b", "x"): 2.0, ("a", "y"): 3.0, ("b", "y"): 4.0}
    stages = [{"method": m, "task": t, "part": "fit", "hours": h / 2} for (m, t), h in hours.items() for _ in range(2)]
    stages += [{"method": "", "task": "", "hours": 9.0}, {"method": "a", "task": "x", "hours": None}]
    (tmp_path / "rehearsal.json").write_text(json.dumps({"stages": stages}))
    found = Course(PARTS, rehearsed(tmp_path))
    assert found.left() == 10 * 3600
    with found.part(PARTS[0]):
        clock[0] += 1800
        assert found.left() == 9.5 * 3600
    assert found.left() == 9 * 1800  # twice as fast as expected
    assert str(found) == "part 2 of 4, about 4 h 30 min left for all"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"stages": [1, {"hours": "x", "method": "a", "task": "x"}]}'])
def test_what_is_no_rehearsal_tells_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "rehearsal.json").write_text(content)
    assert rehearsed(tmp_path) == {}
    assert rehearsed(tmp_path / "nowhere") == {}


def test_a_stage_that_lasts_says_how_far_the_run_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conrad_bench.progress.EVERY", 0.05)
    reporter = Reporter()
    reporter.whole = lambda: "part 2 of 4"
    with reporter.stage("generate", 8) as advance:
        advance(3)
        import time

        time.sleep(0.2)
    assert "left; part 2 of 4\n" in capsys.readouterr().err
