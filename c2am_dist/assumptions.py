"""What a dry run assumes: every rate, with its origin, and the flags that replace it."""

import dataclasses

IMAGENET_IMAGE_BYTES = 113_395
"""Mean size of the JPEGs by which decoding was measured (240 of ImageNet's)."""
GPU_GFLOPS = 9_000.0
"""Assumed of an NVIDIA L4 (cluster/*.yaml), of which no figure was found: what NVIDIA publishes
for ResNet-50 on a T4 (1,198 images/s of 8.18 GFLOP), scaled by memory bandwidth (300/320)."""
CPU_GFLOPS = 38.0
"""Measured of a core of machine B (docs/performance.md): a training step in float32."""
LABEL_ROW_CPU_S = 0.0011
"""Threshold, box and PNG of a 14 x 14 map: CPU time measured on machine B."""
REFINE_CPU_S = {"none": 0.0, "crf": 1.3, "guided": 0.1}
"""More for a refined cue of a photo of 640 x 480: CPU time measured on a core of machine C."""
LOT_PAUSE_S = 30.0
"""Assumed, between two lots of shards to label: the last blocks end, the next lot is planned (up to
100,000 runs, some 0.1 ms each), and actors start; their first batch took 5 to 14 s on machine A."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    num_cpus: int | None = None
    """CPUs of all machines together. Given, the plan is for the cluster that this and the next
    two describe; unset, for the one in ``RAY_ADDRESS``, else for this machine."""
    num_gpus: int = 0
    """GPUs of all machines together."""
    num_machines: int = 1
    """Machines that read, decode and train."""
    network_gbps: float = 5.0
    """Gbit/s between a machine and the storage, and between machines. Assumed: what small
    machines sustain; look yours up."""
    images_per_cpu_s: float = 148.5
    """ImageNet-sized images that a CPU reads, decodes and crops in a second. Measured: 297 on
    two cores (docs/performance.md, machine B). A CPU of a cloud machine is often half a core."""
    gflops: float | None = None
    """GFLOP/s that a GPU (or a CPU, where there is none) reaches in the model, not its peak. If
    unset, 9000 of a GPU, assumed, or 38 of a CPU, measured (docs/performance.md)."""
    dollars_per_hour: float | None = None
    """Price of the whole cluster, if the cost is to be printed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_valid = value is None or value > 0 or (field.name == "num_gpus" and value == 0)
            if not is_valid:
                raise ValueError(f"plan.{field.name} must be positive, got {value!r}")
        if self.num_cpus is None and (self.num_gpus, self.num_machines) != (0, 1):
            raise ValueError("plan.num_cpus must be given with plan.num_gpus or plan.num_machines")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    dry_run: bool = False
    """Print what the job would read, compute and cost, and end. Footers are read, no image;
    nothing is started or written."""
    plan: PlanConfig = PlanConfig()
