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
    limit = config.max_error_fraction
    return cli.tell(report, config.output, "labels", "labeled", max_error_fraction=limit)


if __name__ == "__main__":
    cli.run(main)
