"""DDT's first pass: the principal component of each class, or of the whole set.

What is shared out among the actors keeps the result independent of their number. Of the whole set,
a unit of work is a shard, and the driver merges the shards' statistics in order. By class, a unit
is some classes over all shards: it reads all of them and runs the images of its classes alone, so
statistics of one class never lie on two actors, and those of all classes never lie on one. Images
meet the batches that their own class fills, whichever classes share a unit.

The result is one file in the output folder: a job that is cut off later does not start from here.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from c2am_dist import storage
from c2am_dist.config import LabelConfig
from c2am_dist.data import placement, shards
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.batches import pack, unpack
from c2am_dist.labeling.decode import COLUMNS, Decoding, decode_batch
from c2am_dist.labeling.localizers import WHOLE_SET
from c2am_dist.labeling.transforms import FILE, Transforms, from_bytes, to_bytes
from c2am_dist.method import encoders
from c2am_dist.method.ddt import DescriptorStats, DescriptorTransform, principal_component
from c2am_dist.method.encoders import Encoder

HELD_BYTES = 2 * 2**30
"""For the classes that an actor holds at once (:func:`class_bytes`): 55 of a ResNet-50's 2048
channels, 300 of a ResNet-18's 512. More classes are more units, and each unit reads all shards."""
UNITS_AN_ACTOR = 2
"""At least, so that no actor waits long for the last."""
SOLVED_AT_ONCE = 16
"""Blocks of statistics, of some classes each, in eigendecomposition or waiting for it."""
DECODE_THREADS = 8
"""Of an actor with a GPU; one without decodes in its own CPU."""


class Collector:
    """Statistics of a unit of work, on an actor.

    Args:
        encoder: reference to it.
        config: of the job.
        uris: all shards.
        num_threads: that decode.
    """

    def __init__(
        self,
        encoder: "ray.ObjectRef[Encoder]",
        config: LabelConfig,
        uris: "ray.ObjectRef[list[str]]",
        num_threads: int,
    ) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = ray.get(encoder).to(self._device)
        self._encoder.to(memory_format=torch.channels_last)  # type: ignore
        self._config = config
        self._uris = ray.get(uris)
        self._decoding = decoding_of(config, "label" if config.ddt_scope == "class" else "none")
        self._num_threads = num_threads

    def __call__(self, units: pa.Table) -> Iterator[pa.Table]:
        """For each class of a unit, a packed batch of its statistics."""
        torch.set_num_threads(1)  # see ModelActor
        (unit,) = units.to_pylist()
        classes = unit["classes"] or [WHOLE_SET]
        stats = {name: self._empty() for name in classes}
        uris = [unit["uri"]] if unit["uri"] else self._uris
        for name, pixels in self._batches(uris, unit["classes"]):
            self._add(stats[name], pixels)
        for name, each in stats.items():
            yield _packed(name, each.cpu())

    def _empty(self) -> DescriptorStats:
        return DescriptorStats.empty(self._encoder.num_last_features, self._device)

    @torch.inference_mode()
    def _add(self, stats: DescriptorStats, pixels: Sequence[np.ndarray]) -> None:
        batch = encoders.normalise(torch.tensor(np.stack(pixels)).to(self._device))
        is_bf16 = self._config.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_bf16):
            features = self._encoder.last_stage(self._encoder(batch))
        # Those that are not finite become rows with an error in pass two.
        stats.add(features[torch.isfinite(features).flatten(1).all(dim=1)])

    def _batches(
        self, uris: Sequence[str], classes: Sequence[str] | None
    ) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Images of one class at a time, ``batch_size`` of them, in the order of the shards."""
        pending = defaultdict[str, list[np.ndarray]](list)
        with ThreadPoolExecutor(self._num_threads) as pool:
            for name, pixels in self._images(uris, classes, pool):
                pending[name].append(pixels)
                if len(pending[name]) == self._config.batch_size:
                    yield name, pending.pop(name)
        yield from sorted(pending.items())

    def _images(
        self, uris: Sequence[str], classes: Sequence[str] | None, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[str, np.ndarray]]:
        """The class and the pixels of every wanted image that can be decoded."""
        step = self._config.batch_size
        for uri in uris:
            for table in _wanted(uri, classes):
                parts = [table[start : start + step] for start in range(0, len(table), step)]
                for batch in pool.map(lambda part: decode_batch(part, uri, self._decoding), parts):  # noqa: B023
                    names = batch["label"] if classes else [WHOLE_SET] * len(batch["error"])
                    for name, pixels, error in zip(
                        names, batch["pixels_0"], batch["error"], strict=True
                    ):
                        if not error:
                            yield name, pixels


def _wanted(uri: str, classes: Sequence[str] | None) -> Iterator[pa.Table]:
    """The rows of a shard's row groups that are of some classes; the images of no others."""
    for group in shards.index([uri], allow_empty=True):
        if classes is None:
            yield shards.read(group, COLUMNS)
            continue
        labels = shards.read(group, ["label"])["label"]
        is_wanted = pc.is_in(labels, value_set=pa.array(classes, pa.string()))  # type: ignore
        if is_wanted.to_numpy().any():
            yield shards.read(group, [*COLUMNS, "label"]).filter(is_wanted)


def decoding_of(config: LabelConfig, labels: Literal["none", "label", "labels"]) -> Decoding:
    """How a job decodes, both passes alike.

    Args:
        config: of the job.
        labels: which column of classes it needs.
    """
    return Decoding(
        sizes_px=config.sizes_px,
        batch_size=config.batch_size,
        max_pixels=config.max_megapixels * 1e6,
        labels=labels,
        keeps_files=config.refine_cues != "none",
    )


