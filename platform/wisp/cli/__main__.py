"""`python -m wisp.cli` is `wisp`, where no script of that name is installed."""

from __future__ import annotations

from wisp.cli.main import main

main()
