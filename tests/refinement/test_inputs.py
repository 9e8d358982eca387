"""What the job refuses before or while it reads, and which files go with which shard."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from c2am_dist import storage
from c2am_dist.config import RefineConfig, override
from c2am_dist.method.crf import CRFMissingError
from c2am_dist.refinement import inputs, refine, sources
from c2am_dist.refinement.sources import LabelReader, RefusedError, ShardSource
from tests.refinement.sets import (
    Scene,
    flat,
    ramp,
    write_labels,
    write_npy,
    write_set,
    write_shards,
)

COW = Scene(maps={"cow": ramp()}, cue=flat(0.5))
ONE = {"0.parquet": {"a": COW, "b": COW, "c": COW}}


def find(maps: str | Path, images: str | Path, **changes):
    values = {"column": "class_maps", "suffix": ".npy", "allow_incomplete": False}
    return sources.find([str(maps)], storage.expand([str(images)]), **values | changes)


def test_unfinished_label_set_is_refused_unless_told(tmp_path: Path):
    config = write_set(tmp_path, ONE)
    (tmp_path / "class_maps/_SUCCESS").unlink()
    with pytest.raises(ValueError, match=r"class_maps: no _SUCCESS.*--allow-incomplete"):
        refine(config)
    assert not (tmp_path / "masks").exists()
    assert find(tmp_path / "class_maps", tmp_path / "shards", allow_incomplete=True).label_files


def test_missing_extra_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    config = override(write_set(tmp_path, ONE), {"refinement": "crf"})
    with pytest.raises(CRFMissingError, match=r"pip install 'c2am-dist\[crf\]'"):
        refine(config)
    assert not (tmp_path / "masks").exists()


def test_labels_without_the_column_or_of_two_checkpoints_are_refused(tmp_path: Path):
    files = {**ONE, "1.parquet": {"d": COW}}
    write_set(tmp_path, files)
    path = tmp_path / "class_maps/1.parquet"
    table = pq.read_table(path)
    (tmp_path / "class_maps/_SUCCESS").unlink()
    metadata = {**table.schema.metadata, b"c2am_dist.checkpoint_sha256": b"other"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(ValueError, match=r"1.parquet: labels of sipe other, but .*0.parquet is"):
        find(tmp_path / "class_maps", tmp_path / "shards", allow_incomplete=True)
    pq.write_table(table.drop_columns(["class_maps"]), path)
    with pytest.raises(ValueError, match=r"1.parquet: column 'class_maps' is missing"):
        find(tmp_path / "class_maps", tmp_path / "shards", allow_incomplete=True)


def test_label_files_are_found_by_path_and_by_name(tmp_path: Path):
    files = {"one/0.parquet": {"a": COW}, "two/0.parquet": {"b": COW}, "two/1.parquet": {}}
    shards, maps = write_shards(tmp_path, files), write_labels(tmp_path, files, "class_maps")

    def matched(images: str) -> dict[str, str]:
        found = find(maps, images).label_files
        return {
            str(Path(shard).relative_to(shards)): str(Path(file).relative_to(maps))
            for shard, file in found.items()
        }

    assert matched(shards) == {name: name for name in files}
    assert matched(f"{shards}/two") == {name: name for name in files if name.startswith("two")}
    assert matched(f"{shards}/two/0.parquet") == {"two/0.parquet": "two/0.parquet"}
    Path(maps, "two/0.parquet").rename(Path(maps, "two/elsewhere.parquet"))
    with pytest.raises(ValueError, match=r"two/3.parquet: no label file is called like it"):
        Path(shards, "two/3.parquet").write_bytes(b"")
        find(f"{maps}/*/*", f"{shards}/two/3.parquet")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "c", "b"], "has image 'b' where shard has 'c'"),
        (["a", "x", "c"], "has image 'b' where shard has 'x'"),
        (["a", "b", "c", "d"], "ends before image 'd' of shard"),
        (["a", "b"], "has more rows than shard"),
    ],
)
def test_labels_of_other_images_or_in_another_order_are_refused(
    tmp_path: Path, ids: list[str], message: str
):
    maps = write_labels(tmp_path, ONE, "class_maps")
    reader = LabelReader(ShardSource(f"{maps}/0.parquet", "class_maps", ()), "shard")
    with pytest.raises(RefusedError, match=rf"0.parquet: {message}"):
        for start in range(0, len(ids), 2):
            list(reader.read(ids[start : start + 2]))
        reader.end()


def test_labels_are_read_in_step_whatever_their_row_groups(tmp_path: Path):
    names = [f"im{i}" for i in range(100)]
    maps = write_labels(tmp_path, {"0.parquet": dict.fromkeys(names, COW)}, "class_maps")
    reader = LabelReader(ShardSource(f"{maps}/0.parquet", "class_maps", ()), "shard")
    for start, end in ((0, 1), (1, 70), (70, 70), (70, 100)):
        found = list(reader.read(names[start:end]))
        assert [each.value[0]["class_name"] for each in found] == ["cow"] * (end - start)
    reader.end()


def test_files_are_found_whatever_the_case_of_their_suffix(tmp_path: Path):
    images = write_shards(tmp_path, ONE)
    for name in "abc":
        write_npy(tmp_path / "npy", name, {0: ramp()})
    (tmp_path / "npy/a.npy").rename(tmp_path / "npy/a.NPY")
    (tmp_path / "npy/b.npy").rename(tmp_path / "npy/b.Npy")
    source = find(tmp_path / "npy", images).of_shard(f"{images}/0.parquet")
    found = list(sources.reader(source, "shard").read(["a", "b", "c", "d"]))
    assert [Path(each.uri).name for each in found[:3]] == ["a.NPY", "b.Npy", "c.npy"]
    assert all(each.value for each in found[:3]) and found[3].is_missing


def test_folder_of_neither_kind_and_two_folders_are_refused(tmp_path: Path):
    images = write_shards(tmp_path, ONE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"empty: no .parquet and no .npy file"):
        find(tmp_path / "empty", images)
    write_npy(tmp_path / "npy", "a", {0: ramp()})
    both = [str(tmp_path / "npy"), images]
    with pytest.raises(ValueError, match=r"npy: a folder of .npy files must be the only URI"):
        sources.find(
            both,
            storage.expand([images]),
            column="class_maps",
            suffix=".npy",
            allow_incomplete=False,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.3}, "threshold must be unset with cues"),
        ({"cues": ()}, "cues must be given"),
        ({"cues": (), "threshold": 1.5}, r"threshold must be in \[0, 1\]"),
        ({"guided_radius_px": 0}, "guided_radius_px must be positive"),
        ({"guided_epsilon": 0.0}, "guided_epsilon must be positive"),
        ({"images": ()}, "images must be given"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_the_flag(changes: dict, message: str):
    config = RefineConfig(maps=("m",), cues=("c",), images=("i",), output="o")
    with pytest.raises(ValueError, match=message):
        override(config, changes).check_complete()


KNOWN = {"0.parquet": {"a": Scene(labels=["cow"], maps={"cow": ramp()}, cue=flat(0.5))}}


@pytest.mark.parametrize(("files", "kind"), [(ONE, "class_maps"), (KNOWN, "shards")])
def test_class_that_is_not_in_the_label_map_is_refused_before_any_work(
    tmp_path: Path, files: dict, kind: str
):
    (tmp_path / "classes.txt").write_text("horse\n")
    config = override(write_set(tmp_path, files), {"label_map": str(tmp_path / "classes.txt")})
    with pytest.raises(RefusedError, match=rf"{kind}/0.parquet: no class is called 'cow'"):
        refine(config)
    assert not (tmp_path / "masks").exists()


def test_classes_of_maps_are_read_without_the_maps(tmp_path: Path):
    maps = write_labels(tmp_path, {**ONE, "none.parquet": {"d": Scene()}}, "class_maps")
    files = [f"{maps}/0.parquet", f"{maps}/none.parquet"]
    assert inputs.map_classes(files) == {files[0]: {"cow"}, files[1]: set()}
    path = tmp_path / "other.parquet"  # as others write lists, and with pages of maps cut out
    table = pq.read_table(files[0])
    pq.write_table(table, path, use_compliant_nested_type=False, compression="none")
    data = path.read_bytes()
    png = table["class_maps"][0][0]["map"].as_py()
    path.write_bytes(data.replace(png, b"?" * len(png)))
    assert inputs.map_classes([str(path)]) == {str(path): {"cow"}}


def test_an_id_in_two_shards_is_refused_before_any_work(tmp_path: Path):
    config = write_set(tmp_path, {**ONE, "1.parquet": {"b": COW}})
    with pytest.raises(ValueError, match=r"shards: image_id 'b' comes more than once"):
        refine(config)
    assert not (tmp_path / "masks").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_cues_in_a_folder_are_pngs_of_one_channel(tmp_path: Path):
    from c2am_dist.method.images import decode_mask, encode_png8
    from tests.refinement.sets import SIZE, rows_of

    config = write_set(tmp_path, ONE, cues=(str(tmp_path / "cues"),))
    (tmp_path / "cues").mkdir()
    (tmp_path / "cues/a.png").write_bytes(encode_png8(flat(0.25)))
    (tmp_path / "cues/b.png").write_bytes(encode_png8(flat(0.75, (SIZE[0] // 2, SIZE[1] // 2))))
    assert refine(config).num_errors == 1
    rows = rows_of(config.output)
    shares = [(decode_mask(rows[name]["pseudo_mask"]) > 0).mean() for name in "ab"]
    assert shares == pytest.approx([0.75, 0.25], abs=0.04)
    assert "c.png: no such file" in rows["c"]["error"]
    assert len(rows["a"]["cues_sha256"]) == 64
    assert np.unique(decode_mask(rows["a"]["pseudo_mask"])).tolist() == [0, 10]
