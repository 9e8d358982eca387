"""WebDataset tars: samples are members that share a name up to its first dot.

Only the members' headers (and small texts) are read here; images are read later from their
place in the tar, so tars are planned, shuffled and cut into shards like files.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from c2am_dist import names, storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats.items import IMAGE_SUFFIXES, Blob, Boxes, Edges, Item
from c2am_dist.storage import File

_TEXTS = ("cls", "json", "txt")
_MASK = "mask.png"
_MAX_TEXT_BYTES = 16 * 2**20  # of a sample's label and boxes
# A tar in an object store is read through in large pieces: a request for each header would
# take longer than the images between them.
_REMOTE_BUFFER_BYTES = 8 * 2**20


def list_items(config: PrepareConfig) -> list[Item]:
    """The samples of tars (files, folders of them, globs).

    image_id is the sample's key (``__key__``, folders in the tar included). The label is
    ``cls``, else ``label`` of ``json``, else the text of ``txt``; ``boxes`` and ``box_labels``
    of ``json`` are pixels of the image, x0 y0 x1 y1, half-open; ``mask.png`` is the mask.

    Raises:
        ValueError: not an uncompressed tar, a member that is no plain file or whose name
            leads out of the tar, a sample without image or with two, or a text that cannot
            be read; the message names the tar and the member or sample.
    """
    tars = storage.expand(config.input, suffix=".tar")
    with ThreadPoolExecutor(8) as pool:
        return [item for items in pool.map(_list_tar, tars) for item in items]


@storage.retrying
def _list_tar(tar: File) -> list[Item]:
    is_local = isinstance(storage.resolve(tar.uri)[0], pafs.LocalFileSystem)
    buffer_bytes = io.DEFAULT_BUFFER_SIZE if is_local else _REMOTE_BUFFER_BYTES
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    with storage.open_input(tar.uri) as raw, io.BufferedReader(raw, buffer_bytes) as file:
        texts: dict[str, dict[str, bytes]] = {}
        for member in _files_in(tar.uri, file):
            key, kind = _split_name(member.name)
            samples.setdefault(key, {})[kind] = member
            if kind in _TEXTS:
                file.seek(member.offset_data)
                texts.setdefault(key, {})[kind] = file.read(member.size)
    return [_item(tar.uri, key, kinds, texts.get(key, {})) for key, kinds in samples.items()]


def _files_in(uri: str, file: io.BufferedReader) -> Iterator[tarfile.TarInfo]:
    """The members of a tar that are files, each checked before anything is done with it."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as members:
            for member in members:
                names.check(member.name, "member")
                if member.isdir():
                    continue
                # A hole takes no room in the tar and any amount of it once it is read.
                if not member.isreg() or member.issparse():
                    raise ValueError(f"member {member.name!r} is a link, a device or has holes")
                if member.size < 0:  # the next header would be looked for before this one
                    raise ValueError(f"member {member.name!r} has {member.size} bytes")
                if _split_name(member.name)[1] in _TEXTS and member.size > _MAX_TEXT_BYTES:
                    raise ValueError(
                        f"member {member.name!r} has more than {_MAX_TEXT_BYTES} bytes"
                    )
                yield member
    except tarfile.TarError as error:
        raise ValueError(f"{uri}: not an uncompressed tar ({error})") from error
    except (ValueError, MemoryError, RecursionError) as error:  # ours, or of a senseless header
        raise ValueError(f"{uri}: {str(error) or 'a header claims too much'}") from error


def _split_name(name: str) -> tuple[str, str]:
    """``a/b.c.png`` -> ``a/b`` and ``c.png``."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, kind = base.partition(".")
    return folder + slash + key, kind.lower()


def _item(uri: str, key: str, members: dict[str, tarfile.TarInfo], texts: dict[str, bytes]) -> Item:
    images = [kind for kind in members if "." + kind in IMAGE_SUFFIXES]
    if len(images) != 1:
        kinds = ", ".join(sorted(members))
        what = "two images" if images else "no image"
        raise ValueError(f"{uri}: sample {key!r} holds {what} (its members: {kinds})")
    try:
        label, boxes = _annotation(texts)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{uri}: sample {key!r}: unreadable annotation ({error})") from error
    return Item(
        image_id=key,
        image=_blob(uri, members[images[0]]),
        label=label,
        boxes=boxes,
        mask=_blob(uri, members[_MASK]) if _MASK in members else None,
    )


def _blob(uri: str, member: tarfile.TarInfo) -> Blob:
    return Blob(uri, member.size, member.offset_data)


def _annotation(texts: dict[str, bytes]) -> tuple[str | None, Boxes | None]:
    content = json.loads(texts["json"]) if "json" in texts else None
    content = content if isinstance(content, dict) else {}
    label: object = content.get("label")
    for kind in ("txt", "cls"):  # the more specific wins
        if kind in texts and (label is None or kind == "cls"):
            label = texts[kind].decode().strip() or None
    boxes = None
    if content.get("boxes") is not None:
        edges: list[Edges] = []
        for x0, y0, x1, y1 in content["boxes"]:
            edges.append((float(x0), float(y0), float(x1), float(y1)))
        labels = content.get("box_labels") or [None] * len(edges)
        if len(labels) != len(edges):
            raise ValueError(f"{len(edges)} boxes and {len(labels)} box_labels")
        boxes = Boxes(tuple(edges), tuple(None if n is None else str(n) for n in labels))
    return None if label is None else str(label), boxes
