"""Writes what docs/performance.md says on paper: dry runs of two jobs nobody here can afford.

Each part stands between two marks, named by the functions below; tests/test_docs.py compares
the file with `render`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import PRESETS, LabelConfig, TrainConfig, override
from c2am_dist.forecast import Cluster, Forecast, ImageSet
from c2am_dist.labeling import pipeline
from c2am_dist.training.estimate import expected

DOCUMENT = Path(__file__).with_name("performance.md")
IMAGENET = ImageSet(
    num_images=1_281_167, num_bytes=147_897_477_120, image_bytes=147_897_477_120 / 1_281_167
)
"""Its training images, as large as the tar they come in."""
BILLION = ImageSet(
    num_images=10**9,
    num_bytes=round(IMAGENET.image_bytes * 1e9),
    image_bytes=IMAGENET.image_bytes,
    num_files=round(IMAGENET.image_bytes * 1e9 / 2**27),
)
"""In shards of 128 MiB, as prepare makes them."""
L4, A100 = None, 60_000.0
"""GFLOP/s: the default, and NVIDIA's 2,470 images/s in training a ResNet-50 (24.5 GFLOP each)."""
MACHINES = [(1, 0), (4, 0), (8, 4), (16, 8), (64, 32)]
CPU_A = PlanConfig(num_cpus=2, gflops=138.0)
"""Machine A, by its training step: 7.4 images/s of 37.3 GFLOP on two cores, in bf16."""


def cluster(num_gpu: int, num_cpu: int) -> Cluster:
    """So many machines of either kind as in cluster/aws.yaml."""
    return Cluster(
        num_machines=num_gpu + num_cpu, num_cpus=8 * num_gpu + 16 * num_cpu, num_gpus=num_gpu
    )


def epoch(num_gpu: int, num_cpu: int, plan: PlanConfig) -> Forecast:
    config = override(
        PRESETS["imagenet"], {"scaling.num_workers": num_gpu, "run.name": "an epoch of ImageNet-1K"}
    )
    steps = IMAGENET.num_images // config.optim.batch_size
    return expected(config, IMAGENET, steps, plan, cluster(num_gpu, num_cpu))


def billion(num_gpu: int, num_cpu: int, plan: PlanConfig) -> Forecast:
    config = LabelConfig(output="a billion labels", size_px=224)
    return pipeline.forecast(BILLION, config, "resnet50", plan, cluster(num_gpu, num_cpu))


def example(job: Callable[..., Forecast], num_gpu: int, num_cpu: int) -> str:
    """A whole plan, at the prices that docs/operations.md assumes."""
    price = 0.40 * num_gpu + 0.70 * num_cpu + 0.20
    return f"```\n{job(num_gpu, num_cpu, PlanConfig(dollars_per_hour=price))}\n```"


def grid(job: Callable[..., Forecast]) -> str:
    columns = [(L4, 5.0), (L4, 25.0), (A100, 25.0)]
    names = ("L4, 5 Gbit/s", "L4, 25 Gbit/s", "A100, 25 Gbit/s")
    rows = [f"| GPU machines | CPU machines | {' | '.join(names)} |", "|---:|---:|---|---|---|"]
    for machines in MACHINES:
        cells = []
        for gflops, gbps in columns:
            found = job(*machines, PlanConfig(gflops=gflops, network_gbps=gbps))
            cells.append(f"{found.time}, {found.bottleneck.name}")
        rows.append(f"| {machines[0]} | {machines[1]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def balance() -> str:
    """CPUs that keep a GPU busy: CPU seconds an image by GPU seconds an image."""
    rows = ["| | training | labeling |", "|---|---:|---:|"]
    for name, gflops in (("L4 (9,000 GFLOP/s)", L4), ("A100 (60,000 GFLOP/s)", A100)):
        ratios = []
        for job in (epoch, billion):
            amounts = {
                stage.name: stage.amount for stage in job(1, 0, PlanConfig(gflops=gflops)).stages
            }
            ratios.append(f"{amounts['decode'] / amounts['model']:.1f}")
        rows.append(f"| {name} | {' | '.join(ratios)} |")
    return "\n".join(rows)


def checks() -> str:
    """Runs of machine A, whose rate in the model comes from another measurement."""
    small = ImageSet(num_images=1, num_bytes=0, image_bytes=0)
    on_a = Cluster(num_machines=1, num_cpus=2)
    bench = pipeline.forecast(small, LabelConfig(size_px=224), "resnet18", CPU_A, on_a)
    tiny = {"model.encoder": "resnet18", "data.crop_px": 128, "optim.batch_size": 64}
    train = expected(override(TrainConfig(), tiny), small, 125, CPU_A, on_a)
    val = ImageSet(num_images=5_000, num_bytes=0, image_bytes=0)
    label = pipeline.forecast(val, LabelConfig(size_px=128), "resnet18", CPU_A, on_a)
    seconds = train.bottleneck.seconds + label.bottleneck.seconds
    return "\n".join(
        [
            "| machine A | on paper | measured |",
            "|---|---|---|",
            f"| labeling, ResNet-18, 224 px | {1 / bench.bottleneck.seconds:.0f} images/s "
            "| 50.3 and 39.1 |",
            f"| Tiny-ImageNet: 125 steps of 64, then 5,000 labels | {seconds:.0f} s "
            "| 323 s, three starts and the evaluation among them |",
        ]
    )


def render(text: str) -> str:
    """The document with every part made anew."""
    parts = {
        "epoch": example(epoch, 8, 4),
        "epochs": grid(epoch),
        "billion": example(billion, 64, 32),
        "billions": grid(billion),
        "balance": balance(),
        "checks": checks(),
    }
    for name, part in parts.items():
        pattern = rf"(<!-- {name}, by make docs -->\n).*?(<!-- end -->)"
        made = f"\n{part}\n\n"
        text, count = re.subn(pattern, lambda m, made=made: m[1] + made + m[2], text, flags=re.S)
        if count != 1:
            raise ValueError(f"{DOCUMENT.name}: {count} places for {name!r}, expected 1")
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
