"""How far the design goes: unit costs put into the arithmetic of `capacity`, leases and fan-out checked by simulation.

python tests/bench/scaling.py [--quick] [--measure]

`--measure` takes the unit costs on this machine first (`unitcosts`), instead of those written here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.capacity import Costs, Workload, first_full, lease_rate, loads, nodes_needed, short_lease_rate
from bench.leasesim import fanned_out, quota, simulate
from bench.report import Result, heading, table, write_json
from bench.unitcosts import measured
from cluster.phases import BURST, RATE
from wisp.registry.following import COMPARE_EVERY_S

METHOD = (
    "unit costs as in COSTS or measured; the simulation runs real allowances and the real script on a virtual clock"
)
COSTS = Costs(
    redis_write_us=84,
    redis_event_us=1.2,
    redis_entry_us=44,
    redis_generation_us=0.2,
    redis_lease_us=49,
    redis_holder_us=4.2,
    redis_usage_us=51,
    router_request_us=114,
    sandbox_request_us=70,
    router_event_us=11,
    router_entry_us=190,
    router_generation_us=1.0,
    router_lease_us=148,
    router_usage_us=117,
    compile_us=1_181_438,
)
"""One run of `python tests/bench/unitcosts.py` on a shared virtual machine with 2 cores: the cheapest
of five rounds each, rounded. `compile_us` is of 1 MB, on a line through modules of up to 308 kB."""
BASE = Workload(
    tenants=1000,
    functions=3000,
    requests=1000,
    writes=2,
    deploys=0.05,
    busiest=100,
    blob_bytes=1_000_000,
    primaries=3,
    cores=4,
    store_bytes=1e9,
)
"""Assumed, all of it."""
FACTORS = (1, 10, 100)


def predicted(costs: Costs) -> list[Result]:
    found = []
    for factor in FACTORS:
        workload = BASE.scaled(factor)
        nodes = nodes_needed(workload, costs)
        for homes in (nodes, 2):
            rows = loads(workload, costs, nodes, homes=homes)
            full = first_full(rows)
            where = "every node" if homes == nodes else f"{homes} nodes"
            print(f"\n{factor}x: {nodes} nodes, a tenant's requests go to {where}; "
                  f"first full: {'nothing' if full is None else full.resource}")  # fmt: skip
            shown = [(row.resource, f"{row.amount:,.2f}", row.unit, f"{row.share:.1%}") for row in rows]
            print(table(("resource", "amount", "", "of it used"), shown))
            found += [
                Result(name=f"{factor}x, tenants on {where}: {row.resource}", value=row.share, unit="share")
                for row in rows
            ]
    return found


def checked(*, quick: bool) -> list[Result]:
    """Arithmetic beside simulation."""
    found, rows = [], []
    for rate in (0.02, 0.1, 0.3, 1.0, 3.0, 10.0, 50.0):
        lasts_s = (50 if quick else 500) * max(1.0, min(0.5 / rate, 10.0))
        outcome = simulate(quota(10**5, 10**5), [rate], lasts_s=lasts_s)
        rows.append(
            (f"{rate:g}/s at random, not short", f"{lease_rate(rate, 10**5):.3f}", f"{outcome.leases_per_s:.3f}", "")
        )
        found.append(Result(name=f"leases at {rate:g}/s", value=outcome.leases_per_s, unit="1/s"))
    for nodes in (3, 10, 30):
        rates = [2 * RATE / nodes] * nodes
        outcome = simulate(quota(RATE, BURST), rates, lasts_s=5 if quick else 30)
        beyond = f"{outcome.accepted} of {outcome.most:.0f}"
        at_most = short_lease_rate(nodes)
        rows.append((f"{nodes} nodes, twice the quota", f"<= {at_most:.0f}", f"{outcome.leases_per_s:.1f}", beyond))
        found += [
            Result(name=f"leases, {nodes} nodes short", value=outcome.leases_per_s, unit="1/s", goal=at_most),
            Result(name=f"accepted, {nodes} nodes short", value=outcome.accepted, unit="", goal=outcome.most),
        ]
    print("\nleases for one tenant, all nodes together")
    print(table(("", "arithmetic, 1/s", "simulated, 1/s", "accepted"), rows))
    print("\nfan-out, one message of a hundred lost")
    for nodes in (3, 30, 300):
        fan = fanned_out(nodes=nodes, writes=10, loss=0.01, lasts_s=100, every_s=COMPARE_EVERY_S)
        print(f"  {nodes:4} nodes: {fan.delivered / 100:8.1f} delivered a second, arithmetic {10 * nodes * 0.99:8.1f}; "
              f"a lost one is noticed after {fan.healed_s:.2f} s, {fan.longest_s:.2f} s at most")  # fmt: skip
        found.append(Result(name=f"events delivered, {nodes} nodes", value=fan.delivered / 100, unit="1/s"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="half a minute")
    parser.add_argument("--measure", action="store_true", help="take the unit costs here and now: a minute more")
    options = parser.parse_args()
    print(heading(METHOD), flush=True)
    costs = measured(quick=options.quick) if options.measure else COSTS
    results = [*predicted(costs), *checked(quick=options.quick)]
    print(f"\n{write_json('scaling', METHOD, results)}")


if __name__ == "__main__":
    main()
