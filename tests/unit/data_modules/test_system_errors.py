"""What comes from outside is one line that names what helps; what is the program's own fault stays as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data_modules.errors import UserError
from data_modules.system_errors import in_words, place_of


class Failing(Dataset[int]):
    """Raises in a loader process."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


def words(error: BaseException, command: str = "finetune") -> str:
    found = in_words(error, command)
    assert found is not None
    assert "\n" not in str(found)
    return str(found)


@pytest.mark.parametrize(
    ("number", "helps"),
    [
        (errno.EACCES, "runs_dir, data.prepared_dir"),
        (errno.EROFS, "runs_dir, data.prepared_dir"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EISDIR, "a folder lies where a file is expected"),
        (errno.ENOTDIR, "a file lies where a folder is expected"),
        (errno.EIO, "disk may be failing"),
    ],
)
def test_an_error_of_a_path_names_it_and_what_helps(number: int, helps: str) -> None:
    text = words(OSError(number, os.strerror(number), "/data/a.nii"))
    assert text.startswith(f"/data/a.nii: {os.strerror(number)}; ")
    assert helps in text
    assert in_words(OSError(number, os.strerror(number))) is None, "without a path nobody can mend it"
    temporary = OSError(number, os.strerror(number), "/data/.a.nii.123.0a1b2c3d.tmp")
    assert words(temporary) == text, "what a user has never seen is not named"


def test_limits_of_the_system_name_the_setting() -> None:
    assert "ulimit -n" in words(OSError(errno.EMFILE, "Too many open files", "/data/a.nii"))
    assert "ulimit -u" in words(RuntimeError("can't start new thread"))
    assert "/dev/shm" in words(RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is …"))
    assert "memory ran out" in words(RuntimeError("DataLoader worker (pid(s) 3) exited unexpectedly"))


def test_no_memory_names_the_settings_of_the_command() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**50, dtype=torch.uint8)
    assert "1125899906842624 bytes more were asked for" in words(torchs.value)
    assert "data.batch_size" in words(torchs.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**50, dtype=np.uint8)
    assert "1.00 PiB more" in words(numpys.value, "predict")
    assert "inference.window_batch" in words(numpys.value, "predict")
    gpus = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total …")
    assert words(gpus).startswith("the GPU's memory ran out (20.00 GiB more were asked for)")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("a.nii: is empty"), "a.nii: is empty"),
        (PermissionError(13, "Permission denied", "/data/a.nii"), "/data/a.nii: Permission denied; "),
    ],
)
def test_an_error_of_a_loader_process_is_told_as_if_it_were_this_ones(error: Exception, text: str) -> None:
    with pytest.raises(type(error)) as caught:
        next(iter(DataLoader(Failing(error), num_workers=1)))
    assert "Traceback" in str(caught.value), "as torch raises it"
    assert words(caught.value).startswith(text)


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes differ"), KeyError("a"), ValueError("b")])
def test_a_defect_of_the_program_stays_what_it_is(error: Exception) -> None:
    assert in_words(error) is None


def test_a_place_that_cannot_be_used_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    with pytest.raises(UserError, match=r"file/below: Not a directory; set this$"), place_of("set this", below):
        below.mkdir()
    with pytest.raises(NotADirectoryError), place_of("set this", tmp_path / "elsewhere"):
        below.mkdir()
