"""Shards, label files and checkpoints that somebody else made, or changed."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from c2am_dist import checkpoint, schema
from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.config import DataConfig
from c2am_dist.data import row_files, shards, stream
from c2am_dist.evaluation import inputs
from c2am_dist.evaluation.tally import Tally
from c2am_dist.labeling.decode import Decoding, decode_run
from c2am_dist.method import images
from c2am_dist.method.weights import WeightsError, read_state_dict
from c2am_dist.report import contact_sheet
from c2am_dist.storage import File
from tests import bombs

SIZE = (30, 40)  # height, width
JPEG = bombs.progressive_jpeg(40, num_scans=1)
MAP = images.encode_png16(np.eye(4, dtype=np.float32))


def label_row(image_id: str = "a", **changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(schema.LABELS.names)
    row |= {"image_id": image_id, "shard": "a.parquet", "height": SIZE[0], "width": SIZE[1]}
    row |= {"checkpoint_sha256": "0", "config_sha256": "0", "package_version": "0"}
    row |= {"activation_map": MAP, "pseudo_boxes": []}
    return row | changes


def shard_row(image_id: str = "a", **changes: Any) -> dict[str, Any]:
    row = {"image_id": image_id, "image": JPEG, "height": SIZE[0], "width": SIZE[1]}
    return row | {"boxes": [[0, 0, 20, 20]], "split": "val"} | changes


def store(path: Path, rows: list[dict[str, Any]], kind: pa.Schema) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=kind), path)
    return str(path)


# Parquet


LABEL_COLUMNS = ["image_id", "error", "pseudo_boxes", "activation_map"]
SHARD_COLUMNS = ["image_id", "image", "boxes", "mask", "split"]


def with_pickles(path: Path, row: dict[str, Any], kind: pa.Schema, column: str) -> Path:
    """A file of one row whose column would, as Python objects, make the folder returned."""
    table = pa.Table.from_pylist([row], schema=kind)
    made = path.parent / "code-has-run"
    pickled = bombs.pickled_column(1, made)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pickled), path)
    assert "arrow_pickled_object" in str(pq.read_schema(path).field(column).type)
    return made


@pytest.mark.parametrize("column", LABEL_COLUMNS)
def test_a_label_file_that_holds_pickles_is_refused_and_none_is_opened(tmp_path: Path, column: str):
    made = with_pickles(tmp_path / "labels/a.parquet", label_row(), schema.LABELS, column)
    store(tmp_path / "shards/a.parquet", [shard_row()], schema.SHARD)
    message = rf"labels/a\.parquet: column '{column}' is extension<ray\.data\.arrow_pickled"
    labels = [str(tmp_path / "labels/a.parquet")]
    with pytest.raises(ValueError, match=message):
        inputs.plan(labels, allow_incomplete=False)
    with pytest.raises(ValueError, match=message):
        contact_sheet(labels, [str(tmp_path / "shards")], str(tmp_path / "sheet.png"))
    annotations = inputs.read_annotations([str(tmp_path / "shards")])
    with pytest.raises(ValueError, match=message):
        inputs.read_unit(inputs.Unit(labels[0], 0, 0, 1), annotations)
    assert not made.exists()


@pytest.mark.parametrize("column", SHARD_COLUMNS)
def test_a_shard_that_holds_pickles_is_refused_and_none_is_opened(tmp_path: Path, column: str):
    made = with_pickles(tmp_path / "shards/a.parquet", shard_row(), schema.SHARD, column)
    message = rf"shards/a\.parquet: column '{column}' is extension<ray\.data\.arrow_pickled"
    group = shards.RowGroup(str(tmp_path / "shards/a.parquet"), 0, 1)
    with pytest.raises(ValueError, match=message):
        shards.read(group, [column])
    with pytest.raises(ValueError, match=message):
        shards.index([str(tmp_path / "shards")], columns=[column])
    assert not made.exists()


def test_a_column_that_is_there_twice_is_refused_by_name(tmp_path: Path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["image_id"] * 2)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'image_id' is there twice"):
        shards.index([str(tmp_path)], columns=["image_id"])


def test_a_row_group_too_large_to_be_read_at_once_is_refused_by_its_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [shard_row(image_id=str(i)) | {"image": bytes(1000)} for i in range(30)]
    table = pa.Table.from_pylist(rows, schema=schema.SHARD)
    path = tmp_path / "s.parquet"
    with pq.ParquetWriter(path, table.schema, use_dictionary=False, compression="zstd") as writer:
        for start, end in ((0, 5), (5, 30)):
            writer.write_table(table.slice(start, end - start))
    assert path.stat().st_size < 20_000  # the second holds 25,000 bytes of images
    assert [group.num_rows for group in shards.index([str(path)])] == [5, 25]
    monkeypatch.setattr(shards, "MAX_ROW_GROUP_BYTES", 20_000)
    for look in (lambda: shards.index([str(path)]), lambda: shards.read_schema(str(path))):
        with pytest.raises(ValueError, match=r"s\.parquet: row group 1 takes 2\d{4} bytes"):
            look()


def test_ids_that_are_not_utf8_are_refused_with_their_file(tmp_path: Path):
    offsets, text = pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")
    ids = pa.StringArray.from_buffers(1, offsets, text)
    pq.write_table(pa.table({"image_id": ids}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: .*UTF8"):
        shards.read(shards.RowGroup(str(tmp_path / "a.parquet"), 0, 1), ["image_id"])


def test_images_whose_ids_lead_elsewhere_become_label_rows_with_an_error(tmp_path: Path):
    ids = ["a", "../a", "/a", "a\x1b[2J"]
    uri = store(tmp_path / "a.parquet", [shard_row(name) for name in ids], schema.SHARD)
    run = pa.table({"uri": [uri], "indices": [[0]], "num_rows": [4]})
    (batch,) = decode_run(run, Decoding(sizes_px=(32,), batch_size=8, max_pixels=1e6))
    assert batch["image_id"].tolist() == ids
    first, *others = batch["error"].tolist()
    assert first == "" and batch["pixels_0"][0].any() and not batch["pixels_0"][1:].any()
    assert all(text.startswith("image_id") and text.isprintable() for text in others)


def test_a_shard_whose_key_leads_elsewhere_is_refused(tmp_path: Path):
    keys = ["s3://bucket/shards/a.parquet", "s3://bucket/shards/../../b.parquet"]
    with pytest.raises(ValueError, match=r"shard '\.\./\.\./b\.parquet' must be a relative path"):
        row_files.plan([File(key, 1) for key in keys], str(tmp_path))


@pytest.mark.usefixtures("ray_cluster")
def test_metadata_that_steers_a_terminal_is_shown_escaped(tmp_path: Path):
    table = pa.Table.from_pylist([label_row()], schema=schema.LABELS)
    told = {"c2am_dist.checkpoint_sha256": b"\x1b[2J\xff" + b"x" * 10**6}
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "a.parquet")
    metadata = {"c2am_dist.checkpoint_sha256": "c", "c2am_dist.config_sha256": "d"}
    file = row_files.PlannedFile("s.parquet", "a.parquet", str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match=r"a\.parquet: its checkpoint_sha256 is '") as refused:
        row_files.check([file], metadata)
    text = str(getattr(refused.value, "cause", refused.value))
    assert r"'\x1b[2J�xxx" in text and text.isprintable() and len(text) < 500


def test_an_id_that_steers_a_terminal_is_logged_escaped(caplog: pytest.LogCaptureFixture):
    ids = pa.array(["\x1b[2J" + "long" * 100_000, "\u202egood"])
    chunk = pa.table(
        {
            "first_part": [0],
            "epoch": [0],
            "image_id": pa.ListArray.from_arrays([0, 2], ids),
            "image": pa.ListArray.from_arrays([0, 2], pa.array([b"no image", JPEG])),
        }
    )
    data = DataConfig(resize_px=32, crop_px=32)
    (part,) = stream._cut_chunk(chunk, data=data, seed=0, part_sizes=[2], classes=())
    assert part["is_replaced"][0].as_py() == [True, False]
    (record,) = caplog.records
    assert record.getMessage().startswith(r"image \x1b[2Jlonglong")
    assert record.getMessage().isprintable() and len(record.getMessage()) < 500
    alone = chunk.set_column(2, "image_id", pa.ListArray.from_arrays([0, 1], ids.slice(0, 1)))
    with pytest.raises(images.ImageError, match=r"1 images .* \\x1b\[2Jlong") as caught:
        list(stream._cut_chunk(alone, data=data, seed=0, part_sizes=[1], classes=()))
    assert str(caught.value).isprintable()


# Maps and masks


BOMB_16, BOMB_1 = (bombs.png(11_000, 10_000, bits=bits) for bits in (16, 1))


@pytest.mark.parametrize(
    ("labels", "notes"),
    [({"activation_map": BOMB_16}, {}), ({"activation_map": None}, {"mask": BOMB_1})],
)
def test_a_map_or_mask_of_110_megapixels_is_refused_with_its_image(
    tmp_path: Path, labels: dict[str, bytes], notes: dict[str, bytes]
):
    store(tmp_path / "labels/a.parquet", [label_row(**labels)], schema.LABELS)
    store(tmp_path / "shards/a.parquet", [shard_row(**notes)], schema.SHARD)
    (unit,) = inputs.plan([str(tmp_path / "labels")], allow_incomplete=True).units
    (row,) = inputs.read_unit(unit, inputs.read_annotations([str(tmp_path / "shards")]))
    with pytest.raises(ValueError, match="image 'a': 11000x10000 is 110 megapixels"):
        Tally.empty().add(row)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_map": BOMB_16},
        {"background_cue": bombs.png(11_000, 10_000, bits=8)},
        {"background_cue": bombs.png(10**8, 1, bits=8)},  # few pixels, more than OpenCV takes
    ],
    ids=["map", "cue", "width"],
)
def test_a_contact_sheet_names_the_image_whose_map_or_cue_is_too_large(
    tmp_path: Path, changes: dict[str, bytes]
):
    store(tmp_path / "labels/a.parquet", [label_row(**changes)], schema.LABELS)
    with pytest.raises(ValueError, match=r"label of image 'a': (11000x10000 is|unreadable 8-bit)"):
        contact_sheet([str(tmp_path / "labels/*")], ["unused"], str(tmp_path / "sheet.png"))


def test_a_contact_sheet_shows_any_id_and_any_box(tmp_path: Path):
    image_id = "../\x1b[2J\n" + "long" * 100_000
    box = {"x0": -(2**31), "y0": -(2**31), "x1": 2**31 - 1, "y1": 2**31 - 1, "score": 1.0}
    label, image = label_row(image_id, pseudo_boxes=[box]), shard_row(image_id)
    store(tmp_path / "labels/a.parquet", [label], schema.LABELS)
    image["boxes"] = [[-(2**31), 0, 2**31 - 1, 3]]
    store(tmp_path / "shards/a.parquet", [image], schema.SHARD)
    sheet = tmp_path / "sheet.png"
    contact_sheet([str(tmp_path / "labels/*")], [str(tmp_path / "shards")], str(sheet))
    assert images.header(sheet.read_bytes())[0] > 200


# Checkpoints


def content(**changes: Any) -> dict[str, Any]:
    fields = Checkpoint(
        method="c2am",
        encoder="resnet18",
        model={"encoder.conv1.weight": torch.zeros(2, 3)},
        optimizer={},
        step=7,
        total_steps=10,
        classes=[],
        polarity="background",
        polarity_margin=0,
        border_lock=0.1,
        crop_px=96,
        weights_sha256="",
        config="{}",
    )
    return {name: getattr(fields, name) for name in fields.__slots__} | changes


def store_checkpoint(folder: Path, data: bytes) -> str:
    """A checkpoint folder in which all but the content is right."""
    import hashlib

    folder.mkdir(exist_ok=True)
    (folder / "checkpoint.pt").write_bytes(data)
    manifest = {"format": 1, "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def packed(content: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes, with its files compressed."""
    saved, out = io.BytesIO(), io.BytesIO()
    torch.save(content, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry.filename))
    return out.getvalue()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path):
    made = tmp_path / "code-has-run"
    for data in (packed(content(config=bombs.Code(made))), pickle.dumps(bombs.Code(made))):
        with pytest.raises(CheckpointError, match="checkpoint: not a checkpoint of this package"):
            checkpoint.load(store_checkpoint(tmp_path / "checkpoint", data))
        with pytest.raises(WeightsError, match=r"w\.pth: not a readable PyTorch checkpoint"):
            read_state_dict(data, "w.pth")
    assert not made.exists()


