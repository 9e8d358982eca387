"""Score masks: python jobs/evaluate_masks.py --masks URI --annotations URI --output URI."""

import tyro

from c2am_dist import cli
from c2am_dist.config import EvaluateMasksConfig


def main() -> None:
    config = tyro.cli(EvaluateMasksConfig, description=__doc__)
    config.check_complete()
    cli.init_ray()
    from c2am_dist import storage
    from c2am_dist.evaluation.job import uri_of_table
    from c2am_dist.evaluation.masks import evaluate_masks

    evaluate_masks(config)
    print(storage.read_bytes(uri_of_table(config.output)).decode())
    print(f"metrics: {config.output}")


if __name__ == "__main__":
    cli.run(main)
