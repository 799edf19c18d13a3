"""A folder of tenants, read strictly; the repository's own is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from platforms import TENANTS
from wisp.cli.tenantfiles import read_folder
from wisp.errors import InvalidName, InvalidSettings


def write(root: Path, tenant: str, text: str, *functions: str) -> Path:
    folder = root / tenant
    folder.mkdir()
    (folder / "tenant.yaml").write_text(text)
    for function in functions:
        (folder / function).mkdir()
        (folder / function / "policy.yaml").write_text("wisp: 1\nabi: handler\n")
        (folder / function / "module.wasm").write_bytes(b"\0asm")
    return folder


def test_the_repositorys_folder_is_read() -> None:
    found = {str(folder.name): {str(function.name) for function in folder.functions} for folder in read_folder(TENANTS)}
    assert found["acme"] >= {"hello", "digits", "burn"}
    assert found["globex"] >= {"hello"}


def test_a_tenant_has_a_class_models_functions_and_bundles(tmp_path: Path) -> None:
    folder = write(tmp_path, "acme", "class: standard\nmodels: {m: one/m.onnx}\n", "one", "two")
    (folder / "one" / "m.onnx").write_bytes(b"x")
    (folder / "one" / "bundle" / "words").mkdir(parents=True)
    (folder / "one" / "bundle" / "words" / "en.txt").write_text("yes")
    (acme,) = read_folder(tmp_path)
    assert (acme.name, acme.class_name) == ("acme", "standard")
    assert acme.models == (("m", folder / "one/m.onnx"),)
    assert [function.name for function in acme.functions] == ["one", "two"]
    assert [name for name, _ in acme.functions[0].files] == ["words/en.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "class: free\nmodel: {}\n",
        "models: []\n",
        "models: {m: nothing.onnx}\n",
        "models: {m: ../m.onnx}\n",
        "",
        "a: [",
        "!!python/object:os.system {}",
    ],
)
def test_what_is_no_tenant_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    write(tmp_path, "acme", text)
    with pytest.raises(InvalidSettings):
        read_folder(tmp_path)


def test_names_follow_the_grammar(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no directory"):
        read_folder(tmp_path / "nowhere")
    write(tmp_path, "Acme!", "class: free\n")
    with pytest.raises(InvalidName):
        read_folder(tmp_path)
