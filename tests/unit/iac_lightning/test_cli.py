"""The command line: which command, how settings stand on it, and how a command that fails ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_modules.errors import UserError
from iac_lightning import cli
from iac_lightning.cli import main, parse
from iac_lightning.commands import data, evaluation, experiment, export, intake, reports, training
from iac_lightning.commands.command import Command, Family
from tests.unit.iac_lightning.commands.recorder import MAE, ROOT


def test_every_command_has_help_and_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in ("phantom", "split", "prepare", "pretrain", "finetune", "evaluate", "predict", "plan", "config"):
        assert f"\n    {name} " in text
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    assert (ROOT / "experiments/finetune/vit_mae.yaml").is_file()  # the example that the help names
    assert "experiments/finetune/vit_mae.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1", "data.batch_size=2", "--dry-run"],
        ["--dry-run", "seed=1", "data.batch_size=2"],
        ["seed=1", "--dry-run", "data.batch_size=2"],
    ],
)
def test_settings_stand_on_either_side_of_options(words: list[str]) -> None:
    arguments = parse(["pretrain", "a.yaml", *words])
    assert arguments.experiment == Path("a.yaml")
    assert arguments.overrides == ["seed=1", "data.batch_size=2"]
    assert arguments.dry_run


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "COMMAND"),
        (["pretrain"], "experiment"),
        (["pretrain", "a.yaml", "--seed=1"], "--seed=1"),
        (["evaluate", "runs/a", "--split", "finetune"], "'finetune'"),
        (["predict", "scan.nii.gz", "out"], "--run"),
        (["trian", "a.yaml"], "trian"),
    ],
)
def test_a_mistake_on_the_command_line_is_status_2(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def raising(_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "parse", lambda _: SimpleNamespace(command=SimpleNamespace(name="finetune", run=raising)))
    return main([])


def test_a_user_error_is_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(monkeypatch, UserError("scan.nii.gz: is empty. Give another.")) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: scan.nii.gz: is empty. Give another.\n")


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(monkeypatch, KeyboardInterrupt()) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_full_disk_is_one_line_whatever_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, name in ((OSError(28, "No space", "runs/a.bin"), "runs/a.bin"), (OSError(28, "No space"), "a file")):
        assert fail_with(monkeypatch, error) == 2
        text = capsys.readouterr().err
        assert text.startswith(f"error: {name}: the disk has no room for it (")
        assert text.count("\n") == 1
    with pytest.raises(PermissionError):
        fail_with(monkeypatch, PermissionError(13, "Permission denied"))


def test_a_defect_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(monkeypatch, ZeroDivisionError())


def test_the_module_runs_as_a_program() -> None:
    """`python -m iac_lightning.cli` is how the demo and the ranks of DDP start commands."""
    command = [sys.executable, "-m", "iac_lightning.cli", "config"]
    good = subprocess.run([*command, MAE, "name=a"], cwd=ROOT, capture_output=True, text=True)
    assert (good.returncode, good.stdout[:8]) == (0, "name: a\n")
    bad = subprocess.run([*command, MAE, "nmae=a"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "did you mean name?" in bad.stderr


def test_every_declared_command_is_on_the_command_line() -> None:
    """One that is declared in `commands` and forgotten here could not be called."""
    members = [
        member
        for module in (data, evaluation, experiment, export, intake, reports, training)
        for member in vars(module).values()
        if isinstance(member, Command | Family)
    ]
    named = {command.name for command in cli.COMMANDS}
    below = {member.name for family in cli.COMMANDS if isinstance(family, Family) for member in family.members}
    assert {member.name for member in members} == named | below
    assert len(named) == len(cli.COMMANDS) == 22


def test_the_command_line_is_read_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom iac_lightning.cli import parse\nparse(['evaluate', 'runs/a'])\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'numpy', 'omegaconf'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
