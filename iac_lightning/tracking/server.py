"""MLflow's pages for one folder of runs: on this machine only, and for no longer than the command that shows them.

`mlflow server` takes a port and hopes, lets a process of its own serve, and answers private networks by default. Here
the port is taken first and handed on, there is one process, the names of this machine are the only hosts it answers
to, and the system ends it with its parent.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from data_modules.errors import UserError
from iac_lightning.tracking.place import ARTIFACTS, sqlite_uri

HOST = "127.0.0.1"
USUAL_PORT = 5000
START_S = 180.0
"""Longest that a server may take to answer: a cold start on a busy machine takes half a minute."""
STOP_S = 5.0
_POLL_S = 0.2
_STOPPED_BY = (signal.SIGTERM, signal.SIGHUP)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def serve(runs_dir: Path, port: int | None = None) -> int:
    """Show the runs of a folder in the browser until Ctrl-C, or another signal, ends it.

    Args:
        runs_dir: whose MLflow database is shown.
        port: to listen on; 0: any free one; None: the usual one, or any where that is taken.

    Returns:
        0 after Ctrl-C, 128 and its number after another signal.

    Raises:
        UserError: when nothing was tracked there, the port is taken, or the server does not start or ends by itself.
    """  # noqa: DOC501 - `_ended` makes a UserError
    database = Path(runs_dir).resolve() / "mlflow.db"
    _check_database(database)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        server = subprocess.Popen(
            serve_command(listener.fileno()),
            env=serve_environment(database, port),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it through this process alone
            preexec_fn=_end_with_parent(os.getpid()),
        )
    try:
        with _signals_raised():
            _wait_until_it_answers(server, port)
            print(f"http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
            raise _ended(server.wait())
    except KeyboardInterrupt:  # the way to end it
        return 0
    except _StoppedError as stopped:
        return 128 + stopped.signal
    finally:
        _stop(server)


def serve_command(socket_fd: int) -> list[str]:
    """The command of MLflow's server on a socket that is open already; it needs `serve_environment`."""
    return [
        *(sys.executable, "-m", "uvicorn", "--fd", str(socket_fd), "--workers", "1"),
        *("--log-level", "warning", "--no-access-log", "--no-proxy-headers", "mlflow.server.fastapi_app:app"),
    ]


def serve_environment(database: Path, port: int) -> dict[str, str]:
    """What the server is told, as `mlflow server` tells it; settings of MLflow around this process do not reach it."""
    kept = {k: v for k, v in os.environ.items() if not k.removeprefix("_").startswith(("MLFLOW_", "UVICORN_"))}
    names = ("localhost", HOST, "[::1]")
    return kept | {
        "_MLFLOW_SERVER_FILE_STORE": sqlite_uri(database),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(database.parent / ARTIFACTS),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*names, *(f"{name}:{port}" for name in names)]),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, of no use here
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",  # what its packages say to each other
    }


class _StoppedError(Exception):
    """A signal that ends this process."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def _check_database(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: there is no tracking database yet. Train first, or name another runs directory.")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise UserError(
            f"{path}: not a database of MLflow's ({error}). Restore it, or move it away and train."
        ) from None


def _listening(port: int | None) -> socket.socket:
    """A socket of this process alone; whoever connects waits for the server that it is handed on to."""
    wanted = [USUAL_PORT, 0] if port is None else [port]
    for one in wanted:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # right after an earlier one has ended
        try:
            listener.bind((HOST, one))
            listener.listen()
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            if one != wanted[-1]:
                continue
            reason = error.strerror if isinstance(error, OSError) else "a port is a number from 0 to 65535"
            raise UserError(
                f"--port {one}: cannot be listened on ({reason}). Give another port, or leave --port out: a free one "
                "is chosen then."
            ) from None
    raise AssertionError("a port was tried")


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    """Return once the server has opened the store.

    The socket is the server's alone, so that whoever answers is it.

    Raises:
        UserError: when it ends, refuses, or takes far too long.
    """  # noqa: DOC501 - `_ended` makes a UserError
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (status := server.poll()) is not None:
            raise _ended(status)
        connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
        try:
            connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
            answer = connection.getresponse()
            if answer.status == 200:
                return
            raise UserError(
                f"MLflow's server cannot show the database ({answer.status} {answer.reason}): see what it says above."
            )
        except (OSError, http.client.HTTPException):
            time.sleep(_POLL_S)
        finally:
            connection.close()
    raise UserError(f"MLflow's server did not answer within {START_S:g} s.")


def _ended(status: int) -> UserError:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return UserError(f"MLflow's server ended by itself ({how}): see what it says above.")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it has started."""
    if server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Signals that end this process come as exceptions, so that the server is ended first."""

    def stop(number: int, frame: object) -> None:
        raise _StoppedError(number)

    before = {number: signal.signal(number, stop) for number in _STOPPED_BY}
    # ignored in what a script starts in the background
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """What the server does before it begins: ask the system to be killed when this process is, however that went."""
    if not sys.platform.startswith("linux"):
        return None
    system = ctypes.CDLL(None)

    def ask() -> None:
        system.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # gone in between
            os._exit(1)

    return ask
