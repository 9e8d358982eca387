"""Class activation maps in the ``.npy`` files of other projects, read without running a pickle.

PSA, SEAM, PuzzleCAM and AdvCAM write one dict an image with ``numpy.save``, which pickles it,
and ``numpy.load(allow_pickle=True)`` runs whatever such a file says. See ``pickles.py``.
"""

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from c2am_dist.method.pickles import Call, PickleError, read_pickle

_MAGIC = b"\x93NUMPY\x01\0"
_HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"  # one object, of whatever kind
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2
_ARRAYS = frozenset(f"{module}._reconstruct" for module in _MODULES)
_SCALARS = frozenset(f"{module}.scalar" for module in _MODULES)
_TENSOR, _STORAGE = "torch._utils._rebuild_tensor_v2", "torch.storage._load_from_bytes"
_ENCODE = "_codecs.encode"  # how pickles of protocol 2 write bytes
_ADMITTED = frozenset(
    {*_ARRAYS, *_SCALARS, "numpy.ndarray", "numpy.dtype", _ENCODE}
    | {_TENSOR, _STORAGE, "collections.OrderedDict"}
)
# At the image's resolution first; AdvCAM and PuzzleCAM also keep maps at a quarter of it.
_MAPS = ("hr_cam", "high_res", "cam")


class CamFileError(ValueError):
    """A file that holds no class activation maps as other projects write them."""


class ClassCams(NamedTuple):
    """An image's class activation maps, as ``refine.refine`` takes them."""

    keys: Int64[np.ndarray, " k+1"]
    """0 for the background, then the id, from 1, of each map's class."""
    class_activation: Float32[np.ndarray, "k h w"]
    """In [0, 1]."""


def read_cams(data: bytes) -> ClassCams:
    """The class activation maps of one image's ``.npy`` file.

    These contents are known, beside arrays also as tensors, which AdvCAM writes:

    - ``{class: map}``, classes from 0 (PSA, SEAM);
    - ``keys`` and ``hr_cam``, ``high_res`` or ``cam``, the first that is there. Where there are
      as many keys as maps, they count classes from 0 (AdvCAM); with one more, the first is the
      background's, 0, and classes count from 1 (PuzzleCAM).

    Values below 0, which SEAM's normalisation leaves, become 0: against a background in [0, 1]
    no pixel's class changes by that.

    Args:
        data: the file's bytes.

    Raises:
        CamFileError: cut off, not a pickled dict of this kind, or one that names anything but
            arrays, which is named and not called; or maps of several sizes, that are not
            finite, or above 1.
    """
    try:
        keys, maps = _keys_and_maps(_content(data))
        class_activation = _checked(maps)
        return ClassCams(_with_background(keys, len(maps)), class_activation)
    except PickleError as error:
        raise CamFileError(str(error)) from error


def _content(data: bytes) -> Mapping[Any, Any]:
    """The dict in the file, its arrays still calls."""
    if not data.startswith(_MAGIC):
        raise CamFileError(f"not an .npy file: begins with {data[:8]!r}")
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = data[start:end].strip()
    if header != _HEADER:
        raise CamFileError(f"not a pickled dict but {header[:100]!r}")
    wrapped = read_pickle(data[end:], _ADMITTED)
    match wrapped:
        case Call(function=function, state=(_, (), _, _, [dict() as content])) if (
            function in _ARRAYS
        ):
            return content
        case Call(state=(_, _, _, _, [content])):
            raise CamFileError(f"holds a {_kind(content)}, not a dict")
    raise CamFileError("holds no pickled dict")


