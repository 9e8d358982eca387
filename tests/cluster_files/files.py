"""The files in ``cluster/``, and what Ray's autoscaler makes of them; nothing is started."""

import re
from typing import Any

import yaml
from ray.autoscaler._private.kuberay import autoscaling_config as kuberay
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from tests.files import ROOT

FILES = {path.name: path.read_text() for path in (ROOT / "cluster").iterdir() if path.is_file()}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
CLOUDS = ["aws", "gcp"]
CLUSTERS = [*CLOUDS, "kuberay"]
GROUPS = ["cpu", "gpu_spot", "gpu_on_demand"]


def load(cloud: str) -> dict[str, Any]:
    """A file of ``ray up``, each field to fill holding its own name."""
    text = FILES[f"{cloud}.yaml"]
    return yaml.safe_load(
        re.sub(r"^  (\w+): (&\w+) FILL\b", r"  \1: \2 \1", text, flags=re.MULTILINE)
    )


def manifests(kind: str) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(FILES["kuberay.yaml"]) if found["kind"] == kind]


def autoscaling(cluster: str) -> AutoscalingConfig:
    """What Ray's autoscaler makes of a file; raises where Ray does not accept it."""
    if cluster in CLOUDS:
        return AutoscalingConfig(load(cluster), skip_content_hash=True)
    config = kuberay._derive_autoscaling_config_from_ray_cr(manifests("RayCluster")[0])
    types = config["available_node_types"]
    config["available_node_types"] = {name.replace("-", "_"): types[name] for name in types}
    return AutoscalingConfig(config, skip_content_hash=True)


def machine(cluster: str, group: str) -> tuple[str, dict[str, Any]]:
    """Which market a group's machines or pods come from, and all else they are asked to be."""
    if cluster == "kuberay":
        spec = manifests("RayCluster")[0]["spec"]
        groups = {found["groupName"].replace("-", "_"): found for found in spec["workerGroupSpecs"]}
        found = groups.get(group, spec["headGroupSpec"])["template"]["spec"]
        return found.pop("nodeSelector")["eks.amazonaws.com/capacityType"].lower(), found
    found = dict(load(cluster)["available_node_types"][group]["node_config"])
    market = found.pop("InstanceMarketOptions", {}).get("MarketType")
    return market or found.pop("scheduling", {}).get("provisioningModel", "").lower(), found
