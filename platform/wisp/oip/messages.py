"""Messages of the protocol: a JSON object, and, by the binary tensor extension, raw tensors behind it.

The JSON part has `MAX_JSON_BYTES` at most, whoever sent it: it is parsed where everybody's requests are served, so that
larger tensors must come as bytes. Bytes stay as they are. Parsing gives values whose counts and sizes agree with
their shapes; whether a model takes them is asked elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from wisp.errors import InvalidRequest, RequestTooLarge
from wisp.oip.datatypes import NAMES, elements, flat, pack, parse_datatype, unpack
from wisp.wire.tensors import MAX_RANK, MAX_TENSORS, ElementType, tensor_bytes

MAX_JSON_BYTES: Final = 256 * 1024
MAX_JSON_ELEMENTS: Final = 32 * 1024
"""Of an answer's tensor that is written as JSON."""
MAX_NAME_CHARS: Final = 256
MAX_DIM: Final = 2**32 - 1
JSON_LENGTH: Final = "Inference-Header-Content-Length"
NOT_OFFERED: Final = (
    "classification",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "shared_memory_region",
)

Object = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """`data` has exactly the bytes of its type and shape, little-endian, row by row."""

    name: str
    dtype: ElementType
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One output that the caller asks for."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """`outputs`: None for all of them, `binary` saying how then. `timeout_us`: the caller's, if it has one."""

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Wanted, ...] | None
    binary: bool
    timeout_us: int | None


