"""The digits model of the tenant acme, straight from the samples' PNG bytes."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

FUNCTION = Path(__file__).parents[2] / "tenants" / "acme" / "digits"
LABELS: dict[str, int] = json.loads((FUNCTION / "samples" / "labels.json").read_text())
# The samples are the first two of each class in the held-out part, whatever the model makes of them: this six it takes
# for an eight (its test accuracy is 98 %).
MISTAKEN = {"6-b.png": 8}


def grey_8x8(png: bytes) -> npt.NDArray[np.float32]:
    """Decodes an 8x8, 8-bit grey PNG as the specification (PNG, third edition, section 9) says; 0 to 1."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks[kind] = chunks.get(kind, b"") + png[at + 8 : at + 8 + length]
        at += 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (8, 8, 8, 0, 0, 0, 0)
    lines = zlib.decompress(chunks[b"IDAT"])
    above, rows = [0] * 8, []
    for row in range(8):
        method, line = lines[9 * row], lines[9 * row + 1 : 9 * row + 9]
        left, corner, current = 0, 0, []
        for coded, up in zip(line, above, strict=True):
            nearest = min((left, up, corner), key=lambda near, p=left + up - corner: abs(p - near))  # type: ignore[misc]
            left = (coded + (0, left, up, (left + up) // 2, nearest)[method]) % 256
            corner = up
            current.append(left)
        rows.append(current)
        above = current
    return (np.array(rows) / 255).astype(np.float32)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(FUNCTION / "digits.onnx"), options, providers=["CPUExecutionProvider"])


def test_there_are_two_samples_of_each_class() -> None:
    assert sorted(LABELS.values()) == [digit for digit in range(10) for _ in "ab"]
    assert sorted(path.name for path in (FUNCTION / "samples").glob("*.png")) == sorted(LABELS)


def test_the_model_reads_the_samples(session: onnxruntime.InferenceSession) -> None:
    images = np.stack([grey_8x8((FUNCTION / "samples" / name).read_bytes())[None] for name in LABELS])
    (logits,) = session.run(["logits"], {"image": images})
    assert logits.shape == (20, 10)
    read = dict(zip(LABELS, logits.argmax(axis=1).tolist(), strict=True))
    assert read == LABELS | MISTAKEN


def test_a_batch_gives_what_single_images_give(session: onnxruntime.InferenceSession) -> None:
    images = np.stack([grey_8x8((FUNCTION / "samples" / name).read_bytes())[None] for name in LABELS])
    (batch,) = session.run(None, {"image": images})
    singles = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    np.testing.assert_allclose(batch, singles, rtol=1e-4, atol=1e-4)


def test_the_interface_is_the_one_that_the_guest_expects(session: onnxruntime.InferenceSession) -> None:
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 1, 8, 8])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 10])


def test_the_file_is_small_whole_and_plain() -> None:
    model = onnx.load(FUNCTION / "digits.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(opset.domain, opset.version) for opset in model.opset_import]) == (8, [("", 17)])
    assert all(weight.data_location == onnx.TensorProto.DEFAULT for weight in model.graph.initializer)
    assert (FUNCTION / "digits.onnx").stat().st_size < 32_000
