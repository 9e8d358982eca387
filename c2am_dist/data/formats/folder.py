"""A plain folder of images, with or without a subfolder for each class."""

import posixpath

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats.items import IMAGE_SUFFIXES, Blob, Item


def list_items(config: PrepareConfig) -> list[Item]:
    """Images of folders, globs and files; the first subfolder's name is the label.

    image_id is the path below the folder (for a glob, below its fixed part) without the
    extension.
    """
    roots = {uri: storage.root(uri).rstrip("/") + "/" for uri in config.input}
    storage.expand(config.input, suffix=IMAGE_SUFFIXES)  # refuses files named twice
    items = []
    for uri, root in roots.items():
        for file in storage.expand([uri], suffix=IMAGE_SUFFIXES):
            path = file.uri.removeprefix(root)
            label, _, rest = path.partition("/")
            items.append(
                Item(
                    image_id=posixpath.splitext(path)[0],
                    image=Blob(file.uri, file.size_bytes),
                    label=label if rest else None,
                )
            )
    return items
