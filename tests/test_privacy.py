"""What a bundle says of single examples, and which texts of a run it may hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from test_board import CONTEXT

from conrad_bench.leaderboards.bundles.privacy import FEWEST_CLUSTERS, SUBGROUPS, anonymous, problems, rounded
from conrad_bench.leaderboards.bundles.public_texts import PublicTexts
from conrad_bench.methods.verbalized import Verbalized

MARK = "Zebrafinch"
SAID = ["view", "sex", "age", "image_quality"]


def drawn(number: int, seed: int, patients: int) -> pd.DataFrame:
    """Records of that many examples with attributes that are drawn, some of them missing."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "task": "t",
            "method": "m",
            "example": [f"e{i}" for i in range(number)],
            "cluster": [f"c{i}" for i in rng.integers(patients, size=number)],
            "claim": 0,
            "confidence": rng.uniform(0, 1, number),
            "correctness": rng.integers(4, size=number) / 3,
            "status": "ok",
            "response": "r",
            "view": rng.choice(["PA", "AP", "LL", "of J. Smith"], number, p=[0.6, 0.3, 0.05, 0.05]),
            "sex": rng.choice(np.array(["F", "M", None], object), number),
            "age": rng.normal(60, 20, number),
            "image_quality": rng.uniform(0, 1, number),
        }
    )


@given(st.integers(1, 200), st.integers(0, 10_000), st.integers(1, 80), st.sampled_from([1.0, 0.6]))
@settings(deadline=None, max_examples=40)
def test_five_patients_share_every_combination_of_attributes(
    number: int, seed: int, patients: int, share: float
) -> None:
    whole = drawn(number, seed, patients)
    part = whole.sample(frac=share, random_state=seed).assign(method="other")
    frames = {("t", "m"): whole, ("t", "other"): part if len(part) else whole}
    found = anonymous(frames)
    assert list(found.columns) == list(SUBGROUPS)
    for frame in frames.values():
        said = found.loc[frame["example"], SAID].fillna("").agg("|".join, axis=1).to_numpy()
        sharing = frame.groupby(said)["cluster"].nunique()
        assert (sharing.drop("|||", errors="ignore") >= FEWEST_CLUSTERS).all()
        assert sharing.get("|||", FEWEST_CLUSTERS) >= FEWEST_CLUSTERS or len(sharing) == 1
    kept = found["sex"].notna()
    assert (found["sex"][kept] == whole.set_index("example")["sex"].reindex(found.index)[kept]).all()


def test_much_is_left_where_there_are_many_patients() -> None:
    found = anonymous({("t", "m"): drawn(4000, 1, 1500)})
    assert found["view"].notna().mean() > 0.9
    assert found[SAID].notna().mean().min() > 0.55


@given(st.integers(1, 200), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_numbers_of_a_bundle_are_levels_or_have_three_digits(number: int, seed: int) -> None:
    whole = drawn(number, seed, 60)
    public = rounded(whole)
    assert (public["confidence"] - whole["confidence"]).abs().max() <= 0.0005 + 1e-12
    assert list(public["confidence"]) == [round(value, 3) for value in public["confidence"]]
    if (whole.groupby("correctness")["cluster"].nunique() >= FEWEST_CLUSTERS).all():
        assert list(public["correctness"]) == list(whole["correctness"])  # levels stay as they are
    pd.testing.assert_frame_equal(rounded(public), public)
    levels = whole.assign(confidence=np.round(whole["confidence"], 1))
    assert list(rounded(levels)["confidence"]) == list(levels["confidence"])


def test_records_that_say_too_much_are_named() -> None:
    whole = drawn(50, 0, 40)
    found = "\n".join(problems(whole.assign(indication="cough", reading="as J. Smith wrote")))
    for expected in (
        "columns that no bundle has: indication",
        "column view: 1 value(s) that no bundle has",
        "examples have attributes that fewer than 5 clusters share together",
        "column confidence: values with more",
        "column reading: words that are not the reader's",
    ):
        assert expected in found
    public = rounded(whole).drop(columns=SAID)
    for column in ("example", "cluster", "response"):
        public[column] = [f"{number:032x}" for number in pd.factorize(public[column], sort=True)[0]]
    assert problems(public.sort_values("example")) == []


def test_texts_of_plugins_are_published_where_they_are_known() -> None:
    context = CONTEXT.model_copy(
        update={
            "methods": {
                "verbalized": Verbalized.summary,
                "verbalized.b": f"{Verbalized.summary}; variant=cot",
                "mine": f"trained on {MARK}, /data/{MARK}",
                "probe": f"{MARK} and not what the probe says",
            },
            "left_out": {"mimic_report": {"no findings section": 2}, "mine": {f"{MARK}.txt is torn": 3, MARK: 1}},
            "notes": ["The model was sent no pictures.", f"asked http://{MARK}:8000/v1"],
            "data": f"MIMIC-CXR, {MARK} hospital",
        }
    )
    texts = PublicTexts(context)
    found = texts.context(context)
    assert MARK not in repr(found)
    assert found.methods["verbalized"] == Verbalized.summary
    assert found.methods["verbalized.b"].endswith("; variant=cot")
    assert found.methods["mine"] == found.methods["probe"] == "(left out)"
    assert found.left_out == {"mimic_report": {"no findings section": 2}, "mine": {"(left out)": 4}}
    assert found.notes == ["The model was sent no pictures.", "(left out)"]
    options = {"weights": {MARK: 0.5, "probe": 2, f"/{MARK}": {MARK: MARK}}, "names": [MARK, "cot"], "n": 3}
    assert texts.options(options) == {
        "n": 3,
        "names": ["(left out)", "cot"],
        "weights": {"(left out) 1": {"(left out) 1": "(left out)"}, "(left out) 2": 0.5, "probe": 2},
    }
    assert texts.sections({MARK: {"n": 1}, "probe": {"layer": -1}}) == {"probe": {"layer": -1}}
