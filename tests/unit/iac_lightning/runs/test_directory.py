from __future__ import annotations

import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.runs import directory as runs
from iac_lightning.runs.directory import (
    Run,
    collect_provenance,
    git_state,
    git_words,
    is_main_process,
    load_run,
    open_run,
)

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _first_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path) -> ExperimentConfig:
    return load_experiment(None, ["name=demo/a", f"runs_dir={tmp_path}/runs"])


def test_a_new_run(config, tmp_path):
    with open_run(config) as run:
        assert run == Run(tmp_path / "runs/demo/a", config)
        assert {p.name for p in run.directory.iterdir() if p.is_dir()} == set(runs.FOLDERS)
        assert (run.last_checkpoint, run.best_checkpoint, run.mlflow_run_id) == (None, None, None)
        assert not run.is_finished
        run.mlflow_run_id = "abc"
    loaded = load_run(tmp_path / "runs/demo/a")
    assert loaded == run
    assert loaded.mlflow_run_id == "abc"


def test_a_run_that_has_moved_lives_where_it_is(config, tmp_path):
    with open_run(config):
        pass
    assert load_run(tmp_path / "runs/demo/a").config.runs_dir == config.runs_dir
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert load_run(tmp_path / "moved/demo/a").config.runs_dir == str(tmp_path / "moved")


def test_a_place_that_takes_no_run_names_the_settings(config, tmp_path):
    for name, complaint in (("n" * 300, "File name too long"), ("file/a", "Not a directory")):
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs/file").touch()
        with pytest.raises(UserError, match=rf"{complaint}; choose another place for the run \(runs_dir=…, name=…\)"):
            open_run(replace(config, name=name))


def test_the_same_settings_continue_and_what_decides_nothing_may_change(config):
    with open_run(config) as run:
        (run.checkpoints_dir / "last.ckpt").touch()
        (run.checkpoints_dir / "best.ckpt").touch()
        (run.checkpoints_dir / ".last.ckpt.1.tmp").touch()
        (run.directory / ".config.yaml.1.tmp").touch()
    other = copy.deepcopy(config)
    other.data.num_workers, other.tracking.enabled, other.trainer.threads = 4, False, 1
    with open_run(other) as again:
        assert again.last_checkpoint == again.checkpoints_dir / "last.ckpt"
        assert again.best_checkpoint == again.checkpoints_dir / "best.ckpt"
        assert load_run(again.directory).config.data.num_workers == 4
    assert not list(again.directory.rglob("*.tmp"))


def test_changed_settings_are_refused_with_their_keys_and_values(config):
    with open_run(config) as run:
        (run.checkpoints_dir / "last.ckpt").touch()
    other = copy.deepcopy(config)
    other.trainer.max_epochs, other.data.num_workers = 20, 3
    other.model.vit.patch_size = (4, 4, 4)
    with pytest.raises(UserError) as caught:
        open_run(other)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("  model.vit.patch_size: (8, 8, 4) in ")
    assert lines[1].endswith("config.yaml, (4, 4, 4) now")
    assert lines[2].startswith("  trainer.max_epochs: 10 in ")
    assert "another name" in lines[3]
    with open_run(config):  # the refusal gave the lock back and left the settings as they were
        pass


def test_a_run_is_not_continued_under_another_profile(config):
    config.profile = "cpu"
    with open_run(config) as run:
        (run.checkpoints_dir / "last.ckpt").touch()
    other = copy.deepcopy(config)
    other.profile = "gpu"
    other.data.batch_size = 128
    with pytest.raises(UserError) as caught:
        open_run(other)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  profile: cpu in ")
    assert lines[1].endswith(", gpu now")
    assert lines[2].startswith("  data.batch_size: ")
    assert lines[3].startswith("Continue it with profile=cpu, or give this run another name")
    with open_run(config):
        pass


