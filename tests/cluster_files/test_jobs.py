"""The jobs as the files and the documents start them, on a cluster that has scaled to zero."""

import re
import shlex

import pytest

from c2am_dist import cli
from c2am_dist.config import LabelConfig
from c2am_dist.labeling import pipeline
from c2am_dist.training.fit import shares as shares_of
from jobs.train import parse
from tests.cluster_files.files import OPERATIONS, manifests


def started_by_the_files() -> list[list[str]]:
    return [shlex.split(found["spec"]["entrypoint"])[1:] for found in manifests("RayJob")]


def started_by_the_documents() -> list[list[str]]:
    """What stands behind `--` in the commands that submit."""
    text = OPERATIONS.replace("\\\n", " ")
    submitted = re.findall(r"^ray job submit .* -- +python (.+)$", text, re.MULTILINE)
    return [shlex.split(command) for command in submitted]


COMMANDS = started_by_the_files() + started_by_the_documents()


def test_both_places_start_training_and_labeling():
    assert [command[0] for command in COMMANDS] == ["jobs/train.py", "jobs/label.py"] * 2


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_documented_job_tells_an_empty_cluster_what_to_start(command: list[str]):
    job, *arguments = command
    if job == "jobs/train.py":
        config, _ = parse(arguments)
        assert shares_of(config, {}) == (True, 1.0)
        assert config.scaling.max_workers == 8
    else:
        config, _ = cli.parse(LabelConfig(), arguments, None)
        shares = pipeline._resources(config.num_actors, config.use_gpu, cpus=0, gpus=0)
        assert (shares.num_actors, shares.actor_gpus) == (8, 1.0)
    config.check_complete()
