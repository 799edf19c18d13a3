"""Three nodes on one Redis Cluster and one object store behind haproxy, upgraded, killed and changed under load.

Clients hold each answer to its content: `failed` says so itself (a status that is not 200), `lost` never came, `wrong`
claims to be right. Writers make tenants throughout; an acknowledged one that is not there afterwards is a lost write.
Wrong answers, lost writes, a quota that is exceeded and a share that is off by more than five standard deviations end
it with 1. `build/bench/cluster.json` has the figures.

    python tests/bench/bench_cluster.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from base64 import b64encode
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.report import Result, heading, percentile, table, write_json
from cluster.balancer import balancing
from cluster.callers import Callers, Writers
from cluster.fleet import BUCKET, Node, fleet, object_store
from cluster.phases import BURST, RATE, WIDE, Phase, Trial, class_document
from cluster.redisservers import Servers, running_servers
from platforms import OPERATOR_KEY, TENANTS
from updates import Platform

NAMES = ("a", "b", "c")
VERSIONS = 4
METHOD = (
    "three `wisp serve --workers 1`, six redis-servers (three primaries, a replica each), moto's S3 server, haproxy,"
    " the clients: all on one machine; closed loop with a pause between a client's requests"
)
HELLO = b"""wisp: 1
abi: handler
limits: {timeout: 5s, request_body: 64Ki}
environment: {GREETING: hello}
concurrency: {max_inflight: 64, max_queue: 128, queue_timeout: 10s}
"""


def prepare(port: int) -> dict[str, str]:
    """The operator's documents, three tenants and what they run; each tenant's deploy key."""
    here = Platform(port)
    metered = f"requests_per_second: {RATE}, burst: {BURST}, max_inflight: 64"
    for name, quota in (("standard", WIDE), ("edited", WIDE), ("metered", metered)):
        answer = here.call("PUT", f"/v1/policies/class-{name}", content=class_document(quota=quota))
        assert answer.status_code in (200, 202), answer.text
    keys = {}
    module = (TENANTS / "acme" / "hello" / "module.wasm").read_bytes()
    for tenant, kind in (("acme", "standard"), ("edited", "edited"), ("metered", "metered")):
        answer = here.call("POST", "/v1/tenants", json={"tenant": tenant, "class": kind})
        assert answer.status_code == 201, answer.text
        keys[tenant] = answer.json()["key"]["secret"]
        parts = [("module", ("m", module)), ("policy", ("p", HELLO))]
        path = f"/v1/tenants/{tenant}/functions/hello"
        answer = here.call("PUT", path, key=keys[tenant], files=parts)
        assert answer.status_code == 201, answer.text
    here.key = keys["acme"]
    for number in range(1, VERSIONS + 1):
        answer = here.upload("which", number, activate=number == 1)
        assert answer.status_code == 201, answer.text
    return keys


def warm(nodes: list[Node], keys: dict[str, str]) -> None:
    for node in nodes:
        here = Platform(node.port)
        for tenant, key in keys.items():
            answer = here.call("GET", f"/t/{tenant}/hello?name=you", key=key)
            assert answer.content == b"hello, you\n", answer.text
        assert here.call("GET", "/t/acme/which", key=keys["acme"]).status_code == 200


async def try_all(
    nodes: list[Node], servers: Servers, port: int, keys: dict[str, str], options: argparse.Namespace
) -> Trial:
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    quick: bool = options.quick
    callers = Callers(port, keys["acme"], clients=6 if quick else 12, pause_s=0.04)
    writers = Writers(port, writers=2, pause_s=0.2 if quick else 0.1)
    trial = Trial(
        nodes=nodes,
        servers=servers,
        balancer=port,
        callers=callers,
        writers=writers,
        keys=keys,
        tell=tell,
        steady_s=4 if quick else 20,
        step_s=3 if quick else 15,
        edits=2 if quick else 10,
        quota_s=6 if quick else 30,
    )
    async with callers, writers:
        await trial.steady()
        await trial.rolling_upgrade()
        await trial.node_killed()
        await trial.redis_failover()
        await trial.canary(2)
        await trial.policy_edit()
        await trial.activation([3, 4] if quick else [3, 4, 1, 2, 3, 4, 1, 2, 3, 4])
        await trial.quota("quota, evenly offered", [RATE, RATE, RATE])
        await trial.quota("quota, one node's crowd", [3 * RATE, RATE / 4, RATE / 4])
    await trial.everything_is_there()
    return trial


def row(phase: Phase) -> tuple[str, ...]:
    tally, written = phase.tally, phase.written
    p99 = percentile(tally.latencies_s, 99) * 1000
    numbers = (tally.sent, tally.right, tally.failed, tally.lost, tally.wrong)
    writes = (written.sent, len(written.acknowledged), written.refused, written.unknown, len(phase.gone))
    return (phase.name, f"{phase.lasted_s:.0f}", *map(str, numbers), f"{p99:.0f}", *map(str, writes))


HEAD = ("phase", "s", "sent", "right", "failed", "lost", "wrong", "p99 ms",
        "writes", "acknowledged", "refused", "unknown", "gone")  # fmt: skip


def results(trial: Trial) -> list[Result]:
    found = []
    for phase in trial.phases:
        tally, written = phase.tally, phase.written
        for name, value, goal in (
            ("sent", tally.sent, None),
            ("right", tally.right, None),
            ("failed", tally.failed, None),
            ("lost", tally.lost, None),
            ("wrong", tally.wrong, 0),
            ("writes acknowledged", len(written.acknowledged), None),
            ("writes refused", written.refused, None),
            ("writes of unknown end", written.unknown, None),
            ("acknowledged writes lost", len(phase.gone), 0),
        ):
            better = "higher" if name in ("sent", "right", "writes acknowledged") else "lower"
            found.append(Result(name=f"{phase.name}: {name}", value=value, unit="", goal=goal, better=better))  # type: ignore[arg-type]
        found += [
            Result(name=f"{phase.name}: {name}", value=value, unit=unit) for name, (value, unit) in phase.notes.items()
        ]
    return found


def show(trial: Trial) -> None:
    print("\n" + table(HEAD, map(row, trial.phases)))
    for phase in trial.phases:
        print(f"\n{phase.name}")
        for name, (value, unit) in phase.notes.items():
            print(f"  {name:44} {value:10.2f} {unit}")
        for reasons in (phase.tally.reasons, phase.written.reasons):
            for reason, number in reasons.most_common(5):
                print(f"  {number} times {reason}")
        for fault in phase.faults:
            print(f"  FAULT: {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two minutes: shorter phases, fewer changes")
    options = parser.parse_args()
    binary = shutil.which("redis-server")
    assert binary is not None, "there is no redis-server on the PATH"
    print(heading(METHOD), flush=True)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wisp-")))
        servers = stack.enter_context(running_servers(Path(binary), root / "redis"))
        aws = stack.enter_context(object_store())
        print("six redis-servers and an object store are up; three nodes start", flush=True)
        secrets_key = b64encode(b"k" * 32).decode()
        flags = ("--redis", servers.url, "--blobs", f"s3://{BUCKET}/blobs")
        environment = {"WISP_OPERATOR_KEY": OPERATOR_KEY, "WISP_SECRETS_KEY": secrets_key, **aws}
        nodes = stack.enter_context(fleet(root, NAMES, *flags, **environment))
        port = stack.enter_context(balancing(root, {node.name: node.port for node in nodes}))
        time.sleep(2)
        keys = prepare(port)
        warm(nodes, keys)
        trial = asyncio.run(try_all(nodes, servers, port, keys, options))
    show(trial)
    print(f"\n{write_json('cluster', METHOD, results(trial))}")
    faults = [fault for phase in trial.phases for fault in phase.faults]
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
