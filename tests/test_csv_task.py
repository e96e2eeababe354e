"""A csv with a YAML file beside it is a task; a function of a response is a method."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import conrad_bench

from conrad_bench import ResponseMethod, open_run, run
from conrad_bench.errors import DataError, PluginError
from conrad_bench.fingerprints import code_digest
from conrad_bench.registry import Registry
from conrad_bench.testing import check_method, checks

YAML = """
title: Chest questions of our hospital
granularity: answer
file: questions.csv
instruction: Answer in one word.
columns: {id: qid, patient: subject, reference: answer}
"""
HEADER = "qid,subject,images,question,answer,split,sex\n"


def write(folder: Path, yaml: str = YAML, rows: str = "", header: str = HEADER) -> Path:
    """Write a task of eight questions, or of the rows given, and return the YAML file."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(folder / name)
    split = ["test"] * 6 + ["train"] * 2
    rows = rows or "".join(f"q{i},p{i // 2},a.png;b.png,Is it large?,yes,{split[i]},F\n" for i in range(8))
    (folder / "questions.csv").write_text(header + rows)
    path = folder / "our_vqa.yaml"
    path.write_text(yaml)
    return path


def task(path: Path) -> Any:
    return Registry([path]).create("tasks", "our_vqa", {})


def test_it_is_a_task_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path)
    made = task(path)
    for check in checks(made, tmp_path):
        check()
    examples = made.load(tmp_path).examples
    assert examples[0].images == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert (examples[0].cluster, examples[0].attributes) == ("p0", {"sex": "F"})
    assert [e.split for e in examples[5:7]] == ["test", "train"]
    assert made.prompt(examples[0]).messages[0].text == "Is it large?\nAnswer in one word."
    assert pickle.loads(pickle.dumps(made)).load(tmp_path).examples == examples
    assert made.scorer == "vqa_match"


def test_another_description_is_other_code(tmp_path: Path) -> None:
    before = code_digest(type(task(write(tmp_path))))
    after = code_digest(type(task(write(tmp_path, YAML.replace("one word", "two words")))))
    assert before != after


def test_it_runs_under_its_own_title(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    path = write(data)
    found = run(
        ["verbalized"],
        ["our_vqa"],
        out=tmp_path / "run",
        plugins=[path],
        quiet=True,
        model="phantom",
        options={"bootstrap": {"replicates": 20}},
    )
    assert found.board.content["data"] == "Chest questions of our hospital"
    assert len(found.records()) == 6
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["our_vqa"]["examples"]["test"] == 6
    assert open_run(tmp_path / "run").responses()["text"].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yaml": "title: x\nfile: questions.csv\n"}, "granularity: Field required"),
        ({"yaml": YAML + "colour: red\n"}, "colour: Extra inputs"),
        ({"yaml": YAML.replace("subject", "subject, age: years")}, "'age' is none of ours"),
        ({"yaml": YAML.replace("questions.csv", "none.csv")}, r"none\.csv: cannot be read"),
        ({"yaml": YAML.replace("qid", "number")}, "has no column 'number' for `id`"),
        ({"rows": "q0,p0,a.png,Is it?,yes,test\n"}, r"line 2: 6 cells, the header has 7 names"),
        ({"rows": "q0,p0,a.png,Is it?,,test,F\n"}, r"line 2: column 'answer' is empty"),
        ({"rows": "q0,p0,a.png,Is it?,yes,val,F\n"}, r"line 2: column 'split': splits are train"),
        ({"rows": "q0,p0,c.png,Is it?,yes,test,F\n"}, r"line 2: column 'images': there is no file .*c\.png"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises((PluginError, DataError), match=message):
        task(write(tmp_path, **change)).load(tmp_path)


class Length(ResponseMethod):
    """Longer responses are surer."""

    name = "length"
    summary = "the length of the response"

    def confidence(self, response: Any, claims: Any) -> Any:
        return min(1.0, len(response.text) / 1000)


class Each(Length):
    """A number for each claim."""

    name = "each"

    def confidence(self, response: Any, claims: Any) -> Any:
        return [min(1.0, len(claim.text) / 1000) for claim in claims]


class Wrong(Length):
    """One number too many."""

    name = "wrong"

    def confidence(self, response: Any, claims: Any) -> Any:
        return [0.5] * (len(claims) + 1)


@pytest.mark.parametrize("method", [Length(), Each()])
def test_one_function_is_a_method(method: ResponseMethod) -> None:
    for check in checks(method):
        check()


def test_as_many_numbers_as_claims() -> None:
    with pytest.raises(PluginError, match="2 numbers for 1 claims"):
        check_method(Wrong())


OWN_DATA = Path(__file__).parents[1] / "examples" / "own_data"


@pytest.mark.slow
def test_the_example_of_own_data_runs_as_the_page_says(tmp_path: Path) -> None:
    """docs/own_data.md, on the embedded model."""
    for path in OWN_DATA.iterdir():
        if path.is_file():
            shutil.copyfile(path, tmp_path / path.name)
    subprocess.run([sys.executable, "make.py"], cwd=tmp_path, check=True)
    small = ("--model", "phantom", "-o", "bootstrap.replicates=50")
    run = ("run", "--methods", "verbalized,probe", "--tasks", "square", "--plugin", "square.yaml", *small)
    done = conrad_bench(*run, "--out", "runs/square", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "VQA match 0.000" in done.stdout
    plugins = ("--plugin", "square_sentences.yaml", "--plugin", "shared_words.py")
    run = ("run", "--methods", "verbalized,p_true", "--tasks", "square_sentences", *plugins, *small)
    done = conrad_bench(*run, "--out", "runs/sentences", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "runs" / "sentences" / "leaderboard.json").read_text())["rows"]
    assert {row["method"]: row["n"] for row in rows} == {"verbalized": 178, "p_true": 198}
    done = conrad_bench("leaderboard", "runs/sentences", "--by", "site", *plugins, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
