"""Show what was done: a contact sheet (PNG) of labels, or an HTML report of all there is."""

import shlex
import sys
from typing import Literal

import tyro

from c2am_dist import cli


def report(
    *,
    labels: tuple[str, ...] = (),
    images: tuple[str, ...] = (),
    metrics: str = "",
    run: str = "",
    sweep: str = "",
    output: str = "contact_sheet.png",
    num_rows: int = 8,
    max_images: int | None = None,
    select: Literal["sample", "worst", "uncertain"] = "sample",
    seed: int = 0,
    allow_incomplete: bool = False,
) -> None:
    """Draw a contact sheet of labels, or make an HTML report of labels, scores, runs and sweeps.

    Args:
        labels: Label files, or pseudo masks (report): one or more URIs.
        images: The shards that were labeled: one or more URIs.
        metrics: URI of the metrics.json of an evaluation, of boxes or of masks (report).
        run: URI of a training run, or of a checkpoint (report).
        sweep: URI of a sweep's folder (report).
        output: What to write, told by its name: a contact sheet (``.png``), a report in one
            file (``.html``), or else a folder with a report, whose page is index.html.
        num_rows: Images to show on a contact sheet.
        max_images: Most images in a report's gallery; 10000 in a folder and 500 in one file if
            unset. Counts and histograms are of all labels.
        select: Which images, where there are more, and the report's first order: drawn at random,
            the worst (errors, no box, then the lowest IoU where boxes are known; of pseudo
            masks errors alone), or the least confident.
        seed: Another one shows other images.
        allow_incomplete: Show a folder whose labeling has not finished (no ``_SUCCESS``).
    """
    from c2am_dist.report import contact_sheet, write_report

    if not output.lower().endswith(".png"):
        write_report(
            output,
            labels=labels,
            images=images,
            metrics=metrics,
            run=run,
            sweep=sweep,
            max_images=max_images,
            select=select,
            seed=seed,
            allow_incomplete=allow_incomplete,
            command=shlex.join(["python", "jobs/report.py", *sys.argv[1:]]),
        )
        print(f"report: {output}")
        return
    if metrics or run or sweep:
        raise ValueError(
            f"{output}: a contact sheet shows labels alone; for metrics, run and sweep give "
            "--output a folder or a name that ends in .html"
        )
    for name, given in {"labels": labels, "images": images}.items():
        if not given:
            raise ValueError(f"{name} must be given (--{name} URI)")
    contact_sheet(
        labels,
        images,
        output,
        num_rows=num_rows,
        seed=seed,
        allow_incomplete=allow_incomplete,
    )
    print(f"contact sheet: {output}")


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(report))
