"""Gradients of losses that are a mean over the images of the global batch.

Each image has a loss of its own, so a worker sums its own images' and divides by its share of
the batch; DistributedDataParallel's average over workers is then the global mean, also where the
workers' parts differ in size. Micro-batches add up alike.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from c2am_dist.config import TrainConfig
from c2am_dist.method.bridging import BridgingConstants, bridging_loss
from c2am_dist.method.bridging_model import BridgingClassifier
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import Encoder, build_encoder
from c2am_dist.method.multilabel import f1_scores, soft_margin_loss
from c2am_dist.method.psol import BoxRegressor, box_losses, relative_iou
from c2am_dist.method.saliency import SaliencyNet, saliency_loss
from c2am_dist.method.sipe import sipe_loss
from c2am_dist.method.sipe_model import SipeClassifier
from c2am_dist.method.vectors import wide
from c2am_dist.training.batch import Autocast, Batch, num_workers, without_sync

Terms = dict[str, Tensor]
"""Name -> a number for each image; ``loss`` is what is trained, the others are logged."""


def _backward(
    model: nn.Module,
    batch: Batch,
    terms_of: Callable[[Batch], Terms],
    *,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """Adds the gradients of the mean loss; returns this worker's share of each term's mean."""
    share = config.optim.batch_size / num_workers()
    sums: dict[str, Tensor] = {}
    pieces = batch.split(config.optim.accumulation)
    for position, piece in enumerate(pieces):
        with without_sync(model, unless=position == len(pieces) - 1):
            terms = {name: values.sum() / share for name, values in terms_of(piece).items()}
            terms["loss"].backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
    return sums


class ClassifierMethod:
    """Cross entropy on the shards' labels: supervised pretraining for an encoder, and CAM's."""

    def build(self, config: TrainConfig, *, num_classes: int) -> Classifier:
        return Classifier(_encoder(config), num_classes=num_classes)

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        def terms_of(piece: Batch) -> Terms:
            assert piece.labels is not None
            with autocast():
                logits = model(piece.images)
            logits = wide(logits)
            loss = F.cross_entropy(logits, piece.labels, reduction="none")
            return {"loss": loss, "accuracy": _is_correct(logits, piece.labels)}

        return _backward(model, batch, terms_of, config=config)


class MultilabelMethod:
    """Multi-label soft margin on the shards' label lists: CAM's classifier for segmentation."""

    def build(self, config: TrainConfig, *, num_classes: int) -> Classifier:
        return Classifier(_encoder(config), num_classes=num_classes)

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        def terms_of(piece: Batch) -> Terms:
            assert piece.labels is not None
            with autocast():
                logits = model(piece.images)
            loss = soft_margin_loss(logits, piece.labels, check=False)
            return {"loss": loss, "f1": f1_scores(logits, piece.labels)}

        return _backward(model, batch, terms_of, config=config)


class SipeMethod:
    """A multi-label classifier whose maps agree with those of each image's own prototypes."""

    def build(self, config: TrainConfig, *, num_classes: int) -> SipeClassifier:
        return SipeClassifier(_encoder(config), num_classes)

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        def terms_of(piece: Batch) -> Terms:
            assert piece.labels is not None
            # Unchecked: to look at values would wait for the device in every step, and the loss
            # of features that are not finite is not either.
            with autocast():
                output = model(piece.images, piece.labels, check=False)
            losses = sipe_loss(output, piece.labels, check=False)
            f1 = f1_scores(output.logits, piece.labels)
            return {"loss": losses.total, **losses._asdict(), "f1": f1}

        return _backward(model, batch, terms_of, config=config)


class BridgingMethod:
    """A classifier whose features point where its class does; alignment after a warm-up."""

    def build(self, config: TrainConfig, *, num_classes: int) -> BridgingClassifier:
        return BridgingClassifier(_encoder(config), num_classes, _constants(config))

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        constants = _constants(config)
        is_warmup = batch.step < round(constants.warmup_share * batch.total_steps)
        inner = model.module if isinstance(model, DistributedDataParallel) else model

        def terms_of(piece: Batch) -> Terms:
            assert piece.labels is not None
            with autocast():
                output = model(piece.images, _dropout(piece, config))
            losses = bridging_loss(
                output,
                inner.fc.weight,  # type: ignore
                piece.labels,
                constants=constants,
                is_warmup=is_warmup,
            )
            is_correct = _is_correct(wide(output.logits), piece.labels)
            return {"loss": losses.total, **losses._asdict(), "accuracy": is_correct}

        return _backward(model, batch, terms_of, config=config)


class BoxMethod:
    """PSOL: one box an image, regressed from pseudo boxes."""

    def build(self, config: TrainConfig, *, num_classes: int) -> BoxRegressor:
        return BoxRegressor(_encoder(config))

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        def terms_of(piece: Batch) -> Terms:
            assert piece.boxes is not None and piece.is_visible is not None
            with autocast():
                predicted = model(piece.images)
            with torch.no_grad():
                iou = relative_iou(predicted, piece.boxes)
            return {"loss": box_losses(predicted, piece.boxes, piece.is_visible), "box_iou": iou}

        return _backward(model, batch, terms_of, config=config)


class SaliencyMethod:
    """The foreground of each image, from the background cues of all."""

    def build(self, config: TrainConfig, *, num_classes: int) -> SaliencyNet:
        return SaliencyNet(_encoder(config))

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        def terms_of(piece: Batch) -> Terms:
            assert piece.cues is not None and piece.is_known is not None
            with autocast():
                logits = model(piece.images)
            is_known = piece.is_known[:, None, None, None]
            return {"loss": saliency_loss(logits, 1 - piece.cues[:, None], is_known)}

        return _backward(model, batch, terms_of, config=config)


def _encoder(config: TrainConfig) -> Encoder:
    return build_encoder(config.model.encoder, output_stride=config.output_stride)


def _constants(config: TrainConfig) -> BridgingConstants:
    return BridgingConstants(**dataclasses.asdict(config.bridging))


def _is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == labels).to(logits.dtype)


def _dropout(batch: Batch, config: TrainConfig) -> Callable[[int, int], Tensor]:
    """The dropout's numbers for maps of a size, drawn from (seed, step, place in the batch).

    Every worker draws those of the whole batch and takes its own, which costs less than a
    generator for each image; neither the workers, nor the device, nor a resume changes them.
    """

    def draw(height: int, width: int) -> Tensor:
        rng = np.random.default_rng([config.run.seed, batch.step, 0, 1])  # no one else's
        shape = (config.optim.batch_size, 1, height, width)
        own = slice(batch.row_offset, batch.row_offset + len(batch.images))
        draws = torch.from_numpy(rng.random(shape, np.float32)[own])
        return draws.to(batch.images.device, non_blocking=True)

    return draw
