"""The difference of two texts as a unified diff, bounded in time and length."""

from __future__ import annotations

import difflib

MAX_LINES = 2_000
"""Of both texts together; what is longer is shown as replaced. Comparing lines is quadratic at worst."""
MAX_CHARS = 32 * 1024


def unified_diff(before: str | None, after: str, name: str) -> str:
    """Empty where nothing changed. `before` is None for a text that is new."""
    former, latter = (before or "").splitlines(), after.splitlines()
    source = "/dev/null" if before is None else f"a/{name}.yaml"
    if before == after:
        return ""
    if len(former) + len(latter) > MAX_LINES:
        lines = [f"--- {source}", f"+++ b/{name}.yaml", f"@@ -1,{len(former)} +1,{len(latter)} @@"]
        lines += [*(f"-{line}" for line in former), *(f"+{line}" for line in latter)]
    else:
        lines = list(difflib.unified_diff(former, latter, source, f"b/{name}.yaml", lineterm=""))
    text = "".join(f"{line}\n" for line in lines)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}\n... cut after {MAX_CHARS // 1024} KiB\n"
