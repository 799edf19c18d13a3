"""What is in force for one function: every number resolved, never wider than policy, class or ceiling.

A value that travels: to the sandbox in a frame, to the registry in a record, to the tenant as JSON. It needs neither
pydantic nor YAML. As JSON it is in the policy's own vocabulary, and is itself a policy that asks for exactly this.
"""

from __future__ import annotations

from dataclasses import dataclass

from wisp.policy.choices import Abi, Access, Batch, Clock, MountSource, OnViolation, Random, Target
from wisp.policy.hostrules import MAX_REQUESTS, HostRule
from wisp.policy.modelref import ModelRef, parse_model_ref
from wisp.policy.paths import MAX_PATH, parse_glob, parse_mount_point
from wisp.policy.plain import Plain, check_text
from wisp.policy.quantity import MAX_AMOUNT, parse_time_ns, print_time

_MANY = 1_000
_NAME = 256
_VALUE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGrant:
    """One model that the guest may load by `name`, and what it may do with it in one request."""

    name: str
    model: ModelRef
    target: Target
    max_inferences: int
    max_time_ns: int
    batch: Batch

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "model": str(self.model),
            "target": self.target.value,
            "max_inferences": self.max_inferences,
            "max_time": print_time(self.max_time_ns),
            "batch": self.batch.value,
        }

    @classmethod
    def from_json(cls, value: object) -> ModelGrant:
        plain = Plain(value, "models")
        grant = cls(
            name=plain.text("name", _NAME),
            model=plain.parsed("model", _NAME, parse_model_ref),
            target=plain.choice("target", Target),
            max_inferences=plain.integer("max_inferences", 1, MAX_AMOUNT),
            max_time_ns=plain.parsed("max_time", 32, parse_time_ns),
            batch=plain.choice("batch", Batch),
        )
        plain.close()
        return grant


@dataclass(frozen=True, slots=True, kw_only=True)
class MountGrant:
    """One mount. `allow`: globs, for bundle and host; `path`: host only; `quota_bytes`: scratch only, else 0."""

    mount: str
    source: MountSource
    allow: tuple[str, ...] = ()
    path: str | None = None
    quota_bytes: int = 0

    def as_json(self) -> dict[str, object]:
        row: dict[str, object] = {"mount": self.mount, "from": self.source.value}
        if self.source in (MountSource.BUNDLE, MountSource.HOST):
            row["allow"] = list(self.allow)
        if self.source is MountSource.HOST:
            row["path"] = self.path
        if self.source is MountSource.SCRATCH:
            row["quota"] = self.quota_bytes
        return row

    @classmethod
    def from_json(cls, value: object) -> MountGrant:
        plain = Plain(value, "files")
        source = plain.choice("from", MountSource)
        listed = source in (MountSource.BUNDLE, MountSource.HOST)
        globs = plain.items("allow", _MANY) if listed else []
        grant = cls(
            mount=plain.parsed("mount", MAX_PATH, parse_mount_point),
            source=source,
            allow=tuple(parse_glob(check_text(glob, "files.allow", MAX_PATH)) for glob in globs),
            path=plain.parsed("path", MAX_PATH, parse_mount_point) if source is MountSource.HOST else None,
            quota_bytes=plain.integer("quota", 0, MAX_AMOUNT) if source is MountSource.SCRATCH else 0,
        )
        plain.close()
        return grant


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """How many requests of the function may run, how many may wait, and how long."""

    max_inflight: int
    max_queue: int
    queue_timeout_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """In force. `entrypoint` is None unless `abi` is command; an empty tuple allows nothing of its kind."""

    abi: Abi
    entrypoint: str | None
    fuel: int
    memory_bytes: int
    timeout_ns: int
    request_body_bytes: int
    response_body_bytes: int
    log_bytes: int
    outbound_requests: int
    models: tuple[ModelGrant, ...]
    inline_models: bool
    files: tuple[MountGrant, ...]
    environment: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]
    allowed_outbound_hosts: tuple[HostRule, ...]
    clock: Clock
    random: Random
    on_violation: OnViolation
    access: Access
    concurrency: Concurrency

    def as_json(self) -> dict[str, object]:
        """Plain types in the policy's keys: amounts as numbers, times as `2s`."""
        entrypoint = {} if self.entrypoint is None else {"entrypoint": self.entrypoint}
        return {
            "wisp": 1,
            "abi": self.abi.value,
            **entrypoint,
            "limits": {
                "fuel": self.fuel,
                "memory": self.memory_bytes,
                "timeout": print_time(self.timeout_ns),
                "request_body": self.request_body_bytes,
                "response_body": self.response_body_bytes,
                "logs": self.log_bytes,
                "outbound_requests": self.outbound_requests,
            },
            "models": [grant.as_json() for grant in self.models],
            "inline_models": self.inline_models,
            "files": [grant.as_json() for grant in self.files],
            "environment": dict(self.environment),
            "secrets": list(self.secrets),
            "allowed_outbound_hosts": [rule.as_json() for rule in self.allowed_outbound_hosts],
            "clock": self.clock.value,
            "random": self.random.value,
            "on_violation": self.on_violation.value,
            "access": self.access.value,
            "concurrency": {
                "max_inflight": self.concurrency.max_inflight,
                "max_queue": self.concurrency.max_queue,
                "queue_timeout": print_time(self.concurrency.queue_timeout_ns),
            },
        }

    @classmethod
    def from_json(cls, value: object) -> Grants:
        """What `as_json` made. Raises ValueError for anything else."""
        plain = Plain(value, "grants")
        plain.integer("wisp", 1, 1)
        abi = plain.choice("abi", Abi)
        limits = plain.inner("limits")
        concurrency = plain.inner("concurrency")
        grants = cls(
            abi=abi,
            entrypoint=plain.text("entrypoint", _NAME) if abi is Abi.COMMAND else None,
            fuel=limits.integer("fuel", 1, MAX_AMOUNT),
            memory_bytes=limits.integer("memory", 1, MAX_AMOUNT),
            timeout_ns=limits.parsed("timeout", 32, parse_time_ns),
            request_body_bytes=limits.integer("request_body", 0, MAX_AMOUNT),
            response_body_bytes=limits.integer("response_body", 0, MAX_AMOUNT),
            log_bytes=limits.integer("logs", 0, MAX_AMOUNT),
            outbound_requests=limits.integer("outbound_requests", 0, MAX_REQUESTS),
            models=tuple(ModelGrant.from_json(item) for item in plain.items("models", _MANY)),
            inline_models=plain.boolean("inline_models"),
            files=tuple(MountGrant.from_json(item) for item in plain.items("files", _MANY)),
            environment=tuple(
                (check_text(name, "environment", _NAME), check_text(text, "environment", _VALUE))
                for name, text in plain.mapping("environment", _MANY).items()
            ),
            secrets=tuple(check_text(item, "secrets", _NAME) for item in plain.items("secrets", _MANY)),
            allowed_outbound_hosts=tuple(
                HostRule.from_json(item) for item in plain.items("allowed_outbound_hosts", _MANY)
            ),
            clock=plain.choice("clock", Clock),
            random=plain.choice("random", Random),
            on_violation=plain.choice("on_violation", OnViolation),
            access=plain.choice("access", Access),
            concurrency=Concurrency(
                max_inflight=concurrency.integer("max_inflight", 1, MAX_AMOUNT),
                max_queue=concurrency.integer("max_queue", 0, MAX_AMOUNT),
                queue_timeout_ns=concurrency.parsed("queue_timeout", 32, parse_time_ns),
            ),
        )
        for part in (limits, concurrency, plain):
            part.close()
        return grants
