"""The three documents of the vocabulary, version 1: a tenant's policy, and an operator's ceiling and tenant classes.

Keys are spelled as in YAML. Amounts are whole numbers, sizes bytes, times whole nanoseconds. Unknown keys are errors;
an absent list is an empty one, and an empty list allows nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
)
from pydantic.json_schema import JsonSchemaValue

from wisp.policy import fields as f
from wisp.policy.choices import Access, Batch, Clock, ControlFlow, Method, OnViolation, Random, Target
from wisp.policy.document import Positions
from wisp.policy.hostrules import DEFAULT_REQUESTS, METHODS, HostRule, in_order
from wisp.policy.hosts import parse_host_pattern
from wisp.policy.quantity import NS_PER_MS


class Section(BaseModel):
    """A mapping of the vocabulary: frozen, strict, closed."""

    kind_name: ClassVar[str] = "section"

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PolicyLimits(Section):
    """What a request may use. A limit left out is the class's default."""

    fuel: f.Fuel | None = Field(None, description="wasm fuel for one request")
    memory: f.Memory | None = Field(None, description="linear memory, in bytes")
    timeout: f.Timeout | None = Field(None, description="from the guest's start to its end")
    request_body: f.BodySize | None = Field(None, description="the caller's body, in bytes")
    response_body: f.BodySize | None = Field(None, description="the guest's body, in bytes")
    logs: f.LogSize | None = Field(None, description="what one request may log, in bytes")
    outbound_requests: f.OutboundRequests | None = Field(None, description="that one request may send")


class Limits(Section):
    """The same, all of them said; only `outbound_requests` may be left out, and is 8 then."""

    fuel: f.Fuel
    memory: f.Memory
    timeout: f.Timeout
    request_body: f.BodySize
    response_body: f.BodySize
    logs: f.LogSize
    outbound_requests: f.OutboundRequests = DEFAULT_REQUESTS


class ModelEntry(Section):
    """One model that a guest may load by `name`."""

    name: f.Graph = Field(description="what the guest calls it in load_by_name")
    model: f.Model = Field(description="name, name@version or sha256:...")
    target: f.TargetWord = Target.CPU
    max_inferences: f.Inferences | None = Field(None, description="in one request; left out: the ceiling's")
    max_time: f.Timeout | None = Field(None, description="of one inference; left out: the ceiling's")
    batch: f.BatchWord = Field(Batch.SHARED, description="isolate: never in one run with other tenants' rows")


class Mount(Section):
    """One place in a guest's file system, and what stands behind it."""

    mount: f.MountPoint
    source: f.SourceWord = Field(alias="from")
    allow: Annotated[tuple[f.Glob, ...], Field(max_length=f.MAX_GLOBS)] = ()
    path: f.MountPoint | None = Field(None, description="from: host only, the operator's directory")
    quota: f.Scratch | None = Field(None, description="from: scratch only; left out: the ceiling's")


