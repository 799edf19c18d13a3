"""What one of each costs, measured: the constants of `scaling`. Writes build/bench/unitcosts.json.

    python tests/bench/unitcosts.py [--quick]

CPU time, not duration, except for blobs. Of CPU time the cheapest of several rounds: what else the machine does weighs
less on that, though caches and clock rate still show it. Memory is what a process holds more than before; where it
fills what it had freed, that is too little. `python tests/bench/scaling.py --measure` goes on to the arithmetic.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.capacity import Costs
from bench.nodeunits import measure_http, measure_node
from bench.redisunits import measure_redis
from bench.report import Result, heading, table, write_json
from quota_nodes import redis_running

METHOD = "CPU time: INFO cpu of a private redis-server, process time of the caller, /proc and getrusage for children"


def costs_of(results: Sequence[Result]) -> Costs:
    """The figures that have a field's name; raises `ValueError` naming those that are missing."""
    found = {result.name: result.value for result in results if result.value is not None}
    wanted = [field.name for field in fields(Costs)]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"not measured: {', '.join(missing)}")
    return Costs(**{name: found[name] for name in wanted})


def measure_all(*, quick: bool) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="wisp-") as name:
        folder = Path(name)
        (folder / "redis").mkdir()
        with redis_running() as url:
            results = asyncio.run(measure_redis(url, folder / "redis", quick=quick))
        results += asyncio.run(measure_node(folder / "node", quick=quick))
        return results + measure_http(folder / "http", quick=quick)


def shown(results: Sequence[Result]) -> str:
    return table(("unit cost", "", ""), [(each.name, f"{each.value:,.1f}", each.unit) for each in results])


def measured(*, quick: bool) -> Costs:
    """Prints and writes all of it."""
    results = measure_all(quick=quick)
    print(shown(results))
    print(f"\n{write_json('unitcosts', METHOD, results)}", flush=True)
    return costs_of(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer of each, half a minute")
    options = parser.parse_args()
    print(heading(METHOD), flush=True)
    measured(quick=options.quick)


if __name__ == "__main__":
    main()
