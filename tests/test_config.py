"""The configuration: precedence, errors that name the place, round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conrad_bench.config import (
    RunConfig,
    differences,
    dump_config,
    load_config,
    parse_data_roots,
    parse_options,
    resolve_data_root,
    with_phantom_profile,
)
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.registry import Registry

NAMED = {"methods": ["probe"], "tasks": ["mimic_report"]}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


def test_defaults_lie_below_the_file_and_the_file_below_the_command_line(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "methods: [verbalized]\ntasks: [mimic_report]\nseed: 3\nlimit: 5\n"
        "data_roots: {mimic_report: /data, other: data}\n"
        "options:\n  probe: {layer: -2, seed: 1}\n  bootstrap: {replicates: 50}\n",
    )
    overrides: dict[str, Any] = {
        "methods": ["probe"],
        "limit": 9,
        "data_roots": {"mimic_report": "/else"},
        "options": {"probe": {"layer": -4}},
    }
    config = load_config(file, overrides)
    assert config.methods == ["probe"]
    assert config.tasks == ["mimic_report"]
    assert (config.seed, config.limit, config.engine, config.model) == (3, 9, "transformers", None)
    assert config.data_roots == {"mimic_report": Path("/else"), "other": tmp_path / "data"}
    assert config.options == {"probe": {"layer": -4, "seed": 1}, "bootstrap": {"replicates": 50}}
    assert config.bootstrap.replicates == 50
    assert config.phantom.seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "methods: [probe]\ntasks: [a]\nmetods: [b]\n",
            r"my\.yaml, line 3: metods: unknown key 'metods'; did you mean 'm",
        ),
        ("methods: [probe]\ntasks: [a]\n\nlimit: many\n", r"my\.yaml, line 4: limit: .*integer.*'many'"),
        ("methods: [probe]\ntasks: [a]\nlimit: 0\n", r"line 3: limit: .*greater than or equal to 1.*0"),
        ("methods:\n- probe\n- 3\ntasks: [a]\n", r"line 3: methods\.1: .*string"),
        ("methods: [a, a]\ntasks: [a]\n", r"line 1: methods: named twice: a"),
        ("tasks: [a]\n", r"my\.yaml: no methods given.*--methods"),
        ("methods: [a\ntasks: [b]\n", r"my\.yaml, line 2: not YAML"),
        ("seed: 1\nseed: 2\n", r"my\.yaml, line 2: the key 'seed' stands here a second time"),
        ("1: x\n", r"my\.yaml, line 1: the key should be text"),
        ("- a\n", "should hold `key: value` lines"),
        ("a: &x {b: *x}\n", r"my\.yaml, line 1: the alias contains itself"),
        ("seed: !!python/object/apply:os.system [ls]\n", r"my\.yaml, line 1: not YAML"),
        ("a: \x07\n", "not YAML in UTF-8"),
        ("options: {probe: 3}\nmethods: [a]\ntasks: [a]\n", r"line 1: options\.probe: .*dictionary"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not YAML in UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_an_empty_file_is_a_file_without_settings(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "# nothing\n"), NAMED).methods == ["probe"]


def test_names_and_options_are_checked_against_the_plugins(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "methods: [verbalized, prob]\ntasks: [mimic_report]\nengine: transformer\n"
        "data_roots: {mimic_reprot: /data}\n"
        "options:\n  probe:\n    laier: 3\n  bootstrapp: {}\n  bootstrap: {unit: patient}\n",
    )
    overrides = {"options": {"probe": {"layer": "last"}}}
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides, Registry())
    lines = [line.removeprefix(str(file)) for line in str(caught.value).splitlines()]
    expected = [
        ", line 1: methods.1: unknown method 'prob'; did you mean 'probe'?",
        ", line 4: data_roots.mimic_reprot: unknown task 'mimic_reprot'; did you mean 'mimic_report'?",
        ", line 3: engine: unknown engine 'transformer'; did you mean 'transformers'?",
        ", line 7: options.probe.laier: unknown option 'laier'; did you mean 'layer'?",
        "-o probe.layer: ",
        ", line 8: options.bootstrapp: unknown section 'bootstrapp'; did you mean 'bootstrap'?",
        ", line 9: options.bootstrap.unit: ",
    ]
    assert len(lines) == len(expected)
    for start in expected:
        assert any(line.startswith(start) for line in lines), start


def test_errors_on_the_command_line_name_the_option() -> None:
    with pytest.raises(ConfigError, match=r"^--limit: .*greater than"):
        load_config(None, {**NAMED, "limit": -1})
    with pytest.raises(ConfigError, match=r"^--methods: unknown method 'x'"):
        load_config(None, {**NAMED, "methods": ["x"]}, Registry())
    with pytest.raises(ConfigError, match=r"^--data-root x: unknown task 'x'"):
        load_config(None, {**NAMED, "data_roots": {"x": "/data"}}, Registry())


def test_options_are_read_as_yaml_values() -> None:
    settings = ["probe.layer=-2", "probe.sizes=[1, 2.5]", "conrad.mode=exact", "conrad.stop=null", "a.b=x=y", "a.c='1'"]
    assert parse_options(settings) == {
        "probe": {"layer": -2, "sizes": [1, 2.5]},
        "conrad": {"mode": "exact", "stop": None},
        "a": {"b": "x=y", "c": "1"},
    }


@pytest.mark.parametrize(
    "text", ["{{ bos_token }}\n{% for m in messages %}{{ m }}{% endfor %}", "{%- if x %}[1, 2{% endif %}"]
)
def test_a_chat_template_is_text(text: str) -> None:
    assert parse_options([f"transformers.chat_template={text}"]) == {"transformers": {"chat_template": text}}


@pytest.mark.parametrize("setting", ["probe", "probe.layer", "probe=3", ".layer=3", "probe.=3", "=", ""])
def test_options_of_another_form_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"should have the form section\.option=value"):
        parse_options([setting])


@pytest.mark.parametrize("value", ["[1, 2", "a: b", "", "*alias", "=", "!!python/name:os.system"])
def test_option_values_that_are_no_scalar_or_list_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^-o probe\.layer: "):
        parse_options([f"probe.layer={value}"])


@given(st.text())
@settings(deadline=None)
def test_any_setting_is_read_or_refused_with_a_reason(setting: str) -> None:
    try:
        options = parse_options([setting])
    except ConfigError as error:
        message = str(error)
    else:
        message = f"-o read as {options}"
        assert [len(section) for section in options.values()] == [1]
    assert message.startswith("-o ")


def test_data_roots_need_a_task_and_a_folder() -> None:
    assert parse_data_roots(["a=/x", "b=y=z"]) == {"a": "/x", "b": "y=z"}
    for wrong in ("a", "=x", "a="):
        with pytest.raises(ConfigError, match="should have the form TASK=DIR"):
            parse_data_roots([wrong])


def test_a_data_root_is_used_or_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = RunConfig(methods=["probe"], tasks=["mimic_report"])
    monkeypatch.delenv("SOME_ROOT", raising=False)
    assert resolve_data_root("mimic_report", "SOME_ROOT", bare) is None
    monkeypatch.setenv("SOME_ROOT", "")
    assert resolve_data_root("mimic_report", "SOME_ROOT", bare) is None
    monkeypatch.setenv("SOME_ROOT", str(tmp_path))
    assert resolve_data_root("mimic_report", "SOME_ROOT", bare) == tmp_path
    monkeypatch.setenv("SOME_ROOT", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"absent \(from \$SOME_ROOT\) is not a folder"):
        resolve_data_root("mimic_report", "SOME_ROOT", bare)
    config = bare.model_copy(update={"data_roots": {"mimic_report": tmp_path}})
    assert resolve_data_root("mimic_report", "SOME_ROOT", config) == tmp_path


def test_the_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(None, {**NAMED, "data_roots": {"mimic_report": "~/data"}})
    assert config.data_roots["mimic_report"] == Path("/home/someone/data")


def test_differences_name_the_keys_and_both_values() -> None:
    a = load_config(None, {**NAMED, "options": {"probe": {"layer": -1}}})
    b = load_config(None, {**NAMED, "seed": 2, "options": {"probe": {"layer": -2}, "bootstrap": {"replicates": 10}}})
    assert differences(a, b) == [
        "options.bootstrap.replicates: not set -> 10",
        "options.probe.layer: -1 -> -2",
        "seed: 0 -> 2",
    ]
    assert differences(a, a.model_copy()) == []
    unset = load_config(None, {**NAMED, "options": {"probe": {"layer": None}}})
    assert differences(load_config(None, NAMED), unset) == ["options.probe.layer: not set -> None"]


def test_the_phantom_profile_lies_below_what_the_user_set() -> None:
    plain = with_phantom_profile(load_config(None, NAMED), Registry())
    text = (Path(__file__).parents[1] / "harness" / "phantom.yaml").read_text()
    assert plain.options == yaml.safe_load(text)["options"]
    config = with_phantom_profile(load_config(None, {**NAMED, "options": {"phantom": {"studies": 7}}}), Registry())
    assert config.phantom.studies == 7
    assert with_phantom_profile(config, Registry()) == config


def test_a_default_of_the_phantom_profile_that_contradicts_the_user_is_left_out() -> None:
    set_by_user = {"conrad": {"mode": "joint"}, "sft": {"rank": 4}}
    options = with_phantom_profile(load_config(None, {**NAMED, "options": set_by_user}), Registry()).options
    assert "entropy" not in options["conrad"]
    assert options["conrad"]["learning_rate"] == options["sft"]["learning_rate"] == 0.002
    assert options["conrad_exact"]["entropy"] == 0.05


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
options = st.dictionaries(
    names, st.dictionaries(names, scalars | st.lists(scalars, max_size=3), max_size=3), max_size=3
)


@given(options, st.lists(names, min_size=1, max_size=3, unique=True), st.none() | names, st.integers(0, 2**40))
@settings(deadline=None, max_examples=40)
def test_the_resolved_configuration_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    chosen: dict[str, dict[str, Any]],
    methods: list[str],
    model: str | None,
    seed: int,
) -> None:
    config = RunConfig(
        methods=methods, tasks=["t"], model=model, seed=seed, options=chosen, data_roots={"t": Path("/data/é b")}
    )
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    again = load_config(path)
    assert again == config
    assert differences(config, again) == []
    assert dump_config(again) == dump_config(config)
