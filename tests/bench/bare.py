"""What wisp is compared with: the same HTTP server as its makers have it, and no platform behind it.

python tests/bench/bare.py SERVER PORT
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from hypercorn.asyncio import serve

from wisp import hypercornserver, uvicornserver
from wisp.server import BACKLOG, HEAD_S, REQUESTS_A_CONNECTION, listen
from wisp.settings import Settings

BODY = b"Welcome to Globex.\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["method"] == "POST":
        while (await receive()).get("more_body", False):
            pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def main() -> None:
    server, port = sys.argv[1:]
    settings = Settings.load(
        {"bind": f"127.0.0.1:{port}", "data_dir": str(Path.cwd())}, environ={"WISP_OPERATOR_KEY": "k" * 32}
    )
    if server == "uvicorn":
        with listen(settings.bind) as bound:
            fast = uvicorn.Config(
                app, http="httptools", ws="none", lifespan="off", loop="none", log_config=None, access_log=False,
                server_header=False, proxy_headers=False, backlog=BACKLOG,
            )  # fmt: skip
            uvloop.run(uvicornserver.serve(fast, bound, asyncio.Event().wait))
        return
    config = hypercornserver.make_config(settings, backlog=BACKLOG)
    config.bind = [settings.bind]
    config.keep_alive_timeout, config.keep_alive_max_requests = HEAD_S, REQUESTS_A_CONNECTION  # as wisp's own
    uvloop.run(serve(app, config, shutdown_trigger=asyncio.Event().wait))


if __name__ == "__main__":
    main()
