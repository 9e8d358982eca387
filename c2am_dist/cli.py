"""What the jobs share: one-line errors with an exit status, and the connection to Ray.

Scripts import this before anything that imports Ray, and the heavy modules after parsing:
``--help`` and a mistyped flag then answer at once.
"""

import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import tyro

from c2am_dist import names
from c2am_dist.assumptions import DryRun, PlanConfig
from c2am_dist.config import PRESETS, TrainConfig
from c2am_dist.forecast import Cluster

if TYPE_CHECKING:
    from c2am_dist.data.row_files import LabelReport

Config = TypeVar("Config")
Other = TypeVar("Other")


def parse(
    default: Config, arguments: Sequence[str], description: str | None
) -> tuple[Config, PlanConfig | None]:
    """The config that flags give, and for a dry run what it assumes, which no config holds.

    Raises:
        ValueError: it assumes something and is no dry run.
    """
    config, dry_run = parse_both(default, DryRun(), arguments, description)
    if dry_run.dry_run:
        return config, dry_run.plan
    if dry_run.plan != PlanConfig():
        raise ValueError("--plan flags go with --dry-run alone")
    return config, None


def parse_both(
    first: Config, second: Other, arguments: Sequence[str], description: str | None
) -> tuple[Config, Other]:
    """Two configs, whose fields must have different names, from one command line."""
    unprefixed: Any = tyro.conf.arg(name="")
    fields = [
        (name, Annotated[type(value), unprefixed], dataclasses.field(default=value))
        for name, value in {"first": first, "second": second}.items()
    ]
    both: Any = dataclasses.make_dataclass("Job", fields, frozen=True, kw_only=True)
    parsed = tyro.cli(both, args=arguments, description=description)
    return parsed.first, parsed.second


def training_default(arguments: Sequence[str]) -> TrainConfig:
    """What training's flags change: the preset that they name, else the usual one."""
    preset = "custom"
    for position, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == "--preset":
            preset = value or " ".join(arguments[position + 1 : position + 2])
    return PRESETS.get(preset, PRESETS["custom"])  # tyro refuses an unknown one by name


def run(main: Callable[[], int | None]) -> NoReturn:
    """Exits with what ``main`` returns (None is 0), or with 1 and one line on an error.

    ``ValueError`` and ``OSError`` are the caller's doing and end in their message alone; with
    C2AM_TRACEBACK set, in the traceback too. Other exceptions are bugs and are not caught.
    A flag that does not parse has exited with 2 before.
    """
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        if os.environ.get("C2AM_TRACEBACK"):
            traceback.print_exc()
        # Ray raises a worker's exception as a subclass whose text is the remote traceback.
        text = str(getattr(error, "cause", None) or error)
        # It may hold names and metadata that somebody else chose.
        print(f"error: {names.printable(text)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def tell(
    report: "LabelReport", uri: str, what: str, done: str, *, max_error_fraction: float
) -> int:
    """Says how the job went; the exit status, 1 when more rows than allowed are errors.

    Args:
        report: of the job.
        uri: of its folder.
        what: is in it, such as ``labels``.
        done: to the images, such as ``labeled``.
        max_error_fraction: of the config.
    """
    print(
        f"{what}: {uri} ({report.num_images} images in {report.num_files} files, "
        f"{report.num_errors} with errors; {report.num_new} {done} now, "
        f"{report.num_new / report.elapsed_s:.0f} images/s)"
    )
    if report.error_fraction <= max_error_fraction:
        return 0
    print(
        f"error: {report.error_fraction:.1%} of the images could not be {done}, more than "
        f"max_error_fraction ({max_error_fraction:.1%}); the column 'error' says why",
        file=sys.stderr,
    )
    return 1


def init_ray() -> None:
    """Connects to the cluster in RAY_ADDRESS (``ray job`` sets it), else starts a local one.

    The local one listens on the loopback interface only. Ray's own messages below warnings
    and Ray Data's progress bars are off: jobs print what a person wants to know.
    """
    is_local = not os.environ.get("RAY_ADDRESS")
    if is_local:
        # Ray reads this on import. It makes every process bind to 127.0.0.1, not to all
        # interfaces; its name tells only where that is the default (ray_constants.py).
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # So must the sockets of training workers, which else follow the host's name.
        interface = "lo0" if sys.platform == "darwin" else "lo"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        # Ray enables token authentication either way; said here, it does not warn of it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Workers run at nice 15 otherwise and starve beside any other load.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Idle workers beyond one a core, which decoding has, would end after a second, and
        # their successors import everything anew.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # Training workers' lines would appear twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    import ray
    from ray.data import DataContext

    ray.init(
        address="local" if is_local else None,
        dashboard_host="127.0.0.1",
        logging_level=logging.WARNING,
    )
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that its bars are off, which they are on purpose.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def find_cluster(plan: PlanConfig) -> Cluster:
    """What a dry run is about: the cluster that flags describe, that of RAY_ADDRESS, or this
    machine, on which nothing is started.

    Raises:
        ValueError: the cluster has scaled to zero and the flags do not describe it.
    """
    if plan.num_cpus is not None:
        return Cluster(
            num_machines=plan.num_machines, num_cpus=plan.num_cpus, num_gpus=plan.num_gpus
        )
    if not os.environ.get("RAY_ADDRESS"):
        import torch

        num_cpus = len(os.sched_getaffinity(0))
        return Cluster(num_machines=1, num_cpus=num_cpus, num_gpus=torch.cuda.device_count())
    init_ray()
    import ray

    resources = ray.cluster_resources()
    if not resources.get("CPU"):
        raise ValueError("plan.num_cpus must be given: the cluster has no worker node yet")
    return Cluster(
        num_machines=sum("CPU" in node["Resources"] for node in ray.nodes() if node["Alive"]),
        num_cpus=int(resources["CPU"]),
        num_gpus=int(resources.get("GPU", 0)),
        store_bytes=int(resources["object_store_memory"]),
    )
