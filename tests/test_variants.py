"""Variants: one method, task or scorer several times in a run, under labels."""

from __future__ import annotations

import copy
import json
import pickle
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_board import CONTEXT, board_of, frame, row_of
from test_cli import conrad_bench
from test_merge import a_run, other
from test_run import TOY, Toy, contents

from conrad_bench.config import RunConfig, load_config, parse_options, resolve_data_root
from conrad_bench.errors import ConfigError, PluginError, TrainingError
from conrad_bench.leaderboards.board.rows import baseline_of
from conrad_bench.leaderboards.bundles.merge import leaderboard
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.methods.conrad import ConRad
from conrad_bench.plan import make_plan
from conrad_bench.records import read_records
from conrad_bench.registry import Registry
from conrad_bench.variants import label_problem, learner_name, plugin_name, set_apart, unlabelled

LABEL = string.ascii_letters + string.digits + "_-"
labels = st.text(LABEL, min_size=1, max_size=64)
plugins = st.sampled_from(["conrad", "mimic_report", "radeval:bleu"])


def load(methods: str = "probe", tasks: str = "mimic_report", **values: Any) -> RunConfig:
    given = {"methods": methods.split(","), "tasks": tasks.split(","), **values}
    return load_config(None, given, Registry())


@given(plugins, labels, st.sampled_from(["", "+isotonic"]), st.sampled_from(["", " [a.b]"]))
def test_a_name_comes_apart_as_it_was_put_together(plugin: str, label: str, recalibrator: str, run: str) -> None:
    name = f"{plugin}.{label}"
    assert label_problem(name) is None
    assert plugin_name(name) == plugin_name(plugin) == plugin
    assert learner_name(name + recalibrator) == name
    assert (
        unlabelled(name + recalibrator + run) == unlabelled(plugin + recalibrator + run) == plugin + recalibrator + run
    )


@given(st.text(max_size=70))
def test_a_label_that_could_break_a_file_name_is_refused(label: str) -> None:
    fits = 1 <= len(label) <= 64 and set(label) <= set(LABEL)
    assert (label_problem(f"probe.{label}") is None) == fits


words = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8)


@given(st.lists(words, min_size=1, max_size=3), words, st.integers())
def test_a_setting_s_section_is_all_before_the_last_dot(section: list[str], option: str, value: int) -> None:
    name = ".".join(section)
    assert parse_options([f"{name}.{option}={value}"]) == {name: {option: value}}


options = st.dictionaries(words, st.integers(), max_size=4)


@given(labels, options, options)
def test_a_variant_inherits_and_overrides(label: str, below: dict[str, int], own: dict[str, int]) -> None:
    config = RunConfig(methods=["m"], tasks=["t"], options={"m": below, f"m.{label}": own})
    assert config.section(f"m.{label}") == {**below, **own}
    assert config.section("m") == below