def parse_object(text: bytes | memoryview, what: str) -> Object:
    """Raises `InvalidRequest` for what is no JSON object, or says a key twice; `RequestTooLarge`."""
    if len(text) > MAX_JSON_BYTES:
        raise RequestTooLarge(
            f"{what} may have {MAX_JSON_BYTES} bytes of JSON; send larger tensors as binary data",
            limit=MAX_JSON_BYTES,
            used=len(text),
        )
    try:
        found = json.loads(bytes(text), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise InvalidRequest(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"{what} is not JSON: {ascii(str(error))[1:-1][:200]}") from error
    if type(found) is not dict:
        raise InvalidRequest(f"{what} is not a JSON object")
    return found


def split(body: bytes | memoryview, json_length: int | None, what: str) -> tuple[memoryview, memoryview]:
    """The JSON part and what lies behind it. Raises `InvalidRequest`."""
    view = memoryview(body)
    if json_length is None:
        return view, view[:0]
    if json_length > len(view):
        raise InvalidRequest(f"{JSON_LENGTH} says {json_length}, {what} has {len(view)} bytes")
    return view[:json_length], view[json_length:]


def parse_inference(body: bytes | memoryview, json_length: int | None) -> Inference:
    """A request's body; `json_length` is its header's number, None without one. The binary tensors are views of it.

    Raises `InvalidRequest`, `RequestTooLarge`.
    """
    text, rest = split(body, json_length, "the request")
    message = parse_object(text, "the request")
    parameters = _parameters(message, "the request")
    identity = message.get("id", "")
    if type(identity) is not str or len(identity) > MAX_NAME_CHARS:
        raise InvalidRequest(f"id is a text of {MAX_NAME_CHARS} characters at most")
    inputs, rest = parse_tensors(message, "inputs", rest)
    if rest:
        raise InvalidRequest(f"{len(rest)} bytes lie behind the last input")
    binary = _flag(parameters, "binary_data_output", "the request")
    return Inference(
        id=identity,
        inputs=inputs,
        outputs=_outputs(message, binary) if message.get("outputs") else None,
        binary=binary,
        timeout_us=_timeout(parameters),
    )


def parse_index(body: bytes | memoryview) -> bool:
    """Whether a request for the repository's index wants only what is ready. Raises `InvalidRequest`,
    `RequestTooLarge`."""
    return _flag(parse_object(body, "the request"), "ready", "the request")


def parse_tensors(message: Object, key: str, rest: memoryview) -> tuple[tuple[Tensor, ...], memoryview]:
    """(the tensors under this key, what they leave of the bytes behind). Raises `InvalidRequest`."""
    tensors: list[Tensor] = []
    for item in _objects(message, key):
        tensor, rest = _tensor(item, key, rest)
        tensors.append(tensor)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise InvalidRequest(f"{key} name one tensor twice")
    return tuple(tensors), rest


def _tensor(item: Object, key: str, rest: memoryview) -> tuple[Tensor, memoryview]:
    name = parse_name(item, key)
    what = f"{key} {name!a}"
    dtype = parse_datatype(item.get("datatype"))
    shape = parse_shape(item.get("shape"), what, least=0)
    size = tensor_bytes(dtype, shape)
    binary = _parameters(item, what).get("binary_data_size")
    if binary is not None:
        if "data" in item:
            raise InvalidRequest(f"{what} has data beside binary_data_size")
        if type(binary) is not int or binary != size or binary > len(rest):
            raise InvalidRequest(
                f"{what}: binary_data_size is {ascii(binary)[:20]}; its shape has {size} bytes, {len(rest)} are there"
            )
        return Tensor(name=name, dtype=dtype, shape=shape, data=rest[:size]), rest[size:]
    data = item.get("data")
    if type(data) is not list:
        raise InvalidRequest(f"{what} has no list of data, and no binary_data_size")
    values = flat(data, what)
    count = size // tensor_bytes(dtype, ())
    if len(values) != count:
        raise InvalidRequest(f"{what} has {len(values)} values, its shape {list(shape)} has {count}")
    return Tensor(name=name, dtype=dtype, shape=shape, data=pack(dtype, values, what)), rest


def _outputs(message: Object, binary: bool) -> tuple[Wanted, ...]:
    wanted = []
    for item in _objects(message, "outputs"):
        name = parse_name(item, "outputs")
        parameters = _parameters(item, f"output {name!a}")
        wanted.append(Wanted(name=name, binary=_flag(parameters, "binary_data", f"output {name!a}", binary)))
    return tuple(wanted)


def encode_inference(
    inputs: tuple[Tensor, ...], outputs: tuple[str, ...], *, binary: bool = True
) -> tuple[bytes, list[bytes | memoryview]]:
    """(the JSON part, the tensors behind it): all of them binary, both ways; or none, to a server that takes none.

    Raises `InvalidRequest` for what JSON cannot hold.
    """
    if not binary:
        items = [_as_json(tensor, f"input {tensor.name!a}") for tensor in inputs]
        return _json({"inputs": items, "outputs": [{"name": name} for name in outputs]}), []
    message = {
        "inputs": [_binary(tensor) for tensor in inputs],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    return _json(message), [tensor.data for tensor in inputs]


def encode_answer(
    *, model: str, version: str, identity: str, outputs: tuple[tuple[Tensor, bool], ...]
) -> tuple[bytes, list[bytes | memoryview]]:
    """(the JSON part, the tensors behind it). Raises `InvalidRequest` for what must be asked for as binary data."""
    items, blobs = [], []
    for tensor, binary in outputs:
        if binary:
            items.append(_binary(tensor))
            blobs.append(tensor.data)
            continue
        items.append(_as_json(tensor, f"output {tensor.name!a}"))
    message: Object = {"model_name": model, "model_version": version, "outputs": items}
    if identity:
        message["id"] = identity
    return _json(message), blobs


def _as_json(tensor: Tensor, what: str) -> Object:
    count = elements(tensor.dtype, tensor.data)
    if count > MAX_JSON_ELEMENTS:
        raise InvalidRequest(
            f"{what} has {count} values; JSON may hold {MAX_JSON_ELEMENTS}: it takes binary_data",
            limit=MAX_JSON_ELEMENTS,
            used=count,
        )
    return describe(tensor) | {"data": unpack(tensor.dtype, tensor.data, what)}


def describe(tensor: Tensor) -> Object:
    return {"name": tensor.name, "datatype": NAMES[tensor.dtype], "shape": list(tensor.shape)}


def _binary(tensor: Tensor) -> Object:
    return describe(tensor) | {"parameters": {"binary_data_size": len(tensor.data)}}


def _json(message: Object) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def parse_name(item: Object, what: str) -> str:
    name = item.get("name")
    if type(name) is not str or not 0 < len(name) <= MAX_NAME_CHARS:
        raise InvalidRequest(f"{what}: a name has 1 to {MAX_NAME_CHARS} characters")
    return name


def parse_shape(value: object, what: str, *, least: int) -> tuple[int, ...]:
    if type(value) is not list or len(value) > MAX_RANK:
        raise InvalidRequest(f"{what}: shape is a list of {MAX_RANK} numbers at most")
    if not all(type(dim) is int and least <= dim <= MAX_DIM for dim in value):
        raise InvalidRequest(f"{what}: shape has an impossible dimension")
    return tuple(value)


def _objects(message: Object, key: str) -> list[Object]:
    found = message.get(key, [])
    if type(found) is not list or len(found) > MAX_TENSORS or not all(type(item) is dict for item in found):
        raise InvalidRequest(f"{key} is a list of {MAX_TENSORS} objects at most")
    return found


def _parameters(item: Object, what: str) -> Object:
    found = item.get("parameters", {})
    if type(found) is not dict:
        raise InvalidRequest(f"{what}: parameters are an object")
    for name in NOT_OFFERED:
        if found.get(name):
            raise InvalidRequest(f"{what}: parameter {name} is not offered")
    return found


def _flag(parameters: Object, name: str, what: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise InvalidRequest(f"{what}: parameter {name} is true or false")
    return value


def _timeout(parameters: Object) -> int | None:
    """Microseconds; 0 is none."""
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if type(value) is not int or not 0 < value < 2**53:
        raise InvalidRequest("parameter timeout is a number of microseconds")
    return value


def _once(pairs: list[tuple[str, object]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
