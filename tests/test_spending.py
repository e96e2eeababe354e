"""What a method costs: tokens read and written as the model itself counts them, and how boards show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_board import board_of, frame, row_of

from conrad_bench.engines.inputs import encode
from conrad_bench.engines.processors import load_processor
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.leaderboards.pages.html import page
from conrad_bench.leaderboards.pages.outputs import csv_text
from conrad_bench.leaderboards.pages.tables import markdown
from conrad_bench.leaderboards.pages.wording import cost_text
from conrad_bench.progress import Reporter
from conrad_bench.records import SPENT
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.spending import Spending
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.mimic import MimicReport
from conrad_bench.tasks.phantom import render, world
from conrad_bench.types import Example, Prompt, Sampling


@pytest.fixture
def model(base_model: Path, tmp_path: Path) -> Iterator[Model]:
    with RolloutStore(tmp_path / "rollouts") as store:
        yield Model(TransformersEngine(model=str(base_model)), store, Reporter(quiet=True))


@pytest.fixture
def prompts(tmp_path: Path) -> list[Prompt]:
    """Two prompts with pictures and one without."""
    examples = []
    for i, study in enumerate(world.studies(2, 9, split="test")):
        Image.fromarray(render.frontal(study)).save(tmp_path / f"{i}.png")
        examples.append(Example(str(i), str(i), "test", (str(tmp_path / f"{i}.png"),), study.indication, "Clear."))
    prompts = [MimicReport(scorer="phantom_green").prompt(example) for example in examples]
    return [*prompts, replace(prompts[0], images=())]


def test_a_prompt_has_as_many_tokens_as_the_model_reads(model: Model, prompts: list[Prompt], base_model: Path) -> None:
    processor = load_processor(str(base_model), None, None)
    for prompt in prompts:
        assert model.engine.reads(prompt) == len(encode(processor, prompt).ids)


def test_a_request_counts_once_and_samples_read_their_prompt_once(model: Model, prompts: list[Prompt]) -> None:
    lengths = [model.engine.reads(prompt) or 0 for prompt in prompts]
    sampling = Sampling(1.0, max_tokens=4, seed=0)
    for _ in range(2):  # the second time, all answers are in the store
        spending = Spending()
        asked = replace(model, spending=spending)
        drawn = asked.sample(prompts, 3, sampling)
        assert asked.sample(prompts, 3, sampling) == drawn
        written = sum(len(response.token_ids) for row in drawn for response in row)
        assert spending.each(2) == {"tokens_read": sum(lengths) / 2, "tokens_written": written / 2}
    asked.score(prompts[:1], ["1", "2"])
    asked.hidden(prompts[:1], [drawn[0][0]], -1, "mean")
    found = spending.each(1)
    assert found is not None
    assert found["tokens_read"] == sum(lengths) + 2 * lengths[0] + 4 + len(drawn[0][0].token_ids)
    assert asked.judged_by(model.engine).spending is None


def test_an_engine_that_cannot_tell_leaves_the_cost_unknown() -> None:
    class Silent:
        def reads(self, prompt: Prompt) -> None:
            return None

    spending = Spending()
    engine: Any = Silent()
    spending.scored(engine, {"a": (Prompt(()), ["1"])})
    assert spending.each(1) is None
    assert Spending().each(1) is None


def costing(method: str, read: float, written: float, steps: float) -> Any:
    stated = method.partition(" [")[0] != "base"
    return frame(method, stated=stated).assign(**dict(zip(SPENT, (read, written, steps), strict=True)))


def test_boards_show_multiples_of_base_and_training_steps() -> None:
    frames = [costing("base", 80, 20, 0), costing("self_consistency", 200, 410, 0), costing("conrad", 90, 30, 1500)]
    board = board_of(*frames)
    costs = {row["method"]: cost_text(row) for row in board["rows"]}
    assert costs == {"base": "× 1.0", "self_consistency": "× 6.1", "conrad": "× 1.2, 1,500 steps"}
    for text in (markdown(board), page(board)):
        assert "× 1.2, 1,500 steps" in text
    assert "tokens_read,tokens_written,training_steps" in csv_text(board).splitlines()[0]
    alone = row_of(board_of(*frames[1:]), "conrad")
    assert alone["cost"]["times"] is None
    assert cost_text(alone) == "120 tokens, 1,500 steps"
    runs = board_of(
        costing("base [a]", 80, 20, 0), costing("base [b]", 400, 100, 0), costing("conrad [b]", 400, 600, 0)
    )
    assert row_of(runs, "conrad [b]")["cost"]["times"] == 2


def test_records_without_a_cost_have_no_column() -> None:
    board = board_of(frame("conrad"), frame("verbalized"))
    assert "cost" not in row_of(board, "conrad")
    assert "cost" not in markdown(board)
    assert "tokens_read" not in csv_text(board)
