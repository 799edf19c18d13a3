"""Renders a kustomization as kubectl does, and reads the objects."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
K8S = REPOSITORY / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent for path in K8S.glob("components/*/kustomization.yaml"))
OLDEST = (5, 0)
"""Of kustomize: components, and patches that delete."""
WAIT_S = 60.0

Object = dict[str, Any]


@cache
def renderer() -> tuple[str, ...] | None:
    """The command before the directory; None where this machine has none that is new enough."""
    for command, version in (
        (("kustomize", "build"), ("kustomize", "version")),
        (("kubectl", "kustomize"), ("kubectl", "version", "--client")),
    ):
        if shutil.which(command[0]) is None:
            continue
        said = subprocess.run(version, capture_output=True, text=True, timeout=WAIT_S, check=False).stdout
        found = re.search(r"v(\d+)\.(\d+)\.\d+", said.rpartition("Kustomize Version:")[2])
        if found is not None and (int(found[1]), int(found[2])) >= OLDEST:
            return command
    return None


@cache
def render(directory: Path) -> tuple[Object, ...]:
    command = renderer()
    assert command is not None
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return tuple(yaml.safe_load_all(done.stdout))


def with_component(component: Path, directory: Path) -> Path:
    """A kustomization in `directory` of the base and one component."""
    (directory / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "wisp",
                "resources": [os.path.relpath(K8S / "base", directory)],
                "components": [os.path.relpath(component, directory)],
            }
        )
    )
    return directory


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_specs(objects: tuple[Object, ...]) -> list[tuple[str, Object]]:
    """(kind/name, pod spec) of everything that makes pods."""
    return [
        (f"{each['kind']}/{each['metadata']['name']}", each["spec"]["template"]["spec"])
        for each in objects
        if each["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")
    ]
