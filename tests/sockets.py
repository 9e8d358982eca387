"""What processes listen on."""

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

_LISTENS = "0A"  # a socket's state, in /proc/net/tcp


def listening(root: int) -> set[tuple[str, str]]:
    """Command and address of each socket that a process, or one below it, listens on for TCP."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENS:
                addresses[f"socket:[{inode}]"] = _address(local.partition(":")[0])
    found = set()
    for pid in [root, *_below(root)]:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(link)
                    if target in addresses:
                        found.add((_command(pid), addresses[target]))
    return found


def _address(words: str) -> str:
    """``0100007F`` -> ``127.0.0.1``: words of four bytes, each the wrong way around."""
    raw = bytes.fromhex(words)
    address = ipaddress.ip_address(b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4)))
    return str(getattr(address, "ipv4_mapped", None) or address)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _below(root: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _is_below(int(entry.name), root):
                yield int(entry.name)


def _is_below(pid: int, root: int) -> bool:
    while pid > 1:
        if pid == root:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
