"""P(True) in two wordings: the texts, and the probabilities of the two options."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.methods.p_true import PTrue, about
from conrad_bench.progress import Reporter
from conrad_bench.reading.elicitation import p_true_choices
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.mimic import MimicReport
from conrad_bench.tasks.phantom import render, world
from conrad_bench.types import SAMPLING, Example, Sampling

PROPOSED = """\
Question: Who was the first president of the United States?
Proposed Answer: George Washington
Is the proposed answer:
 (A) True
 (B) False
The proposed answer is:"""

POSSIBLE = """\
Question: Who was the third president of the United States?
Here are some brainstormed ideas: James Monroe
Thomas Jefferson
John Adams
Possible Answer: James Monroe
Is the possible answer:
 (A) True
 (B) False
The possible answer is:"""


def test_the_wording_is_theirs() -> None:
    """Kadavath et al. 2022, sections 3.2 and 4 (two of its five ideas left out)."""
    assert p_true_choices("Who was the first president of the United States?", "George Washington") == PROPOSED
    ideas = ["James Monroe", "Thomas Jefferson", "John Adams"]
    assert p_true_choices("Who was the third president of the United States?", "James Monroe", ideas) == POSSIBLE


@pytest.mark.parametrize("show", [0, 2])
def test_the_confidence_is_the_share_of_a(show: int, base_model: Path, tmp_path: Path) -> None:
    examples = []
    for i, study in enumerate(world.studies(3, 9, split="test")):
        Image.fromarray(render.frontal(study)).save(tmp_path / f"{i}.png")
        examples.append(Example(str(i), str(i), "test", (str(tmp_path / f"{i}.png"),), study.indication, "Clear."))
    task, method = MimicReport(scorer="phantom_green"), PTrue(wording="kadavath", show=show)
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(TransformersEngine(model=str(base_model)), store, Reporter(quiet=True))
        estimates = method.estimate(task, examples, model, lambda examples, claims: [], None)
        prompts = [task.prompt(example) for example in examples]
        sampled = model.sample(prompts, 2, Sampling(1.0, seed=0))
        steps = method.steps(task, [], [], examples)
        assert [step.count for step in steps] == ([3, 3] if show == 0 else [3, 6, 3])
        keys = {k for s in steps if s.prompts for row in model.keys(s.prompts, s.sampling, s.n) for k in row}
        assert store.read(sorted(keys)).keys() == keys
        for prompt, row, estimate in zip(prompts, sampled, estimates, strict=True):
            (claim,) = estimate.claims
            asked = about(prompt, claim.text, "kadavath", [sample.text for sample in row][:show])
            assert ("brainstormed" in asked.messages[-1].text) == (show > 0)
            ((yes, no),) = model.score([asked], ["(A)", "(B)"])
            assert claim.confidence == pytest.approx(math.exp(yes) / (math.exp(yes) + math.exp(no)))


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="set wording=kadavath or show=0"):
        PTrue(show=3)
    chosen = PTrue(wording="kadavath", show=3)
    assert SAMPLING in chosen.requirements()
    assert SAMPLING not in PTrue(wording="kadavath").requirements()
    assert chosen.problem("report") is None
    assert "use show=0" in str(chosen.problem("sentence"))
