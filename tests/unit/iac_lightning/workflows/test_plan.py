"""The plan of an experiment against numbers worked out by hand."""

from __future__ import annotations

from data_modules.config import DataConfig, GridConfig, SamplingConfig
from iac_lightning.config.model_schema import CNNConfig, ModelConfig, ViTConfig
from iac_lightning.config.schema import ExperimentConfig, OptimizerConfig, TrainerConfig
from iac_lightning.workflows.plan import plan


def lines(config: ExperimentConfig) -> dict[str, str]:
    """First word of each line → the rest."""
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in plan(config).splitlines() if len(line.split()) > 1}


def experiment(**changes: object) -> ExperimentConfig:
    data = DataConfig(
        cohort="nowhere.csv",
        grid=GridConfig(spacing_mm=(1.0, 1.0, 2.5), roi_mm=(80, 64, 48)),
        sampling=SamplingConfig(crop=(16, 16, 8), samples_per_epoch=103),
        batch_size=4,
    )
    defaults = {
        "name": "a",
        "data": data,
        "model": ModelConfig(vit=ViTConfig(dim=24, depth=2, heads=2, patch_size=(8, 8, 4))),
        "trainer": TrainerConfig(max_epochs=3, devices=2, num_nodes=2, accumulate_grad_batches=3),
    }
    return ExperimentConfig(**{**defaults, **changes})  # type: ignore[arg-type]


def test_steps_and_sizes() -> None:
    found = lines(experiment())
    assert found["region"] == "80 × 64 × 48 mm = 80 × 64 × 20 voxels of 1 × 1 × 2.5 mm"  # 48 / 2.5 = 19.2
    assert found["crop"] == "16 × 16 × 8 voxels = 16 × 16 × 20 mm"
    # 103 patches over 4 devices of 4: 7 batches (the last not full); an update every 3, and one for the rest
    assert found["batch"].endswith("= 48 patches an update")
    assert found["steps"] == "3 updates an epoch × 3 epochs = 9; 309 patches in all"
    assert found["tokens"] == "2 × 2 × 2 = 8 of 8 × 8 × 4 voxels"
    assert found["results"] == "runs/a"


def test_a_pretraining_says_how_much_is_hidden() -> None:
    assert lines(experiment(task="pretrain"))["tokens"].endswith("6 hidden")  # 0.75 · 8


def test_parameters_are_the_networks() -> None:
    from iac_lightning.models.build import build_model

    config = experiment()
    count = sum(p.numel() for p in build_model(config).parameters())
    assert lines(config)["parameters"] == f"{count:,}"


def test_a_cnn_shows_its_plan() -> None:
    model = ModelConfig(name="cnn", cnn=CNNConfig(base_features=4, max_features=16))
    optimizer = OptimizerConfig(name="sgd", lr=0.01, schedule="poly")
    text = plan(experiment(model=model, optimizer=optimizer))
    assert "sgd, peak rate 0.01, poly" in text
    assert "stride" in text
    assert "tokens" not in text


def test_a_scaled_rate_shows_its_rule() -> None:
    trainer = TrainerConfig(devices=2, global_batch=32)
    for rule, words in {"linear": "0.4 = 0.1 × (32 / 8)", "sqrt": "0.2 = 0.1 × √(32 / 8)"}.items():
        optimizer = OptimizerConfig(lr=0.1, lr_scaling=rule, lr_batch_size=8)
        found = lines(experiment(trainer=trainer, optimizer=optimizer))
        assert found["optimiser"] == f"adamw, peak rate {words}, cosine"
        assert found["batch"] == "4 × 2 devices × 4 accumulated = 32 patches an update"


def test_a_token_is_told_in_millimetres() -> None:
    assert lines(experiment())["token"] == "8 × 8 × 10 mm"
    assert "remark       a token is 8 × 8 × 10 mm: above 8 mm" in plan(experiment())
    assert "token" not in lines(experiment(model=ModelConfig(name="cnn", cnn=CNNConfig(base_features=4))))
