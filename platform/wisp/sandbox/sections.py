"""Reads a module's sections without an engine: what it imports, exports and starts with, and how much of everything.

The bytes are hostile, and wasmtime must not be the first to see them: its texts carry names raw, it takes the text
format too, and a strange type in a signature has ended processes. Grammar: WebAssembly Core Specification §5.5
(Binary Format, Modules). Function bodies and data are skipped, not read.
"""

from __future__ import annotations

from wisp.policy.facts import MAX_EXPORTS, MAX_IMPORTS, MAX_NAME, MAX_SIGNATURE, Export, ExternKind, Import, ModuleFacts

MAGIC = b"\0asm"
MODULE_VERSION = b"\x01\x00\x00\x00"
COMPONENT_VERSION = b"\x0d\x00\x01\x00"
MAX_TYPES = 100_000
MAX_FUNCTIONS = 200_000
MAX_ENTRIES = 100_000

VALUE_TYPES = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x70: "funcref", 0x6F: "externref"}
KINDS = {0: ExternKind.FUNC, 1: ExternKind.TABLE, 2: ExternKind.MEMORY, 3: ExternKind.GLOBAL, 4: ExternKind.TAG}
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT, TAG = range(14)
SECTION_NAMES = (
    "custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data",
    "data count", "tag",
)  # fmt: skip
ORDER = (TYPE, IMPORT, FUNCTION, TABLE, MEMORY, TAG, GLOBAL, EXPORT, START, ELEMENT, DATA_COUNT, CODE, DATA)

Signature = tuple[tuple[str, ...], tuple[str, ...]]


class MalformedModule(ValueError):
    """Says what is wrong with the bytes, and where."""


class _Reader:
    """A window of the module that cannot be left. Every number is checked against what is there."""

    __slots__ = ("at", "data", "end", "where")

    def __init__(self, data: bytes, at: int, end: int, where: str) -> None:
        self.data, self.at, self.end, self.where = data, at, end, where

    def fail(self, what: str) -> MalformedModule:
        return MalformedModule(f"{self.where}, byte {self.at}: {what}")

    def byte(self) -> int:
        if self.at >= self.end:
            raise self.fail("the module ends too early")
        value = self.data[self.at]
        self.at += 1
        return value

    def unsigned(self, bits: int = 32) -> int:
        """LEB128, §5.2.2."""
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= bits:
                raise self.fail("a number that is too long")
        if result >= 1 << bits:
            raise self.fail("a number that is too large")
        return result

    def count(self, what: str, most: int) -> int:
        count = self.unsigned()
        if count > most:
            raise self.fail(f"{count} {what}, at most {most}")
        return count

    def skip(self, length: int) -> None:
        if length > self.end - self.at:
            raise self.fail("the module ends too early")
        self.at += length

    def name(self) -> str:
        length = self.unsigned()
        start = self.at
        self.skip(length)
        if length > MAX_NAME:
            raise self.fail(f"a name of {length} bytes, at most {MAX_NAME}")
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a name that is not UTF-8") from None

    def value_type(self) -> str:
        code = self.byte()
        if code in (0x63, 0x64):  # (ref null? heap type), of proposals that are off: named, then judged
            self.unsigned(33)
            return "other"
        return VALUE_TYPES.get(code, "other")

    def result_type(self) -> tuple[str, ...]:
        return tuple(self.value_type() for _ in range(self.count("values in a signature", MAX_SIGNATURE)))

    def limits(self) -> tuple[int, int | None]:
        flags = self.byte()
        if flags & ~0x0F:
            raise self.fail(f"limits with flags {flags:#x}")
        bits = 64 if flags & 0x04 else 32
        minimum = self.unsigned(bits)
        maximum = self.unsigned(bits) if flags & 0x01 else None
        if flags & 0x08:
            self.unsigned()  # custom page size
        return minimum, maximum


