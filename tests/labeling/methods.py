"""Checkpoints of every method with random weights, and labeled shards."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from c2am_dist import checkpoint
from c2am_dist.checkpoint import Checkpoint
from c2am_dist.method import encoders, images
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import build_encoder
from c2am_dist.method.psol import BoxRegressor
from c2am_dist.method.saliency import SaliencyNet
from c2am_dist.method.sipe_model import SipeClassifier
from tests.checkpoints import CROP_PX

CLASSES = ["bird", "cat", "dog"]


def save(uri: Path, model: nn.Module, method: str, *, output_stride: int = 16) -> Path:
    """Saves a model as a finished run of that method."""
    saved = Checkpoint(
        method=method,
        encoder="resnet18",
        model=model.state_dict(),
        optimizer={},
        step=10,
        total_steps=10,
        classes=CLASSES if method in ("classifier", "bridging", "cam", "sipe") else [],
        polarity="",
        polarity_margin=0.0,
        border_lock=0.0,
        crop_px=CROP_PX,
        weights_sha256="",
        config="{}",
        output_stride=output_stride,
    )
    checkpoint.save(str(uri), dataclasses.replace(saved))
    return uri


def settled(model: nn.Module) -> nn.Module:
    """A model whose BatchNorm has seen some images, so that its outputs vary."""
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.rand(4, 3, CROP_PX, CROP_PX) * 4 - 2)
    return model.eval()


def random_classifier(output_stride: int = 16) -> Classifier:
    torch.manual_seed(1)
    model = Classifier(build_encoder("resnet18", output_stride=output_stride), len(CLASSES))
    return settled(model)  # type: ignore


def random_sipe() -> SipeClassifier:
    """Of classes that are in some images and not in others."""
    torch.manual_seed(3)
    model = SipeClassifier(build_encoder("resnet18"), len(CLASSES))
    settled(model.encoder)
    return model.eval()


def random_saliency() -> SaliencyNet:
    torch.manual_seed(4)
    return settled(SaliencyNet(build_encoder("resnet18")))  # type: ignore


def random_regressor() -> BoxRegressor:
    torch.manual_seed(2)
    return settled(BoxRegressor(build_encoder("resnet18", output_stride=32)))  # type: ignore


def write_labeled(path: Path, rows: Sequence[tuple[str, bytes, str | None]]) -> Path:
    """A shard of ids, images and labels, in row groups of four."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, data, labels = zip(*rows, strict=True)
    columns = {
        "image_id": pa.array(ids, pa.string()),
        "image": pa.array(data, pa.binary()),
        "label": pa.array(labels, pa.string()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


def write_listed(path: Path, rows: Sequence[tuple[str, bytes, list[str | None] | None]]) -> Path:
    """A shard of ids, images and lists of classes, in row groups of four."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, data, labels = zip(*rows, strict=True)
    columns = {
        "image_id": pa.array(ids, pa.string()),
        "image": pa.array(data, pa.binary()),
        "labels": pa.array(labels, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


def network_input(data: Sequence[bytes], size_px: int = CROP_PX) -> Tensor:
    """Images as a network sees them, decoded one by one."""
    decoded = [images.decode(each, min_side_px=size_px) for each in data]
    squares = [images.resize_square(image, size_px) for image in decoded]
    return encoders.normalise(torch.tensor(np.stack(squares)))
