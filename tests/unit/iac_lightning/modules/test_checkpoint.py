from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from data_modules.errors import UserError
from data_modules.files import DiskFull
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.stored import config_dict
from iac_lightning.modules import checkpoint as module
from iac_lightning.modules.checkpoint import AtomicCheckpointIO, load_checkpoint, load_model, load_training

ROOT = Path(__file__).parents[4]


@dataclass
class Settings:
    lr: float = 0.1


class Tiny(L.LightningModule):
    """One weight; remembers the order of what it saw through it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.extra: object = {"crop": [1, 2], "none": None}

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.layer(batch) - 1).square().mean()

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)}

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["iac"] = self.extra


def fit(folder: Path, epochs: int, ckpt: Path | None = None, extra: object = None) -> Tiny:
    L.seed_everything(0, verbose=False)
    tiny = Tiny()
    tiny.extra = extra or tiny.extra
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(tiny, DataLoader(torch.arange(8.0).reshape(8, 1), batch_size=4), ckpt_path=ckpt)
    return tiny


def test_lightning_resumes_from_it_as_if_it_had_not_stopped(tmp_path):
    whole = fit(tmp_path / "whole", 4)
    fit(tmp_path / "parts", 2, extra={"config": config_dict(load_experiment(None, ["name=a"]))})
    resumed = fit(tmp_path / "parts", 4, tmp_path / "parts/last.ckpt")
    assert torch.equal(whole.layer.weight, resumed.layer.weight)
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["last.ckpt"]


def test_what_cannot_be_read_back_is_refused_when_saving(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"x": 1}, path)
    for foreign in (Settings(), OmegaConf.create({"a": 1}), Path("a"), np.float64(1.0), np.ones(2)):
        with pytest.raises(TypeError, match=r"hyper_parameters\.a\[1\] \(" + type(foreign).__name__):
            io.save_checkpoint({"hyper_parameters": {"a": [1, foreign]}}, path)
    assert load_checkpoint(path) == {"x": 1}
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint({}, path, storage_options={})


def test_every_type_that_is_let_through_is_read_back(tmp_path):
    saved = {
        "plain": [1, 1.5, True, None, "a", b"b", 1j, (1, 2), {3}],
        "ordered": OrderedDict(a=torch.ones(2, dtype=torch.bfloat16)),
        "torch": [torch.Size([1]), torch.float16, torch.device("cpu"), torch.nn.Parameter(torch.zeros(1))],
    }
    AtomicCheckpointIO().save_checkpoint(saved, tmp_path / "deep/a.ckpt")
    loaded = load_checkpoint(tmp_path / "deep/a.ckpt")
    assert loaded["plain"] == saved["plain"]
    assert loaded["torch"][:3] == saved["torch"][:3]
    assert torch.equal(loaded["ordered"]["a"], saved["ordered"]["a"])


def test_weights_only_whatever_the_caller_says(tmp_path):
    path = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Settings()}, path)
    with pytest.raises(UserError, match=r"foreign\.ckpt: holds a Python object \(.*Settings\)"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.randn(1000)}, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[10:200] = bytes(190)
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], b"no checkpoint at all", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"last\.ckpt: damaged or cut off"):
            load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list, not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    path.write_bytes(whole)
    (tmp_path / "link.ckpt").symlink_to(path)
    with pytest.raises(UserError, match=r"link\.ckpt: is a link"):
        load_checkpoint(tmp_path / "link.ckpt")
    with pytest.raises(UserError, match="damaged or cut off"):
        load_checkpoint(tmp_path)


def test_one_flipped_bit_of_a_weight_is_found(tmp_path):
    path = tmp_path / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.full((1000,), 0.009)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(np.float32(0.009).tobytes() * 8) + 403  # the highest byte of a weight in the middle
    content[place] ^= 0x40
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weights"].max() > 1e30, "torch itself does not mind"
    with pytest.raises(UserError, match=r"best\.ckpt: damaged or cut off.*data/0 does not have its checksum"):
        load_checkpoint(path)


def test_a_compressed_archive_is_not_inflated(tmp_path):
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1000))
    with pytest.raises(UserError, match=r"damaged or cut off.*it is compressed"):
        load_checkpoint(path)


def test_a_training_goes_on_from_whole_and_finite_checkpoints_only(tmp_path):
    fit(tmp_path, 1)
    path = tmp_path / "last.ckpt"
    saved = load_training(path)
    moments = saved["optimizer_states"][0]["state"][0]
    for part, broken in ((saved["state_dict"], "state_dict.layer.weight"), (moments, "optimizer_states.0.state.0.exp")):
        name = next(key for key in part if broken.endswith(key) or key == "exp_avg")
        before, part[name] = part[name], torch.full_like(part[name], float("nan"))
        torch.save(saved, path)
        with pytest.raises(UserError, match=rf"last\.ckpt: 1 of its tensors .* not finite, such as {broken}"):
            fit(tmp_path, 2, path)
        part[name] = before
    del saved["loops"]
    torch.save(saved, path)
    with pytest.raises(UserError, match=r"last\.ckpt: is not a checkpoint of a training \(it has no loops\)"):
        fit(tmp_path, 2, path)


def test_a_model_is_taken_from_checkpoints_of_this_project_only(tmp_path):
    path, network = tmp_path / "best.ckpt", torch.nn.Linear(2, 1)
    weights = {f"model.{name}": value for name, value in network.state_dict().items()}
    own = {"config": {"name": "a"}, "trained_on": [{"salt_id": "0", "hashes": ["1"]}]}
    whole = {"state_dict": weights, "iac": own}
    torch.save(whole, path)
    saved = load_model(path)
    saved.load_into(network, path)
    assert (set(saved.state), saved.config, saved.trained_on) == ({"weight", "bias"}, own["config"], own["trained_on"])
    with pytest.raises(UserError, match=r"best\.ckpt: is not of the network .*weight is \(1, 2\), expected \(1, 3\)"):
        saved.load_into(torch.nn.Linear(3, 1), path)
    for foreign in (
        {"state_dict": weights},
        {"iac": own},
        {"state_dict": {"model.weight": 1}, "iac": own},
        {"state_dict": weights, "iac": {"config": {}, "trained_on": [{"hashes": []}]}},
    ):
        torch.save(foreign, path)
        with pytest.raises(UserError, match=r"best\.ckpt: is not a checkpoint of this project"):
            load_model(path)
    torch.save(whole | {"state_dict": weights | {"model.bias": torch.tensor([float("inf")])}}, path)
    with pytest.raises(UserError, match=r"best\.ckpt: 1 of its tensors .* such as model\.bias"):
        load_model(path)


def test_a_failure_while_saving_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def full_disk(data: object, temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full_disk)
    with pytest.raises(DiskFull, match=r"last\.ckpt: the disk has no room for it \([\d,.]+ MB are free\)"):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    code = (
        "import sys, torch\nfrom iac_lightning.modules.checkpoint import AtomicCheckpointIO\nstep = 0\n"
        "io = AtomicCheckpointIO()\nwhile True:\n    step += 1\n"
        "    io.save_checkpoint({'step': step, 'w': torch.full((500_000,), float(step))}, sys.argv[1])"
    )
    for wait in (0.01, 0.083):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, env=dict(os.environ))
        while not path.exists():
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        loaded = load_checkpoint(path)
        assert (loaded["w"] == loaded["step"]).all()


def test_what_was_learnt_is_refused_where_it_was_changed_and_saved_again(tmp_path: Path) -> None:
    """The archive's own sums fit then."""
    fit(tmp_path, 1, extra={"config": {}, "trained_on": []})
    path = tmp_path / "last.ckpt"
    for key, tensor, load in (
        ("state_dict", "layer.weight", load_model),
        ("optimizer_states", "0.state.0.exp_avg", load_training),
    ):
        fit(tmp_path, 1, extra={"config": {}, "trained_on": []})
        load(path)
        saved = torch.load(path, weights_only=True)
        found = saved[key]
        for name in [tensor] if key == "state_dict" else tensor.split("."):
            found = found[int(name) if name.isdecimal() else name]
        found.view(torch.int32)[0] ^= 1 << 12  # one bit, and a plausible value
        torch.save(saved, path)
        with pytest.raises(UserError, match=rf"last\.ckpt: 1 of its tensors are not those .* such as {key}\.{tensor}"):
            load(path)
        del saved["sha256"]
        torch.save(saved, path)
        load(path)  # checkpoints of before have no sums
