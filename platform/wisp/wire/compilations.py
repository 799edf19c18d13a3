"""The frames between the router and a compile child, which reads one module, reports its facts, and compiles it.

child → router   READY    JSON {walls}, before it has read anything
router → child   READ     max module bytes u64 + the module (read-only file) + output segment
child → router   FACTS    bytes u64: that much JSON stands at the start of the output segment
router → child   COMPILE  (empty): the facts were admitted
child → router   CODE     bytes u64: that much serialized code stands at the start of the output segment
child → router   REFUSED  text: what is wrong with the module
"""

from __future__ import annotations

import struct
from enum import IntEnum

LENGTH = struct.Struct("<Q")
MAX_FACTS_BYTES = 4 * 1024 * 1024
MAX_REASON_BYTES = 1024


class Kind(IntEnum):
    READ = 1
    FACTS = 2
    COMPILE = 3
    CODE = 4
    REFUSED = 5
    READY = 6
