"""What an operator can set: flag, else `WISP_*` variable, else default; checked whole before anything starts.

`SETTINGS` is the one table: the command line, the variables, `--help` and the documentation are made from it. Unknown
`WISP_*` variables are refused, since a misspelt limit is no limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from wisp.cores import usable_cores
from wisp.errors import InvalidSettings
from wisp.settingvalues import (
    MIN_OPERATOR_KEY,
    positive,
    to_batch_delay_s,
    to_bind,
    to_boolean,
    to_count,
    to_count_or_none,
    to_operator_key,
    to_path,
    to_secrets_key,
    to_size_bytes,
    to_time_s,
    to_url,
    to_word,
)

PREFIX = "WISP_"
MASK = "***"
MOST_SPARE = 4
"""Unless more are asked for: each costs its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row. `default` is as it would be written, None where there is none; `unit` ends the attribute's name."""

    name: str
    parse: Callable[[str], object]
    default: str | None
    metavar: str
    help: str
    unit: str = ""
    secret: bool = False

    @property
    def attribute(self) -> str:
        return self.name + self.unit

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str | None:
        """A secret has none: a command line is visible to every process of the machine."""
        return None if self.secret else "--" + self.name.replace("_", "-")

    @property
    def switch(self) -> bool:
        return self.parse is to_boolean


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="dev",
        parse=to_boolean,
        default="false",
        metavar="",
        help="for trying out: make an operator key, deploy the tenants folder, print a curl line for each function",
    ),
    Setting(name="bind", parse=to_bind, default="127.0.0.1:8080", metavar="HOST:PORT", help="where to listen"),
    Setting(
        name="share_port",
        parse=to_boolean,
        default="false",
        metavar="",
        help="other nodes of this user and machine may listen there as well; the kernel shares the connections out",
    ),
    Setting(
        name="data_dir",
        parse=to_path,
        default=".wisp",
        metavar="DIR",
        help="what this node keeps; made 0700",
    ),
    Setting(
        name="redis",
        parse=to_url,
        default=None,
        metavar="URL",
        help="redis[s]:// unix:// redis[s]+cluster://; else embedded",
    ),
    Setting(
        name="blobs",
        parse=to_url,
        default=None,
        metavar="URL",
        help="file:// s3:// gs:// az:// redis:; else redis: with --redis, and without it in the data directory",
    ),
    Setting(
        name="blob_cache",
        parse=positive(to_size_bytes, "more than 0 bytes"),
        default="4Gi",
        metavar="SIZE",
        help="this node's copies of blobs kept elsewhere",
        unit="_bytes",
    ),
    Setting(
        name="policies",
        parse=to_path,
        default=None,
        metavar="DIR",
        help="ceiling.yaml and class-*.yaml; they rule",
    ),
    Setting(name="tenants", parse=to_path, default="tenants", metavar="DIR", help="what --dev deploys"),
    Setting(
        name="workers",
        parse=to_count,
        default=None,
        metavar="N",
        help="sandbox processes; else one for each usable core",
    ),
    Setting(
        name="spare",
        parse=to_count_or_none,
        default=None,
        metavar="N",
        help="further ones, which no tenant's long runs can fill; else as many as workers, 4 at most",
    ),
    Setting(
        name="drain_delay",
        parse=to_time_s,
        default="0s",
        metavar="TIME",
        help="after SIGTERM, accept this much longer",
        unit="_s",
    ),
    Setting(
        name="drain_timeout",
        parse=to_time_s,
        default="30s",
        metavar="TIME",
        help="then let requests in flight finish",
        unit="_s",
    ),
    Setting(
        name="log_format",
        parse=to_word("json", "text"),
        default="text",
        metavar="json|text",
        help="on stderr",
    ),
    Setting(
        name="access_log",
        parse=to_word("on", "off"),
        default="on",
        metavar="on|off",
        help="a line for each request for a function, with its receipt",
    ),
    Setting(name="metrics_public", parse=to_boolean, default="false", metavar="", help="/metrics without a key"),
    Setting(name="tls_cert", parse=to_path, default=None, metavar="FILE", help="PEM chain; with --tls-key: HTTPS"),
    Setting(name="tls_key", parse=to_path, default=None, metavar="FILE", help="PEM private key"),
    Setting(
        name="server",
        parse=to_word("hypercorn", "uvicorn"),
        default="hypercorn",
        metavar="hypercorn|uvicorn",
        help="the HTTP server; uvicorn comes with pip install 'wisp[uvicorn]'",
    ),
    Setting(
        name="require_walls",
        parse=to_boolean,
        default="false",
        metavar="",
        help="refuse to start without all walls up",
    ),
    Setting(
        name="body_budget",
        parse=positive(to_size_bytes, "more than 0 bytes"),
        default="256Mi",
        metavar="SIZE",
        help="all bodies in flight together",
        unit="_bytes",
    ),
    Setting(
        name="body_timeout",
        parse=positive(to_time_s, "more than 0s"),
        default="30s",
        metavar="TIME",
        help="for a caller to send one request's body",
        unit="_s",
    ),
    Setting(
        name="model_memory",
        parse=positive(to_size_bytes, "more than 0 bytes"),
        default=None,
        metavar="SIZE",
        help="for open models; what is used least leaves first (default: half of the memory that this machine or its"
        " control group has)",
        unit="_bytes",
    ),
    Setting(
        name="tenant_hosts",
        parse=to_count,
        default="16",
        metavar="N",
        help="inference processes for tenants whose class does not trust their models, at most; idle ones are ended",
    ),
    Setting(
        name="batch_delay",
        parse=to_batch_delay_s,
        default="0ms",
        metavar="TIME",
        help="how long an inference waits for others to share a run, 5ms at most; 0ms: only what waits anyway",
        unit="_s",
    ),
    Setting(
        name="gpu",
        parse=to_word("off", "auto", "require"),
        default="off",
        metavar="off|auto|require",
        help="an inference process on the GPU for models whose target it is; auto: where there is one",
    ),
    Setting(
        name="operator_key",
        parse=to_operator_key,
        default=None,
        metavar="KEY",
        help="the operator's key (32 characters at least; --dev makes one and keeps it in the data directory)",
        secret=True,
    ),
    Setting(
        name="secrets_key",
        parse=to_secrets_key,
        default=None,
        metavar="KEY",
        help="which seals tenants' secrets (32 bytes in base64, the same on all nodes of one Redis; else each node"
        " makes its own)",
        secret=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`operator_key` is None only with `dev`, until the server has made one; `secrets_key` where a node has its own."""

    dev: bool
    bind: str
    share_port: bool
    data_dir: Path
    redis: str | None
    blobs: str | None
    blob_cache_bytes: int
    policies: Path | None
    tenants: Path
    workers: int
    spare: int
    drain_delay_s: float
    drain_timeout_s: float
    log_format: str
    access_log: str
    metrics_public: bool
    tls_cert: Path | None
    tls_key: Path | None
    server: str
    require_walls: bool
    body_budget_bytes: int
    body_timeout_s: float
    model_memory_bytes: int | None
    tenant_hosts: int
    batch_delay_s: float
    gpu: str
    operator_key: str | None = field(repr=False)
    secrets_key: bytes | None = field(repr=False)

    @classmethod
    def load(cls, flags: Mapping[str, str | bool | None], environ: Mapping[str, str] | None = None) -> Settings:
        """`flags`: by setting name, None where not given. Raises InvalidSettings naming what is allowed."""
        environ = os.environ if environ is None else environ
        known = {setting.variable for setting in SETTINGS}
        unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise InvalidSettings(
                f"unknown variable {unknown[0]!a}; wisp reads {', '.join(s.variable for s in SETTINGS)}"
            )
        values = {setting.attribute: _value(setting, flags.get(setting.name), environ) for setting in SETTINGS}
        if values["workers"] is None:
            values["workers"] = usable_cores()
        if values["spare"] is None:
            values["spare"] = min(int(str(values["workers"])), MOST_SPARE)
        settings = cls(**values)  # type: ignore[arg-type]  # each row's parser makes its field's type
        settings.check()
        return settings

    def check(self) -> None:
        """What no setting can tell alone."""
        if self.operator_key is None and not self.dev:
            raise InvalidSettings(
                f"set WISP_OPERATOR_KEY to {MIN_OPERATOR_KEY} characters or more, or start with --dev to have one made"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidSettings("--tls-cert and --tls-key go together")
        for flag, file in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if file is not None and not file.is_file():
                raise InvalidSettings(f"{flag}: there is no file {str(file)!a}")
        if self.policies is not None and not self.policies.is_dir():
            raise InvalidSettings(f"--policies: there is no directory {str(self.policies)!a}")

    def masked(self) -> dict[str, str]:
        """As printed at the start: secrets and passwords do not appear."""
        shown: dict[str, str] = {}
        for setting in SETTINGS:
            value = getattr(self, setting.attribute)
            if value is None:
                shown[setting.name] = "-"
            elif setting.secret:
                shown[setting.name] = MASK
            else:
                shown[setting.name] = _without_password(value) if setting.parse is to_url else str(value)
        return shown

    @staticmethod
    def describe() -> tuple[tuple[str, str, str, str], ...]:
        """Flag (or ""), variable, default (or "") and meaning of every setting, for documents and their tests."""
        return tuple((s.flag or "", s.variable, s.default or "", s.help) for s in SETTINGS)


def _value(setting: Setting, flag: str | bool | None, environ: Mapping[str, str]) -> object:
    """A flag from the command line may be a real boolean; everything else is text."""
    if isinstance(flag, bool):
        return flag
    source, text = (setting.flag or setting.variable), flag
    if text is None and setting.variable in environ:
        source, text = setting.variable, environ[setting.variable]
    if text is None:
        text = setting.default
    if text is None:
        return None
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = MASK if setting.secret or setting.parse is to_url else ascii(text[:80])
        raise InvalidSettings(f"{source}: {shown} is not {error}") from error


def _without_password(url: str) -> str:
    """User, password and query may carry secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    hidden = f"{MASK}@" if "@" in parts.netloc else ""
    query = f"?{MASK}" if parts.query else ""
    return f"{parts.scheme}://{hidden}{host}{parts.path}{query}"
