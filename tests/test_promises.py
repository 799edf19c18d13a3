"""What the documents promise is there, and what is there is documented."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from platforms import REPOSITORY, TENANTS, Tenancy
from wisp import errors
from wisp.api.routes import OPERATIONS
from wisp.cli.tenantfiles import read_folder
from wisp.node import Node
from wisp.policy.ceilings import Ceilings
from wisp.policy.narrowing import check
from wisp.policy.parse import parse_policy
from wisp.policy.schema import Mount, Section
from wisp.settings import SETTINGS
from wisp.wire.outcome import Outcome

README = (REPOSITORY / "README.md").read_text()


def classes(root: type[errors.WispError] = errors.WispError) -> Iterator[type[errors.WispError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_setting_stands_in_the_readme(setting: object) -> None:
    flag, variable = getattr(setting, "flag"), getattr(setting, "variable")  # noqa: B009 - one row of a table
    assert f"`{variable}`" in README
    assert flag is None or f"`{flag}`" in README


def test_the_readmes_defaults_are_the_settings() -> None:
    for setting in SETTINGS:
        if setting.default is not None and setting.default not in ("false",):
            (row,) = [line for line in README.splitlines() if f"`{setting.variable}`" in line]
            assert f"`{setting.default}`" in row, row


def test_each_code_stands_in_the_readme() -> None:
    internal = {"invalid_settings", "invalid_frame"}
    codes = {one.code for one in classes()} - internal
    codes |= {outcome.value for outcome in Outcome} - {"ok"}
    missing = sorted(code for code in codes if f"`{code}`" not in README)
    assert not missing


def test_the_readmes_first_commands_are_targets_of_the_makefile() -> None:
    commands = re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    for target in set(commands):
        subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, check=True, capture_output=True)


@pytest.mark.parametrize(
    "page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "SCALING.md", "SECURITY.md", "sdk-rust/README.md"]
)
def test_paths_that_the_documents_name_exist(page: str) -> None:
    """Whatever stands in backticks and looks like a path below the repository or the package."""
    named = re.findall(r"`((?:[a-z0-9_.-]+/)+[A-Za-z0-9_.-]*)`", (REPOSITORY / page).read_text())
    sdk = REPOSITORY / "sdk-rust"
    roots = (REPOSITORY, REPOSITORY / "platform" / "wisp", sdk, sdk / "wisp-guest")
    elsewhere = ("wasmtime/", "build/")  # another project's, and what a run leaves
    missing = [path for path in named if not path.startswith(elsewhere) and not any((r / path).exists() for r in roots)]
    assert not missing


def test_the_readmes_policy_is_one_and_says_every_key() -> None:
    (text,) = re.findall(r"```yaml\n(wisp: 1\n.*?)```", README, re.DOTALL)
    policy = parse_policy(text.encode())

    def unsaid(section: Section) -> set[str]:
        return set(type(section).model_fields) - section.model_fields_set

    assert unsaid(policy) == {"entrypoint"}  # of the other ABI; the text says so
    for section in (policy.limits, policy.concurrency, *policy.models):
        assert unsaid(section) == set(), section
    assert set().union(*(mount.model_fields_set for mount in policy.files)) == set(Mount.model_fields)


PAGES = [path for path in REPOSITORY.rglob("*.md") if not {".venv", "target", "build"} & set(path.parts)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_between_the_documents_lead_somewhere(page: Path) -> None:
    """Whatever they name of this repository; of other places nothing is asked."""
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_each_example_stands_under_the_shipped_policies() -> None:
    ceilings = Ceilings.load(REPOSITORY / "policies")
    for tenant in read_folder(TENANTS):
        tenant_class = ceilings.for_class(tenant.class_name)  # type: ignore[arg-type]  # parsed by read_folder
        for function in tenant.functions:
            policy = parse_policy(function.policy.read_bytes())
            assert check(policy, tenant_class, ceilings.ceiling) == (), function.policy


async def test_each_example_deploys(node: Node) -> None:
    for folder in read_folder(TENANTS):
        tenancy = await Tenancy.create(node, folder.name, folder.class_name)
        for name, file in folder.models:
            await tenancy.push_model(name, file)
        for function in folder.functions:
            if not function.optional:
                deployed = await tenancy.deploy_folder(function.name)
                assert deployed.active, function.name
                assert not deployed.warnings, deployed.warnings


def test_no_document_names_a_call_that_is_not_served() -> None:
    served = {re.sub(r"\{[^}]*\}", "{}", operation.path) for operation in OPERATIONS}
    named = re.findall(r"`(?:GET|PUT|POST|DELETE|PATCH) (/[^`?]*)", README)
    assert {re.sub(r"\{[^}]*\}", "{}", path) for path in named} <= served


def test_nothing_of_the_repository_is_a_platform_package() -> None:
    """`platform/__init__.py` would hide the standard library's `platform`."""
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    assert Path(__file__).parent.parent == REPOSITORY
