"""What the router tells its operator: log records on stderr and Prometheus metrics. The one user of prometheus_client.

Labels are closed sets (codes, kinds of children) or the names of tenants that exist, which `forget` removes with them;
functions, callers and versions are never labels.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
NS_PER_S = 1e9
CONTEXT = ("request_id", "tenant", "function")
"""What a record may carry beside its message (`extra=`)."""
QUIET = ("hypercorn.error", "httpx", "httpcore", "asyncio", "python_multipart", "python_multipart.multipart")
"""Libraries whose ordinary chatter any caller could make."""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in CONTEXT if hasattr(record, name)})
        if record.exc_info is not None and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line)


class TextLines(logging.Formatter):
    """One line a record, whatever it quotes: control characters are escaped. A traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if not message.isprintable():
            message = message.encode("unicode_escape").decode("ascii")
        context = "".join(f" {name}={getattr(record, name)}" for name in CONTEXT if hasattr(record, name))
        line = f"{_moment(record.created)} {record.levelname.lower():7} {record.name}: {message}{context}"
        if record.exc_info is not None and record.exc_info[1] is not None:
            line += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return line


def configure_logging(log_format: str) -> None:
    """`json` or `text`, on stderr, from INFO; replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR if "multipart" in name else logging.WARNING)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What a node can count at the moment it is asked. `bytes_in_flight`: of bodies; `queued`: requests;
    `blob_faults`: by what was wrong, ever; `denials`: by capability, ever; `walls`: kind of child, name, whether it is
    up; `providers`: onnxruntime's, by inference host."""

    sandboxes_idle: int = 0
    sandboxes_busy: int = 0
    queued: int = 0
    bytes_in_flight: int = 0
    sandbox_restarts: int = 0
    inference_restarts: int = 0
    registry_reachable: bool = True
    registry_stale_seconds: float = 0.0
    blob_cache_bytes: int = 0
    quotas_cut_off: int = 0
    blob_faults: Mapping[str, int] = field(default_factory=dict)
    denials: Mapping[str, int] = field(default_factory=dict)
    walls: tuple[tuple[str, str, bool], ...] = ()
    providers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


HELP = {
    "sandboxes_idle": "Sandboxes that wait for a request.",
    "sandboxes_busy": "Sandboxes that run a guest.",
    "queued": "Requests that wait for a sandbox.",
    "bytes_in_flight": "Bytes of request and response bodies that this node holds.",
    "registry_reachable": "Whether the registry answers; while it does not, this node answers from memory.",
    "registry_stale_seconds": "Since what this node remembers was last compared with the registry; -1: never yet.",
    "quotas_cut_off": "Tenants that go on without a quota lease, at this node's share, since none could be had.",
    "blob_cache_bytes": "Bytes of this node's copies of blobs that are kept elsewhere.",
}


class Times:
    """How long something took, by `SECONDS`. Belongs to one thread, which is why it costs a tenth of the library's."""

    __slots__ = ("counts", "name", "sum_s", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = f"wisp_{name}_seconds"
        self.text = text
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum_s = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum_s += seconds

    def family(self) -> HistogramMetricFamily:
        bounds = (*map(str, SECONDS), "+Inf")
        return HistogramMetricFamily(
            self.name,
            self.text,
            buckets=list(zip(bounds, map(float, accumulate(self.counts)), strict=True)),
            sum_value=self.sum_s,
        )


class Metrics:
    """A registry of its own, so that two platforms in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._request = Times("request", "From a request's head to its answer.")
        self._queue = Times("queue", "Waiting for a sandbox.")
        self._guest = Times("guest", "In the guest.")
        self._inference = Times("inference", "In inference, for one request.")
        self._source: Callable[[], Gauges] | None = None
        self._answers: dict[str, dict[str, int]] = {}
        """By tenant and code."""
        self.registry.register(_Watched(self))

    def watch(self, source: Callable[[], Gauges]) -> None:
        """`source` is asked at every scrape."""
        self._source = source

    def gauges(self) -> Gauges:
        return Gauges() if self._source is None else self._source()

    def answered(self, tenant: str, code: str, request_s: float) -> None:
        """`tenant`: one that exists, or empty where the request got no further than its key."""
        codes = self._answers.get(tenant)
        if codes is None:
            codes = self._answers[tenant] = {}
        codes[code] = codes.get(code, 0) + 1
        self._request.note(request_s)

    def ran(self, *, queue_ns: int, guest_ns: int, nn_ns: int) -> None:
        """A guest ended, however it did."""
        self._queue.note(queue_ns / NS_PER_S)
        self._guest.note(guest_ns / NS_PER_S)
        if nn_ns:
            self._inference.note(nn_ns / NS_PER_S)

    def forget(self, tenant: str) -> None:
        """The tenant was deleted: its label goes too."""
        self._answers.pop(tenant, None)

    def counted(self) -> Iterator[Metric]:
        """What requests came to."""
        requests = CounterMetricFamily(
            "wisp_requests", "Data plane answers, by tenant and code.", labels=["tenant", "code"]
        )
        for tenant, codes in self._answers.items():
            for code, count in codes.items():
                requests.add_metric([tenant, code], count)
        yield requests
        for times in (self._request, self._queue, self._guest, self._inference):
            yield times.family()

    def exposition(self) -> tuple[bytes, str]:
        """The text format and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Watched(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        return ()

    def _collect(self) -> Iterator[Metric]:
        yield from self.metrics.counted()
        gauges = self.metrics.gauges()
        for name in (each.name for each in fields(gauges)):
            if name in HELP:
                yield GaugeMetricFamily(f"wisp_{name}", HELP[name], value=float(getattr(gauges, name)))
        restarts = CounterMetricFamily("wisp_child_restarts", "Children replaced after they died.", labels=["kind"])
        restarts.add_metric(["sandbox"], gauges.sandbox_restarts)
        restarts.add_metric(["inference"], gauges.inference_restarts)
        yield restarts
        faults = CounterMetricFamily("wisp_blob_faults", "Blobs that could not be had, by why.", labels=["fault"])
        for fault, count in gauges.blob_faults.items():
            faults.add_metric([fault], count)
        yield faults
        denials = CounterMetricFamily("wisp_denials", "What guests were refused, by policy key.", labels=["capability"])
        for capability, count in gauges.denials.items():
            denials.add_metric([capability], count)
        yield denials
        walls = GaugeMetricFamily("wisp_wall_up", "Whether a wall is up.", labels=["child", "wall"])
        for child, wall, up in gauges.walls:
            walls.add_metric([child, wall], float(up))
        yield walls
        providers = GaugeMetricFamily(
            "wisp_inference_provider", "Where an inference host can run models.", labels=["host", "provider"]
        )
        for host, names in gauges.providers.items():
            for name in names:
                providers.add_metric([host, name], 1.0)
        yield providers
