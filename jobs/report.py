"""Show what was labeled: python jobs/report.py --labels URI --images URI --output sheet.png."""

import tyro

from c2am_dist import cli


def report(
    *,
    labels: tuple[str, ...],
    images: tuple[str, ...],
    output: str = "contact_sheet.png",
    num_rows: int = 8,
    seed: int = 0,
    allow_incomplete: bool = False,
) -> None:
    """Draw a contact sheet: image, activation map, pseudo box and background cue side by side.

    Args:
        labels: Label files: one or more URIs.
        images: The shards that were labeled: one or more URIs.
        output: URI of the PNG.
        num_rows: Images to show.
        seed: Another one shows other images.
        allow_incomplete: Show a folder whose labeling has not finished (no ``_SUCCESS``).
    """
    from c2am_dist.report import contact_sheet

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
