"""What a trace of torch's profiler tells about steps: the device's time, who waits for it, the operators.

Reads the events of a Chrome trace (`torch.profiler.profile.export_chrome_trace`): times in µs; ranges of the host are
of the categories `cpu_op`, `user_annotation`, `python_function` and `cuda_runtime`, work of the GPU of `kernel`,
`gpu_memcpy` and `gpu_memset`, with the number (`correlation`) of the call that launched it.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEP_RANGE = "training step"
PHASE_RANGE = "phase "
"""Names of the ranges that mark a step, and (with the phase behind it) a phase."""

Event = Mapping[str, Any]

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_CALLS = ("cuda_runtime", "cuda_driver")
_ON_HOST = ("cpu_op", "python_function", *_CALLS)
_WAITING_CALLS = (
    *("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"),
    *("cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize"),
)
_READING_OPERATORS = (
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"),
)
"""Operators that need a value of the device on the host."""
_OURS = ("data_modules/", "iac_lightning/modules/", "iac_lightning/models/", "iac_lightning/tracking/")
_CLOCK = "iac_lightning/modules/profile.py"
_HOST_COUNTERS = "torch/optim/optimizer.py("
"""Optimisers read their step counters, which lie on the host."""
_OUTSIDE = "other"


@dataclass(frozen=True)
class Wait:
    """Where the host waits for the device, or would.

    Attributes:
        phase: of the step.
        operator: that waits.
        place: innermost function of this project, or of Python, around it.
        times: a step.
        ms: a step.
    """

    phase: str
    operator: str
    place: str
    times: float
    ms: float


@dataclass(frozen=True)
class Operator:
    """An operator's own time, without that of operators inside it.

    Attributes:
        name: such as aten::mm.
        calls: a step.
        ms: a step, on the GPU where there is one.
    """

    name: str
    calls: float
    ms: float


@dataclass(frozen=True)
class Traced:
    """What the traced steps tell.

    Attributes:
        steps: how many.
        device_ms: time in which the GPU did something, a step; None without a GPU.
        device_phases_ms: the same by the phase that launched it.
        launches: kernels and copies of a step.
        waits: most frequent first.
        operators: longest first.
    """

    steps: int
    device_ms: float | None
    device_phases_ms: dict[str, float]
    launches: float
    waits: list[Wait]
    operators: list[Operator]


def read_events(path: Path) -> list[Event]:
    """The events of a packed trace file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events: list[Event] = json.load(file)["traceEvents"]
    return [event for event in events if event.get("ph") == "X" and "dur" in event]


def analyse(events: Sequence[Event]) -> Traced:
    """What happened in the ranges `STEP_RANGE`; the rest is left out."""
    ranges = [e for e in events if e.get("cat") == "user_annotation"]
    steps = [e for e in ranges if e["name"] == STEP_RANGE]
    begin, end = min(e["ts"] for e in steps), max(_end(e) for e in steps)
    phases = _Phases(e for e in ranges if e["name"].startswith(PHASE_RANGE))
    own_us: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    waits_us: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    launched: dict[Any, tuple[float, str]] = {}
    on_device = [e for e in events if e.get("cat") in _ON_DEVICE]
    for event, around in _nested(e for e in events if e.get("cat") in _ON_HOST):
        if not begin <= event["ts"] < end:
            continue
        if event["cat"] in _CALLS:
            operator = _innermost(around, "cpu_op") or event["name"]
            if (number := event.get("args", {}).get("correlation")) is not None:
                launched[number] = event["ts"], operator
            if event["name"] in _WAITING_CALLS:
                waits_us[phases.at(event["ts"]), operator, _place(around)].append(event["dur"])
        elif event["cat"] == "cpu_op":
            calls[event["name"]] += 1
            own_us[event["name"]] += event["dur"]
            if parent := _innermost(around, "cpu_op"):
                own_us[parent] -= event["dur"]
            if not on_device and event["name"] in _READING_OPERATORS and _HOST_COUNTERS not in (w := _place(around)):
                waits_us[phases.at(event["ts"]), event["name"], w].append(event["dur"])
    n = len(steps)
    waits = [Wait(*key, len(us) / n, sum(us) / n / 1000) for key, us in waits_us.items()]
    device, by_phase, launches, kernels_us = _device(on_device, launched, phases)
    own = kernels_us if on_device else own_us
    return Traced(
        steps=n,
        device_ms=device / n / 1000 if on_device else None,
        device_phases_ms={phase: us / n / 1000 for phase, us in by_phase.items()},
        launches=launches / n,
        waits=sorted(waits, key=lambda w: (-w.times, -w.ms, w.place)),
        operators=[Operator(name, calls[name] / n, us / n / 1000) for name, us in own.most_common() if us > 0],
    )


def _device(
    work: Iterable[Event], launched: Mapping[Any, tuple[float, str]], phases: _Phases
) -> tuple[float, dict[str, float], int, Counter[str]]:
    """Of the work that the steps have launched: busy time, the same by phase, how many pieces, µs of each operator."""
    all_spans: list[tuple[float, float]] = []
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    operators_us: Counter[str] = Counter()
    for event in work:
        origin = launched.get(event.get("args", {}).get("correlation"))
        if origin is None:
            continue
        when, operator = origin
        span = event["ts"], _end(event)
        all_spans.append(span)
        spans[phases.at(when)].append(span)
        operators_us[operator] += event["dur"]
    return _covered(all_spans), {p: _covered(s) for p, s in spans.items()}, len(all_spans), operators_us


class _Phases:
    """Which phase is on at a time; nested ones count as the inner phase."""

    def __init__(self, ranges: Iterable[Event]) -> None:
        self._ranges = sorted(ranges, key=lambda e: (e["ts"], -e["dur"]))
        self._starts = [e["ts"] for e in self._ranges]

    def at(self, when: float) -> str:
        for k in range(bisect_right(self._starts, when) - 1, -1, -1):
            if when < _end(self._ranges[k]):
                return str(self._ranges[k]["name"]).removeprefix(PHASE_RANGE)
        return _OUTSIDE


def _nested(events: Iterable[Event]) -> Iterator[tuple[Event, list[Event]]]:
    """Each event with those around it on its thread, outermost first."""
    around: dict[Any, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        stack = around[event.get("pid"), event.get("tid")]
        while stack and _end(stack[-1]) <= event["ts"]:
            stack.pop()
        yield event, stack
        stack.append(event)


def _innermost(around: Sequence[Event], category: str) -> str | None:
    return next((str(e["name"]) for e in reversed(around) if e["cat"] == category), None)


def _place(around: Sequence[Event]) -> str:
    """The innermost function of this project's training around an event; where there is none, the innermost at all.

    What an optimiser calls is the optimiser's.
    """
    functions = [str(e["name"]) for e in reversed(around) if e["cat"] == "python_function" and ".py(" in e["name"]]
    for name in functions:
        if _HOST_COUNTERS in name:
            return name
        if _CLOCK not in name and (found := next((name.index(f) for f in _OURS if f in name), None)) is not None:
            return name[found:]
    return functions[0] if functions else ""


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _end(event: Event) -> float:
    return float(event["ts"]) + float(event["dur"])
