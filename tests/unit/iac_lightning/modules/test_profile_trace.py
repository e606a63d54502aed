"""Traces written by hand: two steps of 1000 µs on a host and a GPU."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from iac_lightning.modules.profile_trace import PHASE_RANGE, STEP_RANGE, analyse, read_events


def span(cat: str, name: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}


def step(start: float, first: int) -> list[dict[str, Any]]:
    """Forward with a product, backward on a thread of its own, a callback that reads a value."""
    return [
        span("user_annotation", STEP_RANGE, start, 1000),
        span("user_annotation", PHASE_RANGE + "forward", start + 100, 200),
        span("cpu_op", "aten::linear", start + 110, 100),
        span("cpu_op", "aten::mm", start + 120, 60),
        span("cuda_runtime", "cudaLaunchKernel", start + 130, 5, correlation=first),
        span("kernel", "gemm", start + 150, 100, tid=7, correlation=first),
        span("user_annotation", PHASE_RANGE + "backward", start + 300, 300),
        span("cpu_op", "MmBackward0", start + 310, 200, tid=2),
        span("cuda_runtime", "cudaLaunchKernel", start + 320, 5, tid=2, correlation=first + 1),
        span("kernel", "gemm", start + 350, 200, tid=7, correlation=first + 1),
        span("cuda_driver", "cuLaunchKernel", start + 330, 5, tid=2, correlation=first + 2),
        span("kernel", "add", start + 500, 100, tid=8, correlation=first + 2),  # 50 µs beside the product
        span("user_annotation", PHASE_RANGE + "callbacks", start + 700, 200),
        span("python_function", "lightning/pytorch/trainer/call.py(200): hook", start + 705, 190),
        span("python_function", "iac_lightning/modules/profile.py(99): timed_log", start + 706, 188),
        span("python_function", "/x/iac_lightning/modules/finite.py(128): _looked_at", start + 710, 180),
        span("python_function", "torch/_tensor.py(1): item", start + 715, 170),
        span("cpu_op", "aten::_local_scalar_dense", start + 720, 150),
        span("cuda_runtime", "cudaMemcpyAsync", start + 730, 5, correlation=first + 3),
        span("gpu_memcpy", "Memcpy DtoH", start + 760, 10, tid=7, correlation=first + 3),
        span("cuda_runtime", "cudaStreamSynchronize", start + 740, 120, correlation=first + 4),
    ]


BEFORE = [
    span("cuda_runtime", "cudaDeviceSynchronize", 0, 50, correlation=1),
    span("cuda_runtime", "cudaLaunchKernel", 60, 5, correlation=2),
    span("kernel", "earlier", 100, 500, tid=7, correlation=2),
    span("gpu_user_annotation", PHASE_RANGE + "forward", 100, 3000, tid=7),
]


def test_the_gpus_time_goes_to_the_phase_that_launched_it() -> None:
    traced = analyse([*BEFORE, *step(1000, 10), *step(2000, 20)])
    assert traced.steps == 2
    assert traced.device_phases_ms == pytest.approx({"forward": 0.1, "backward": 0.25, "callbacks": 0.01})
    assert traced.device_ms == pytest.approx(0.36)
    assert traced.launches == 4


def test_a_wait_for_the_gpu_names_phase_operator_and_function() -> None:
    (wait,) = analyse([*BEFORE, *step(1000, 10), *step(2000, 20)]).waits
    assert (wait.phase, wait.operator) == ("callbacks", "aten::_local_scalar_dense")
    assert wait.place == "iac_lightning/modules/finite.py(128): _looked_at"
    assert (wait.times, wait.ms) == (1, pytest.approx(0.12))


def test_operators_own_the_kernels_that_they_launch() -> None:
    operators = analyse([*BEFORE, *step(1000, 10), *step(2000, 20)]).operators
    assert [(o.name, o.ms) for o in operators] == [
        ("MmBackward0", pytest.approx(0.3)), ("aten::mm", pytest.approx(0.1)),
        ("aten::_local_scalar_dense", pytest.approx(0.01)),
    ]  # fmt: skip


def on_cpu() -> list[dict[str, Any]]:
    gpu = ("kernel", "gpu_memcpy", "cuda_runtime", "cuda_driver")
    return [event for event in step(1000, 10) if event["cat"] not in gpu]


def test_without_a_gpu_operators_own_their_time_less_what_is_inside_and_reads_are_counted() -> None:
    counter = [
        span("python_function", "iac_lightning/modules/optimisers.py(9): step", 1940, 50),
        span("python_function", "torch/optim/optimizer.py(90): _get_value", 1950, 20),
        span("cpu_op", "aten::_local_scalar_dense", 1955, 5),
    ]
    traced = analyse([*on_cpu(), *counter])
    assert (traced.device_ms, traced.device_phases_ms, traced.launches) == (None, {}, 0)
    (wait,) = traced.waits  # the optimiser's counter lies on the host wherever the network is
    assert (wait.phase, wait.times) == ("callbacks", 1)
    assert {o.name: o.ms for o in traced.operators} == pytest.approx(
        {"aten::linear": 0.04, "aten::mm": 0.06, "MmBackward0": 0.2, "aten::_local_scalar_dense": 0.155}
    )


def test_where_no_function_of_ours_is_around_the_innermost_is_named() -> None:
    events = [e for e in on_cpu() if "finite.py" not in e["name"]]
    assert analyse(events).waits[0].place == "torch/_tensor.py(1): item"


def test_between_phases_nothing_is_on() -> None:
    reading = span("cpu_op", "aten::nonzero", 1650, 10)  # backward has ended at 1600
    inside = span("user_annotation", PHASE_RANGE + "logging", 1400, 50)  # of the backward pass, which goes on after it
    after_it = span("cpu_op", "aten::equal", 1550, 10)
    phases = {w.operator: w.phase for w in analyse([*on_cpu(), reading, inside, after_it]).waits}
    assert phases == {"aten::_local_scalar_dense": "callbacks", "aten::nonzero": "other", "aten::equal": "backward"}


def test_a_range_that_began_inside_a_function_is_not_inside_it_for_ever() -> None:
    """Entering a range is a function call: it ends a little after the range has begun."""
    entering = span("python_function", "iac_lightning/modules/callbacks.py(1): enter", 1690, 12)
    assert "finite.py" in analyse([*on_cpu(), entering]).waits[0].place
    events = [e for e in on_cpu() if "finite.py" not in e["name"]]
    assert "_tensor.py" in analyse([*events, entering]).waits[0].place


def test_files_are_read_packed_and_events_without_length_left_out(tmp_path: Path) -> None:
    mark = {"ph": "i", "name": "a moment", "ts": 1}
    with gzip.open(tmp_path / "trace.json.gz", "wt") as file:
        json.dump({"traceEvents": [*on_cpu(), mark]}, file)
    assert read_events(tmp_path / "trace.json.gz") == on_cpu()
