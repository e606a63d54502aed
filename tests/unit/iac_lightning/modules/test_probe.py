"""The probe of a pre-training: which tokens, whose labels, beside which network, and that it disturbs nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.batches.ct_data_module import DEV_CROPS, CTDataModule
from data_modules.batches.patches import DevCrops
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.statistics.probe import probe_auc
from iac_lightning.modules import probe
from iac_lightning.modules.mae_module import MAEModule
from iac_lightning.modules.probe import TokenProbe, chosen_tokens, describe_pretraining, initial_network
from tests.integration.settings import experiment, overrides


@pytest.fixture(scope="module")
def config(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    runs = tmp_path_factory.mktemp("runs")
    return load_experiment(experiment("mae"), [*overrides(phantom_cohort, runs, "name=probed"), "seed=3"])


@pytest.fixture(scope="module")
def data(config: ExperimentConfig) -> CTDataModule:
    module = CTDataModule(config.data, "pretrain", config.seed)
    module.prepare_data()
    module.setup()
    return module


def test_tokens_are_those_of_the_development_crops_and_their_labels(
    config: ExperimentConfig, data: CTDataModule
) -> None:
    tokens = probe._Tokens(data, config)
    crops = DevCrops(data.dev_series, config.data, config.seed, DEV_CROPS)
    px, py, pz = config.model.vit.patch_size
    assert tokens.lesion.any()
    for k in range(len(crops)):
        series = data.dev_series[k % len(data.dev_series)]
        assert set(tokens.patient[k]) == {series.series.patient_id}
        occupancy = crops.occupancy(k)
        blocks = occupancy.reshape(
            occupancy.shape[0] // px, px, occupancy.shape[1] // py, py, occupancy.shape[2] // pz, pz
        )
        assert np.array_equal(tokens.lesion[k], (blocks.max(axis=(1, 3, 5)) >= 127.5).ravel())


def test_a_large_development_split_is_looked_at_in_part(
    config: ExperimentConfig, data: CTDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probe._Tokens(data, config)
    monkeypatch.setattr(probe, "MOST_CROPS", len(data.dev_series) + 1)
    part = probe._Tokens(data, config)
    assert np.array_equal(part.lesion, whole.lesion[: len(data.dev_series) + 1])
    assert np.array_equal(part.patient, whole.patient[: len(data.dev_series) + 1])


def trainer_of(data: CTDataModule) -> Any:
    return SimpleNamespace(sanity_checking=False, datamodule=data)


def measured(config: ExperimentConfig, data: CTDataModule, module: MAEModule, callback: TokenProbe) -> dict[str, float]:
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[assignment, method-assign, misc]
    callback.on_validation_epoch_end(trainer_of(data), module)
    return logged


def test_the_trained_network_stands_beside_the_same_with_its_first_weights(
    config: ExperimentConfig, data: CTDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def noted(features: Any, positive: Any, patients: Any) -> float | None:
        asked.append((np.shape(features), int(np.sum(positive)), len(set(patients))))  # type: ignore[arg-type]
        return 0.5 + len(asked) / 100

    monkeypatch.setattr(probe, "probe_auc", noted)
    torch.manual_seed(config.seed)
    module, callback = MAEModule(config).train(), TokenProbe(config)
    state = torch.get_rng_state()
    first = measured(config, data, module, callback)
    assert first == {"dev/probe_auc": 0.52, "dev/probe_auc_random": 0.51}
    assert measured(config, data, module, callback) == {"dev/probe_auc": 0.53, "dev/probe_auc_random": 0.51}
    assert torch.equal(torch.get_rng_state(), state), "the training would go on with other random numbers"
    assert module.network.training
    assert len(set(asked)) == 1  # the same tokens each time


def test_a_network_with_its_first_weights_is_as_good_as_the_random_one(
    config: ExperimentConfig, data: CTDataModule
) -> None:
    torch.manual_seed(config.seed)
    network, tokens = MAEModule(config).network, probe._Tokens(data, config)
    tokens.lesion = np.random.default_rng(0).random(tokens.lesion.shape) < 0.3  # of so few patients none has enough
    tokens.patient = np.arange(tokens.count)[:, None].repeat(tokens.lesion.shape[1], axis=1)
    tokens.chosen = chosen_tokens(tokens.lesion)
    found = tokens.auc(network)
    assert found is not None
    assert found == pytest.approx(tokens.auc(initial_network(config)), abs=1e-6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert tokens.auc(network) != pytest.approx(found, abs=1e-6)


def test_without_labels_it_says_so(
    config: ExperimentConfig, data: CTDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    bare: Any = SimpleNamespace(dev_series=[SimpleNamespace(series=SimpleNamespace(label=None))])
    module, callback = MAEModule(config), TokenProbe(config)
    for _ in range(2):
        assert measured(config, bare, module, callback) == {}
    assert capsys.readouterr().out == (
        "probed: no probe: it needs labels with lesions of two patients of the dev split\n"
    )


def test_the_initial_network_is_that_of_the_seed(config: ExperimentConfig) -> None:
    torch.manual_seed(config.seed)
    expected = MAEModule(config).network.state_dict()
    torch.manual_seed(99)
    for name, tensor in initial_network(config).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_of_many_tokens_all_with_a_lesion_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MOST_TOKENS", 100)
    lesion = np.random.default_rng(0).random((40, 50)) < 0.02
    chosen = chosen_tokens(lesion)
    assert chosen[lesion].all()
    assert 80 <= chosen.sum() <= 100
    others = np.flatnonzero(chosen & ~lesion)
    assert others.max() - others.min() > 1800
    assert chosen_tokens(lesion[:1]).all()


def test_the_sentence_at_the_end() -> None:
    row = {"dev/probe_auc": 0.83, "dev/probe_auc_random": 0.72, "dev/r2": 0.4}
    row |= {"dev/r2_interpolation": 0.11, "dev/r2_patch_mean": 0.3}
    assert describe_pretraining(row) == (
        "lesion in a token, linear probe on development scans: AUC 0.83 against 0.72 of a random network; R² of what "
        "was hidden 0.40 against 0.11 of interpolation and 0.30 of each hidden patch's own mean"
    )
    assert describe_pretraining({"dev/r2": 0.4, **row} | {}).count(";") == 1
    del row["dev/probe_auc"]
    assert describe_pretraining(row).startswith("R² of what was hidden 0.40")


def test_the_probe_is_the_cross_validated_one() -> None:
    assert probe.probe_auc is probe_auc
