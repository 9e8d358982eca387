"""Labels for every image of a set: pseudo boxes, activation maps and background cues.

decode runs (tasks) -> forward (a pool of model actors) -> label rows (tasks) -> a file a shard

Each shard gets one label file under the same relative path, with its rows in the same order,
and the file appears whole or not at all. That needs no shuffle and no state: a task decodes a
run of row groups of one shard, every later stage turns one block into one block, and the order
is preserved. The driver therefore only counts rows until a shard is complete and hands the
references of its blocks to a task that writes them; no row passes through the driver.

Blocks are whole forward batches, cut within a run, so an image meets the same batch however
many actors there are and whatever else is labeled: labeling again gives identical rows.
"""

import dataclasses
import itertools
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from tqdm import tqdm

from c2am_dist import __version__, checkpoint, schema, storage
from c2am_dist.checkpoint import Checkpoint, CheckpointError
from c2am_dist.config import LabelConfig, digest, to_json
from c2am_dist.data import shards
from c2am_dist.data.shards import RowGroup
from c2am_dist.labeling import pipeline
from c2am_dist.labeling.stages import Provenance
from c2am_dist.method.activation import Polarity
from c2am_dist.method.c2am import C2AM
from c2am_dist.method.encoders import build_encoder

logger = logging.getLogger(__name__)

