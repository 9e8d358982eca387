"""Score labels: python jobs/evaluate.py --labels URI --annotations URI --output metrics.json."""

import tyro

from c2am_dist import cli
from c2am_dist.config import EvaluateConfig


def main() -> None:
    config = tyro.cli(EvaluateConfig, description=__doc__)
    cli.init_ray()
    from c2am_dist import evaluation

    print(evaluation.markdown(evaluation.evaluate(config)))
    print(f"metrics: {config.output}")


if __name__ == "__main__":
    cli.run(main)
