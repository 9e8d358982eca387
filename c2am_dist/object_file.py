"""An object as a file of Python's, for readers that want one (``pa.PythonFile``)."""

import io
from collections.abc import Callable

TAIL_BYTES = 64 * 2**10
"""Fetched when a file is opened, with its size: what Parquet's reader looks at first."""


class ObjectFile:
    """A file to read of which each read is one request, but for what its tail holds.

    Args:
        size_bytes: of the whole file.
        tail: its last bytes.
        read_range: given an offset and a number of bytes, exactly these.
    """

    def __init__(self, size_bytes: int, tail: bytes, read_range: Callable[[int, int], bytes]):
        self.closed = False
        self._size_bytes, self._tail, self._read_range = size_bytes, tail, read_range
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = starts[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size_bytes: int = -1) -> bytes:
        start, left = self._position, max(0, self._size_bytes - self._position)
        size_bytes = left if size_bytes < 0 else min(size_bytes, left)
        self._position += size_bytes
        in_tail = start - (self._size_bytes - len(self._tail))
        if in_tail >= 0:
            return self._tail[in_tail : in_tail + size_bytes]
        return self._read_range(start, size_bytes)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
