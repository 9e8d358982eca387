"""Labels, or pseudo masks, and the images they are of, as a data set in another tool's format.

One process reads label rows and images in order and writes as it goes; memory does not grow with
the set, but for eight bytes an image (and four a box with a quantile) to begin with. The folder
begins with ``_plan.json`` and ends with ``_SUCCESS``, as a label set does, and the same labels
and settings give the same bytes.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pyarrow as pa
from tqdm import tqdm

from c2am_dist import __version__, schema, storage
from c2am_dist.config import ExportConfig, digest
from c2am_dist.data import label_set, mask_sets, shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.export import (
    coco,
    coco_masks,
    cue_files,
    label_studio,
    mask_files,
    mask_samples,
    masks,
    samples,
    voc,
    webdataset,
    yolo,
)
from c2am_dist.export.cue_files import CueExportReport
from c2am_dist.export.folder import Folder, open_folder
from c2am_dist.export.mask_samples import MaskSample
from c2am_dist.export.pictures import Pictures
from c2am_dist.export.samples import Sample
from c2am_dist.method.label_maps import LabelMap
from c2am_dist.storage import File

_WRITERS: dict[str, Callable[[Iterable[Sample], Folder, ExportConfig], None]] = {
    "coco": coco.write,
    "yolo": yolo.write,
    "voc": voc.write,
    "label-studio": label_studio.write,
    "fiftyone": coco.write_fiftyone,
    "webdataset": webdataset.write,
    "masks": masks.write,
}
_MASK_WRITERS: dict[str, Callable[[Iterable[MaskSample], Folder, ExportConfig, LabelMap], None]] = {
    "voc": mask_files.write_voc,
    "coco": coco_masks.write,
    "masks": mask_files.write_folder,
}
FORMAT = 1
"""Raised whenever the content of ``_SUCCESS`` changes meaning; see CHANGELOG.md."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """How an export went."""

    num_images: int
    """Exported, those without boxes included."""
    num_boxes: int
    num_empty: int
    """Exported images without a box."""
    num_left_out: int
    """Images not exported since no box is left, or none was found (``keep_empty``)."""
    num_errors: int
    """Images not exported since they could not be labeled, or not be written upright."""
    num_rewritten: int
    """Exported images whose bytes are not the shard's: turned upright, or made a PNG."""
    min_score: float
    """The least score of a box to be kept, as the quantile has it where there is one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MaskExportReport:
    """How an export of pseudo masks went."""

    num_images: int
    """Exported, those whose mask is all background included."""
    num_empty: int
    """Exported images whose mask is all background."""
    num_left_out: int
    """Images not exported since their mask is all background (``keep_empty``)."""
    num_errors: int
    """Images not exported since they have no mask, or could not be written upright."""
    num_rewritten: int
    """Exported images whose bytes are not the shard's: turned upright, or made a PNG."""


AnyReport = TypeVar("AnyReport", ExportReport, MaskExportReport, CueExportReport)
_Sample = TypeVar("_Sample")


def export(config: ExportConfig) -> ExportReport | MaskExportReport | CueExportReport:
    """Writes the labels, or the pseudo masks, in ``config.format``; needs no Ray.

    A folder that a killed export has left is written again; one that is finished stays.

    Raises:
        FileNotFoundError: a URI names nothing.
        ValueError: a field is missing, the labels are unfinished, hold an image twice, or are
            not of these images, nothing is left to export, or the output holds other files; a
            format or a field means nothing with pseudo masks or cues, or there are no cues; the
            message names the culprit.
    """
    config.check_complete()
    label_files = label_set.expand(config.labels, allow_incomplete=config.allow_incomplete)
    holds_masks = mask_sets.holds_masks(label_files)
    if holds_masks:
        mask_samples.check(config)
    elif config.format == "cues":
        cue_files.check(config)
    image_files = storage.expand(config.images) if config.with_images else []
    success = storage.join(config.output, label_set.SUCCESS)
    label_set.begin(config.output, _identity(config, label_files, image_files))
    storage.sweep(config.output)
    if storage.exists(success):
        print(f"{config.output}: already finished", flush=True)
        if holds_masks:
            return _finished(success, MaskExportReport)
        if config.format == "cues":
            return _finished(success, CueExportReport)
        return _finished(success, ExportReport)
    write = _write_cues if config.format == "cues" else _write
    report = (_write_masks if holds_masks else write)(config, label_files)
    content = {"format": FORMAT, "export": config.format, **dataclasses.asdict(report)}
    storage.write_bytes(success, (json.dumps(content, indent=1) + "\n").encode())
    return report


