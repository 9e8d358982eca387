"""A plain image classifier: the stand-in for supervised pretraining, and the base of CAM."""

from jaxtyping import Float
from torch import Tensor, nn

from c2am_dist.method.encoders import Encoder


class Classifier(nn.Module):
    """Encoder, global average pooling over its last stage, and a linear layer.

    Only the last stage (layer4 of a ResNet) feeds ``fc``, as in torchvision's ResNets, so that
    class activation maps are Zhou et al.'s and a torchvision ``fc`` fits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {num_classes}")
        self.encoder = encoder
        self.fc = nn.Linear(encoder.num_last_features, num_classes)

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n k"]:
        """Logits of normalised images, one a class."""
        features = self.encoder.last_stage(self.encoder(images))
        return self.fc(features.mean(dim=(2, 3)))
