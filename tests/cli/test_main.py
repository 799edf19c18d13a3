"""The command line itself: its options are the settings, and the demonstration is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from platforms import HANDLER_POLICY
from wat import answering
from wisp import __version__
from wisp.cli.demo import Seen, Visit, as_expected
from wisp.cli.main import app
from wisp.cli.samples import Expected, Question, Sample
from wisp.names import parse_function, parse_tenant
from wisp.settings import SETTINGS


def test_serve_offers_each_setting_but_the_secret() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    words = " ".join(shown.split())
    for setting in SETTINGS:
        assert setting.variable in words
        assert setting.help in words
        assert setting.flag is None or setting.flag in words
    assert "operator-key" not in shown


def test_no_summary_of_a_command_is_cut_off() -> None:
    for words in ([], ["policy"]):
        _, _, commands = CliRunner().invoke(app, [*words, "--help"]).output.partition("Commands:")
        assert commands
        assert "..." not in commands


def test_version() -> None:
    assert CliRunner().invoke(app, ["version"]).output == f"{__version__}\n"


def test_a_demonstration_of_nothing_fails() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "wisp.cli", "demo", "--tenants", "/nonexistent"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert b"there is no directory" in ended.stdout


def test_a_demonstration_is_given_whole(tmp_path: Path) -> None:
    """One right answer, one wrong one, one function that is not built and has no samples: 1, and nothing left."""
    for name, expected in (("right", "hello"), ("wrong", "goodbye")):
        folder = tmp_path / "acme" / name
        (folder / "samples").mkdir(parents=True)
        (folder / "module.wasm").write_bytes(answering(b"hello"))
        (folder / "policy.yaml").write_bytes(HANDLER_POLICY)
        (folder / "samples" / "requests.json").write_text(json.dumps([{"expect": {"body": expected}}]))
    (tmp_path / "acme" / "unbuilt").mkdir()
    (tmp_path / "acme" / "unbuilt" / "policy.yaml").write_bytes(HANDLER_POLICY)
    (tmp_path / "acme" / "tenant.yaml").write_text("class: free\n")
    ended = subprocess.run(
        [sys.executable, "-m", "wisp.cli", "demo", "--tenants", str(tmp_path)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    said = ended.stdout.decode()
    assert ended.returncode == 1, said
    assert "2 answers: 1 right, 0 misread by the model, 1 wrong" in said
    assert "stopped with 0 and left no process behind" in said


@pytest.mark.parametrize(("misread", "passes"), [(0, True), (2, True), (3, False)])
def test_a_model_may_misread_one_picture_in_ten(misread: int, passes: bool) -> None:
    expect = Expected.model_validate({"json": {"label": 1}})
    question = Question(sample=Sample(expect=expect), file=None, labelled=True)
    visit = Visit(tenant=parse_tenant("acme"), function=parse_function("digits"), question=question)
    labels = [2] * misread + [1] * (20 - misread)
    seen = [Seen(visit=visit, answer=httpx.Response(200, json={"label": label}), milliseconds=1.0) for label in labels]
    assert as_expected(seen) is passes
    broken = Seen(visit=visit, answer=httpx.Response(503), milliseconds=1.0)
    assert not as_expected([*seen, broken])
