"""What a second process on the same model costs: N inference hosts on one 100 MB matrix model, prepared and not.

    .venv/bin/python tests/bench/bench_models.py [--quick] [--hosts N]

Memory is the proportional share (PSS, /proc/<pid>/smaps_rollup) of all hosts together beyond that of as many hosts with
nothing loaded; opening is the host's own time, the first host and the mean of the rest. One run, ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from inference.peers import Router, judge
from inference.test_probe import gemm
from wisp.names import Digest
from wisp.scheduling.modelcache import ModelCache
from wisp.scheduling.rooms import Rooms
from wisp.wire.admissions import ModelFacts, Terms
from wisp.wire.confinement import Limits

DIGEST = Digest("sha256:" + "a" * 64)


def pss_bytes(router: Router) -> int:
    for line in Path(f"/proc/{router.process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss in smaps_rollup")


def measure(hosts: int, model: bytes, root: Path, cache: ModelCache, *, prepared: bool) -> float:
    """What all hosts take together, over what one takes."""
    rooms = [Rooms(root / "rooms" / str(number)).make() for number in range(hosts)]
    routers = [Router(root / "empty", models_fd=room.fd) for room in rooms]
    try:
        empty = sum(map(pss_bytes, routers))
        entry = asyncio.run(cache.find(DIGEST))
        assert entry is not None
        assert entry.path is not None
        opened_ms, total = [], []
        for router, room in zip(routers, rooms, strict=True):
            router.send_load("m", model, prepared=room.show(entry.path) if prepared else "")
            answer = router.loaded()
            assert answer["shared"] is prepared, answer
            opened_ms.append(answer["load_ms"])
            total.append(sum(map(pss_bytes, routers)) - empty)
        kind = "prepared" if prepared else "uploaded"
        rest = sum(opened_ms[1:]) / max(1, len(opened_ms) - 1)
        print(
            f"{kind:9} {hosts} hosts: open {opened_ms[0]} ms, then {rest:.0f} ms each; "
            f"memory of one {total[0] >> 20} MiB, of all {total[-1] >> 20} MiB, ratio {total[-1] / total[0]:.2f}"
        )
        return total[-1] / total[0]
    finally:
        for router in routers:
            router.finish()
        for room in rooms:
            room.close()


def compare(hosts: int, columns: int) -> dict[str, float]:
    """By "prepared" and "uploaded": what `hosts` hosts take together on one matrix of so many columns, over one."""
    model = gemm(columns).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "empty").mkdir(mode=0o500)
        files = tuple(os.memfd_create(name) for name in ("model", "weights"))
        limits = Limits(address_space_bytes=3 << 30, cpu_s=60, file_bytes=4 * len(model))
        facts = judge(model, root / "empty", Terms(max_bytes=1 << 30), limits, prepared=files).verdict
        assert isinstance(facts, ModelFacts), facts
        print(f"a model of {len(model) >> 20} MiB, its weights prepared {facts.weights_bytes >> 20} MiB; {facts.probe}")
        cache = ModelCache(root / "models", b"k" * 32)
        asyncio.run(cache.put(DIGEST, facts, *files))
        for fd in files:
            os.close(fd)
        return {
            kind: measure(hosts, model, root, cache, prepared=kind == "prepared") for kind in ("prepared", "uploaded")
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a model of 16 MB and two hosts")
    parser.add_argument("--hosts", type=int, default=10)
    options = parser.parse_args()
    compare(2 if options.quick else options.hosts, 2000 if options.quick else 5000)


if __name__ == "__main__":
    main()
