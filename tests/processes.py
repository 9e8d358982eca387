"""Processes that this test run has started, and jobs as processes of their own."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.files import ROOT


class Job:
    """``python jobs/NAME.py`` on a running Ray; the same command again and again.

    ``with Job(...) as job`` leaves no process behind, whatever the test's end.

    Args:
        name: of the script.
        flags: of its command line.
        log: a file for what it prints.
        address: of the Ray.
        environment: added to that of this process.
    """

    def __init__(
        self, name: str, flags: Sequence[str], log: Path, address: str, **environment: str
    ) -> None:
        self.command = [sys.executable, f"jobs/{name}.py", *flags]
        self.environment = os.environ | {"RAY_ADDRESS": address} | environment
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self.kill()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def until(self, is_so: Callable[[], bool], timeout_s: float = 600) -> None:
        """Waits until something is so, which must be before the job ends."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert self.is_running(), self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """With SIGKILL, where it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self, status: int = 0) -> str:
        """What it has printed, when it ends with that status."""
        assert self.process is not None, "not started"
        try:
            self.process.wait(timeout=900)
        finally:
            self.kill()
        assert self.process.returncode == status, self.log.read_text()
        return self.log.read_text()


def own_processes(name: str) -> list[int]:
    """Ids of the processes below this one whose command line holds a name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # processes come and go
            if name.encode() in (entry / "cmdline").read_bytes() and _is_below(int(entry.name)):
                found.append(int(entry.name))
    return found


def has_open(pid: int, path: str) -> bool:
    """Whether a process has a file open whose path, or what is left of it, matches."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # files come and go
                if re.search(path, os.readlink(entry)):
                    return True
    return False


def _is_below(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
