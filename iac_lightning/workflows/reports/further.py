"""Sections of a page beside its analysis: steps of calibration, volumes by size, readers, subgroups, failures, flow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_modules.cohort.look import RecordedLook
from data_modules.cohort.table import Cohort, Series
from data_modules.files import write_text_atomic
from data_modules.prepare.facts import read_meta
from data_modules.prepare.listings import read_failed
from data_modules.prepare.store import store_directory
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.models.flow import flow_section
from iac_lightning.report.models.readers import readers_section
from iac_lightning.report.models.stages import stages_section
from iac_lightning.report.models.subgroups import subgroups_section
from iac_lightning.report.models.volumes import volumes_section
from iac_lightning.report.page import ReportContext, Section
from iac_lightning.runs.directory import Run
from iac_lightning.workflows.reports.evaluated import Entry
from iac_lightning.workflows.reports.gallery import gallery_section

NAMES_ENDING = "_scan_names.csv"
"""`<run>/<split>…`: which series a name on a page stands for; stays beside the run, never in the report."""


def further_sections(
    entries: Mapping[str, Entry],
    models: Mapping[str, ModelResult],
    series: Mapping[str, Series],
    names: Mapping[str, str],
    context: ReportContext,
    looks: Mapping[str, RecordedLook | None],
) -> list[Section]:
    """The sections, those left out that have nothing to say.

    Args:
        entries: name to evaluated model.
        models: name to result.
        series: by id, of the cohort.
        names: series to what it is called on the page.
        context: of the page.
        looks: name to the look that opens the test split.
    """
    given = {
        "manufacturer": {name: item.manufacturer for name, item in series.items()},
        "kernel": {name: item.kernel for name, item in series.items()},
    }
    sections = [
        stages_section(models, context),
        volumes_section(models, context),
        readers_section(models, context),
        subgroups_section(models, given, context),
        gallery_section(entries, models, series, names, context, looks),
        _flow(entries, models, series, context),
    ]
    return [section for section in sections if section is not None]


def write_names(entries: Mapping[str, Entry], names: Mapping[str, str], split: str) -> None:
    """Keep beside each model which series the names on its pages stand for."""
    rows = "".join(f"{name},{series_id}\n" for series_id, name in sorted(names.items(), key=lambda row: row[1]))
    for entry in entries.values():
        write_text_atomic(entry.directory / f"{split}{NAMES_ENDING}", f"name,series_id\n{rows}")


def _flow(
    entries: Mapping[str, Entry],
    models: Mapping[str, ModelResult],
    series: Mapping[str, Series],
    context: ReportContext,
) -> Section:
    failed: dict[str, str] = {}
    prepared: set[str] | None = None
    run = next((entry for entry in entries.values() if isinstance(entry, Run)), None)
    if run is not None:
        directory = store_directory(run.config.data, Cohort(Path(run.config.data.cohort).absolute(), ()))
        if directory.is_dir():
            failed = {name: reason for name, (reason, _) in read_failed(directory).items()}
            prepared = {name for name in series if read_meta(directory / name) is not None}
    analysed = set(next(iter(models.values())).table["series_id"].astype(str))
    return flow_section(list(series.values()), failed, prepared, analysed, context.split)