def test_a_mistake_before_the_first_checkpoint_may_be_mended_under_the_same_name(config):
    open_run(config).__exit__(None, None, None)
    other = copy.deepcopy(config)
    other.data.cohort = "right.csv"
    with open_run(other) as run:
        assert load_run(run.directory).config.data.cohort == "right.csv"


def test_a_trained_run_takes_other_settings_of_inference_only(config):
    with open_run(config) as run:
        pass
    assert load_run(run.directory, ["inference.mirror=true"]).config.inference.mirror
    assert not load_run(run.directory).config.inference.mirror
    with pytest.raises(UserError, match=r"seed=1: a trained run takes"):
        load_run(run.directory, ["inference.mirror=true", "seed=1"])


def test_settings_of_another_version_are_refused(config):
    with open_run(config) as run:
        pass
    (run.checkpoints_dir / "last.ckpt").touch()
    path = run.directory / "config.yaml"
    path.write_text(path.read_text() + "old_key: 1\n")
    with pytest.raises(UserError, match=r"not valid in this version.*(?s:.*)old_key: unknown key"):
        open_run(config)
    with pytest.raises(UserError, match="old_key"):
        load_run(run.directory)


def test_the_newest_state_wins_even_when_slurm_saved_it(config):
    with open_run(config) as run:
        last, hpc = run.checkpoints_dir / "last.ckpt", run.directory / "hpc_ckpt_2.ckpt"
        for path, when in ((last, 200), (run.directory / "hpc_ckpt_1.ckpt", 100), (hpc, 300)):
            path.touch()
            os.utime(path, (when, when))
        assert run.last_checkpoint == hpc
        os.utime(last, (400, 400))
        assert run.last_checkpoint == last


def test_finished(config):
    with open_run(config) as run:
        run.mark_finished({"epochs": 3, "metrics": {"dice": math.nan, "list": [1.0, math.inf]}})
    assert load_run(run.directory).is_finished
    stored = json.loads((run.directory / "finished.json").read_text())
    assert stored == {"epochs": 3, "metrics": {"dice": None, "list": [1.0, None]}}


