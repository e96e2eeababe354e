"""Reports as DICOM structured reports (Enhanced SR), written and read back by highdicom. Needs the extra `dicom`.

A report belongs to the study of its pictures, so these must be DICOM. Each statement is a text with its confidence as a
coded number in per cent (111012, "Certainty of Finding"). The patient is the one of the pictures: such a file is as
confidential as they are.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conrad_bench.engines.dicom import is_dicom, read_header
from conrad_bench.errors import DataError, MissingExtra
from conrad_bench.reporting.schema import Report, Statement
from conrad_bench.storage import make_private, write_bytes
from conrad_bench.text import console
from conrad_bench.types import Example

SR = "sr"
"""The folder of the structured reports."""


def check_sr(studies: Sequence[Example]) -> None:
    """Raise MissingExtra without highdicom, DataError for a study whose pictures are not DICOM."""
    if find_spec("highdicom") is None:
        raise MissingExtra('--sr needs highdicom: pip install "conrad-bench[dicom]"')
    for study in studies:
        for path in study.images:
            if not is_dicom(path):
                raise DataError(
                    f"--sr: {path} is no DICOM file; a structured report belongs to a study of DICOM pictures"
                )


def write_sr(out: Path, studies: Sequence[Example], reports: Sequence[Report]) -> Path:
    """Write a structured report for each study into the folder `sr` in `out`, and return that folder.

    Studies without a report get none. Raises DataError for pictures of several studies, or whose headers lack what a
    report needs, StorageError where it cannot be written.
    """
    folder = out / SR
    make_private(folder)
    for number, (study, report) in enumerate(zip(studies, reports, strict=True), start=1):
        if report.report:
            name = re.sub(r"[^\w.-]", "_", report.study)[:80]
            write_bytes(folder / f"{number:05d}-{name}.dcm", structured_report(study, report))
    return folder


def structured_report(study: Example, report: Report) -> bytes:
    """Return a study's structured report as a DICOM file, read back and checked. Raises what `write_sr` raises."""
    from highdicom.sr import EnhancedSR, srread
    from pydicom.uid import generate_uid

    evidence = [read_header(path) for path in study.images]
    try:
        whose = {str(each.StudyInstanceUID) for each in evidence}
        if len(whose) > 1:
            raise DataError(
                f"--sr: the pictures of {study.id} belong to {len(whose)} DICOM studies; each needs its own"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the patient's name
            made_of = [*sorted(str(each.SOPInstanceUID) for each in evidence), report.model_dump_json()]
            made = EnhancedSR(
                evidence=evidence,
                content=_content(report, evidence),
                series_instance_uid=generate_uid(entropy_srcs=["series", *made_of]),
                series_number=1,
                sop_instance_uid=generate_uid(entropy_srcs=["instance", *made_of]),
                instance_number=1,
                manufacturer="conrad-bench",
                is_complete=True,
            )
            made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, whatever that of the pictures is
            buffer = io.BytesIO()
            made.save_as(buffer, enforce_file_format=True)
            buffer.seek(0)
            read = srread(buffer)
        if _numbers(read) != sum(one.confidence is not None for one in report.statements):
            raise ValueError("not all confidences are there")
    except DataError:
        raise
    except Exception as error:  # what the packages say may quote the headers
        raise DataError(
            f"--sr: no structured report can be made for {study.id}: the headers of its pictures lack what a report "
            f"needs, or are not as DICOM says ({type(error).__name__})"
        ) from error
    return buffer.getvalue()


def _content(report: Report, evidence: Sequence[Any]) -> Any:
    """Return the root of the content tree, after TID 2000 (Basic Diagnostic Imaging Report)."""
    from highdicom.sr import (
        CodedConcept,
        ContainerContentItem,
        ContentSequence,
        DeviceObserverIdentifyingAttributes,
        ImageContentItem,
        LanguageOfContentItemAndDescendants,
        ObserverContext,
        RelationshipTypeValues,
        TextContentItem,
    )
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    contains = RelationshipTypeValues.CONTAINS
    title = CodedConcept("18748-4", "LN", "Diagnostic imaging study")
    root = ContainerContentItem(name=title, template_id="2000")
    about = f"{report.method} on {report.model}"
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[report.version, about]),
        name="conrad-bench",
        manufacturer_name="conrad-bench",
        model_name=f"{report.version}: {about}",
    )
    items = ContentSequence(is_root=False)
    items.extend(LanguageOfContentItemAndDescendants(CodedConcept("en", "RFC5646", "English")))
    items.extend(ObserverContext(codes.DCM.Device, device))
    for said in (report.notice, *report.warnings):
        items.append(TextContentItem(codes.DCM.Comment, console(said), contains))
    findings = ContainerContentItem(codes.DCM.Findings, relationship_type=contains)
    findings.ContentSequence = ContentSequence(_finding(one) for one in report.statements)
    items.append(findings)
    for each in evidence:
        items.append(
            ImageContentItem(codes.DCM.SourceImage, each.SOPClassUID, each.SOPInstanceUID, relationship_type=contains)
        )
    root.ContentSequence = items
    return root


def _finding(one: Statement) -> Any:
    """Return a statement with its confidence."""
    from highdicom.sr import ContentSequence, NumContentItem, RelationshipTypeValues, TextContentItem
    from pydicom.sr.codedict import codes

    properties = RelationshipTypeValues.HAS_PROPERTIES
    text = console(one.text) or f"no report: {one.status.replace('_', ' ')}"
    item = TextContentItem(codes.DCM.Finding, text, RelationshipTypeValues.CONTAINS)
    below = []
    if one.confidence is not None:
        percent = round(100 * one.confidence, 2)
        below.append(
            NumContentItem(codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent, relationship_type=properties)
        )
    if one.such is not None:
        below.append(TextContentItem(codes.DCM.Comment, one.such.said, properties))
    if below:
        item.ContentSequence = ContentSequence(below)
    return item


def _numbers(item: Any) -> int:
    """Return how many numbers lie below an item of a content tree."""
    return sum(each.ValueType == "NUM" or _numbers(each) for each in _below(item))


def _below(item: Any) -> Iterator[Any]:
    yield from item.get("ContentSequence") or ()
