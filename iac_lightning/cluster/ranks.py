"""Which process of a launch this one is, by the variables that launchers set. Nothing here imports torch.

Lightning starts ranks with LOCAL_RANK and NODE_RANK, torchrun with RANK, SLURM with SLURM_PROCID, LSF with
JSM_NAMESPACE_RANK. All but the last two come with the address at which the processes meet (MASTER_ADDR); `srun` says
how many tasks its step has (SLURM_STEP_NUM_TASKS). A rank without such company was left behind: by an `export`, or in a
notebook or an interactive shell inside a job of several tasks. A process that believes it trains and records nothing.
"""

from __future__ import annotations

import os
import sys

TORCHRUN = "TORCHELASTIC_RUN_ID"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""What tells the processes of a launch apart: the first has 0 in every one that is set."""
_MEETING = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
_LSF = "JSM_NAMESPACE_RANK"
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_TASKS = "SLURM_NTASKS"


def stray_variables() -> list[str]:
    """Variables of this environment that make one process look like one of several, and that no launcher has set."""
    meets = TORCHRUN in os.environ or bool(os.environ.get("MASTER_ADDR"))
    stray = [name for name in _MEETING if name in os.environ and not (meets and os.environ[name].isdecimal())]
    if _LSF in os.environ and not ("LSB_JOBID" in os.environ and os.environ[_LSF].isdecimal()):
        stray.append(_LSF)
    if not _in_step_of_several():
        stray += [name for name in _SLURM if os.environ.get(name, "0") != "0"]
        # Lightning takes a number of tasks for a promise that `srun` starts them, and reads the rank of this one.
        if _TASKS in os.environ and (os.environ[_TASKS] != "1" or "SLURM_PROCID" not in os.environ):
            stray.append(_TASKS)
    return stray


def forget_stray_variables() -> list[str]:
    """Take `stray_variables` out of the environment, for this process and those that it starts, and say so.

    Call it before Lightning is imported, which reads its rank then.
    """
    stray = stray_variables()
    if stray:
        given = ", ".join(f"{name}={os.environ.pop(name)}" for name in stray)
        print(
            f"warning: {given} in the environment, but no launcher has started this process as one of several: ignored",
            file=sys.stderr,
        )
    return stray


def described() -> str:
    """What the environment says of this process, for a message."""
    names = (*RANKS, "WORLD_SIZE", _TASKS)
    return ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)


def _in_step_of_several() -> bool:
    """Whether `srun` has started this process beside others."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return tasks.isdecimal() and int(tasks) > 1
