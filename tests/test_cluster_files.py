"""The files in ``cluster/``: against Ray's, EC2's and KubeRay's ideas of them, and our own rules.

Ray's autoscaler is imported and asked what it would start; nothing is started.
"""

import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.kuberay import autoscaling_config as kuberay
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.event_logger import AutoscalerEventLogger
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent  # type: ignore

ROOT = Path(__file__).resolve().parents[1]
FILES = {path.name: path.read_text() for path in (ROOT / "cluster").iterdir() if path.is_file()}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
CLOUDS = ["aws", "gcp"]
CLUSTERS = [*CLOUDS, "kuberay"]
GROUPS = ["cpu", "gpu_spot", "gpu_on_demand"]
KINDS = ["Namespace", "ServiceAccount", "NetworkPolicy", "RayCluster", "RayJob"]

# Fields and what they may hold: text, whole, flag, or values; `~` before one that may be absent.
MODELS = yaml.safe_load("""
# Of the resource Instance of the Compute Engine API v1, what gcp.yaml uses.
Instance:
  machineType: text
  serviceAccounts: [{email: text, scopes: [text]}]
  disks: [{boot: true, autoDelete: true, type: PERSISTENT,
           initializeParams: {diskSizeGb: whole, diskType: text, sourceImage: text}}]
  networkInterfaces: [{subnetwork: text, accessConfigs: [{name: text, type: ONE_TO_ONE_NAT}]}]
  tags: {items: [text]}
  ~metadata: {items: [{key: text, value: text}]}
  ~scheduling: {provisioningModel: SPOT|STANDARD, ~instanceTerminationAction: DELETE,
                onHostMaintenance: TERMINATE, automaticRestart: false}
# Of Kubernetes, what kuberay.yaml uses.
Namespace: {apiVersion: v1, kind: text, metadata: {name: c2am, labels: &map {"*": text}}}
ServiceAccount:
  apiVersion: v1
  kind: text
  metadata: {name: text, namespace: c2am, labels: *map, annotations: *map}
  ~automountServiceAccountToken: flag
NetworkPolicy:
  apiVersion: networking.k8s.io/v1
  kind: text
  metadata: &meta {name: text, namespace: c2am, labels: *map}
  spec:
    podSelector: {matchLabels: *map}
    policyTypes: [Ingress]
    ingress: [{from: [{~podSelector: {}, ~namespaceSelector: {matchLabels: *map}}]}]
# The fields of ray.io/v1 in KubeRay 1.7.0 (its docs/reference/api.md), without whole features
# that are not used here: ingress, TLS, fault tolerance of the head, history, upgrades, Kueue.
RayCluster:
  apiVersion: ray.io/v1
  kind: text
  metadata: *meta
  spec:
    rayVersion: text
    authOptions: {mode: token, ~secretName: text}
    enableInTreeAutoscaling: true
    ~suspend: flag
    autoscalerOptions:
      version: v2
      idleTimeoutSeconds: whole
      ~upscalingMode: Default|Aggressive|Conservative
      ~imagePullPolicy: Always|IfNotPresent|Never
      ~env: [{name: text, value: text}]
      ~resources: &resources
        requests: &size {cpu: text, memory: text, ~nvidia.com/gpu: text}
        limits: *size
    headGroupSpec: &group
      rayStartParams: *map
      ~resources: *map
      ~labels: *map
      template: {spec: {
        serviceAccountName: text, nodeSelector: *map,
        ~tolerations: [{key: text, operator: Exists, effect: NoSchedule}],
        securityContext: {runAsNonRoot: true, runAsUser: whole, runAsGroup: whole},
        containers: [{
          name: text, image: text, resources: *resources,
          ~ports: [{name: text, containerPort: whole}], ~env: [{name: text, value: text}],
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}
    workerGroupSpecs:
      - {<<: *group, groupName: text, minReplicas: whole, maxReplicas: whole, ~replicas: whole,
         ~numOfHosts: whole, ~idleTimeoutSeconds: whole, ~priority: whole}
RayJob:
  apiVersion: ray.io/v1
  kind: text
  metadata: {generateName: text, namespace: c2am, labels: *map}
  spec: {entrypoint: text, runtimeEnvYAML: text, clusterSelector: {ray.io/cluster: c2am},
         ~submissionMode: K8sJobMode|HTTPMode|SidecarMode, ~submitterConfig: {backoffLimit: whole},
         ~activeDeadlineSeconds: whole, ~preRunningDeadlineSeconds: whole, ~metadata: *map}
""")


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


