"""Reports as FHIR DiagnosticReports (R4B), checked by the package fhir.resources. Needs the extra `fhir`.

Each statement is a contained Observation; its confidence is a component in per cent under DICOM's code for the
certainty of a finding, what such confidences were worth are two more. No patient is named: who stores it adds the
subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from conrad_bench.errors import MissingExtra
from conrad_bench.reporting.schema import Report, Statement
from conrad_bench.text import console, html

FHIR = "reports.fhir.ndjson"

CERTAINTY = ("111012", "Certainty of Finding")
"""DICOM's code for a confidence: a number in per cent."""
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_LOINC = "http://loinc.org"
_UCUM = "http://unitsofmeasure.org"
_OURS = "urn:conrad-bench:codes"


def require_fhir() -> None:
    """Raise MissingExtra where the package that checks resources is not there."""
    if find_spec("fhir") is None or find_spec("fhir.resources") is None:
        raise MissingExtra('--fhir needs fhir.resources: pip install "conrad-bench[fhir]"')


def fhir_lines(reports: Sequence[Report]) -> str:
    """Return a DiagnosticReport a line, each checked. Raises MissingExtra."""
    require_fhir()
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    issued = datetime.now(UTC).isoformat(timespec="seconds")
    checked = (DiagnosticReport.model_validate(diagnostic_report(report, issued)) for report in reports)
    return "".join(each.model_dump_json(ensure_ascii=True) + "\n" for each in checked)


def diagnostic_report(report: Report, issued: str) -> dict[str, Any]:
    """Return a report as a DiagnosticReport, a plain object; `issued` is an instant: 2026-01-31T12:00:00+00:00."""
    about = f"{report.method} on {report.model}"
    device = {
        "resourceType": "Device",
        "id": "device",
        "deviceName": [{"name": "conrad-bench", "type": "model-name"}],
        "version": [{"value": f"{report.version}: {about}"}],
        "note": [{"text": report.notice}],
    }
    observations = [_observation(one, number) for number, one in enumerate(report.statements, start=1)]
    return {
        "resourceType": "DiagnosticReport",
        "text": {"status": "generated", "div": _narrative(report)},
        "contained": [device, *observations],
        "identifier": [{"system": "urn:conrad-bench:study", "value": console(report.study)}],
        "status": "preliminary",
        "category": [_coded("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _coded(_LOINC, "18748-4", "Diagnostic imaging study"),
        "issued": issued,
        "result": [{"reference": f"#{each['id']}"} for each in observations],
        **({"conclusion": console(report.report)} if report.report else {}),
    }


def _observation(one: Statement, number: int) -> dict[str, Any]:
    absent = {"dataAbsentReason": {"text": one.status.replace("_", " ")}}
    value = absent if one.confidence is None else {"valueQuantity": _percent(one.confidence)}
    components = [{"code": _coded(_DICOM, *CERTAINTY), **value}]
    if one.such is not None and one.such.correctness is not None:
        right = _coded(_OURS, "such-correctness", "Mean correctness of statements of this confidence")
        components.append({"code": right, "valueQuantity": _percent(one.such.correctness)})
    if one.such is not None and one.such.low is not None and one.such.high is not None:
        between = _coded(_OURS, "such-correctness-interval", "Its 95 % interval over patients")
        both = {"low": _percent(one.such.low), "high": _percent(one.such.high)}
        components.append({"code": between, "valueRange": both})
    return {
        "resourceType": "Observation",
        "id": f"statement-{number}",
        "status": "preliminary",
        "code": _coded(_LOINC, "18782-3", "Radiology Study observation (narrative)"),
        "device": {"reference": "#device"},
        **({"valueString": console(one.text)} if one.text else absent),
        **({} if one.such is None else {"note": [{"text": one.such.said}]}),
        "component": components,
    }


def _coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _percent(share: float) -> dict[str, Any]:
    return {"value": round(100 * share, 2), "unit": "%", "system": _UCUM, "code": "%"}


def _narrative(report: Report) -> str:
    """Return the report for a person, as the XHTML that FHIR allows."""
    parts = "".join(f"<p>{html(line)}</p>" for line in _lines(report))
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{parts}</div>'


def _lines(report: Report) -> Iterator[str]:
    yield report.notice
    yield from report.warnings
    for one in report.statements:
        sure = "no confidence" if one.confidence is None else f"confidence {one.confidence:.2f}"
        yield f"{one.text} ({sure})"
    yield from dict.fromkeys(one.such.said for one in report.statements if one.such is not None)
