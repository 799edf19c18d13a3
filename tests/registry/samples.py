"""Records to store, as short as they may be."""

from __future__ import annotations

import hashlib

from wisp.names import Digest, parse_class, parse_function, parse_model, parse_tenant
from wisp.registry.records import BundleFile, Draft, Model, ModelPin
from wisp.wire.tensors import ElementType, TensorSpec

ACME = parse_tenant("acme")
BETA = parse_tenant("beta")
FREE = parse_class("free")
CLASSIFY = parse_function("classify")
RESIZE = parse_function("resize")
MOBILENET = parse_model("mobilenet")

INPUTS = (TensorSpec(name="image", dtype=ElementType.F32, shape=(-1, 3, 224, 224)),)
OUTPUTS = (TensorSpec(name="scores", dtype=ElementType.F32, shape=(-1, 1000)),)


def digest(text: str) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def draft(content: str, *, models: tuple[ModelPin, ...] = ()) -> Draft:
    """Two drafts are the same upload if `content` is."""
    return Draft(
        module=digest(f"module {content}"),
        module_bytes=1234,
        abi="handler",
        policy_text="wisp: 1\nabi: handler  # naïve\n",
        bundle=(BundleFile(path="a/labels.txt", digest=digest("labels"), size_bytes=3),),
        models=models,
        facts_json='{"exports":["wisp_handle"]}',
        content_digest=digest(content),
        warnings=("unused: clock",),
        author="0123456789abcdef",
        created_at=1_760_000_000,
    )


def pin(model: Model) -> ModelPin:
    return ModelPin(
        name="net",
        model=model.name,
        version=model.version,
        digest=model.digest,
        inputs=model.inputs,
        outputs=model.outputs,
        shared=model.tenant is None,
    )
