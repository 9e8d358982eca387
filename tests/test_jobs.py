"""Jobs submitted with `ray job submit` to a head node of their own, from a clean clone."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from c2am_dist import checkpoint
from tests.files import ROOT
from tests.images import write_shards

RAY = str(Path(sys.executable).with_name("ray"))
VERSION = "0.0.submitted"
ENV = {
    **os.environ,
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only, see cli.init_ray
    "RAY_worker_niceness": "0",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
TRAIN = """
    --data.resize-px 40 --data.crop-px 32 --model.encoder resnet18 --model.weights none
    --optim.batch-size 8 --optim.epochs 1000 --scaling.num-workers 2
    --scaling.cpus-per-worker 0.5 --run.polarity-images 8
""".split()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head node's dashboard."""
    temp = tmp_path_factory.mktemp("ray")
    # Jobs are submitted through the node's agent, whose usual port the session's Ray has.
    dashboard, agent = _free_port(), _free_port()
    sockets = tempfile.mkdtemp(prefix="ray-")  # pytest's folder is too long a path for them
    flags = f"--head --node-ip-address=127.0.0.1 --port={_free_port()} --num-cpus=4 --block"
    flags += f" --dashboard-host=127.0.0.1 --dashboard-port={dashboard}"
    flags += f" --dashboard-agent-listen-port={agent} --object-store-memory=300000000"
    with open(temp / "head.log", "w") as log:
        process = subprocess.Popen(
            [RAY, "start", *flags.split()],
            env={**ENV, "RAY_TMPDIR": sockets},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not (_answers(dashboard) and _answers(agent)):
            assert process.poll() is None, (temp / "head.log").read_text()
            assert time.monotonic() < deadline, (temp / "head.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # asked to, it would take half a minute
        process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files alone, of another version than the one that is installed."""
    folder = tmp_path_factory.mktemp("clone") / "c2am-dist"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    init = folder / "c2am_dist" / "__init__.py"
    text, count = re.subn(r'__version__ = ".*"', f'__version__ = "{VERSION}"', init.read_text())
    assert count == 1
    init.write_text(text)
    return folder


def _submit(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, *arguments],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_train_label_and_evaluate_run_as_submitted_jobs(head: str, clone: Path, tmp_path: Path):
    # No shell on the way may touch these.
    shards = write_shards(tmp_path / """a set $HOME 'x' * "q" `id` \\""", 32)
    run, labels = tmp_path / "runs" / "submitted", tmp_path / "labels"

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        return _submit(head, "--working-dir", str(clone), "--", "python", *arguments)

    trained = submit(
        "jobs/train.py", "--data.train", shards, *TRAIN, "--optim.max-steps", "4",
        "--run.storage", str(tmp_path / "runs"), "--run.name", "submitted",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "step 4/4" in trained.stdout, "the log of a worker was not followed"
    labeled = submit(
        "jobs/label.py", "--checkpoint", str(run), "--input", shards, "--output", str(labels)
    )
    assert labeled.returncode == 0, labeled.stdout + labeled.stderr
    table = pq.read_table(labels)
    assert table.num_rows == 32
    # Rows are made on workers: they ran the submitted code, not the installed one.
    assert set(table["package_version"].to_pylist()) == {VERSION}
    evaluated = submit(
        "jobs/evaluate.py", "--labels", str(labels), "--annotations", shards,
        "--output", str(tmp_path / "metrics.json"),
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["c2am"]["num_images"] == 32


@pytest.fixture(scope="module")
def planned_and_refused(
    head: str, clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One submission of a dry run and, where that has succeeded, of a job that fails at once."""
    folder = tmp_path_factory.mktemp("planned")
    planned = [
        "python", "jobs/train.py", *TRAIN, "--dry-run",
        "--data.train", write_shards(folder / "shards", 32),
        "--run.storage", str(folder / "runs"), "--run.name", "planned",
    ]  # fmt: skip
    refused = [
        "python", "jobs/evaluate.py", "--labels", str(folder / "nowhere"),
        "--annotations", str(folder / "shards"), "--output", "m.json",
    ]  # fmt: skip
    both = f"{shlex.join(planned)} && {shlex.join(refused)}"
    return _submit(head, "--working-dir", str(clone), "--", "sh", "-c", both), folder


def test_a_dry_run_plans_for_the_cluster_it_is_submitted_to(
    planned_and_refused: tuple[subprocess.CompletedProcess[str], Path],
):
    done, folder = planned_and_refused
    assert "planned: 32,000 images in 4,000 steps of 8 on 2 CPU workers" in done.stdout
    assert "4 CPUs, decoding and model" in done.stdout  # as many as the head was given
    assert "held of 300.0 MB" in done.stdout
    assert not (folder / "runs").exists()


def test_what_a_submitted_job_refuses_is_the_submissions_status(
    planned_and_refused: tuple[subprocess.CompletedProcess[str], Path],
):
    done, _ = planned_and_refused
    assert done.returncode == 1
    assert "nowhere: no such file or folder" in done.stdout + done.stderr


def _ask(address: str, *arguments: str) -> str:
    asked = subprocess.run(
        [RAY, *arguments, "--address", address],
        env=ENV, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return asked.stdout


def _training_workers(address: str) -> list[str]:
    listed = _ask(address, "list", "actors", "--filter", "state=ALIVE", "--format", "json")
    actors = [actor["class_name"] for actor in json.loads(listed)]
    return [name for name in actors if "RayTrainWorker" in name]


@pytest.mark.slow
def test_a_stopped_job_leaves_a_whole_checkpoint_and_goes_on_when_submitted_again(
    head: str, clone: Path, tmp_path: Path
):
    arguments = [
        "--", "python", "jobs/train.py", "--data.train", write_shards(tmp_path / "shards", 32),
        *TRAIN, "--optim.max-steps", "150", "--run.checkpoint-every", "5",
        "--run.storage", str(tmp_path), "--run.name", "stopped",
    ]  # fmt: skip
    where = ("--working-dir", str(clone))
    begun = _submit(head, *where, "--no-wait", "--submission-id", f"stop-{os.getpid()}", *arguments)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    run, deadline = str(tmp_path / "stopped"), time.monotonic() + 120
    while not checkpoint.steps(run):
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.1)
    assert len(_training_workers(head)) == 2
    stopped = _ask(head, "job", "stop", f"stop-{os.getpid()}")
    assert "stopped" in stopped.lower(), stopped
    assert "was stopped" in _ask(head, "job", "status", f"stop-{os.getpid()}")
    deadline = time.monotonic() + 60
    while _training_workers(head):
        assert time.monotonic() < deadline, "workers outlived their job by a minute"
        time.sleep(0.5)
    reached = checkpoint.load(run)[0].step
    assert 5 <= reached < 150, "stopped too late to show anything"
    again = _submit(head, *where, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resuming at step {reached} of 150" in again.stdout
    assert checkpoint.load(f"{run}/checkpoint")[0].step == 150
