"""What is kept beside a model, and that a model of phantoms measures no patient unasked: by run, bundle and MLflow."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.leakage import seen_patients, split_salt
from data_modules.cohort.table import read_cohort
from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.cli import main
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.clinical.domain import Domain, ScanFacts, region_features, training_domain
from iac_lightning.evaluation.clinical.reference import Development, Reference
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows import mlflow_model
from iac_lightning.workflows.bundle import export_bundle, load_bundle
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.predict import OUTPUTS
from iac_lightning.workflows.reference import FILE, domain_section, domain_words, find_domain, reference_of

WORDS = ["--slice-thickness-mm", "4"]


@pytest.fixture(scope="module")
def domain() -> Domain:
    rng = np.random.default_rng(0)
    scans = [
        ScanFacts(
            features=region_features(rng.integers(0, 80, (8, 8, 8))),
            slice_thickness_mm=(1.0, 2.0),
            spacing_mm=(0.5, 1.0),
            manufacturer="Vendor A",
        )
        for _ in range(6)
    ]
    counts = {"n_patients": 3, "n_series": 6, "n_phantoms": 6, "n_labelled": 4, "n_labelled_phantoms": 4}
    return training_domain(scans, list("aabbcc"), **counts, n_patients_unknown=0, window_hu=(-200.0, 1000.0))


@pytest.fixture(scope="module")
def phantom_run(trained_run: Run, domain: Domain, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learnt from phantoms alone, and twelve development patients."""
    directory = Path(shutil.copytree(trained_run.directory, tmp_path_factory.mktemp("phantom") / "a"))
    volumes = tuple(float(v) for v in range(0, 1200, 100))
    development = Development(
        patient=tuple(range(12)),
        slice_thickness_mm=(4.0,) * 12,
        volume_mm3=volumes,
        label_volume_mm3=tuple(reversed(volumes)),
        coverage=0.9,
        thickness_edges_mm=(1.0, 5.0),
    )
    reference = Reference(domain=domain, development=development)
    weights = load_calibrated(trained_run).checkpoint_sha256
    write_json_atomic(directory / FILE, {"checkpoint_sha256": weights, **reference.to_dict()})
    return load_run(directory)


