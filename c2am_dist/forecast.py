"""What a job will read, compute, exchange and hold, before anything is paid for.

Arithmetic on plain numbers: nothing is read here, and neither torch nor Ray is needed. The
stages of a job run side by side, so the slowest one sets the pace. Left out are starts (but those
between lots of labels), checkpoints, the latency of small messages and whatever else keeps a stage
from its rate: the hours are a minimum. docs/performance.md holds them against measurements.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal

from c2am_dist.assumptions import (
    CPU_GFLOPS,
    GPU_GFLOPS,
    IMAGENET_IMAGE_BYTES,
    LABEL_ROW_CPU_S,
    LOT_PAUSE_S,
    PlanConfig,
)

WINDOWS_HELD = 2
"""Windows of encoded images in the object store at least: one is cut while the next is read."""
BLOCKS_HELD = 2
"""Decoded blocks that Ray Data sends to a model actor before the first one is done."""

Unit = Literal["B", "CPU s", "GPU s"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """All machines together."""

    num_machines: int
    num_cpus: int
    num_gpus: int = 0
    store_bytes: int | None = None
    """The object stores of all machines, where that is known."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """One pass over a set."""

    num_images: int
    num_bytes: int
    """Read from storage: row groups are read whole, also where only some images are used."""
    image_bytes: float
    """Mean encoded size of an image."""
    num_files: int = 1
    """Shards."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One of the things that go on side by side."""

    name: str
    amount: float
    unit: Unit
    rate: float
    """How much of it is done in a second."""
    by: str
    """Who does it, in words."""

    @property
    def seconds(self) -> float:
        return self.amount / self.rate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """The processes that hold the model, and what they leave of the cluster."""

    number: int
    on_gpus: bool
    num_decode_cpus: float
    """CPUs left for decoding; without GPUs models and decoding share all of them."""
    cluster: Cluster
    plan: PlanConfig

    def __str__(self) -> str:
        return _count(self.number, "GPU" if self.on_gpus else "CPU worker")

    def read(self, num_bytes: float) -> Stage:
        num, gbps = self.cluster.num_machines, self.plan.network_gbps
        by = f"{_count(num, 'machine')}, {gbps:g} Gbit/s each"
        return Stage("read", num_bytes, "B", num * gbps * 1e9 / 8, by)

    def exchange(self, num_bytes: float) -> Sequence[Stage]:
        """So many bytes into each worker, one a machine; within a machine nothing is counted."""
        if self.cluster.num_machines == 1:
            return []
        gbps = self.plan.network_gbps
        return [Stage("exchange", num_bytes, "B", gbps * 1e9 / 8, f"each worker, {gbps:g} Gbit/s")]

    def decode_s(self, images: ImageSet) -> float:
        """CPU seconds to decode an image.

        Larger files take longer in proportion, since every byte is decoded at any scale; smaller
        ones are counted as those measured, which is on the safe side.
        """
        return max(1.0, images.image_bytes / IMAGENET_IMAGE_BYTES) / self.plan.images_per_cpu_s

    def compute(self, num_images: int, *, cpu_s: float, flops: float) -> Sequence[Stage]:
        """Decoding beside the model, or both on the same CPUs, where one displaces the other.

        Args:
            num_images: in all.
            cpu_s: CPU seconds an image, beside the model.
            flops: floating-point operations an image in the model.
        """
        gflops = self.plan.gflops or (GPU_GFLOPS if self.on_gpus else CPU_GFLOPS)
        model_s = flops / (gflops * 1e9)
        if not self.on_gpus:
            cpus = self.cluster.num_cpus
            by = f"{_count(cpus, 'CPU')}, decoding and model ({gflops:,g} GFLOP/s each)"
            return [Stage("compute", num_images * (cpu_s + model_s), "CPU s", cpus, by)]
        by_cpus = f"{self.num_decode_cpus:,g} CPUs, {1 / cpu_s:.0f} images/s each"
        by_gpus = f"{_count(self.number, 'GPU')}, {gflops:,g} GFLOP/s each"
        return [
            Stage("decode", num_images * cpu_s, "CPU s", self.num_decode_cpus, by_cpus),
            Stage("model", num_images * model_s, "GPU s", self.number, by_gpus),
        ]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What a training run does."""

    steps: int
    batch_size: int
    crop_px: int
    window_images: int
    """Images shuffled together."""
    prefetch: int
    """Decoded parts a worker has waiting, beside the one it trains on."""
    flops: float
    """Of an image in a step, all passes together."""
    num_parameters: int
    num_gathered: int
    """Numbers that an image contributes to the global contrast: both representations."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A job on paper; as text, what a dry run prints."""

    what: str
    num_images: int
    stages: tuple[Stage, ...]
    flops: float
    """Floating-point operations an image."""
    resident_bytes: float
    """Held in the object stores at least."""
    workers: Workers
    gathered_bytes: int = 0
    """Into each worker in a step's forward pass, for the contrast; as much in the backward."""
    gradient_bytes: int = 0
    """Into each worker in a step, to average gradients."""
    num_lots: int = 1
    """Executions, one after the other; between them nothing is done."""

    @property
    def bottleneck(self) -> Stage:
        return max(self.stages, key=lambda stage: stage.seconds)

    @property
    def pauses_s(self) -> float:
        """Between lots; starting the first one is left out, like every start."""
        return LOT_PAUSE_S * max(0, self.num_lots - 1)

    @property
    def seconds(self) -> float:
        """The least that the job can take."""
        return self.bottleneck.seconds + self.pauses_s

    @property
    def time(self) -> str:
        """The same in words."""
        return _duration(self.seconds)

    def __str__(self) -> str:
        if not self.num_images:
            return f"{self.what}: nothing is left to do"
        return "\n".join([self.what, *self._table(), *self._details()])

    def _table(self) -> Iterator[str]:
        yield f"{'stage':<10}{'work':<16}{'done by':<48}{'takes':>10}"
        for stage in self.stages:
            mark = "  <- bottleneck" if stage is self.bottleneck else ""
            amount, takes = _quantity(stage.amount, stage.unit), _duration(stage.seconds)
            yield f"{stage.name:<10}{amount:<16}{stage.by:<48}{takes:>10}{mark}"

    def _details(self) -> Iterator[str]:
        yield f"model: {self.flops / 1e9:.1f} GFLOP an image"
        if self.gradient_bytes:
            yield (
                f"into each worker a step: {_quantity(self.gathered_bytes, 'B')} gathered for the "
                f"contrast, as much for its gradient, {_quantity(self.gradient_bytes, 'B')} to "
                "average gradients"
            )
        held = f"object store: at least {_quantity(self.resident_bytes, 'B')} held"
        store_bytes = self.workers.cluster.store_bytes
        if store_bytes is not None:
            spills = ", so it spills" if self.resident_bytes > store_bytes else ""
            held += f" of {_quantity(store_bytes, 'B')}{spills}"
        yield held
        if self.pauses_s:
            yield f"{self.num_lots:,} lots of shards: {_duration(self.pauses_s)} between them"
        yield f"in all: at least {self.time}, {self.num_images / self.seconds:,.0f} images/s"
        price = self.workers.plan.dollars_per_hour
        if price is not None:
            cost = price * self.seconds / 3600
            per_million = cost * 1e6 / self.num_images
            yield f"cost: at least {cost:,.2f} $, {per_million:.2f} $ a million images"