def test_a_file_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "methods: [conrad, conrad.joint, conrad.joint+isotonic, probe.l10]\n"
        "tasks: [mimic_report, mimic_report.frontal]\n"
        "options:\n  conrad.joint: {mode: joint}\n  probe.l10: {layer: 10}\n"
        "  mimic_report.frontal: {views: frontal, scorer: phantom_green.b}\n"
    )
    typed = load(
        "conrad,conrad.joint,conrad.joint+isotonic,probe.l10",
        "mimic_report,mimic_report.frontal",
        options=parse_options(
            [
                "conrad.joint.mode=joint",
                "probe.l10.layer=10",
                "mimic_report.frontal.views=frontal",
                "mimic_report.frontal.scorer=phantom_green.b",
            ]
        ),
    )
    assert load_config(file, None, Registry()) == typed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": "conrd.joint"}, r"^--methods: unknown method 'conrd'; did you mean 'conrad'\?"),
        ({"methods": "probe."}, r"^--methods: 'probe\.' lacks the label behind its dot"),
        ({"methods": "probe.a b"}, r"^--methods: 'probe\.a b': a label has 1 to 64 of"),
        ({"methods": "probe.a.b"}, r"^--methods: 'probe\.a\.b': a label has"),
        ({"methods": "probe.a/b+isotonic"}, r"^--methods: 'probe\.a/b': a label has"),
        ({"methods": "probe.a+isotonik"}, r"^--methods: unknown recalibrator 'isotonik'"),
        ({"methods": "probe.a,probe.a"}, r"^--methods: named twice: probe\.a"),
        ({"methods": "probe.a,probe.A"}, r"^probe\.a and probe\.A: not all file systems"),
        ({"tasks": "mimic_reprot.b"}, r"^--tasks: unknown task 'mimic_reprot'; did you mean 'mimic_report'"),
        ({"tasks": "mimic_report."}, r"^--tasks: 'mimic_report\.' lacks the label"),
        ({"engine": "transformers.b"}, r"^--engine: unknown engine 'transformers\.b'"),
        (
            {"methods": "conrad.joint", "options": {"conrad.jiont": {"mode": "joint"}}},
            r"^-o conrad\.jiont: unknown variant 'conrad\.jiont'; did you mean 'conrad\.joint'\?",
        ),
        ({"options": {"probe.b": {"layer": 1}}}, r"^-o probe\.b: unknown variant 'probe\.b' \(there are no variants\)"),
        ({"options": {"transformers.b": {}}}, r"^-o transformers\.b: unknown section"),
        (
            {"data_roots": {"mimic_report.frontl": "/data"}, "tasks": "mimic_report.frontal"},
            r"^--data-root mimic_report\.frontl: unknown variant .* did you mean 'mimic_report\.frontal'",
        ),
        (
            {"methods": "probe.b", "options": {"probe.b": {"laier": 1}}},
            r"^-o probe\.b\.laier: unknown option 'laier'; did you mean 'layer'\?",
        ),
    ],
)
def test_what_is_wrong_with_a_variant_is_said(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**values)


def test_a_section_may_be_of_a_variant_that_only_a_task_names() -> None:
    sections = {"mimic_report.f": {"views": "frontal"}, "phantom_green.b": {}}
    names = {"fit_on": "mimic_report.f", "scorer": "phantom_green.b"}
    config = load(tasks="iu_xray_report", options={"iu_xray_report": names, **sections})
    plan = make_plan(config, Registry())
    assert list(plan.tasks) == ["iu_xray_report", "mimic_report.f"]
    assert plan.tasks["mimic_report.f"].model_dump()["views"] == "frontal"
    assert plan.scorers["iu_xray_report"].name == "phantom_green.b"


def test_an_inherited_mistake_is_said_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load("probe.a,probe.b", options={"probe": {"layer": "x"}, "probe.a": {}, "probe.b": {"at": "last"}})
    (line,) = str(caught.value).splitlines()
    assert line.startswith("-o probe.layer: ")


def test_a_combination_is_judged_with_what_is_inherited() -> None:
    fits = {"conrad": {"entropy": 0.1}, "conrad.joint": {"mode": "joint", "entropy": 0}}
    assert load("conrad.joint", options=fits).section("conrad.joint") == {"mode": "joint", "entropy": 0}
    with pytest.raises(ConfigError, match=r"^-o conrad\.joint: entropy works in mode=conditional only"):
        load("conrad.joint", options={**fits, "conrad.joint": {"mode": "joint"}})


def test_a_data_root_is_the_task_s_unless_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    config = load(tasks="mimic_report,mimic_report.f", data_roots={"mimic_report": str(tmp_path / "a")})
    assert resolve_data_root("mimic_report.f", "MIMIC_CXR_ROOT", config) == tmp_path / "a"
    roots = {"mimic_report": tmp_path / "a", "mimic_report.f": tmp_path / "b"}
    config = config.model_copy(update={"data_roots": roots})
    assert resolve_data_root("mimic_report.f", "MIMIC_CXR_ROOT", config) == tmp_path / "b"


def test_a_variant_is_its_plugin_under_another_name() -> None:
    made = Registry().create("methods", "conrad.joint", {"mode": "joint", "samples": 7})
    again = Registry().create("methods", "conrad.joint", {"mode": "joint", "samples": 7})
    assert isinstance(made, ConRad)
    assert (made.name, ConRad.name) == ("conrad.joint", "conrad")
    assert made == again
    assert made.model_dump() == ConRad(mode="joint", samples=7).model_dump()
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), made.model_copy()):
        assert copied == made
        assert copied.name == "conrad.joint"
    assert Registry().get("scorers", "radeval:bleu.b").name == "radeval:bleu.b"


