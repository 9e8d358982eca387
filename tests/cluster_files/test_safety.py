"""Versions, rights and secrets."""

import re
import tomllib

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from tests.cluster_files.files import (
    CLOUDS,
    FILES,
    GROUPS,
    OPERATIONS,
    PINS,
    load,
    machine,
    manifests,
)
from tests.files import ROOT


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
