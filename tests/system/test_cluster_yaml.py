"""cluster.yaml is a file that `ray up` takes, and it fits this checkout."""

from __future__ import annotations

import copy
import fnmatch
import importlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from monkeyray.cli.parsing import parse

# Both come with Ray and have no types.
yaml: Any = importlib.import_module("yaml")
jsonschema: Any = importlib.import_module("jsonschema")

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster.yaml"
COMMAND_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@pytest.fixture
def config() -> dict[str, Any]:
    """The file as written."""
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def run_instances() -> Any:
    """What EC2 takes to start a node, from botocore's own model of it (no network)."""
    model = botocore.session.get_session().get_service_model("ec2")
    return model.operation_model("RunInstances").input_shape


def commands(config: dict[str, Any]) -> list[str]:
    """Every command of a prepared file."""
    return [command for name in COMMAND_LISTS for command in config.get(name, [])]


def installs(config: dict[str, Any]) -> list[str]:
    return [command for command in commands(config) if "pip install" in command]


def secrets(text: str) -> list[str]:
    """What looks like an access key in it."""
    patterns = (
        r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
        r"(?i)(?:secret_?access_?key|access_?key_?id|session_?token)\s*[:=]",
        r"BEGIN [A-Z ]*PRIVATE KEY",
        # As secret keys look: 40 characters of base64, and not the path of a file or parameter.
        r"(?<![\w/+.-])(?=[\w/+]*[A-Z])(?=[\w/+]*\d)[A-Za-z0-9/+]{40}(?![\w/+=.-])",
    )
    return [found for pattern in patterns for found in re.findall(pattern, text)]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_ray_takes_the_file(config: dict[str, Any]) -> None:
    # As `ray up` does it, less its look-up of instance types in AWS.
    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == set(config["available_node_types"])
    for name in ("head_setup_commands", "worker_setup_commands"):
        assert prepared[name][: len(config["setup_commands"])] == config["setup_commands"]


@pytest.mark.parametrize("where", [(), ("auth",), ("available_node_types", "gpu_worker")])
def test_ray_refuses_an_unknown_key(config: dict[str, Any], where: tuple[str, ...]) -> None:
    inner = config
    for key in where:
        inner = inner[key]
    inner["no_such_key"] = 1
    with pytest.raises(jsonschema.ValidationError, match="no_such_key"):
        validate_config(prepare_config(config))


def test_ray_refuses_more_minimum_than_maximum(config: dict[str, Any]) -> None:
    config["available_node_types"]["gpu_worker"]["min_workers"] = config["max_workers"] + 1
    with pytest.raises(ValueError, match="max_workers"):
        validate_config(prepare_config(config))


def test_ec2_takes_the_nodes(config: dict[str, Any], run_instances: Any) -> None:
    for name, node_type in config["available_node_types"].items():
        request = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, run_instances)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"

        wrong = copy.deepcopy(request)
        wrong["BlockDeviceMappings"][0]["Ebs"]["Size"] = 1
        assert ParamValidator().validate(wrong, run_instances).has_errors()
    assert config["provider"]["region"] in botocore.session.get_session().get_available_regions(
        "ec2"
    )
    for zone in config["provider"]["availability_zone"].split(","):
        assert re.fullmatch(re.escape(config["provider"]["region"]) + "[a-z]", zone)


def test_node_types(config: dict[str, Any]) -> None:
    types = dict(config["available_node_types"])
    for name, node_type in types.items():
        assert 0 <= node_type["min_workers"] <= node_type["max_workers"], name
        assert node_type["max_workers"] <= config["max_workers"], name
    head = types.pop(config["head_node_type"])
    assert head["max_workers"] == 0
    assert head["resources"].get("GPU", 0) == 0
    assert not re.match(r"[gp]\d", head["node_config"]["InstanceType"])
    gpus = {name: node_type["resources"].get("GPU", 0) for name, node_type in types.items()}
    assert any(gpus.values()), "a worker type with a GPU"
    assert not all(gpus.values()), "a worker type without a GPU"
    for name, count in gpus.items():
        node_config = types[name]["node_config"]
        assert types[name]["max_workers"] > 0, name
        assert types[name]["min_workers"] == 0, f"{name} costs money while there are no jobs"
        assert bool(count) == bool(re.match(r"[gp]\d", node_config["InstanceType"])), name
        if node_config["ImageId"].startswith("resolve:ssm:"):  # else an id, which says nothing
            assert bool(count) == ("nvidia-driver" in node_config["ImageId"]), name


def test_access_is_by_role_and_there_are_no_secrets(config: dict[str, Any]) -> None:
    for name, node_type in config["available_node_types"].items():
        assert node_type["node_config"]["IamInstanceProfile"]["Name"], name
    assert "aws_credentials" not in config["provider"]
    text = CLUSTER.read_text(encoding="utf-8")
    assert secrets(text) == []
    # AWS's own example of a key pair, in two halves lest a scanner of secrets takes it for one.
    assert secrets(text + "#   AKIA" + "IOSFODNN7EXAMPLE")
    assert secrets(text + "#   wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY")
    assert secrets(text + "aws_secret_access_key: x")


