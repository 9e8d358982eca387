"""Train on image shards: python jobs/train.py --data.train URI --model.weights PATH ..."""

import sys

from c2am_dist import cli
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import TrainConfig


def parse(arguments: list[str]) -> tuple[TrainConfig, PlanConfig | None]:
    """What flags give, on top of the preset they name; a plan makes it a dry run."""
    return cli.parse(cli.training_default(arguments), arguments, __doc__)


def main() -> int:
    config, plan = parse(sys.argv[1:])
    config.check_complete()
    if plan is not None:
        cluster = cli.find_cluster(plan)
        from c2am_dist.training import dry_run

        print(dry_run(config, plan, cluster))
        return 0
    cli.init_ray()
    from c2am_dist.training import fit

    result = fit(config)
    print(f"checkpoint: {result.checkpoint} (step {result.manifest['step']})")
    return 0


if __name__ == "__main__":
    cli.run(main)
