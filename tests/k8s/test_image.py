"""The image's parts: what is locked is what wisp asks for, and the steps are those that are proved."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from k8s.rendering import K8S, REPOSITORY

IMAGE = K8S / "image"
LOCKS = sorted(IMAGE.glob("*.lock"))


def locked(path: Path) -> dict[str, Requirement]:
    """By name; a requirement that the platform decides may stand twice, the last one counts."""
    requirements = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        requirement = Requirement(line.partition(" --hash")[0])
        assert " --hash=sha256:" in line, requirement
        requirements[requirement.name] = requirement
    return requirements


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_locked_package_has_one_version_and_hashes_and_no_address(path: Path) -> None:
    requirements = locked(path)
    assert requirements
    for requirement in requirements.values():
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert requirement.url is None
    assert "://" not in path.read_text()


def test_the_lock_has_all_that_wisp_depends_on() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirements = locked(IMAGE / "requirements.lock")
    for wanted in map(Requirement, project["dependencies"]):
        found = requirements[wanted.name]
        version = str(found.specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{wanted}: lock anew (k8s/README.md)"


def test_the_containerfile_runs_the_steps_that_are_proved() -> None:
    text = (IMAGE / "Containerfile").read_text()
    proof = (IMAGE / "prove.sh").read_text()
    steps = re.findall(r"^RUN sh \S*?(\w+\.sh)", text, re.MULTILINE)
    assert steps == ["build.sh", "runtime.sh"]
    for step in steps:
        assert (IMAGE / step).is_file()
        assert step in proof
    final = text.rpartition("\nFROM ")[2]
    assert "USER 10001:10001" in final
    assert len(re.findall(r"^RUN", final, re.MULTILINE)) == 1


@pytest.mark.parametrize("path", sorted(IMAGE.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
