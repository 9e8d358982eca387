"""Make a table of the papers anew: python jobs/reproduce.py wsol --train URI --val URI ..."""

import sys

import tyro

from c2am_dist import cli, storage
from c2am_dist.config.reproduce import WsolConfig


def main() -> None:
    config = tyro.extras.subcommand_cli_from_dict({"wsol": WsolConfig}, description=__doc__)
    from c2am_dist.reproduce.rows import plan

    plan(config)  # refuses what is mistyped or out of range, before Ray starts
    cli.init_ray()
    from c2am_dist.reproduce import table
    from c2am_dist.reproduce.wsol import wsol

    print(table.markdown(config, wsol(config)))
    print(f"table: {storage.join(config.output, 'table.md')}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
