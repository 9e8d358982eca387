"""Where the endpoint, the region and the credentials come from, and that these stay secret."""

import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from c2am_dist import object_store, storage
from jobs.local_s3 import LocalS3
from tests.fault_proxy import FaultProxy
from tests.object_store.objects import DATA, put
from tests.object_store.operations import (
    list_,
    read,
)


@pytest.fixture
def newly_found() -> Iterator[None]:
    """boto3 looks for credentials once a process; a test that changes them has it look again."""
    object_store._session.cache_clear()
    yield
    object_store._session.cache_clear()


WRONG = "wrong/secret+with/everything0123456789"


@pytest.mark.usefixtures("newly_found")
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": WRONG}, "the credentials are refused"),
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "the credentials are refused"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials found"),
    ],
    ids=["wrong secret", "unknown key", "none"],
)
def test_credentials_that_do_not_work_are_said_to_be_why(
    s3: LocalS3,
    bucket: str,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environment: dict[str, str | None],
    reason: str,
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    caplog.set_level(logging.DEBUG, "c2am_dist")
    with pytest.raises(storage.StorageError, match=rf"^{bucket}/x: {reason} \(") as writing:
        storage.write_bytes(f"{bucket}/x", DATA)
    with pytest.raises(storage.StorageError, match=rf"^{bucket}/x: {reason} \(") as reading:
        storage.read_bytes(f"{bucket}/x")
    with pytest.raises(storage.StorageError, match=rf"^{bucket}: {reason} \(") as listing:
        storage.walk(bucket)
    assert len(proxy.requests) <= 3
    errors = [caught.value for caught in (writing, reading, listing)]
    said = "".join(f"{e!r} {e} {e.__cause__!r} {e.__context__!r}" for e in errors) + caplog.text
    assert not any(secret in said for secret in (WRONG, s3.secret_key))


def test_no_retry_logs_a_secret(
    s3: LocalS3, bucket: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
):
    put(s3, f"{bucket}/a/in")
    proxy.inject("slow_down")
    caplog.set_level(logging.DEBUG, "c2am_dist")
    read(s3, bucket)
    assert re.search(rf"{bucket}/a/in: .*SlowDown.*; trying again in 0\.\d s", caplog.text)
    assert s3.secret_key not in caplog.text


def test_an_endpoint_with_credentials_in_it_is_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hidden@127.0.0.1:1")
    with pytest.raises(ValueError, match="AWS_ENDPOINT_URL has to be") as caught:
        storage.exists(f"{bucket}/x")
    assert "hidden" not in str(caught.value)


ROUND_TRIP = """
import sys
from c2am_dist import storage
bucket = sys.argv[1]
storage.write_bytes(f"{bucket}/out", b"written")  # by boto3
assert [file.uri for file in storage.walk(bucket)] == [f"{bucket}/out"]  # by pyarrow
assert storage.read_bytes(f"{bucket}/out") == b"written"
print(storage.resolve(bucket)[0].region)
"""


def round_trip(bucket: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since both SDKs look for all this once a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nothing = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    return subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, bucket],
        env={**kept, **nothing, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_profile_is_enough(s3: LocalS3, bucket: str, tmp_path: Path):
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-west-3\nendpoint_url = {s3.endpoint}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    files = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    done = round_trip(bucket, {**files, "AWS_PROFILE": "lab"})
    assert done.stdout == "eu-west-3\n", done.stderr
    failed = round_trip(bucket, {**files, "AWS_PROFILE": "lob"})
    assert re.search(rf"StorageError: {bucket}/out: .*profile \(lob\) could not", failed.stderr)


def test_the_role_of_the_machine_is_enough(s3: LocalS3, bucket: str):
    asked: set[str] = set()

    class InstanceMetadata(http.server.BaseHTTPRequestHandler):
        """What answers on 169.254.169.254 of an EC2 instance with a role."""

        def answer(self):
            asked.add(self.headers["User-Agent"].partition("/")[0])
            role = {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": "2026-01-01T00:00:00Z",
                "Expiration": "2056-01-01T00:00:00Z",
                "AccessKeyId": s3.access_key,
                "SecretAccessKey": s3.secret_key,
                "Token": "",
            }
            folder = "/latest/meta-data/iam/security-credentials"
            pages = {"/latest/api/token": "token", folder: "lab", f"{folder}/lab": json.dumps(role)}
            page = pages.get(self.path.rstrip("/"))
            self.send_response(200 if page else 404)
            self.send_header("X-aws-ec2-metadata-token-ttl-seconds", "21600")
            self.end_headers()
            self.wfile.write((page or "").encode())

        do_GET = do_PUT = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), InstanceMetadata) as metadata:
        thread = threading.Thread(target=metadata.serve_forever, args=(0.05,))
        thread.start()
        service = f"http://127.0.0.1:{metadata.server_port}"
        done = round_trip(
            bucket,
            {
                "AWS_ENDPOINT_URL": s3.endpoint,
                "AWS_REGION": "eu-west-3",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": service,
            },
        )
        metadata.shutdown()
        thread.join()
    assert done.stdout == "eu-west-3\n", done.stderr
    assert asked == {"aws-sdk-cpp", "Boto3"}


def test_the_endpoint_of_s3_alone_comes_first(
    s3: LocalS3, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    put(s3, f"{bucket}/a/in")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    read(s3, bucket)
    list_(s3, bucket)


def test_a_known_region_is_not_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_REGION", "ap-south-2")
    filesystem, path = storage.resolve("s3://c2am-dist-no-network/x")
    assert (filesystem.region, path) == ("ap-south-2", "c2am-dist-no-network/x")