def _some(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """Not by a least length: to pydantic, a list of nothing but wrong words is too short besides."""
    if not methods:
        raise ValueError("expected at least one method")
    return in_order(methods)


class OutboundHost(Section):
    """Where requests may go: a host pattern alone, for every method, or a mapping that says which methods."""

    host: f.Host
    methods: Annotated[tuple[f.MethodWord, ...], Field(max_length=len(METHODS)), AfterValidator(_some)] = METHODS

    @property
    def rule(self) -> HostRule:
        return HostRule(pattern=self.host, methods=self.methods)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


def _host_entry(value: object) -> object:
    if type(value) is str:
        return OutboundHost.model_construct(host=parse_host_pattern(value), methods=METHODS)
    if type(value) not in (dict, OutboundHost):
        raise ValueError("expected text, or a mapping of host and methods")
    return value


OutboundHosts = Annotated[
    tuple[Annotated[OutboundHost, BeforeValidator(_host_entry)], ...], Field(max_length=f.MAX_HOSTS)
]


class ConcurrencyLimits(Section):
    """How many requests of one function may be about at a time."""

    max_inflight: f.Positive | None = Field(None, description="left out: the class's")
    max_queue: f.Count = 32
    queue_timeout: f.QueueTimeout = 500 * NS_PER_MS


class Policy(Section):
    """What a tenant asks for one function."""

    kind_name: ClassVar[str] = "policy"

    wisp: f.Vocabulary
    abi: f.AbiWord
    entrypoint: f.ExportName | None = Field(None, description="abi: command only; left out: _start")
    limits: PolicyLimits = PolicyLimits()
    models: Annotated[tuple[ModelEntry, ...], Field(max_length=f.MAX_MODELS)] = ()
    inline_models: bool = False
    files: Annotated[tuple[Mount, ...], Field(max_length=f.MAX_MOUNTS)] = ()
    environment: Annotated[dict[f.Variable, f.VariableValue], Field(max_length=f.MAX_VARIABLES)] = {}
    secrets: Annotated[tuple[f.Variable, ...], Field(max_length=f.MAX_VARIABLES)] = ()
    allowed_outbound_hosts: OutboundHosts = ()
    clock: f.ClockWord | None = Field(None, description="left out: coarse, or the ceiling's if that is less")
    random: f.RandomWord = Random.REAL
    on_violation: f.ViolationWord = OnViolation.TRAP
    access: f.AccessWord = Access.KEY
    concurrency: ConcurrencyLimits = ConcurrencyLimits()

    _positions: Positions = PrivateAttr(default_factory=Positions)

    @property
    def positions(self) -> Positions:
        """Where its keys and values stand in the text that it was read from."""
        return self._positions


class CompileLimits(Section):
    """What reading and compiling one module may cost."""

    cpu: f.Timeout
    memory: f.Size
    module: f.Size


class ModelCeiling(Section):
    """Left out altogether: no models."""

    size: f.Size = 0
    max_inferences: f.InferenceCap = 0
    max_time: f.Timeout = NS_PER_MS
    inline: bool = False
    targets: tuple[f.PlaceWord, ...] = ()
    control_flow: f.ControlFlowWord = Field(
        ControlFlow.BRANCHES, description="how much the graph of a model may decide by itself"
    )


class FileCeiling(Section):
    """Left out altogether: no files. `host` lists the operator's directories that may be mounted."""

    bundle: f.Size = 0
    scratch: f.Size = 0
    host: Annotated[tuple[f.MountPoint, ...], Field(max_length=f.MAX_MOUNTS)] = ()


class Ceiling(Section):
    """The most that anybody can have."""

    kind_name: ClassVar[str] = "ceiling"

    wisp: f.Vocabulary
    kind: f.CeilingKind
    limits: Limits
    compile: CompileLimits
    models: ModelCeiling = ModelCeiling()
    files: FileCeiling = FileCeiling()
    allowed_outbound_hosts: OutboundHosts = ()
    blocked_networks: Annotated[tuple[f.Network, ...], Field(max_length=f.MAX_HOSTS)] = ("private",)
    clock: f.ClockWord = Clock.COARSE


class Quota(Section):
    """What one tenant may use over time."""

    requests_per_second: f.Positive
    burst: f.Positive
    max_inflight: f.Positive
    fuel_per_day: f.DailyFuel
    nn_seconds_per_day: f.DailySeconds
    storage: f.Size
    functions: f.Count
    models: f.Count
    bytes_in_per_day: f.DailyBytes | None = Field(None, description="of request bodies; left out: not counted")
    bytes_out_per_day: f.DailyBytes | None = Field(None, description="of response bodies; left out: not counted")


class TenantClass(Section):
    """The most that tenants of one class can have, what they get unasked, and their share."""

    kind_name: ClassVar[str] = "class"

    wisp: f.Vocabulary
    kind: f.ClassKind
    limits: Limits
    defaults: PolicyLimits = PolicyLimits()
    quota: Quota
    weight: f.Positive = Field(1, description="its share of the host beside other classes")
    trusted_models: bool = Field(False, description="whether its models run beside the operator's")
