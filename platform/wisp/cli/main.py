"""`wisp`: serve, demo, policy, version."""

from __future__ import annotations

import typer

from wisp import __version__
from wisp.cli.demo import demo
from wisp.cli.policy import policy
from wisp.cli.serve import serve

app = typer.Typer(
    name="wisp",
    help="WASI Inference Serverless Platform: other people's inference code, for many tenants, safely.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(demo)
app.add_typer(policy)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    app()
