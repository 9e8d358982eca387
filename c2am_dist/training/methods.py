"""What the loop asks of a trainable method: build it, and take the gradients of a batch."""

from typing import Protocol

from torch import Tensor, nn

from c2am_dist.config import Method, TrainConfig
from c2am_dist.method.bridging_model import BridgingClassifier
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.psol import BoxRegressor
from c2am_dist.method.saliency import SaliencyNet
from c2am_dist.method.sipe_model import SipeClassifier
from c2am_dist.training.batch import Autocast, Batch
from c2am_dist.training.contrast import ContrastiveMethod
from c2am_dist.training.per_image import (
    BoxMethod,
    BridgingMethod,
    ClassifierMethod,
    MultilabelMethod,
    SaliencyMethod,
    SipeMethod,
)

Model = C2AM | Classifier | BridgingClassifier | BoxRegressor | SipeClassifier | SaliencyNet


class Trainable(Protocol):
    """A method the loop can train."""

    def build(self, config: TrainConfig, *, num_classes: int) -> Model:
        """The model, its encoder still random."""
        ...

    def backward(
        self, model: nn.Module, batch: Batch, *, config: TrainConfig, autocast: Autocast
    ) -> dict[str, Tensor]:
        """Adds the batch's gradients; returns detached scalars whose mean over workers is logged.

        ``loss`` must be among them.
        """
        ...


METHODS: dict[Method, Trainable] = {
    "c2am": ContrastiveMethod(),
    "classifier": ClassifierMethod(),
    "cam": MultilabelMethod(),
    "bridging": BridgingMethod(),
    "psol": BoxMethod(),
    "sipe": SipeMethod(),
    "saliency": SaliencyMethod(),
}
