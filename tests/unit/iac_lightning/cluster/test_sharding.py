"""One process does the plain loop; a wrong number of processes is refused (several: integration/test_ddp.py)."""

from __future__ import annotations

import pytest
import torch.multiprocessing as multiprocessing

from data_modules.errors import UserError
from iac_lightning.cluster import sharding


def test_alone_it_is_the_plain_loop() -> None:
    assert sharding.process() == (0, 1)
    with sharding.together():
        assert sharding.share_out(lambda items: (item * item for item in items), range(4)) == [0, 1, 4, 9]
        assert sharding.exchange("a") == ["a"]
        assert sharding.on_first(lambda: 7) == 7


def test_an_error_is_the_callers_own() -> None:
    with pytest.raises(ZeroDivisionError), sharding.together():
        sharding.share_out(lambda items: (1 // item for item in items), [1, 0])


def test_helpers_follow_the_cores_and_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sharding, "cores", lambda: 16)

    def count(workers: int | None, n_series: int) -> int:
        return sharding.helpers_for(workers, n_series).count

    assert [count(None, n) for n in (0, 13, 40, 162)] == [0, 1, 5, 16]
    assert count(3, 5) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # torchrun's processes share the machine
    assert count(None, 162) == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "16")  # SLURM's have their own cores
    assert count(None, 162) == 16


def test_one_process_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr("lightning.fabric.Fabric", lambda **_: pytest.fail("nothing to launch"))
    sharding.launch("cpu")
    sharding.launch("cpu", 1)
    with pytest.raises(UserError, match="--devices -2: expected 1 or more"):
        sharding.launch("cpu", -2)


def test_one_process_of_several_does_not_measure_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^RANK=1 in the environment .* unset these variables"):
        sharding.launch("cpu")


def test_torchruns_number_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--devices 3: torchrun has started 2 processes"):
        sharding.launch("cpu", 3)
    launched: list[dict[str, object]] = []

    class Fabric:
        def __init__(self, **settings: object) -> None:
            launched.append(settings)

        def launch(self) -> None:
            pass

    monkeypatch.setattr("lightning.fabric.Fabric", Fabric)
    sharding.launch("cuda")
    assert [launched[0][key] for key in ("accelerator", "devices", "num_nodes")] == ["cuda", 2, 2]


def _work(rank: int, store: str) -> None:
    sharding.dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    done: list[int] = []
    with sharding.together():
        assert sharding.share_out(lambda mine: [done.append(i) or i * i for i in mine], range(5)) == [0, 1, 4, 9, 16]
    assert done == list(range(rank, 5, 2))
    sharding.dist.destroy_process_group()


@pytest.mark.ddp
def test_each_item_is_one_processs(tmp_path: object) -> None:
    multiprocessing.spawn(_work, (f"{tmp_path}/store",), nprocs=2)
