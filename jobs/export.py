"""Take labels elsewhere: python jobs/export.py --labels URI --images URI --output URI ..."""

import tyro

from c2am_dist import cli
from c2am_dist.config import ExportConfig


def main() -> None:
    config = tyro.cli(ExportConfig, description=__doc__)
    config.check_complete()
    from c2am_dist.export import CueExportReport, MaskExportReport, export

    report = export(config)
    if isinstance(report, MaskExportReport):
        print(
            f"export: {config.output} ({config.format}: {report.num_images} images with masks; "
            f"{report.num_empty} all background, {report.num_rewritten} written anew)"
        )
        print(
            f"not exported: {report.num_left_out} images that are all background (--keep-empty), "
            f"{report.num_errors} with errors"
        )
        return
    if isinstance(report, CueExportReport):
        print(
            f"export: {config.output} (cues: {report.num_images} images; {report.num_enlarged} "
            f"cues enlarged, {report.num_rewritten} images written anew)"
        )
        print(
            f"not exported: {report.num_left_out} images without a cue, "
            f"{report.num_errors} with errors"
        )
        return
    print(
        f"export: {config.output} ({config.format}: {report.num_images} images, "
        f"{report.num_boxes} boxes with a score of at least {report.min_score:.3g}; "
        f"{report.num_empty} images without a box, {report.num_rewritten} written anew)"
    )
    print(
        f"not exported: {report.num_left_out} images without a box (--keep-empty), "
        f"{report.num_errors} with errors"
    )


if __name__ == "__main__":
    cli.run(main)
