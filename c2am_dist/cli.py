"""What the jobs share: one-line errors with an exit status, and the connection to Ray.

Scripts import this before anything that imports Ray, and the heavy modules after parsing:
``--help`` and a mistyped flag then answer at once.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from c2am_dist import names


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
