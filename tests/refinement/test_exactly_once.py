"""A refining job killed with SIGKILL and started again."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from c2am_dist.config import RefineConfig
from c2am_dist.refinement import refine
from tests.images import write_shards
from tests.processes import Job
from tests.refinement.sets import ramp, write_npy

NUM_IMAGES, NUM_SHARDS, SIZE_PX = 40, 20, 300


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_leaves_what_an_undisturbed_job_does(tmp_path: Path):
    images = write_shards(tmp_path / "shards", NUM_IMAGES, num_files=NUM_SHARDS, size_px=SIZE_PX)
    for row in pq.read_table(images, columns=["image_id", "height", "width"]).to_pylist():
        size = (row["height"] // 4, row["width"] // 4)
        maps = {0: ramp(size=size), 7: ramp(size=size, flip=True)}
        write_npy(tmp_path / "npy", row["image_id"], maps)
    values = {"maps": (str(tmp_path / "npy"),), "images": (images,), "threshold": 0.6}
    undisturbed = RefineConfig(**values, output=str(tmp_path / "whole"), refinement="guided")
    assert refine(undisturbed).num_new == NUM_IMAGES

    output = tmp_path / "masks"
    flags = f"--maps {tmp_path / 'npy'} --images {images} --threshold 0.6 --output {output} "
    flags += "--refinement guided --num-tasks 1"
    address = ray.get_runtime_context().gcs_address
    with Job("refine", flags.split(), tmp_path / "log", address) as job:
        job.start()
        job.until(lambda: len(list(output.rglob("*.parquet"))) >= 3)
        job.kill()
        there = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
        assert len(there) < NUM_SHARDS, "killed too late to show anything"
        assert not (output / "_SUCCESS").exists()
        job.start()
        assert "files are there already" in job.end()
    assert {path: path.stat().st_mtime_ns for path in there} == there, "refined again"
    assert files_in(output) == files_in(tmp_path / "whole")
