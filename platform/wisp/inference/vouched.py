"""What the router vouches for: which models are open, what each function may do with them, what runs in which slot.

Not safe for threads by itself: `inference.desk` guards it.
"""

from __future__ import annotations

from dataclasses import replace

from wisp.inference.notes import note
from wisp.inference.sessions import LoadedModel
from wisp.inference.slots import Invocation, Slot
from wisp.inference.wide import WideModels
from wisp.wire.inferences import Binding, BoundModel


class Vouched:
    def __init__(self) -> None:
        self.models: dict[str, LoadedModel] = {}
        self._bindings: dict[int, Binding] = {}
        self._wide = WideModels(self._narrow)

    def bind(self, binding: Binding) -> None:
        self._bindings[binding.handle] = binding

    def unbind(self, handle: int) -> None:
        self._bindings.pop(handle, None)

    def put_model(self, model: LoadedModel) -> None:
        self.models[model.digest] = model
        if model.wide is not None:
            self._wide.add(model.digest, model.wide)

    def drop_model(self, digest: str) -> None:
        """Inferences that were accepted keep the session; the last one to end drops it."""
        self.models.pop(digest, None)
        self._wide.forget(digest)

    def _narrow(self, digest: str) -> None:
        if (model := self.models.get(digest)) is not None:
            self.models[digest] = replace(model, wide=None)

    def stop_batching(self, model: LoadedModel) -> None:
        if self.models.get(model.digest) is model:
            self.models[model.digest] = model.unbatched()

    def open(self, slot: Slot, handle: int, invocation: int, deadline_ns: int) -> None:
        """What ran in the slot before must have been settled."""
        slot.invocation = None
        binding = self._bindings.get(handle)
        if binding is None:
            note(f"invocation {invocation} on slot {slot.number} has the unknown handle {handle}")
            return
        slot.meter.begin(invocation)
        slot.invocation = Invocation(
            number=invocation, binding=binding, deadline_ns=deadline_ns, spent=[0] * len(binding.models)
        )

    @staticmethod
    def grant(slot: Slot, invocation: int, model: BoundModel) -> None:
        """One model more for this invocation; what it has spent of the others stays spent."""
        if slot.invocation is not None and slot.invocation.number == invocation:
            binding = slot.invocation.binding
            slot.invocation.binding = replace(binding, models=(*binding.models, model))
            slot.invocation.spent.append(0)
