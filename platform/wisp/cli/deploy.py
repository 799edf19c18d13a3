"""Deploys a folder of tenants through the HTTP API, as anybody would; running it again changes nothing."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import ExitStack
from pathlib import Path

import httpx

from wisp.cli import devkeys
from wisp.cli.samples import questions
from wisp.cli.tenantfiles import FunctionFolder, TenantFolder, read_folder
from wisp.errors import WispError
from wisp.names import ModelName, TenantName
from wisp.settings import Settings

TIMEOUT_S = 120.0
NOT_DEPLOYED = "wisp: not deployed"
OPTIONAL = "wisp: optional, and not deployed"


class Refused(Exception):
    """The platform answered with a problem; the message has its words."""


async def deploy_folder(settings: Settings, url: str) -> None:
    """What `--dev` adds to `wisp serve`. A fault is printed; the platform stays up to look at."""
    if not settings.dev or settings.operator_key is None:
        return
    # The certificate of a development server is its own.
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False, verify=False) as client:  # noqa: S501
        deployment = Deployment(client, settings.operator_key, settings.data_dir)
        try:
            for tenant in read_folder(settings.tenants):
                for line in await deployment.deploy(tenant):
                    print(line, flush=True)
        except (WispError, Refused, httpx.HTTPError, OSError) as error:
            print(f"{NOT_DEPLOYED}: {error}", flush=True)


class Deployment:
    """One client with the operator's key."""

    def __init__(self, client: httpx.AsyncClient, operator_key: str, data_dir: Path) -> None:
        self.client = client
        self.headers = {"authorization": f"Bearer {operator_key}"}
        self.data_dir = data_dir

    async def deploy(self, tenant: TenantFolder) -> list[str]:
        """Tenant, models, functions; for each function a ready command line, or why not. Raises `Refused`."""
        secret = await self._tenant(tenant)
        for name, file in tenant.models:
            await self._model(tenant.name, name, file)
        lines = []
        for function in tenant.functions:
            try:
                lines.append(await self._function(tenant.name, function, secret))
            except Refused as error:  # the others may be fine
                why = OPTIONAL if function.optional else NOT_DEPLOYED
                lines.append(f"{why}: {tenant.name}/{function.name}: {error}")
        return lines

    async def _tenant(self, tenant: TenantFolder) -> str:
        answer = await self._call(
            "POST", "/v1/tenants", json={"tenant": tenant.name, "class": tenant.class_name}, also=409
        )
        if answer.status_code == 201:
            secret = str(answer.json()["key"]["secret"])
            devkeys.keep(self.data_dir, tenant.name, secret)
            return secret
        known = devkeys.recall(self.data_dir, tenant.name)
        if known is not None:
            return known
        made = await self._call("POST", f"/v1/tenants/{tenant.name}/keys", json={"role": "deploy"})
        secret = str(made.json()["secret"])
        devkeys.keep(self.data_dir, tenant.name, secret)
        return secret

    async def _model(self, tenant: TenantName, name: ModelName, file: Path) -> None:
        model = await asyncio.to_thread(file.read_bytes)
        await self._call("PUT", f"/v1/tenants/{tenant}/models/{name}", content=model)

    async def _function(self, tenant: TenantName, function: FunctionFolder, secret: str) -> str:
        if not function.module.is_file():  # of a development server, once
            raise Refused(f"{function.module} is missing; `make guests` builds it")
        with ExitStack() as stack:
            parts = [
                ("module", ("module.wasm", stack.enter_context(function.module.open("rb")), "application/wasm")),
                ("policy", ("policy.yaml", stack.enter_context(function.policy.open("rb")), "application/yaml")),
                *(
                    ("file", (name, stack.enter_context(path.open("rb")), "application/octet-stream"))
                    for name, path in function.files
                ),
            ]
            body = httpx.Request("PUT", self.client.base_url, files=parts)
            answer = await self._call(
                "PUT",
                f"/v1/tenants/{tenant}/functions/{function.name}",
                content=body.read(),
                headers={"content-type": body.headers["content-type"]},
            )
        deployed = answer.json()
        for warning in deployed["warnings"]:
            print(f"wisp: {tenant}/{function.name}: {warning}", flush=True)
        url = f"{str(self.client.base_url).rstrip('/')}{deployed['url']}"
        return f"{tenant}/{function.name}@{deployed['version']}  {curl_line(url, secret, function.module.parent)}"

    async def _call(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, str] | None = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        also: int | None = None,
    ) -> httpx.Response:
        answer = await self.client.request(
            method, path, json=json, content=content, headers=self.headers | (headers or {})
        )
        if answer.is_success or answer.status_code == also:
            return answer
        try:
            problem = answer.json()
            words = "; ".join(
                [
                    str(problem["detail"]),
                    *(f"{fault['field']}: {fault['message']}" for fault in problem.get("errors", ())),
                ]
            )
        except (ValueError, KeyError, TypeError):
            words = "the answer is no problem document"
        raise Refused(f"{method} {path}: {answer.status_code}: {words}")


def curl_line(url: str, secret: str, folder: Path) -> str:
    """A command that works as it stands, asking the first of the function's samples."""
    question = questions(folder)[0]
    command = f"curl -i -H 'Authorization: Bearer {secret}'"
    if question.sample.method != "GET" and question.file is None:
        command += f" -X {question.sample.method}"
    for name, value in question.sample.headers.items():
        command += f" -H {shlex.quote(f'{name}: {value}')}"
    if question.file is not None:
        command += f" --data-binary {shlex.quote(f'@{question.file}')}"
    path = "" if question.sample.path == "/" else question.sample.path
    return f"{command} {shlex.quote(url + path)}"
