"""Class maps to pseudo masks: python jobs/refine.py --maps URI --cues URI --images URI ..."""

import tyro

from c2am_dist import cli
from c2am_dist.config import RefineConfig


def main() -> int:
    config = tyro.cli(RefineConfig, description=__doc__)
    config.check_complete()
    cli.init_ray()
    from c2am_dist.refinement import refine

    report = refine(config)
    limit = config.max_error_fraction
    return cli.tell(report, config.output, "masks", "refined", max_error_fraction=limit)


if __name__ == "__main__":
    cli.run(main)