def test_a_model_of_phantoms_needs_to_be_allowed_on_another_scan(
    phantom_run: Run, small_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    bundle = export_bundle(phantom_run, tmp_path / "exported")
    for words in (["--run", str(phantom_run.directory)], ["--bundle", str(bundle)]):
        out = tmp_path / words[0].strip("-")
        assert main(["predict", str(small_scan), str(out), *words, *WORDS]) == 2
        assert "has learnt to segment from simulated heads alone (phantoms, 4 scans)" in capsys.readouterr().err
        assert not out.exists()
        assert main(["predict", str(small_scan), str(out), *words, *WORDS, "--allow-phantom-model"]) == 0
        told = capsys.readouterr().out
        assert "no measurement of a patient's calcium" in told
        assert "not like those that the model has learnt from: slices of 4 mm (training scans: 1 to 2)" in told
        assert "promised for other scans than this one" in told
    for name in OUTPUTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes(), name
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["training_domain"]["learnt_from"] == "phantoms"
    assert result["training_domain"]["manufacturers"] == ["Vendor A"]
    assert (result["interval_holds"], result["is_phantom"]) == (False, False)
    assert result["volume_interval"]["n_patients"] == 12
    assert result["risk"]["group"] in result["risk"]["set"]
    mlflow_model.save_mlflow_model(bundle, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    table = pd.DataFrame({"path": [str(small_scan)], "slice_thickness_mm": [4.0]})
    assert "--allow-phantom-model" in loaded.predict(table).loc[0, "error"]
    row = loaded.predict(table, params={"allow_phantom_model": True}).loc[0]
    assert (row["error"], row["risk_group"]) == ("", result["risk"]["group"])
    assert row["warnings"] == "; ".join(result["warnings"])
    for name in ("low_mm3", "high_mm3"):
        expected = result["volume_interval"][name]
        assert row[f"volume_{name}"] == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


def test_a_phantom_needs_no_leave(phantom_run: Run, phantom_cohort: Path, tmp_path: Path) -> None:
    scan = read_cohort(phantom_cohort).series[0].image
    assert main(["predict", str(scan), str(tmp_path / "out"), "--run", str(phantom_run.directory)]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["is_phantom"]
    assert not any("simulated heads alone" in warning for warning in result["warnings"])


def test_it_travels_with_the_bundle_and_the_card(phantom_run: Run, tmp_path: Path) -> None:
    model = load_calibrated(phantom_run)
    bundle = export_bundle(phantom_run, tmp_path / "bundle")
    assert load_bundle(bundle).reference == model.reference
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "Learnt from 3 simulated heads (phantoms; 6 scans)." in card
    assert "**Its labels are of simulated heads alone.**" in card
    assert "| slice thickness, mm | 1 to 2 |" in card


def test_a_damaged_file_or_one_of_other_weights_is_as_if_there_were_none(phantom_run: Run, tmp_path: Path) -> None:
    run = load_run(Path(shutil.copytree(phantom_run.directory, tmp_path / "a")))
    weights = json.loads((run.directory / FILE).read_text())["checkpoint_sha256"]
    assert reference_of(run, weights, []).development is not None
    assert reference_of(run, "other", []) == Reference()
    (run.directory / FILE).write_text(json.dumps({"checkpoint_sha256": weights, "domain": {"n_series": 3}}))
    assert reference_of(run, weights, []) == Reference()
    (run.directory / FILE).write_text("{")
    assert reference_of(run, weights, []) == Reference()


def test_what_a_model_learnt_from_is_found_by_its_hashes(phantom_cohort: Path) -> None:
    config = ExperimentConfig(name="a", data=DataConfig(cohort=str(phantom_cohort), prepare_workers=1))
    prepare_cohort(config.data, ("finetune",))
    cohort = read_cohort(phantom_cohort)
    patients = sorted(cohort.patients("finetune"))[:2]
    salt = split_salt(phantom_cohort)
    other = {"salt_id": "another", "hashes": ["0" * 64]}
    found = find_domain(config, [seen_patients(patients, salt), other])
    assert found is not None
    learnt = [s for s in cohort.series if s.patient_id in patients]
    assert (found.n_patients, found.n_series, found.n_phantoms) == (2, len(learnt), len(learnt))
    assert (found.n_labelled, found.only_phantoms, found.n_patients_unknown) == (len(learnt), True, 1)
    thickness = [s.slice_thickness_mm for s in learnt]
    assert found.ranges["slice_thickness_mm"] == (min(thickness), max(thickness))  # type: ignore[type-var]
    assert set(found.kernels) == {s.kernel for s in learnt}
    assert find_domain(config, [other]) is None
    assert find_domain(ExperimentConfig(name="a", data=DataConfig(cohort="nowhere.csv")), [other]) is None


def test_words_for_every_kind(domain: Domain) -> None:
    assert domain_words(None) == "scans that are not known"
    assert domain_words(domain) == "3 simulated heads (phantoms; 6 scans)"
    assert domain_words(replace(domain, n_phantoms=0)) == "3 patients (6 scans)"
    assert domain_words(replace(domain, n_phantoms=2)) == "3 patients (6 scans, 2 of them of simulated heads)"
    unknown = replace(domain, n_patients_unknown=5)
    assert domain_words(unknown).endswith(", and 5 patients of whom nothing is known")
    assert "not known" in domain_section(None)
    assert "simulated heads alone" not in domain_section(replace(domain, n_labelled_phantoms=1))


def test_a_bundle_with_a_reference_that_no_model_has_is_refused(phantom_run: Run, tmp_path: Path) -> None:
    from data_modules.files import sha256

    bundle = export_bundle(phantom_run, tmp_path / "bundle")
    settings = json.loads((bundle / "model.json").read_text())
    settings["reference"]["domain"]["n_series"] = -1
    (bundle / "model.json").write_text(json.dumps(settings))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["sha256"]["model.json"] = sha256(bundle / "model.json")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="reference holds values that no training domain has"):
        load_bundle(bundle)
