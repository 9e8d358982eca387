"""The folder an export is written to: many small files at once, large ones as streams."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa

from c2am_dist import storage

_WRITES_AT_ONCE = 16  # a write to an object store is mostly waiting


class Folder:
    """Files below a URI, each of which appears whole or not at all."""

    def __init__(self, uri: str, pool: ThreadPoolExecutor) -> None:
        self.uri = uri
        self._pool = pool
        self._writing = deque[Future[None]]()

    def put(self, path: str, data: bytes) -> None:
        """Writes a file some time; raises OSError of an earlier one that could not be."""
        if len(self._writing) >= _WRITES_AT_ONCE:
            self._writing.popleft().result()
        uri = storage.join(self.uri, path)
        self._writing.append(self._pool.submit(storage.write_bytes, uri, data))

    def create(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        """A stream into a file; see `storage.create`."""
        return storage.create(storage.join(self.uri, path))

    def finish(self) -> None:
        """Waits until all files are there; raises OSError of one that could not be written."""
        while self._writing:
            self._writing.popleft().result()


@contextmanager
def open_folder(uri: str) -> Iterator[Folder]:
    """A folder to write to; when the block has ended, all files are there."""
    with ThreadPoolExecutor(_WRITES_AT_ONCE) as pool:
        folder = Folder(uri, pool)
        yield folder
        folder.finish()
