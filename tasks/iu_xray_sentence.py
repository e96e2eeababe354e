"""iu_xray_sentence: write the findings of a chest X-ray study (IU-Xray, Open-i), one claim a sentence.

https://openi.nlm.nih.gov/faq

    images, context, reference, split   as in iu_xray_report; methods are fitted on mimic_sentence
    claims                              the sentences of the response
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from conrad_bench.reading.elicitation import sentence_claims
from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.layouts.openi import Views, load_openi
from conrad_bench.tasks.prompts import report_text
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Response


class IUXraySentence(Task):
    """Findings of a chest X-ray study from other hospitals, each sentence judged by itself."""

    name: ClassVar[str] = "iu_xray_sentence"
    summary: ClassVar[str] = "IU-Xray, zero-shot: write the findings section, one confidence a sentence"
    source: ClassVar[str] = "Demner-Fushman et al. 2016 (IU-Xray); test split of Rad-ReStruct; ConRad, section 3"
    granularity: ClassVar[Granularity] = "sentence"
    root_variable: ClassVar[str] = "IU_XRAY_ROOT"
    phantom_layout: ClassVar[str | None] = "openi"

    scorer: str = "phantom_green"
    """The default judges phantom (synthetic) reports only, single sentences by its Precision form."""
    quality: str | None = "phantom_green"
    fit_on: str | None = "mimic_sentence"
    views: Views = "all"
    """Images of a study that the model sees: "all" (the paper) or "frontal" (one)."""
    test_ids: Path | None = None
    """test_ids.json of Rad-ReStruct, where it is not in the data root; the other files are looked for beside it."""

    def load(self, root: Path) -> Loaded:
        """Read every study below `root`. Raises DataError naming the file that is missing or wrong."""
        return load_openi(root, views=self.views, test_ids=self.test_ids)

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return what iu_xray_report asks; without a format it is the same prompt, whose responses both share."""
        return Prompt((Message("user", report_text(example.context, elicit)),), images=example.images, elicit=elicit)

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        """Return one claim a sentence, with the stated confidences where the format has them."""
        return sentence_claims(response, elicit)
