"""What tests of encoders and of their weights share."""

import pytest
import torchvision
from torch import Tensor, nn

from c2am_dist.method.encoders import Encoder, build_encoder


@pytest.fixture(scope="module")
def state_dict() -> dict[str, Tensor]:
    """A whole torchvision ResNet-18, told apart from any freshly built encoder."""
    model = torchvision.models.resnet18()
    nn.init.constant_(model.bn1.running_mean, 0.25)
    return model.state_dict()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder("resnet18")
