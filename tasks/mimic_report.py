"""mimic_report: write the findings of a chest X-ray study (MIMIC-CXR), one claim a report.

https://physionet.org/content/mimic-cxr-jpg/ (credentialed access)

    images      files/p10/p10000032/s50414267/<dicom_id>.jpg, all of the study
    context     the INDICATION section
    reference   the FINDINGS section
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from conrad_bench.reading.elicitation import report_claim
from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.layouts.mimic_cxr import Views, load_mimic_cxr
from conrad_bench.tasks.prompts import report_text
from conrad_bench.types import Claim, Example, Granularity, Message, Prompt, Response


class MimicReport(Task):
    """Findings of a chest X-ray study, judged as a whole report."""

    name: ClassVar[str] = "mimic_report"
    summary: ClassVar[str] = "MIMIC-CXR: write the findings section, one confidence a report"
    source: ClassVar[str] = "Johnson et al. 2019 (MIMIC-CXR-JPG); ConRad, section 3"
    granularity: ClassVar[Granularity] = "report"
    root_variable: ClassVar[str] = "MIMIC_CXR_ROOT"
    phantom_layout: ClassVar[str | None] = "mimic"

    scorer: str = "phantom_green"
    """The default judges phantom (synthetic) reports only; for real reports name a scorer that reads them, GREEN's for
    example."""
    views: Views = "all"
    """Images of a study that the model sees: "all" (the paper), "frontal" (one) or "frontal_lateral" (at most two)."""
    reports_root: Path | None = None
    """Folder of the report texts, where they do not lie under the data root."""

    def load(self, root: Path) -> Loaded:
        """Read every study below `root`. Raises DataError naming the file that is missing or wrong."""
        return load_mimic_cxr(root, views=self.views, reports_root=self.reports_root)

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return the images, the indication where there is one, and the instruction to write the findings."""
        return Prompt((Message("user", report_text(example.context, elicit)),), images=example.images, elicit=elicit)

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        """Return the report as one claim, with the stated confidence where the format has one."""
        return [report_claim(response, elicit)]
