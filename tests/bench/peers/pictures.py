"""What the two example functions do before and after the model, in numpy: the same pixels, the same arithmetic.

Needs numpy, and Pillow for PNG, alone, so that a peer in an environment of its own can import it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
# (x / 255 - MEAN) / DEVIATION in one multiplication and one addition.
SCALE = 1 / (255 * DEVIATION)
SHIFT = -MEAN / DEVIATION
HEADER_BYTES = 30

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`read`: a request's body to the model's input; `answer`: the model's output to the body of the reply."""

    read: Callable[[bytes], Array]
    answer: Callable[[Array], dict[str, Any]]


def work(name: str, labels: Path | None) -> Work:
    """`classify`, which needs a labels file, or `digits`."""
    if name == "digits":
        return Work(read=digit, answer=lambda logits: finding(logits, list(range(10))))
    assert labels is not None
    names = labels.read_text().splitlines()
    return Work(read=photo, answer=lambda logits: finding(logits, names[len(names) - logits.size :]))


def photo(bmp: bytes) -> Array:
    """An uncompressed BMP of 24 bits a pixel to f32[1,3,224,224]: the neighbour to the upper left, as `globex/classify`
    takes it. Only what is taken is converted."""
    start, width, height = (int.from_bytes(bmp[at : at + 4], "little") for at in (10, 18, 22))
    if bmp[:2] != b"BM" or bmp[28:HEADER_BYTES] != b"\x18\x00":
        raise ValueError("not a BMP of 24 bits")
    row_bytes = (3 * width + 3) // 4 * 4
    rows = np.frombuffer(bmp, np.uint8, row_bytes * height, start).reshape(height, row_bytes)[:, : 3 * width]
    at = np.arange(SIDE)
    # Rows run upward, colours are blue, green, red.
    taken = rows.reshape(height, width, 3)[height - 1 - (at * height // SIDE)[:, None], at * width // SIDE, ::-1]
    tensor: Array = np.ascontiguousarray((taken * SCALE + SHIFT).transpose(2, 0, 1)[None])
    return tensor


def digit(png: bytes) -> Array:
    """A PNG of any size to f32[1,1,8,8], averaged down."""
    grey = Image.open(io.BytesIO(png)).convert("L").resize((8, 8), Image.Resampling.BOX)
    tensor: Array = np.asarray(grey, np.float32)[None, None] / np.float32(255)
    return tensor


def finding(logits: Array, names: list[Any]) -> dict[str, Any]:
    flat = logits.reshape(-1)
    best = int(flat.argmax())
    confidence = 1 / float(np.exp(flat - flat[best]).sum())
    return {"label": names[best], "confidence": round(confidence, 4)}


def is_label(reply: bytes, label: object) -> bool:
    try:
        return bool(json.loads(reply)["label"] == label)
    except (ValueError, KeyError, TypeError):
        return False
