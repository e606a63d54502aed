"""From an opponent's name to its commands, and which of them are run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.opponents.__main__ import RECORD, main
from benchmarks.opponents.plans import main as write_primus_plans
from benchmarks.opponents.plans import primus_plans
from benchmarks.opponents.steps import OPPONENTS, Settings, all_steps, environment
from data_modules.errors import UserError

FOLDER = Path(__file__).parents[4] / "benchmarks/opponents"


def settings(**changes: Any) -> Settings:
    return Settings(
        cohort=Path("my/cohort.csv"), out=Path("nn"), results=Path("runs/opponents"), environment=Path("env"), **changes
    )


def words(names: list[str], name: str, **changes: Any) -> list[str]:
    (step,) = [s for s in all_steps(names, settings(**changes)) if s.name == name]
    return list(step.command)


def following(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_every_opponent_is_planned_trained_predicted_and_measured_on_dev_and_test() -> None:
    names = [step.name for step in all_steps(list(OPPONENTS), settings())]
    assert names[:2] == ["export", "plan"]
    for name in OPPONENTS:
        own = [n.removeprefix(f"{name}_") for n in names if n.startswith(name)]
        planned = [] if name == "nnunet" else ["plan"]
        assert own == [
            *planned,
            *(f"{what}_1000x250" for what in ("train", "predict", "evaluate_dev", "evaluate_test")),
        ]


def test_dev_predictions_are_those_of_the_training_and_test_is_predicted_by_the_same_method() -> None:
    train, predict, dev, test = (
        words(["resenc_l"], f"resenc_l_{what}_1000x250")
        for what in ("train", "predict", "evaluate_dev", "evaluate_test")
    )
    method = "OpponentTrainer__nnUNetResEncUNetLPlans__3d_fullres"
    folder = f"nn/results/1000x250/Dataset501_IAC/{method}/fold_0/validation"
    for option in ("-p", "-tr"):
        assert following(train, option) == following(predict, option)
    assert "--npz" in train
    assert "--save_probabilities" in predict
    assert following(dev, "--predictions") == following(dev, "--dev-predictions") == folder
    assert following(test, "--dev-predictions") == folder
    assert following(test, "--predictions") == following(predict, "-o") == "nn/predictions/1000x250/resenc_l"
    assert following(predict, "-i") == "nn/raw/Dataset501_IAC/imagesTs"
    assert [following(command, "--split") for command in (dev, test)] == ["dev", "test"]
    assert following(test, "--out") == "runs/opponents/1000x250/resenc_l"


def test_the_planners_plan_for_their_own_memory_but_in_a_trial() -> None:
    assert "-gpu_memory_target" not in words(["resenc_l"], "resenc_l_plan")
    assert following(words(["resenc_l"], "plan", trial=True), "-gpu_memory_target") == "0.5"
    trial = words(["resenc_l"], "resenc_l_plan", trial=True)
    assert following(trial, "-gpu_memory_target") == "1.5"
    assert following(trial, "-pl") == "nnUNetPlannerResEncL"


def test_length_and_device_reach_nnunet_and_two_lengths_never_mix() -> None:
    short = settings(epochs=3, iterations=7, device="cpu", trial=True)
    variables = environment(short)
    assert (variables["OPPONENTS_EPOCHS"], variables["OPPONENTS_ITERATIONS"]) == ("3", "7")
    assert (variables["OPPONENTS_DEVICE"], variables["OPPONENTS_MIRROR"]) == ("cpu", "")
    assert environment(settings())["OPPONENTS_MIRROR"]
    assert variables["nnUNet_results"] == str(Path("nn/results/3x7_trial").absolute())
    assert Path(variables["nnUNet_extTrainer"], "opponent_trainers.py").is_file()
    trainers = (FOLDER / "trainers/opponent_trainers.py").read_text(encoding="utf-8")
    assert all(f"class {opponent.trainer}(" in trainers for opponent in OPPONENTS.values())


def test_primus_takes_the_default_plans_with_whole_tokens(tmp_path: Path) -> None:
    configuration = {"patch_size": [28, 64, 83], "spacing": [0.8, 0.47, 0.47], "batch_size": 2, "data_identifier": "d"}
    plans = {"plans_name": "nnUNetPlans", "configurations": {"2d": {}, "3d_fullres": configuration}}
    found = primus_plans(plans)
    assert found["plans_name"] == "PrimusPlans"
    # 28 lies between 24 and 32: the larger; 83 is nearest to 80.
    assert found["configurations"]["3d_fullres"] == configuration | {"patch_size": [32, 64, 80]}
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [28, 64, 83]
    with pytest.raises(UserError, match="plan first"):
        write_primus_plans([str(tmp_path)])
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    write_primus_plans([str(tmp_path)])
    assert json.loads((tmp_path / "PrimusPlans.json").read_text()) == found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "cohort.csv").write_text("series_id\n")
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").touch()
    return tmp_path


def call(place: Path, *more: str) -> int:
    places = [
        "--cohort",
        place / "cohort.csv",
        "--out",
        place / "nn",
        "--results",
        place / "runs",
        "--env",
        place / "env",
    ]
    return main(["nnunet", *map(str, places), "--epochs", "2", *more])


def test_a_dry_run_prints_the_commands_and_runs_none(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("run"))
    assert call(place, "--dry-run") == 0
    script = capsys.readouterr().out
    assert "export OPPONENTS_EPOCHS=2\n" in script
    assert "nnUNetv2_train 501 3d_fullres 0 -p nnUNetPlans -tr OpponentTrainer -device cuda --npz\n" in script
    assert not (place / "nn").exists()
    subprocess_free = subprocess.Popen(["bash", "-n"], stdin=subprocess.PIPE, text=True)
    subprocess_free.communicate(script)
    assert subprocess_free.returncode == 0


def test_what_has_run_is_not_run_again_and_a_training_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    fails = ["nnUNetv2_train"]

    def run(command: list[str], env: dict[str, str] | None, check: bool) -> subprocess.CompletedProcess:
        seen.append(command)
        assert ("nnUNet_raw" in env if env else False) == ("launch.py" in command[1])
        return subprocess.CompletedProcess(command, 1 if set(fails) & set(command) else 0)

    monkeypatch.setenv("PYTHONPATH", "of this project")
    monkeypatch.setattr(subprocess, "run", run)
    assert call(place) == 2
    assert "nnunet_train_2x250 ended with status 1; the same command goes on from there" in capsys.readouterr().err
    assert "--c" not in seen[-1]
    fold = place / "nn/results/2x250/Dataset501_IAC/OpponentTrainer__nnUNetPlans__3d_fullres/fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").touch()
    fails.clear()
    seen.clear()
    assert call(place) == 0
    assert [("export" in c, "--c" in c) for c in seen[:2]] == [(True, False), (False, True)]  # not planned again
    assert len(seen) == 5
    record = json.loads((place / "nn" / RECORD).read_text())
    assert "nnunet_evaluate_test_2x250" in record["steps"]
    (place / "cohort.csv").write_text("series_id\nanother\n")
    assert call(place) == 2
    assert "trained on another version" in capsys.readouterr().err


def test_without_the_environment_it_is_said_how_to_make_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "env/bin/python").unlink()
    assert call(place) == 2
    assert "bash benchmarks/opponents/environment.sh" in capsys.readouterr().err


def test_the_script_of_the_environment_is_bash_and_everything_it_installs_is_pinned() -> None:
    script = FOLDER / "environment.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    pinned = (FOLDER / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-").splitlines()
    wanted = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in wanted:
        if requirement := line.split("#")[0].strip():
            assert requirement in pinned
