"""Methods that are made of others, ensembles and recalibration with a second signal: their names and their numbers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from conrad_bench import pipeline
from conrad_bench.cli.common import _methods
from conrad_bench.compositions import composition_problems
from conrad_bench.config import RunConfig, load_config
from conrad_bench.contracts import declared
from conrad_bench.errors import ConfigError, PlanError, PluginError, StorageError, TrainingError
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.making import make_method
from conrad_bench.methods.base import Method, respond
from conrad_bench.methods.recalibrated import Composed, chance_seed, leaves, within
from conrad_bench.plan import make_plan, prepare
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.seeds import row_name, with_seeds
from conrad_bench.staleness import stale_results
from conrad_bench.testing import ToyEngine, ToyScorer
from conrad_bench.testing.settings import Setting, toys
from conrad_bench.testing.toys import Memory, Silent
from conrad_bench.trainers.fusion import fit_fusion, load_fusion
from conrad_bench.trainers.recalibrators import PENALTY, fit_hac, load_hac
from conrad_bench.types import Estimate, Example
from conrad_bench.variants import parts_of, plugin_name, renamed

REGISTRY = Registry()


def config(*methods: str, **given: Any) -> RunConfig:
    return load_config(None, {"methods": list(methods), "tasks": ["mimic_report"], **given}, REGISTRY)


def made(name: str) -> Method:
    return make_method(name, config("base"), REGISTRY)


# Names


def test_names_say_what_a_method_is_made_of() -> None:
    assert parts_of("probe.x") == parts_of("probe.x+platt") == ["probe.x"]
    assert parts_of("verbalized+hac_platt:vase.b") == ["verbalized", "vase.b"]
    assert parts_of("ensemble:msp,probe.x+hac_platt:vase") == ["msp", "probe.x", "vase"]
    assert renamed("ensemble:a,b.c+hac_platt:d", str.upper) == "ensemble:A,B.C+hac_platt:D"
    assert plugin_name("ensemble:msp,probe.x") == "ensemble:msp,probe.x"


def test_the_names_behind_an_ensemble_are_its_own() -> None:
    assert _methods("a,ensemble:b,c,ensemble:d,e+platt") == ["a", "ensemble:b,c", "ensemble:d,e+platt"]
    assert _methods(None) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ensemble:msp", "of two methods or more"),
        ("ensemble:msp,msp", "named twice in one ensemble"),
        ("ensemble:" + ",".join(f"probe.{'x' * 60}{i}" for i in range(3)), "at most 160 letters"),
        ("ensemble:msp+platt,p_true", "named without recalibrators"),
        ("verbalized+hac_platt", "lacks its second signal"),
        ("verbalized+hac_platt:verbalized", "is the method itself"),
        ("verbalized+platt:vase", "takes no second signal"),
        ("verbalized+plat", "unknown recalibrator 'plat'; did you mean 'platt'"),
    ],
)
def test_a_name_that_makes_no_sense_says_why(name: str, problem: str) -> None:
    assert any(problem in said for said in composition_problems(name))
    with pytest.raises(ConfigError, match=problem[:12]):
        config(name)


def test_unknown_methods_and_options_of_parts_are_found() -> None:
    with pytest.raises(ConfigError, match="unknown method 'mps'"):
        config("ensemble:mps,p_true")
    with pytest.raises(ConfigError, match="unknown method 'vas'"):
        config("verbalized+hac_platt:vas")
    held = config("ensemble:msp,probe.x", options={"probe.x": {"layer": 1}})
    assert make_method(held.methods[0], held, REGISTRY).parts()["probe.x"].layer == 1  # type: ignore[attr-defined]


def test_training_seeds_go_to_all_parts() -> None:
    seeded = with_seeds(config("ensemble:msp,probe.x+platt", seeds=[0, 1]), ["ensemble:msp,probe.x+platt"])
    assert seeded.methods == [f"ensemble:msp.seed{s},probe.x-seed{s}+platt" for s in (0, 1)]
    assert {row_name(name, seeded) for name in seeded.methods} == {"ensemble:msp,probe.x+platt"}
    method = make_method(seeded.methods[1], seeded, REGISTRY)
    assert chance_seed(method) == 1
    assert list(leaves("", method)) == ["msp.seed1", "probe.x-seed1"]
    assert list(within(method)) == ["msp.seed1", "probe.x-seed1", "ensemble:msp.seed1,probe.x-seed1"]
    assert chance_seed(made("ensemble:msp,perplexity")) is None


@pytest.mark.parametrize(
    "name",
    ["ensemble:verbalized,verbalized.b", "msp+hac_platt:verbalized", "ensemble:verbalized,confidence_probe"],
)
def test_methods_that_rate_other_responses_are_refused_in_the_plan(name: str) -> None:
    with pytest.raises(PlanError, match="rates no responses but its own, and those of"):
        make_plan(config(name), REGISTRY)


def test_the_method_that_rates_only_its_own_responses_leads_an_ensemble() -> None:
    assert made("ensemble:msp,verbalized").problem("report") is None
    assert "works at sentence level" in str(made("ensemble:msp,radflag").problem("report"))


# Responses


class Stubborn(Method):
    """A method that says that it rates what it is given, and does not."""

    name = "stubborn"
    summary = "rates another response"

    def rates_given(self) -> bool:
        return True

    def estimate(self, task: Any, examples: Sequence[Example], *others: Any) -> list[Estimate]:
        model = others[0]
        return respond(task, [replace(e, given=None) for e in examples], model, 9).estimates({})


def fitted(method: Method, setting: Setting, folder: Path) -> tuple[Model, Path]:
    model = Model(setting.engine, Memory(), Silent())
    folder.mkdir()
    validation = [e for e in setting.examples if e.split == "validate"]
    method.fit(setting.task, [], validation, declared(model, method), setting.judge, folder)
    return model, folder


def estimates(method: Method, setting: Setting, folder: Path) -> list[Estimate]:
    model, artifact = fitted(method, setting, folder)
    test = [e for e in setting.examples if e.split == "test"]
    return method.estimate(setting.task, test, declared(model, method), setting.judge, artifact)


@pytest.mark.parametrize("granularity", ["report", "sentence", "answer"])
def test_all_methods_rate_the_claims_of_the_leading_one(granularity: Any, tmp_path: Path) -> None:
    setting = toys(granularity)
    method = made("ensemble:msp,verbalized,self_consistency,p_true")
    found = estimates(method, setting, tmp_path / "e@toy")
    alone = Model(setting.engine, Memory(), Silent())
    test = [e for e in setting.examples if e.split == "test"]
    stated = made("verbalized").estimate(setting.task, test, alone, setting.judge, None)
    assert [e.response.key for e in found] == [e.response.key for e in stated]
    assert [[c.span for c in e.claims] for e in found] == [[c.span for c in e.claims] for e in stated]
    assert any(c.confidence is not None for e in found for c in e.claims)


def test_a_given_response_gets_the_confidence_that_its_own_would(tmp_path: Path) -> None:
    setting = toys("report")
    model = Model(setting.engine, Memory(), Silent())
    test = [e for e in setting.examples if e.split == "test"]
    for name in ("msp", "p_true", "self_consistency", "semantic_entropy", "sequence_probability", "token_sar", "cocoa"):
        method = made(name)
        own = method.estimate(setting.task, test, model, setting.judge, None)
        given = [replace(e, given=estimate) for e, estimate in zip(test, own, strict=True)]
        assert method.estimate(setting.task, given, model, setting.judge, None) == own, name


def test_a_method_that_rates_another_response_is_found_out(tmp_path: Path) -> None:
    setting = toys("report")
    method = made("ensemble:msp,p_true")
    assert isinstance(method, Composed)
    wrong = method.model_copy(update={"methods": {"msp": made("msp"), "stubborn": Stubborn()}})
    with pytest.raises(PluginError, match=r"'stubborn' was given the responses of 'msp' and rated others"):
        fitted(wrong, setting, tmp_path / "e@toy")


def test_a_claim_without_one_of_the_confidences_has_none(tmp_path: Path) -> None:
    setting = Setting(toys("report").task, toys("report").examples, ToyEngine(odd="Confidence: 80"), ToyScorer())
    found = estimates(made("verbalized+hac_platt:self_consistency"), setting, tmp_path / "v@toy")
    statuses = {claim.status for e in found for claim in e.claims}
    assert "ok" in statuses
    assert all((c.confidence is None) == (c.status != "ok") for e in found for c in e.claims)


# Maps


def drawn(n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    c, second = rng.uniform(0.02, 0.98, n), rng.uniform(0.05, 1.0, n)
    return c, second, (rng.random(n) < expit(0.7 * logit(c) + 1.2 * np.log(second) + 0.4)).astype(float)


def test_hac_finds_what_made_the_data(tmp_path: Path) -> None:
    c, second, y = drawn(20000)
    (tmp_path / "map.json").write_text(fit_hac(list(zip(c, second, y, strict=True))))
    content = json.loads((tmp_path / "map.json").read_text())
    assert content["slope"] == pytest.approx(0.7, abs=0.1)
    assert -1.2 < content["second_slope"] < -0.8  # the penalty draws it to 0
    mapped = load_hac(tmp_path / "map.json")
    assert mapped(0.9, 0.9) > mapped(0.9, 0.1) > mapped(0.1, 0.1)
    assert 0 <= mapped(0.0, 0.0) <= mapped(1.0, 1.0) <= 1


def test_hac_is_medvlms(tmp_path: Path) -> None:
    try:
        theirs = importlib.import_module("medvlm.evaluation.calibration")
    except ImportError:
        pytest.skip("medvlm is not installed: pip install --no-deps medvlm")
    c, second, y = drawn()
    (tmp_path / "map.json").write_text(fit_hac(list(zip(c, second, y, strict=True))))
    mapped = load_hac(tmp_path / "map.json")
    pipeline = theirs.CalibrationPipeline(method="hac_platt").fit(c, y, hallucination_scores=-np.log(second))
    assert pipeline.HAC_LAMBDA == PENALTY
    expected = pipeline.transform(c, hallucination_scores=-np.log(second))
    assert [mapped(*row) for row in zip(c, second, strict=True)] == pytest.approx(list(expected), abs=1e-3)


def fused(rows: list[tuple[tuple[float, ...], float]], folder: Path) -> tuple[dict[str, float], Any]:
    (folder / "map.json").write_text(fit_fusion(["a", "b", "c"][: len(rows[0][0])], rows))
    content = json.loads((folder / "map.json").read_text())
    return {m["name"]: m["weight"] for m in content["methods"]}, load_fusion(folder / "map.json")


def test_an_ensemble_weighs_what_helps_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(3000)
    good, noise, wrong = np.clip(truth + rng.normal(0, 0.1, 3000), 0, 1), rng.random(3000), 1 - truth
    rows = [((a, b, c), y) for a, b, c, y in zip(good, noise, wrong, truth, strict=True)]
    weights, mapped = fused(rows, tmp_path)
    assert weights["a"] > 2
    assert weights["b"] < 0.2
    assert weights["c"] == 0
    assert mapped((0.9, 0.5, 0.5)) > 0.6 > 0.4 > mapped((0.1, 0.5, 0.5))


def test_an_ensemble_does_not_depend_on_the_scale_of_confidences(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(500), rng.random(500)
    y = (a + b) / 2
    _, plain = fused([((i, j), k) for i, j, k in zip(a, b, y, strict=True)], tmp_path)
    _, squeezed = fused([((i**20, j), k) for i, j, k in zip(a, b, y, strict=True)], tmp_path)
    for i, j in zip(a[:20], b[:20], strict=True):
        assert plain((i, j)) == pytest.approx(squeezed((i**20, j)), abs=1e-6)


def test_nothing_to_fit_and_damaged_maps_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the ensemble has nothing to learn from"):
        fit_fusion(["a", "b"], [])
    with pytest.raises(TrainingError, match="hac_platt has nothing to learn from"):
        fit_hac([])
    path = tmp_path / "map.json"
    for content in ("", "{", json.dumps({"kind": "ensemble"})):
        path.write_text(content)
        with pytest.raises(StorageError, match=r"map\.json holds no ensemble"):
            load_fusion(path)
        with pytest.raises(StorageError, match=r"map\.json holds no recalibrator"):
            load_hac(path)


# A run


@pytest.mark.slow
def test_a_run_publishes_ensembles(tmp_path: Path) -> None:
    methods = ["verbalized+hac_platt:msp", "ensemble:msp,p_true,linear_probe+isotonic"]
    options: Any = {"phantom": {"studies": 120}, "bootstrap": {"replicates": 100}}
    options |= {"linear_probe": {"samples": 16, "epochs": 1}}
    given = {"methods": methods, "tasks": ["vqa_rad"], "limit": 12, "options": options}
    settings, out = load_config(None, given, REGISTRY), tmp_path / "run"
    pipeline.run(settings, out, REGISTRY, Reporter(quiet=True))
    records = sorted(path.name for path in (out / "records").iterdir())
    assert records == [f"{name}@vqa_rad.parquet" for name in sorted(methods)]
    publish([out], tmp_path / "bundle")
    assert not verify(tmp_path / "bundle").differences
    assert "(left out)" not in (tmp_path / "bundle" / "leaderboard.md").read_text()
    # Another artifact of a part makes all stale that is made of it.
    (out / "artifacts" / "linear_probe@vqa_rad" / "training.jsonl").write_text("changed\n")
    plan = make_plan(settings, REGISTRY)
    stale = [each.what for each in stale_results(plan, prepare(plan, Reporter(quiet=True)), out)]
    fits = ("linear_probe", "ensemble:msp,p_true,linear_probe", methods[1])
    assert stale == [*(f"the artifact of {fit} on vqa_rad" for fit in fits), f"the records of {methods[1]} on vqa_rad"]
