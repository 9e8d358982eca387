"""Every job from object storage to object storage, and what it leaves behind there."""

import json
from pathlib import Path

import pytest

from c2am_dist import checkpoint, evaluation, storage
from c2am_dist.config import (
    EvaluateConfig,
    LabelConfig,
    PrepareConfig,
    TrainConfig,
    override,
)
from c2am_dist.data import label_set, prepare, synthetic
from c2am_dist.labeling.job import label
from c2am_dist.training import fit
from jobs.local_s3 import LocalS3
from tests.conftest import BASE

NUM_IMAGES = 24


@pytest.fixture
def images(bucket: str, tmp_path: Path) -> str:
    """A data set in VOC's layout in the bucket."""
    synthetic.write_voc(str(tmp_path), num_train=NUM_IMAGES, num_val=0, seed=0, size_px=64)
    for path in sorted(tmp_path.rglob("*.*")):
        storage.write_bytes(f"{bucket}/images/{path.relative_to(tmp_path)}", path.read_bytes())
    return f"{bucket}/images"


def _label(trained: str, shards: str, output: str) -> None:
    config = LabelConfig(
        checkpoint=trained, input=(shards,), output=output, size_px=64, num_actors=1, flip=True
    )
    assert label(config).num_new == NUM_IMAGES


def test_every_job_reads_and_writes_an_object_store_and_no_secret(
    ray_cluster: Path, images: str, bucket: str, s3: LocalS3, trained: Path, tmp_path: Path
):
    shards, labels = f"{bucket}/shards", f"{bucket}/labels"
    prepare.prepare(PrepareConfig(input=(images,), output=shards, format="voc", split="train"))
    for name in ("checkpoint.pt", "manifest.json"):
        storage.write_bytes(f"{bucket}/start/{name}", (trained / name).read_bytes())
    ours = {"data.train": (shards,), "model.weights": f"{bucket}/start", "optim.max_steps": 2}
    place = {"run.storage": f"{bucket}/runs", "run.name": "s3", "run.checkpoint_every": 1}
    result = fit(override(TrainConfig(), {**BASE, **ours, **place}))
    assert checkpoint.steps(f"{bucket}/runs/s3") == [1, 2]
    _label(result.run, shards, labels)
    scoring = EvaluateConfig(
        labels=(labels,),
        annotations=(shards,),
        output=f"{bucket}/metrics.json",
        store_threshold=result.checkpoint,
    )
    metrics = evaluation.evaluate(scoring)
    assert metrics["c2am"]["num_images"] == NUM_IMAGES
    assert json.loads(storage.read_bytes(f"{bucket}/metrics.json")) == metrics
    stored = storage.read_json(f"{result.checkpoint}/threshold.json")
    assert stored["threshold"] == metrics["c2am"]["oracle_threshold"]

    _label(result.run, shards, f"file://{tmp_path}/labels")
    assert label_set.sealed(f"{tmp_path}/labels")

    written = [file.uri for file in storage.walk(bucket)]
    assert len(written) > 3 * NUM_IMAGES
    assert list(ray_cluster.glob("*.out"))
    for secret in (s3.secret_key.encode(), s3.access_key.encode()):
        assert not [uri for uri in written if secret in storage.read_bytes(uri)]
        assert not [path for path in ray_cluster.rglob("*.*") if secret in path.read_bytes()]
