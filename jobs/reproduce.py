"""Make a table of the papers anew: python jobs/reproduce.py wsol|wsss --train URI --val URI ..."""

import sys

import tyro

from c2am_dist import cli, storage
from c2am_dist.config.reproduce import WsolConfig
from c2am_dist.config.reproduce_masks import WsssConfig


def main() -> None:
    tables = {"wsol": WsolConfig, "wsss": WsssConfig}
    config = tyro.extras.subcommand_cli_from_dict(tables, description=__doc__)
    if isinstance(config, WsolConfig):
        _localization(config)
    else:
        _segmentation(config)
    print(f"table: {storage.join(config.output, 'table.md')}", file=sys.stderr)


def _localization(config: WsolConfig) -> None:
    from c2am_dist.reproduce.rows import plan

    plan(config)  # refuses what is mistyped or out of range, before Ray starts
    cli.init_ray()
    from c2am_dist.reproduce import table
    from c2am_dist.reproduce.wsol import wsol

    print(table.markdown(config, wsol(config)))


def _segmentation(config: WsssConfig) -> None:
    from c2am_dist.reproduce.wsss_rows import plan

    plan(config)
    cli.init_ray()
    from c2am_dist.reproduce.wsss import wsss

    wsss(config)
    print(storage.read_bytes(storage.join(config.output, "table.md")).decode())


if __name__ == "__main__":
    cli.run(main)
