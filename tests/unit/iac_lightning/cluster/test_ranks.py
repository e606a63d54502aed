"""Rank variables that no launcher stands behind, and those of real launches, which are left alone."""

from __future__ import annotations

import os

import pytest

from iac_lightning.cluster.ranks import forget_stray_variables, stray_variables

LIGHTNING = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4"}
STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


@pytest.fixture(autouse=True)
def only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC", "JSM_", "LSB_")) or "RANK" in name or name == "MASTER_ADDR":
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [{}, LIGHTNING, TORCHRUN, STEP, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}])
def test_real_launches_and_single_jobs_are_left_alone(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, variables)
    assert forget_stray_variables() == []
    assert all(os.environ[name] == value for name, value in variables.items())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("variables", "stray"),
    [
        ({"RANK": "1"}, ["RANK"]),
        ({"RANK": ""}, ["RANK"]),
        ({"LOCAL_RANK": "0"}, ["LOCAL_RANK"]),  # Lightning would wait for processes that nobody starts
        ({"NODE_RANK": "1", "WORLD_SIZE": "2"}, ["NODE_RANK"]),
        ({"RANK": "first", "MASTER_ADDR": "here"}, ["RANK"]),
        ({"JSM_NAMESPACE_RANK": "1"}, ["JSM_NAMESPACE_RANK"]),
        ({"SLURM_PROCID": "1"}, ["SLURM_PROCID"]),
        # as salloc and sbatch of two tasks set them for the one process of their script
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, ["SLURM_NTASKS"]),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ["SLURM_NTASKS"]),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, ["SLURM_NTASKS"]),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "notebook"}, ["SLURM_NTASKS"]),
    ],
)
def test_what_was_left_behind_is_forgotten_and_named(
    variables: dict[str, str],
    stray: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given(monkeypatch, variables)
    assert forget_stray_variables() == stray
    assert not set(stray) & set(os.environ)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{stray[0]}={variables[stray[0]]}" in line
    assert stray_variables() == []
