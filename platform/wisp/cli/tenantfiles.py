"""A folder of tenants: `<tenant>/tenant.yaml` and `<tenant>/<function>/{policy.yaml, module.wasm, bundle/}`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from wisp.errors import InvalidSettings
from wisp.names import FunctionName, ModelName, TenantName, parse_class, parse_function, parse_model, parse_tenant

MAX_TENANT_FILE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFolder:
    """`files`: path in the bundle, and the file. The module may not have been built yet. `optional`: it needs something
    that is not in the folder (a model that is too large for it, say), so nobody is surprised if it is not deployed."""

    name: FunctionName
    module: Path
    policy: Path
    files: tuple[tuple[str, Path], ...]
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFolder:
    name: TenantName
    class_name: str
    models: tuple[tuple[ModelName, Path], ...]
    functions: tuple[FunctionFolder, ...]


def read_folder(root: Path) -> tuple[TenantFolder, ...]:
    """Every folder with a `tenant.yaml`, by name. Raises `InvalidSettings` and `InvalidName`."""
    if not root.is_dir():
        raise InvalidSettings(f"--tenants: there is no directory {str(root)!a}")
    return tuple(_tenant(path.parent) for path in sorted(root.glob("*/tenant.yaml")))


def _tenant(folder: Path) -> TenantFolder:
    described = _load(folder / "tenant.yaml")
    models, optional = described.get("models", {}), described.get("optional", [])
    if (
        set(described) - {"class", "models", "optional"}
        or not isinstance(models, dict)
        or not isinstance(optional, list)
    ):
        raise InvalidSettings(
            f"{folder / 'tenant.yaml'}: its keys are class, models: {{name: file}} and optional: [function]"
        )
    return TenantFolder(
        name=parse_tenant(folder.name),
        class_name=parse_class(str(described.get("class", "free"))),
        models=tuple((parse_model(str(name)), _inside(folder, str(file))) for name, file in models.items()),
        functions=tuple(
            _function(path.parent, optional=path.parent.name in optional)
            for path in sorted(folder.glob("*/policy.yaml"))
        ),
    )


def _load(path: Path) -> dict[str, object]:
    try:
        text = path.read_bytes()[:MAX_TENANT_FILE]
        loaded = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{path}: cannot be read as YAML") from error
    if not isinstance(loaded, dict):
        raise InvalidSettings(f"{path}: holds no mapping")
    return loaded


def _inside(folder: Path, file: str) -> Path:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise InvalidSettings(f"{folder / 'tenant.yaml'}: there is no file {file!a} in this folder")
    return path


def _function(folder: Path, *, optional: bool) -> FunctionFolder:
    bundle = folder / "bundle"
    files = tuple((path.relative_to(bundle).as_posix(), path) for path in sorted(bundle.rglob("*")) if path.is_file())
    return FunctionFolder(
        name=parse_function(folder.name),
        module=folder / "module.wasm",
        policy=folder / "policy.yaml",
        files=files,
        optional=optional,
    )
