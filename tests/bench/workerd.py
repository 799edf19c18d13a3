"""workerd, the runtime of somebody else's serverless platform: a fresh `WebAssembly.Instance` for each request.

It runs the very module of tenants/globex/hello, speaking the same exchange, so that both do the same work; what it does
not have is a process of the guest's own, fuel, or a policy. Found on the PATH or by the variable WORKERD; it comes as
an npm package of that name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "hello", worker = (
    modules = [(name = "main", esModule = embed "main.js"), (name = "hello.wasm", wasm = embed "hello.wasm")],
    compatibilityDate = "2025-01-01",
  ))],
  sockets = [(name = "http", address = "127.0.0.1:%d", http = (), service = "hello")],
);
"""
SCRIPT = """
import hello from "hello.wasm";
const text = new TextEncoder(), read = new TextDecoder();
const imports = {};
for (const {module, name} of WebAssembly.Module.imports(hello)) {
  (imports[module] ??= {})[name] = () => 52;
}
function request(method, path, query, headers) {
  const parts = [];
  const u32 = (value) => parts.push(new Uint8Array(new Uint32Array([value]).buffer));
  const str = (value) => { const bytes = text.encode(value); u32(bytes.length); parts.push(bytes); };
  u32(1); str(method); str(path); str(query); u32(headers.length);
  for (const [name, value] of headers) { str(name); str(value); }
  const message = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { message.set(part, at); at += part.length; }
  return message;
}
export default {
  async fetch(incoming) {
    const url = new URL(incoming.url);
    const message = request(incoming.method, "/", url.search.slice(1), [...incoming.headers]);
    const {exports} = new WebAssembly.Instance(hello, imports);
    exports._initialize?.();
    const pointer = exports.wisp_alloc(message.length);
    new Uint8Array(exports.memory.buffer, pointer, message.length).set(message);
    const packed = exports.wisp_handle(pointer, message.length);
    const at = Number(packed >> 32n) >>> 0, length = Number(packed & 0xffffffffn);
    const view = new DataView(exports.memory.buffer, at, length);
    let cursor = 12;
    const headers = new Headers();
    const str = () => {
      const size = view.getUint32(cursor, true);
      cursor += 4 + size;
      return read.decode(new Uint8Array(exports.memory.buffer, at + cursor - size, size));
    };
    for (let left = view.getUint32(8, true); left > 0; left--) { const name = str(); headers.append(name, str()); }
    const body = new Uint8Array(exports.memory.buffer, at + cursor, length - cursor).slice();
    return new Response(body, {status: view.getUint32(4, true), headers});
  },
};
"""


def binary() -> str | None:
    return os.environ.get("WORKERD") or shutil.which("workerd")


@contextmanager
def served(directory: Path, wasm: bytes, port: int) -> Iterator[None]:
    program = binary()
    assert program is not None
    (directory / "main.js").write_text(SCRIPT)
    (directory / "hello.wasm").write_bytes(wasm)
    (directory / "config.capnp").write_text(CONFIG % port)
    process = subprocess.Popen([program, "serve", str(directory / "config.capnp")], cwd=directory)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
