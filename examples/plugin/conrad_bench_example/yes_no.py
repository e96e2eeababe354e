"""Yes-no questions about images, one JSON object a line in `questions.jsonl`.

    {"id": "q1", "image": "images/1.png", "question": "Is the heart enlarged?", "answer": "no", "split": "test"}

Image paths are relative to the data root.
"""

from __future__ import annotations

import json
from pathlib import Path

from conrad_bench import Claim, Example, Loaded, Message, Prompt, Response, Task, report_claim
from conrad_bench.errors import DataError
from conrad_bench.reading.elicitation import INSTRUCTIONS


class YesNo(Task):
    """Answer yes or no to a question about one image; the bootstrap draws images."""

    name = "yes_no"
    summary = "yes-no questions: answer, one confidence an answer"
    granularity = "answer"
    root_variable = "YES_NO_ROOT"

    scorer: str = "first_word"

    def load(self, root: Path) -> Loaded:
        """Read `questions.jsonl` below `root`. Raises DataError naming the line that is wrong."""
        path = root / "questions.jsonl"
        if not path.is_file():
            raise DataError(f"{path} is missing; the data root of yes_no holds it")
        examples = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                image = str((root / row["image"]).absolute())
                examples.append(
                    Example(row["id"], row["image"], row["split"], (image,), row["question"], row["answer"])
                )
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not a question ({type(error).__name__})") from error
        return Loaded(examples=examples)

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Ask the question, and for the confidence in the form `elicit` if one is named."""
        instruction = INSTRUCTIONS[elicit] if elicit is not None else ""
        text = f"{example.context} Answer yes or no.{instruction}"
        return Prompt((Message("user", text),), example.images, elicit)

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        """Return the answer as the one claim."""
        return [report_claim(response, elicit)]
