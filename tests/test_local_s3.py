"""The S3 server of the tests and of the quickstart."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.local_s3 import LocalS3
from tests.files import ROOT
from tests.object_store.objects import DATA, put, stored

STARTER = """
import sys
from jobs.local_s3 import LocalS3
with LocalS3() as s3:
    print(s3.endpoint, s3.folder, flush=True)
    sys.stdin.read()
"""


def test_the_server_ends_with_the_process_that_started_it():
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    endpoint, folder = starter.stdout.readline().decode().split()
    address = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    socket.create_connection(address, timeout=1).close()
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    until = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(folder).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_a_server_keeps_what_it_acknowledged_when_it_is_killed(tmp_path: Path):
    with LocalS3(tmp_path / "kept") as server:
        uri = put(server, f"{server.new_bucket()}/x")
        server.kill()
        server.start()
        assert stored(server, uri.removesuffix("/x")) == {"x": DATA}
