"""Where a report goes: a folder of a page and its files, or one file that holds everything.

Nothing of a folder is a report before its ``index.html``, which is written last. The files a
page needs lie in a folder of their own, ``data-`` and a random name, so that a report that is
made anew stays whole until the page is replaced.
"""

import base64
import contextlib
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

from c2am_dist import storage

Render = Callable[[list[str], list[str]], bytes]
"""The page for URLs of row scripts, and for row scripts themselves."""

_INDEX = "index.html"
_DATA = re.compile(r"data-[0-9a-f]{12}/")


class Output(Protocol):
    """What a gallery hands its files to; safe to call from several threads."""

    def picture(self, number: int, data: bytes, kind: str = "") -> str:
        """Keeps a picture, JPEG or PNG, and returns the URL that the page finds it by.

        Args:
            number: of its image.
            data: the file.
            kind: tells pictures of one image apart.
        """
        ...

    def rows(self, text: str) -> None:
        """Keeps a script of rows (`page.script`)."""
        ...

    def finish(self, render: Render) -> None:
        """Publishes the page."""
        ...


def _is_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG")


def is_single(uri: str) -> bool:
    return uri.lower().endswith((".html", ".htm"))


@contextlib.contextmanager
def create(uri: str) -> Iterator[Output]:
    """Where a report is put together; what was left of one that failed is deleted.

    Args:
        uri: of a file that ends in ``.html``, or else of a folder.

    Raises:
        ValueError: the folder holds something else than a report.
    """
    if is_single(uri):
        yield _File(uri)
        return
    _refuse_others(uri)
    folder = _Folder(uri)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            storage.delete_folder(storage.join(uri, folder.name))
        raise


def _refuse_others(uri: str) -> None:
    for name in _names(uri):
        if name != _INDEX and not _DATA.match(name):
            raise ValueError(f"{uri}: holds {name}, which is no part of a report")


def _names(uri: str) -> list[str]:
    """The files below a folder, relative to it."""
    root = storage.absolute(uri).rstrip("/") + "/"
    return sorted(file.uri.removeprefix(root) for file in storage.walk(uri))


class _Folder:
    def __init__(self, uri: str) -> None:
        self.uri, self.name = uri, f"data-{uuid.uuid4().hex[:12]}"
        self.scripts: list[str] = []

    def picture(self, number: int, data: bytes, kind: str = "") -> str:
        # A thousand to a folder, which file managers and object stores' browsers can show.
        name = f"{number:07d}{kind and '-'}{kind}.{'png' if _is_png(data) else 'jpg'}"
        url = f"{self.name}/images/{number // 1000:04d}/{name}"
        storage.write_bytes(storage.join(self.uri, url), data)
        return url

    def rows(self, text: str) -> None:
        url = f"{self.name}/rows-{len(self.scripts):04d}.js"
        storage.write_bytes(storage.join(self.uri, url), text.encode())
        self.scripts.append(url)

    def finish(self, render: Render) -> None:
        storage.write_bytes(storage.join(self.uri, _INDEX), render(self.scripts, []))
        old = {name.partition("/")[0] for name in _names(self.uri) if _DATA.match(name)}
        for name in old - {self.name}:
            storage.delete_folder(storage.join(self.uri, name))


class _File:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.scripts: list[str] = []

    def picture(self, number: int, data: bytes, kind: str = "") -> str:
        suffix = "png" if _is_png(data) else "jpeg"
        return f"data:image/{suffix};base64,{base64.b64encode(data).decode()}"

    def rows(self, text: str) -> None:
        self.scripts.append(text)

    def finish(self, render: Render) -> None:
        storage.write_bytes(self.uri, render([], self.scripts))
