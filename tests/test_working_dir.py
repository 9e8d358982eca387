"""What `ray job submit --working-dir .` sends to the cluster, packed by Ray itself."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.files import ROOT

MAX_BYTES = 3 * 2**19
"""Of files as they are: 1.2 MB are code. A picture or a data file would not fit in."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a folder with the tracked files, and with what running jobs leaves beside them."""
    clone = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    for name in ("runs/quickstart/x.parquet", ".venv/bin/python", ".git/objects/x"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(bytes(1000))
    target = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(clone), target, include_gitignore=True)
    return target


def test_the_working_directory_is_small(package: Path):
    with zipfile.ZipFile(package) as archive:
        assert 0 < sum(entry.file_size for entry in archive.infolist()) < MAX_BYTES


def test_the_working_directory_holds_what_jobs_need_and_little_else(package: Path):
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
    for folder, pattern in (("c2am_dist", "*"), ("jobs", "*.py"), ("tune", "*.py")):
        files = [path for path in (ROOT / folder).rglob(pattern) if path.is_file()]
        needed = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
        assert needed and needed <= names
    assert not any(
        name.startswith(("runs/", ".venv", ".git/", "docs/", "tests/")) for name in names
    )
