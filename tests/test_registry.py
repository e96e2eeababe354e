"""Plugins: found, refused with a reason, created with checked options."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from conrad_bench.errors import ConfigError, PluginError
from conrad_bench.registry import KINDS, Registry, validated

METHOD = """
from conrad_bench.methods.base import Method

class {cls}(Method):
    name = "{name}"
    summary = "one for tests"
    layer: int = -1
"""

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution: its name, its module's code, its entry_points.txt."""

    def put(distribution: str, code: str, entries: str) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)
        (site / f"{distribution}_module.py").write_text(code)
        monkeypatch.delitem(sys.modules, f"{distribution}_module", raising=False)
        monkeypatch.syspath_prepend(site)

    return put


def method_entry(distribution: str, name: str, cls: str) -> str:
    return f"[conrad_bench.methods]\n{name} = {distribution}_module:{cls}\n"


def test_every_built_in_imports_and_is_what_it_says() -> None:
    registry = Registry()
    for kind in KINDS:
        for name, cls in registry.available(kind).items():
            assert cls.name == name
            assert cls.summary
        # Other tests of this process register plugins of their own.
        assert any(registry.origin(kind, name) == "built-in" for name in registry.names(kind))
    assert registry.failures == {}
    assert "verbalized" in registry.names("methods")


def test_names_are_known_before_anything_is_imported(install: Install) -> None:
    install("lazy", "raise SystemExit('imported')", method_entry("lazy", "late", "Late"))
    registry = Registry()
    assert "late" in registry.names("methods")
    assert registry.origin("methods", "late") == "lazy"
    assert "lazy_module" not in sys.modules


def test_a_broken_plugin_is_reported_with_its_distribution_and_stops_no_other(install: Install) -> None:
    install("broken", "import module_that_is_not_there", method_entry("broken", "bad", "Bad"))
    install("whole", METHOD.format(cls="Good", name="good"), method_entry("whole", "good", "Good"))
    registry = Registry()
    available = registry.available("methods")
    assert "good" in available
    assert "bad" not in available
    assert "broken" in str(registry.failures["methods", "bad"])
    with pytest.raises(
        PluginError, match=r"'bad' from broken .*ModuleNotFoundError.*module_that_is_not_there"
    ) as caught:
        registry.get("methods", "bad")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_module_that_exits_is_a_failure_like_any_other(install: Install) -> None:
    install("exiting", "raise SystemExit(3)", method_entry("exiting", "gone", "Gone"))
    with pytest.raises(PluginError, match="exiting does not import: SystemExit"):
        Registry().get("methods", "gone")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Odd = 3", "not a subclass of conrad_bench.methods.base.Method"),
        ("class Odd: name = 'odd'", "not a subclass"),
        (METHOD.format(cls="Odd", name="other"), "calls itself 'other'"),
        ("from conrad_bench.methods.base import Method\nclass Odd(Method):\n    name = 'odd'", "lacks summary"),
    ],
)
def test_what_is_no_method_is_refused(install: Install, code: str, message: str) -> None:
    install("odd", code, method_entry("odd", "odd", "Odd"))
    with pytest.raises(PluginError, match=message):
        Registry().get("methods", "odd")


def test_two_plugins_with_one_name_are_refused_naming_both(install: Install) -> None:
    install("first", METHOD.format(cls="One", name="same"), method_entry("first", "same", "One"))
    install("second", METHOD.format(cls="Two", name="same"), method_entry("second", "same", "Two"))
    registry = Registry()
    with pytest.raises(PluginError, match=r"'same'.*(first and second|second and first)"):
        registry.get("methods", "same")
    assert "same" not in registry.available("methods")
    assert "verbalized" in registry.available("methods")


def test_a_plugin_cannot_take_a_built_in_name(install: Install) -> None:
    install("thief", METHOD.format(cls="Fake", name="verbalized"), method_entry("thief", "verbalized", "Fake"))
    with pytest.raises(PluginError, match=r"built-in and thief|thief and built-in"):
        Registry().get("methods", "verbalized")


def test_an_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ConfigError, match="unknown method 'verbalised'; did you mean 'verbalized'") as caught:
        Registry().get("methods", "verbalised")
    assert "probe" in str(caught.value)


def write(path: Path, body: str) -> Path:
    path.write_text(f"from conrad_bench.registry import register_method\n{body}")
    return path


def test_a_local_file_registers_its_classes_for_its_own_registry(tmp_path: Path) -> None:
    code = METHOD.format(cls="Local", name="local").replace("class", "@register_method\nclass")
    file = write(tmp_path / "my method.py", code)
    registry = Registry([file])
    assert registry.create("methods", "local", {"layer": 3}).name == "local"
    assert registry.origin("methods", "local") == str(file)
    assert "local" not in Registry().names("methods")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1\ny = 1 / 0", r"does not import: ZeroDivisionError.*\(line 3\)"),
        ("def broken(:", "does not import: SyntaxError"),
        ("x = 1", "registers nothing"),
        ("@register_method\nclass Odd:\n    name = 'odd'", "not a subclass"),
        ("@register_method\nclass Odd:\n    pass", "class Odd .* has no `name`"),
        (
            METHOD.format(cls="Local", name="probe").replace("class", "@register_method\nclass"),
            "built-in and .*plugin.py",
        ),
    ],
)
def test_a_local_file_that_cannot_be_used_is_an_error_at_once(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Registry([write(tmp_path / "plugin.py", body)])
    assert Registry().names("methods")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"absent\.py: there is no such file"):
        Registry([tmp_path / "absent.py"])


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    layer: int = Field(default=-1, le=5)
    rate: float = 1e-3


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Options, "probe", {"layr": 2, "layer": 9, "rate": "fast"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any(line.startswith("probe.layr: unknown option 'layr'; did you mean 'layer'?") for line in lines)
    assert any(line.startswith("probe.layer: ") and "9" in line for line in lines)
    assert any(line.startswith("probe.rate: ") and "'fast'" in line for line in lines)


def test_text_in_yaml_style_exponents_is_a_number() -> None:
    assert validated(Options, "probe", {"rate": "1e-4"}).rate == 1e-4


def test_the_example_package_works_when_installed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(Path(__file__).parents[1] / "examples" / "plugin", source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(source)], check=True)
    (tmp_path / "questions.jsonl").write_text(
        '{"id": "q1", "image": "1.png", "question": "Is the heart enlarged?", "answer": "no", "split": "test"}\n'
    )
    script = """
import sys
from pathlib import Path
from conrad_bench.registry import Registry
from conrad_bench.types import Claim, Response

class Silent:
    def generate(self, prompts, sampling):
        assert prompts[0].messages[-1].text.startswith("Is the heart enlarged?")
        return [Response("00", "No.", (5, 6), None, "stop") for _ in prompts]

registry = Registry()
assert registry.origin("methods", "brevity") == registry.origin("tasks", "yes_no") == "conrad-bench-example"
task = registry.create("tasks", "yes_no", {})
examples = task.load(Path(sys.argv[1])).split("test")
scorer = registry.create("scorers", task.scorer, {})
(estimate,) = registry.create("methods", "brevity", {"half": 2}).estimate(task, examples, Silent(), None, None)
assert estimate.claims[0].confidence == 0.5
assert scorer.score([(examples[0], estimate.claims[0])], task.granularity)[0].value == 1.0
assert scorer.score([(examples[0], Claim("yes", (0, 3)))], task.granularity)[0].value == 0.0
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
    )