WRITES_IN_FLIGHT = 4
"""Label files written at once; more would let blocks pile up behind a slow store."""
THIN_MARGIN = 0.1
"""A polarity vote closer to even than this is warned about."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """How a labeling job went."""

    num_images: int
    num_errors: int
    """Images that could not be labeled; their rows say why."""
    num_files: int
    elapsed_s: float

    @property
    def error_fraction(self) -> float:
        return self.num_errors / self.num_images


def label(config: LabelConfig) -> LabelReport:
    """Writes one label file for each shard of the input; needs a connection to Ray.

    Raises:
        FileNotFoundError: the checkpoint, the input or a stored threshold is not there.
        ValueError: a field is missing, a shard cannot be read, the output holds files, or the
            checkpoint is no C2AM model; the message names the URI.
    """
    started = time.monotonic()
    config.check_complete()
    _refuse_used(config.output)
    row_groups = shards.index(config.input)
    folder = checkpoint.find(config.checkpoint)
    loaded, sha256 = checkpoint.load(folder)
    model = load_model(loaded, folder)
    config = _resolve(config, loaded)
    provenance = _provenance(config, folder, loaded, sha256)
    blocks = pipeline.stream(row_groups, config, provenance, model)
    num_errors, num_files = _write_shards(blocks, row_groups, config, provenance)
    return LabelReport(
        num_images=sum(group.num_rows for group in row_groups),
        num_errors=num_errors,
        num_files=num_files,
        elapsed_s=time.monotonic() - started,
    )


def _refuse_used(output: str) -> None:
    found = storage.walk(output) if storage.exists(output) else []
    if found:
        raise ValueError(f"{output}: must not hold files yet, found {storage.name(found[0].uri)}")


def load_model(loaded: Checkpoint, uri: str) -> C2AM:
    """The checkpoint's model in evaluation mode.

    Raises:
        CheckpointError: it holds another method or architecture; names the URI.
    """
    if loaded.method != "c2am":
        raise CheckpointError(f"{uri}: method {loaded.method!r} has no activation map to label by")
    try:
        model = C2AM(build_encoder(loaded.encoder))
        model.load_state_dict(loaded.model)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{uri}: the weights are not those of a C2AM with {loaded.encoder}: {error}"
        ) from error
    return model.eval()


def _resolve(config: LabelConfig, loaded: Checkpoint) -> LabelConfig:
    """The config with what the checkpoint decides filled in and local paths made absolute."""
    return dataclasses.replace(
        config,
        size_px=config.size_px or loaded.crop_px,
        checkpoint=storage.absolute(config.checkpoint),
        input=tuple(storage.absolute(uri) for uri in config.input),
        output=storage.absolute(config.output),
    )


def _provenance(config: LabelConfig, folder: str, loaded: Checkpoint, sha256: str) -> Provenance:
    if loaded.polarity_margin < THIN_MARGIN:
        logger.warning(
            "%s: polarity %s won by a margin of %.2f only (0 to 0.5): look at some maps",
            folder, loaded.polarity, loaded.polarity_margin,
        )  # fmt: skip
    threshold, source = _threshold(config, folder)
    # Where rows go and how many actors make them changes nothing in them.
    config = dataclasses.replace(config, output="", num_actors=None)
    return Provenance(
        threshold=threshold,
        threshold_source=source,
        polarity=Polarity(loaded.polarity),
        polarity_margin=loaded.polarity_margin,
        checkpoint_sha256=sha256,
        config_json=to_json(config),
        config_sha256=digest(config),
    )


def _threshold(config: LabelConfig, folder: str) -> tuple[float | None, str]:
    """The threshold for all images, or None for one each, and how it is chosen."""
    if not isinstance(config.threshold, str):
        return config.threshold, "given"
    uri = storage.join(folder, "threshold.json")
    if config.threshold == "otsu" or (config.threshold == "auto" and not storage.exists(uri)):
        return None, "otsu"
    try:
        threshold = float(json.loads(storage.read_bytes(uri))["threshold"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{uri}: no evaluation stored a threshold (jobs/evaluate.py --store-threshold)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{uri}: holds no threshold ({error!r})") from error
    if not 0 <= threshold < 1:
        raise ValueError(f"{uri}: the threshold must be in [0, 1), got {threshold}")
    return threshold, "evaluation"


def _write_shards(
    dataset: ray.data.Dataset,
    row_groups: Sequence[RowGroup],
    config: LabelConfig,
    provenance: Provenance,
) -> tuple[int, int]:
    """Writes each shard's label file once its last block is there.

    Returns:
        The number of rows with an error, and the number of files.
    """
    num_rows: Counter[str] = Counter()
    for group in row_groups:
        num_rows[group.uri] += group.num_rows
    outputs = _output_uris(list(num_rows), config.output)
    blocks = (entry for bundle in dataset.iter_internal_ref_bundles() for entry in bundle.blocks)
    num_errors, writing = 0, deque[ray.ObjectRef]()
    with tqdm(total=num_rows.total(), unit=" images", disable=None) as progress:
        for output, num_missing in zip(outputs, num_rows.values(), strict=True):
            refs = []
            while num_missing > 0:
                block = next(blocks)
                refs.append(block.ref)
                num_missing -= block.metadata.num_rows or 0
                progress.update(block.metadata.num_rows)
            assert num_missing == 0, "a block spans two shards"
            writing.append(_write_shard.remote(output, provenance, *refs))
            if len(writing) > WRITES_IN_FLIGHT:
                num_errors += ray.get(writing.popleft())
    assert next(blocks, None) is None, "more rows than images"
    return num_errors + sum(ray.get(list(writing))), len(outputs)


def _output_uris(uris: Sequence[str], output: str) -> list[str]:
    """Where each shard's labels go: its path below the folder all shards lie in."""
    parts = [uri.split("/") for uri in uris]
    columns = zip(*(path[:-1] for path in parts), strict=False)
    common = list(itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    names = ["/".join(path[len(common) :]) for path in parts]
    return [
        storage.join(output, name if name.endswith(".parquet") else f"{name}.parquet")
        for name in names
    ]


# It mostly waits for storage, whose hiccups are worth another try: writing is idempotent.
@ray.remote(num_cpus=0, retry_exceptions=[OSError])  # type: ignore
def _write_shard(uri: str, provenance: Provenance, *blocks: pa.Table) -> int:
    """Writes a label file and returns how many of its rows have an error."""
    metadata = {
        "c2am_dist.config": provenance.config_json,
        "c2am_dist.checkpoint_sha256": provenance.checkpoint_sha256,
        "c2am_dist.package_version": __version__,
    }
    table = pa.concat_tables(blocks).cast(schema.LABELS).replace_schema_metadata(metadata)
    with storage.create(uri) as stream:
        pq.write_table(table, stream, compression="zstd")
    return table.num_rows - table["error"].null_count
