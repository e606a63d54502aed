"""The exported model as MLflow keeps, loads and serves it: a bundle, its signature, and this code as its loader."""

from __future__ import annotations

import logging
import os
import shutil
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from packaging.requirements import Requirement

import data_modules
import iac_lightning
from data_modules.errors import UserError
from iac_lightning.runs.directory import Run
from iac_lightning.tracking import logger as tracking
from iac_lightning.tracking.store import import_mlflow
from iac_lightning.workflows.bundle import export_bundle, load_bundle
from iac_lightning.workflows.predict import predict, segment
from iac_lightning.workflows.trained import CalibratedModel

log = logging.getLogger(__name__)

ARTIFACT = "model"
"""Folder of the run's artifacts that holds it: `runs:/<run id>/model`."""
VALUES = ("volume_mm3", "volume_plain_mm3", "n_lesions", "slice_thickness_mm")
ENDS = ("low_mm3", "high_mm3")
"""Of the volume's interval, with `volume_` before them; not a number where there is none."""


class ScanModel:
    """What `mlflow.pyfunc.load_model` gives: a table of scans in, a table of volumes out."""

    def __init__(self, model: CalibratedModel) -> None:
        self.model = model

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Segment each scan; one that fails says so in its row.

        Args:
            table: `path` (NIfTI, NRRD or MetaImage file, or folder of a DICOM series, where it is predicted), and
                optionally `slice_thickness_mm` (where the file has none), `series` (of a DICOM folder) and `out`
                (a folder for what `iac predict` writes: masks, probabilities, overlay).
            params: `template`, a CT template to find the region with, for whole heads; `allow_phantom_model`, as
                `iac predict` has it.

        Returns:
            A row a scan: `path`, `volume_mm3`, `volume_plain_mm3`, `n_lesions`, `slice_thickness_mm`,
            `volume_low_mm3` and `volume_high_mm3` (of the interval), `risk_group`, `risk_set`, `warnings` and `error`
            (empty where there is none).
        """
        template = (params or {}).get("template") or None
        allowed = bool((params or {}).get("allow_phantom_model"))
        rows = table.to_dict("records")
        return pd.DataFrame([self._row(row, Path(template) if template else None, allowed) for row in rows])

    def _row(self, row: dict[Any, Any], template: Path | None, allowed: bool) -> dict[str, Any]:
        given = {key: value for key, value in row.items() if not pd.isna(value) and value != ""}
        how = (self.model, template, given.get("series"), given.get("slice_thickness_mm"), allowed)
        result: dict[str, Any] = {}
        error = ""
        try:
            if "out" in given:
                result = predict(Path(given["path"]), Path(given["out"]), *how)
            else:
                result = segment(Path(given["path"]), *how).result
        except UserError as problem:
            error = str(problem)
        interval, risk = result.get("volume_interval", {}), result.get("risk", {})
        ends = {f"volume_{name}": interval.get(name) for name in ENDS}
        return {
            "path": row["path"],
            **{name: float(result.get(name, float("nan"))) for name in VALUES},
            **{name: float("nan") if end is None else end for name, end in ends.items()},
            "risk_group": risk.get("group") or "",
            "risk_set": ", ".join(risk.get("set") or []),
            "warnings": "; ".join(result.get("warnings", [])),
            "error": error,
        }


def _load_pyfunc(path: str) -> ScanModel:
    """MLflow's entry: the model from the bundle in its `data` folder."""
    return ScanModel(load_bundle(Path(path)))


def signature() -> Any:
    """Columns in and out, and parameters, as `ScanModel.predict` takes them."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    inputs = [ColSpec("string", "path"), ColSpec("double", "slice_thickness_mm", required=False)]
    inputs += [ColSpec("string", name, required=False) for name in ("series", "out")]
    outputs = [ColSpec("string", "path"), *(ColSpec("double", name) for name in VALUES)]
    outputs += [ColSpec("double", f"volume_{name}") for name in ENDS]
    outputs += [ColSpec("string", name) for name in ("risk_group", "risk_set", "warnings", "error")]
    params = [ParamSpec("template", "string", ""), ParamSpec("allow_phantom_model", "boolean", False)]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema(params))


def requirements() -> list[str]:
    """The packages of this project at the versions that are installed; MLflow would import everything to find out."""
    needed = [Requirement(text) for text in metadata.requires("iac-lightning") or []]
    names = sorted(r.name for r in needed if r.marker is None)
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def save_mlflow_model(bundle: Path, path: Path) -> None:
    """Write a bundle as an MLflow model: `MLmodel` with signature and requirements, the bundle, and this code.

    No Python object is pickled; `mlflow.pyfunc.load_model` calls `_load_pyfunc` of this module.
    """
    import_mlflow()
    from mlflow.pyfunc import save_model

    save_model(
        path=str(path),
        loader_module=__name__,
        data_path=str(bundle),
        code_paths=[str(Path(package.__file__ or "").parent) for package in (iac_lightning, data_modules)],
        signature=signature(),
        input_example=pd.DataFrame({"path": ["scan.nii.gz"], "slice_thickness_mm": [5.0]}),
        pip_requirements=requirements(),
    )


def log_trained(run: Run, logger: object) -> None:
    """Store the model of a run in its MLflow run, at the end of a training; a failure is a warning."""
    if isinstance(logger, tracking.RunLogger):
        _log(run, logger)


def log_bundle(run: Run) -> None:
    """The same for a run that is finished; nothing where it was not tracked."""
    if run.config.tracking.enabled and run.mlflow_run_id is not None:
        _log(run, None)


def _log(run: Run, logger: object) -> None:
    path = run.directory / "mlflow_model"
    try:
        with TemporaryDirectory(dir=run.directory, prefix=".model.", suffix=".tmp") as folder:
            bundle = export_bundle(run, Path(folder) / "bundle")
            save_mlflow_model(bundle, Path(folder) / "model")
            shutil.rmtree(path, ignore_errors=True)
            os.replace(Path(folder) / "model", path)
    except Exception as error:  # a model that MLflow cannot get is no reason to lose a training
        log.warning("tracking: the model of %s was not stored (%s); later: iac export", run.config.name, error)
        return
    tracking.log_folder(run, path, ARTIFACT, logger)
