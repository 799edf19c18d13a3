"""Who may infer without a guest, within what, and how one inference ended."""

from __future__ import annotations

from dataclasses import dataclass

from wisp.errors import WispError
from wisp.oip.messages import Tensor
from wisp.policy.ceilings import Ceilings
from wisp.policy.schema import TenantClass
from wisp.registry.records import Model, Tenant
from wisp.wire.meters import NOTHING, Metered


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A caller that may infer, and within what."""

    tenant: Tenant
    tenant_class: TenantClass
    ceilings: Ceilings

    @property
    def request_bytes(self) -> int:
        return min(self.tenant_class.limits.request_body, self.ceilings.ceiling.limits.request_body)

    @property
    def response_bytes(self) -> int:
        return min(self.tenant_class.limits.response_body, self.ceilings.ceiling.limits.response_body)

    def timeout_ns(self, asked_us: int | None) -> int:
        """The class's default, or what the caller asks for, within class and ceiling."""
        most = min(self.tenant_class.limits.timeout, self.ceilings.ceiling.limits.timeout)
        usual = self.tenant_class.defaults.timeout or most
        return min(usual if asked_us is None else asked_us * 1000, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One inference that was let in: `inputs` are the model's, in its order; `queue_ns` is how long it may wait, and
    `timeout_ns` how long it may then take."""

    access: Access
    model: Model
    inputs: tuple[Tensor, ...]
    timeout_ns: int
    queue_ns: int

    @property
    def time_ns(self) -> int:
        """Within the ceiling's `models.max_time` too."""
        return min(self.timeout_ns, self.access.ceilings.ceiling.models.max_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How it ended: `outputs`, in the model's order, or why there are none. `queue_ns`: how long it waited."""

    outputs: tuple[Tensor, ...] = ()
    failure: WispError | None = None
    metered: Metered = NOTHING
    queue_ns: int = 0
