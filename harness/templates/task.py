"""my_plugin: questions about images, one JSON object a line in ROOT/questions.jsonl.

    {"id": "q1", "patient": "p1", "split": "test", "image": "images/1.png", "question": "...", "answer": "no"}

Paths of images are relative to ROOT; `example_data` beside this file has such a root. For data in a csv no code is
needed at all: docs/plugins.md of conrad-bench, "A task".
"""

from __future__ import annotations

import json
from pathlib import Path

import conrad_bench as cb
from conrad_bench.errors import DataError
from conrad_bench.reading.elicitation import INSTRUCTIONS


@cb.register_task
class MyPlugin(cb.Task):
    """Answer a question about one image."""

    name = "my_plugin"
    summary = (
        "my_plugin: questions about images, one confidence an answer"  # before the colon: what boards call the data
    )
    source = ""  # where the data come from
    granularity = "answer"  # "report", "sentence" or "answer"
    root_variable = "MY_PLUGIN_ROOT"

    scorer: str = "vqa_match"

    def load(self, root: Path) -> cb.Loaded:
        """Read every example. Raises DataError naming file and line, never what stands in it."""
        path = root / "questions.jsonl"
        if not path.is_file():
            raise DataError(f"{path} is missing; the data root of {self.name} holds it")
        examples = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                examples.append(
                    cb.Example(
                        id=row["id"],
                        cluster=row["patient"],
                        split=row["split"],
                        images=(str((root / row["image"]).absolute()),),
                        context=row["question"],
                        reference=row["answer"],
                    )
                )
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not a question ({type(error).__name__})") from None
        return cb.Loaded(examples=examples)

    def prompt(self, example: cb.Example, elicit: str | None = None) -> cb.Prompt:
        """Ask the question, and for a confidence in the format `elicit` if one is named."""
        asked = f"{example.context} Answer in one word." + (INSTRUCTIONS[elicit] if elicit else "")
        return cb.Prompt((cb.Message("user", asked),), example.images, elicit)
