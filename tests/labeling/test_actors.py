import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from c2am_dist import storage
from c2am_dist.config import LabelConfig
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling.actors import ModelActor
from c2am_dist.labeling.decode import Decoding, decode_run
from c2am_dist.labeling.localizers import C2AMLocalizer
from c2am_dist.method.activation import Polarity
from tests.checkpoints import random_c2am
from tests.fault_proxy import FaultProxy
from tests.labeling.methods import write_listed
from tests.labeling.sets import photo, write_shard


def test_with_flip_a_mirrored_image_has_the_mirrored_map(ray_cluster: None):
    import ray

    config = LabelConfig(scales=(1.0, 1.5), flip=True, batch_size=4)
    actor = ModelActor(ray.put(C2AMLocalizer(random_c2am(), Polarity.FOREGROUND)), config)
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (3, px, px, 3), np.uint8) for px in (64, 96)]
    maps, mirrored = (
        actor({"pixels_0": a, "pixels_1": b})["activation"]
        for a, b in (pixels, [p[:, :, ::-1].copy() for p in pixels])
    )
    assert maps.shape == (3, 6, 6)
    np.testing.assert_allclose(mirrored, maps[:, :, ::-1], atol=1e-5)
    assert np.abs(maps - maps[:, :, ::-1]).max() > 0.01


def test_maps_do_not_depend_on_the_threads_that_ray_would_give(ray_cluster: None):
    import ray

    actor = ModelActor(
        ray.put(C2AMLocalizer(random_c2am(), Polarity.FOREGROUND)), LabelConfig(batch_size=4)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), np.uint8)
    before, maps = torch.get_num_threads(), []
    try:
        for num_threads in (1, 4):
            torch.set_num_threads(num_threads)
            maps.append(actor({"pixels_0": pixels})["activation"])
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*maps)


def test_runs_are_decoded_in_whole_batches_across_row_groups(tmp_path: Path):
    images = {f"{i}": photo(i) for i in range(19)}
    shard = write_shard(tmp_path / "s.parquet", images, row_group_size=3)
    run = pa.table({"uri": [str(shard)], "indices": [list(range(7))], "num_rows": [19]})
    batches = list(decode_run(run, Decoding(sizes_px=(32, 64), batch_size=8, max_pixels=1e6)))
    assert [len(batch["image_id"]) for batch in batches] == [8, 8, 3]
    assert np.concatenate([b["image_id"] for b in batches]).tolist() == list(images)
    assert batches[2]["pixels_1"].shape == (3, 64, 64, 3)


def test_lists_of_labels_and_files_travel_with_their_images(tmp_path: Path):
    rows = [("a", photo(0), ["b", "c"]), ("b", b"no picture", ["a"]), ("c", photo(1), [])]
    shard = write_listed(tmp_path / "s.parquet", rows)
    run = pa.table({"uri": [str(shard)], "indices": [[0]], "num_rows": [3]})
    decoding = Decoding(
        sizes_px=(32,), batch_size=4, max_pixels=1e6, labels="labels", keeps_files=True
    )
    (batch,) = decode_run(run, decoding)
    assert [json.loads(text) for text in batch["labels"]] == [["b", "c"], ["a"], []]
    assert batch["image"].tolist() == [rows[0][1], b"", rows[2][1]]


def test_the_next_row_group_is_read_while_one_is_decoded(
    bucket: str, proxy: FaultProxy, tmp_path: Path
):
    shard = write_shard(tmp_path / "s.parquet", {f"{i}": photo(i) for i in range(8)})
    uri = f"{bucket}/s.parquet"
    storage.write_bytes(uri, shard.read_bytes())
    run = pa.table({"uri": [uri], "indices": [[0, 1]], "num_rows": [8]})
    batches = decode_run(run, Decoding(sizes_px=(32,), batch_size=4, max_pixels=1e6))
    proxy.clear()
    shards.read(RowGroup(uri, 0, num_rows=4), ["image_id", "image"])
    of_a_group = len(proxy.requests)
    proxy.clear()
    next(batches)
    deadline = time.monotonic() + 30
    while len(proxy.requests) <= of_a_group:
        assert time.monotonic() < deadline, "the second is read only when it is asked for"
        time.sleep(0.01)
    assert len(next(batches)["image_id"]) == 4 and next(batches, None) is None