# ---- Whoever reads the files accepts them


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


# ---- What the autoscaler starts


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_head_offers_nothing_to_work_on(cluster: str):
    config = autoscaling(cluster)
    resources = config.get_node_resources(config.get_head_node_type())
    assert resources["CPU"] == 0 and "GPU" not in resources
    if cluster in CLOUDS:
        assert "--num-cpus=0 " in load(cluster)["head_start_ray_commands"][-1]


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_idle_groups_go_away_and_none_grows_without_end(cluster: str):
    config = autoscaling(cluster)
    types = config.get_node_type_configs()
    assert set(GROUPS) == types.keys() - {config.get_head_node_type()}
    for group in GROUPS:
        assert types[group].min_worker_nodes == 0 < types[group].max_worker_nodes <= 8
        timeout_s = types[group].idle_timeout_s or config.get_idle_timeout_s() or 0
        assert 60 <= timeout_s <= 900
    assert config.get_max_num_worker_nodes() == sum(types[g].max_worker_nodes for g in GROUPS)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_gpus_are_spot_and_their_fallback_is_the_same_on_demand(cluster: str):
    (spot, asked), (on_demand, asked_on_demand) = (machine(cluster, g) for g in GROUPS[1:])
    assert spot == "spot" and asked == asked_on_demand
    for other in (on_demand, machine(cluster, "head")[0], machine(cluster, "cpu")[0]):
        assert other != "spot"
    types = autoscaling(cluster).get_node_type_configs()
    assert types["gpu_spot"].resources == types["gpu_on_demand"].resources
    assert types["gpu_spot"].priority > types["gpu_on_demand"].priority


def launched(cluster: str, bundle: dict[str, float], count: int, spot: Any = None):
    """How many of each group the autoscaler starts for so many bundles.

    ``spot`` is what the autoscaler has just seen become of a spot machine.
    """
    config, monitor = autoscaling(cluster), CloudResourceMonitor()
    if spot is not None:
        event = {"instance_type": "gpu_spot", "new_instance_status": spot}
        monitor.notify([InstanceUpdateEvent(instance_id="one", **event)])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(bundle)] * count
        ),
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    logger = AutoscalerEventLogger(logging.getLogger(__name__))  # type: ignore
    reply = ResourceDemandScheduler(logger).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


WORKER = {"GPU": 1.0, "CPU": 1.0}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_decoding_starts_no_gpu_and_training_takes_spot_until_that_is_full(cluster: str):
    types = autoscaling(cluster).get_node_type_configs()
    num_spot = types["gpu_spot"].max_worker_nodes
    assert launched(cluster, {"CPU": 1.0}, 20) == {"cpu": 2}
    assert launched(cluster, WORKER, num_spot) == {"gpu_spot": num_spot}
    expected = {"gpu_spot": num_spot, "gpu_on_demand": 2}
    assert launched(cluster, WORKER, num_spot + 2) == expected


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_docs_say_what_follows_a_spot_machine_that_does_not_come(cluster: str):
    """Ray turns to the other group after one that never joined, not after one refused."""
    assert launched(cluster, WORKER, 2, spot=Instance.ALLOCATION_TIMEOUT) == {"gpu_on_demand": 2}
    assert launched(cluster, WORKER, 2, spot=Instance.ALLOCATION_FAILED) == {"gpu_spot": 2}
    assert "A refused launch is not remembered" in OPERATIONS


# ---- Versions, rights and secrets


