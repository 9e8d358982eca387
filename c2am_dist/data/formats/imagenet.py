"""ILSVRC2012 CLS-LOC: class folders and XML boxes, and the flat validation folder."""

import csv
import dataclasses
import functools
import io
import posixpath
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from c2am_dist import storage
from c2am_dist.config import PrepareConfig
from c2am_dist.data.formats.items import (
    Blob,
    Boxes,
    BoxFile,
    Edges,
    Item,
    files_below,
    images_in,
    read_lines,
    read_table,
    stem,
)
from c2am_dist.data.formats.pascal import parse_xml

_CLASS = re.compile(r"n\d{8}")  # a WordNet id
_SPLITS = ("train", "val", "test")
_LIST = re.compile(r"(?P<base>(?:.*/)?)ImageSets/CLS-LOC/(?P<split>train|val|test)(?:_\w+)?\.txt")
_TRUTH_FILES = (
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
    "map_clsloc.txt",
)

# Boxes begin at 0 in many files and reach the width in others, so as everyone else does we
# take the numbers as edges (process_bounding_boxes.py of TensorFlow's models, wsolevaluation).
_parse = functools.partial(parse_xml, first_pixel=0)


def list_items(config: PrepareConfig) -> list[Item]:
    """Images of the Kaggle tree, of train and val folders, or of class folders themselves.

    image_id is the file's stem, the label its WordNet id: the class folder's name, else (val)
    that of LOC_val_solution.csv, else of the development kit's ground truth with
    map_clsloc.txt, else of the image's own XML. XML files are found by their stem, below the
    input or ``config.annotations``. An image without XML has boxes null. An image that a list of
    ``ImageSets`` names and that is not there is an item all the same if others of its folder
    are: a part of the set may be all there is.
    """
    items = []
    for uri in config.input:
        files = files_below(uri)
        extra = _annotation_files(config.annotations)
        xml = _xml_by_stem({**files, **extra})
        known = _validation_truth({**files, **extra})
        unlabeled = []
        for path, blob in {**images_in(files), **_listed_absent(uri, files)}.items():
            image_id, folders = stem(path), path.split("/")[:-1]
            label = folders[-1] if folders and _CLASS.fullmatch(folders[-1]) else None
            label_of_truth, boxes = known.get(image_id, (None, None))
            if image_id in xml:
                boxes = BoxFile(xml[image_id], _parse)
            item = Item(
                image_id=image_id,
                image=blob,
                label=label or label_of_truth,
                boxes=boxes,
                split=next((part for part in folders if part in _SPLITS), None),
            )
            (items if item.label or item.boxes is None else unlabeled).append(item)
        items += _labeled_by_xml(unlabeled)
    return items


def _listed_absent(uri: str, files: dict[str, Blob]) -> dict[str, Blob]:
    """Images that ``ImageSets/CLS-LOC`` names beside others of their folder, and are not there."""
    root = storage.absolute(uri)
    there = {posixpath.splitext(path)[0] for path in images_in(files)}
    folders = {posixpath.dirname(path) for path in there}
    absent: dict[str, Blob] = {}
    for path in files:
        found = _LIST.fullmatch(path)
        if found is None:
            continue
        for line in read_lines(files[path].uri):
            image = f"{found['base']}Data/CLS-LOC/{found['split']}/{line.split()[0]}"
            if image not in there and posixpath.dirname(image) in folders:
                absent[f"{image}.JPEG"] = Blob(storage.join(root, f"{image}.JPEG"), 0)
    return absent


def _annotation_files(uri: str | None) -> dict[str, Blob]:
    if uri is None:
        return {}
    if not storage.exists(uri):
        raise FileNotFoundError(f"{uri}: no such file or folder (annotations)")
    root = storage.root(uri)  # a file's neighbours count too: map_clsloc.txt
    return {storage.join(root, path): blob for path, blob in files_below(root).items()}


def _xml_by_stem(files: Mapping[str, Blob]) -> dict[str, Blob]:
    found: dict[str, Blob] = {}
    for path, blob in files.items():
        if path.endswith(".xml"):
            other = found.setdefault(stem(path), blob)
            if other.uri != blob.uri:
                raise ValueError(f"{other.uri} and {blob.uri} annotate the same image")
    return found


def _validation_truth(files: Mapping[str, Blob]) -> dict[str, tuple[str, Boxes | None]]:
    """The label of each validation image, with its boxes where the file holds them.

    Raises:
        ValueError: the numbers of the ground truth cannot be told, or a row is malformed.
    """
    uris = {storage.name(p): blob.uri for p, blob in files.items() if p.endswith(_TRUTH_FILES)}
    solution, truth, class_map = (uris.get(name) for name in _TRUTH_FILES)
    if solution is not None:
        return _solution(solution)
    if truth is None:
        return {}
    # The numbers are the kit's own, not places in the sorted list of LOC_synset_mapping.txt.
    if class_map is None:
        raise ValueError(f"{truth}: needs map_clsloc.txt of the development kit beside it")
    classes = {row[1]: row[0] for row in read_table(class_map, 3)}
    numbers = read_lines(truth)
    unknown = sorted(set(numbers) - set(classes))
    if unknown:
        raise ValueError(f"{truth}: class {unknown[0]} is not in {class_map}")
    return {
        f"ILSVRC2012_val_{index:08d}": (classes[number], None)
        for index, number in enumerate(numbers, start=1)
    }


def _solution(uri: str) -> dict[str, tuple[str, Boxes | None]]:
    """``ImageId,PredictionString`` where the string is label x0 y0 x1 y1, once a box."""
    truth = {}
    for row in csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8-sig"))):
        fields = (row.get("PredictionString") or "").split()
        if not fields or len(fields) % 5:
            raise ValueError(f"{uri}: not label x0 y0 x1 y1: {row}")
        edges: list[Edges] = []
        for start in range(0, len(fields), 5):
            x0, y0, x1, y1 = (float(field) for field in fields[start + 1 : start + 5])
            edges.append((x0, y0, x1, y1))
        truth[row["ImageId"]] = (fields[0], Boxes(tuple(edges), tuple(fields[::5])))
    return truth


def _labeled_by_xml(items: list[Item]) -> list[Item]:
    """The items with the class that their XML names, where it names one and only one."""
    with ThreadPoolExecutor(16) as pool:  # over the network each is a round trip
        return list(pool.map(_label_by_xml, items))


def _label_by_xml(item: Item) -> Item:
    assert isinstance(item.boxes, BoxFile)
    try:
        labels = set(_parse(storage.read_bytes(item.boxes.blob.uri)).labels)
    except ValueError:  # reported when the image is read, as any broken annotation
        return item
    return dataclasses.replace(item, label=labels.pop()) if len(labels) == 1 else item
