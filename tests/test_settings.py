"""Settings: flag over variable over default, nothing unknown, nothing bad, nothing secret shown."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from wisp.errors import InvalidSettings
from wisp.settings import SETTINGS, Settings

KEY = {"WISP_OPERATOR_KEY": "k" * 32}


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    assert Settings.load({}, KEY).bind == "127.0.0.1:8080"
    assert Settings.load({}, KEY | {"WISP_BIND": "[::1]:9"}).bind == "[::1]:9"
    assert Settings.load({"bind": "host:1"}, KEY | {"WISP_BIND": "[::1]:9"}).bind == "host:1"
    assert Settings.load({"dev": False}, KEY | {"WISP_DEV": "1"}).dev is False


def test_quantities_are_in_seconds_and_bytes() -> None:
    settings = Settings.load({"drain_delay": "500ms", "body_timeout": "2m", "body_budget": "64Ki"}, KEY)
    assert (settings.drain_delay_s, settings.body_timeout_s, settings.body_budget_bytes) == (0.5, 120.0, 65536)


def test_unknown_variables_are_refused_and_other_peoples_ignored() -> None:
    with pytest.raises(InvalidSettings, match=r"WISP_WORKER'.*WISP_WORKERS"):
        Settings.load({}, KEY | {"WISP_WORKER": "2"})
    assert Settings.load({}, KEY | {"PATH": "/bin", "WISPY": "1"}).workers >= 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dev", "yes"),
        ("bind", "8080"),
        ("bind", "host:99999"),
        ("bind", "host:"),
        ("workers", "0"),
        ("workers", "2000"),
        ("workers", "two"),
        ("drain_delay", "5"),
        ("drain_timeout", "-1s"),
        ("drain_timeout", "1h"),
        ("batch_delay", "6ms"),
        ("body_budget", "0"),
        ("body_budget", "64K"),
        ("body_timeout", "0s"),
        ("log_format", "xml"),
        ("redis", "localhost"),
        ("data_dir", ""),
        ("operator_key", "k" * 31),
        ("operator_key", "k" * 31 + "\n"),
        ("operator_key", "k" * 31 + "é"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_it_came_by(name: str, text: str) -> None:
    with pytest.raises(InvalidSettings, match=f"WISP_{name.upper()}"):
        Settings.load({}, KEY | {f"WISP_{name.upper()}": text})
    if name != "operator_key":
        with pytest.raises(InvalidSettings, match=f"--{name.replace('_', '-')}"):
            Settings.load({name: text}, KEY)


def test_a_refused_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidSettings) as refused:
        Settings.load({}, {"WISP_OPERATOR_KEY": "hunter2"})
    assert "hunter2" not in refused.value.message


def test_what_does_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="WISP_OPERATOR_KEY"):
        Settings.load({}, {})
    assert Settings.load({"dev": True}, {}).operator_key is None
    with pytest.raises(InvalidSettings, match="go together"):
        Settings.load({"tls_cert": str(tmp_path)}, KEY)
    with pytest.raises(InvalidSettings, match="no file"):
        Settings.load({"tls_cert": str(tmp_path / "c"), "tls_key": str(tmp_path / "k")}, KEY)
    with pytest.raises(InvalidSettings, match="no directory"):
        Settings.load({"policies": str(tmp_path / "nowhere")}, KEY)


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    url = "rediss://user:hunter2@redis.example:6380/0?ssl_password=hunter2"
    settings = Settings.load({"redis": url}, {"WISP_OPERATOR_KEY": "hunter2" * 6})
    masked = settings.masked()
    assert "hunter2" not in str(masked)
    assert masked["redis"] == "rediss://***@redis.example:6380/0?***"
    assert "hunter2" * 6 not in repr(settings)


def test_the_table_is_the_settings() -> None:
    assert [setting.attribute for setting in SETTINGS] == [field.name for field in fields(Settings)]
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    described = {variable: (flag, meaning) for flag, variable, _, meaning in Settings.describe()}
    assert described["WISP_OPERATOR_KEY"][0] == ""
    assert all(meaning for _, meaning in described.values())
