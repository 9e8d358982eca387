"""Name images' classes: python jobs/classify.py --checkpoint URI --input URI --output URI ..."""

import sys

import tyro

from c2am_dist import cli
from c2am_dist.config import ClassifyConfig


def main() -> int:
    config = tyro.cli(ClassifyConfig, description=__doc__)
    config.check_complete()
    cli.init_ray()
    from c2am_dist.labeling.classify import classify

    report = classify(config)
    print(
        f"predictions: {config.output} ({report.num_images} images in {report.num_files} files, "
        f"{report.num_errors} with errors; {report.num_new} classified now, "
        f"{report.num_new / report.elapsed_s:.0f} images/s)"
    )
    if report.error_fraction > config.max_error_fraction:
        print(
            f"error: {report.error_fraction:.1%} of the images could not be classified, more than "
            f"max_error_fraction ({config.max_error_fraction:.1%}); the column 'error' says why",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
