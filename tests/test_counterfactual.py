"""Other pictures: what they are, that methods judge given responses beside them, and what boards say of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import linregress
from sklearn.metrics import roc_auc_score
from test_board import CONTEXT, board_of
from test_run import Toy

from conrad_bench.contracts import declared
from conrad_bench.counterfactual import GREY, LONGEST, replaced, swapped
from conrad_bench.errors import ConfigError, DataError, PluginError
from conrad_bench.leaderboards.board.counterfactuals import counterfactuals
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.methods.base import without_references
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records, write_records
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.testing.settings import embedded
from conrad_bench.types import Example

QUIET = Reporter(quiet=True)


def study(patient: int, number: int, view: str | None = "AP", images: tuple[str, ...] = ("x.png",)) -> Example:
    attributes: dict[str, str | float] = {} if view is None else {"view": view}
    return Example(f"{patient}-{number}", f"p{patient}", "test", images, "", f"report {patient}-{number}", attributes)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["AP", "PA", None])), min_size=2, max_size=40),
    st.integers(0, 5),
)
def test_nobody_keeps_their_own_pictures(drawn: list[tuple[int, str | None]], seed: int) -> None:
    examples = [study(patient, k, view) for k, (patient, view) in enumerate(drawn)]
    if len({e.cluster for e in examples}) < 2:
        with pytest.raises(DataError, match="one test patient alone"):
            swapped(examples, seed)
        return
    others = swapped(examples, seed)
    assert swapped(examples[::-1], seed) == others[::-1]
    patients: dict[str, set[str]] = {}
    for example, other in zip(examples, others, strict=True):
        assert other.cluster != example.cluster
        patients.setdefault(f"{example.cluster} {example.attributes.get('view')}", set()).add(other.cluster)
        view = example.attributes.get("view")
        if len({e.cluster for e in examples if e.attributes.get("view") == view}) > 1:
            assert other.attributes.get("view") == view
    assert all(len(found) == 1 for found in patients.values())


def picture(path: Path, size: tuple[int, int] = (40, 30), value: int = 90) -> str:
    Image.new("L", size, value).save(path)
    return str(path)


def test_pictures_are_made_once_and_are_what_their_names_say(tmp_path: Path) -> None:
    one, two, large = (
        picture(tmp_path / f"{n}.png", s, v)
        for n, s, v in (("a", (40, 30), 90), ("b", (40, 30), 91), ("c", (2100, 500), 90))
    )
    (tmp_path / "broken.png").write_bytes(b"no picture")
    examples = [
        study(0, 0, images=(one, large)),
        study(1, 0, images=(two,)),
        study(2, 0, images=(str(tmp_path / "broken.png"),)),
        study(3, 0, images=()),
    ]
    folder = tmp_path / "pictures"
    blank = replaced(examples, "blank", 0, folder, QUIET)
    assert [e.id for e in blank.shown] == ["0-0", "1-0"] == [e.id for e in blank.original]
    assert blank.shown[0].images[0] == blank.shown[1].images[0]  # one file for a size: one answer of the model
    for before, after in zip(blank.original[0].images, blank.shown[0].images, strict=True):
        with Image.open(before) as old, Image.open(after) as new:
            assert old.size == new.size
            assert new.getextrema() == (GREY, GREY)
    names = {sigma: replaced(examples, f"noised-{sigma}", 0, folder, QUIET).shown for sigma in ("0.1", "0.3", "1")}
    read = {sigma: [np.asarray(Image.open(path), float) for path in shown[0].images] for sigma, shown in names.items()}
    small, film = read["0.1"]
    assert small.shape == (30, 40)
    assert max(film.shape) <= LONGEST
    assert film.std() == pytest.approx(25.5, rel=0.02)
    unclipped = (read["0.3"][1] > 0) & (read["0.3"][1] < 255)
    assert np.abs((read["0.3"][1] - 90 - 3 * (film - 90))[unclipped]).max() <= 2  # the same noise, of another size
    assert names["0.1"][1].images != names["0.1"][0].images[:1]
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert replaced(examples, "noised-0.1", 0, folder, QUIET).shown == names["0.1"]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert replaced(examples, "noised-0.1", 1, folder, QUIET).shown != names["0.1"]
    swap = replaced(examples, "swapped", 0, folder, QUIET)
    assert [e.images for e in swap.shown] == [(two,), (one, large)]
    assert [e.reference for e in swap.reports] == ["report 1-0", "report 0-0"]
    assert [e.reference for e in swap.shown] == ["report 0-0", "report 1-0"]
    with pytest.raises(DataError, match="no test example has pictures"):
        replaced(examples[2:], "blank", 0, folder, QUIET)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("p_true", {}),
        ("sequence_probability", {}),
        ("sequence_probability", {"average": "geometric"}),
        ("self_consistency", {"n": 2}),
        ("verbalized", {"variant": "two_stage"}),
        ("probe", {"samples": 16, "validation_samples": 8, "epochs": 2}),
        ("mean_token_entropy", {}),
        ("verbalized_expected", {}),
        ("conrad_exact", {"samples": 8, "sentence_samples": 4}),
    ],
)
@pytest.mark.parametrize("granularity", ["report", "sentence", "answer"])
def test_a_given_response_is_judged_and_kept(
    name: str, options: dict[str, Any], granularity: Any, tmp_path: Path
) -> None:
    """Beside its own pictures it gets the confidence that it had; beside others another one, and the response stays."""
    method = Registry().create("methods", name, options)
    assert method.judges_given()
    setting = embedded(granularity)
    split = {part: [e for e in setting.examples if e.split == part] for part in ("train", "validate", "test")}
    with RolloutStore(tmp_path / "rollouts") as store:
        model = declared(Model(setting.engine, store, QUIET), method)
        artifact = tmp_path / "artifact" if method.learns() else None
        if artifact is not None:
            artifact.mkdir()
            method.fit(setting.task, split["train"], split["validate"], model, setting.judge, artifact)
        test = without_references(split["test"])

        def confidences(examples: Sequence[Example]) -> tuple[list[str], np.ndarray]:
            found = method.estimate(setting.task, examples, model, setting.judge, artifact)
            claims = [claim for estimate in found for claim in estimate.claims]
            return [e.response.key for e in found], np.array(
                [np.nan if c.confidence is None else c.confidence for c in claims]
            )

        keys, before = confidences(test)
        same_keys, same = confidences([replace(e, answered=e.images) for e in test])
        assert same_keys == keys
        np.testing.assert_allclose(same, before, atol=1e-5)
        blank = replaced(test, "blank", 0, tmp_path / "pictures", QUIET).shown
        kept, other = confidences([replace(e, answered=old.images) for e, old in zip(blank, test, strict=True)])
        assert kept == keys
        if name not in ("conrad_exact", "verbalized", "self_consistency"):  # these have few levels
            assert np.nanmax(np.abs(other - before)) > 1e-4
    setting.engine.close()


def test_methods_that_state_within_the_response_judge_none() -> None:
    registry = Registry()
    for name, options in (("verbalized", {}), ("base", {}), ("conrad", {"mode": "joint"}), ("sft", {"mode": "joint"})):
        assert not registry.create("methods", name, options).judges_given()


def frames(seed: int, n: int = 240, patients: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records with the original pictures and under others, of one method, in any order."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(patients, size=n)
    shift = rng.normal(0.1, 0.1, patients)[patient]
    confidence = rng.uniform(0.2, 0.9, n)
    after = np.clip(confidence - shift + rng.normal(0, 0.05, n), 0, 1)
    columns = {
        "task": "t",
        "method": "m",
        "example": [f"e{i:03d}" for i in range(n)],
        "cluster": [f"p{p}" for p in patient],
        "claim": 0,
    }
    right = (rng.random(n) < 0.7).astype(float)
    still = right * (rng.random(n) < 0.6)
    frame = pd.DataFrame({**columns, "confidence": confidence, "correctness": right, "status": "ok", "response": "r"})
    other = frame.assign(confidence=after, correctness=still)
    other.loc[5, ["status", "confidence", "correctness"]] = ["image_unreadable", None, None]
    return frame, other.sample(frac=1, random_state=seed)


def entry(frame: pd.DataFrame, other: pd.DataFrame, replacement: str, reading: str, **context: Any) -> dict[str, Any]:
    said = CONTEXT.model_copy(update={"scorers": {"t": ("s", "S")}, "granularities": {"t": "report"}, **context})
    (found,) = counterfactuals({("t", "m"): frame}, {("t", "m", replacement, reading): other}, said)["counterfactuals"]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_numbers_agree_with_scipy_and_sklearn(seed: int) -> None:
    frame, other = frames(seed)
    both = frame.merge(other, on="example", suffixes=("", "_after"))
    both = both[both["status_after"] == "ok"]
    drop = both["confidence"] - both["confidence_after"]
    found = entry(frame, other, "swapped", "given")
    assert (found["n"], found["n_clusters"]) == (len(both), both["cluster"].nunique())
    assert found["drop"]["value"] == pytest.approx(drop.mean())
    assert found["rises"]["value"] == pytest.approx((drop < 0).mean())
    assert found["explained"]["value"] == pytest.approx(
        linregress(both["confidence_after"], both["confidence"]).rvalue ** 2
    )
    right = both["correctness"] == 1
    turned = both["correctness_after"][right] == 0
    assert (found["turned"], found["stayed"]) == (turned.sum(), (~turned).sum())
    assert found["ccg_auc"]["value"] == pytest.approx(roc_auc_score(turned, drop[right]))
    for name in ("drop", "rises", "ccg_auc", "explained"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found == entry(frame.sample(frac=1, random_state=1), other, "swapped", "given")
    assert entry(frame, other, "swapped", "anew") == {**found, "reading": "anew"}


def test_nothing_says_what_is_right_of_a_grey_picture() -> None:
    frame, other = frames(0)
    for replacement, context in (("blank", {}), ("noised-0.3", {}), ("swapped", {"granularities": {"t": "answer"}})):
        found = entry(frame, other, replacement, "given", **context)
        assert (found["ccg_auc"], found["turned"], found["stayed"]) == (None, None, None)
        assert entry(frame, other, replacement, "anew", **context)["ccg_auc"]["value"] is not None


def test_sentences_of_new_reports_are_paired_by_report() -> None:
    frame, other = frames(1)
    more = pd.concat([frame, frame.assign(claim=1, confidence=frame["confidence"] / 2)])
    found = entry(more, other, "blank", "anew", granularities={"t": "sentence"})
    both = frame.merge(other, on="example", suffixes=("", "_after")).dropna(subset=["confidence_after"])
    assert found["n"] == len(both)
    assert found["drop"]["value"] == pytest.approx((0.75 * both["confidence"] - both["confidence_after"]).mean())


@pytest.mark.slow
def test_the_interval_of_a_drop_covers_over_patients() -> None:
    """Drops of one patient are alike: an interval over single claims would cover half as often."""
    covered = Counter[str]()
    for seed in range(200):
        frame, other = frames(seed, n=180)
        context = {"replicates": 200, "seed": seed}
        for unit in ("cluster", "claim"):
            found = entry(
                frame,
                other.assign(confidence=other["confidence"].astype(float)),
                "blank",
                "given",
                unit=unit,
                **context,
            )
            covered[unit] += found["drop"]["low"] < 0.1 < found["drop"]["high"]
    assert covered["cluster"] >= 0.90 * 200
    assert covered["claim"] < covered["cluster"]


def test_boards_without_them_have_no_such_key() -> None:
    frame, _ = frames(0)
    assert "counterfactuals" not in board_of(frame.assign(task="mimic_report"))
    assert counterfactuals({("t", "m"): frame}, {}, CONTEXT) == {}
    assert json.dumps(replacements_of([])) == "[]"


def replacements_of(kinds: list[str], **options: Any) -> list[str]:
    from conrad_bench.config import load_config

    given = {
        "methods": ["verbalized"],
        "tasks": ["mimic_report"],
        "counterfactual": kinds,
        "options": {"counterfactual": options},
    }
    return load_config(None, given, Registry()).replacements


def test_replacements_are_named_by_the_configuration() -> None:
    assert replacements_of(["swapped", "noised"]) == ["swapped", "noised-0.1", "noised-0.3", "noised-1"]
    assert replacements_of(["noised"], noise=[0.25]) == ["noised-0.25"]
    for kinds, options in (
        (["blanc"], {}),
        (["blank", "blank"], {}),
        (["noised"], {"noise": [0]}),
        (["noised"], {"noise": []}),
    ):
        with pytest.raises(ConfigError):
            replacements_of(kinds, **options)


def again(out: Path, registry: Registry | None = None, **changes: Any) -> dict[str, Any]:
    from conrad_bench import pipeline
    from conrad_bench.config import load_config

    registry = registry or Registry()
    given = {
        "methods": ["verbalized", "p_true"],
        "tasks": ["mimic_report"],
        "counterfactual": ["blank", "swapped"],
        "options": {"phantom": {"studies": 60}, "bootstrap": {"replicates": 20}},
        **changes,
    }
    return pipeline.run(load_config(None, given, registry), out, registry, QUIET)


@pytest.mark.slow
def test_a_run_goes_on_and_is_published_and_checked(tmp_path: Path) -> None:
    out = tmp_path / "run"
    plain = again(out, counterfactual=[])
    assert "counterfactuals" not in plain
    assert "counterfactual" not in (out / "config.yaml").read_text()
    before = {path.name: path.read_bytes() for path in (out / "records").iterdir()}
    board = again(out)
    assert {path.name: path.read_bytes() for path in (out / "records").iterdir()} == before
    assert {key: value for key, value in board.items() if key != "counterfactuals"} == plain
    told = {(each["method"], each["replacement"], each["reading"]) for each in board["counterfactuals"]}
    assert told == {
        *((m, r, "anew") for m in ("verbalized", "p_true") for r in ("blank", "swapped")),
        *(("p_true", r, "given") for r in ("blank", "swapped")),
    }
    files = sorted((out / "counterfactual").iterdir())
    contents = [path.read_bytes() for path in files]
    files[0].unlink()
    assert again(out) == board
    assert [path.read_bytes() for path in files] == contents
    assert verify(out).differences == []
    with pytest.raises(ConfigError, match="another configuration"):
        again(out, counterfactual=["swapped"])

    bundle = publish([out], tmp_path / "bundle")
    assert verify(bundle).differences == []
    hashed = pd.read_parquet(bundle / "counterfactual" / files[0].name)
    assert not set(hashed["example"]) & set(pd.read_parquet(files[0])["example"])
    assert {path.name for path in (bundle / "counterfactual").iterdir()} == {path.name for path in files}
    (bundle / "counterfactual" / files[0].name).unlink()
    assert any("no records of p_true on mimic_report under blank" in said for said in verify(bundle).differences)

    page, markdown = ((out / f"leaderboard.{kind}").read_text() for kind in ("html", "md"))
    for text in (page, markdown):
        assert "Other pictures on mimic" in text
    frame = read_records(files[0])
    write_records(files[0], frame.assign(confidence=frame["confidence"] / 2))
    assert any("counterfactuals.p_true@mimic_report (blank, anew).drop" in said for said in verify(out).differences)
    assert again(out) == board  # changed since the run ended: made again


def test_a_task_without_pictures_is_refused(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    with pytest.raises(DataError, match="has no pictures for --counterfactual"):
        toy.run(counterfactual=["blank"])
    assert toy.count() == 0


def test_a_method_that_writes_its_own_responses_judges_none(tmp_path: Path) -> None:
    plugin = tmp_path / "wrong.py"
    plugin.write_text(
        "import conrad_bench\n"
        "from dataclasses import replace\n"
        "@conrad_bench.register_method\n"
        "class Wrong(conrad_bench.Method):\n"
        "    name = 'wrong_counterfactual'\n"
        "    summary = 'says that it judges given responses, and writes its own'\n"
        "    def judges_given(self):\n"
        "        return True\n"
        "    def estimate(self, task, examples, model, judge, artifact):\n"
        "        responses = model.generate([task.prompt(example) for example in examples])\n"
        "        claims = [[replace(c, confidence=0.5) for c in task.claims(r)] for r in responses]\n"
        "        rows = zip(examples, responses, claims)\n"
        "        return [conrad_bench.Estimate(e.id, r, tuple(c)) for e, r, c in rows]\n"
    )
    with pytest.raises(PluginError, match="must get its responses from `respond`"):
        again(tmp_path / "run", Registry([plugin]), methods=["wrong_counterfactual"], counterfactual=["swapped"])
