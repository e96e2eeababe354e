"""What tasks that write a chest X-ray study's findings share: the prompt, and the two granularities of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from conrad_bench.tasks.base import Task
from conrad_bench.tasks.prompts import report_text
from conrad_bench.types import Example, Granularity, Message, Prompt


class ReportTask(Task):
    """Write the findings of a study, judged as a whole report."""

    granularity: ClassVar[Granularity] = "report"

    phantom_scorers: ClassVar[Mapping[str, str]] = {"green": "phantom_green", "precision_green": "phantom_green"}

    scorer: str = "green"

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return the images, the indication where there is one, and the instruction to write the findings.

        Without a format it is the same prompt at both granularities, whose responses they share.
        """
        return Prompt((Message("user", report_text(example.context, elicit)),), images=example.images, elicit=elicit)


class SentenceTask(ReportTask):
    """Write the findings of a study, each sentence judged by itself, supported by the reference or not."""

    granularity: ClassVar[Granularity] = "sentence"

    scorer: str = "precision_green"
    quality: str | None = "green"
