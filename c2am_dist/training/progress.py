"""What a run says of itself: rows of metrics as JSON lines, to TensorBoard and a tracker."""

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from c2am_dist import storage
from c2am_dist.config import flat, to_json
from c2am_dist.method.activation import doubts
from c2am_dist.training.polarity import MapSurvey
from c2am_dist.training.tracking import TrackedRun, Tracking

if TYPE_CHECKING:
    from c2am_dist.training.loop import Job

logger = logging.getLogger(__name__)


class Window:
    """Means over the steps between two metric rows, kept on the device until the row is due."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.num_steps = self.num_replaced = 0
        self.waited_s = 0.0
        self.started = self.resumed = time.perf_counter()

    @contextlib.contextmanager
    def waiting_ends(self) -> Iterator[None]:
        """Counts the time since the last step's end, and that inside, as waiting for data."""
        yield
        self.waited_s += time.perf_counter() - self.resumed

    def add(self, terms: dict[str, Tensor], *, num_replaced: int) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.num_steps += 1
        self.num_replaced += num_replaced
        self.resumed = time.perf_counter()

    def close(
        self, *, step: int, epoch: float, optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        """The row of the steps since the last one: means over steps and workers."""
        names = list(self.sums)
        device = self.sums[names[0]].device
        own = [self.sums[name].float() / self.num_steps for name in names]
        packed = torch.stack([*own, torch.tensor(float(self.num_replaced), device=device)])
        workers = 1
        if dist.is_initialized():
            workers = dist.get_world_size()
            dist.all_reduce(packed)
        *means, num_replaced = packed.tolist()  # waits for the device
        elapsed = time.perf_counter() - self.started
        row = {
            "step": step,
            "epoch": round(epoch, 4),
            **{name: mean / workers for name, mean in zip(names, means, strict=True)},
            "lr": optimizer.param_groups[0]["lr"],
            "images_per_s": self.num_steps * self.batch_size / elapsed,
            "data_wait_fraction": self.waited_s / elapsed,
            "images_replaced": int(num_replaced),
        }
        self.restart()
        return row


class RunLog:
    """The first worker's record: ``metrics.jsonl`` and TensorBoard events in the run's folder.

    Rows also go to ``run.tracker``, where one is named.

    On an object store both are kept in a local folder and published at every checkpoint.
    Rows after the step a run resumes from are dropped: they are trained again.
    """

    def __init__(self, job: "Job", start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds; one process needs it

        self.job, self.started, self.start_step = job, time.perf_counter(), start_step
        self.uri = storage.join(job.run, "metrics.jsonl")
        self.is_local = "://" not in job.run
        self.folder = job.run if self.is_local else tempfile.mkdtemp(prefix="c2am-log-")
        os.makedirs(self.folder, exist_ok=True)
        kept = [json.dumps(row) + "\n" for row in rows_until(self.uri, start_step)]
        path = storage.join(self.folder, "metrics.jsonl")
        storage.write_bytes(path, "".join(kept).encode())  # no moment without the kept rows
        self.file = open(path, "a", buffering=1)
        self.board = SummaryWriter(
            os.path.join(self.folder, "tensorboard"), purge_step=start_step + 1
        )
        settings = flat(json.loads(to_json(job.config)))
        run = TrackedRun(name=job.config.run.name, uri=job.run, config=settings)
        self.tracking = Tracking(job.config.run.tracker, run)
        if start_step:
            print(f"resuming at step {start_step} of {job.total_steps}", flush=True)

    def write(self, row: dict[str, float]) -> None:
        """Keeps a row of metrics, and prints a line of it with the time left."""
        with _naming(self.uri):
            self.file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self.board.add_scalar(name, value, int(row["step"]))
        self.tracking.log(row)
        done, total = int(row["step"]), self.job.total_steps
        elapsed = time.perf_counter() - self.started
        remaining = elapsed / max(1, done - self.start_step) * (total - done)
        terms = "  ".join(
            f"{name} {row[name]:.4f}"
            for name in ("loss", "accuracy", "box_iou", "activation_mean", "activation_std")
            if name in row
        )
        print(
            f"step {done}/{total}  {terms}  {row['images_per_s']:.0f} images/s  "
            f"data wait {100 * row['data_wait_fraction']:.0f}%  {remaining:.0f} s left",
            flush=True,
        )

    def checkpoint_written(self, step: int, maps: MapSurvey, *, seconds: float) -> None:
        """Says so, and warns of doubtful maps."""
        print(f"checkpoint at step {step} ({seconds:.1f} s) {describe(maps)}", flush=True)
        if maps.polarity:
            for doubt in doubts(maps.polarity_margin, maps.border_lock):
                logger.warning(doubt)

    def publish(self) -> None:
        """Puts the record so far into the run's folder, where that is remote."""
        with _naming(storage.join(self.job.run, "tensorboard")):
            self.board.flush()
        if not self.is_local:
            for folder, _, names in os.walk(self.folder):
                for name in names:
                    path = os.path.join(folder, name)
                    relative = os.path.relpath(path, self.folder)
                    with open(path, "rb") as file:
                        storage.write_bytes(storage.join(self.job.run, relative), file.read())

    def close(self) -> None:
        self.tracking.close()
        with contextlib.suppress(OSError):  # what a full disk did not take was told before
            self.file.close()
            self.board.close()


@contextlib.contextmanager
def _naming(uri: str) -> Iterator[None]:
    """A full disk's error with the file it is about."""
    try:
        yield
    except OSError as error:
        raise storage.named(uri, error) from error


def rows_until(uri: str, step: int) -> list[dict[str, float]]:
    """The rows of metrics up to a step."""
    if step == 0 or not storage.exists(uri):
        return []
    rows = []
    for line in storage.read_bytes(uri).decode().splitlines():
        with contextlib.suppress(ValueError):  # a line cut short by a crash
            rows.append(json.loads(line))
    return [row for row in rows if row["step"] <= step]


def describe(maps: MapSurvey) -> str:
    """A survey in a few words; empty without a map."""
    if not maps.polarity:
        return ""
    return (
        f"polarity {maps.polarity} (margin {maps.polarity_margin:.2f}), "
        f"border lock {maps.border_lock:.2f}"
    )