def test_every_version_is_that_of_constraints_txt():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    python = "py" + project["tool"]["pyright"]["pythonVersion"].replace(".", "")
    texts = {**FILES, "operations.md": OPERATIONS}
    tags = [tag for text in texts.values() for tag in re.findall(r"(?:ray|c2am-dist):(\S+)", text)]
    assert len(tags) >= 8
    assert set(tags) <= {f"{PINS['ray']}-{python}{kind}" for kind in ("", "-cpu", "-gpu")}
    assert manifests("RayCluster")[0]["spec"]["rayVersion"] == PINS["ray"]
    extra = dict(re.findall(r"^([\w-]+)==([\d.]+)$", FILES["requirements-gcp.txt"], re.MULTILINE))
    assert "google-api-python-client" in extra and not extra.keys() & PINS.keys()
    for name, text in texts.items():
        for package, version in re.findall(r"([\w-]+)==([\w.]+)", text):
            assert (PINS | extra).get(package) == version, f"{name}: {package}=={version}"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_machines_install_constraints_txt_and_what_is_mounted_exists(cloud: str):
    config = load(cloud)
    assert config["setup_commands"][-1].endswith(" --requirement ~/c2am/constraints.txt")
    mounts = config["file_mounts"]
    for used in re.findall(
        r"~/c2am/[\w.-]+", " ".join(prepare_config(config)["head_setup_commands"])
    ):
        assert (ROOT / mounts[used]).is_file()
    assert "RUN pip install --no-cache-dir --requirement constraints.txt" in FILES["Dockerfile"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_dashboard_listens_on_loopback_and_demands_the_token(cloud: str):
    config = load(cloud)
    assert "--dashboard-host=127.0.0.1 " in config["head_start_ray_commands"][-1]
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_workers_have_fewer_rights_than_the_head():
    identities = {
        group: (
            machine("aws", group)[1]["IamInstanceProfile"]["Name"],
            machine("gcp", group)[1]["serviceAccounts"][0]["email"],
            machine("kuberay", group)[1]["serviceAccountName"],
        )
        for group in ("head", *GROUPS)
    }
    assert identities.pop("head") == ("head_profile", "head_service_account", "c2am-head")
    assert set(identities.values()) == {("worker_profile", "worker_service_account", "c2am-worker")}
    accounts = {found["metadata"]["name"]: found for found in manifests("ServiceAccount")}
    assert accounts["c2am-worker"]["automountServiceAccountToken"] is False


def test_the_policies_in_the_docs_name_what_they_open():
    blocks = re.findall(r"```json\n(.*?)```", OPERATIONS, re.DOTALL)
    statements = [rule for block in blocks for rule in yaml.safe_load(block)["Statement"]]
    assert len(blocks) == 2
    for rule in statements:
        assert not [action for action in rule["Action"] if action.endswith("*")], rule
        if any(action.startswith("s3:") for action in rule["Action"]):
            assert all(":::BUCKET" in arn for arn in rule["Resource"]), rule
        writes = [action for action in rule["Action"] if not action.startswith("ec2:Describe")]
        assert rule["Resource"] != "*" or not writes or rule["Condition"], rule


SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}|-----BEGIN|\bAIza[\w-]{20,}|\bgh[pousr]_\w{20,}|\beyJ[\w-]{20,}"
    r"|://[^/\s:@]+:[^/\s@]+@|\b[0-9a-fA-F]{32,}\b|\b(?=\w*\d)[A-Za-z0-9+/]{40,}"
    r"|(?i:secret|passw(?:or)?d|token|credentials?|access_key(?:_id)?)['\"]?\s*[:=]\s*['\"]?"
    r"[\w+/]{8,}"
)


@pytest.mark.parametrize("name", [*FILES, "operations.md"])
def test_no_file_holds_anything_like_a_credential(name: str):
    assert not SECRET.search((FILES | {"operations.md": OPERATIONS})[name])


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "RAY_AUTH_" + "TOKEN=0123456789abcdef",
        "https://me:" + "mine@host/",
        "gcp_" + 'credentials: "abcdefgh"',
        "0123456789abcdef" * 2,
    ],
)
def test_what_counts_as_a_credential(text: str):
    assert SECRET.search(text)


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
