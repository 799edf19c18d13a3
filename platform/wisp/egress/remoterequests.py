"""What one invocation's guest asks of models on other machines: its frames, its bounds, what it is billed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from wisp.egress.remotemodels import Broken, RemoteModel, Unreachable
from wisp.errors import InvalidFrame, InvalidRequest, RegistryUnavailable
from wisp.oip.messages import Tensor
from wisp.wire.meters import Metered
from wisp.wire.outbound import Inbound, Status
from wisp.wire.remote import decode_carried, encode_carried
from wisp.wire.tensors import TensorRef

if TYPE_CHECKING:
    from wisp.egress.remote import Remotes

NS: Final = 1_000_000_000


class RemoteRequests:
    """`models` by their numbers in the invocation's binding; `limit_bytes`: of an answer."""

    def __init__(self, remotes: Remotes, models: tuple[RemoteModel | None, ...], limit_bytes: int) -> None:
        self._remotes = remotes
        self._models = models
        self._limit_bytes = limit_bytes
        self._spent = [0] * len(models)

    async def compute(self, message: bytes, deadline_ns: int) -> tuple[Inbound, Metered]:
        """What to tell the sandbox, and what to bill. Raises `InvalidFrame`. Cancelling it closes the connection."""
        carried = decode_carried(message)
        model = self._models[carried.model] if carried.model < len(self._models) else None
        if model is None:
            raise InvalidFrame("an inference of a model that is not remote")
        given = [(ref.index, ref.dtype, ref.dims) for ref in carried.tensors]
        if [index for index, _, _ in given] != list(range(len(model.inputs))) or not all(
            spec.accepts(dtype, dims) for spec, (_, dtype, dims) in zip(model.inputs, given, strict=True)
        ):
            return Inbound(status=Status.INVALID), Metered()
        if self._spent[carried.model] >= model.max_inferences:
            return Inbound(status=Status.EXHAUSTED), Metered()
        self._spent[carried.model] += 1
        inputs = tuple(
            Tensor(
                name=spec.name,
                dtype=ref.dtype,
                shape=ref.dims,
                data=carried.data[ref.offset : ref.offset + ref.length],
            )
            for spec, ref in zip(model.inputs, carried.tensors, strict=True)
        )
        began_ns = time.monotonic_ns()
        left_ns = deadline_ns - began_ns
        answer, outputs = await self._ask(model, inputs, min(left_ns, model.max_time_ns), left_ns)
        spent_ns = time.monotonic_ns() - began_ns
        if answer.status is Status.OK:
            refs = [
                TensorRef(index=index, dtype=one.dtype, dims=one.shape, offset=0, length=len(one.data))
                for index, one in enumerate(outputs)
            ]
            content = encode_carried(carried.model, spent_ns, refs, [one.data for one in outputs])
            answer = Inbound(status=Status.OK, content=content)
        size = sum(len(one.data) for one in (*inputs, *outputs))
        return answer, Metered(nn_ns=spent_ns, inferences=1, tensor_bytes=size)

    async def _ask(
        self, model: RemoteModel, inputs: tuple[Tensor, ...], most_ns: int, left_ns: int
    ) -> tuple[Inbound, tuple[Tensor, ...]]:
        try:
            async with asyncio.timeout(max(0, most_ns) / NS):
                return Inbound(status=Status.OK), await self._remotes.infer(model, inputs, self._limit_bytes)
        except TimeoutError:
            if most_ns >= left_ns:
                return Inbound(status=Status.DEADLINE), ()
            return _failed(Status.UNREACHABLE, "it took longer than max_time"), ()
        except Unreachable as error:
            return _failed(Status.UNREACHABLE, str(error)), ()
        except Broken as error:
            return _failed(Status.PROTOCOL, str(error)), ()
        except RegistryUnavailable:
            return _failed(Status.UNREACHABLE, "its bearer does not open with this node's WISP_SECRETS_KEY"), ()
        except InvalidRequest as error:
            return _failed(Status.TOO_LARGE, error.message), ()


def _failed(status: Status, words: str) -> Inbound:
    return Inbound(status=status, content=words.encode("utf-8", "backslashreplace"))
