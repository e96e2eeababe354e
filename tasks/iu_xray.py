"""iu_xray_report, iu_xray_sentence: write the findings of a chest X-ray study (IU-Xray, Open-i), out of distribution.

https://openi.nlm.nih.gov/faq

    images      NLMCXR_png/CXR10_IM-0002-2001.png, all of the study
    context     the INDICATION section
    reference   the FINDINGS section
    split       the test studies of Rad-ReStruct; methods are fitted on mimic_report or mimic_sentence
    claims      the whole response, or its sentences
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar

from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.layouts.openi import Views, load_openi
from conrad_bench.tasks.reports import ReportTask, SentenceTask


class _IUXray(Task):
    """Studies of IU-Xray, from other hospitals than MIMIC-CXR's."""

    root_variable: ClassVar[str] = "IU_XRAY_ROOT"
    phantom_layout: ClassVar[str | None] = "openi"

    views: Views = "all"
    """Images of a study that the model sees: "all" (the paper) or "frontal" (one)."""
    test_ids: Path | None = None
    """test_ids.json of Rad-ReStruct, where it is not in the data root; the other files are looked for beside it."""

    def load(self, root: Path) -> Loaded:
        """Read every study below `root`. Raises DataError naming the file that is missing or wrong."""
        return load_openi(root, views=self.views, test_ids=self.test_ids)

    def data_options(self) -> Hashable:
        """Return the options of the studies."""
        return "iu_xray", self.views, self.test_ids


class IUXrayReport(ReportTask, _IUXray):
    """Findings of a chest X-ray study from other hospitals, judged as a whole report."""

    name: ClassVar[str] = "iu_xray_report"
    summary: ClassVar[str] = "IU-Xray, zero-shot: write the findings section, one confidence a report"
    source: ClassVar[str] = "Demner-Fushman et al. 2016 (IU-Xray); test split of Rad-ReStruct; ConRad, section 4"

    fit_on: str | None = "mimic_report"


class IUXraySentence(SentenceTask, _IUXray):
    """Findings of a chest X-ray study from other hospitals, each sentence judged by itself."""

    name: ClassVar[str] = "iu_xray_sentence"
    summary: ClassVar[str] = "IU-Xray, zero-shot: write the findings section, one confidence a sentence"
    source: ClassVar[str] = "Demner-Fushman et al. 2016 (IU-Xray); test split of Rad-ReStruct; ConRad, section 3"

    fit_on: str | None = "mimic_sentence"
