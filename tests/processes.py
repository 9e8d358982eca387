"""Processes that this test run has started."""

import contextlib
import os
from pathlib import Path


def own_processes(name: str) -> list[int]:
    """Ids of the processes below this one whose command line holds a name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # processes come and go
            if name.encode() in (entry / "cmdline").read_bytes() and _is_below(int(entry.name)):
                found.append(int(entry.name))
    return found


def _is_below(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