def test_a_variant_travels_to_ray_s_workers() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    made = Registry().create("methods", "conrad.joint", {"mode": "joint"})
    sent = cloudpickle.dumps({"settings": made})
    assert pickle.loads(sent)["settings"] == made
    assert len(sent) < 5000  # by reference: not the class itself


def test_a_plugin_s_own_name_has_no_dot(tmp_path: Path) -> None:
    file = tmp_path / "dotted.py"
    file.write_text(TOY.read_text().replace('name = "stated"', 'name = "stated.x"'))
    with pytest.raises(PluginError, match="a dot in a name stands before the label of a variant"):
        Registry([file])


def test_what_sets_a_variant_apart_shows_no_free_text() -> None:
    made = Registry().create("methods", "conrad.j", {"mode": "joint", "vllm": "http://host", "learning_rate": "1e-3"})
    own = {"mode": "joint", "vllm": "http://host", "learning_rate": "1e-3", "samples": 3000, "rank": 8}
    assert set_apart(made, own, {"rank": 8}) == "learning_rate=0.001, mode=joint, vllm=(not shown)"
    task = Registry().create("tasks", "mimic_report.f", {"reports_root": "/secret", "fit_on": "mimic_report"})
    said = set_apart(task, {"reports_root": "/secret", "fit_on": "mimic_report"}, {})
    assert said == "fit_on=mimic_report, reports_root=(not shown)"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


VARIED = {"toy.short": {"limit": 4, "scorer": "toy_match.b"}, "mean.b": {"bug": True}}


def test_variants_of_methods_and_tasks_stand_side_by_side(toy: Toy) -> None:
    board = toy.run("stated,mean,mean.b,mean.b+histogram", tasks=["toy", "toy.short"], options=VARIED)
    assert toy.count() == 8 + 3  # each question once: test, training, and the histogram's validation
    assert {(row["task"], row["method"]) for row in board["rows"]} == {
        (task, method) for task in ("toy", "toy.short") for method in ("stated", "mean", "mean.b", "mean.b+histogram")
    }
    summary = board["methods"]["mean"]
    assert board["methods"]["mean.b"] == f"{summary}; bug=true"
    assert board["methods"]["mean.b+histogram"].startswith(f"{summary}; bug=true; histogram recalibration")
    assert board["variants"] == {"toy.short": "scorer=toy_match.b, limit=4", "toy_match.b": "set as toy_match"}
    page = (toy.out / "leaderboard.md").read_text()
    assert "Variants: `toy.short`: scorer=toy_match.b, limit=4; `toy_match.b`: set as toy_match." in page
    assert "Variants: toy.short: scorer=toy_match.b, limit=4;" in (toy.out / "leaderboard.html").read_text()
    records = read_records(toy.out / "records" / "mean.b@toy.short.parquet")
    assert set(records["task"]) == {"toy.short"}
    assert set(records["method"]) == {"mean.b"}
    assert records["example"].nunique() == 4
    assert sorted(path.name for path in (toy.out / "artifacts").iterdir()) == sorted(
        f"{method}@{task}" for method in ("mean", "mean.b", "mean.b+histogram") for task in ("toy", "toy.short")
    )
    said = json.loads((toy.out / "artifacts" / "mean.b@toy.short" / "artifact.json").read_text())
    assert (said["method"], said["task"], said["options"]["bug"]) == ("mean.b", "toy.short", True)
    manifest = json.loads((toy.out / "manifest.json").read_text())
    assert manifest["methods"]["mean.b+histogram"]["method_name"] == "mean.b"
    assert set(manifest["data"]) == {"toy", "toy.short"}
    assert verify(toy.out).differences == []


def test_a_task_variant_can_be_fitted_on_another(toy: Toy) -> None:
    options = {"toy.b": {"fit_on": "toy.c"}, "toy.c": {"limit": 2}}
    toy.run("mean", tasks=["toy.b"], options=options)
    assert [path.name for path in (toy.out / "artifacts").iterdir()] == ["mean@toy.c"]


def test_a_run_of_variants_continues_and_refuses_other_options(toy: Toy, tmp_path: Path) -> None:
    options = {"mean.b": {"ready": str(tmp_path / "ready")}}
    with pytest.raises(TrainingError):
        toy.run("mean,mean.b", options=options)
    assert sorted(path.name for path in (toy.out / "records").iterdir()) == ["mean@toy.parquet"]
    calls = toy.count()
    (tmp_path / "ready").touch()
    toy.run("mean,mean.b", options=options)
    assert toy.count() == calls
    before = contents(toy.out)
    toy.run("mean,mean.b", options=options)
    assert contents(toy.out) == before
    with pytest.raises(ConfigError, match=r"options\.mean\.b\.bug: not set -> True"):
        toy.run("mean,mean.b", options={"mean.b": {**options["mean.b"], "bug": True}})


