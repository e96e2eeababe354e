"""mimic_sentence: write the findings of a chest X-ray study (MIMIC-CXR), one claim a sentence.

https://physionet.org/content/mimic-cxr-jpg/ (credentialed access)

    images, context, reference   as in mimic_report
    claims                       the sentences of the response, each supported by the reference or not
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from conrad_bench.reading.elicitation import sentence_claims
from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.layouts.mimic_cxr import Views, load_mimic_cxr
from conrad_bench.tasks.prompts import report_text
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Response


class MimicSentence(Task):
    """Findings of a chest X-ray study, each sentence judged by itself."""

    name: ClassVar[str] = "mimic_sentence"
    summary: ClassVar[str] = "MIMIC-CXR: write the findings section, one confidence a sentence"
    source: ClassVar[str] = "Johnson et al. 2019 (MIMIC-CXR-JPG); ConRad, section 3, sentence-level scenario"
    granularity: ClassVar[Granularity] = "sentence"
    root_variable: ClassVar[str] = "MIMIC_CXR_ROOT"
    phantom_layout: ClassVar[str | None] = "mimic"

    scorer: str = "phantom_green"
    """The default judges phantom (synthetic) reports only, single sentences by its Precision form."""
    quality: str | None = "phantom_green"
    views: Views = "all"
    """Images of a study that the model sees: "all" (the paper), "frontal" (one) or "frontal_lateral" (at most two)."""
    reports_root: Path | None = None
    """Folder of the report texts, where they do not lie under the data root."""

    def load(self, root: Path) -> Loaded:
        """Read every study below `root`. Raises DataError naming the file that is missing or wrong."""
        return load_mimic_cxr(root, views=self.views, reports_root=self.reports_root)

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return what mimic_report asks; without a format it is the same prompt, whose responses both share."""
        return Prompt((Message("user", report_text(example.context, elicit)),), images=example.images, elicit=elicit)

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        """Return one claim a sentence, with the stated confidences where the format has them."""
        return sentence_claims(response, elicit)
