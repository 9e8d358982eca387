"""Train on image shards: python jobs/train.py --data.train URI --model.weights PATH ..."""

import sys

import tyro

from c2am_dist import cli
from c2am_dist.config import PRESETS, TrainConfig


def parse(arguments: list[str]) -> TrainConfig:
    """The config that flags give, on top of the preset they name."""
    preset = "custom"
    for position, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == "--preset":
            preset = value or " ".join(arguments[position + 1 : position + 2])
    default = PRESETS.get(preset, PRESETS["custom"])  # tyro refuses an unknown one by name
    return tyro.cli(TrainConfig, default=default, args=arguments, description=__doc__)


def main() -> int:
    config = parse(sys.argv[1:])
    config.check_complete()
    cli.init_ray()
    from c2am_dist.training import fit

    result = fit(config)
    print(f"checkpoint: {result.checkpoint} (step {result.manifest['step']})")
    return 0


if __name__ == "__main__":
    cli.run(main)
