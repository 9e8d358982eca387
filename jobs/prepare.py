"""Turn a data set into Parquet shards: ``python jobs/prepare.py --help``."""

import tyro

from c2am_dist import cli
from c2am_dist.config import PrepareConfig
from c2am_dist.data.shard_plan import plan


def main() -> None:
    config = tyro.cli(PrepareConfig)
    planned = plan(config)  # what is missing or given twice shows before Ray starts
    cli.init_ray()
    from c2am_dist.data.prepare import write

    summary = write(planned)
    print(
        f"{config.output}: {summary.num_images} images in {summary.num_shards} shards, "
        f"{summary.num_bytes / 2**20:.1f} MiB"
    )
    if summary.num_errors:
        print(f"{summary.num_errors} images could not be read: see {summary.errors_uri}")


if __name__ == "__main__":
    cli.run(main)