def test_setup_uses_what_is_synced(config: dict[str, Any]) -> None:
    assert list(config["file_mounts"].values()) == ["."]
    (mount,) = config["file_mounts"]
    prepared = prepare_config(config)
    assert installs(prepared)
    for command in installs(prepared):
        assert re.findall(r"\bcd (\S+)", command) == [mount], command
    for command in commands(prepared):
        for path in re.findall(r"~/monkeyray[\w-]*", command):
            assert path in (mount, "~/monkeyray-venv"), command


def test_setup_fits_this_checkout(config: dict[str, Any]) -> None:
    project = pyproject()["project"]
    targets = []
    for command in installs(prepare_config(config)):
        assert "$" not in command
        (constraints,) = re.findall(r"\s-c (\S+)", command)
        assert constraints == "requirements.lock"
        assert (ROOT / constraints).is_file(), f"setup_commands name {constraints}"
        found = re.search(r'\s"?\.(?:\[([\w,-]+)\])?"?(?=;|$)', command.removesuffix(" fi"))
        assert found, f"installs this checkout: {command}"
        targets.append(found.group(1))
        for extra in filter(None, (found.group(1) or "").split(",")):
            assert extra in project["optional-dependencies"]
    assert {None, "gpu"} == set(targets)
    # Job submission needs Ray's `default` on all nodes, and the autoscaler on the head boto3.
    needs = [need.replace(" ", "") for need in project["dependencies"]]
    assert any(re.match(r"ray\[[^]]*\bdefault\b", need) for need in needs)
    assert any(re.match(r"boto3\b", need) for need in needs)


def test_python_of_the_nodes_is_supported(config: dict[str, Any]) -> None:
    (venv,) = [command for command in config["setup_commands"] if "uv venv" in command]
    found = re.search(r"--python 3\.(\d+)\b", venv)
    assert found
    assert "--managed-python" in venv, "not whatever Python the image has"
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", pyproject()["project"]["requires-python"])
    assert bounds
    assert int(bounds.group(1)) <= int(found.group(1)) < int(bounds.group(2))


def test_files_that_setup_needs_are_synced(config: dict[str, Any]) -> None:
    needed = ["pyproject.toml", "requirements.lock", "README.md", "LICENSE", "NOTICE"]
    for folder in ("monkeyray", "jobs"):
        needed += [
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
    assert "monkeyray/__init__.py" in needed

    def excluded(path: str) -> bool:
        parts = path.split("/")
        for pattern in config["rsync_exclude"]:
            name = pattern.strip("/")
            folders = parts[:-1] if pattern.endswith("/") else parts
            candidates = folders[:1] if pattern.startswith("/") else folders
            if any(fnmatch.fnmatchcase(part, name) for part in candidates):
                return True
        return False

    assert [path for path in needed if excluded(path)] == []
    for path in (".git/config", ".venv/pyvenv.cfg", "monkeyray/__pycache__/cli.cpython-311.pyc"):
        assert excluded(path), path


def test_ray_starts_as_the_launcher_needs_it(config: dict[str, Any]) -> None:
    (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    (worker,) = [c for c in config["worker_start_ray_commands"] if "ray start" in c]
    # The file that `ray up` puts on the head; without it no worker is ever started.
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--head" in head
    port = re.search(r"--port=(\d+)", head)
    assert port
    assert f"--address=$RAY_HEAD_IP:{port.group(1)}" in worker
    # Job submission has no password.
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, worker):
        assert command.startswith("ulimit -n 65536;")
        assert "--object-manager-port=8076" in command


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_commands_are_shell(config: dict[str, Any]) -> None:
    for command in commands(prepare_config(config)):
        # As Ray runs them: in brackets, after `source ~/.bashrc`.
        done = subprocess.run(
            ["bash", "-n", "-c", f"true && ({command})"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "\n" not in command


def test_the_documented_rayjob() -> None:
    """What can be known without a Kubernetes: it is one RayJob, of the Ray and the version that
    are here, and its command is one."""
    page = (ROOT / "docs" / "pages" / "kuberay.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(apiVersion: ray\.io.*?)```", page, flags=re.S)
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, command, *arguments = job["spec"]["entrypoint"].split()
    assert program == "monkeyray"
    assert parse(command, arguments, program).command == command
    cluster = job["spec"]["rayClusterSpec"]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}\n" in locked
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = [each["template"]["spec"]["containers"][0]["image"] for each in groups]
    assert {image.rpartition(":")[2] for image in images} == {version}
    assert f"monkeyray-{version}-py3-none-any.whl" in page
