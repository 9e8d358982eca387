"""Score labels: python jobs/evaluate.py --labels URI --annotations URI --output metrics.json."""

import tyro

from c2am_dist import cli
from c2am_dist.config import EvaluateConfig


def main() -> None:
    config = tyro.cli(EvaluateConfig, description=__doc__)
    cli.init_ray()
    from c2am_dist import evaluation, storage

    evaluation.evaluate(config)
    print(storage.read_bytes(evaluation.uri_of_table(config.output)).decode())
    print(f"metrics: {config.output}")


if __name__ == "__main__":
    cli.run(main)
