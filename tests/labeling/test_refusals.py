"""What labeling refuses, and that it names the culprit."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from c2am_dist import schema
from c2am_dist.checkpoint import CheckpointError
from c2am_dist.config import LabelConfig
from c2am_dist.labeling.job import label
from tests.checkpoints import random_c2am, save_c2am
from tests.labeling.sets import make_config
from tests.processes import Job


def test_a_used_output_folder_is_refused(trained: Path, image_set: Path, tmp_path: Path):
    (tmp_path / "labels.parquet").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"must not hold files yet, found labels\.parquet"):
        label(make_config(trained, image_set, tmp_path))


def test_what_was_not_given_is_named():
    with pytest.raises(ValueError, match="input must be given"):
        label(LabelConfig(checkpoint="somewhere", output="elsewhere"))


def test_missing_paths_are_named(trained: Path, image_set: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        label(make_config(tmp_path / "nowhere", image_set, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="nothing"):
        label(make_config(trained, tmp_path / "nothing", tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=r"threshold\.json: no evaluation"):
        label(make_config(trained, image_set, tmp_path / "out", threshold="evaluation"))


def test_a_corrupt_checkpoint_is_named(image_set: Path, tmp_path: Path):
    save_c2am(tmp_path / "corrupt", random_c2am())
    file = tmp_path / "corrupt" / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"corrupt: checkpoint\.pt has SHA-256"):
        label(make_config(tmp_path / "corrupt", image_set, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet34"}, "other: the weights are not those of a C2AM with resnet34"),
        ({"encoder": "alexnet"}, "other: .*'alexnet'"),
        ({"method": "classifier"}, "other: .*a classifier without classes"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(
    changes: dict[str, str], message: str, image_set: Path, tmp_path: Path
):
    save_c2am(tmp_path / "other", random_c2am(), **changes)
    with pytest.raises(CheckpointError, match=message):
        label(make_config(tmp_path / "other", image_set, tmp_path / "out"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"image_id": ["a"]}), r"bad\.parquet: column 'image' is missing"),
        (
            pa.table({"image_id": [1], "image": [b""]}),
            r"bad\.parquet: column 'image_id' is int64, expected string",
        ),
        (schema.SHARD.empty_table(), "the shards hold no image"),
    ],
)
def test_unusable_shards_are_named(table: pa.Table, message: str, trained: Path, tmp_path: Path):
    pq.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=message):
        label(make_config(trained, tmp_path / "bad.parquet", tmp_path / "out"))


def test_too_many_errors_end_the_job_with_status_1(
    labeled: Path, trained: Path, image_set: Path, tmp_path: Path
):
    flags = f"--checkpoint {trained} --input {image_set} --output {labeled} --batch-size 4"
    # Not the fraction that the labels were made with, which changes no row.
    flags += " --write-cues image --max-boxes 2 --max-error-fraction 0.12"
    address = ray.get_runtime_context().gcs_address
    job = Job("label", flags.split(), tmp_path / "log", address)
    job.start()
    printed = job.end(status=1)
    assert f"{labeled}: already finished" in printed
    assert "20 images in 4 files, 3 with errors" in printed
    assert "error: 15.0% of the images could not be labeled" in printed