def test_a_directory_that_is_not_a_run(config, tmp_path):
    directory = tmp_path / "runs/demo/a"
    directory.mkdir(parents=True)
    with open_run(config) as run:  # an empty one will do
        pass
    with pytest.raises(UserError, match=r"exists and is not a run .*but a"):
        open_run(replace(config, name="demo"))
    with pytest.raises(UserError, match=r"would lie inside the run .*demo/a"):
        open_run(replace(config, name="demo/a/logs/b"))
    (tmp_path / "runs/file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_run(replace(config, name="file"))
    with pytest.raises(UserError, match="not a run directory"):
        load_run(run.directory / "logs")
    with pytest.raises(UserError, match="there is no such directory"):
        load_run(tmp_path / "none")


HOLD = """
import sys, time
from pathlib import Path
from iac_lightning.config.reading import load_experiment
from iac_lightning.runs.directory import open_run
with open_run(load_experiment(None, ["name=demo/a", f"runs_dir={sys.argv[1]}"])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_two_processes_do_not_share_a_run_and_a_killed_one_holds_nothing(config, monkeypatch):
    monkeypatch.setattr(runs, "LOCK_WAIT_S", 0.2)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, config.runs_dir], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="already in progress"):
            open_run(config)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open_run(config):
        pass


def test_other_ranks_neither_lock_nor_write(config, monkeypatch):
    with open_run(config) as run:
        for variable in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
            monkeypatch.setenv(variable, "1")
            assert not is_main_process()
            with open_run(config) as other:
                assert other == run
                other.mark_finished({})
                other.write_provenance("x")
            monkeypatch.setenv(variable, "0")
            assert is_main_process()
        assert not run.is_finished
        assert run.provenance == {}


def test_a_run_travels_to_other_processes_without_its_lock(config):
    with open_run(config) as run:
        copied = pickle.loads(pickle.dumps(run))
        assert copied == run
        assert copied.lock is None


def test_provenance(config, monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["/home/jin/bin/iac", "pretrain", "/home/jin/x.yaml", "runs_dir=/scratch/jin/runs", "a=b/c"]
    )
    with open_run(config) as run:
        run.write_provenance("f1")
        record = run.provenance
        assert record["data_fingerprint"] == "f1"
        assert record["packages"]["torch"] == pytest.importorskip("torch").__version__
        assert record["machine"]["cpu"]
        assert record["command"] == ["iac", "pretrain", "…/x.yaml", "runs_dir=…/runs", "a=b/c"]
        assert "jin" not in json.dumps(record)
        run.write_provenance("f2")  # nothing was learnt from the first data
        assert run.provenance["data_fingerprint"] == "f2"
        assert "continued" not in run.provenance
        (run.checkpoints_dir / "last.ckpt").touch()
        run.write_provenance("f2")
        run.write_provenance("f2")
        assert [c["command"] for c in run.provenance["continued"]] == [record["command"]] * 2
        with pytest.raises(UserError, match=r"the data changed since this run began \(fingerprint f2 then, f3 now\)"):
            run.write_provenance("f3")


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("tracking.uri=http://me:pw@host.a:5000/x", "tracking.uri=http:…/x"),
        ("sqlite:////home/jin/x.db", "sqlite:…/x.db"),
        ("~/foo/bar", "…/bar"),
        ("[/a/b/c,/d/e/f]", "[…/c,…/f]"),
        ("experiments/demo/a.yaml", "experiments/demo/a.yaml"),
        ("../shared/data", "../shared/data"),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
    ],
)
def test_folders_and_hosts_are_left_out_of_the_command(argument, kept):
    assert runs._without_folders(argument) == kept


def test_git_state(tmp_path, monkeypatch):
    assert git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "inside").mkdir()
    (tmp_path / "a").touch()
    git("add", "a")
    git("commit", "-m", "a")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert not state["dirty"]
    assert git_state(tmp_path / "inside") is None  # installed inside somebody else's repository
    (tmp_path / "b").touch()
    assert git_state(tmp_path) == {**state, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


def test_the_commit_in_words():
    assert git_words({"commit": "abc", "dirty": False}) == "abc"
    assert git_words({"commit": "abc", "dirty": True}) == "abc (with local changes)"
    assert git_words({}) == "unknown"


def test_machines_without_cpuinfo_and_packages(monkeypatch):
    monkeypatch.setattr(runs, "_PACKAGES", ("no-such-package",))
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    record = collect_provenance()
    assert record["packages"] == {"no-such-package": None}
    assert record["machine"]["cpu"]


def test_opening_a_run_does_not_import_torch(config):
    code = (
        "import sys\nfrom iac_lightning.config.reading import load_experiment\n"
        "from iac_lightning.runs.directory import open_run\n"
        f"with open_run(load_experiment(None, ['name=b', 'runs_dir={config.runs_dir}'])):\n"
        "    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_half_written_files_of_a_killed_run_are_removed_until_it_is_finished(tmp_path):
    config = load_experiment(None, ["name=a", f"runs_dir={tmp_path}"])
    with open_run(config) as run:
        pass
    half = [run.directory / "predictions/dev/.a_uncalibrated.nii.gz.7.part", run.directory / "logs/.history.7.tmp"]
    folder = run.directory / ".model.x.tmp"

    def leave() -> None:
        folder.mkdir()
        for path in (*half, folder / "weights"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    leave()
    whole = run.directory / "predictions/dev/a_uncalibrated.nii.gz"
    whole.touch()
    with open_run(config):
        assert not any(path.exists() for path in (*half, folder))
        assert whole.exists()
        leave()
        run.mark_finished({})
    with open_run(config):  # an evaluation may be writing
        assert all(path.exists() for path in half)
