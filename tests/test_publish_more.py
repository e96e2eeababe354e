"""What `publish` adds on demand: results cards, records of Every Eval Ever, and what methods learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_cli import conrad_bench
from test_run import TOY, Toy

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.bundles.adapters import FREE, licence
from conrad_bench.leaderboards.bundles.card import card_text
from conrad_bench.leaderboards.bundles.every_eval_ever import eee_text
from conrad_bench.leaderboards.bundles.publish import DERIVED, publish
from conrad_bench.leaderboards.bundles.verify import render, verify
from conrad_bench.registry import Registry
from conrad_bench.storage import file_sha256

SCHEMA = json.loads((Path(__file__).parent / "every_eval_ever" / "eval.schema.json").read_text())
PUBLISHED = sorted((Path(__file__).parents[1] / "leaderboards" / "published").glob("*/leaderboard.json"))


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    toy = Toy(tmp_path)
    toy.run("stated,mean")
    return toy


def learned(toy: Toy, **metadata: str) -> Path:
    """Weights and settings in the artifact of a toy's run, as an adapter's are."""
    folder = toy.out / "artifacts" / "mean@toy"
    save_file({"w": np.zeros(3, np.float32)}, folder / "adapter_model.safetensors", metadata or None)
    settings: dict[str, Any] = {
        "r": 8,
        "base_model_name_or_path": "google/medgemma-4b-it",
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def listed_anew(bundle: Path) -> None:
    """Let bundle.json fit the files, as a forger would."""
    content = json.loads((bundle / "bundle.json").read_text())
    names = [p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file() and p.name != "bundle.json"]
    content["files"] = {name: file_sha256(bundle / name) for name in names}
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def test_card_and_record_are_checked_and_written_anew(toy: Toy, tmp_path: Path) -> None:
    bundle = publish([toy.out], tmp_path / "bundle", DERIVED)
    assert verify(bundle).differences == []
    card = (bundle / "card.md").read_text()
    assert "## MI-CLEAR-LLM" in card
    assert "**Question:**" in card
    assert "| 23 | Software |" in card
    assert str(toy.root) not in card
    for name in DERIVED:
        (bundle / name).write_text((bundle / name).read_text().replace("toy", "tyo"))
        listed_anew(bundle)
        assert [line for line in verify(bundle).differences if line.startswith(name)], name
    assert render(bundle).differences == []
    assert (bundle / "card.md").read_text() == card
    again = publish([bundle], tmp_path / "again")
    assert not any((again / name).exists() for name in DERIVED)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_records_of_published_boards_fit_the_published_schema(path: Path) -> None:
    board, manifest = (json.loads((path.parent / name).read_text()) for name in ("leaderboard.json", "manifest.json"))
    record = json.loads(eee_text(board, manifest, "1764000000"))
    jsonschema.validate(record, SCHEMA)
    assert record["schema_version"] == SCHEMA["version"]
    values = [value for row in board["rows"] for value in row["metrics"].values() if value["value"] is not None]
    assert len(record["evaluation_results"]) == len(values)
    assert len({result["evaluation_result_id"] for result in record["evaluation_results"]}) == len(values)
    lines = card_text(board, manifest).splitlines()
    assert sum(line.startswith("| ") for line in lines) > 50
    assert all(line.count(" | ") == 2 for line in lines if line.startswith("| "))


def test_a_record_fits_the_schema_and_its_time_is_checked(toy: Toy, tmp_path: Path) -> None:
    bundle = publish([toy.out], tmp_path / "bundle", ["every_eval_ever.json"])
    record = json.loads((bundle / "every_eval_ever.json").read_text())
    jsonschema.validate(record, SCHEMA)
    assert not (bundle / "card.md").exists()
    record["retrieved_timestamp"] = "yesterday, by Dr Smith"
    (bundle / "every_eval_ever.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    listed_anew(bundle)
    assert any(line.startswith("every_eval_ever.json") for line in verify(bundle).differences)
    assert render(bundle).differences == []
    assert "Smith" not in (bundle / "every_eval_ever.json").read_text()


def test_weights_are_published_by_who_acknowledges_the_licence(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="holds no weights"):
        publish([toy.out], tmp_path / "none", adapters=True)
    learned(toy)
    with pytest.raises(ConfigError, match="does not say which licence"):
        publish([toy.out], tmp_path / "unsaid", adapters=True, acknowledged=["any"])
    monkeypatch.setattr("conrad_bench.leaderboards.bundles.adapters.licence", lambda task, manifest: "Toy Licence 1.0")
    for acknowledged in ([], ["Another Licence"]):
        with pytest.raises(ConfigError, match=r'--acknowledge "Toy Licence 1\.0"'):
            publish([toy.out], tmp_path / "unread", adapters=True, acknowledged=acknowledged)
    bundle = publish([toy.out], tmp_path / "bundle", adapters=True, acknowledged=["Toy Licence 1.0"])
    names = sorted(
        p.relative_to(bundle / "adapters").as_posix() for p in (bundle / "adapters").rglob("*") if p.is_file()
    )
    assert names == ["licences.json", "mean@toy/adapter_config.json", "mean@toy/adapter_model.safetensors"]
    assert verify(bundle).differences == []
    (bundle / "adapters" / "licences.json").write_text('{\n "toy": "Another"\n}\n')
    listed_anew(bundle)
    assert any("the licence of its data is Toy Licence 1.0" in line for line in verify(bundle).differences)
    assert not (tmp_path / "unread").exists()  # what is refused leaves nothing behind
    with pytest.raises(ConfigError, match="name one run folder"):
        publish([bundle], tmp_path / "of-a-bundle", adapters=True)


def test_weights_hold_nothing_else(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conrad_bench.leaderboards.bundles.adapters.licence", lambda task, manifest: FREE)
    folder = learned(toy, note="Mrs. Smith, 1931")
    with pytest.raises(DataError, match="holds more than tensors"):
        publish([toy.out], tmp_path / "noted", adapters=True)
    learned(toy)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/smith/model"}')
    with pytest.raises(DataError, match="base_model_name_or_path: a text that no adapter needs"):
        publish([toy.out], tmp_path / "placed", adapters=True)
    learned(toy)
    bundle = publish([toy.out], tmp_path / "bundle", adapters=True)
    (bundle / "adapters" / "mean@toy" / "reports.txt").write_text("Findings: ...")
    with open(bundle / "adapters" / "mean@toy" / "adapter_model.safetensors", "ab") as file:
        file.write(b"Findings: ...")
    listed_anew(bundle)
    found = "\n".join(verify(bundle).differences)
    assert "mean@toy/reports.txt: no file of an adapter" in found
    assert "adapter_model.safetensors: holds more than tensors" in found


def test_tasks_say_the_licence_of_their_data() -> None:
    real = {"data": {"mimic_report": {"root": "(left out)"}}}
    assert licence("mimic_report", real) == "PhysioNet Credentialed Health Data License 1.5.0"
    assert licence("mimic_report", {"data": {"mimic_report": {"root": "phantom (synthetic)"}}}) == FREE
    assert licence("nothing", {}) is None
    assert Registry().get("tasks", "vqa_rad").data_licence == "CC0 1.0"


def test_the_command(toy: Toy, tmp_path: Path) -> None:
    arguments = ("publish", str(toy.out), "--out", "bundle", "--plugin", str(TOY))
    done = conrad_bench(*arguments, "--card", "--eee", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bundle" / "card.md").is_file()
    done = conrad_bench(*arguments, "--acknowledge", "MIT", cwd=tmp_path)
    assert (done.returncode, "--acknowledge is for --adapter" in done.stderr) == (2, True)
