"""Checkpoints that no training run has to make first."""

import dataclasses
from pathlib import Path

import torch

from c2am_dist import checkpoint
from c2am_dist.checkpoint import Checkpoint
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import build_encoder

CROP_PX = 64


def random_c2am(encoder: str = "resnet18") -> C2AM:
    """Random weights whose BatchNorm has seen some images, so that maps vary."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = C2AM(build_encoder(encoder))
    with torch.no_grad():
        for _ in range(8):
            model.train()(torch.rand(8, 3, CROP_PX, CROP_PX) * 4 - 2)
    return model.eval()


def save_c2am(uri: Path, model: C2AM, **changes: object) -> str:
    """Saves it as a finished run of ten steps; ``changes`` are fields of the checkpoint."""
    saved = Checkpoint(
        method="c2am",
        encoder="resnet18",
        model=model.state_dict(),
        optimizer={},
        step=10,
        total_steps=10,
        classes=[],
        polarity="foreground",
        polarity_margin=0.4,
        border_lock=0.0,
        crop_px=CROP_PX,
        weights_sha256="",
        config="{}",
    )
    return checkpoint.save(str(uri), dataclasses.replace(saved, **changes))
