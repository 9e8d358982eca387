"""A local Ray for a benchmark: quiet, on the loopback interface, at the driver's priority."""

import contextlib
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def local_ray(
    *, object_store_bytes: int | None = None, include_dashboard: bool = False
) -> Iterator[int]:
    """Runs Ray on this machine's cores for the block, and gives their number.

    Ray Train wants the dashboard: without it, one of its actors asks for it in vain all the time.
    """
    # As jobs set them (cli.init_ray).
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    import ray
    from ray.data import DataContext

    ray.init(
        address="local",
        include_dashboard=include_dashboard,
        dashboard_host="127.0.0.1",
        logging_level=logging.WARNING,
        object_store_memory=object_store_bytes,
    )
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield int(ray.cluster_resources()["CPU"])
    finally:
        ray.shutdown()
