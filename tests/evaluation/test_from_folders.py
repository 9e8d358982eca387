"""CUB-200-2011 and ILSVRC2012 from their published folders to shards, and to scores."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from c2am_dist.config import PrepareConfig
from c2am_dist.data.prepare import write_shard
from c2am_dist.data.shard_plan import plan
from c2am_dist.evaluation.classes import by_class
from c2am_dist.evaluation.figures import summarise
from c2am_dist.method import images
from tests.data.formats import published
from tests.data.formats.published import (
    CUB_ABSENT,
    CUB_ALBATROSS,
    CUB_GRAY,
    CUB_UNBOXED,
    DOG,
    FISH,
)
from tests.evaluation.sets import prediction_row, score
from tests.test_evaluation import label_row


def prepared(root: Path, kind: str, **options: Any) -> tuple[dict[str, dict], dict[str, str]]:
    """The rows of the shards by image_id, and the errors."""
    out = root.parent / f"{root.name}-shards"
    config = PrepareConfig(input=(str(root),), output=str(out), format=kind, **options)  # type: ignore
    errors: dict[str, str] = {}
    for shard in plan(config).shards:  # on this process
        errors |= {row["image_id"]: row["error"] for row in write_shard(shard).errors}
    rows = [row for path in out.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["image_id"]: row for row in rows}, errors


def test_cub_becomes_shards(tmp_path: Path):
    rows, errors = prepared(published.cub(tmp_path / "cub"), "cub")
    assert set(rows) == {CUB_ALBATROSS, CUB_GRAY, CUB_UNBOXED}
    assert errors.keys() == {CUB_ABSENT} and "no such file" in errors[CUB_ABSENT]
    row = rows[CUB_ALBATROSS]
    assert (row["boxes"], row["split"]) == ([[6, 2, 31, 16]], "test")
    assert row["label"] == "001.Black_footed_Albatross" and row["box_labels"] == [row["label"]]
    assert images.decode_mask(row["mask"]).shape == (30, 40)
    # Clipped to the image, and of fractions the smallest box of whole pixels around.
    assert rows[CUB_GRAY]["boxes"] == [[3, 0, 40, 30]] and rows[CUB_GRAY]["split"] == "train"
    assert rows[CUB_UNBOXED]["boxes"] is None and rows[CUB_UNBOXED]["mask"] is None
    assert rows[CUB_UNBOXED]["label"] == "002.Laysan_Albatross"


def test_cub_s_own_folder_is_enough(tmp_path: Path):
    root = published.cub(tmp_path / "cub") / "CUB_200_2011"
    rows, errors = prepared(root, "cub", split="train")
    assert set(rows) == {CUB_GRAY} and set(errors) == {CUB_ABSENT}


def test_ilsvrc_becomes_shards(tmp_path: Path):
    rows, errors = prepared(published.ilsvrc(tmp_path / "set"), "imagenet")
    assert set(rows) == {
        f"{FISH}_18",
        f"{FISH}_36",
        f"{DOG}_2933",
        f"{DOG}_7",
        "ILSVRC2012_val_00000001",
        "ILSVRC2012_val_00000002",
    }
    assert errors.keys() == {f"{FISH}_37", f"{FISH}_1000", "ILSVRC2012_val_00000003"}
    assert "annotation: not XML" in errors[f"{FISH}_37"]
    assert "no such file" in errors[f"{FISH}_1000"]  # listed, its folder there, and absent
    # Several boxes, one with its corners swapped, one without area; edges, not pixels from 1.
    assert rows[f"{FISH}_18"]["boxes"] == [[0, 2, 40, 20], [12, 5, 30, 25]]
    assert rows[f"{FISH}_36"]["boxes"] is None and rows[f"{FISH}_36"]["label"] == FISH
    assert rows[f"{DOG}_2933"]["boxes"] == [[1, 1, 40, 30]]
    assert rows[f"{DOG}_2933"]["image"].startswith(b"\x89PNG")  # told by content
    assert rows[f"{DOG}_7"]["boxes"] == [[30, 20, 40, 30]]  # clipped; the one outside dropped
    assert images.decode(rows[f"{DOG}_7"]["image"]).shape == (30, 40, 3)  # of CMYK
    val = rows["ILSVRC2012_val_00000002"]
    assert (val["label"], val["boxes"]) == (FISH, [[1, 2, 30, 24], [5, 6, 9, 9]])
    assert {key: row["split"] for key, row in rows.items() if row["split"] != "train"} == {
        "ILSVRC2012_val_00000001": "val",
        "ILSVRC2012_val_00000002": "val",
    }


def test_ilsvrc_s_validation_split_alone_lists_its_own_absent_images(tmp_path: Path):
    rows, errors = prepared(published.ilsvrc(tmp_path / "set"), "imagenet", split="val")
    assert set(rows) == {"ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"}
    assert set(errors) == {"ILSVRC2012_val_00000003"}


@pytest.mark.parametrize("kind", ["cub", "imagenet"])
def test_published_sets_are_scored_by_their_class_names(tmp_path: Path, kind: str):
    layout = {"cub": published.cub, "imagenet": published.ilsvrc}[kind]
    rows, _ = prepared(layout(tmp_path / "set"), kind)
    labels, found = [], []
    for image_id, row in rows.items():
        box = dict(zip(("x0", "y0", "x1", "y1"), (row["boxes"] or [[0, 0, 5, 5]])[-1], strict=True))
        size = {"width": row["width"], "height": row["height"]}
        labels.append(label_row(image_id, None, pseudo_boxes=[box | {"score": 1.0}], **size))
        found.append(prediction_row(image_id, row["label"], "n00000000"))
    scored = score(tmp_path, labels, list(rows.values()), found, method="psol")
    metrics = summarise(scored.tally, scored.method)
    assert metrics["psol"]["num_without_boxes"] == 1
    assert metrics["psol"]["num_images"] == len(rows) - 1
    for name in ("stored_gt_known_loc", "stored_top1_loc", "stored_top5_loc"):
        assert metrics["psol"][name] == 100
    table = {row["class"]: row for row in by_class(scored.tally, "psol", scored.classes)}
    counts = {name: row["num_images"] for name, row in table.items()}
    if kind == "imagenet":
        assert counts == {FISH: 2, DOG: 3}
    else:
        assert counts == {"001.Black_footed_Albatross": 2, "002.Laysan_Albatross": 0}
