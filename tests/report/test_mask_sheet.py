"""The picture of images with their masks side by side."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c2am_dist.method import images, label_maps
from c2am_dist.report import canvas, contact_sheet
from c2am_dist.report.mask_sheet import SheetSample, draw, mask_sheet
from tests.files import ROOT
from tests.masked import Masked, masked, shape, write_masks
from tests.report import sets

SIZE = (48, 64)
CAT, DOG = 8, 12
VOC = label_maps.VOC


def _sample(**changes: Any) -> SheetSample:
    grey = np.full((*SIZE, 3), 100, np.uint8)
    values: dict[str, Any] = {
        "image_id": "x",
        "pixels": grey,
        "masks": [shape(SIZE, CAT), shape(SIZE, DOG)],
        "cue": np.eye(4, dtype=np.float32),
        "truth": shape(SIZE, CAT),
    }
    return SheetSample(**(values | changes))


def _panels(data: bytes, row: int = 0) -> list[np.ndarray]:
    """The pictures of a row of a sheet of images of SIZE."""
    sheet = images.decode(data)
    height, width = canvas.PANEL_PX
    top = 2 * canvas.LINE_PX + row * (height + canvas.LINE_PX + canvas.GAP_PX)
    num_columns = (sheet.shape[1] - canvas.GAP_PX) // (width + canvas.GAP_PX)
    lefts = [canvas.left(column) for column in range(num_columns)]
    return [sheet[top : top + height, x : x + width] for x in lefts]


def _middle(panel: np.ndarray) -> list[int]:
    return panel[panel.shape[0] // 2, panel.shape[1] // 2].tolist()


def _over_grey(class_id: int) -> list[int]:
    return np.rint(0.3 * 100 + 0.7 * label_maps.palette()[class_id]).astype(int).tolist()


def test_columns_are_image_mask_cue_mask_and_truth():
    image, first, cue, second, truth = _panels(mask_sheet([_sample()], ["CAM", "ours"], VOC))
    assert _middle(image) == [100, 100, 100]
    np.testing.assert_allclose(_middle(first), _over_grey(CAT), atol=1)
    np.testing.assert_allclose(_middle(second), _over_grey(DOG), atol=1)
    np.testing.assert_allclose(_middle(truth), _over_grey(CAT), atol=1)
    assert first[8, 8].tolist() == [100, 100, 100], "the background is the image"
    assert (cue[..., 0] == cue[..., 2]).all() and cue.min() == 0 and cue[3:-3, 3:-3].max() == 255


def test_columns_that_no_image_has_are_left_out():
    bare = _sample(cue=None, truth=None, masks=[shape(SIZE, CAT)])
    assert len(_panels(mask_sheet([bare], ["CAM"], VOC))) == 2
    both = mask_sheet([bare, _sample(masks=[None])], ["CAM"], VOC)
    assert len(_panels(both)) == 4
    gap = _panels(both, row=1)[1]
    assert (gap == 255).all(), "no mask, no picture"


def test_the_legend_has_the_classes_that_occur():
    sheet = images.decode(mask_sheet([_sample()], ["CAM", "ours"], VOC))
    below = sheet[2 * canvas.LINE_PX + canvas.PANEL_PX[0] + canvas.LINE_PX :]
    for class_id, expected in ((CAT, True), (DOG, True), (1, False), (255, False)):
        assert (below == label_maps.palette()[class_id]).all(axis=2).any() == expected


def test_samples_that_do_not_fit_the_titles_are_refused():
    with pytest.raises(ValueError, match="samples of 1 masks each"):
        mask_sheet([_sample()], ["CAM"], VOC)


def _write(root: Path) -> dict[str, Any]:
    images_of = {f"image-{i:05d}": masked(shape(SIZE, CAT), shape(SIZE, DOG)) for i in range(4)}
    images_of["image-00003"] = Masked(b"", np.zeros(SIZE, np.uint8), error="no map")
    first = write_masks(root, images_of, name="cam")
    refined = {i: each._replace(mask=shape(SIZE, DOG)) for i, each in images_of.items()}
    write_masks(root, refined, name="refined")
    grey = images.encode_png8(np.full((4, 4), 0.2, np.float32))
    made = sets.write_set(root / "c2am", 4, label=lambda row: row | {"background_cue": grey})
    masks = (str(root / "cam"), str(root / "refined"))
    return {"shards": first["images"], "masks": masks, "labels": (made.labels,)}


def test_sets_are_joined_by_image(tmp_path: Path):
    inputs = _write(tmp_path)
    draw(**inputs, image_ids=("image-00002",), output=str(tmp_path / "a.png"))
    _, cam, cue, refined, truth = _panels((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(refined, truth)
    assert np.abs(cam.astype(int) - refined).max() > 50 and _middle(cue) == [51, 51, 51]
    # Under another label map the same file means other classes.
    options = {"image_ids": ("image-00002",), "output": str(tmp_path / "b.png")}
    draw(**inputs, **options, label_map="coco")
    image, *_, truth = _panels((tmp_path / "b.png").read_bytes())
    np.testing.assert_array_equal(image, truth, "12 has no instances, and so is background")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match="mask of image 'image-00002': annotation holds 12"):
        draw(**inputs, **options, label_map=str(tmp_path / "names.txt"))


def test_images_are_drawn_from_those_that_have_a_mask(tmp_path: Path):
    inputs = _write(tmp_path)
    draw(**inputs, num_images=9, output=str(tmp_path / "all.png"))
    sheet = images.decode((tmp_path / "all.png").read_bytes())
    band = canvas.PANEL_PX[0] + canvas.LINE_PX + canvas.GAP_PX
    assert sheet.shape[0] == 2 * canvas.LINE_PX + 3 * band + canvas.LINE_PX
    draw(**inputs, num_images=9, output=str(tmp_path / "again.png"))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "all.png").read_bytes()


def test_what_does_not_fit_is_named(tmp_path: Path):
    inputs = _write(tmp_path) | {"output": str(tmp_path / "x.png")}
    with pytest.raises(ValueError, match="the shards lack the image 'gone'"):
        draw(**inputs, image_ids=("gone",))
    with pytest.raises(ValueError, match="titles: 1 of 2 sets"):
        draw(**inputs, titles=("CAM",))
    with pytest.raises(ValueError, match="num_images must be positive"):
        draw(**inputs, num_images=0)


def test_a_contact_sheet_of_masks_says_what_draws_them(tmp_path: Path):
    inputs = _write(tmp_path)
    with pytest.raises(ValueError, match=r"parquet: pseudo masks; .*mask_sheet draws"):
        contact_sheet([inputs["masks"][0]], inputs["shards"], str(tmp_path / "x.png"))


def test_the_command_draws_one(tmp_path: Path):
    inputs = _write(tmp_path)
    flags = [text for name, values in inputs.items() for text in (f"--{name}", *values)]
    command = [sys.executable, "-m", "c2am_dist.report.mask_sheet", *flags, "--titles", "CAM",
               "CAM + cue", "--output", f"{tmp_path}/out.png", "--num-images", "2"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"mask sheet: {tmp_path}/out.png\n"
    assert len(_panels((tmp_path / "out.png").read_bytes())) == 5