def test_a_checkpoint_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path):
    large = {"encoder.conv1.weight": torch.zeros(25_000_000)}
    bomb = packed(content(model=large), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    with pytest.raises(CheckpointError, match="unpacks to more than its size"):
        checkpoint.load(store_checkpoint(tmp_path / "bomb", bomb))
    whole = packed(content(model=large))
    assert checkpoint.load(store_checkpoint(tmp_path / "whole", whole))[0].step == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"crop_px": "96"}, "crop_px is a str"),
        ({"crop_px": 10**9}, "crop_px is 1000000000"),
        ({"crop_px": 0}, "crop_px is 0"),
        ({"encoder": ["resnet18"]}, "encoder is a list"),
        ({"polarity": "\x1b[2J"}, r"polarity is '\\x1b\[2J'"),
        ({"polarity_margin": "0"}, "polarity_margin is a str"),
        ({"model": {1: torch.zeros(1)}}, "model holds more than named tensors"),
        ({"model": {"a": "b"}}, "model holds more than named tensors"),
        ({"extra": 1}, "unexpected keyword argument 'extra'"),
    ],
)
def test_a_checkpoint_with_a_field_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
):
    uri = store_checkpoint(tmp_path / "odd", packed(content(**changes)))
    with pytest.raises(CheckpointError, match=f"odd: not a checkpoint of this package .*{reason}"):
        checkpoint.load(uri)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", r"manifest\.json: corrupt: not a JSON object"),
        ("[" * 100_000, r"manifest\.json: corrupt: not JSON"),
        ("\xff", r"manifest\.json: corrupt: not JSON"),
        ('{"format": 1}', "its manifest says None"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(tmp_path: Path, text: str, reason: str):
    uri = store_checkpoint(tmp_path / "odd", packed(content()))
    (tmp_path / "odd" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load(uri)


def test_only_folders_that_a_run_makes_are_its_checkpoints(tmp_path: Path):
    run = str(tmp_path)
    store_checkpoint(tmp_path / "one", packed(content()))
    (tmp_path / "checkpoints").mkdir()
    for name in ("step-00000005", "step-x", "step--0000009", "other", "step-00000009.old"):
        os.symlink(tmp_path / "one", tmp_path / "checkpoints" / name)
    assert checkpoint.steps(run) == [5]
