"""iu_xray_report: write the findings of a chest X-ray study (IU-Xray, Open-i), one claim a report, out of distribution.

https://openi.nlm.nih.gov/faq

    images      NLMCXR_png/CXR10_IM-0002-2001.png, all of the study
    context     the INDICATION section
    reference   the FINDINGS section
    split       the test studies of Rad-ReStruct; methods are fitted on mimic_report
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from conrad_bench.reading.elicitation import report_claim
from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.layouts.openi import Views, load_openi
from conrad_bench.tasks.prompts import report_text
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Response


class IUXrayReport(Task):
    """Findings of a chest X-ray study from other hospitals, judged as a whole report."""

    name: ClassVar[str] = "iu_xray_report"
    summary: ClassVar[str] = "IU-Xray, zero-shot: write the findings section, one confidence a report"
    source: ClassVar[str] = "Demner-Fushman et al. 2016 (IU-Xray); test split of Rad-ReStruct; ConRad, section 4"
    granularity: ClassVar[Granularity] = "report"
    root_variable: ClassVar[str] = "IU_XRAY_ROOT"
    phantom_layout: ClassVar[str | None] = "openi"

    scorer: str = "phantom_green"
    """The default judges phantom (synthetic) reports only; for real reports name a scorer that reads them, GREEN's for
    example."""
    fit_on: str | None = "mimic_report"
    views: Views = "all"
    """Images of a study that the model sees: "all" (the paper) or "frontal" (one)."""
    test_ids: Path | None = None
    """test_ids.json of Rad-ReStruct, where it is not in the data root; the other files are looked for beside it."""

    def load(self, root: Path) -> Loaded:
        """Read every study below `root`. Raises DataError naming the file that is missing or wrong."""
        return load_openi(root, views=self.views, test_ids=self.test_ids)

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return the images, the indication where there is one, and the instruction to write the findings."""
        return Prompt((Message("user", report_text(example.context, elicit)),), images=example.images, elicit=elicit)

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        """Return the report as one claim, with the stated confidence where the format has one."""
        return [report_claim(response, elicit)]
