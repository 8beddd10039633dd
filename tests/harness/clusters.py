"""PostgreSQL servers to be broken: crashed and started again, copied, killed and succeeded.

What they acknowledge is on its way to the disk (``synchronous_commit``) but not forced to it
(``fsync=off``): that survives the end of every process of theirs, though not that of the machine.
"""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import postgres
import psycopg
from databases import PostgresDatabase
from postgres import NoPostgresError

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "autovacuum": "off",
    # The workload runs into deadlocks on purpose.
    "deadlock_timeout": "200ms",
}
_SECONDS = 60


class Host:
    """A folder for servers, and the programs and the user that run them."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.as_whom: dict[str, Any] = {}
        self.programs = programs
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            self.as_whom = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self.programs = postgres.readable_by_all(programs, folder)

    def run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self.as_whom,
        )


class Server:
    """One server: its data, its port, and the process if it runs."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._data = host.folder / name
        self._log = host.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._databases: list[PostgresDatabase] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@{self.address}/{database}"

    def make(self) -> None:
        how = ["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
        self._host.run("initdb", "-D", self._data, *how)

    def make_replica_of(self, primary: "Server") -> None:
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        how = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        self._host.run("pg_basebackup", *source, *how, "-D", self._data)

    def start(self) -> None:
        settings = [f"{name}={value}" for name, value in (_SETTINGS | {"port": self.port}).items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._host.programs / "postgres", "-D", self._data),
                    *(word for setting in settings for word in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._host.folder,
                preexec_fn=_go_with_parent,
                **self._host.as_whom,
            )
        self._wait_until_up()

    def new_database(self) -> PostgresDatabase:
        name = f"tbpay_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.database(name)

    def database(self, name: str) -> PostgresDatabase:
        self._databases.append(PostgresDatabase(self._url(name)))
        return self._databases[-1]

    def crash(self) -> None:
        """Stop at once, as ``pg_ctl stop -m immediate`` does, and start again."""
        self._end(signal.SIGQUIT)
        self.start()

    def kill(self) -> None:
        """Kill it with all its processes, as if its machine were gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # no more of them
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        self._end(signal.SIGKILL)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        if self._process is not None:
            self._end(signal.SIGINT)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            answer = connection.execute(sql.encode())
            return answer.fetchall() if answer.description else []

    def wait_for(self, sql: str) -> None:
        """Ask again and again until something is answered."""
        deadline = time.monotonic() + _SECONDS
        while not self.ask(sql):
            assert time.monotonic() < deadline, f"no answer to {sql}"
            time.sleep(0.05)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        for database in self._databases:
            database._close()
        self._process.send_signal(how)
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait_until_up(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                self.ask("SELECT 1")
                return
            time.sleep(0.05)
        raise NoPostgresError(self._log.read_text(errors="replace")[-500:])


@contextmanager
def server() -> Iterator[Server]:
    """Start one server, which is gone at the end of the block. Raises NoPostgresError."""
    with servers("alone") as [alone]:
        alone.make()
        alone.start()
        yield alone


@contextmanager
def servers(*names: str) -> Iterator[list[Server]]:
    """Name servers to be made and started; at the end of the block they are gone.

    Raises NoPostgresError where the programs for it are not there.
    """
    programs = next(
        (it for it in postgres.folders_of_programs() if (it / "pg_basebackup").exists()),
        None,
    )
    if programs is None:
        raise NoPostgresError("the programs of a server are not installed")
    with tempfile.TemporaryDirectory(prefix="tbpay-servers-") as name:
        host = Host(programs, Path(name))
        made = [Server(host, it) for it in names]
        try:
            yield made
        finally:
            for server in made:
                server.stop()


def _go_with_parent() -> None:
    """Let the system stop a server whose tests were killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGINT)
