"""One image's mask without Ray: the golden one, refinements, and what is wrong with its maps."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c2am_dist.method import crf, edge_aware
from c2am_dist.method.images import decode, decode_mask, encode_png8, encode_png16
from c2am_dist.method.label_maps import VOC, encode_mask
from c2am_dist.refinement.masks import ClassMaps, Refinement, pseudo_mask
from c2am_dist.refinement.rows import Work, mask_row
from c2am_dist.refinement.sources import Found, NamedReader, RefusedError, ShardSource
from tests.images import encoded, noise
from tests.refinement.sets import SIZE, flat, ramp, write_npy

HOW = Refinement(
    label_map=VOC,
    threshold=None,
    kind="none",
    guided_radius_px=4,
    guided_epsilon=1e-3,
    max_pixels=1e6,
)
DOG = VOC.id_of("dog")
PICTURE = encoded(noise(SIZE[::-1]))


def work(**changes: Any) -> Work:
    how = dataclasses.replace(HOW, **changes)
    common = {"maps_sha256": "0", "config_sha256": "0", "package_version": "0"}
    return Work(how=how, common=common, metadata={}, png_folder="")


def image(**changes: Any) -> dict[str, Any]:
    return {"image_id": "im", "image": PICTURE, "height": SIZE[0], "width": SIZE[1]} | changes


def labeled(name: str = "dog", one: np.ndarray | None = None, **changes: Any) -> Found:
    value = [{"class_name": name, "map": encode_png16(ramp() if one is None else one)}]
    return Found("labels.parquet", value, size=SIZE)._replace(**changes)


def cue(**changes: Any) -> Found:
    return Found("cues.parquet", encode_png8(flat(0.5)), size=SIZE)._replace(**changes)


def mask_of(row: dict[str, Any]) -> np.ndarray:
    assert "error" not in row, row["error"]
    return decode_mask(row["pseudo_mask"])


def test_golden_mask_is_reproduced_from_its_maps_and_cue(golden: Path):
    data = np.load(golden / "wsss.npz")
    maps = ClassMaps(data["keys"][1:].tolist(), data["cams"])
    found = pseudo_mask(maps, data["background_cue"], None, HOW)
    np.testing.assert_array_equal(found, data["refined"])
    how = dataclasses.replace(HOW, threshold=0.3)
    np.testing.assert_array_equal(pseudo_mask(maps, None, None, how), data["thresholded_03"])


def test_crf_refines_the_channels_and_keys_come_after():
    pytest.importorskip("pydensecrf.densecrf", exc_type=ImportError)
    row = mask_row(image(), "s", labeled(), cue(), work(kind="crf"))
    coarse = (ramp() > 0.5).astype(np.int64)
    refined = crf.refine_labels(decode(PICTURE), coarse, 2)
    np.testing.assert_array_equal(mask_of(row), np.array([0, DOG])[refined])
    assert (mask_of(row) != np.array([0, DOG])[coarse]).any()


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_guided_filter_changes_maps_and_cue_before_they_compete(threshold: float | None):
    background = None if threshold else cue()
    how = {"kind": "guided", "threshold": threshold}
    row = mask_row(image(), "s", labeled(), background, work(**how))
    channels = ramp()[None] if threshold else np.stack([ramp(), flat(128 / 255)])
    channels = edge_aware.guided_filter(decode(PICTURE), channels, radius_px=4, epsilon=1e-3)
    rival = threshold if threshold else channels[1]
    expected = np.where(channels[0] > rival, DOG, 0)
    assert (mask_of(row) != expected).mean() < 0.01  # maps are of 16 bits
    assert (expected != np.where(ramp() > (threshold or 0.5), DOG, 0)).any()


@pytest.mark.parametrize("kind", ["none", "crf", "guided"])
def test_image_without_classes_needs_no_pixels(kind: str):
    row = mask_row(image(image=b""), "s", labeled(value=[]), cue(), work(kind=kind))
    assert not mask_of(row).any() and row["classes"] == []


def test_size_comes_from_the_image_where_the_shard_does_not_say():
    row = mask_row({"image_id": "im", "image": PICTURE}, "s", labeled(), cue(), work())
    assert mask_of(row).shape == SIZE and (row["height"], row["width"]) == SIZE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": image(labels=["dog", "cow"])}, "labels.parquet: no class map of cow"),
        ({"image": image(image_id="../x")}, "image_id '../x' must be a relative path"),
        ({"image": image(height=2000)}, "2000 is 0 megapixels, more than the limit of 0.01"),
        ({"maps": labeled(value=None)}, "no class maps in labels.parquet"),
        ({"maps": labeled(error="cut off")}, "no class maps: cut off"),
        ({"maps": labeled(value=labeled().value * 2)}, "labels.parquet: two class maps of dog"),
        (
            {"maps": labeled(value=[{"class_name": "dog", "map": encode_png8(ramp())}])},
            "labels.parquet: class map of dog: not a 16-bit grayscale PNG",
        ),
        ({"cue": cue(value=None)}, "no background cue in cues.parquet: label with --write-cues"),
        ({"cue": cue(error="no map")}, "no background cue: no map"),
        (
            {"cue": cue(value=encode_mask(np.zeros(SIZE, np.uint8)))},
            "cues.parquet: not a 8-bit grayscale PNG",  # but a palette
        ),
        (
            {"cue": cue(value=encoded(noise(SIZE[::-1]), "PNG"))},
            "cues.parquet: not a 8-bit grayscale PNG",  # but in colour
        ),
    ],
)
def test_what_is_wrong_with_one_image_is_its_rows_error(changes: dict, message: str):
    given = {"image": image(), "maps": labeled(), "cue": cue()} | changes
    row = mask_row(given["image"], "s", given["maps"], given["cue"], work(max_pixels=1e4))
    assert message in row["error"]
    assert "pseudo_mask" not in row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": labeled("unicorn")}, "labels.parquet: image 'im': no class is called 'unicorn'"),
        ({"maps": labeled("background")}, "'background' is the background, not a class"),
        ({"image": image(labels=["unicorn"])}, "image 'im': no class is called 'unicorn'"),
        (
            {"maps": labeled(size=(30, 20))},
            r"labels.parquet: image 'im' has \(height, width\) = \(30, 20\) there and \(20, 30\)",
        ),
        ({"cue": cue(size=(20, 31))}, "cues.parquet: image 'im' has"),
        (
            {"cue": cue(value=encode_png8(flat(0.5, (40, 30))), size=(None, None))},
            r"a cue of \(height, width\) = \(40, 30\) for image 'im' of \(20, 30\)",
        ),
    ],
)
def test_what_does_not_belong_to_the_image_is_refused(changes: dict, message: str):
    given = {"image": image(), "maps": labeled(), "cue": cue()} | changes
    with pytest.raises(RefusedError, match=message):
        mask_row(given["image"], "s", given["maps"], given["cue"], work())


def from_npy(folder: Path, name: str = "im") -> Found:
    return next(NamedReader(ShardSource(str(folder), "class_maps", (".npy",))).read([name]))


@pytest.mark.parametrize("size", [SIZE, (5, 8), (40, 60), (10, 15)])
def test_npy_maps_of_the_images_aspect_are_enlarged(tmp_path: Path, size: tuple[int, int]):
    write_npy(tmp_path, "im", {DOG - 1: ramp(size=size)})
    row = mask_row(image(), "s", from_npy(tmp_path), None, work(threshold=0.5))
    found = mask_of(row)
    assert set(np.unique(found)) == {0, DOG}
    assert (found != np.where(ramp() > 0.5, DOG, 0)).mean() < 0.1


def test_image_of_no_class_needs_no_npy_file(tmp_path: Path):
    write_npy(tmp_path, "other", {0: ramp()})
    how = work(threshold=0.5)
    row = mask_row(image(labels=[]), "s", from_npy(tmp_path), None, how)
    assert mask_of(row).shape == SIZE and not mask_of(row).any() and row["classes"] == []
    for labels in (None, ["dog"]):
        row = mask_row(image(labels=labels), "s", from_npy(tmp_path), None, how)
        assert "im.npy: no such file" in row["error"]
    (tmp_path / "im.npy").write_bytes(b"broken")
    assert "im.npy: " in mask_row(image(labels=[]), "s", from_npy(tmp_path), None, how)["error"]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({0: flat(0.5, (30, 20))}, r"im.npy: maps of \(height, width\) = \(30, 20\)"),
        ({0: flat(0.5, (20, 20))}, "has another aspect"),
        ({20: flat(0.5)}, r"im.npy: holds a map of class 21, but the label map ends at 20 \(tvmon"),
    ],
)
def test_npy_maps_of_another_image_or_class_are_refused(tmp_path: Path, maps: dict, message: str):
    write_npy(tmp_path, "im", maps)
    with pytest.raises(RefusedError, match=message):
        mask_row(image(), "s", from_npy(tmp_path), None, work(threshold=0.5))


def test_maps_that_would_fill_the_memory_are_an_error_row(tmp_path: Path):
    write_npy(tmp_path, "im", {i: flat(0.5, (2, 2)) for i in range(12)})
    size = {"height": 10_000, "width": 10_000}
    large = work(threshold=0.5, max_pixels=2e8)
    row = mask_row(image(**size), "s", from_npy(tmp_path), None, large)
    assert "12 class maps of 10000x10000 pixels take more than 4 GiB" in row["error"]


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_npy_file_with_pickled_objects_is_an_error_row_and_runs_nothing(tmp_path: Path):
    np.save(tmp_path / "im.npy", {0: Hostile()}, allow_pickle=True)  # type: ignore
    row = mask_row(image(), "s", from_npy(tmp_path), None, work(threshold=0.5))
    assert "im.npy: " in row["error"] and "exec" in row["error"]


def test_npy_file_that_could_lie_elsewhere_is_not_looked_for(tmp_path: Path):
    found = from_npy(tmp_path / "below", "../im")
    assert found.error is not None and "must be a relative path" in found.error
