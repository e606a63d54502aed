"""What the system, memory and torch's loader processes say when they refuse something, as a line for a user.

Only what comes from outside of the program is put into words. Everything else is a defect and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_modules.errors import UserError
from data_modules.files import FULL, disk_full

_OF_A_PATH = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "give the right to use it, or choose another place (runs_dir, data.prepared_dir, a command's output folder)",
    ),
    errno.ENOENT: "look for a mistake in the path; what lay there may have been moved",
    errno.ENOTDIR: "a file lies where a folder is expected: choose another place",
    errno.EISDIR: "a folder lies where a file is expected: choose another place",
    errno.EEXIST: "something else lies there: move it away, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links lead to each other in a circle: mend them",
    errno.EIO: "the disk may be failing: copy what is on it, and try another one",
    errno.ESTALE: "the file server has lost it: run the same command again",
    errno.EBUSY: "another program uses it: end that one, then run the same command again",
    errno.ETXTBSY: "another program uses it: end that one, then run the same command again",
    errno.EINVAL: "the file system does not take it: choose another name or place",
    errno.ENOTEMPTY: "something else lies there: move it away, or choose another place",
}
"""What helps against each error that belongs to a file."""
_FILES = (
    "too many files are open: raise the limit (ulimit -n 65536), or set fewer processes (data.num_workers, "
    "data.prepare_workers, --workers)"
)
_PROCESSES = (
    "the system starts no further process or thread: raise the limit (ulimit -u), or set fewer (data.num_workers, "
    "data.prepare_workers, --workers, trainer.threads, OMP_NUM_THREADS)"
)
_OF_THE_SYSTEM = {errno.EMFILE: _FILES, errno.ENFILE: _FILES, errno.EAGAIN: _PROCESSES}
SHARED_MEMORY = (
    "loader processes found no room in shared memory (/dev/shm): set data.num_workers=0 or a smaller data.batch_size, "
    "or give a container more (docker run --shm-size=2g)"
)
_MEMORY = {
    "train": "a smaller data.batch_size with trainer.accumulate_grad_batches for it, a smaller data.sampling.crop, "
    "trainer.precision=bf16-mixed, or activation_checkpointing of the model",
    "infer": "a smaller inference.window_batch (1 needs least)",
    "other": "fewer processes (data.prepare_workers, --workers)",
}
"""What takes less memory."""
_TRAINING = ("pretrain", "finetune", "cell")
_INFERENCE = ("evaluate", "calibrate", "predict", "stress")
_NO_MEMORY = re.compile(r"can't allocate memory|CUDA out of memory|out of memory|Unable to allocate|bad alloc", re.I)


def in_words(error: BaseException, command: str = "") -> UserError | None:
    """A user's error for what the surroundings refused; None where the program itself is at fault.

    Args:
        error: what stopped a command.
        command: its name, which decides the settings that help against too little memory.
    """
    if isinstance(error, UserError):
        return _from_loader(error) or error
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        return UserError(_out_of_memory(error, command))
    if isinstance(error, RuntimeError):
        return _of_processes(text) or _from_loader(error)
    if isinstance(error, OSError):
        return _of_system(error) or _from_loader(error)
    return None


@contextmanager
def place_of(setting: str, folder: Path) -> Iterator[None]:
    """Where files at a place that a setting names cannot be used, the message names the setting.

    Raises:
        UserError: instead of an `OSError` about something in `folder`, or on the way to it.
        OSError: any other.
    """
    try:
        yield
    except OSError as error:
        path = Path(error.filename).absolute() if isinstance(error.filename, str) else None
        here = folder.absolute()
        on_the_way = path is not None and (path.is_relative_to(here) or here.is_relative_to(path))
        if error.errno not in _OF_A_PATH or not on_the_way:
            raise
        raise UserError(f"{_short(path)}: {os.strerror(error.errno)}; {setting}") from error


def _of_system(error: OSError) -> UserError | None:
    number = error.errno
    if number in FULL:
        return disk_full(error)
    if number in _OF_THE_SYSTEM:
        return UserError(_OF_THE_SYSTEM[number])
    if number == errno.ENOMEM:
        return UserError(_out_of_memory(error, ""))
    if number not in _OF_A_PATH or error.filename is None:
        return None
    return UserError(f"{_short(error.filename)}: {os.strerror(number)}; {_OF_A_PATH[number]}")


def _of_processes(text: str) -> UserError | None:
    """Of a `RuntimeError` about processes, threads and shared memory."""
    if "can't start new thread" in text or "Resource temporarily unavailable" in text:
        return UserError(_PROCESSES)
    if "Too many open files" in text or "ancdata" in text:
        return UserError(_FILES)
    if "Bus error" in text or re.search(r"(unable to \w+|insufficient) shared memory", text):
        return UserError(SHARED_MEMORY)
    if re.search(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)", text):
        return UserError(
            "a loader process was killed; if no error stands above, memory ran out: set data.num_workers or "
            "data.batch_size lower and run the same command again"
        )
    return None


def _from_loader(error: BaseException) -> UserError | None:
    """The error of a loader process, which torch raises again with that process's traceback as its message."""
    text = str(error)
    if not re.match(r"Caught \w+ in DataLoader worker process", text):
        return None
    last = re.findall(r"^([\w.]+): (.*)", text, re.M)
    kind, words = last[-1] if last else ("", "")
    if kind.rpartition(".")[2] == "UserError" or isinstance(error, UserError):
        return UserError(words)
    found = re.match(r"\[Errno (\d+)\] [^:]*(?:: '(.*)')?$", words)
    return _of_system(OSError(int(found[1]), os.strerror(int(found[1])), found[2])) if found else None


def _out_of_memory(error: BaseException, command: str) -> str:
    kind = "train" if command in _TRAINING else "infer" if command in _INFERENCE else "other"
    where = "the GPU's memory" if "CUDA" in str(error) or type(error).__name__ == "OutOfMemoryError" else "memory"
    asked = re.search(r"allocate ([\d.,]+ ?(?:[KMGTPE]iB|bytes))", str(error))
    wanted = f" ({asked[1]} more were asked for)" if asked else ""
    return f"{where} ran out{wanted}. What takes less: {_MEMORY[kind]}. What was finished before is kept"


def _short(path: object, longest: int = 120) -> str:
    """A path as far as one can read it, under the name that a temporary file was to get."""
    text = os.fsdecode(path) if isinstance(path, (str, bytes)) else str(path)
    text = re.sub(r"(^|/)\.([^/]+)\.\d+\.[0-9a-f]{8}\.tmp(?=/|$)", r"\1\2", text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
