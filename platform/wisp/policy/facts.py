"""What a module says about itself: the facts that a limited child reads from its sections and `admission` judges.

Value types are the text format's words (`i32`, `i64`, `f32`, `f64`, `v128`, `funcref`, `externref`); any other is
`other`. The reader cuts names to `MAX_NAME` characters and lists to one entry more than `MAX_IMPORTS`/`MAX_EXPORTS`,
so that an excess is seen without being carried.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wisp.policy.plain import Plain, check_list, check_text

MAX_IMPORTS = 1_000
MAX_EXPORTS = 1_000
MAX_NAME = 1_024
MAX_SIGNATURE = 1_000
"""Parameters, and results, that a wasm function type may have (the implementation limit of the JS API)."""
MAX_TABLES = 4
MAX_TABLE_ELEMENTS = 20_000
"""Of one table, when instantiated and after it has grown."""
MAX_COUNT = 2**32 - 1
VALUE_TYPES = frozenset({"i32", "i64", "f32", "f64", "v128", "funcref", "externref", "other"})


class ExternKind(StrEnum):
    FUNC = "func"
    TABLE = "table"
    MEMORY = "memory"
    GLOBAL = "global"
    TAG = "tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`params` and `results` are empty unless `kind` is a function."""

    module: str
    name: str
    kind: ExternKind
    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """`params` and `results` are empty unless `kind` is a function."""

    name: str
    kind: ExternKind
    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """Counts include what is imported. Pages are 64 KiB; `memory_*` describe memory 0 and are 0 and None without one;
    `table_min_elements` is the largest minimum of any table."""

    size_bytes: int
    imports: tuple[Import, ...] = ()
    exports: tuple[Export, ...] = ()
    memories: int = 0
    memory_min_pages: int = 0
    memory_max_pages: int | None = None
    tables: int = 0
    table_min_elements: int = 0
    functions: int = 0
    globals: int = 0
    data_segments: int = 0
    has_start: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "size_bytes": self.size_bytes,
            "imports": [
                [one.module, one.name, one.kind.value, list(one.params), list(one.results)] for one in self.imports
            ],
            "exports": [[one.name, one.kind.value, list(one.params), list(one.results)] for one in self.exports],
            "memories": self.memories,
            "memory_min_pages": self.memory_min_pages,
            "memory_max_pages": self.memory_max_pages,
            "tables": self.tables,
            "table_min_elements": self.table_min_elements,
            "functions": self.functions,
            "globals": self.globals,
            "data_segments": self.data_segments,
            "has_start": self.has_start,
        }

    @classmethod
    def from_json(cls, value: object) -> ModuleFacts:
        """What `to_json` made, from a process that is not trusted. Raises ValueError."""
        plain = Plain(value, "facts")
        facts = cls(
            size_bytes=plain.integer("size_bytes", 0, MAX_COUNT),
            imports=tuple(_import(item) for item in plain.items("imports", MAX_IMPORTS + 1)),
            exports=tuple(_export(item) for item in plain.items("exports", MAX_EXPORTS + 1)),
            memories=plain.integer("memories", 0, MAX_COUNT),
            memory_min_pages=plain.integer("memory_min_pages", 0, 2**48),
            memory_max_pages=None
            if plain.is_null("memory_max_pages")
            else plain.integer("memory_max_pages", 0, 2**64 - 1),
            tables=plain.integer("tables", 0, MAX_COUNT),
            table_min_elements=plain.integer("table_min_elements", 0, 2**64 - 1),
            functions=plain.integer("functions", 0, MAX_COUNT),
            globals=plain.integer("globals", 0, MAX_COUNT),
            data_segments=plain.integer("data_segments", 0, MAX_COUNT),
            has_start=plain.boolean("has_start"),
        )
        plain.close()
        return facts


def _import(value: object) -> Import:
    row = check_list(value, "import", 5)
    if len(row) != 5:
        raise ValueError("import: expected five items")
    return Import(
        module=check_text(row[0], "import module", MAX_NAME),
        name=check_text(row[1], "import name", MAX_NAME),
        kind=ExternKind(check_text(row[2], "import kind", 16)),
        params=_types(row[3]),
        results=_types(row[4]),
    )


def _export(value: object) -> Export:
    row = check_list(value, "export", 4)
    if len(row) != 4:
        raise ValueError("export: expected four items")
    return Export(
        name=check_text(row[0], "export name", MAX_NAME),
        kind=ExternKind(check_text(row[1], "export kind", 16)),
        params=_types(row[2]),
        results=_types(row[3]),
    )


def _types(value: object) -> tuple[str, ...]:
    types = tuple(check_text(item, "value type", 16) for item in check_list(value, "value types", MAX_SIGNATURE))
    if not VALUE_TYPES.issuperset(types):
        raise ValueError("value types: unknown type")
    return types
