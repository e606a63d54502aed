from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from iac_lightning.cli import run_in_job
from iac_lightning.cluster import slurm
from iac_lightning.config.schema import LauncherConfig
from iac_lightning.sweeps import cluster
from iac_lightning.sweeps.state import Sweep, states
from tests.unit.iac_lightning.sweeps.conftest import planned


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is submitted; all of it stays in the queue."""
    jobs: list[dict[str, Any]] = []

    def submit(
        commands: Sequence[Sequence[str]],
        launcher: LauncherConfig,
        folder: Path,
        name: str,
        entry: Any,
        dependency: str | None = None,
    ) -> list[str]:
        jobs.append(
            {"commands": [list(c) for c in commands], "dependency": dependency, "launcher": launcher, "entry": entry}
        )
        number = len(jobs)
        return [f"{number}_{k}" for k in range(len(commands))] if len(commands) > 1 else [str(number)]

    monkeypatch.setattr(cluster, "submit", submit)
    monkeypatch.setattr(slurm, "queued", lambda ids: dict.fromkeys(ids, "PENDING"))
    return jobs


def names(job: dict[str, Any]) -> list[str]:
    return [command[2] for command in job["commands"]]


def test_arrays_and_what_they_depend_on(make_sweep: Callable[..., Sweep], sent: list[dict[str, Any]]) -> None:
    sweep = make_sweep(
        planned("pretrain_a"),
        planned("pretrain_b"),
        planned("a1", needs=("pretrain_a",)),
        planned("a2", needs=("pretrain_a",)),
        planned("b1", needs=("pretrain_b",)),
        planned("scratch"),
    )
    launcher = LauncherConfig(name="slurm", nodes=2, gpus_per_node=4)
    lines = cluster.submit_sweep(sweep, launcher, (), ["sweep", "s", "--finish"], run_in_job)
    assert [(names(job), job["dependency"]) for job in sent[:-1]] == [
        (["pretrain_a", "pretrain_b"], None),
        (["a1", "a2"], "afterok:1_0"),
        (["b1"], "afterok:1_1"),
        (["scratch"], None),
    ]
    assert sent[0]["commands"][0] == ["cell", str(sweep.directory), "pretrain_a", "launcher=local"]
    report = sent[-1]
    assert report["commands"] == [["sweep", "s", "--finish"]]
    assert report["dependency"] == "afterany:1:2:3:4"
    assert (report["launcher"].nodes, report["launcher"].gpus_per_node) == (1, 0)
    assert {job["entry"] for job in sent} == {run_in_job}
    assert len(lines) == 5
    assert set(states(sweep).values()) == {"queued"}

    sent.clear()
    cluster.submit_sweep(sweep, launcher, (), ["report"], run_in_job)
    assert [job["commands"] for job in sent] == [[["report"]]], "what is in the queue was sent again"


def test_only_what_is_left_is_sent(make_sweep: Callable[..., Sweep], sent: list[dict[str, Any]]) -> None:
    sweep = make_sweep(
        planned("pretrain_a"), planned("a1", needs=("pretrain_a",)), planned("b"), planned("c"), planned("d")
    )
    sweep.note(sweep.cell("pretrain_a"), "finished", seconds=1.0)
    sweep.note(sweep.cell("b"), "finished", seconds=1.0)
    sweep.note(sweep.cell("c"), "failed", reason="x")
    cluster.submit_sweep(sweep, LauncherConfig(name="slurm"), (), ["report"], run_in_job)
    assert [(names(job), job["dependency"]) for job in sent[:-1]] == [(["a1", "d"], None)]


def test_cells_that_share_a_gpu_are_one_job(make_sweep: Callable[..., Sweep], sent: list[dict[str, Any]]) -> None:
    sweep = make_sweep(
        *(planned(f"pretrain_{k}") for k in "abc"),
        *(planned(f"{k}1", needs=(f"pretrain_{k}",)) for k in "abc"),
    )
    launcher = LauncherConfig(name="slurm", gpus_per_node=1, per_gpu=2)
    cluster.submit_sweep(sweep, launcher, ("x=1",), ["report"], run_in_job)
    assert [(names(job), job["dependency"]) for job in sent[:-1]] == [
        (["pretrain_a,pretrain_b", "pretrain_c"], None),
        (["a1,b1"], "afterok:1_0"),
        (["c1"], "afterok:1_1"),
    ]
    assert sent[0]["commands"][0] == ["cells", str(sweep.directory), "pretrain_a,pretrain_b", "launcher=local", "x=1"]
    assert {name: sweep.record(sweep.cell(name))["job"] for name in ("pretrain_a", "pretrain_b", "pretrain_c")} == {
        "pretrain_a": "1_0",
        "pretrain_b": "1_0",
        "pretrain_c": "1_1",
    }
    assert set(states(sweep).values()) == {"queued"}


@pytest.mark.parametrize(("at_once", "jobs"), [(1, ["a", "b", "c"]), (2, ["a,b", "c"]), (8, ["a,b,c"])])
def test_no_more_cells_share_a_gpu_than_may_run_at_once(
    make_sweep: Callable[..., Sweep], sent: list[dict[str, Any]], at_once: int, jobs: list[str]
) -> None:
    launcher = LauncherConfig(name="slurm", gpus_per_node=1, per_gpu=4, at_once=at_once)
    cluster.submit_sweep(make_sweep(*map(planned, "abc")), launcher, (), ["report"], run_in_job)
    assert names(sent[0]) == jobs