def _packed(name: str, stats: DescriptorStats) -> pa.Table:
    counts = np.array([stats.num_positions, stats.num_images])
    return pack(
        {
            "name": np.array([name], dtype=object),
            "mean": stats.mean.numpy(),
            "scatter": stats.scatter.numpy(),
            "counts": counts,
        }
    )


def _unpacked(block: pa.Table) -> Iterator[tuple[str, DescriptorStats]]:
    for batch in unpack(block):
        num_positions, num_images = batch["counts"].tolist()
        mean, scatter = (torch.tensor(batch[name]) for name in ("mean", "scatter"))
        yield batch["name"][0], DescriptorStats(mean, scatter, num_positions, num_images)


def find(
    config: LabelConfig, encoder: Encoder, uris: Sequence[str], counts: Mapping[str, int] | None
) -> tuple[Transforms, str]:
    """The transforms in the output folder, made now if they are not there; and their digest.

    Args:
        config: of the job.
        encoder: in evaluation mode.
        uris: all shards.
        counts: images of each class; None for the whole set.

    Raises:
        ValueError: the whole set has fewer than two images that can be read, or the file in the
            folder is none of this job's; names it.
    """
    uri = storage.join(config.output, FILE)
    if not storage.exists(uri):
        storage.write_bytes(uri, to_bytes(_compute(config, encoder, uris, counts)))
    data = storage.read_bytes(uri)
    try:
        found = from_bytes(data)
        is_ours = found.by_class.keys() | found.reasons.keys() == set(counts or [WHOLE_SET])
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{uri}: not the transforms of a DDT job ({error})") from error
    if not is_ours:
        raise ValueError(f"{uri}: its classes are not those of the shards: delete the folder")
    return found, hashlib.sha256(data).hexdigest()


def _compute(
    config: LabelConfig, encoder: Encoder, uris: Sequence[str], counts: Mapping[str, int] | None
) -> Transforms:
    shares = pipeline.find_resources(config)
    units = plan_units(
        uris,
        sorted(counts) if counts else None,
        class_bytes=class_bytes(encoder.num_last_features, config),
        min_units=UNITS_AN_ACTOR * shares.num_actors,
    )
    print(
        f"{config.output}: pass one of two, {len(units)} units of "
        f"{f'{len(counts)} classes' if counts else 'the whole set'}, "
        f"{8 * encoder.num_last_features**2 / 2**20:g} MiB of statistics a class",
        flush=True,
    )
    blocks = _blocks(units, config, encoder, uris, shares)
    if counts is None:
        whole = DescriptorStats.empty(encoder.num_last_features)
        for ref in blocks:
            for _, stats in _unpacked(ray.get(ref)):
                whole = whole.merge(stats)
        try:
            return Transforms({WHOLE_SET: principal_component(whole)}, {})
        except ValueError as error:
            raise ValueError(f"{', '.join(config.input)}: {error}") from error
    solving, solved = deque[ray.ObjectRef](), []
    for ref in blocks:
        solving.append(_solve.remote(ref))
        if len(solving) > SOLVED_AT_ONCE:  # statistics would pile up
            solved += ray.get(solving.popleft())
    solved += [each for some in ray.get(list(solving)) for each in some]
    return Transforms(
        {name: found for name, found in solved if not isinstance(found, str)},
        {name: found for name, found in solved if isinstance(found, str)},
    )


def _blocks(
    units: Sequence[dict[str, Any]],
    config: LabelConfig,
    encoder: Encoder,
    uris: Sequence[str],
    shares: pipeline.Resources,
) -> Iterator[Any]:
    """References to blocks of packed statistics, in the order of the units."""
    columns = {"uri": pa.string(), "classes": pa.list_(pa.string())}
    table = pa.Table.from_pylist(list(units), pa.schema(columns))
    dataset = ray.data.from_arrow([table[i : i + 1] for i in range(len(units))])
    dataset.context.execution_options.preserve_order = True
    if shares.actor_gpus:
        placement.prefer_nodes_without_gpu(dataset)
    stats = dataset.map_batches(
        Collector,
        fn_constructor_args=(
            ray.put(encoder),
            config,
            ray.put(list(uris)),
            DECODE_THREADS if shares.actor_gpus else 1,
        ),
        batch_size=1,  # unit
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(shares.num_actors, len(units))),
        num_cpus=shares.actor_cpus,
        num_gpus=shares.actor_gpus,
    )
    for bundle in stats.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref


@ray.remote(num_cpus=1)  # type: ignore
def _solve(block: pa.Table) -> list[tuple[str, DescriptorTransform | str]]:
    """The transform of each class of a block, or why there is none."""
    torch.set_num_threads(1)
    found = []
    for name, stats in _unpacked(block):
        try:
            found.append((name, principal_component(stats)))
        except ValueError as error:
            found.append((name, f"class {name!r}: {error}"))
    return found


def class_bytes(num_features: int, config: LabelConfig) -> int:
    """What a class takes of an actor's memory: its scatter matrix, and pixels that wait."""
    return 8 * num_features**2 + 3 * config.batch_size * config.sizes_px[0] ** 2


def plan_units(
    uris: Sequence[str], classes: Sequence[str] | None, *, class_bytes: int, min_units: int
) -> list[dict[str, Any]]:
    """The units of work: shards, or groups of classes whose statistics fit into `HELD_BYTES`.

    Args:
        uris: all shards.
        classes: all classes; None for the whole set.
        class_bytes: of :func:`class_bytes`.
        min_units: as many groups at least, if there are as many classes.
    """
    if classes is None:
        return [{"uri": uri, "classes": None} for uri in uris]
    at_most = max(1, min(HELD_BYTES // class_bytes, -(-len(classes) // min_units)))
    groups = [classes[i : i + at_most] for i in range(0, len(classes), at_most)]
    return [{"uri": None, "classes": list(group)} for group in groups]
