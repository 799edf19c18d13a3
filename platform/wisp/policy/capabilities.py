"""Capabilities as data: which functions a guest may import, their signatures, and what a policy must say to have them.

`wasi_snapshot_preview1` after legacy/preview1/witx of the WASI repository, lowered to core wasm: every handle, flag,
size and pointer is an i32, every 64-bit count, offset, time and right an i64, a string or list a pointer and a length,
each result but the errno one more out-pointer. `wasi_ephemeral_nn` after the witx of the wasi-nn proposal, with the six
functions that WasmEdge adds. `wisp` is the platform's own: what no WASI preview 1 proposal has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WASI_MODULE = "wasi_snapshot_preview1"
NN_MODULE = "wasi_ephemeral_nn"
OWN_MODULE = "wisp"

Signature = tuple[tuple[str, ...], tuple[str, ...]]
"""Parameter types and result types, in the text format's words."""

_LETTERS = {"i": "i32", "I": "i64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One import module. `needs`: policy keys, any one of which gives it; none means that everybody has it. `hint`: a
    policy line that would give it."""

    module: str
    functions: Mapping[str, Signature]
    needs: tuple[str, ...] = ()
    hint: str = ""


def _errno_functions(table: str) -> dict[str, Signature]:
    """Lines of `name letters`, i for i32 and I for i64; each answers an errno."""
    rows = (line.split() for line in table.strip().splitlines())
    return {name: (tuple(_LETTERS[letter] for letter in letters), ("i32",)) for name, letters in rows}


_WASI = _errno_functions("""
    args_get                ii
    args_sizes_get          ii
    environ_get             ii
    environ_sizes_get       ii
    clock_res_get           ii
    clock_time_get          iIi
    fd_advise               iIIi
    fd_allocate             iII
    fd_close                i
    fd_datasync             i
    fd_fdstat_get           ii
    fd_fdstat_set_flags     ii
    fd_fdstat_set_rights    iII
    fd_filestat_get         ii
    fd_filestat_set_size    iI
    fd_filestat_set_times   iIIi
    fd_pread                iiiIi
    fd_prestat_get          ii
    fd_prestat_dir_name     iii
    fd_pwrite               iiiIi
    fd_read                 iiii
    fd_readdir              iiiIi
    fd_renumber             ii
    fd_seek                 iIii
    fd_sync                 i
    fd_tell                 ii
    fd_write                iiii
    path_create_directory   iii
    path_filestat_get       iiiii
    path_filestat_set_times iiiiIIi
    path_link               iiiiiii
    path_open               iiiiiIIii
    path_readlink           iiiiii
    path_remove_directory   iii
    path_rename             iiiiii
    path_symlink            iiiii
    path_unlink_file        iii
    poll_oneoff             iiii
    proc_raise              i
    random_get              ii
    sock_accept             iii
    sock_recv               iiiiii
    sock_send               iiiii
    sock_shutdown           ii
""") | {
    "sched_yield": ((), ("i32",)),
    "proc_exit": (("i32",), ()),
}

_NN = _errno_functions("""
    load                       iiiii
    load_by_name               iii
    init_execution_context     ii
    set_input                  iii
    compute                    i
    get_output                 iiiii
    load_by_name_with_config   iiiii
    get_output_single          iiiii
    compute_single             i
    fini_single                i
    unload                     i
    finalize_execution_context i
""")

_OWN = _errno_functions("""
    http_send          iii
    http_response_size ii
    http_response_read iii
""")

CAPABILITIES: Mapping[str, Capability] = {
    capability.module: capability
    for capability in (
        Capability(module=WASI_MODULE, functions=_WASI),
        Capability(
            module=NN_MODULE,
            functions=_NN,
            needs=("models", "inline_models"),
            hint="models: [{name: classify, model: mobilenet@1}]",
        ),
        Capability(
            module=OWN_MODULE,
            functions=_OWN,
            needs=("allowed_outbound_hosts",),
            hint='allowed_outbound_hosts: ["https://api.example.com:443"]',
        ),
    )
}
"""By import module."""


def print_signature(params: tuple[str, ...], results: tuple[str, ...]) -> str:
    """`(i32, i32) -> i32`, `() -> ()`."""
    returned = results[0] if len(results) == 1 else f"({', '.join(results)})"
    return f"({', '.join(params)}) -> {returned}"
