"""An image set, its labels, and labels of a job that was cut off and went on."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from c2am_dist import storage
from c2am_dist.config import LabelConfig
from c2am_dist.labeling.folder import LabelReport
from c2am_dist.labeling.job import label
from tests.checkpoints import random_c2am, save_c2am
from tests.files import ROOT
from tests.labeling.sets import make_config, photo, write_shard


@pytest.fixture(scope="session")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 11, 7, 2 and no images in different folders; three images are broken."""
    folder = tmp_path_factory.mktemp("shards")
    second = {f"b{i}": photo(100 + i, (70, 50)) for i in range(4)}
    second |= {"cut": photo(0)[:700], "text": b"no picture", "empty": b""}
    write_shard(folder / "one" / "0.parquet", {f"a{i:02d}": photo(i) for i in range(11)})
    write_shard(folder / "two" / "0.parquet", second)
    write_shard(folder / "two" / "1.parquet", {f"c{i}": photo(200 + i) for i in range(2)})
    write_shard(folder / "two" / "2.parquet", {})
    return folder


@pytest.fixture(scope="session")
def labeled_config(
    trained: Path, image_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> LabelConfig:
    output = tmp_path_factory.mktemp("labels") / "whole"
    changes = {"write_cues": "image", "max_boxes": 2, "max_error_fraction": 0.1}
    return make_config(trained, image_set, output, **changes)


@pytest.fixture(scope="session")
def labeled(ray_cluster: None, labeled_config: LabelConfig) -> Path:
    """The labels of the image set."""
    report = label(labeled_config)
    assert (report.num_images, report.num_errors, report.num_files) == (20, 3, 4)
    return Path(labeled_config.output)


HALF = """
import os, signal, sys
from c2am_dist import storage
with storage.create(sys.argv[1]) as stream:
    stream.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="session")
def cut_off(labeled: Path) -> Path:
    """Labels as a killed job leaves them: two shards have no file, and one a half-written one."""
    output = shutil.copytree(labeled, labeled.with_name("cut-off"))
    for name in ("_SUCCESS", "one/0.parquet", "two/0.parquet"):
        (output / name).unlink()
    there = sorted(path for path in output.rglob("*") if path.is_file())
    target = storage.join(str(output), "one/0.parquet")
    killed = subprocess.run([sys.executable, "-c", HALF, target], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert len([path for path in output.rglob("*") if path.is_file()]) == len(there) + 1
    assert not (output / "one" / "0.parquet").exists(), "a half-written file is in view"
    return output


@pytest.fixture(scope="session")
def gone_on(cut_off: Path, labeled_config: LabelConfig) -> tuple[Path, LabelReport]:
    """A copy of them after the same command, but for the number of actors, and its report."""
    output = shutil.copytree(cut_off, cut_off.with_name("gone-on"))
    config = dataclasses.replace(labeled_config, output=str(output), num_actors=2)
    return output, label(config)


@pytest.fixture(scope="session")
def labeled_by_a_stored_threshold(
    ray_cluster: None, image_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> LabelConfig:
    """The job, done, with a checkpoint for which an evaluation stored 0.25."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    save_c2am(run / "checkpoint", random_c2am())
    (run / "checkpoint" / "threshold.json").write_text(json.dumps({"threshold": 0.25}))
    config = make_config(
        run, image_set / "one", run.with_name("labels"), scales=(0.5, 1.0), flip=True
    )
    label(config)
    return config