class _Module:
    """Collects the facts while the sections pass by."""

    def __init__(self) -> None:
        self.types: list[Signature | None] = []
        self.functions: list[int] = []
        self.imports: list[Import] = []
        self.exports: list[tuple[str, ExternKind, int]] = []
        self.memories: list[tuple[int, int | None]] = []
        self.table_minimums: list[int] = []
        self.globals = 0
        self.data_segments = 0
        self.has_start = False

    def signature(self, reader: _Reader, index: int) -> Signature:
        if index >= len(self.types):
            raise reader.fail(f"type {index} does not exist")
        return self.types[index] or (("other",), ())

    def read_types(self, reader: _Reader) -> None:
        for _ in range(reader.count("types", MAX_TYPES)):
            form = reader.byte()
            if form != 0x60:
                raise reader.fail(f"type form {form:#x}: only function types are offered (no garbage collection)")
            params = reader.result_type()
            self.types.append((params, reader.result_type()))

    def read_imports(self, reader: _Reader) -> None:
        for _ in range(reader.count("imports", MAX_IMPORTS)):
            module, name = reader.name(), reader.name()
            kind = self.kind(reader)
            params: tuple[str, ...] = ()
            results: tuple[str, ...] = ()
            if kind is ExternKind.FUNC:
                index = reader.unsigned()
                params, results = self.signature(reader, index)
                self.functions.append(index)
            elif kind is ExternKind.TABLE:
                self.read_table_type(reader)
            elif kind is ExternKind.MEMORY:
                self.memories.append(reader.limits())
            elif kind is ExternKind.GLOBAL:
                reader.value_type()
                reader.byte()
                self.globals += 1
            else:
                reader.byte()
                reader.unsigned()
            self.imports.append(Import(module=module, name=name, kind=kind, params=params, results=results))

    def kind(self, reader: _Reader) -> ExternKind:
        code = reader.byte()
        if code not in KINDS:
            raise reader.fail(f"kind {code:#x} does not exist")
        return KINDS[code]

    def read_table_type(self, reader: _Reader) -> None:
        reader.value_type()
        self.table_minimums.append(reader.limits()[0])

    def read_tables(self, reader: _Reader) -> None:
        for _ in range(reader.count("tables", MAX_ENTRIES)):
            if reader.data[reader.at : reader.at + 2] == b"\x40\x00":
                raise reader.fail("a table with an initial value (function references are not offered)")
            self.read_table_type(reader)

    def read_functions(self, reader: _Reader) -> None:
        self.functions += [reader.unsigned() for _ in range(reader.count("functions", MAX_FUNCTIONS))]

    def read_memories(self, reader: _Reader) -> None:
        self.memories += [reader.limits() for _ in range(reader.count("memories", MAX_ENTRIES))]

    def read_exports(self, reader: _Reader) -> None:
        for _ in range(reader.count("exports", MAX_EXPORTS)):
            name = reader.name()
            self.exports.append((name, self.kind(reader), reader.unsigned()))

    def read_section(self, number: int, reader: _Reader) -> None:
        if number == TYPE:
            self.read_types(reader)
        elif number == IMPORT:
            self.read_imports(reader)
        elif number == FUNCTION:
            self.read_functions(reader)
        elif number == TABLE:
            self.read_tables(reader)
        elif number == MEMORY:
            self.read_memories(reader)
        elif number == EXPORT:
            self.read_exports(reader)
        elif number == START:
            reader.unsigned()
            self.has_start = True
        elif number == GLOBAL:
            self.globals += reader.count("globals", MAX_ENTRIES)
            return  # initial values are expressions; the engine validates them
        elif number in (DATA, ELEMENT, CODE):
            count = reader.count("entries", MAX_FUNCTIONS)
            self.data_segments += count if number == DATA else 0
            return
        elif number == DATA_COUNT:
            reader.unsigned()
        elif number == TAG:
            raise reader.fail("exception handling is not offered")
        if reader.at != reader.end:
            raise reader.fail("the section is longer than its content")

    def export(self, reader: _Reader, name: str, kind: ExternKind, index: int) -> Export:
        if kind is not ExternKind.FUNC:
            return Export(name=name, kind=kind)
        if index >= len(self.functions):
            raise reader.fail(f"function {index} does not exist")
        params, results = self.signature(reader, self.functions[index])
        return Export(name=name, kind=kind, params=params, results=results)


def read_facts(data: bytes) -> ModuleFacts:
    """Raises `MalformedModule` for anything that is not a core module in the binary format."""
    if data[:4] != MAGIC:
        raise MalformedModule(
            "not WebAssembly: the first four bytes are not '\\0asm' (the text format is not accepted)"
        )
    if data[4:8] == COMPONENT_VERSION:
        raise MalformedModule("a WebAssembly component; core modules are what is offered (build for wasm32-wasip1)")
    if data[4:8] != MODULE_VERSION:
        raise MalformedModule(f"WebAssembly version {data[4:8].hex()}, not 01000000")
    module = _Module()
    reader = _Reader(data, 8, len(data), "module")
    last = -1
    while reader.at < reader.end:
        number = reader.byte()
        length = reader.unsigned()
        start = reader.at
        reader.skip(length)
        if number == CUSTOM:
            continue
        if number not in ORDER:
            raise reader.fail(f"section {number} does not exist")
        if ORDER.index(number) <= last:
            raise reader.fail(f"the {SECTION_NAMES[number]} section is out of order or repeated")
        last = ORDER.index(number)
        module.read_section(number, _Reader(data, start, start + length, f"{SECTION_NAMES[number]} section"))
    return ModuleFacts(
        size_bytes=len(data),
        imports=tuple(module.imports),
        exports=tuple(module.export(reader, *export) for export in module.exports),
        memories=len(module.memories),
        memory_min_pages=module.memories[0][0] if module.memories else 0,
        memory_max_pages=module.memories[0][1] if module.memories else None,
        tables=len(module.table_minimums),
        table_min_elements=max(module.table_minimums, default=0),
        functions=len(module.functions),
        globals=module.globals,
        data_segments=module.data_segments,
        has_start=module.has_start,
    )
