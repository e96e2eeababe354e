"""benchmarks/real_vqa.py: what it teaches, and a teaching that was cut. A tiny model stands in for the real one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from conrad_bench.tasks.vqa_rad import VqaRad

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def real_vqa() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import real_vqa

    yield real_vqa
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VQA-RAD in the form mevf: twelve pictures that train, three that test, two questions about each."""
    root = tmp_path_factory.mktemp("vqa-rad")
    (root / "mevf").mkdir()
    (root / "images").mkdir()
    draw = np.random.default_rng(0)
    rows: dict[str, list[dict[str, object]]] = {"trainset": [], "testset": []}
    for picture in range(15):
        name = f"synpic{picture}.jpg"
        Image.fromarray(draw.integers(0, 256, (40, 50), dtype=np.uint8)).save(root / "images" / name)
        for k, answer in enumerate(("yes", "The lungs")):
            rows["trainset" if picture < 12 else "testset"].append(
                {
                    "qid": 2 * picture + k,
                    "phrase_type": "freeform" if picture < 12 else "test_freeform",
                    "image_name": name,
                    "image_organ": "CHEST",
                    "question": f"What is seen, {k}?",
                    "question_type": "PRES",
                    "answer": answer,
                    "answer_type": "OPEN" if k else "CLOSED ",
                }
            )
    for name, some in rows.items():
        (root / "mevf" / f"{name}.json").write_text(json.dumps(some))
    return root


def test_what_teaches_is_not_left_for_the_methods(real_vqa: ModuleType, data: Path, tmp_path: Path) -> None:
    parts = real_vqa.examples(data)
    real_vqa.split(data, tmp_path / "split")
    whole, rest = (VqaRad(form="mevf").load(root) for root in (data, tmp_path / "split"))
    assert parts["teach"]
    assert not {e.cluster for e in parts["teach"]} & {e.cluster for e in [*parts["left"], *parts["validate"]]}
    assert {e.id for e in rest.split("train")} == {e.id for e in parts["left"]}
    for part in ("validate", "test"):
        assert [e.id for e in rest.split(part)] == [e.id for e in whole.split(part)]
    assert {e.cluster for e in whole.split("test")}.isdisjoint(e.cluster for e in parts["teach"])


def test_a_teaching_that_was_cut_ends_with_the_same_weights(
    real_vqa: ModuleType, data: Path, tiny_gemma3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def teach(name: str) -> None:
        real_vqa.teach(str(tiny_gemma3), tmp_path / name, data, seed=1, epochs=2, batch=4)

    teach("whole")
    monkeypatch.setattr(real_vqa, "KEEP_EVERY", 0.0)
    learn, steps = real_vqa._Course.learn, []

    def cut(self: object, step: int, loss: object) -> None:
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(step)
        learn(self, step, loss)

    with monkeypatch.context() as patch:
        patch.setattr(real_vqa._Course, "learn", cut)
        with pytest.raises(KeyboardInterrupt):
            teach("cut")
    teach("cut")
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    before = load_file(tiny_gemma3 / "model.safetensors")
    assert whole.keys() == again.keys()
    for name in whole:
        assert whole[name].equal(again[name]), name
    moved = {name for name in whole if not whole[name].equal(before[name].to(whole[name].dtype))}
    assert any("vision_tower" in name for name in moved)
    assert any("self_attn.q_proj" in name and "vision" not in name for name in moved)
    assert not any("embed_tokens" in name for name in moved)
    report = json.loads((tmp_path / "cut" / "teaching.json").read_text())
    assert report["questions"]["teach"] == len(real_vqa.examples(data)["teach"])


def test_what_is_not_here_is_said(real_vqa: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(real_vqa.Absent, match="is not there"):
        real_vqa.build(tmp_path / "model", tmp_path / "nothing.gguf", tmp_path)
