"""`conrad-bench report`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from conrad_bench.cli import common
from conrad_bench.errors import ConfigError, ConradBenchError, DataError


def report(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Pictures of one study (PNG, JPEG, DICOM), or a folder of studies, or a csv of them.",
        ),
    ],
    indication: Annotated[str | None, typer.Option(metavar="TEXT", help="Why the study was made.")] = None,
    model: common.ModelName = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN/artifacts/NAME",
            help="What a method learned in a finished run, or the run's folder: it fixes model, prompt and method, and "
            "tells what confidences are worth.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Confidence method. Default: verbalized.")
    ] = None,
    level: Annotated[
        Literal["report", "sentence"] | None,
        typer.Option(show_default=False, help="What has a confidence of its own. Default: sentence."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write reports.jsonl there; the same command again continues.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each study.")] = False,
    as_fhir: Annotated[
        bool,
        typer.Option("--fhir", help="Print a FHIR DiagnosticReport a line; with --out, write it beside the others."),
    ] = False,
    as_sr: Annotated[
        bool, typer.Option("--sr", help="Write DICOM structured reports, too; needs --out and DICOM pictures.")
    ] = False,
    engine: common.EngineName = None,
    base_url: common.BaseUrl = None,
    option: common.Options = None,
    plugin: common.Plugins = None,
    ray: common.Ray = "off",
    replicas: common.Replicas = "auto",
    gpus_per_replica: common.GpusPerReplica = 1,
) -> None:
    """Write reports with confidences for new pictures. For research: not a medical device."""
    from conrad_bench.config import parse_options
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry
    from conrad_bench.reporting.fhir import FHIR, fhir_lines, require_fhir
    from conrad_bench.reporting.making import plan_anew, plan_from
    from conrad_bench.reporting.reports import check_out, lines, make_reports, write_reports
    from conrad_bench.reporting.sr import check_sr, write_sr
    from conrad_bench.reporting.studies import read_studies
    from conrad_bench.reporting.terminal import reports_for_console
    from conrad_bench.storage import write_text

    if as_json and (as_fhir or out is not None):
        raise ConfigError("--json prints what --out writes, and --fhir prints another form; leave out one")
    if as_sr and out is None:
        raise ConfigError("--sr writes files: name a folder with --out")
    if out is not None:
        check_out(out)
    if as_fhir:
        require_fhir()
    studies = read_studies(images, indication)
    if as_sr:
        check_sr(studies)
    registry, reporter = Registry(plugin or []), Reporter()
    address = [f"openai.base_url={base_url}"] if base_url else []
    options = parse_options([*(option or []), *address])
    if artifact is None:
        making = plan_anew(model, engine, method, level, options, registry)
    elif engine is not None:
        raise ConfigError("--engine: the run that --artifact names fixes the engine; leave it out")
    else:
        making = plan_from(artifact, model, method, level, options, registry)
    cluster = common.cluster(ray, replicas, gpus_per_replica, plugin or [], 1, reporter)
    with TemporaryDirectory(prefix="conrad-bench-report-") as temporary:
        folder = out or Path(temporary)
        try:
            found = make_reports(making, studies, folder, reporter, cluster)
        except ConradBenchError:
            raise
        except Exception as error:
            raise common.CrashError(folder) from error
    if out is not None:
        common.tell(f"{len(found):,} report{'s' * (len(found) != 1)}: {write_reports(out, found)}")
        if as_fhir:
            write_text(out / FHIR, fhir_lines(found))
            common.tell(f"FHIR: {out / FHIR}")
        if as_sr:
            common.tell(f"DICOM structured reports: {write_sr(out, studies, found)}")
    elif as_json or as_fhir:
        common.put(lines(found) if as_json else fhir_lines(found))
    else:
        common.show(reports_for_console(found))
    if lost := sum(not each.report for each in found):
        raise DataError(f"{lost:,} of {len(found):,} studies have no report; their warnings say why")
