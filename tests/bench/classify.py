"""Top-5 predictions, once running, against a bare loop of decoding and forward passes.

As the `labeling` benchmark, with torchvision's classifier of the same encoder and 1,000 classes.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision

from c2am_dist.config import ClassifyConfig
from c2am_dist.labeling.classify import classify
from c2am_dist.method import images
from tests.bench.labeling import (
    BATCH,
    ENCODER,
    PRECISION,
    SIZE_PX,
    bare_rate,
    on_device,
    row,
    steady,
)

NUM_CLASSES = 1000


def run() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = torchvision.models.get_model(ENCODER, weights=None, num_classes=NUM_CLASSES).eval()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), f"{folder}/weights.pth")
        Path(folder, "classes.txt").write_text("".join(f"{i}\n" for i in range(NUM_CLASSES)))
        config = ClassifyConfig(
            checkpoint=f"{folder}/weights.pth",
            architecture=ENCODER,
            class_names=f"{folder}/classes.txt",
            resize_px=SIZE_PX,
            crop_px=SIZE_PX,
            batch_size=BATCH,
            precision=PRECISION,
        )
        model = on_device(model)

        def classify_s(shards: str, output: Path) -> float:
            job = dataclasses.replace(config, input=(shards,), output=str(output))
            return classify(job).elapsed_s

        def bare(shards: Path, num_threads: int) -> float:
            return bare_rate(model, images.resize_middle, shards, num_threads)

        running, alone, _, cpus = steady(classify_s, bare)
    return [row("top-5 predictions", 0.9, (running, alone), cpus)]
