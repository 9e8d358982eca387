"""The whole main job on generated images: python jobs/quickstart.py.

Generates images, then does what a user with own data and no checkpoint would do, with the
same functions as the other jobs: shards, a briefly pretrained encoder, C2AM without labels,
labels for a held-out split, scores. A second C2AM, from a random encoder, shows what the
pretraining is worth. Each step prints the command that does the same.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tyro

from c2am_dist import cli, storage
from c2am_dist.config import (
    EvaluateConfig,
    LabelConfig,
    PrepareConfig,
    TrainConfig,
    override,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quickstart:
    output: str = "runs/quickstart"
    """Local folder for everything; one left by an earlier quickstart is replaced."""
    storage: Literal["local", "s3"] = "local"
    """Where the jobs read and write: that folder, or a real S3 server on the loopback interface,
    which keeps its objects there."""
    num_train: int = 3200
    """Generated images to train on."""
    num_val: int = 300
    """Generated images to label and score."""
    size_px: int = 128
    """Side of the generated images."""
    seed: int = 0
    """Seeds the images and the training."""
    pretrain_epochs: float = 2.5
    """Epochs of classifier training."""
    c2am_steps: int = 40
    """Steps of C2AM training; a quarter as many from the random encoder, which locks at once."""
    num_workers: int = 2
    """Ray Train workers."""


def train_config(job: Quickstart, uri: str, name: str, values: dict[str, Any]) -> TrainConfig:
    """What the three trainings share, and what one of them sets."""
    common = {
        "data.train": (f"{uri}/shards/train",),
        "model.encoder": "resnet18",
        "optim.batch_size": 32,
        "scaling.num_workers": job.num_workers,
        "run.storage": uri,
        "run.seed": job.seed,
        "run.polarity_images": 128,
    }
    return override(TrainConfig(), {**common, "run.name": name, **values})


def show(step: str, script: str, config: Any, default: Any) -> None:
    """Prints the command line that does what the next call does."""
    flags = " ".join(_flags(config, default, ""))
    print(f"\n== {step}\n$ python jobs/{script} {flags}", flush=True)


def _flags(config: Any, default: Any, prefix: str) -> list[str]:
    flags: list[str] = []
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            flags += _flags(value, usual, f"{name}.")
        elif value != usual and isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name}")
        elif value != usual:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags.append(f"--{name} {text}")
    return flags


def make_shards(job: Quickstart, uri: str) -> None:
    from c2am_dist.data import prepare, synthetic

    print(f"\n== generate {job.num_train} + {job.num_val} images", flush=True)
    synthetic.write_voc(
        f"{job.output}/images",
        num_train=job.num_train,
        num_val=job.num_val,
        seed=job.seed,
        size_px=job.size_px,
    )
    for split in ("train", "val"):
        config = PrepareConfig(
            input=(f"{job.output}/images",),
            output=f"{uri}/shards/{split}",
            format="voc",
            split=split,
            shard_mib=4.0,
            row_group_mib=1.0,
        )
        show(f"shards of {split}", "prepare.py", config, PrepareConfig())
        prepare.prepare(config)


def train(step: str, config: TrainConfig) -> str:
    from c2am_dist.training import fit

    show(step, "train.py", config, TrainConfig())
    return fit(config).checkpoint


def score(uri: str, checkpoint: str, folder: str) -> dict[str, dict[str, float]]:
    """Labels the held-out split and evaluates the labels; returns the metrics."""
    from c2am_dist import evaluation
    from c2am_dist.labeling.job import label

    labels, shards = f"{folder}/labels", f"{uri}/shards/val"
    config = LabelConfig(
        checkpoint=checkpoint,
        input=(shards,),
        output=labels,
        size_px=192,  # half as large again as in training: finer maps give tighter boxes
        flip=True,  # evens out what the padding does to the map
        write_cues="map",
    )
    show("label the held-out split", "label.py", config, LabelConfig())
    label(config)
    scoring = EvaluateConfig(
        labels=(labels,), annotations=(shards,), output=f"{folder}/metrics.json"
    )
    show("evaluate", "evaluate.py", scoring, EvaluateConfig())
    return evaluation.evaluate(scoring)


def main() -> None:
    job = tyro.cli(Quickstart, description=__doc__)
    started = time.perf_counter()
    if os.path.isdir(job.output):
        print(f"replacing {job.output}")
        shutil.rmtree(job.output)
    with where(job) as uri:
        cli.init_ray()
        run(job, uri)
    print(f"\n{time.perf_counter() - started:.0f} s; everything is in {job.output}")


@contextlib.contextmanager
def where(job: Quickstart) -> Iterator[str]:
    """The URI that the jobs work on; for s3, of a server that runs as long as the block."""
    if job.storage == "local":
        yield job.output
        return
    from local_s3 import LocalS3

    with LocalS3(Path(job.output, "s3").absolute()) as server:
        os.environ.update(server.environment)  # Ray's processes inherit it
        yield f"{server.new_bucket()}/quickstart"


def run(job: Quickstart, uri: str) -> None:
    make_shards(job, uri)
    parent, name = os.path.split(uri.rstrip("/"))
    pretraining = train_config(
        job,
        uri,
        "classifier",
        {
            "method": "classifier",
            "model.weights": "none",
            "data.resize_px": 72,
            "data.crop_px": 64,
            "model.norm": "worker",
            # One process with all cores: two would spend as long on exchanging gradients of
            # such small steps as on computing them.
            "scaling.num_workers": 1,
            "optim.epochs": job.pretrain_epochs,
            "optim.lr": 0.02,
            "optim.head_lr_factor": 1.0,
        },
    )
    encoder = train("pretrain an encoder: classifier on the generated labels", pretraining)
    learning = {
        "data.resize_px": 140,
        "data.crop_px": 128,
        "model.norm": "frozen",
        # An encoder this young gains from learning on: docs/performance.md.
        "optim.lr": 1e-2,
        "optim.head_lr_factor": 3.0,
    }
    random_values = {"model.weights": "none", "optim.max_steps": max(1, job.c2am_steps // 4)}
    random = train_config(job, uri, "random", {**learning, **random_values})
    random_checkpoint = train("C2AM from a random encoder, for comparison", random)
    pretrained_values = {"model.weights": encoder, "optim.max_steps": job.c2am_steps}
    pretrained = train_config(
        job, uri, name, {**learning, **pretrained_values, "run.storage": parent or "."}
    )
    checkpoint = train("C2AM from the pretrained encoder, without labels", pretrained)
    metrics = score(uri, random_checkpoint, f"{uri}/random")
    metrics = {"c2am_random_encoder": metrics["c2am"], **score(uri, checkpoint, uri)}
    write_results(job, uri, metrics)


def write_results(job: Quickstart, uri: str, metrics: dict[str, dict[str, float]]) -> None:
    from c2am_dist import report

    text = json.dumps(metrics, indent=2) + "\n"
    storage.write_bytes(f"{job.output}/metrics.json", text.encode())
    labels, images = f"{uri}/labels", f"{uri}/shards/val"
    report.contact_sheet([labels], [images], f"{job.output}/contact_sheet.png")
    command = (
        f"python jobs/report.py --labels {labels} --images {images} --run {uri} "
        f"--metrics {uri}/metrics.json --output {job.output}/report"
    )
    print(f"\n== report\n$ {command}", flush=True)
    report.write_report(
        f"{job.output}/report",
        labels=[labels],
        images=[images],
        run=uri,
        metrics=f"{uri}/metrics.json",
        command=command,
    )
    print("\nGT-known Loc in percent, on the held-out split")
    rows = {
        "centred box": "centre",
        "C2AM, random encoder": "c2am_random_encoder",
        "C2AM, pretrained encoder": "c2am",
    }
    print(f"{'':26}{'honest':>8}{'oracle':>8}")
    for title, key in rows.items():
        found = metrics[key]
        print(f"{title:26}{found['gt_known_loc']:8.1f}{found['oracle_gt_known_loc']:8.1f}")


if __name__ == "__main__":
    cli.run(main)
