from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.runs.looks import FILE, count_looks, end_look, looks, record_look


def write_many(folder: Path, name: str) -> None:
    for k in range(20):
        record_look(folder, f"{name}{k}", "test", "c" * 4000, None)  # longer than a pipe's or a page's atomic write


def test_a_look_says_when_what_and_with_which_settings_and_weights(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    look = record_look(tmp_path / "run", "evaluate", "test", "abc", "f00")
    (entry,) = looks(tmp_path / "run")
    assert before <= datetime.fromisoformat(entry.pop("time")) <= datetime.now(UTC)
    assert entry == {
        "id": look.id,
        "what": "evaluate",
        "split": "test",
        "config_hash": "abc",
        "checkpoint_sha256": "f00",
    }
    assert look.is_on_record
    (tmp_path / "run" / FILE).write_text("")
    assert not look.is_on_record


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = (tmp_path / FILE).read_text().splitlines()
    assert sorted(json.loads(line)["what"] for line in lines) == sorted(f"{n}{k}" for n in "abc" for k in range(20))


def test_a_line_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    record_look(tmp_path, "first", "test", "a", "w1")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"id": "123", "what": "cut')
    record_look(tmp_path, "second", "test", "b", "w1")
    record_look(tmp_path, "third", "test", "b", "w2")
    record_look(tmp_path, "fourth", "dev", "c", "w3")
    assert [entry["what"] for entry in looks(tmp_path)] == ["first", "second", "third", "fourth"]
    assert count_looks(tmp_path) == {"n": 3, "n_configs": 2, "n_weights": 2}
    assert count_looks(tmp_path / "none") == {"n": 0, "n_configs": 0, "n_weights": 0}


def test_what_cannot_be_recorded_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be recorded .*, so it is not taken"):
        record_look(tmp_path / "run", "evaluate", "test", "a", None)


def test_a_look_that_was_cut_off_is_taken_up_by_the_same_and_by_nothing_else(tmp_path: Path) -> None:
    same = ("evaluate", "test", "settings", "weights", "scans")
    first = record_look(tmp_path, *same)
    assert record_look(tmp_path, *same).id == first.id, "a killed evaluation and its repetition are one look"
    assert first.is_on_record
    for place, other in enumerate(("report", "dev", "other settings", "other weights", "other scans")):
        assert record_look(tmp_path, *same[:place], other, *same[place + 1 :]).id != first.id
    assert len(looks(tmp_path)) == 6
    end_look(first)
    again = record_look(tmp_path, *same)
    assert again.id != first.id, "what has been shown whole is looked at again"
    assert record_look(tmp_path, *same).id == again.id
    assert count_looks(tmp_path)["n"] == 6  # one of the seven is of the split dev


def test_a_look_of_which_not_all_is_known_is_never_taken_up(tmp_path: Path) -> None:
    ids = {record_look(tmp_path, "evaluate", "test", "a", "b").id for _ in range(3)}
    assert len(ids) == len(looks(tmp_path)) == 3
    end_look(None)
