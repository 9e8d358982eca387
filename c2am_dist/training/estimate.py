"""Training on paper: what ``--dry-run`` prints."""

from c2am_dist import checkpoint, forecast, storage
from c2am_dist.assumptions import PlanConfig
from c2am_dist.config import TrainConfig
from c2am_dist.data import plan
from c2am_dist.forecast import Cluster, Forecast, ImageSet, Schedule, Workers
from c2am_dist.method.flops import Footprint, footprint_of
from c2am_dist.training import inputs
from c2am_dist.training.fit import refuse_other_config, shares
from c2am_dist.training.methods import METHODS

ASSUMED_CLASSES = 1000
"""Of a classifier on paper: ImageNet's. To count them would mean reading every label."""
ASSUMED_LISTED_CLASSES = 20
"""The same where an image may have several: VOC's. SIPE's maps cost something for each."""


def dry_run(config: TrainConfig, plan_config: PlanConfig, cluster: Cluster) -> Forecast:
    """What :func:`fit` has still to do: reads footers, writes nothing, needs no Ray.

    Raises:
        FileNotFoundError, ValueError: as :func:`fit`, for the shards and the config.
    """
    config.check_complete()
    run = storage.absolute(storage.join(config.run.storage, config.run.name))
    refuse_other_config(run, config)
    found = inputs.find_images(config).row_groups
    row_groups = plan.limit(found, config.data.limit)
    images = ImageSet(
        num_images=sum(group.num_rows for group in row_groups),
        num_bytes=sum(group.num_bytes for group in row_groups),
        image_bytes=sum(group.num_bytes for group in found) / sum(g.num_rows for g in found),
    )
    total_steps = inputs.num_steps(config, row_groups)[1]
    if storage.exists(storage.join(run, "checkpoint", "manifest.json")):
        steps = 0
    else:
        steps = total_steps - (checkpoint.latest_step(run) or 0)
    return expected(config, images, steps, plan_config, cluster)


def expected(
    config: TrainConfig, images: ImageSet, steps: int, plan_config: PlanConfig, cluster: Cluster
) -> Forecast:
    """What so many steps over a set would take, on as many workers as Ray Train would start."""
    model = _footprint(config)
    is_contrastive = config.method == "c2am"
    # Backward takes twice forward; to accumulate, the contrast runs forward once more.
    passes = 4 if is_contrastive and config.optim.accumulation > 1 else 3
    is_gathered = is_contrastive and config.loss.contrast == "global"
    schedule = Schedule(
        steps=steps,
        batch_size=config.optim.batch_size,
        crop_px=config.data.crop_px,
        window_images=max(config.data.shuffle_images, config.optim.batch_size),
        prefetch=config.data.prefetch,
        flops=passes * model.flops,
        num_parameters=model.num_parameters,
        num_gathered=2 * model.num_features if is_gathered else 0,
    )
    use_gpu, cpus = shares(config, {"CPU": cluster.num_cpus, "GPU": cluster.num_gpus})
    number = config.scaling.max_workers
    if use_gpu and cluster.num_gpus:
        number = max(config.scaling.min_workers, min(number, cluster.num_gpus))
    idle = max(1.0, cluster.num_cpus - number * cpus)
    workers = Workers(
        number=number,
        on_gpus=use_gpu,
        num_decode_cpus=min(idle, config.data.decode_tasks or idle),
        cluster=cluster,
        plan=plan_config,
    )
    return forecast.training(config.run.name, images, schedule, workers)


def _footprint(config: TrainConfig) -> Footprint:
    num_classes = ASSUMED_LISTED_CLASSES if config.needs_label_lists else ASSUMED_CLASSES
    return footprint_of(
        lambda: METHODS[config.method].build(config, num_classes=num_classes),
        config.data.crop_px,
    )
