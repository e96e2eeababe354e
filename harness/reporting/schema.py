"""What a report is: the fields of a line of `reports.jsonl`, described in docs/report.md."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from conrad_bench.types import Status

FORMAT = 1

NOTICE = "Written by a machine for research. Not a medical device: not for diagnosis or treatment."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Picture(_Part):
    """A picture that the model saw."""

    file: str
    """Its file's name, without the folder."""
    sha256: str | None
    """Of the file's bytes; null where it could not be read."""
    out_of_scope: list[str]
    """In what the picture is unlike those that the model was trained on; empty where it is like them."""


class Such(_Part):
    """What became of claims that were given as much confidence, in the run that the report's confidences come from."""

    level: int
    """The confidence in tenths, rounded: 7 for 0.7."""
    claims: int
    """Those of the run's test examples with that confidence."""
    patients: int
    correctness: float | None
    """Their mean correctness, in [0, 1]; null where there are none."""
    low: float | None
    high: float | None
    """Its 95 % interval over patients; null where these are too few, or all claims alike."""
    said: str
    """All that as a sentence."""


class Statement(_Part):
    """A sentence with its confidence; at report level the whole report."""

    text: str
    start: int
    end: int
    """The characters of `Report.report` that it is."""
    confidence: float | None
    """In [0, 1]; null where there is none, for which `status` says why."""
    status: Status
    such: Such | None
    """Null where no run tells what the confidence is worth."""


class Source(_Part):
    """The run that tells what the confidences are worth."""

    task: str
    data: str
    """Name of the run's data."""
    scorer: str
    """What judged the run's claims against the references."""
    records: str
    """SHA-256 of the records, those of the run's test examples."""


class Report(_Part):
    """A report for a study."""

    format: Literal[1] = 1
    study: str
    level: Literal["report", "sentence"]
    indication: str
    pictures: list[Picture]
    report: str
    """The text, without stated confidences; empty where the model wrote none."""
    statements: list[Statement]
    model: str
    method: str
    source: Source | None
    warnings: list[str]
    """What a reader must know beside the numbers."""
    notice: str = NOTICE
    version: str
    """Of conrad-bench."""
