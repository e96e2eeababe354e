"""The command line: exit codes, messages, what is written where."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conrad_bench import progress
from conrad_bench.progress import Reporter
from conrad_bench.runs import default_out

Done = subprocess.CompletedProcess[str]

METHOD = """
import time
from conrad_bench.methods.base import Method
from conrad_bench.registry import register_method

@register_method
class Local(Method):
    name = "{name}"
    summary = "one for tests"

    def __init__(self, **options):
        {act}
        super().__init__(**options)
"""


def conrad_bench(*arguments: str, cwd: Path, **environment: str) -> Done:
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CONRAD_BENCH_", "FORCE_COLOR"))}
    return subprocess.run(
        command, cwd=cwd, env={**env, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


def plugin(folder: Path, name: str = "local", act: str = "pass") -> str:
    file = folder / "plugin.py"
    file.write_text(METHOD.format(name=name, act=act))
    return str(file)


def refused(done: Done) -> str:
    """Return the message of a command that ended with exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


RUN = ("run", "--methods", "verbalized", "--tasks", "mimic_report")


def test_an_unknown_method_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    message = refused(conrad_bench("run", "--methods", "verbalised", "--tasks", "mimic_report", cwd=tmp_path))
    assert "unknown method 'verbalised'; did you mean 'verbalized'?" in message
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_in_a_config_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("methods: [verbalized]\ntasks: [mimic_report]\nlimt: 3\n")
    message = refused(conrad_bench("run", "--config", "run.yaml", cwd=tmp_path))
    assert "run.yaml, line 3: limt: unknown key 'limt'; did you mean 'limit'?" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-o", "verbalized"), "-o verbalized: should have the form section.option=value"),
        (("-o", "verbalised.seed=1"), "-o verbalised: unknown section 'verbalised'; did you mean 'verbalized'?"),
        (("-o", "verbalized.sead=1"), "-o verbalized.sead: unknown option 'sead'; did you mean 'seed'?"),
        (("-o", "bootstrap.replicates=lots"), "-o bootstrap.replicates: "),
        (("--data-root", "mimic_report"), "--data-root mimic_report: should have the form TASK=DIR"),
        (("--limit", "0"), "--limit: "),
        (("--engine", "transformer"), "--engine: unknown engine 'transformer'; did you mean 'transformers'?"),
        (("--config", "absent.yaml"), "config file absent.yaml: No such file"),
        (("--plugin", "absent.py"), "plugin file absent.py: there is no such file"),
        (("--data-root", "mimic_report=absent"), "absent (from --data-root or the config file) is not a folder"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_it(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(conrad_bench(*RUN, *arguments, cwd=tmp_path))


def test_a_run_without_methods_says_how_to_name_them(tmp_path: Path) -> None:
    assert "--methods A,B" in refused(conrad_bench("run", cwd=tmp_path))


def test_a_plugin_file_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\nraise ValueError('on purpose')\n")
    message = refused(conrad_bench("list", "--plugin", "bad.py", cwd=tmp_path))
    assert "plugin file bad.py does not import: ValueError: on purpose (line 2)" in message


def test_a_plugin_file_with_a_taken_name_is_refused(tmp_path: Path) -> None:
    message = refused(conrad_bench(*RUN, "--plugin", plugin(tmp_path, name="verbalized"), cwd=tmp_path))
    assert "two methods have the name 'verbalized': from built-in and " in message


def test_distributions_with_one_name_are_listed_with_the_reason(tmp_path: Path) -> None:
    for distribution in ("one", "two"):
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[conrad_bench.methods]\nsame = nowhere:Same\n")
    listed = conrad_bench("list", "methods", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert listed.returncode == 0
    assert re.search(
        r"^unusable: two methods have the name 'same': from (one and two|two and one)", listed.stdout, re.M
    )
    assert " verbalized " in listed.stdout
    asked = conrad_bench("run", "--methods", "same", "--tasks", "mimic_report", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "two methods have the name 'same'" in refused(asked)


def test_the_list_is_readable_in_a_pipe(tmp_path: Path) -> None:
    name = "a_method_with_a_name_that_is_far_too_long_for_a_narrow_terminal"
    done = conrad_bench("list", "--plugin", plugin(tmp_path, name=name), cwd=tmp_path, COLUMNS="40")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if name in line]
    assert line.split() == [name, "one", "for", "tests", "-", str(tmp_path / "plugin.py")]
    for title in ("methods", "tasks", "scorers", "engines"):
        assert title in done.stdout.splitlines()
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


def test_one_kind_is_listed_alone(tmp_path: Path) -> None:
    done = conrad_bench("list", "engines", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "engines"
    assert "verbalized" not in done.stdout
    assert conrad_bench("list", "metods", cwd=tmp_path).returncode == 2


def test_version_and_help(tmp_path: Path) -> None:
    assert re.fullmatch(r"conrad-bench \d+\.\d+\.\d+\n", conrad_bench("--version", cwd=tmp_path).stdout)
    for command in ((), ("run",), ("list",), ("data",), ("data", "phantom")):
        done = conrad_bench(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: ")
        assert "\x1b" not in done.stdout


def test_help_and_list_import_nothing_heavy(tmp_path: Path) -> None:
    script = """
import sys
from conrad_bench.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
heavy = {"torch", "transformers", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "datasets", "trl", "peft"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    for argument in ("--help", "list"):
        done = subprocess.run(
            [sys.executable, "-c", script, argument], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stderr == "[]\n"


def test_an_unexpected_exception_is_one_line_and_a_log_without_its_message(tmp_path: Path) -> None:
    file = plugin(tmp_path, act="raise RuntimeError('a sentence of a report')")
    run = ("run", "--methods", "local", "--tasks", "mimic_report", "--plugin", file)
    done = conrad_bench(*run, "--out", "here", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unexpected RuntimeError")
    log = Path(line.rpartition(" ")[2])
    assert log.parent == tmp_path
    text = log.read_text()
    assert "plugin.py" in text
    assert "builtins.RuntimeError" in text
    assert "report')" not in text.replace("raise RuntimeError('a sentence of a report')", "")
    shown = conrad_bench(*run, cwd=tmp_path, TMPDIR=str(tmp_path), CONRAD_BENCH_TRACEBACK="1")
    assert "RuntimeError: a sentence of a report" in shown.stderr


def test_the_log_lies_in_the_run_folder_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.yaml").write_text("methods: [local]\ntasks: [mimic_report]\n")
    file = plugin(tmp_path, act="raise RuntimeError")
    run = ("run", "--methods", "local", "--tasks", "mimic_report", "--plugin", file, "--out", "here")
    line = conrad_bench(*run, cwd=tmp_path).stderr
    assert Path(line.split()[-1]).parent == tmp_path / "here"


def test_an_interrupt_is_130_with_the_way_to_go_on(tmp_path: Path) -> None:
    file = plugin(tmp_path, act="print('ready', flush=True); time.sleep(60)")
    # Started in the background of a shell without job control, a process inherits that interrupts are ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", f"{code}from conrad_bench.cli import main; main()", "run", "--methods", "local"]
    process = subprocess.Popen(
        [*command, "--tasks", "mimic_report", "--plugin", file],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted; the same command continues where it stopped\n"


def test_phantom_data_are_written_on_request(tmp_path: Path) -> None:
    done = conrad_bench("data", "phantom", "--out", "tree", "--studies", "3", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 phantom studies in the mimic layout: tree\n"
    assert done.stderr.startswith("writing the phantom data: 3/3 in ")
    assert list((tmp_path / "tree").rglob("*.jpg"))
    again = conrad_bench("data", "phantom", "--out", "tree", "--studies", "3", cwd=tmp_path)
    assert again.returncode == 2
    assert "tree: is not an empty folder" in again.stderr


def test_phantom_films_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    from PIL import Image

    for layout, suffix in (("mimic", "jpg"), ("openi", "png"), ("vqa_rad", "jpg")):
        given = ("data", "phantom", "--out", layout, "--layout", layout, "--studies", "2")
        done = conrad_bench(*given, "--pixels", "300x400", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        films = list((tmp_path / layout).rglob(f"*.{suffix}"))
        assert films
        for film in films:
            with Image.open(film) as image:
                assert image.size == (300, 400)
    again = conrad_bench("data", "phantom", "--out", "tree", "--pixels", "300 by 400", cwd=tmp_path)
    assert "--pixels 300 by 400: should be WIDTHxHEIGHT" in refused(again)


def test_the_default_run_folder_is_named_after_methods_and_tasks() -> None:
    assert default_out(["conrad", "probe"], ["mimic_report"]) == Path("runs/conrad,probe-mimic_report")
    long = [default_out([f"method_{i}" for i in range(40)], [task]) for task in ("a", "b")]
    assert all(len(path.name) <= 120 for path in long)
    assert long[0] != long[1]


def test_a_reporter_measures_stages_and_writes_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    with reporter.stage("outer"):
        for _ in range(2):
            with reporter.stage("rollouts verbalized@mimic_report", total=8) as advance:
                advance(5)
                time.sleep(0.02)
                advance(3)
    reporter.say("[done] at /a/path")
    assert reporter.times["outer"] >= reporter.times["rollouts verbalized@mimic_report"] >= 0.04
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [re.sub(r"\d\.\d s", "T", line) for line in lines] == [
        "rollouts verbalized@mimic_report: 8/8 in T",
        "rollouts verbalized@mimic_report: 8/8 in T",
        "outer: in T",
        "[done] at /a/path",
    ]


def test_off_a_terminal_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.02)
    said: list[str] = []
    monkeypatch.setattr(Reporter, "say", lambda _self, text: said.append(re.sub(r"\d+\.\d s", "T", text)))

    def until_said(line: str) -> None:
        for _ in range(1000):
            if line in said:
                return
            time.sleep(0.01)
        raise AssertionError(f"{line!r} was never said: {said}")

    reporter = Reporter()
    with reporter.stage("fit", total=8) as advance:
        until_said("fit: 0/8 after T")
        advance(2)
        until_said("fit: 2/8 after T, about T left")
    with reporter.stage("load"):
        until_said("load: after T")
    assert list(dict.fromkeys(said)) == [
        "fit: 0/8 after T",
        "fit: 2/8 after T, about T left",
        "fit: 2/8 in T",
        "load: after T",
        "load: in T",
    ]
    said.clear()
    with Reporter(quiet=True).stage("quiet"):
        time.sleep(0.1)
    assert said == ["quiet: in T"]


def test_a_stage_that_fails_is_measured_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()

    def fit() -> None:
        with reporter.stage("fit", total=8) as advance:
            advance(5)
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        fit()
    assert "fit" in reporter.times
    assert capsys.readouterr().err.startswith("fit: 5/8 stopped after ")


def test_a_quiet_reporter_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True)
    with reporter.stage("fit", total=8) as advance:
        advance(8)
    reporter.say("done")
    assert "fit" in reporter.times
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_bars_within_bars(tmp_path: Path) -> None:
    script = """
from conrad_bench.progress import Reporter
reporter = Reporter()
with reporter.stage("outer", 2) as outer:
    with reporter.stage("inner", 4) as inner:
        inner(4)
        reporter.say("a line between")
        reporter._bars.refresh()
    outer(1)
with reporter.stage("next") as advance:
    advance(3)
"""
    import pty

    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=child, env={**os.environ, "TERM": "xterm"}, check=False
    )
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 65536):
            shown += piece
    except OSError:  # the end of a pseudo-terminal
        pass
    os.close(parent)
    text = shown.decode()
    assert done.returncode == 0
    for expected in ("4/4", "a line between", "inner: 4/4 in", "outer: 1/2 in", "next: 3 in", "\x1b["):
        assert expected in text


@pytest.mark.slow
def test_all_methods_are_those_that_judge_the_tasks_claims(tmp_path: Path) -> None:
    done = conrad_bench("run", "--methods", "all", "--tasks", "vqa_rad,mimic_report", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out, since not all of answer, report are theirs: " in done.stderr
    left = done.stderr.partition("theirs: ")[2].splitlines()[0].split(", ")
    assert {"luq", "radflag"} <= set(left)
    assert " conrad " in done.stdout
    assert " radflag " not in done.stdout
    assert "name the tasks" in refused(conrad_bench("run", "--methods", "all", "--dry-run", cwd=tmp_path))