def _write(config: ExportConfig, label_files: Sequence[File]) -> ExportReport:
    columns = (*samples.COLUMNS, *(samples.MAP_COLUMNS if config.format == "masks" else ()))
    groups = _groups(config, label_files, columns, schema.LABELS)
    selection = samples.select(groups, config)
    pictures = Pictures(config.images) if config.with_images else None
    counts = Counter[str]()
    with open_folder(storage.absolute(config.output)) as folder:
        stream = samples.stream(groups, config, selection, pictures, counts)
        _WRITERS[config.format](_shown(stream, groups), folder, config)
    return ExportReport(
        num_images=counts["images"],
        num_boxes=counts["boxes"],
        num_empty=counts["empty"],
        num_left_out=counts["left_out"],
        num_errors=counts["errors"],
        num_rewritten=counts["rewritten"],
        min_score=selection.min_score,
    )


def _write_masks(config: ExportConfig, label_files: Sequence[File]) -> MaskExportReport:
    label_map = mask_sets.read_label_map(label_files)
    groups = _groups(config, label_files, mask_samples.COLUMNS, schema.PSEUDO_MASKS)
    pictures = Pictures(config.images) if config.with_images else None
    counts = Counter[str]()
    with open_folder(storage.absolute(config.output)) as folder:
        stream = mask_samples.stream(groups, config, len(label_map), pictures, counts)
        _MASK_WRITERS[config.format](_shown(stream, groups), folder, config, label_map)
    return MaskExportReport(
        num_images=counts["images"],
        num_empty=counts["empty"],
        num_left_out=counts["left_out"],
        num_errors=counts["errors"],
        num_rewritten=counts["rewritten"],
    )


def _write_cues(config: ExportConfig, label_files: Sequence[File]) -> CueExportReport:
    groups = _groups(config, label_files, cue_files.COLUMNS, schema.LABELS)
    pictures = Pictures(config.images) if config.with_images else None
    counts = Counter[str]()
    with open_folder(storage.absolute(config.output)) as folder:
        cue_files.write(_shown(cue_files.stream(groups, pictures, counts), groups), folder)
    return CueExportReport(
        num_images=counts["images"],
        num_enlarged=counts["enlarged"],
        num_left_out=counts["left_out"],
        num_errors=counts["errors"],
        num_rewritten=counts["rewritten"],
    )


def _groups(
    config: ExportConfig, files: Sequence[File], columns: Sequence[str], expected: pa.Schema
) -> list[RowGroup]:
    """The row groups of label files; refuses files without a row, and an image with two."""
    uris = [file.uri for file in files]
    groups = shards.index(uris, columns=columns, expected=expected, allow_empty=True)
    if not groups:
        raise ValueError(f"{', '.join(config.labels)}: the label files hold no row")
    samples.refuse_duplicates(groups)
    return groups


def _shown(stream: Iterable[_Sample], groups: Sequence[RowGroup]) -> Iterable[_Sample]:
    """The stream, with a progress bar on a terminal."""
    num_rows = sum(group.num_rows for group in groups)
    return tqdm(stream, total=num_rows, unit=" images", disable=None)


def _identity(
    config: ExportConfig, label_files: Sequence[File], image_files: Sequence[File]
) -> dict[str, str]:
    """What two jobs must share to write the same files."""
    settings = dataclasses.replace(config, labels=(), images=(), output="")
    inputs = [*label_files, *image_files]
    listing = "".join(f"{file.uri} {file.size_bytes}\n" for file in inputs)
    return {
        "export": config.format,
        "config_sha256": digest(settings),
        "input_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "package_version": __version__,
    }


def _finished(success: str, kind: type[AnyReport]) -> AnyReport:
    content = storage.read_json(success)
    try:
        fields = {field.name: content[field.name] for field in dataclasses.fields(kind)}
    except KeyError as error:
        raise ValueError(f"{success}: not that of an export ({error})") from error
    return kind(**fields)
