"""Sample requests: what is asked, what must come back, and what a right answer is."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from platforms import TENANTS
from wisp.cli.demo import durations
from wisp.cli.deploy import curl_line
from wisp.cli.samples import Expected, questions
from wisp.errors import InvalidSettings


def test_the_repositorys_samples_are_read() -> None:
    digits = questions(TENANTS / "acme" / "digits")
    assert len(digits) == 20
    assert {str(question.sample.expect) for question in digits} == {f"label: {digit}" for digit in range(10)}
    assert all(question.content.startswith(b"\x89PNG") for question in digits)
    assert [str(question.sample.expect) for question in questions(TENANTS / "acme" / "burn")] == ["fuel_exhausted"]


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ({}, httpx.Response(200, text="anything"), True),
        ({}, httpx.Response(500), False),
        ({"json": {"label": 7}}, httpx.Response(200, json={"label": 7, "confidence": 0.9}), True),
        ({"json": {"label": 7}}, httpx.Response(200, json={"label": 8}), False),
        ({"json": {"label": 7}}, httpx.Response(200, json=[7]), False),
        ({"json": {"label": 7}}, httpx.Response(200, text="label 7"), False),
        ({"body": "hi\n"}, httpx.Response(200, text="hi\n"), True),
        ({"body": "hi\n"}, httpx.Response(200, text="hi"), False),
        ({"status": 500, "code": "x"}, httpx.Response(500, headers={"wisp-error": "x; source=guest"}), True),
        ({"status": 500, "code": "x"}, httpx.Response(500, headers={"wisp-error": "xy; source=guest"}), False),
        ({"status": 500, "code": "x"}, httpx.Response(500), False),
    ],
)
def test_an_answer_is_right_or_wrong(expected: dict[str, object], answer: httpx.Response, right: bool) -> None:
    assert Expected.model_validate(expected).matches(answer) is right


def test_a_misspelt_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "requests.json").write_text('[{"expects": {}}]')
    with pytest.raises(InvalidSettings, match="expects"):
        questions(tmp_path)


def test_a_command_line_asks_the_first_sample(tmp_path: Path) -> None:
    assert curl_line("http://h/t/a/f", "s", tmp_path) == "curl -i -H 'Authorization: Bearer s' http://h/t/a/f"
    line = curl_line("http://h/t/a/f", "s", TENANTS / "acme" / "digits")
    assert "-H 'content-type: image/png' --data-binary " in line
    assert "0-a.png" in line


def test_server_timing_is_read() -> None:
    assert durations("queue;dur=0.100, guest;dur=2.5") == {"queue": "0.100", "guest": "2.5"}
    assert durations("") == {}
