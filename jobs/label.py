"""Label images: python jobs/label.py --checkpoint URI --input URI --output URI ..."""

import sys

from c2am_dist import cli
from c2am_dist.config import LabelConfig


def main() -> int:
    config, plan = cli.parse(LabelConfig(), sys.argv[1:], __doc__)
    config.check_complete()
    if plan is not None:
        cluster = cli.find_cluster(plan)
        from c2am_dist.labeling import job

        print(job.dry_run(config, plan, cluster))
        return 0
    cli.init_ray()
    from c2am_dist.labeling import job

    report = job.label(config)
    print(
        f"labels: {config.output} ({report.num_images} images in {report.num_files} files, "
        f"{report.num_errors} with errors; {report.num_new} labeled now, "
        f"{report.num_new / report.elapsed_s:.0f} images/s)"
    )
    if report.error_fraction > config.max_error_fraction:
        print(
            f"error: {report.error_fraction:.1%} of the images could not be labeled, more than "
            f"max_error_fraction ({config.max_error_fraction:.1%}); the column 'error' says why",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
