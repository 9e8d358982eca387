"""COCO's run-length encoding of a mask, as its own tools read it.

Written here since it is short: pycocotools, which would do it, is compiled and needed for nothing
else. Its reader gets the same masks back (tested).
"""

from collections.abc import Iterable

import numpy as np


def encode(inside: np.ndarray, top: int, left: int, size: tuple[int, int]) -> str:
    """The compressed counts of a mask that is empty outside a part of the image.

    Args:
        inside: the part, bool, h w, with a pixel that is set.
        top: its first row in the image.
        left: its first column.
        size: height and width of the image.
    """
    height, width = size
    columns, rows = np.nonzero(inside.T)  # by columns, in which pixels are counted
    places = (left + columns) * height + top + rows
    is_first = np.diff(places, prepend=-2) != 1
    starts = places[is_first]
    ends = places[np.append(is_first[1:], True)] + 1
    # Turns of unset and set pixels, unset first.
    edges = np.stack([starts, ends], axis=1).ravel()
    runs = np.diff(edges, prepend=0, append=height * width)
    return _compress(runs[:-1] if runs[-1] == 0 else runs)


def _compress(runs: Iterable[int]) -> str:
    """Runs as text: from the fourth on each less the last but one, in groups of five bits.

    The lowest group comes first, a sixth bit says that another follows, and the fifth bit of the
    last is the sign. Source: pycocotools' maskApi.c, rleToString.
    """
    text, before = bytearray(), list[int]()
    for run in map(int, runs):
        value = run - before[-2] if len(before) > 2 else run
        before.append(run)
        while True:
            group, value = value & 31, value >> 5
            is_last = value == (-1 if group & 16 else 0)
            text.append(48 + group + (0 if is_last else 32))
            if is_last:
                break
    return text.decode()
