"""The strategy that an experiment gets; what a training under it does is shown in tests/integration/test_ddp.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.fsdp import ShardingStrategy

from data_modules.config import DataConfig, SamplingConfig
from data_modules.errors import UserError
from iac_lightning.config.model_schema import ModelConfig, ViTConfig
from iac_lightning.config.schema import ExperimentConfig, TrainerConfig
from iac_lightning.models.vit_blocks import Block
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.strategies import ShardedStrategy, build_strategy, check_launched_processes, sharded_strategy
from iac_lightning.runs.directory import Run
from iac_lightning.workflows.train import build_trainer


def experiment(**trainer: object) -> ExperimentConfig:
    return ExperimentConfig(
        name="a",
        data=DataConfig(sampling=SamplingConfig(crop=(16, 16, 16))),
        model=ModelConfig(vit=ViTConfig(dim=12, depth=2, heads=2)),
        trainer=TrainerConfig(**{"accelerator": "cpu", **trainer}),  # type: ignore[arg-type]
    )


def test_one_device_is_lightnings_choice() -> None:
    assert build_strategy(experiment()) == "auto"


@pytest.mark.parametrize("name", ["auto", "ddp"])
def test_ddp_needs_no_search_for_unused_parameters(name: str) -> None:
    strategy = build_strategy(experiment(devices=2, strategy=name))
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs == {
        "find_unused_parameters": False,
        "gradient_as_bucket_view": True,
        "static_graph": True,
    }
    assert strategy._timeout.total_seconds() >= 3600


@pytest.mark.parametrize("setting", [{"accumulate_grad_batches": 2}, {"global_batch": 16}, {"compile": "default"}])
def test_the_graph_is_not_static_with_accumulation_or_compilation(setting: dict[str, object]) -> None:
    strategy = build_strategy(experiment(devices=2, **setting))
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs["static_graph"] is False


def test_fsdp_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs CUDA GPUs, and there is none: use ddp"):
        build_strategy(experiment(accelerator="auto", devices=2, strategy="fsdp"))


@pytest.mark.parametrize("name", ["fsdp", "fsdp_cpu_offload"])
def test_fsdp_shares_out_transformer_blocks_into_whole_checkpoints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    strategy = build_strategy(experiment(accelerator="gpu", devices=2, strategy=name))
    assert isinstance(strategy, ShardedStrategy)
    assert strategy.kwargs["use_orig_params"] is True
    assert strategy.sharding_strategy is ShardingStrategy.FULL_SHARD
    assert strategy._state_dict_type == "full"
    assert strategy.cpu_offload.offload_params == (name == "fsdp_cpu_offload")
    policy = strategy.kwargs["auto_wrap_policy"]
    network = ExperimentModule(experiment()).model
    wrapped = [m for m in network.modules() if policy(module=m, recurse=False, nonwrapped_numel=0)]
    assert wrapped == [m for m in network.modules() if isinstance(m, Block)]
    assert len(wrapped) == 2


def test_a_checkpoint_that_holds_more_than_tensors_is_not_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "path": Path("/")}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="refused"):
        sharded_strategy().load_checkpoint(tmp_path / "last.ckpt")


def test_weights_are_channels_last_except_under_fsdp() -> None:
    def is_channels_last(strategy: str) -> bool:
        module = ExperimentModule(experiment(accelerator="gpu", devices=2, strategy=strategy))
        weight = next(
            m.weight
            for m in module.modules()
            if isinstance(m, nn.Conv3d) and m.weight[0].numel() > m.weight.shape[1] > 1
        )
        return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()

    assert is_channels_last("ddp")
    assert not is_channels_last("fsdp")


def test_the_trainer_accumulates_and_synchronises_batch_norm(tmp_path: Path) -> None:
    config = experiment(devices=2, global_batch=16, sync_batchnorm=True)
    trainer = build_trainer(config, Run(tmp_path, config), None)
    assert trainer.accumulate_grad_batches == 16 // (2 * config.data.batch_size)
    converted = trainer.strategy._layer_sync.apply(nn.Sequential(nn.BatchNorm3d(2)))
    assert isinstance(converted[0], nn.SyncBatchNorm)
    before = str(ExperimentModule(config).model)
    assert str(trainer.strategy._layer_sync.apply(ExperimentModule(config).model)) == before  # none of ours has it


def test_processes_of_torchrun_are_those_of_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launched_processes(experiment())
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    check_launched_processes(experiment(devices=4, num_nodes=2))
    with pytest.raises(UserError, match=r"set trainer.devices=4 trainer.num_nodes=2"):
        check_launched_processes(experiment(devices=8))


def test_processes_of_slurm_are_those_of_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    check_launched_processes(experiment(devices=2, num_nodes=2))
    with pytest.raises(UserError, match=r"SLURM has started 2 .* set trainer.devices=2 trainer.num_nodes=2"):
        check_launched_processes(experiment(devices=4))


def test_one_process_of_several_does_not_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^RANK=1, WORLD_SIZE=2 in the environment .* unset these variables"):
        check_launched_processes(experiment())
    check_launched_processes(experiment(devices=2))
