"""Predictions are those of a plain forward pass, written as label files are."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision

from c2am_dist import schema
from c2am_dist.config import ClassifyConfig
from c2am_dist.labeling.classify import classify
from c2am_dist.method import encoders, images
from tests.checkpoints import CROP_PX
from tests.labeling.methods import CLASSES, network_input, random_classifier, save, write_labeled
from tests.labeling.sets import photo, write_shard

PHOTOS = [photo(i) for i in range(6)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with labels and a broken image, one without the column."""
    folder = tmp_path_factory.mktemp("shards")
    rows = [(f"{i}", PHOTOS[i], CLASSES[i % 3]) for i in range(4)]
    write_labeled(folder / "a.parquet", [*rows, ("broken", b"none", None)])
    write_shard(folder / "b.parquet", {f"{i}": PHOTOS[i] for i in (4, 5)})
    return folder


def test_a_checkpoint_classifies_the_middle_of_the_squeezed_image(
    ray_cluster: None, shards: Path, tmp_path: Path
):
    save(tmp_path / "run", random_classifier(), "classifier")
    config = ClassifyConfig(
        checkpoint=str(tmp_path / "run"),
        input=(str(shards),),
        output=str(tmp_path / "out"),
        batch_size=4,
        num_actors=1,
    )
    report = classify(config)
    assert (report.num_images, report.num_errors, report.num_files) == (7, 1, 2)
    tables = [pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in "ab"]
    assert all(table.schema.equals(schema.PREDICTIONS) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["image_id"] for row in rows] == ["0", "1", "2", "3", "broken", "4", "5"]
    broken = rows.pop(4)
    assert broken["classes"] is None and "not an image" in broken["error"]
    assert [row["label"] for row in rows] == [*CLASSES, CLASSES[0], None, None]
    resize_px = CROP_PX * 256 // 224
    edge = round((resize_px - CROP_PX) / 2)
    seen = network_input(PHOTOS, resize_px)[:, :, edge : edge + CROP_PX, edge : edge + CROP_PX]
    with torch.no_grad():
        expected = random_classifier()(seen).softmax(dim=1).numpy()
    for row, probabilities in zip(rows, expected, strict=True):
        order = np.argsort(-probabilities)
        assert row["classes"] == [CLASSES[i] for i in order]  # all three there are
        np.testing.assert_allclose(row["probabilities"], probabilities[order], atol=1e-5)
        assert (row["classifier"], len(row["checkpoint_sha256"])) == ("resnet18", 64)
    metadata = pq.read_schema(tmp_path / "out" / "a.parquet").metadata
    assert metadata[b"c2am_dist.config_sha256"].decode() == rows[0]["config_sha256"]
    assert classify(config).num_new == 0
    with pytest.raises(ValueError, match="holds files of another job: config_sha256 was"):
        classify(dataclasses.replace(config, crops="ten"))


def test_a_torchvision_file_classifies_ten_crops_of_the_middle(
    ray_cluster: None, shards: Path, tmp_path: Path
):
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "squeezenet.pth")
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(7)))
    config = ClassifyConfig(
        checkpoint=str(tmp_path / "squeezenet.pth"),
        architecture="squeezenet1_1",
        class_names=str(tmp_path / "names.txt"),
        input=(str(shards / "b.parquet"),),
        output=str(tmp_path / "out"),
        crops="ten",
        resize_px=72,
        crop_px=64,
        num_actors=1,
    )
    classify(config)
    rows = pq.read_table(tmp_path / "out" / "b.parquet").to_pylist()
    for row, data in zip(rows, PHOTOS[4:], strict=True):
        square = images.resize_middle(images.decode(data), 72)
        seen = encoders.normalise(torch.tensor(square[None]))
        crops = torch.cat(torchvision.transforms.functional.ten_crop(seen, [64, 64]))
        with torch.no_grad():
            expected = model(crops).softmax(dim=1).mean(dim=0).numpy()
        order = np.argsort(-expected)[:5]
        assert row["classes"] == [f"class {i}" for i in order]
        np.testing.assert_allclose(row["probabilities"], expected[order], atol=1e-5)
