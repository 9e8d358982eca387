"""How masks are found and joined with their annotations, before any task reads them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2am_dist import schema
from c2am_dist.data import mask_sets
from c2am_dist.evaluation.mask_inputs import Encoded, join, read_annotations, read_masks
from c2am_dist.evaluation.mask_tally import MaskTally, Scoring
from c2am_dist.method.label_maps import VOC, encode_mask

MASK = encode_mask(np.ones((3, 4), np.uint8))


def test_files_of_masks_come_in_the_order_of_shuffled_shards(tmp_path: Path):
    """Each row group is then read once, and not by nearly every task."""
    ids = [f"im{i:02d}" for i in np.random.default_rng(0).permutation(40)]
    for shard in range(2):
        rows = [
            {"image_id": name, "image": b"", "height": 3, "width": 4, "mask": MASK}
            for name in ids[shard::2]
        ]
        table = pa.Table.from_pylist(rows, schema.SHARD)
        pq.write_table(table, tmp_path / f"{shard}.parquet", row_group_size=5)
    (tmp_path / "png").mkdir()
    for name in ids[:-3]:
        (tmp_path / f"png/{name}.png").write_bytes(MASK)
    masks = read_masks([str(tmp_path / "png")], allow_incomplete=False)
    annotations = read_annotations([str(tmp_path / "*.parquet")])
    joined = join(masks, annotations)
    places = [annotations.place(number) for number in joined.annotations]
    assert len(places) == 37 and places == sorted(places)
    for mask, note in zip(joined.masks, joined.annotations, strict=True):
        assert masks.ids[int(mask)] == annotations.ids[int(note)]


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_stray_of_the_annotation_is_the_annotations(is_binary: bool):
    scoring = Scoring(label_map=VOC, num_ids=21, is_binary=is_binary, is_agreement=False)
    note = Encoded("truth.png", encode_mask(np.full((3, 4), 21)))
    with pytest.raises(ValueError, match=r"^truth.png: annotation holds 21"):
        tally = MaskTally.empty(len(scoring.classes))
        tally.add(Encoded("mask.png", MASK), note, scoring, is_cue=False)


def test_metadata_of_masks_return():
    metadata = {key.encode(): text.encode() for key, text in mask_sets.to_metadata(VOC).items()}
    assert mask_sets.of_metadata("a.parquet", metadata) == VOC
    with pytest.raises(ValueError, match=r"a\.parquet: no label map in its metadata"):
        mask_sets.of_metadata("a.parquet", {})
