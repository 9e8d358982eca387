"""Train at many points and compare: python tune/sweep.py --sweep alpha --annotations URI ..."""

import sys

from c2am_dist import cli, storage
from c2am_dist.config import TrainConfig
from c2am_dist.sweep.spec import SweepConfig, folder_of, plan


def parse(arguments: list[str]) -> tuple[TrainConfig, SweepConfig]:
    """What flags give: every trial's config but for what varies, and what does."""
    return cli.parse_both(cli.training_default(arguments), SweepConfig(), arguments, __doc__)


def main() -> int:
    base, config = parse(sys.argv[1:])
    plan(config, base)  # refuses what is mistyped or out of range, before Ray starts
    cli.init_ray()
    from c2am_dist.sweep import job, results

    trials = job.sweep(config, base)
    folder = folder_of(base)
    best = results.best(trials)
    if best is None:
        print(f"error: no trial has finished; {folder}/results.csv says why", file=sys.stderr)
        return 1
    if num_unfinished := trials["status"].to_pylist().count("unfinished"):
        print(f"error: {num_unfinished} trials are unfinished; go on by the same command",
              file=sys.stderr)  # fmt: skip
        return 1
    print(f"results: {storage.join(folder, 'results.csv')}")
    print(f"best: {best['checkpoint']} ({best['objective']} {best['value']:.4g})")
    return 0


if __name__ == "__main__":
    cli.run(main)
