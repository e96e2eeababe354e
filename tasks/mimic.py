"""mimic_report, mimic_sentence: write the findings of a chest X-ray study (MIMIC-CXR), one claim a report or sentence.

https://physionet.org/content/mimic-cxr-jpg/ (credentialed access)

    images      files/p10/p10000032/s50414267/<dicom_id>.jpg, all of the study
    context     the INDICATION section
    reference   the FINDINGS section
    claims      the whole response, or its sentences
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar

from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.layouts.mimic_cxr import Views, load_mimic_cxr
from conrad_bench.tasks.reports import ReportTask, SentenceTask


class _Mimic(Task):
    """Studies of MIMIC-CXR."""

    root_variable: ClassVar[str] = "MIMIC_CXR_ROOT"
    data_licence: ClassVar[str | None] = "PhysioNet Credentialed Health Data License 1.5.0"
    phantom_layout: ClassVar[str | None] = "mimic"

    views: Views = "all"
    """Images of a study that the model sees: "all" (the paper), "frontal" (one) or "frontal_lateral" (at most two)."""
    reports_root: Path | None = None
    """Folder of the report texts, where they do not lie under the data root."""
    hand_set: bool = False
    """Take the 46 studies, too, whose findings the data set's authors set by hand: their csv of sections has none."""

    def load(self, root: Path) -> Loaded:
        """Read every study below `root`. Raises DataError naming the file that is missing or wrong."""
        return load_mimic_cxr(root, views=self.views, reports_root=self.reports_root, hand_set=self.hand_set)

    def load_test(self, root: Path) -> Loaded:
        """Read the test studies below `root`, and no report or image of another study."""
        return load_mimic_cxr(root, self.views, ["test"], reports_root=self.reports_root, hand_set=self.hand_set)

    def data_options(self) -> Hashable:
        """Return the options of the studies."""
        return "mimic", self.views, self.reports_root, self.hand_set


class MimicReport(ReportTask, _Mimic):
    """Findings of a chest X-ray study, judged as a whole report."""

    name: ClassVar[str] = "mimic_report"
    summary: ClassVar[str] = "MIMIC-CXR: write the findings section, one confidence a report"
    source: ClassVar[str] = "Johnson et al. 2019 (MIMIC-CXR-JPG); ConRad, section 3"


class MimicSentence(SentenceTask, _Mimic):
    """Findings of a chest X-ray study, each sentence judged by itself."""

    name: ClassVar[str] = "mimic_sentence"
    summary: ClassVar[str] = "MIMIC-CXR: write the findings section, one confidence a sentence"
    source: ClassVar[str] = "Johnson et al. 2019 (MIMIC-CXR-JPG); ConRad, section 3, sentence-level scenario"
