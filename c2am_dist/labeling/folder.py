"""A folder filled file by file: what labeling and classification share on the driver.

Each shard gets one file under the same relative path, with its rows in the same order,
and the file appears whole or not at all. So what is done can be seen in the folder: the same
command again works on the shards that have no file yet, and ``_SUCCESS`` ends the set. Shards
are worked on in lots of some thousand: of a set, the driver holds one entry a shard.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from c2am_dist import __version__, storage
from c2am_dist.data import label_set, row_files, shards
from c2am_dist.data.label_set import LabelFile
from c2am_dist.data.row_files import LabelReport, PlannedFile
from c2am_dist.labeling import pipeline, write
from c2am_dist.labeling.pipeline import Work
from c2am_dist.storage import File

FOOTERS_AT_ONCE = 16
"""Read at once; over the network they are latency, not work."""


def fill(
    folder: str,
    inputs: Sequence[File],
    identity: Mapping[str, str],
    make_work: Callable[[], Work],
    *,
    started: float,
) -> LabelReport:
    """Writes one file for each shard, or what is missing of them, and ``_SUCCESS``.

    Args:
        folder: URI.
        inputs: shards.
        identity: what must be the same for a job to go on with a folder.
        make_work: called once the folder is this job's, unless it is finished.
        started: when the job began, by the monotonic clock.

    Raises:
        ValueError: the folder holds other files, or those of another job; names them.
    """
    label_set.begin(folder, identity)
    storage.sweep(folder)
    finished = label_set.sealed(folder)
    if finished is not None:
        print(f"{folder}: already finished", flush=True)
        return row_files.report(finished, num_new=0, started=started)
    planned = row_files.plan(inputs, folder)
    done, missing = row_files.split_done(planned)
    if done:
        print(f"{len(done)} of {len(planned)} label files are there already", flush=True)
    work = make_work()
    files = row_files.check(done, work.metadata)
    new = _in_lots(missing, work) if missing else []
    files += new
    label_set.seal(folder, identity, sorted(files, key=lambda file: file.name))
    return row_files.report(files, num_new=sum(file.num_rows for file in new), started=started)


def _in_lots(missing: Sequence[PlannedFile], work: Work) -> list[LabelFile]:
    """Labels shards, lot by lot; the footers of a lot are read while the one before is labeled."""
    size = pipeline.lot_shards(pipeline.find_resources(work.shares).num_actors)
    lots = [missing[start : start + size] for start in range(0, len(missing), size)]
    pool, written = ThreadPoolExecutor(FOOTERS_AT_ONCE), []
    try:
        reading = [pool.submit(write.index, file) for file in lots[0]]
        for lot, following in zip(lots, [*lots[1:], []], strict=True):
            row_groups = [group for done in reading for group in done.result()]
            reading = [pool.submit(write.index, file) for file in following]
            written += write.label_shards(lot, row_groups, work)
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def identity_of(
    inputs: Sequence[File], *, checkpoint_sha256: str, config_sha256: str
) -> dict[str, str]:
    """What must be the same for a job to go on with a folder: its rows would differ else."""
    listing = "".join(f"{file.uri} {file.size_bytes}\n" for file in inputs)
    return {
        "checkpoint_sha256": checkpoint_sha256,
        "config_sha256": config_sha256,
        "input_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "package_version": __version__,
    }


def refuse_empty(files: Sequence[File], uris: Sequence[str]) -> None:
    """Raises ValueError when no shard holds an image."""
    if not any(shards.index([file.uri], allow_empty=True) for file in files):
        raise ValueError(f"{', '.join(uris)}: the shards hold no image")
