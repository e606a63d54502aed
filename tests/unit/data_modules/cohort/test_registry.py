from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from data_modules.cohort.registry import FOLDER, HOME, Registry, own_folder, register_use, registry_of
from data_modules.cohort.table import Series


def series(split: str, true_volume_mm3: float | None = None) -> Series:
    return Series("a", f"a-{split}", Path("/a.nii"), None, split, 5.0, None, true_volume_mm3=true_volume_mm3)


def registry(folder: Path) -> Registry:
    return Registry(folder / "beside", folder / "own")


def write_many(folder: Path, name: str) -> None:
    for k in range(10):
        registry(folder).add(f"{name}{k}", "look", text="x" * 5000)


def test_events_stand_once_in_both_places_oldest_first(tmp_path: Path) -> None:
    r = registry(tmp_path)
    assert r.add("b", "look", model="m")
    assert r.add("a", "look", model="m")
    assert r.add("b", "look", model="m")
    assert list(r.events()) == ["b", "a"]
    assert [len(path.read_text().splitlines()) for path in sorted(tmp_path.rglob("*.registry.jsonl"))] == [2, 2]
    assert (r.changed_files(), r.missing_beside()) == ([], set())


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(registry(tmp_path).events()) == 30
    assert registry(tmp_path).changed_files() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [s.replace("m1", "m9") for s in lines],
    ],
)
def test_a_line_that_was_changed_or_taken_out_is_noticed(tmp_path: Path, change) -> None:
    r = registry(tmp_path)
    for k in range(3):
        r.add(f"k{k}", "look", model=f"m{k}")
    (path,) = r.beside.glob("*.registry.jsonl")
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    assert r.changed_files() == [path]
    r.add("later", "look")
    assert r.changed_files() == [path]


def test_a_line_that_a_kill_cut_off_is_no_change(tmp_path: Path) -> None:
    r = registry(tmp_path)
    r.add("first", "look")
    (path,) = r.beside.glob("*.registry.jsonl")
    with path.open("a") as file:
        file.write('{"key": "cut')
    r.add("second", "look")
    assert set(r.events()) == {"first", "second"}
    assert r.changed_files() == []


def test_what_was_deleted_beside_the_table_is_missed_but_what_never_stood_there_is_not(tmp_path: Path) -> None:
    r = registry(tmp_path)
    r.beside.write_text("a file: nothing can be written below it")
    assert r.add("read-only", "look")
    r.beside.unlink()
    r.add("both", "look")
    assert r.missing_beside() == set()
    next(r.beside.glob("*.registry.jsonl")).unlink()
    assert r.missing_beside() == {"both"}
    assert Registry(r.beside, None).missing_beside() == set()


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not Registry(tmp_path / "file", None).add("a", "look")


def test_simulated_cohorts_are_registered_beside_their_table_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME, str(tmp_path / "own"))
    table = tmp_path / "cohort.csv"
    assert registry_of(table, [series("dev", 3.0)]).folders == (tmp_path / FOLDER,)
    assert registry_of(table, [series("dev", 3.0), series("test")]).own == tmp_path / "own"
    monkeypatch.delenv(HOME)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert own_folder() == tmp_path / "state" / "iac_lightning" / FOLDER


def test_uses_name_images_by_split_and_nobody(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    everyone = [series("dev"), series("finetune")]
    scans = [(everyone[0], ("whole", "slice")), (everyone[1], ())]
    register_use(table, everyone, scans)
    register_use(table, everyone, scans)
    (line,) = next((tmp_path / FOLDER).glob("*.registry.jsonl")).read_text().splitlines()
    event = json.loads(line)
    assert (event["split"], event["images"]) == ("dev", ["whole"])
    assert "a-dev" not in line
