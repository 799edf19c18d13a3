"""What tests do with a node: tenants that deploy and call, below HTTP."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wisp.answers import Answer
from wisp.deployment import Deployed
from wisp.dispatch import Call
from wisp.names import TenantName, parse_class, parse_function, parse_model, parse_tenant, request_id
from wisp.node import Node
from wisp.registry.records import Role
from wisp.resolution import Target
from wisp.wire.exchange import Headers
from wisp.wire.outcome import Outcome, Receipt

REPOSITORY = Path(__file__).resolve().parents[1]
TENANTS = REPOSITORY / "tenants"
TINY_MODELS = REPOSITORY / "tests" / "models" / "tiny"
OPERATOR_KEY = "operator-" + "k" * 32

HANDLER_POLICY = b"wisp: 1\nabi: handler\n"
WIDE_QUOTA = (
    "quota: {requests_per_second: 1000000, burst: 1000000, max_inflight: 1000, fuel_per_day: 1000000T,"
    " nn_seconds_per_day: 1000000, storage: 100Gi, functions: 20000, models: 1000}"
)


def wide_policies(directory: Path) -> Path:
    """The shipped ones, for a crowd: whatever is tested or measured there, it is not a quota."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in (REPOSITORY / "policies").glob("c*.yaml"):
        text, changed = re.subn(r"^quota: \{[^}]*\}$", WIDE_QUOTA, path.read_text(), flags=re.MULTILINE)
        assert changed == path.stem.startswith("class-")
        (directory / path.name).write_text(text)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    outcome: Outcome
    version: int
    receipt: Receipt
    status: int | None
    body: bytes
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """One tenant of a node, and a deploy key of its own."""

    node: Node
    name: TenantName
    secret: str

    @classmethod
    async def create(cls, node: Node, name: str, class_name: str) -> Tenancy:
        tenant = parse_tenant(name)
        await node.registry.tenants.create(tenant, parse_class(class_name))
        _, secret = await node.registry.keys.issue(tenant, Role.DEPLOY)
        return cls(node=node, name=tenant, secret=secret)

    async def deploy(
        self,
        function: str,
        module: bytes,
        policy: bytes = HANDLER_POLICY,
        *,
        activate: bool = True,
        bundle: Mapping[str, bytes] | None = None,
    ) -> Deployed:
        with tempfile.TemporaryDirectory(dir=self.node.staging) as directory:
            file = Path(directory) / "module"
            file.write_bytes(module)
            files = []
            for number, (path, content) in enumerate((bundle or {}).items()):
                files.append((path, Path(directory) / str(number)))
                files[-1][1].write_bytes(content)
            return await self.node.deployer.deploy(
                tenant=self.name,
                function=parse_function(function),
                module=file,
                policy=policy,
                bundle=tuple(files),
                activate=activate,
                author="test",
            )

    async def deploy_folder(self, function: str) -> Deployed:
        folder = TENANTS / self.name / function
        return await self.deploy(function, (folder / "module.wasm").read_bytes(), (folder / "policy.yaml").read_bytes())

    async def push_model(self, name: str, file: Path) -> None:
        await self.node.model_uploads.push(tenant=self.name, model=parse_model(name), file=file)

    async def target(self, function: str) -> Target:
        return await self.node.dispatcher.resolve(self.name, parse_function(function), self.secret)

    async def call(
        self,
        function: str,
        body: bytes = b"",
        *,
        path: bytes = b"/",
        query: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Reply:
        target = await self.target(function)
        held = self.node.dispatcher.open_body(target)
        try:
            for at in range(0, len(body), 65536):
                held.append(body[at : at + 65536])
            call = Call(
                tenant=self.name,
                function=parse_function(function),
                method=b"POST",
                path=path,
                query=query,
                headers=headers,
                request_id=request_id(None),
            )
            return read(await self.node.dispatcher.invoke(target, call, held))
        finally:
            held.close()


def read(answer: Answer) -> Reply:
    """The answer's content, its budget given back."""
    reply = Reply(
        outcome=answer.outcome,
        version=answer.version,
        receipt=answer.receipt,
        status=answer.response.status if answer.response is not None else None,
        body=bytes(answer.response.body) if answer.response is not None else b"",
        headers=answer.response.headers if answer.response is not None else (),
    )
    answer.close()
    return reply
