"""A clock over the phases of a training step, in the places where Lightning tells its profiler what it does.

Lightning names each action when it begins and ends. The time between two such moments belongs to the innermost action
that has a phase, so the phases of a step add up to its wall time; what no action names is `other`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler
from torch.profiler import ProfilerActivity, profile, record_function

from iac_lightning.modules.profile_trace import PHASE_RANGE, STEP_RANGE

PHASES: dict[str, str] = {
    "data": "waiting for the loader, or cutting and augmenting where it has no workers",
    "transfer": "the batch to the device, and what makes it there",
    "forward": "network and loss",
    "backward": "gradients, and their exchange between devices",
    "optimiser": "clipping, update, learning rate",
    "average": "moving average of the weights",
    "logging": "metrics, and what the loop does between two steps",
    "callbacks": "the other callbacks",
    "queue": "what the GPU had still to do after the last step",
    "other": "all else, mostly Lightning's loop",
}
"""What each phase of a step holds."""

_LOG = "log"
_PHASE_OF = (
    (r"\[Callback\].*(Averag|EMA)", "average"),
    (r"\[Callback\]", "callbacks"),
    (rf"^{_LOG}$", "logging"),
    (r"\.train_dataloader_next$", "data"),
    (r"\.(on_before_batch_transfer|batch_to_device)$", "transfer"),
    (r"\[Strategy\].*\.training_step$", "forward"),
    (r"\[Strategy\].*\.backward$", "backward"),
    (r"\.(optimizer_step|lr_scheduler_step)$", "optimiser"),
)
_NEXT_BATCH = ".train_dataloader_next"
_AFTER_STEP = re.compile(r"\[LightningModule\].*\.on_train_batch_end$")


def phase_of(action: str) -> str | None:
    """The phase of one of Lightning's actions; None where it belongs to the action around it."""
    return next((phase for pattern, phase in _PHASE_OF if re.search(pattern, action)), None)


@dataclass
class Timed:
    """What the clock has measured over the timed steps.

    Attributes:
        steps_ms: of each step, from asking for its batch to asking for the next.
        phases_ms: of each phase, a step.
        processor_ms: processor time of this process, a step.
        peak_memory_mib: allocated on the GPU; None without one.
    """

    steps_ms: list[float] = field(default_factory=list)
    phases_ms: dict[str, float] = field(default_factory=dict)
    processor_ms: float = 0.0
    peak_memory_mib: float | None = None

    @property
    def step_ms(self) -> float:
        """Mean time of a step: the sum of the phases."""
        return sum(self.phases_ms.values())

    @property
    def median_ms(self) -> float:
        """Of a step, without the GPU's queue."""
        return statistics.median(self.steps_ms)


class StepClock(Profiler):
    """Times steps, then traces a few more: first without torch's profiler, which slows the host down, then with it.

    Steps of an epoch: `warmup` that are not looked at, `timed`, one in which the tracing starts, `traced`, and one that
    ends it.

    Args:
        warmup: steps that compile, fill caches and start loaders.
        timed: steps of which `measured` tells.
        traced: steps that the trace holds.

    Attributes:
        device: that trains; set before the training begins.
        measured: of the timed steps.
        trace: torch's profiler with the traced steps; stopped when the epoch is over.
    """

    def __init__(self, warmup: int, timed: int, traced: int) -> None:
        super().__init__()
        self.warmup, self.timed, self.traced = warmup, timed, traced
        self.device = torch.device("cpu")
        self.measured = Timed()
        self.trace: profile | None = None
        self._step = -1  # of the batch that was asked for last
        self._phases: list[tuple[str | None, AbstractContextManager[Any] | None]] = []
        self._between = "other"
        self._totals_s: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._last = self._step_start = self._processor_start = 0.0
        self._range: AbstractContextManager[Any] | None = None
        self._bookkeeping: AbstractContextManager[Any] | None = None
        self._tracing = False

    @property
    def batches(self) -> int:
        """Of the epoch that is measured."""
        return self.warmup + self.timed + 1 + self.traced + 1

    def start(self, action_name: str) -> None:
        """An action begins."""
        self._account()
        if action_name.endswith(_NEXT_BATCH):
            self._between = "other"
            self._leave_bookkeeping()
            self._next_step()
        phase = phase_of(action_name)
        marked = self._mark(PHASE_RANGE + phase) if phase else None
        self._phases.append((phase or self._phase, marked))

    def stop(self, action_name: str) -> None:
        """The action that began last ends."""
        self._account()
        _, marked = self._phases.pop()
        if marked is not None:
            marked.__exit__(None, None, None)
        if _AFTER_STEP.search(action_name):
            self._between = "logging"
            self._bookkeeping = self._mark(PHASE_RANGE + "logging")

    def _mark(self, name: str) -> AbstractContextManager[Any] | None:
        """Begin a range of the trace, where there is one."""
        if not self._tracing:
            return None
        mark = record_function(name)
        mark.__enter__()
        return mark

    def _leave_bookkeeping(self) -> None:
        if self._bookkeeping is not None:
            self._bookkeeping.__exit__(None, None, None)
            self._bookkeeping = None

    def end(self) -> None:
        """After a training, also one that failed inside the traced steps: torch's profiler stops."""
        if self._tracing and self.trace is not None:
            self._tracing = False
            self.trace.stop()

    def logging(self, log: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted as logging: Lightning does not name `LightningModule.log`."""

        def timed_log(*args: Any, **kwargs: Any) -> Any:
            with self.profile(_LOG):
                return log(*args, **kwargs)

        return timed_log

    @property
    def _phase(self) -> str | None:
        return self._phases[-1][0] if self._phases else None

    def _account(self) -> None:
        """What has passed since the last moment goes to the phase that is on."""
        now = perf_counter()
        self._totals_s[self._phase or self._between] += now - self._last
        self._last = now

    def _next_step(self) -> None:
        """A batch is asked for: the step before is over."""
        self._step += 1
        if self.warmup < self._step <= self.warmup + self.timed:
            self.measured.steps_ms.append(1000 * (self._last - self._step_start))
        if self._step == self.warmup:
            self._begin_timing()
        elif self._step == self.warmup + self.timed:
            self._end_timing()
            self._begin_tracing()
        elif self._tracing:
            self._mark_step()
        self._step_start = self._last

    def _begin_timing(self) -> None:
        self._empty_queue()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._totals_s = dict.fromkeys(PHASES, 0.0)
        self._processor_start = process_time()
        self._last = perf_counter()

    def _end_timing(self) -> None:
        """A GPU's steps run behind the process that asks for them: what is left counts too."""
        if self.device.type == "cuda":
            self._empty_queue()
            now = perf_counter()
            self._totals_s["queue"] += now - self._last
            self._last = now
        each = 1000 / self.timed
        self.measured.phases_ms = {phase: each * total for phase, total in self._totals_s.items()}
        self.measured.processor_ms = each * (process_time() - self._processor_start)
        if self.device.type == "cuda":
            self.measured.peak_memory_mib = torch.cuda.max_memory_allocated(self.device) / 2**20

    def _begin_tracing(self) -> None:
        cuda = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        self.trace = profile(activities=[ProfilerActivity.CPU, *cuda], with_stack=True)
        self.trace.start()
        self._tracing = True

    def _mark_step(self) -> None:
        """Steps after the one in which tracing began have a range each."""
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if self._step < self.batches - 1:
            self._range = self._mark(STEP_RANGE)
            return
        self._empty_queue()
        self.end()

    def _empty_queue(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
