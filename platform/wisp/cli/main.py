"""`wisp`: serve, demo, policy, version."""

from __future__ import annotations

import typer

from wisp import __version__
from wisp.cli.demo import demo
from wisp.cli.policy import policy
from wisp.cli.serve import VARIABLES_ALONE, serve

app = typer.Typer(
    name="wisp",
    help="WASI Inference Serverless Platform: other people's inference code, for many tenants, safely.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # it would take [fast] for a colour
    pretty_exceptions_enable=False,
)
app.command(short_help="Run the platform on this machine.", epilog=VARIABLES_ALONE)(serve)
app.command(short_help="Show what it does: start, deploy, ask, stop.")(demo)
app.add_typer(policy, short_help="Check, explain and compare policies.")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    app()
