"""The model that ``--checkpoint`` names: a checkpoint of this package, or a plain classifier.

A plain one is a torchvision-format file, or weights that torchvision publishes, as they are. It
becomes a `Checkpoint` of method ``classifier``, or ``encoder`` where there is no linear layer over
the pooled features; from then on nothing tells the two apart.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from c2am_dist import checkpoint, storage
from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.classifier import Classifier
from c2am_dist.method.encoders import Encoder, build_encoder
from c2am_dist.method.psol import BoxRegressor
from c2am_dist.method.saliency import SaliencyNet
from c2am_dist.method.sipe_model import SipeClassifier
from c2am_dist.method.weights import (
    WeightsError,
    is_weights_name,
    linear_layer,
    load_weights,
    read_state_dict,
    torchvision_state_dict,
)

PLAIN_PX = 224
"""Side of the images that torchvision's encoders were trained on."""
SHARD_LABELS = "labels"
"""``class_names``: the sorted labels of the shards."""


class Source(NamedTuple):
    """A model and where it is from."""

    loaded: Checkpoint
    sha256: str
    uri: str
    """The checkpoint's folder, the file, or the weights' name."""


def load(
    uri: str, *, encoder: str | None, class_names: Callable[[], Sequence[str]] | None
) -> Source:
    """The model that a URI or a weights name stands for.

    Args:
        uri: of a checkpoint folder, of a run, or with ``encoder`` of a plain one.
        encoder: architecture of a plain one.
        class_names: gives the classes of a plain classifier's outputs, and may raise; None takes
            its encoder alone.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is not what it should be; names the URI or the flag.
    """
    if encoder is None:
        folder = checkpoint.find(uri)
        return Source(*checkpoint.load(folder), folder)
    state, sha256 = read_weights(uri, encoder)
    try:
        return Source(_plain(uri, encoder, state, class_names), sha256, uri)
    except WeightsError as error:
        raise CheckpointError(f"{uri}: {error}") from error


def read_weights(uri: str, name: str) -> tuple[dict[str, Any], str]:
    """The state dict of a file, or of weights that torchvision publishes; and a SHA-256.

    The digest is of the file, or for weights of their tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or is a checkpoint folder; names it.
    """
    if is_weights_name(uri) and not storage.exists(uri):
        state = torchvision_state_dict(name, uri)
        return state, digest_of_tensors(state)
    if storage.exists(uri) and not storage.info(uri).is_file:
        raise CheckpointError(
            f"{uri}: a folder, whose checkpoint knows its own architecture: leave out the flag "
            f"that says {name}"
        )
    data = storage.read_bytes(uri)
    return read_state_dict(data, uri), hashlib.sha256(data).hexdigest()


def digest_of_tensors(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(
    uri: str, name: str, state: Mapping[str, Any], class_names: Callable[[], Sequence[str]] | None
) -> Checkpoint:
    encoder = build_encoder(name)
    load_weights(encoder, state)
    model = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    linear, classes = linear_layer(state, encoder.num_last_features), list[str]()
    if linear is not None and class_names is not None:
        model |= {"fc.weight": linear[0], "fc.bias": linear[1]}
        classes = list(class_names())
        check_class_names(uri, classes, len(linear[0]))
    return Checkpoint(
        method="classifier" if classes else "encoder",
        encoder=name,
        model=model,
        optimizer={},
        step=0,
        total_steps=0,
        classes=classes,
        polarity="",
        polarity_margin=0.0,
        border_lock=0.0,
        crop_px=PLAIN_PX,
        weights_sha256="",
        config="{}",
    )


def check_class_names(uri: str, names: Sequence[str], num_outputs: int) -> None:
    """Raises ValueError naming a classifier that has more or fewer outputs than classes."""
    if len(names) != num_outputs:
        raise ValueError(
            f"{uri}: class_names gives {len(names)} classes, "
            f"the classifier has {num_outputs} outputs"
        )


def torchvision_categories(name: str, weights_name: str) -> list[str]:
    """What torchvision calls the outputs of its own weights: English names, all different."""
    member = weights_name.rpartition(".")[2]
    return list(torchvision.models.get_model_weights(name)[member].meta["categories"])


def read_class_names(uri: str) -> list[str]:
    """The classes of a text file, one a line in the order of the outputs.

    Raises:
        ValueError: a line is empty or comes twice; names the file.
    """
    try:
        lines = storage.read_bytes(uri).decode().rstrip("\n").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: not UTF-8 ({error})") from error
    names = [line.strip() for line in lines]
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise ValueError(f"{uri}: class {repeated!r} comes twice")
    if "" in names:
        raise ValueError(f"{uri}: line {names.index('') + 1} is empty")
    return names


def find_class_names(
    given: str, uri: str, name: str, shard_labels: Callable[[], Sequence[str]]
) -> list[str]:
    """The classes of a plain classifier's outputs.

    Args:
        given: ``class_names`` as it was given.
        uri: the classifier's.
        name: its architecture.
        shard_labels: reads the labels of the shards.

    Raises:
        ValueError: nothing says what the outputs are.
    """
    if given == SHARD_LABELS:
        return sorted(shard_labels())
    if given:
        return read_class_names(given)
    if is_weights_name(uri) and not storage.exists(uri):
        return torchvision_categories(name, uri)
    raise ValueError(
        f"class_names must be given (--class-names FILE, a class a line, or {SHARD_LABELS!r}): "
        f"{uri} does not say what its outputs are called"
    )


class BareEncoder(nn.Module):
    """An encoder without a head, for DDT."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)


Model = C2AM | Classifier | BoxRegressor | SipeClassifier | SaliencyNet | BareEncoder


def build(loaded: Checkpoint) -> Model:
    """The model of a checkpoint, its values still random.

    Raises:
        ValueError: the encoder is unknown, or the method.
    """
    encoder = build_encoder(loaded.encoder, output_stride=loaded.output_stride)
    match loaded.method:
        case "c2am":
            return C2AM(encoder)
        case "classifier" | "cam" | "bridging":  # whose parameters are a classifier's
            return Classifier(encoder, len(loaded.classes))
        case "psol":
            return BoxRegressor(encoder)
        case "sipe":
            return SipeClassifier(encoder, len(loaded.classes))
        case "saliency":
            return SaliencyNet(encoder)
        case "encoder":
            return BareEncoder(encoder)
        case _:
            raise ValueError(f"no model of method {loaded.method!r}")


def filled(loaded: Checkpoint, uri: str) -> Any:
    """The checkpoint's model in evaluation mode.

    Raises:
        CheckpointError: it holds another architecture; names the URI.
    """
    try:
        model = build(loaded)
        model.load_state_dict(loaded.model)
    except (ValueError, RuntimeError) as error:
        what = {"c2am": "C2AM", "psol": "box regressor"}.get(loaded.method, loaded.method)
        raise CheckpointError(
            f"{uri}: the weights are not those of a {what} with {loaded.encoder}: {error}"
        ) from error
    return model.eval()
