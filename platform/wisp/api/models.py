"""`…/models`: a tenant's ONNX files, and under `/v1/models` the operator's, which all tenants' policies may name."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import ModelSource
from wisp.api.moments import moment
from wisp.api.operations import BODY_ERRORS, Context, Form, Operation, document, listing, nothing
from wisp.api.preconditions import expected, tagged
from wisp.api.uploads import received_file
from wisp.errors import InUse, InvalidModel, InvalidName, NotFound, StorageQuota
from wisp.names import TenantName
from wisp.registry.records import Model
from wisp.wire.admissions import ModelProbe
from wisp.wire.tensors import NUMPY_NAMES, TensorSpec


def show(model: Model) -> dict[str, object]:
    return {
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "bytes": model.size_bytes,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs],
        "created": moment(model.created_at),
        "probe": None if model.probe is None else _probe(model.probe),
    } | ({"source": model.source} if model.source else {})


def _probe(probe: ModelProbe) -> dict[str, object]:
    """Times in milliseconds, of one run; `batch8_ms` is null where the model's first dimension is not open."""
    return {
        "latency_ms": probe.latency_us / 1000 if probe.latency_us else None,
        "batch8_ms": probe.batch_latency_us / 1000 if probe.batch_latency_us else None,
        "peak_bytes": probe.peak_bytes,
        "batch": probe.batch,
        "note": probe.note,
    }


def _tensor(spec: TensorSpec) -> dict[str, object]:
    """A dimension that the model leaves open is -1."""
    return {"name": spec.name, "dtype": NUMPY_NAMES[spec.dtype], "shape": list(spec.shape)}


def _owner(context: Context) -> TenantName | None:
    return None if context.tenant is None else context.tenant.name


async def put(context: Context) -> Response:
    name = context.model
    async with received_file(
        context.request.receive,
        context.node.staging,
        length=context.length,
        limit_bytes=context.node.ceilings.ceiling.models.size,
        what="a model",
        idle_s=context.node.settings.body_timeout_s,
    ) as file:
        model, created = await context.node.model_uploads.push(
            tenant=_owner(context), model=name, file=file, expected=expected(context)
        )
    return _put(model, created)


async def put_shared(context: Context) -> Response:
    """JSON names where another machine serves the model; all else is its bytes."""
    kind = context.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return await put(context)
    wanted = await context.json(ModelSource)
    model, created = await context.node.model_uploads.register(
        model=context.model, source=wanted.source, bearer=wanted.bearer, expected=expected(context)
    )
    return _put(model, created)


def _put(model: Model, created: bool) -> Response:
    """The tag is the latest version's; one that was known may be an older."""
    return tagged(document(show(model), 201), model.digest) if created else document(show(model))


async def list_all(context: Context) -> Response:
    return listing([show(model) for model in await context.node.registry.models.list(_owner(context))])


async def get(context: Context) -> Response:
    name = context.model
    found = [model for model in await context.node.registry.models.list(_owner(context)) if model.name == name]
    if not found:
        raise NotFound(f"there is no model {name}")
    return tagged(document(show(found[-1]) | {"versions": [model.version for model in found]}), found[-1].digest)


async def delete(context: Context) -> Response:
    await context.node.registry.models.delete(_owner(context), context.model, expected=expected(context))
    return nothing()


def _operations(base: str, right: Right, of: str, suffix: str) -> tuple[Operation, ...]:
    gone: tuple[type[InvalidName] | type[NotFound], ...] = (InvalidName, NotFound)
    return (
        Operation(
            method="GET",
            path=base,
            name=f"list{suffix}s",
            summary=f"{of} models, all versions.",
            right=right,
            handler=list_all,
            answers=((200, "the models"),),
            raises=gone,
        ),
        Operation(
            method="PUT",
            path=f"{base}/{{model}}",
            name=f"put{suffix}",
            summary=f"Push one of {of.lower()} models: ONNX, no external data. Known bytes are their version.",
            right=right,
            handler=put if right is Right.TENANT else put_shared,
            body=Form(media_type="application/octet-stream"),
            json_body=None if right is Right.TENANT else ModelSource,
            answers=((200, "the version that has these bytes"), (201, "the new version")),
            conditional=True,
            raises=(*BODY_ERRORS, *gone, InvalidModel, StorageQuota),
        ),
        Operation(
            method="GET",
            path=f"{base}/{{model}}",
            name=f"get{suffix}",
            summary=f"The latest version of one of {of.lower()} models.",
            right=right,
            handler=get,
            answers=((200, "the model; its ETag is the digest of the latest version"),),
            raises=gone,
        ),
        Operation(
            method="DELETE",
            path=f"{base}/{{model}}",
            name=f"delete{suffix}",
            summary=f"Remove one of {of.lower()} models, unless a version of a function pins it.",
            right=right,
            handler=delete,
            answers=((204, "gone"),),
            conditional=True,
            raises=(*gone, InUse),
        ),
    )


OPERATIONS = (
    *_operations("/v1/tenants/{tenant}/models", Right.TENANT, "The tenant's", "Model"),
    *_operations("/v1/models", Right.OPERATOR, "The operator's", "SharedModel"),
)
