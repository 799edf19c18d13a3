"""OpenAPI 3.1, made from the operations that are served, so that neither can say what the other does not."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from wisp import __version__
from wisp import errors as e
from wisp.api.authentication import Right
from wisp.api.operations import Form, Operation
from wisp.api.problems import MEDIA_TYPE, METHOD_NOT_ALLOWED, OUTCOMES, VERSION_NOT_SUPPORTED, status_of

BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
PARTS: dict[str, dict[str, Any]] = {
    "binary": BINARY,
    "text": {"type": "string"},
    "optional text": {"type": "string"},
    "binary list": {"type": "array", "items": BINARY},
}
GUEST_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
DATA_PLANE_ERRORS: tuple[type[e.WispError], ...] = (
    e.InvalidRequest,
    e.Unauthorized,
    e.Forbidden,
    e.Suspended,
    e.NotFound,
    e.FunctionNotFound,
    e.RequestTimeout,
    e.RequestTooLarge,
    *e.Exhausted.__subclasses__(),
    *e.Unavailable.__subclasses__(),
)
OPEN_INFERENCE = (
    ("", "get", "getInferenceServer", "What serves the protocol."),
    ("/health/live", "get", "getInferenceLive", "The server lives."),
    ("/health/ready", "get", "getInferenceReady", "The node takes requests."),
    ("/models/{model}", "get", "getInferenceModel", "The model's inputs and outputs."),
    ("/models/{model}/versions/{version}", "get", "getInferenceModelVersion", "One version's inputs and outputs."),
    ("/models/{model}/ready", "get", "getInferenceModelReady", "The model is loaded, by this call if need be."),
    ("/models/{model}/versions/{version}/ready", "get", "getInferenceModelVersionReady", "One version is loaded."),
    ("/models/{model}/infer", "post", "infer", "One inference; JSON, or JSON with binary tensors behind it."),
    ("/models/{model}/versions/{version}/infer", "post", "inferVersion", "One inference of one version."),
    (
        "/repository/index",
        "post",
        "listInferenceModels",
        "The models that this tenant may name; with ready, those that can be asked.",
    ),
)
"""Below `/t/{tenant}/v2`."""
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "the ETag of what the caller has seen, or several, or *",
    "schema": {"type": "string"},
}
PIN = {
    "name": "Wisp-Version",
    "in": "header",
    "required": False,
    "description": "one retained version, for this request; with a deploy key",
    "schema": {"type": "integer"},
}
RECEIPT = {
    "Wisp-Outcome": "ok, or the problem's code",
    "Wisp-Version": "the function's version that ran",
    "Wisp-Fuel-Used": "wasm fuel, the guest's and its inference's",
    "Wisp-Nn-Fuel": "the part of it that inference was charged: 1,000,000 a millisecond",
    "Wisp-Memory-Peak": "bytes of linear memory",
    "Wisp-Host-Calls": "calls from the guest into the platform",
    "Wisp-Inferences": "inferences, those that failed or were cut off included",
    "Wisp-Tensor-Bytes": "bytes of tensors that went into inferences and came out",
    "Wisp-Request-Id": "as in the log",
    "Server-Timing": "queue, store, guest and nn on the wall, cpu of the sandbox; in milliseconds",
}


def describe(operations: tuple[Operation, ...]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Problem": _problem()}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    paths |= _data_plane() | _open_inference()
    return {
        "openapi": "3.1.0",
        "info": {"title": "wisp", "version": __version__, "description": "WASI Inference Serverless Platform"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "security": [] if operation.right is Right.NOBODY else [{"key": []}],
        "x-wisp-right": operation.right.value,
        "parameters": [_path_parameter(name) for name in operation.parameters]
        + [
            {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in operation.query
        ]
        + ([IF_MATCH] if operation.conditional else []),
        "responses": _answers(operation) | _problems(_raised(operation)),
    }
    if isinstance(operation.body, Form):
        content: dict[str, Any] = {operation.body.media_type: {"schema": _form(operation.body)}}
        if operation.json_body is not None:
            content["application/json"] = {"schema": _reference(operation.json_body, schemas)}
        described["requestBody"] = {"required": True, "content": content}
    elif operation.body is not None:
        reference = _reference(operation.body, schemas)
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return described


def _reference(body: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    schemas[body.__name__] = body.model_json_schema()
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def _form(form: Form) -> dict[str, Any]:
    if not form.parts:
        return BINARY
    properties = {name: PARTS[kind] for name, kind in form.parts}
    required = [name for name, kind in form.parts if kind in ("binary", "text")]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _answers(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, text in operation.answers:
        answers[str(status)] = {"description": text}
        if status != 204:
            answers[str(status)]["content"] = {operation.media_type: {}}
    return answers


def _raised(operation: Operation) -> dict[str, int]:
    """Code to status, with the subclasses of what is named."""
    always: tuple[type[e.WispError], ...] = (e.InvalidRequest,)
    if operation.right is not Right.NOBODY:
        always += (e.Unauthorized, e.Forbidden, e.Suspended, e.RegistryUnavailable)
    if operation.conditional:
        always += (e.PreconditionFailed,)
    found: dict[str, int] = {e.WispError.code: 500}
    for error in (*always, *operation.raises):
        for kind in (error, *error.__subclasses__()):
            if kind is not e.FunctionNotFound and kind is not e.Rejected:
                found[kind.code] = status_of(kind)
    return found


def _problems(codes: dict[str, int]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code, status in codes.items():
        by_status.setdefault(status, []).append(code)
    return {
        str(status): {
            "description": ", ".join(sorted(found)),
            "x-wisp-codes": sorted(found),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, found in sorted(by_status.items())
    }


def _data_plane() -> dict[str, Any]:
    codes = {error.code: status_of(error) for error in DATA_PLANE_ERRORS}
    codes |= {outcome.value: status for outcome, (status, _, _) in OUTCOMES.items()} | {e.WispError.code: 500}
    answer = {
        "description": "what the guest answers, with its receipt",
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in RECEIPT.items()},
    }
    paths: dict[str, Any] = {}
    for path in ("/t/{tenant}/{function}", "/t/{tenant}/{function}/{path}"):
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        paths[path] = {"parameters": [*(_path_parameter(name) for name in names), PIN]} | {
            method: {
                "operationId": f"{method}Function{'Path' if 'path' in names else ''}Answer",
                "summary": "Run the function.",
                "security": [{"key": []}, {}],
                "responses": {"default": answer} | _problems(codes),
            }
            for method in GUEST_METHODS
        }
    return paths


def _open_inference() -> dict[str, Any]:
    """The protocol has its own description; here is what is served of it, and with which problems."""
    failures = (e.InferenceFailed, e.InferenceTimeout, e.RemoteUnavailable, e.RemoteFailed, e.RemoteTimeout)
    errors: tuple[type[e.WispError], ...] = (*DATA_PLANE_ERRORS, *failures)
    codes = {error.code: status_of(error) for error in errors} | {e.WispError.code: 500, METHOD_NOT_ALLOWED: 405}
    paths: dict[str, Any] = {}
    for below, method, name, summary in OPEN_INFERENCE:
        path = "/t/{tenant}/v2" + below
        described: dict[str, Any] = {
            "operationId": name,
            "summary": summary,
            "security": [{"key": []}],
            "responses": {"200": {"description": "as the Open Inference Protocol, version 2, has it"}}
            | _problems(codes),
        }
        if method == "post":
            described["requestBody"] = {"content": {"application/json": {}, "application/octet-stream": {}}}
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        paths[path] = {"parameters": [_path_parameter(each) for each in names], method: described}
    return paths


def _problem() -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer"}
    fault = {
        "type": "object",
        "properties": {
            "field": text,
            "message": text,
            "line": number,
            "column": number,
            "asked": text,
            "allowed": text,
        },
        "required": ["field", "message"],
    }
    properties = {
        "type": text,
        "title": text,
        "status": number,
        "code": {"type": "string", "enum": codes()},
        "detail": text,
        "request_id": text,
        "limit": number,
        "used": number,
        "errors": {"type": "array", "items": fault},
    }
    return {"type": "object", "properties": properties, "required": ["type", "title", "status", "code", "request_id"]}


def codes() -> list[str]:
    """Every code that a problem can have."""
    return sorted(
        {error.code for error in _family(e.WispError)}
        | {outcome.value for outcome in OUTCOMES}
        | {METHOD_NOT_ALLOWED, VERSION_NOT_SUPPORTED}
    )


def _family(error: type[e.WispError]) -> list[type[e.WispError]]:
    inner = (e.InvalidSettings, e.InvalidFrame)
    return [error, *(found for child in error.__subclasses__() if child not in inner for found in _family(child))]
