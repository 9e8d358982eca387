from pathlib import Path

import numpy as np
import pytest
import yaml

from c2am_dist.method.images import decode_mask
from c2am_dist.method.label_maps import COCO, VOC, LabelMap, encode_mask, from_names, palette


def test_names_and_ids_lead_to_each_other():
    for label_map in (VOC, COCO):
        assert [label_map.id_of(name) for name in label_map.names] == list(range(len(label_map)))
        assert [label_map.name_of(i) for i in range(len(label_map))] == list(label_map.names)
    assert (len(VOC), len(COCO)) == (21, 81)
    assert VOC.id_of("person") == 15 and COCO.id_of("toothbrush") == 80


def test_unknown_names_and_ids_are_refused():
    with pytest.raises(ValueError, match="'airplane'; there are background, aeroplane"):
        VOC.id_of("airplane")
    for class_id in (-1, 21, 255):
        with pytest.raises(ValueError, match=f"{class_id} is none of 21"):
            VOC.name_of(class_id)


def test_coco_is_named_and_numbered_as_its_files_are(shared: Path):
    folder = shared / "data" / "coco128"
    names = yaml.safe_load((folder / "classes.yaml").read_text())["names"]
    assert list(COCO.names[1:]) == [names[i] for i in range(80)]
    published = yaml.safe_load((folder / "mask_classes.yaml").read_text())["classes"]
    used = {i: name for i, name in zip(COCO.published_ids, COCO.names, strict=True) if i}
    things = {i: name for i, name in published.items() if 1 <= i <= 90}
    assert things and things.items() <= used.items()


def test_coco_ids_are_those_of_its_categories():
    assert COCO.published_ids[80] == 90 and len(COCO.published_ids) == 81
    ids = dict(zip(COCO.names, COCO.published_ids, strict=True))
    assert (ids["stop sign"], ids["parking meter"], ids["backpack"], ids["tv"]) == (13, 14, 27, 72)


def test_masks_of_published_ids_become_contiguous_and_return():
    published = np.array([[0, 1, 13, 90], [12, 92, 184, 255]], np.uint8)
    mask = COCO.from_annotation(published)
    assert mask.tolist() == [[0, 1, 12, 80], [0, 0, 0, 255]]
    assert COCO.to_published(mask).tolist() == [[0, 1, 13, 90], [0, 0, 0, 255]]
    every = np.arange(21, dtype=np.int64)[None]
    assert VOC.to_published(every).tolist() == every.tolist()


@pytest.mark.parametrize("stray", [-1, 81, 254, 300])
def test_id_outside_the_label_map_is_refused(stray: int):
    with pytest.raises(ValueError, match=f"mask holds {stray}"):
        COCO.to_published(np.array([[0, stray]]))


@pytest.mark.parametrize(
    ("label_map", "known"),
    [(VOC, {*range(21), 255}), (COCO, {*range(201), 255}), (from_names(["cat"]), {0, 1, 255})],
)
def test_annotated_ids_are_known_or_refused(label_map: LabelMap, known: set[int]):
    for i in range(256):
        mask = np.array([[0, i]], np.uint8)
        if i in known:
            assert label_map.from_annotation(mask)[0, 1] in (*range(len(label_map)), 255)
        else:
            with pytest.raises(ValueError, match=f"annotation holds {i}, which is no id"):
                label_map.from_annotation(mask)


def voc_colour(class_id: int) -> tuple[int, ...]:
    """The development kit's loop, written out for one id."""
    colour, rest = [0, 0, 0], class_id
    for j in range(8):
        for channel in range(3):
            colour[channel] |= ((rest >> channel) & 1) << (7 - j)
        rest >>= 3
    return tuple(colour)


def test_palette_is_vocs():
    assert [tuple(row) for row in palette().tolist()] == [voc_colour(i) for i in range(256)]
    # As known by everyone who has looked at such a mask: person, tvmonitor, void.
    assert palette()[[0, 1, 15, 20, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192])
    ]
    with pytest.raises(ValueError, match="read-only"):
        palette()[0] = 1


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize("ids", [range(256), [7], [0, 20, 255]])
def test_mask_survives_a_palette_png(ids: list[int], kind: type):
    mask = np.array([list(ids)], kind)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask.astype(np.uint8))


def test_png_shows_vocs_colours():
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(encode_mask(np.array([[0, 15, 255]]))))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0], palette()[[0, 15, 255]])


@pytest.mark.parametrize("stray", [-1, 256])
def test_mask_that_does_not_fit_a_png_is_refused(stray: int):
    with pytest.raises(ValueError, match=f"got {stray}"):
        encode_mask(np.array([[0, stray]]))
    with pytest.raises(ValueError, match="at least one pixel"):
        encode_mask(np.zeros((0, 3), np.uint8))


def test_label_maps_of_ones_own_work_alike():
    own = LabelMap(names=("background", "cell"), published_ids=(10, 200))
    assert own.from_annotation(np.array([[10, 200, 0]], np.uint8)).tolist() == [[0, 1, 0]]


def test_classes_of_one_s_own_count_from_one():
    label_map = from_names(["cat", " polar bear "])
    assert label_map.names == ("background", "cat", "polar bear")
    assert label_map.published_ids == (0, 1, 2)
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    assert label_map.from_annotation(mask).tolist() == [[0, 1, 2, 255]]
    assert len(from_names([str(n) for n in range(254)])) == 255


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "1 to 254 classes, a line each, not 0"),
        ([str(n) for n in range(255)], "not 255"),
        (["cat", " ", "dog"], "line 2 is blank"),
        (["background", "cat"], "line 1 is 'background', which is id 0"),
        (["cat", "dog", "cat "], "line 3: class 'cat' comes twice"),
    ],
)
def test_lines_that_are_no_label_map_are_named(lines: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        from_names(lines)
