"""wisp, the WASI Inference Serverless Platform: other people's inference code, for many tenants, on one small box."""

from __future__ import annotations

__version__ = "0.1.0"
