"""`conrad-bench doctor` on this machine, as a user runs it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from test_cli import conrad_bench

from conrad_bench import doctor
from conrad_bench.registry import Registry

ROOT = Path(__file__).parents[1]


def test_the_embedded_model_answers_on_every_engine_that_is_installed(tmp_path: Path) -> None:
    done = conrad_bench("doctor", "--model", "phantom", cwd=tmp_path, MIMIC_CXR_ROOT="", IU_XRAY_ROOT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ok +engine transformers: wrote 8 tokens, [0-9.]+ s with loading$", done.stdout, re.M)
    assert re.search(rf"^(ok|note) +torch: {re.escape(version('torch'))}", done.stdout, re.M)
    assert re.search(r"^ok +model: phantom, sha256:[0-9a-f]{12}$", done.stdout, re.M)
    named = r" is not set\n +-> name the folder by it or by --data-root; "
    drawn = (
        rf"^note +data of mimic_report, mimic_sentence: MIMIC_CXR_ROOT{named}without either a run takes phantom data$"
    )
    assert re.search(drawn, done.stdout, re.M)
    assert re.search(rf"^note +data of slake: SLAKE_ROOT{named}no phantom data stand in$", done.stdout, re.M)
    assert f"ok      data of iu_xray_report, iu_xray_sentence: IU_XRAY_ROOT={tmp_path};" in done.stdout


def test_every_problem_is_named_with_its_remedy(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    done = conrad_bench("doctor", "--model", str(tmp_path), cwd=tmp_path, MIMIC_CXR_ROOT=gone)
    assert done.returncode == 1
    assert (
        f"problem data of mimic_report, mimic_sentence: MIMIC_CXR_ROOT={gone} is no folder\n        -> set"
        in done.stdout
    )
    assert f"problem model: {tmp_path} cannot be used\n        -> {tmp_path} is no checkpoint" in done.stdout
    assert done.stderr == "error: 2 problem(s) found; each is named above with its remedy\n"


def test_another_version_than_the_known_one_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.KNOWN, "peft", "0.0.1")
    monkeypatch.setitem(doctor.KNOWN, "a-package-that-is-nowhere", "1.0")
    found = {finding.what: finding for finding in doctor._packages()}
    assert found["peft"].state == "note"
    assert found["peft"].remedy == "if something fails: pip install peft==0.0.1"
    assert found["a-package-that-is-nowhere"].state == "problem"


def test_known_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in doctor.KNOWN} == doctor.KNOWN


def test_an_engine_that_fails_is_a_problem() -> None:
    class Broken(Registry):
        def create(self, kind, name, options):  # type: ignore[no-untyped-def]
            return super().create(kind, name, {**options, "device": "meta:77"})

    states = {finding.what: finding.state for finding in doctor._engines(Broken(), None)}
    assert states["engine transformers"] == "problem"
