"""`wisp serve`: its options are made from the table of settings, which also parses and checks them."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from wisp.cli.deploy import deploy_folder
from wisp.server import run
from wisp.settings import SETTINGS, Setting, Settings

VARIABLES_ALONE = "Variables alone, since they are secrets: " + "; ".join(
    f"{setting.variable}, {setting.help}" for setting in SETTINGS if setting.flag is None
)


def serve(**flags: str | bool | None) -> None:
    """Run the platform on this machine until SIGTERM. Every option has a WISP_* variable; the option wins."""
    raise typer.Exit(run(lambda: Settings.load(flags), deploy_folder))


def _parameter(setting: Setting) -> inspect.Parameter:
    assert setting.flag is not None
    names = [f"{setting.flag}/--no-{setting.flag[2:]}"] if setting.switch else [setting.flag]
    default = "" if setting.default is None or setting.switch else f" (default {setting.default})"
    option = typer.Option(
        *names,
        metavar=setting.metavar or None,
        help=f"{setting.help}{default} · {setting.variable}",
        show_default=False,
    )
    kind = Annotated[bool | None, option] if setting.switch else Annotated[str | None, option]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


# typer reads a command's options from its signature: this one says what the table says.
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [_parameter(setting) for setting in SETTINGS if setting.flag is not None], return_annotation=None
)
serve.__annotations__ = {}
