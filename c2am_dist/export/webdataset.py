"""WebDataset tars of images, each with a JSON file of its boxes."""

import contextlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator

from c2am_dist import __version__
from c2am_dist.config import ExportConfig
from c2am_dist.export.folder import Folder
from c2am_dist.export.samples import Sample

_MIB = 2**20


def write(samples: Iterable[Sample], folder: Folder, config: ExportConfig) -> None:
    """Writes ``SPLIT-000000.tar`` and so on, each ended once it has reached ``tar_mib``.

    A sample is ``KEY.jpg`` (or ``.png``) and ``KEY.json`` with ``image_id``, ``width``,
    ``height``, ``boxes`` (x0 y0 x1 y1, half-open pixels), ``box_labels``, ``scores`` and
    provenance. Samples keep the order of the labels: shuffle when reading.
    """
    left = iter(samples)
    following = next(left, None)
    for number in itertools.count():
        if following is None:
            return
        num_bytes = 0
        with _tar(folder, f"{config.split}-{number:06d}.tar") as tar:
            while following is not None and num_bytes < config.tar_mib * _MIB:
                num_bytes += _add(tar, following, config.category_name)
                following = next(left, None)


@contextlib.contextmanager
def _tar(folder: Folder, path: str) -> Iterator[tarfile.TarFile]:
    with folder.create(path) as stream:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            yield tar


def _add(tar: tarfile.TarFile, sample: Sample, category: str) -> int:
    """Adds a sample; returns its bytes."""
    assert sample.picture is not None  # ExportConfig refuses it
    content = {
        "image_id": sample.image_id,
        "width": sample.size[1],
        "height": sample.size[0],
        "boxes": [box[:4] for box in sample.boxes],
        "box_labels": [category] * len(sample.boxes),
        "scores": [box.score for box in sample.boxes],
        "checkpoint_sha256": sample.checkpoint_sha256,
        "package_version": __version__,
    }
    text = json.dumps(content).encode()
    for name, data in ((sample.file_name, sample.picture.data), (f"{sample.name}.json", text)):
        member = tarfile.TarInfo(name)  # of no time and no owner, so that bytes repeat
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return len(sample.picture.data) + len(text)
