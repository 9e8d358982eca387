import numpy as np
import pyarrow as pa
import pytest

from c2am_dist.labeling.batches import Batch, pack, split, unpack


def batch(num_images: int, first: int = 0) -> Batch:
    ids = np.array([f"image-{i}" for i in range(first, first + num_images)], dtype=object)
    pixels = np.random.default_rng(first).integers(0, 256, (num_images, 5, 4, 3), np.uint8)
    return {
        "image_id": ids,
        "error": np.array([""] * num_images),
        "height": np.arange(num_images, dtype=np.int32),
        "pixels_0": pixels,
        "activation": pixels[..., 0].astype(np.float32) / 255,
    }


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        if array.dtype.kind not in "OU":
            assert found[name].dtype == array.dtype


@pytest.mark.parametrize("num_images", [1, 7])
def test_a_batch_is_a_row_and_comes_back(num_images: int):
    packed = pack(batch(num_images))
    assert packed.num_rows == 1
    (found,) = unpack(packed)
    assert_same(found, batch(num_images))


def test_rows_of_different_sizes_join_and_are_cut_as_ray_data_does():
    rows = pa.concat_tables([pack(batch(4)), pack(batch(2, first=4)), pack(batch(4, first=6))])
    found = list(unpack(rows.combine_chunks()))
    for each, expected in zip(found, [batch(4), batch(2, 4), batch(4, 6)], strict=True):
        assert_same(each, expected)
    (last,) = unpack(rows.slice(2, 1))
    assert_same(last, batch(4, 6))


def test_pixels_are_not_copied():
    (found,) = unpack(pack(whole := batch(3)))
    assert np.shares_memory(found["pixels_0"], whole["pixels_0"])


def test_files_come_back_byte_for_byte():
    files = np.array([b"a\x00\x00", b"", b"\xff"], dtype=object)
    (found,) = unpack(pack({"image": files}))
    assert found["image"].tolist() == files.tolist()


def test_a_batch_is_split_into_its_images_which_make_it_up_again():
    whole = batch(3)
    rows = pa.concat_tables(map(pack, split(whole)))
    parts = list(unpack(rows))
    assert [len(part["image_id"]) for part in parts] == [1, 1, 1]
    assert_same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_an_id_that_is_none_stays_none():
    ids = np.array(["a", None], dtype=object)
    (found,) = unpack(pack({"image_id": ids}))
    assert found["image_id"].tolist() == ["a", None]
