from __future__ import annotations

import hashlib
import hmac
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from data_modules.cohort import leakage
from data_modules.cohort.leakage import (
    check_leakage,
    check_trains_on,
    check_unseen,
    hash_patients,
    is_seen,
    is_seen_patients,
    merged,
    seen_patients,
    split_salt,
)
from data_modules.cohort.table import Cohort, Series
from data_modules.errors import UserError


def series(patient: str, split: str) -> Series:
    return Series(patient, f"{patient}-a", Path("/a.nii"), None, split, 5.0, (1.0, 1.0, 5.0))


class TestLeakage:
    def test_a_patient_in_two_splits_is_refused(self) -> None:
        good = Cohort(Path("/c.csv"), (series("a", "dev"), series("b", "test"), series("b", "")))
        check_leakage(good)
        with pytest.raises(UserError, match="patient 'a' is in dev and test"):
            check_leakage(replace(good, series=(*good.series, series("a", "test"))))

    def test_training_on_other_splits_is_refused(self) -> None:
        check_trains_on([series("a", "finetune"), series("b", "pretrain")], ("pretrain", "finetune"))
        with pytest.raises(UserError, match=r"2 training series .* finetune: b-a \(dev\), c-a \(no split\)"):
            check_trains_on([series("a", "finetune"), series("b", "dev"), series("c", "")], ("finetune",))

    def test_hashes_are_hmacs_in_the_order_given(self) -> None:
        expected = [hmac.new(b"salt", p.encode(), hashlib.sha256).hexdigest() for p in ("b", "a")]
        assert hash_patients(["b", "a"], "salt") == expected

    def test_a_seen_patient_is_refused(self, tmp_path: Path) -> None:
        salt = split_salt(tmp_path / "cohort.csv")
        seen = seen_patients(["a", "b", "b"], salt)
        assert seen["hashes"] == sorted(hash_patients(["a", "b"], salt))
        assert salt not in str(seen)
        assert check_unseen(["c", "d"], seen, salt) is None
        with pytest.raises(UserError, match=r"1 of 2 patients .* such as b;"):
            check_unseen(["b", "c", "c"], seen, salt)

    def test_another_salt_gives_a_warning(self, tmp_path: Path) -> None:
        seen = seen_patients(["a"], split_salt(tmp_path / "one.csv"))
        (tmp_path / "elsewhere").mkdir()
        warning = check_unseen(["a"], seen, split_salt(tmp_path / "elsewhere" / "one.csv"))
        assert warning is not None
        assert "cannot be verified" in warning

    def test_an_id_that_is_alike_was_seen_unless_the_table_has_both(self) -> None:
        seen = seen_patients(["P0007", "A_B9"], "s")
        for patient in ("p7", "P-7", "ab009"):
            with pytest.raises(UserError, match="1 of 1 patients"):
                check_unseen([patient], seen, "s", everyone=[patient, "x"])
        assert check_unseen(["p7"], seen, "s", everyone=["p7", "P0007"]) is None  # which says that they are two
        assert check_unseen(["P70", "AB99"], seen, "s") is None

    def test_a_scan_is_known_whatever_the_salt(self) -> None:
        seen = seen_patients(["a"], "one", [("w1", "s1", "s2"), ()])
        assert seen["n_scans"] == 1
        with pytest.raises(UserError, match=r"scans of 1 of 2 patients .* such as of z: the voxels are the same"):
            check_unseen(["y", "z"], seen, "another", [("y", ("w2",)), ("z", ("w3", "s1", "s2"))])
        warning = check_unseen(["y"], seen, "another", [("y", ("w2", "s1"))])
        assert warning is not None
        assert "can be verified by their scans alone" in warning
        assert "cannot be verified" in str(check_unseen(["y"], seen, "another", [("y", ())]))
        assert is_seen("z", seen, "another", ("w1",))
        assert not is_seen("z", seen, "another", ("w2",))

    def test_what_several_models_have_seen_is_one_record_a_cohort(self) -> None:
        one = seen_patients(["a"], "s", [("i1",)], (["d"], [("i3",)]))
        two = seen_patients(["b"], "s", [("i2",)], (["e"], ()))
        other = {"salt_id": "0", "hashes": ["h"]}  # of an earlier version
        first, second = merged([one, other, two])
        assert first == other
        assert second["hashes"] == sorted(hash_patients(["a", "b"], "s"))
        assert second["images"] == ["i1", "i2"]
        assert second["tuned"]["hashes"] == sorted(hash_patients(["d", "e"], "s"))
        assert is_seen_patients([one, two, first, second])
        assert not is_seen_patients([one | {"images": [1]}])
        assert not is_seen_patients([one | {"tuned": {"hashes": []}}])


class TestSalt:
    def test_it_is_created_once_and_travels_with_the_table(self, tmp_path: Path) -> None:
        salt = split_salt(tmp_path / "cohort.csv")
        assert len(salt) == 64
        assert split_salt(tmp_path / "cohort.csv") == salt
        other = tmp_path / "copy"
        other.mkdir()
        (other / "split_salt").write_text((tmp_path / "split_salt").read_text())
        assert split_salt(other / "cohort.csv") == salt
        assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "split_salt"]

    def test_all_who_create_it_at_once_agree(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(16) as pool:
            salts = set(pool.map(lambda _: split_salt(tmp_path / "cohort.csv"), range(64)))
        assert len(salts) == 1

    def test_the_loser_of_the_race_takes_the_winners(self, tmp_path: Path) -> None:
        winner = "ab" * 32
        (tmp_path / "split_salt").write_text(winner)
        leakage._create_salt(tmp_path / "split_salt")  # has seen no file a moment before
        assert split_salt(tmp_path / "cohort.csv") == winner

    def test_a_file_system_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise PermissionError("no hard links")

        monkeypatch.setattr(os, "link", fail)
        salt = split_salt(tmp_path / "cohort.csv")
        assert split_salt(tmp_path / "cohort.csv") == salt
        leakage._create_salt(tmp_path / "split_salt")
        assert split_salt(tmp_path / "cohort.csv") == salt

    def test_a_damaged_or_impossible_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read or created"):
            split_salt(tmp_path / "nowhere" / "cohort.csv")
        (tmp_path / "split_salt").write_text("short")
        with pytest.raises(UserError, match="holds 5 characters, expected 64"):
            split_salt(tmp_path / "cohort.csv")
