"""Published constants of training, as whole configs."""

from typing import Any

from c2am_dist.config.train import TrainConfig
from c2am_dist.config.tree import override

# Recipe of Bridging the Gap's code (ejkim47/bridging-gap-wsol, configs/), its plain classifier
# included: epochs counted from 0, where it counts from 1.
_CUB: dict[str, Any] = {
    "optim.batch_size": 32,
    "optim.epochs": 70.0,
    "optim.lr": 2e-3,
    "optim.nesterov": True,
    "optim.power": 0.0,
    "optim.decay_epochs": (40.0, 60.0),
    "optim.decay_factor": 0.2,
}
# Its VGG-16 trains the warm-up with batches of 32, the rest with 64; here all with 64.
_CUB_VGG16 = _CUB | {
    "model.encoder": "vgg16",
    "model.output_stride": 16,
    "optim.batch_size": 64,
    "optim.lr": 4e-3,
    "optim.head_lr_factor": 5.0,
    "optim.weight_decay": 5e-4,
}
# METHODS.md, "Bridging the Gap"; the defaults are ResNet-50's on CUB.
_VGG16 = {
    "bridging.drop_weight": 3.0,
    "bridging.similarity_weight": 0.5,
    "bridging.norm_weight": 0.15,
    "bridging.foreground_threshold": 0.6,
    "bridging.background_threshold": 0.1,
    "bridging.drop_threshold": 0.8,
    "bridging.drop_rate": 0.5,
}
# No recipe for ImageNet is published with it. CUB's, but for the length: ten epochs and where the
# learning rate falls are ours, with warm-up and decay at about the same shares.
_IMAGENET = {
    "bridging.norm_class": "target",
    "optim.epochs": 10.0,
    "optim.decay_epochs": (6.0, 9.0),
}


_VOC_CLASSES: dict[str, Any] = {
    "data.resize_px": 544,
    "data.crop_px": 512,
    "model.norm": "frozen",
    "optim.batch_size": 16,
    "optim.epochs": 5.0,
    "optim.lr": 0.1,
    "optim.head_lr_factor": 10.0,
    "optim.max_gradient_norm": 1.0,
}


def _preset(name: str, *changes: dict[str, Any]) -> TrainConfig:
    values: dict[str, Any] = {"preset": name}
    for change in changes:
        values |= change
    return override(TrainConfig(), values)


PRESETS: dict[str, TrainConfig] = {
    "custom": TrainConfig(),
    # METHODS.md, "Constants published"; epochs, sizes and batches as the published code.
    "imagenet": _preset("imagenet"),
    "cub": _preset(
        "cub",
        {
            "data.resize_px": 480,
            "data.crop_px": 448,
            "optim.batch_size": 16,
            "optim.epochs": 20.0,
        },
    ),
    "voc": _preset(
        "voc",
        {
            "data.resize_px": 512,
            "data.crop_px": 448,
            "loss.alpha": 0.25,
            "optim.lr": 1e-3,
            "optim.batch_size": 128,
            "optim.epochs": 10.0,
        },
    ),
    # torchvision's references/classification, which made IMAGENET1K_V1: 8 x 32 images.
    "classifier-imagenet": _preset(
        "classifier-imagenet",
        {
            "method": "classifier",
            "model.output_stride": 32,
            "data.random_resize": True,
            "optim.batch_size": 256,
            "optim.epochs": 90.0,
            "optim.lr": 0.1,
            "optim.head_lr_factor": 1.0,
            "optim.power": 0.0,
            "optim.decay_epochs": (30.0, 60.0),
            "optim.decay_factor": 0.1,
        },
    ),
    "classifier-cub": _preset(
        "classifier-cub", {"method": "classifier", "model.output_stride": 8}, _CUB
    ),
    "bridging-imagenet": _preset("bridging-imagenet", {"method": "bridging"}, _CUB, _IMAGENET),
    "bridging-cub": _preset("bridging-cub", {"method": "bridging"}, _CUB),
    "bridging-imagenet-vgg16": _preset(
        "bridging-imagenet-vgg16", {"method": "bridging"}, _CUB_VGG16, _VGG16, _IMAGENET
    ),
    "bridging-cub-vgg16": _preset("bridging-cub-vgg16", {"method": "bridging"}, _CUB_VGG16, _VGG16),
    # METHODS.md, "PSOL". Its code's schedule would decay after the last epoch.
    "psol": _preset(
        "psol",
        {
            "method": "psol",
            "optim.batch_size": 256,
            "optim.epochs": 6.0,
            "optim.lr": 1e-3,
            "optim.lr_batch_size": 256,
            "optim.head_lr_factor": 2.0,
            "optim.power": 0.0,
        },
    ),
    # Multi-label CAM as WSSS trains it (IRN's and SIPE's classifier): SGD lr 0.1 polynomial, new
    # layers x10, weight decay 1e-4, batch 16, crop 512, 5 epochs. METHODS.md, "SIPE".
    "cam-voc": _preset("cam-voc", {"method": "cam"}, _VOC_CLASSES),
    "sipe-voc": _preset("sipe-voc", {"method": "sipe"}, _VOC_CLASSES),
    # Section 3.5 of the paper names the task, not the constants; these are ours.
    "saliency-voc": _preset(
        "saliency-voc",
        {
            "method": "saliency",
            "data.resize_px": 384,
            "data.crop_px": 352,
            "optim.batch_size": 16,
            "optim.epochs": 10.0,
            "optim.lr": 1e-2,
            "optim.head_lr_factor": 10.0,
        },
    ),
}