def training(name: str, images: ImageSet, schedule: Schedule, workers: Workers) -> Forecast:
    """A training run, or what is left of it."""
    num_images = schedule.steps * schedule.batch_size
    part = -(-schedule.batch_size // workers.number)  # what each worker gets of a batch
    block_bytes = part * 3 * schedule.crop_px**2
    gathered_bytes = 4 * schedule.num_gathered * (schedule.batch_size - part)
    # Averaging in a ring: all but a worker's own share comes by twice, as sums and as results.
    gradient_bytes = 2 * 4 * schedule.num_parameters * (workers.number - 1) // workers.number
    step_bytes = block_bytes + 2 * gathered_bytes + gradient_bytes
    window_bytes = schedule.window_images * images.image_bytes
    num_blocks = workers.num_decode_cpus + (1 + schedule.prefetch) * workers.number
    return Forecast(
        what=f"{name}: {num_images:,} images in {schedule.steps:,} steps of {schedule.batch_size}"
        f" on {workers}",
        num_images=num_images,
        stages=(
            workers.read(num_images / images.num_images * images.num_bytes),
            *workers.compute(num_images, cpu_s=workers.decode_s(images), flops=schedule.flops),
            *workers.exchange(schedule.steps * step_bytes),
        ),
        flops=schedule.flops,
        resident_bytes=WINDOWS_HELD * window_bytes + num_blocks * block_bytes,
        workers=workers,
        gathered_bytes=gathered_bytes,
        gradient_bytes=gradient_bytes,
    )


def labeling(
    name: str,
    images: ImageSet,
    workers: Workers,
    *,
    flops: float,
    pixel_bytes: int,
    block_bytes: int,
    num_lots: int = 1,
    row_cpu_s: float = LABEL_ROW_CPU_S,
) -> Forecast:
    """Labels for a set.

    Args:
        name: what to call it.
        images: the set.
        workers: the model actors.
        flops: floating-point operations an image, all scales and mirrors together.
        pixel_bytes: decoded bytes an image, all scales together.
        block_bytes: decoded bytes that pass between tasks at a time.
        num_lots: executions, one after the other.
        row_cpu_s: CPU seconds to make a row of what the model found.
    """
    cpu_s = workers.decode_s(images) + row_cpu_s
    return Forecast(
        what=f"{name}: {images.num_images:,} images on {workers}",
        num_images=images.num_images,
        stages=(
            workers.read(images.num_bytes),
            *workers.compute(images.num_images, cpu_s=cpu_s, flops=flops),
            *workers.exchange(images.num_images / workers.number * pixel_bytes),
        ),
        flops=flops,
        resident_bytes=(workers.num_decode_cpus + BLOCKS_HELD * workers.number) * block_bytes,
        workers=workers,
        num_lots=num_lots,
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _quantity(amount: float, unit: Unit) -> str:
    if unit != "B":
        return f"{amount:,.0f} {unit}"
    power = min(4, int(math.log10(max(1, amount)) // 3))
    return f"{amount / 1000**power:,.1f} {('', 'k', 'M', 'G', 'T')[power]}B"


def _duration(seconds: float) -> str:
    for unit, length_s in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:,.1f} {unit}"
    return f"{seconds:.1f} s"
