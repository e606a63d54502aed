from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries, PreparedStore
from data_modules.scan.geometry import Volume
from iac_lightning.config.reading import load_experiment
from iac_lightning.evaluation.calibration.record import Calibration, describe_calibration
from iac_lightning.evaluation.calibration.scaling import apply
from iac_lightning.runs.directory import Run
from iac_lightning.workflows import one_series
from iac_lightning.workflows import trained as workflow
from iac_lightning.workflows.calibrate import calibrate, trained_calibration
from iac_lightning.workflows.trained import TrainedModel
from tests.integration.settings import experiment, overrides


class Reader(nn.Module):
    """Stands for a network; its logits are `sharpness` times the true log-odds (see `native_probability`)."""

    share: float
    """Of lesion voxels in the domain of the development scans; set by `store`."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness


def predicted(model: TrainedModel, items: Sequence[PreparedSeries]) -> Iterator[Volume]:
    """Its sharpness; what follows from it is said on the native grid."""
    for item in items:
        yield Volume(np.full(item.grid.shape, model.network.sharpness, np.float32), item.grid)


def native_probability(item: PreparedSeries, common: Volume, restrict_hu: float | None) -> Volume:
    """Noisy but honest: where both kinds are normal with variance v, v apart, the logit is the log-odds itself."""
    hu, label = np.asarray(item.native_hu()), np.asarray(item.native_label())
    domain, variance = hu >= 100, 5.0
    rng = np.random.default_rng([len(item.series.series_id), *item.native_grid.shape])
    share = Reader.share
    logit = np.log(share / (1 - share)) + rng.normal(np.where(label, variance / 2, -variance / 2), variance**0.5)
    probability = special.expit(float(common.data[0, 0, 0]) * logit).astype(np.float32)
    return Volume(np.where(domain, probability, np.float32(0)), item.native_grid)


@pytest.fixture(autouse=True, scope="module")
def _no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "predicted", predicted)
        patch.setattr(one_series, "native_probability", native_probability)
        yield


@pytest.fixture(scope="module")
def store(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    prepared = tmp_path_factory.mktemp("prepared")
    settings = overrides(phantom_cohort, prepared, f"data.prepared_dir={prepared}", "tracking.enabled=false")
    prepared_store = prepare_cohort(load_experiment(experiment("cnn"), settings).data, ("dev",))
    domain = [np.asarray(item.native_label())[np.asarray(item.native_hu()) >= 100] for item in prepared_store.series]
    Reader.share = float(np.concatenate(domain).mean())
    return prepared_store


def model(cohort: Path, folder: Path, network: nn.Module, digest: str = "0" * 16) -> TrainedModel:
    config = load_experiment(experiment("cnn"), overrides(cohort, folder, "tracking.enabled=false", "name=run"))
    run = Run(folder / "run", config)
    run.directory.mkdir(exist_ok=True)
    return TrainedModel(run, network.eval(), torch.device("cpu"), digest, [])


@pytest.fixture(scope="module")
def done(phantom_cohort: Path, store: PreparedStore, tmp_path_factory: pytest.TempPathFactory):
    trained = model(phantom_cohort, tmp_path_factory.mktemp("runs"), Reader())
    return trained, calibrate(trained, store).to_dict()


def test_every_figure_follows_from_the_saved_files(done, phantom_cohort: Path):
    trained, found = done
    assert json.loads((trained.run.directory / "calibration.json").read_text()) == found
    before, labels, dice, unseen, n_with_lesion = [], [], [], 0, 0
    for series in read_cohort(phantom_cohort).split("dev"):
        path = trained.run.directory / "predictions/dev" / f"{series.series_id}_uncalibrated.nii.gz"
        p = np.asarray(nib.load(path).dataobj)
        y = np.asarray(nib.load(series.label).dataobj) > 0
        hu = np.asarray(nib.load(series.image).dataobj)
        assert p.shape == hu.shape
        assert (p[hu < 100] == 0).all()
        clipped = np.clip(p[p > 0], *np.float32(found["clip"])).astype(np.float64)
        q = np.zeros_like(p)
        q[p > 0] = 1 / (1 + np.exp(-(np.log(clipped / (1 - clipped)) / found["temperature"] + found["bias"])))
        np.testing.assert_allclose(q, apply(p, found["temperature"], found["bias"]), rtol=1e-6)
        before.append(p[p > 0])
        labels.append(y[p > 0])
        unseen += (y & (p == 0)).sum()
        n_with_lesion += y.any()
        mask = q >= np.float32(found["plain_threshold"])
        total = mask.sum() + y.sum()
        dice.append(2 * (mask & y).sum() / total if total else 1.0)  # every patient counts
    label = np.concatenate(labels)
    shipped = before if found["scaling"] == "none" else None  # else others' fits judged each scan
    for when, parts in (("before", before), ("after", shipped)):
        if parts is None:
            continue
        p = np.concatenate(parts)
        assert found["n_voxels"] == len(p)
        assert found["n_lesion_voxels"] == label.sum()
        exact = p.astype(np.float64)

        def error(bins, exact=exact):
            return sum((bins == b).mean() * abs(label[bins == b].mean() - exact[bins == b].mean()) for b in set(bins))

        edges = np.sort(p)[np.arange(1, 15) * len(p) // 15]
        adaptive = np.searchsorted(edges, p, side="right")
        assert found[f"ece_{when}"] == pytest.approx(error(np.minimum((exact * 15).astype(int), 14)), rel=1e-6)
        assert found[f"adaptive_ece_{when}"] == pytest.approx(error(adaptive), rel=1e-6)
        assert found[f"brier_{when}"] == pytest.approx(np.mean((exact - label) ** 2), rel=1e-6)
        nll = -np.mean(np.where(label, np.log(exact), np.log1p(-exact)))
        assert found[f"nll_{when}"] == pytest.approx(nll, rel=1e-6)
    assert found["plain_score"] == pytest.approx(np.mean(dice), rel=1e-6)
    assert found["n_with_lesion"] == n_with_lesion
    assert found["n_lesion_voxels_unseen"] == unseen
    assert found["n_fit_voxels"] == min(500_000, found["n_voxels"])
    assert found["nll_after"] <= found["nll_before"]
    assert found["lesions"]["before"]["n_candidates"] > 0
    assert (found["split"], found["n_series"], found["n_patients"]) == ("dev", 3, 3)
    assert "100 HU and more" in found["domain"]
    calibration = Calibration.from_dict(found)
    assert calibration.plain.at(1.0) == found["plain_threshold"]
    assert calibration.point.thresholds.at(1.0) == found["operating_point"]["threshold"]
    assert f"temperature {found['temperature']:.3f}" in describe_calibration(calibration)
    assert (trained.run.directory / "figures/reliability.png").stat().st_size > 10_000
    leftovers = [path.name for path in trained.run.directory.iterdir() if path.suffix != ".lock"]
    assert sorted(leftovers) == ["calibration.json", "figures", "predictions", "signatures.json"]


def test_logits_times_three_are_divided_back(done, phantom_cohort: Path, store: PreparedStore, tmp_path: Path):
    _, once = done
    assert once["temperature"] == pytest.approx(1, abs=0.1)
    assert once["bias"] == pytest.approx(0, abs=0.3)
    thrice = calibrate(model(phantom_cohort, tmp_path, Reader(3.0)), store).to_dict()
    assert thrice["temperature"] == pytest.approx(3 * once["temperature"], rel=0.1)
    assert thrice["nll_before"] > 1.2 * thrice["nll_after"]
    for name in ("ece", "adaptive_ece"):
        assert thrice[f"{name}_after"] < thrice[f"{name}_before"]
    for name in ("brier", "nll"):
        assert thrice[f"{name}_after"] == pytest.approx(once[f"{name}_before"], rel=0.05)
    assert thrice["after"].startswith("cross-validated by patient")
    assert thrice["plain_threshold"] == pytest.approx(once["plain_threshold"], abs=0.1)
    assert thrice["plain_score"] == pytest.approx(once["plain_score"], rel=0.01)


def test_a_killed_calibration_predicts_only_what_is_missing(
    done, phantom_cohort: Path, store: PreparedStore, monkeypatch: pytest.MonkeyPatch
):
    trained, found = done
    path = trained.run.directory / "calibration.json"
    before = path.read_bytes()
    asked: list[PreparedSeries] = []

    def counted(trained: TrainedModel, items: Sequence[PreparedSeries]) -> Iterator[Volume]:
        asked.extend(items)
        return predicted(trained, items)

    monkeypatch.setattr(workflow, "predicted", counted)
    assert calibrate(trained, store).to_dict() == found
    assert not asked
    path.unlink()
    lost = trained.run.directory / "predictions/dev" / f"{store.series[1].series.series_id}_uncalibrated.json"
    lost.unlink()
    assert calibrate(trained, store).to_dict() == found
    assert [item.series.series_id for item in asked] == [store.series[1].series.series_id]
    assert path.read_bytes() == before
    for damaged in (before[:100], b"[]", before.replace(b'"temperature": ', b'"temperature": -'), b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"calibration\.json: .*iac calibrate"):
            trained_calibration(trained)
        assert calibrate(trained, store).to_dict() == found
        assert path.read_bytes() == before


def test_other_weights_are_calibrated_anew(done, store: PreparedStore, tmp_path: Path):
    trained, found = done
    run = Run(tmp_path / "run", trained.run.config)
    run.directory.mkdir()
    (run.directory / "calibration.json").write_text(json.dumps(found))
    other = replace(trained, run=run, network=Reader(2.0), checkpoint_sha256="1" * 16)
    with pytest.raises(UserError, match="iac calibrate"):
        trained_calibration(other)
    assert calibrate(other, store).scaling.temperature > 1.5 * found["temperature"]
    assert trained_calibration(other).record["checkpoint_sha256"] == "1" * 16


def test_a_collapsed_model_gives_the_share_of_lesions(phantom_cohort: Path, store: PreparedStore, tmp_path: Path):
    found = calibrate(model(phantom_cohort, tmp_path, Reader(0.0)), store).to_dict()
    (row,) = found["reliability_after"]
    assert row["mean_probability"] == pytest.approx(found["n_lesion_voxels"] / found["n_voxels"], rel=0.1)
    assert found["ece_after"] < 0.001 < 0.4 < found["ece_before"]


def test_a_limit_is_a_warning(phantom_cohort: Path, store: PreparedStore, tmp_path: Path):
    found = calibrate(model(phantom_cohort, tmp_path, Reader(-1.0)), store).to_dict()
    assert found["temperature"] == pytest.approx(20)
    assert "knows next to nothing" in found["warnings"][0]
    assert "warning: temperature 20" in describe_calibration(Calibration.from_dict(found))


def test_a_split_without_lesions_calibrates_nothing(
    phantom_cohort: Path, store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(one_series, "development_label", lambda item: np.zeros(item.native_grid.shape, bool))
    with pytest.raises(UserError, match="with and without lesion"):
        calibrate(model(phantom_cohort, tmp_path, Reader()), store)


def test_a_model_that_says_nothing_cannot_be_calibrated(
    phantom_cohort: Path, store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def nothing(item: PreparedSeries, *_: object) -> Volume:
        return Volume(np.zeros(item.native_grid.shape, np.float32), item.native_grid)

    monkeypatch.setattr(one_series, "native_probability", nothing)
    with pytest.raises(UserError, match="0 in every development scan"):
        calibrate(model(phantom_cohort, tmp_path, Reader()), store)
