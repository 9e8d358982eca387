"""Files of class activation maps, written by numpy as the projects do, and hostile ones."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from c2am_dist.method.cam_files import CamFileError, read_cams

MAPS = np.random.default_rng(0).random((2, 6, 8)).astype(np.float32)
LOW = torch.rand(2, 3, 4)
NPY_HEADER = 128
"""Bytes before the pickle in what :func:`saved` writes."""


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    wrapped = np.empty((), object)  # what numpy.save makes of a dict
    wrapped[()] = content
    np.save(file, wrapped, allow_pickle=True)
    return file.getvalue()


# Each with the keys 0, 2 and 7 and the maps above.
SPELLINGS = {
    "puzzle": {"keys": np.array([0, 2, 7]), "cam": LOW, "hr_cam": MAPS},
    "advcam": {"keys": torch.tensor([1, 6]), "cam": LOW, "high_res": MAPS},
    "column of a tensor": {"keys": torch.tensor([[1, 9], [6, 9]])[:, 0], "high_res": MAPS},
    "psa": {1: MAPS[0], 6: MAPS[1]},
    "numpy's integers": {np.int64(1): MAPS[0], np.int64(6): MAPS[1]},
    "list": {"keys": [0, 2, 7], "hr_cam": MAPS},
    "small integers": {"keys": np.array([1, 6], np.uint8), "hr_cam": MAPS},
    "only low": {"keys": np.array([1, 6]), "cam": torch.from_numpy(MAPS)},
    "tensor in another order": {
        "keys": np.array([1, 6]),
        "cam": torch.from_numpy(MAPS.transpose(0, 2, 1).copy()).permute(0, 2, 1),
    },
    "column-major": {1: np.asfortranarray(MAPS[0]), 6: MAPS[1]},
    "big-endian": {"keys": np.array([1, 6]), "hr_cam": MAPS.astype(">f4")},
    "double": {"keys": np.array([1, 6], ">i8"), "hr_cam": MAPS.astype(np.float64)},
}


@pytest.mark.parametrize("content", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_read(content: dict):
    keys, cams = read_cams(saved(content))
    np.testing.assert_array_equal(keys, np.array([0, 2, 7]), strict=True)
    np.testing.assert_array_equal(cams, MAPS, strict=True)


def test_every_file_is_read_as_numpy_writes_a_plain_dict():
    file = io.BytesIO()
    np.save(file, SPELLINGS["puzzle"], allow_pickle=True)  # type: ignore
    assert file.getvalue() == saved(SPELLINGS["puzzle"])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_older_pickles_are_read(protocol: int):
    wrapped = np.empty((), object)
    wrapped[()] = SPELLINGS["psa"]
    pickled = pickle.dumps(wrapped, protocol=protocol)
    for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        # Within GLOBAL a name ends at its line; STACK_GLOBAL's are preceded by their length.
        sized = bytes([len(module)]) + module
        older = pickled.replace(b"\x16numpy._core.multiarray", sized)
        older = older.replace(b"cnumpy._core.multiarray", b"c" + module)
        keys, cams = read_cams(saved(None)[:NPY_HEADER] + older)
        assert keys.tolist() == [0, 2, 7]
        np.testing.assert_array_equal(cams, MAPS)


def test_values_below_zero_become_zero():
    _, cams = read_cams(saved({"keys": np.array([1, 6]), "hr_cam": MAPS - np.float32(0.5)}))
    np.testing.assert_array_equal(cams, np.maximum(MAPS - np.float32(0.5), 0))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self._witness}",)


def test_hostile_pickle_is_refused_by_name_and_without_effect(tmp_path: Path):
    witness = tmp_path / "witness"
    for content in (
        {"keys": Hostile(witness), "hr_cam": MAPS},
        {"keys": np.array([1, 6]), "hr_cam": MAPS, "unused": Hostile(witness)},
        {Hostile(witness): MAPS[0]},
        {1: np.array([Hostile(witness)])},
        Hostile(witness),
    ):
        with pytest.raises(CamFileError, match=r"names posix\.system, which is refused"):
            read_cams(saved(content))
        assert not witness.exists()
    np.load(io.BytesIO(saved(Hostile(witness))), allow_pickle=True)
    assert witness.exists()  # so it would have worked


def test_hostile_storage_of_a_tensor_is_refused_without_effect(tmp_path: Path):
    witness = tmp_path / "witness"

    class Tensor:
        def __reduce__(self) -> tuple:
            data = pickle.dumps(Hostile(witness), protocol=2)
            storage = _LoadedFromBytes(data)
            return torch._utils._rebuild_tensor_v2, (storage, 0, (2,), (1,), False, {})

    with pytest.raises(CamFileError, match="tensor that cannot be read"):
        read_cams(saved({"keys": Tensor(), "hr_cam": MAPS}))
    assert not witness.exists()


class _LoadedFromBytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple:
        return torch.storage._load_from_bytes, (self._data,)


def storage_bytes(*values: int) -> bytes:
    return torch.tensor(values).storage().__reduce__()[1][0]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (3,), (1,)),
        (0, (10**12,), (0,)),
        (0, (2, 10**12), (0, 0)),
        (0, (0, 10**12), (0, 0)),
        (1, (2,), (1,)),
        (-1, (2,), (1,)),
        (0, (2,), (10**30,)),
        (0, (-1,), (1,)),
        (0, "2", (1,)),
    ],
)
def test_tensor_beyond_its_storage_is_refused(offset: int, size: Any, stride: tuple):
    class Tensor:
        def __reduce__(self) -> tuple:
            storage = _LoadedFromBytes(storage_bytes(1, 6))
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    with pytest.raises(CamFileError):
        read_cams(saved({"keys": Tensor(), "hr_cam": MAPS}))


def test_tensor_that_unpacks_to_more_than_its_size_is_refused():
    file = io.BytesIO()
    torch.save(torch.tensor([1, 6]), file)

    class Tensor:
        def __reduce__(self) -> tuple:
            storage = _LoadedFromBytes(file.getvalue())
            return torch._utils._rebuild_tensor_v2, (storage, 0, (2,), (1,), False, {})

    with pytest.raises(CamFileError, match="zip file"):
        read_cams(saved({"keys": Tensor(), "hr_cam": MAPS}))


@pytest.mark.parametrize(
    "content",
    [SPELLINGS["advcam"], SPELLINGS["psa"]],
    ids=["advcam", "psa"],
)
def test_truncated_file_is_refused_wherever_it_ends(content: dict):
    data = saved(content)
    for end in (*range(0, len(data), 11), len(data) - 1):
        with pytest.raises(CamFileError):
            read_cams(data[:end])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("name", ["advcam", "psa"])
def test_damaged_files_lead_to_no_other_error(name: str):
    rng, data = np.random.default_rng(0), saved(SPELLINGS[name])
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            read_cams(bytes(damaged))
        except CamFileError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a dict"),
        (MAPS, "holds a numpy._core.multiarray._reconstruct, not a dict"),
        ("text", "holds a str, not a dict"),
        ({}, "no class activation map"),
        ({"a": MAPS}, "neither keys nor classes"),
        ({True: MAPS[0]}, "neither keys nor classes"),
        ({np.float32(1): MAPS[0]}, "neither keys nor classes"),
        ({"keys": np.array([1, 6])}, "none of hr_cam, high_res, cam"),
        ({"keys": "16", "hr_cam": MAPS}, "keys: a str, not an array"),
        ({"keys": [1, "6"], "hr_cam": MAPS}, "keys: a list, not an array"),
        ({"keys": np.array(["1", "6"]), "hr_cam": MAPS}, "something else than numbers"),
        ({"keys": np.array([1, None]), "hr_cam": MAPS}, "an array of list, not of numbers"),
        ({"keys": np.array([1.0, 6.0]), "hr_cam": MAPS}, "row of integers"),
        ({"keys": np.array([[1, 6]]), "hr_cam": MAPS}, "row of integers"),
        ({"keys": np.array([1]), "hr_cam": MAPS}, r"2 maps do not go with the keys \[1\]"),
        ({"keys": np.array([1, 2, 7]), "hr_cam": MAPS}, "do not go with the keys"),
        ({"keys": np.array([6, 6]), "hr_cam": MAPS}, "classes must differ"),
        ({"keys": np.array([1, -2]), "hr_cam": MAPS}, "classes must differ and not be negative"),
        ({"keys": np.array([0, 2, 0]), "hr_cam": MAPS}, "classes must differ"),
        ({-1: MAPS[0]}, "classes must differ and not be negative"),
        ({1: MAPS[0], 6: MAPS[1, :3]}, r"several sizes: \[\(3, 8\), \(6, 8\)\]"),
        ({"keys": np.array([1, 6]), "hr_cam": MAPS[0]}, "maps must be floats, class h w"),
        ({"keys": np.array([1, 6]), "hr_cam": MAPS.astype(int)}, "maps must be floats"),
        ({"keys": np.array([1, 6]), "hr_cam": MAPS[:, :0]}, "maps must be floats, class h w"),
        ({"keys": np.array([1, 6]), "hr_cam": MAPS * np.nan}, "NaN or infinity"),
        ({"keys": np.array([1, 6]), "hr_cam": MAPS * 255}, "not normalised"),
        ({"keys": {1, 6}, "hr_cam": MAPS}, "EMPTY_SET, which is refused"),
        ({"keys": slice(1), "hr_cam": MAPS}, r"names builtins\.slice, which is refused"),
        ({"keys": [0] * 20_001, "hr_cam": MAPS}, "more than 20000 instructions"),
    ],
)
def test_other_contents_are_refused(content: Any, message: str):
    with pytest.raises(CamFileError, match=message):
        read_cams(saved(content))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an .npy file"),
        (b"PK\x03\x04", "not an .npy file: begins with b'PK"),
        (saved({})[:6] + b"\x07\x00" + saved({})[8:], "not an .npy file"),
        (saved({})[:NPY_HEADER], "broken pickle"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str):
    with pytest.raises(CamFileError, match=message):
        read_cams(data)


def test_plain_array_is_refused():
    file = io.BytesIO()
    np.save(file, MAPS)
    with pytest.raises(CamFileError, match=r"not a pickled dict but .*'<f4'"):
        read_cams(file.getvalue())
