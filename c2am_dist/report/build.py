"""The HTML report: which sections there are, and the order in which they are made."""

from collections.abc import Iterable, Iterator, Sequence

from c2am_dist import schema, storage
from c2am_dist.data import label_set, mask_sets
from c2am_dist.report import (
    figures,
    gallery,
    mask_figures,
    mask_gallery,
    page,
    provenance,
    publish,
    rows,
    training,
)
from c2am_dist.report import sweep as trials
from c2am_dist.report.gallery import Select
from c2am_dist.report.mask_overview import MaskOverview
from c2am_dist.report.overview import Overview
from c2am_dist.report.page import Gallery, Section
from c2am_dist.report.publish import Output
from c2am_dist.report.rows import Row

MAX_IMAGES_FOLDER, MAX_IMAGES_FILE = 10_000, 500
"""Images of a gallery where nothing else is said: a single file is loaded whole."""
_ORDERS = {"sample": "place", "worst": "worst", "uncertain": "uncertain"}


def write_report(
    output: str,
    *,
    labels: Sequence[str] = (),
    images: Sequence[str] = (),
    metrics: str = "",
    run: str = "",
    sweep: str = "",
    max_images: int | None = None,
    select: Select = "sample",
    seed: int = 0,
    allow_incomplete: bool = False,
    command: str = "",
) -> None:
    """Writes a report for a browser, without network: a folder, or one file.

    Each input adds its sections; one at least must be given. A folder is a report once its
    ``index.html`` is there, and keeps the report it held until then.

    Args:
        output: URI of a file that ends in ``.html``, or else of a folder.
        labels: URIs of label files (schema.LABELS), or of pseudo masks (schema.PSEUDO_MASKS).
        images: URIs of the shards that were labeled; with them there is a gallery.
        metrics: URI of an evaluation's ``metrics.json``, of boxes or of masks.
        run: URI of a training run, or of a checkpoint.
        sweep: URI of a sweep's folder.
        max_images: most images in the gallery; 10,000 in a folder and 500 in a file if None.
        select: which ones, where there are more (`gallery.choose`), and the first order.
        seed: another one draws other images.
        allow_incomplete: take a folder whose labeling has not finished.
        command: the command line that did this, to be shown.

    Raises:
        ValueError: nothing is given, an input holds something else than it should, or the
            output holds something else than a report; names the culprit.
        FileNotFoundError: a URI names nothing.
    """
    if not (labels or metrics or run or sweep):
        raise ValueError("nothing to report on: give labels, metrics, run or sweep")
    if images and not labels:
        raise ValueError("images are shown with what was found in them: give labels, too")
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images must be positive, got {max_images}")
    if max_images is None:
        max_images = MAX_IMAGES_FILE if publish.is_single(output) else MAX_IMAGES_FOLDER
    inputs = {
        "labels": " ".join(labels),
        "images": " ".join(images),
        "metrics": metrics,
        "run": run,
        "sweep": sweep,
    }
    sections = _scores(metrics, run, sweep)
    with publish.create(output) as target:
        heading, checkpoints, origins = None, set[str](), list[Section]()
        if labels:
            files = label_set.expand(labels, allow_incomplete=allow_incomplete)
            show = _show_masks if mask_sets.holds_masks(files) else _show
            heading, found = show(files, images, target, (max_images, select, seed))
            sections.append(found.section())
            origins.append(found.origin(files, labels))
            checkpoints = found.checkpoints()
        if run:
            origins.append(provenance.run_section(run, checkpoints))
        origins.append(provenance.report_section(inputs, command))
        target.finish(
            lambda row_files, row_scripts: page.render(
                _title(labels, metrics, run, sweep),
                [*sections, *origins],
                gallery=heading,
                row_files=row_files,
                row_scripts=row_scripts,
            )
        )


def _show(
    files: Sequence[storage.File],
    images: Sequence[str],
    target: Output,
    choice: tuple[int, Select, int],
) -> tuple[Gallery | None, Overview]:
    """Counts all labels, and makes the gallery where there are images."""
    found = Overview()
    known = rows.files_by_name(images) if images else {}
    counted = _counted(rows.scan(files, known), found)
    if not images:
        _exhaust(counted)
        return None, found
    max_images, select, seed = choice
    chosen = gallery.choose(counted, max_images, select, seed)
    legend = gallery.write(chosen, known, target)
    note = _note(len(chosen), found, select)
    heading = Gallery(len(chosen), note, _ORDERS[select], found.num_scored > 0, legend=legend)
    return heading, found


def _show_masks(
    files: Sequence[storage.File],
    images: Sequence[str],
    target: Output,
    choice: tuple[int, Select, int],
) -> tuple[Gallery | None, MaskOverview]:
    """Counts all pseudo masks, and makes the gallery where there are images."""
    max_images, select, seed = choice
    if select == "uncertain":
        raise ValueError("select: pseudo masks have no confidence; give sample or worst")
    found = MaskOverview(mask_sets.read_label_map(files))
    known = rows.files_by_name(images) if images else {}
    counted = _counted(rows.scan(files, known, schema.PSEUDO_MASKS), found)
    if not images:
        _exhaust(counted)
        return None, found
    chosen = gallery.choose(counted, max_images, select, seed)
    shown = mask_gallery.write(chosen, known, found.label_map, target)
    note = _mask_note(len(chosen), found, select)
    order = _ORDERS[select]
    return Gallery(len(chosen), note, order, shown.has_truth, True, shown.legend), found


def _exhaust(found: Iterable[Row]) -> None:
    for _ in found:
        pass


def _scores(metrics: str, run: str, sweep: str) -> list[Section]:
    found = [
        _metrics(metrics) if metrics else None,
        training.section(run) if run else None,
        trials.section(sweep) if sweep else None,
    ]
    return [section for section in found if section is not None]


def _metrics(uri: str) -> Section:
    content = storage.read_json(uri)
    if mask_figures.is_of_masks(content):
        return mask_figures.section(uri, content)
    return figures.section(uri)


def _counted(found: Iterable[Row], overview: Overview | MaskOverview) -> Iterator[Row]:
    for row in found:
        overview.add(row)
        yield row


def _note(num_rows: int, found: Overview, select: Select) -> str:
    if num_rows == found.num_rows:
        return f"All {num_rows:,} images."
    how = {
        "sample": "drawn at random",
        "worst": "those with an error, without a box, or with the lowest IoU"
        if found.num_scored
        else "errors and images without a box first, the others drawn at random",
        "uncertain": "those with the lowest confidence",
    }
    return f"{num_rows:,} of {found.num_rows:,} images: {how[select]}."


def _mask_note(num_rows: int, found: MaskOverview, select: Select) -> str:
    if num_rows == found.num_rows:
        return f"All {num_rows:,} images."
    how = "errors first, the others drawn at random" if select == "worst" else "drawn at random"
    return f"{num_rows:,} of {found.num_rows:,} images: {how}."


def _title(labels: Sequence[str], metrics: str, run: str, sweep: str) -> str:
    about = labels[0] if labels else run or sweep or metrics
    parts = storage.absolute(about).rstrip("/").rsplit("/", 2)[-2:]
    return f"c2am-dist report: {'/'.join(parts)}"