@pytest.mark.slow
def test_the_commands_know_variants(toy: Toy, tmp_path: Path) -> None:
    run = ["run", "--methods", "stated,mean,mean.b", "--tasks", "toy,toy.short", "--plugin", str(TOY), "--out", "r"]
    run += ["--engine", "echo", "--model", "echo", "--data-root", f"toy={toy.root}"]
    run += ["-o", "toy.short.limit=2", "-o", "mean.b.bug=true", "-o", "bootstrap.replicates=20"]
    dry = conrad_bench(*run, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "toy.short  mean.b" in dry.stdout
    assert not (tmp_path / "r").exists()
    done = conrad_bench(*run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in (
        ["verify", "r"],
        ["publish", "r", "--out", "p"],
        ["verify", "p"],
        ["leaderboard", "r", "--baseline", "mean.b", "--out", "l"],
    ):
        done = conrad_bench(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    board = json.loads((tmp_path / "l" / "leaderboard.json").read_text())
    assert {row["difference"]["baseline"] for row in board["rows"] if "difference" in row} == {"mean.b"}


def test_a_bundle_keeps_the_names_of_variants(toy: Toy, tmp_path: Path) -> None:
    toy.run("mean,mean.b,mean.b+histogram", tasks=["toy", "toy.short"], options=VARIED)
    bundle = publish([toy.out], tmp_path / "bundle")
    config = load_config(bundle / "config.yaml")
    assert config.options["toy.short"] == {"limit": 4, "scorer": "toy_match.b"}
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["methods"]["mean.b+histogram"]["method_name"] == "mean.b"
    assert (
        json.loads((bundle / "leaderboard.json").read_text())["variants"]["toy.short"] == "(left out)"
    )  # the toy is a file's
    assert verify(bundle).differences == []


@pytest.mark.parametrize(
    ("method", "methods", "expected"),
    [
        ("conrad.joint", ["conrad.joint", "verbalized", "verbalized.cot"], "verbalized"),
        ("verbalized.cot", ["verbalized", "verbalized.cot"], "verbalized"),
        ("conrad", ["conrad", "verbalized.cot"], "verbalized.cot"),
        ("verbalized.cot", ["conrad", "verbalized.cot"], None),
        ("conrad", ["conrad", "verbalized.a", "verbalized.b"], None),
        ("conrad", ["conrad", "verbalized.cot+isotonic"], None),
        ("conrad.j [x.1]", ["conrad.j [x.1]", "verbalized.c [x.1]", "verbalized.c [x.2]"], "verbalized.c [x.1]"),
    ],
)
def test_the_baseline_may_be_a_variant(method: str, methods: list[str], expected: str | None) -> None:
    assert baseline_of(method, "verbalized", methods) == expected


def test_a_trained_variant_is_drawn_before_and_after() -> None:
    methods = ("conrad.joint", "conrad.joint+isotonic", "sequence_probability.b", "verbalized.b")
    board = board_of(*(frame(method) for method in methods))
    assert row_of(board, "conrad.joint")["before_after"] == "figures/before_after_conrad.joint@mimic_report.svg"
    assert [row["method"] for row in board["rows"] if "before_after" in row] == ["conrad.joint"]


def test_runs_that_mean_different_things_by_a_label_both_say_so(tmp_path: Path) -> None:
    first = frame("conrad.b")
    about = [CONTEXT.model_copy(update={"methods": {"conrad.b": f"conrad; {set_}"}}) for set_ in ("rank=4", "rank=8")]
    runs = [a_run(tmp_path / "x", [first], about[0]), a_run(tmp_path / "y", [other(first, 1)], about[1])]
    board, _ = leaderboard(runs, tmp_path / "out")
    assert board["methods"]["conrad.b"] == "in x: conrad; rank=4; in y: conrad; rank=8"
    assert sorted(row["method"] for row in board["rows"]) == ["conrad.b [x]", "conrad.b [y]"]
