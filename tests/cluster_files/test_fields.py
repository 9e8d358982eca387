"""The fields of the files: those who read them accept them, and those to fill are explained."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster_files.files import CLOUDS, CLUSTERS, FILES, GROUPS, OPERATIONS, load, manifests

KINDS = ["Namespace", "ServiceAccount", "NetworkPolicy", "RayCluster", "RayJob"]

MODELS = yaml.safe_load(Path(__file__).with_name("models.yaml").read_text())
SCALARS = {"text": str, "whole": int, "flag": bool}


def misfits(value: Any, model: Any, path: str = "") -> Iterator[str]:
    """The places where a value leaves its model; a field that the model lacks is one."""
    if isinstance(model, dict) and isinstance(value, dict):
        fields = {field.lstrip("~"): inner for field, inner in model.items()}
        required = {field for field in model if field[0] not in "~*"}
        yield from (f"{path}.{field}: missing" for field in required - value.keys())
        for field, item in value.items():
            if field in fields or "*" in fields:
                yield from misfits(item, fields.get(field, fields.get("*")), f"{path}.{field}")
            else:
                yield f"{path}.{field}: unknown"
    elif isinstance(model, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(item, model[0], f"{path}[{index}]")
    elif type(value) is not (SCALARS.get(model) if isinstance(model, str) else None) and (
        type(value) is not type(model) or str(value) not in str(model).split("|")
    ):
        yield f"{path}: {value!r} is not {model!r}"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_accepts_the_cluster_file_and_refuses_one_with_a_typing_error(cloud: str):
    validate_config(prepare_config(load(cloud)))
    config = load(cloud)
    config["available_node_types"]["cpu"]["max_wokers"] = 1
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("group", ["head", *GROUPS])
def test_ec2_takes_the_node_config(group: str):
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    config = load("aws")["available_node_types"][group]["node_config"]
    counts = {"MinCount": 1, "MaxCount": 1}  # Ray adds them
    report = ParamValidator().validate(config | counts, shape)
    assert not report.has_errors(), report.generate_report()
    assert config["InstanceType"] in shape.members["InstanceType"].enum  # type: ignore
    assert config["MetadataOptions"] == {"HttpTokens": "required"}


@pytest.mark.parametrize("group", ["head", *GROUPS])
def test_compute_engine_knows_every_field_of_the_node_config(group: str):
    config = load("gcp")["available_node_types"][group]["node_config"]
    assert not list(misfits(config, MODELS["Instance"]))


@pytest.mark.parametrize("kind", KINDS)
def test_kubernetes_knows_every_field_of_the_manifests(kind: str):
    assert manifests(kind)
    for found in manifests(kind):
        assert not list(misfits(found, MODELS[kind]))


def test_what_leaves_the_model_of_a_manifest_is_found():
    (cluster,) = manifests("RayCluster")
    cluster["spec"]["autoscalerOptions"]["version"] = "v3"
    cluster["spec"]["enableInTreeAutoscaling"] = "true"
    group = cluster["spec"]["workerGroupSpecs"][1]
    group["maxReplica"] = group.pop("maxReplicas")
    assert set(misfits(cluster, MODELS["RayCluster"])) == {
        ".spec.autoscalerOptions.version: 'v3' is not 'v2'",
        ".spec.enableInTreeAutoscaling: 'true' is not True",
        ".spec.workerGroupSpecs[1].maxReplicas: missing",
        ".spec.workerGroupSpecs[1].maxReplica: unknown",
    }


def left_open(node: yaml.Node, seen: set[yaml.Node], field: str = "") -> Iterator[str]:
    """The fields whose value says FILL; an alias is the node it refers to and counts once."""
    if node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.ScalarNode):
        yield from [field] if "FILL" in node.value else []
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from left_open(item, seen, field)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from left_open(value, seen, key.value)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_field_to_fill_is_marked_in_the_file_and_explained_in_the_docs(cluster: str):
    text = FILES[f"{cluster}.yaml"]
    mark = r"^[ -]*([\w./-]+):.*# FILL: .+$|^ *# FILL: .+\n *([\w./-]+):"
    marked = {first or second for first, second in re.findall(mark, text, re.MULTILINE)}
    seen: set[yaml.Node] = set()
    assert {field for node in yaml.compose_all(text) for field in left_open(node, seen)} <= marked
    row = rf"^\| `cluster/{cluster}\.yaml` \| `([^`]+)` \| .{{20,}} \|$"
    assert set(re.findall(row, OPERATIONS, re.MULTILINE)) == marked
