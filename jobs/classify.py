"""Name images' classes: python jobs/classify.py --checkpoint URI --input URI --output URI ..."""

import tyro

from c2am_dist import cli
from c2am_dist.config import ClassifyConfig


def main() -> int:
    config = tyro.cli(ClassifyConfig, description=__doc__)
    config.check_complete()
    cli.init_ray()
    from c2am_dist.labeling.classify import classify

    report = classify(config)
    limit = config.max_error_fraction
    return cli.tell(report, config.output, "predictions", "classified", max_error_fraction=limit)


if __name__ == "__main__":
    cli.run(main)
