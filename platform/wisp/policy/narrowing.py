"""From what is asked to what is in force: the narrower of policy, class and ceiling, field by field.

`narrow` is silent and total: at run time a ceiling that was lowered simply holds. `check` is its loud twin for uploads:
it names each field that `narrow` would have to cut. A policy without a finding is granted whole, and conversely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from wisp.errors import ExceedsCeiling, Fault
from wisp.policy.choices import Abi, Clock, MountSource, Target
from wisp.policy.grants import Concurrency, Grants, ModelGrant, MountGrant
from wisp.policy.hostrules import HostRule, meet_all
from wisp.policy.paths import is_within
from wisp.policy.quantity import print_amount, print_size, print_time

if TYPE_CHECKING:
    from wisp.policy.document import Path
    from wisp.policy.schema import Ceiling, ModelCeiling, ModelEntry, Mount, Policy, TenantClass

DEFAULT_ENTRYPOINT = "_start"

LIMITS: dict[str, Callable[[int], str]] = {
    "fuel": print_amount,
    "memory": print_size,
    "timeout": print_time,
    "request_body": print_size,
    "response_body": print_size,
    "logs": print_size,
    "outbound_requests": str,
}
"""Each key of `limits`, and how its numbers are printed."""


def narrow(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> Grants:
    """What is in force. Whatever is not allowed is cut or left out without a word."""
    limits = {key: _limit(key, policy, tenant_class, ceiling) for key in LIMITS}
    entrypoint = (policy.entrypoint or DEFAULT_ENTRYPOINT) if policy.abi is Abi.COMMAND else None
    return Grants(
        abi=policy.abi,
        entrypoint=entrypoint,
        fuel=limits["fuel"],
        memory_bytes=limits["memory"],
        timeout_ns=limits["timeout"],
        request_body_bytes=limits["request_body"],
        response_body_bytes=limits["response_body"],
        log_bytes=limits["logs"],
        outbound_requests=limits["outbound_requests"],
        models=tuple(_models(policy.models, ceiling.models)),
        inline_models=policy.inline_models and ceiling.models.inline,
        files=tuple(_files(policy, ceiling)),
        environment=tuple(policy.environment.items()),
        secrets=policy.secrets,
        allowed_outbound_hosts=meet_all(_rules(policy), _rules(ceiling)),
        clock=(policy.clock or Clock.COARSE).narrower(ceiling.clock),
        random=policy.random,
        on_violation=policy.on_violation,
        access=policy.access,
        concurrency=Concurrency(
            max_inflight=_least(policy.concurrency.max_inflight, tenant_class.quota.max_inflight),
            max_queue=policy.concurrency.max_queue,
            queue_timeout_ns=policy.concurrency.queue_timeout,
        ),
    )


def check(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> tuple[Fault, ...]:
    """Each field that asks for more than class or ceiling allows, with what it asked and what is allowed."""
    faults = [
        policy.positions.fault(path, f"asks for {asked}; {whose} allows {allowed}", asked=asked, allowed=allowed)
        for path, asked, allowed, whose in _excesses(policy, tenant_class, ceiling)
    ]
    return tuple(sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0)))


def refuse_excess(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> None:
    """Raises ExceedsCeiling with everything that `check` finds."""
    faults = check(policy, tenant_class, ceiling)
    if faults:
        where = "; ".join(f"{fault.field} {fault.message}" for fault in faults[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ExceedsCeiling(f"the policy asks for more than it may have: {where}{more}", faults)


_Excess = tuple["Path", str, str, str]


def _excesses(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> Iterator[_Excess]:
    for key, show in LIMITS.items():
        asked = getattr(policy.limits, key)
        allowed = min(getattr(tenant_class.limits, key), getattr(ceiling.limits, key))
        if asked is not None and asked > allowed:
            whose = "the class" if getattr(tenant_class.limits, key) == allowed else "the ceiling"
            yield ("limits", key), show(asked), show(allowed), whose
    for index, entry in enumerate(policy.models):
        yield from _model_excesses(entry, ceiling.models, ("models", index))
    if policy.inline_models and not ceiling.models.inline:
        yield ("inline_models",), "true", "false", "the ceiling"
    yield from _file_excesses(policy, ceiling)
    yield from _host_excesses(policy, ceiling)
    if policy.clock is not None and policy.clock.narrower(ceiling.clock) is not policy.clock:
        yield ("clock",), policy.clock, ceiling.clock, "the ceiling"
    inflight, share = policy.concurrency.max_inflight, tenant_class.quota.max_inflight
    if inflight is not None and inflight > share:
        yield ("concurrency", "max_inflight"), str(inflight), str(share), "the class"


def _rules(document: Policy | Ceiling) -> tuple[HostRule, ...]:
    return tuple(entry.rule for entry in document.allowed_outbound_hosts)


def _host_excesses(policy: Policy, ceiling: Ceiling) -> Iterator[_Excess]:
    allowed = _rules(ceiling)
    for index, rule in enumerate(_rules(policy)):
        path: Path = ("allowed_outbound_hosts", index)
        granted = meet_all((rule,), allowed)
        if granted == (rule,):
            continue
        narrower = next((one for one in granted if one.pattern == rule.pattern), None)
        if narrower is not None and (*path, "methods") in policy.positions.values:
            yield (*path, "methods"), ", ".join(rule.methods), ", ".join(narrower.methods), "the ceiling"
        else:
            yield path, str(rule), ", ".join(str(one) for one in allowed[:8]) or "no host", "the ceiling"


def _limit(key: str, policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> int:
    asked = getattr(policy.limits, key)
    if asked is None:
        asked = getattr(tenant_class.defaults, key)
    most: int = min(getattr(tenant_class.limits, key), getattr(ceiling.limits, key))
    return _least(asked, most)


def _least(asked: int | None, allowed: int) -> int:
    return allowed if asked is None else min(asked, allowed)


def _target(asked: Target, places: tuple[Target, ...]) -> Target | None:
    """The narrower of a model's target and the ceiling's places; None if they have none in common."""
    if asked is not Target.ANY:
        return asked if asked in places else None
    if {Target.CPU, Target.GPU} <= set(places):
        return Target.ANY
    return places[0] if places else None


def _models(entries: tuple[ModelEntry, ...], most: ModelCeiling) -> Iterator[ModelGrant]:
    for entry in entries:
        target = _target(entry.target, most.targets)
        if target is not None and most.max_inferences:
            yield ModelGrant(
                name=entry.name,
                model=entry.model,
                target=target,
                max_inferences=_least(entry.max_inferences, most.max_inferences),
                max_time_ns=_least(entry.max_time, most.max_time),
                batch=entry.batch,
            )


def _model_excesses(entry: ModelEntry, most: ModelCeiling, path: Path) -> Iterator[_Excess]:
    if not most.max_inferences:
        yield path, f"model {entry.model}", "no models", "the ceiling"
        return
    # `any` asks for whatever there is, so it exceeds only a ceiling that has no place at all.
    if _target(entry.target, most.targets) is None:
        yield (*path, "target"), entry.target, ", ".join(most.targets) or "no target", "the ceiling"
    if entry.max_inferences is not None and entry.max_inferences > most.max_inferences:
        yield (*path, "max_inferences"), str(entry.max_inferences), str(most.max_inferences), "the ceiling"
    if entry.max_time is not None and entry.max_time > most.max_time:
        yield (*path, "max_time"), print_time(entry.max_time), print_time(most.max_time), "the ceiling"


def _files(policy: Policy, ceiling: Ceiling) -> Iterator[MountGrant]:
    """The ceiling's scratch is one request's whole: mounts take from it in their order."""
    scratch = ceiling.files.scratch
    for mount in policy.files:
        quota = 0
        if mount.source is MountSource.SCRATCH:
            quota = _least(mount.quota, scratch)
            scratch -= quota
        if _has_source(mount, ceiling) and (quota or mount.source is not MountSource.SCRATCH):
            yield MountGrant(
                mount=mount.mount, source=mount.source, allow=mount.allow, path=mount.path, quota_bytes=quota
            )


def _has_source(mount: Mount, ceiling: Ceiling) -> bool:
    if mount.source is MountSource.BUNDLE:
        return ceiling.files.bundle > 0
    if mount.source is MountSource.HOST:
        return mount.path is not None and any(is_within(mount.path, allowed) for allowed in ceiling.files.host)
    return True


def _file_excesses(policy: Policy, ceiling: Ceiling) -> Iterator[_Excess]:
    scratch = ceiling.files.scratch
    for index, mount in enumerate(policy.files):
        path: Path = ("files", index)
        if mount.source is MountSource.SCRATCH:
            quota = _least(mount.quota, scratch)
            if not scratch or (mount.quota or 0) > scratch:
                asked = "scratch space" if mount.quota is None else print_size(mount.quota)
                yield (*path, "quota"), asked, f"{print_size(scratch)} more", "the ceiling"
            scratch -= quota
        elif not _has_source(mount, ceiling):
            if mount.source is MountSource.HOST:
                yield (*path, "path"), str(mount.path), ", ".join(ceiling.files.host[:8]) or "none", "the ceiling"
            else:
                yield (*path, "from"), mount.source, "no bundle", "the ceiling"
