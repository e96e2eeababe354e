"""The head in float32: logits that carry a confidence do not step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conrad_bench.engines import heads
from conrad_bench.engines.heads import precise_logits
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.types import Message, Prompt


class Headed:
    """What of a model the head's precision asks for."""

    def __init__(self, head: torch.nn.Linear) -> None:
        self.head = head.to(torch.bfloat16).requires_grad_(False)

    def get_output_embeddings(self) -> Any:
        return self.head


def test_p_true_of_a_large_bfloat16_model_does_not_collapse() -> None:
    """10,000 states of 2,560 numbers, logits about 20: in bfloat16 they step by 0.125."""
    torch.manual_seed(0)
    model = Headed(torch.nn.Linear(2560, 2))
    torch.nn.init.constant_(model.head.bias, 20.0)
    states = (torch.randn(10_000, 2560) * 1.5).to(torch.bfloat16)

    def distinct() -> int:
        logits = model.head(states).float()
        return len((logits[:, 0] - logits[:, 1]).unique())

    coarse = distinct()
    with precise_logits(model):
        assert model.head(states[:1]).dtype == torch.float32
        fine = distinct()
    assert model.head(states[:1]).dtype == torch.bfloat16
    assert coarse < 250
    assert fine > 5_000


@pytest.mark.parametrize("rows", [7, 16_384])
def test_parts_of_the_vocabulary_make_the_whole(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(heads, "_ROWS", rows)
    torch.manual_seed(0)
    model = Headed(torch.nn.Linear(16, 50))
    linear = model.head
    states = torch.randn(3, 16).to(torch.bfloat16).requires_grad_()
    weights = torch.randn(3, 50)
    with precise_logits(model):
        found = linear(states)
    (mine,) = torch.autograd.grad((found * weights).sum(), states)
    plain = states.float() @ linear.weight.float().T + linear.bias.float()
    (theirs,) = torch.autograd.grad((plain * weights).sum(), states)
    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.allclose(mine.float(), theirs.float(), atol=1e-2)


def test_scores_of_a_bfloat16_engine_are_read_off_precise_logits(base_model: Path) -> None:
    """Log-probabilities of the eleven answers are no multiples of a step."""
    engine = TransformersEngine(model=str(base_model), dtype="bfloat16")
    prompts = [Prompt((Message("user", f"Write {word}."),)) for word in ("one", "two", "three", "four")]
    scores = torch.tensor(engine.score(prompts, [[str(k) for k in range(10)]] * 4, None))
    differences = (scores[:, 1:] - scores[:, :1]).double()
    steps = differences * 128  # logits of a size between 1 and 2 step by 1/128 in bfloat16
    assert (steps - steps.round()).abs().max() > 0.05
