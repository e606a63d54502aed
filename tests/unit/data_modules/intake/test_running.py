"""Series that break the process which reads them, and workers of dask."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.guarded import CRASHED, RAISED, GuardedPool, Limits, Outcome
from data_modules.intake import running
from data_modules.intake.importing import ImportSettings, import_dicom
from data_modules.intake.running import result_of, results
from data_modules.intake.tasks import Task, image_path
from tests.dicom_exports import add, head
from tests.poison import read_unless_poisonous


def task(folder: Path, name: str, n: int = 12) -> Task:
    add(folder / name, name, heights=np.arange(n) * 5.0, scene=head(n))
    slices = tuple((str(path), f"{k:05d}.dcm") for k, path in enumerate(sorted((folder / name).iterdir())))
    (folder / "out" / "images").mkdir(parents=True, exist_ok=True)
    return Task(name, slices, False, str(folder / "out"), None)


def test_poison_costs_its_own_series_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "read_series", read_unless_poisonous)
    tasks = [task(tmp_path, name, n) for name, n in (("a", 12), ("dies", 13), ("hangs", 14), ("bomb", 15), ("b", 12))]
    with GuardedPool(2, Limits(20.0, 1.0)) as pool:
        found = {task.series_id: result["code"] for task, result in results(tasks, pool)}
    assert found == {"a": "ok", "dies": "crashed", "hangs": "timed_out", "bomb": "too_large", "b": "ok"}
    assert image_path(tmp_path / "out", "b").is_file()
    assert not image_path(tmp_path / "out", "dies").exists()


def test_words_of_an_exception_stay_out() -> None:
    assert result_of(Outcome(RAISED, words="LookupError: for MUELLER^HANS")) == {
        "code": "crashed",
        "found": "LookupError",
        "warnings": [],
    }
    assert "SIGSEGV" in result_of(Outcome(CRASHED, words="ended with signal SIGSEGV"))["found"]


def test_messages_of_the_reader_name_slices_by_number_alone(tmp_path: Path) -> None:
    given = task(tmp_path, "cut")
    path = Path(given.slices[4][0])
    path.write_bytes(path.read_bytes()[:-900])
    with GuardedPool(1, Limits(60, 1.0)) as pool:
        ((_, result),) = results([given], pool)
    assert result["code"] == "unreadable"
    assert result["found"].startswith("00004.dcm: the pixels cannot be decoded")
    assert str(tmp_path) not in result["found"]
    assert "iac_series_" not in result["found"]


def settings(source: Path, out: Path) -> ImportSettings:
    return ImportSettings(
        source=source,
        out=out,
        private=None,
        template=None,
        allow_contrast=False,
        every=False,
        workers=1,
        limits=Limits(60, 1.0),
        scheduler="",
        unpacked_gb=0.01,
    )


def test_archives_within_archives_and_bombs(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    add(tmp_path / "a", "a")
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "a").iterdir()):
            archive.write(path, f"../{path.name}")
    with zipfile.ZipFile(source / "outer", "w") as archive:
        archive.write(inner, "x/inner")
    with zipfile.ZipFile(source / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(40 * 2**20))
    found = import_dicom(settings(source, tmp_path / "out"))
    assert found.codes == {"ok": 1, "too_large": 1}
    listing = (found.private / "files.csv").read_text()
    assert "outer!/x/inner!/../s000.dcm" in listing
    assert not (found.private / "unpacked").exists()


@contextmanager
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    quiet = {"silence_logs": 50, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **quiet) as cluster:
        yield cluster.scheduler_address


def test_workers_of_dask_give_the_same(tmp_path: Path) -> None:
    tasks = [task(tmp_path, name) for name in ("a", "b")]
    with GuardedPool(1, Limits(60, 1.0)) as pool:
        here = {task.series_id: result for task, result in results(tasks, pool)}
        images = {name: image_path(tmp_path / "out", name).read_bytes() for name in here}
        with scheduler() as address:
            there = {task.series_id: result for task, result in results(tasks, pool, address)}
    assert there == here
    assert {name: image_path(tmp_path / "out", name).read_bytes() for name in there} == images


def test_no_scheduler_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(running, "_ANSWER_S", 1)
    with pytest.raises(UserError, match="no dask scheduler answers"), GuardedPool(1, Limits(60, 1.0)) as pool:
        list(results([], pool, "tcp://127.0.0.1:9"))