def _keys_and_maps(content: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    if "keys" in content:
        name = next((name for name in _MAPS if name in content), None)
        if name is None:
            raise CamFileError(f"has keys but none of {', '.join(_MAPS)}")
        return _array("keys", content["keys"]), _array(name, content[name])
    if not content:
        raise CamFileError("holds no class activation map")
    keys = [_array("a key", key).tolist() if isinstance(key, Call) else key for key in content]
    if not all(type(key) is int for key in keys):
        raise CamFileError(f"a dict with neither keys nor classes: {keys}")
    maps = [
        _array(f"class {key}", value) for key, value in zip(keys, content.values(), strict=True)
    ]
    shapes = {one.shape for one in maps}
    if len(shapes) > 1:
        raise CamFileError(f"maps of several sizes: {sorted(shapes)}")
    return np.array(keys), np.stack(maps)


def _with_background(keys: np.ndarray, num_maps: int) -> Int64[np.ndarray, " _"]:
    if keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise CamFileError(f"keys must be a row of integers, got {keys.dtype} {keys.shape}")
    keys = keys.astype(np.int64)
    if len(keys) == num_maps:
        keys = np.append(0, keys + 1)
    elif len(keys) != num_maps + 1 or keys[0] != 0:
        raise CamFileError(f"{num_maps} maps do not go with the keys {keys.tolist()}")
    if (keys < 0).any() or len(set(keys.tolist())) != len(keys):
        raise CamFileError(f"classes must differ and not be negative, got {keys[1:].tolist()}")
    return keys


def _checked(maps: np.ndarray) -> Float32[np.ndarray, "k h w"]:
    if maps.ndim != 3 or maps.size == 0 or maps.dtype.kind != "f":
        raise CamFileError(f"maps must be floats, class h w, got {maps.dtype} {maps.shape}")
    maps = maps.astype(np.float32)
    if not np.isfinite(maps).all():
        raise CamFileError("a map holds NaN or infinity")
    if maps.max() > 1:
        raise CamFileError(f"maps are not normalised: they reach {maps.max()}")
    return np.maximum(maps, 0)


def _array(name: str, value: Any) -> np.ndarray:
    """The array that a value stands for; ``name`` is what errors call it."""
    try:
        match value:
            case Call(function=function, state=(_, shape, dtype, is_fortran, raw)) if (
                function in _ARRAYS
            ):
                flat = np.frombuffer(_bytes(raw), _dtype(dtype))
                return flat.reshape(shape, order="F" if is_fortran else "C")
            case Call(function=function, arguments=(dtype, raw)) if function in _SCALARS:
                return np.frombuffer(_bytes(raw), _dtype(dtype)).reshape(())
            case Call(function=function, arguments=(storage, offset, size, stride, *_)) if (
                function == _TENSOR
            ):
                return _strided(_storage(storage), offset, size, stride)
            case [*items] if items and all(type(item) is int for item in items):
                return np.array(items)
    except CamFileError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise CamFileError(f"{name}: a broken array ({error})") from error
    raise CamFileError(f"{name}: a {_kind(value)}, not an array")


def _kind(value: Any) -> str:
    return value.function if isinstance(value, Call) else type(value).__name__


def _bytes(raw: Any) -> bytes:
    match raw:
        case bytes():
            return raw
        case Call(function=function, arguments=(str() as text, "latin1")) if function == _ENCODE:
            return text.encode("latin1")
    raise CamFileError(f"an array of {type(raw).__name__}, not of numbers")


def _dtype(description: Any) -> np.dtype:
    match description:
        case Call(
            function="numpy.dtype", arguments=(str() as code, *_), state=(_, str() as order, *_)
        ) if re.fullmatch(r"[fiub][1248]", code) and order in "<>|":
            return np.dtype(order + code)
    raise CamFileError("an array of something else than numbers")


def _storage(description: Any) -> np.ndarray:
    """All numbers of a tensor's storage, which PyTorch's restricted unpickler reads."""
    match description:
        case Call(function=function, arguments=(bytes() as data,)) if function == _STORAGE:
            pass
        case _:
            raise CamFileError("a tensor without a storage")
    import torch  # here, since the files of most projects need none of it

    if data.startswith(b"PK"):
        raise CamFileError("a tensor in a zip file, which may unpack to more than its size")
    try:
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        with warnings.catch_warnings():  # that such storages will go; these files have them
            warnings.simplefilter("ignore")
            flat = torch.empty(0, dtype=storage.dtype).set_(storage.untyped())
    except Exception as error:  # as weights.read_state_dict
        raise CamFileError("a tensor that cannot be read") from error
    return (flat.float() if flat.is_floating_point() else flat).numpy()


def _strided(
    flat: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> np.ndarray:
    if max(*size, 0, np.prod(size, dtype=object)) > len(flat):
        raise CamFileError(f"a tensor of {size} in a storage of {len(flat)}")
    index = np.full(size, offset)
    for axis, step in enumerate(stride):
        ranges = np.arange(size[axis]) * step
        index += ranges.reshape([-1 if i == axis else 1 for i in range(len(size))])
    if index.size and index.min() < 0:
        raise CamFileError("a tensor that begins before its storage")
    return flat[index]
