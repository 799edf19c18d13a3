"""tenants/globex/classify on a bare engine: a real directory for its files, a function of the test for its model.

With the models and photos of ../shared/data, its input is compared with numpy's and its labels come from onnxruntime.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import wasmtime
from numpy.typing import NDArray

from sdk.abi import Guest, body_of, encode, status_of
from wisp.names import parse_class
from wisp.policy.admission import admit
from wisp.policy.ceilings import Ceilings
from wisp.policy.narrowing import check, narrow
from wisp.policy.parse import parse_policy
from wisp.sandbox.sections import read_facts

ROOT = Path(__file__).parents[2]
FUNCTION = ROOT / "tenants" / "globex" / "classify"
DATA = ROOT.parent / "shared" / "data"
MODEL, LABELS = DATA / "mobilenetv2" / "model.onnx", DATA / "mobilenetv2" / "imagenet_labels.txt"
needs_data = pytest.mark.skipif(not MODEL.is_file(), reason="needs ../shared/data/mobilenetv2 and photos")

FUEL, MEMORY_BYTES = 2_000_000_000, 64 << 20
"""The policy's."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
SAMPLES: list[dict[str, Any]] = json.loads((FUNCTION / "samples" / "requests.json").read_text())

Tensor = NDArray[np.float32]
Model = Callable[[Tensor], Tensor]


def reference(pixels: NDArray[np.uint8]) -> Tensor:
    """[height, width, 3] -> f32[1, 3, 224, 224]: nearest neighbour, rounded down, then mean and deviation."""
    height, width = pixels.shape[:2]
    at = np.arange(224)
    near = pixels[at * height // 224][:, at * width // 224].astype(np.float32) / np.float32(255)
    normalised: Tensor = ((near - MEAN) / DEVIATION).transpose(2, 0, 1)[None]
    return normalised


def rgba(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 4)).astype(np.uint8)


def json_body(pixels: NDArray[np.uint8], *, as_array: bool = False) -> bytes:
    data = pixels.ravel().tolist() if as_array else base64.b64encode(pixels.tobytes()).decode()
    return json.dumps({"image_data": data, "width": pixels.shape[1], "height": pixels.shape[0]}).encode()


def sure_of(label: int) -> Model:
    return lambda _input: np.eye(1, 1000, label, dtype=np.float32) * 20


@dataclass(slots=True)
class Platform:
    """What stands behind the guest's imports: a directory as its root, and `model` as its graph mobilenet."""

    engine: wasmtime.Engine
    module: wasmtime.Module
    root: Path
    model: Model
    inputs: list[Tensor] = field(default_factory=list)
    known: str = "mobilenet"

    def ask(self, body: bytes, content_type: str | None = "application/json", method: str = "POST") -> tuple[int, Any]:
        """A fresh instance's status and JSON."""
        store = wasmtime.Store(self.engine)
        store.set_fuel(FUEL)
        store.set_limits(memory_size=MEMORY_BYTES)
        wasi = wasmtime.WasiConfig()
        wasi.preopen_dir(str(self.root), "/")
        store.set_wasi(wasi)
        linker = wasmtime.Linker(self.engine)
        linker.define_wasi()
        guests: list[Guest] = []
        self._define_nn(linker, guests)
        guest = Guest(store=store, exports=linker.instantiate(store, self.module).exports(store))
        guests.append(guest)
        guest.call("_initialize")
        headers = {} if content_type is None else {"content-type": content_type}
        response = guest.handle(encode(method, "/", body, headers))
        return status_of(response), json.loads(body_of(response))

    def log(self) -> list[str]:
        return (self.root / "tmp" / "logs" / "classify.log").read_text().splitlines()

    def _define_nn(self, linker: wasmtime.Linker, guests: list[Guest]) -> None:
        outputs: list[bytes] = []

        def load_by_name(name: int, length: int, graph: int) -> int:
            guests[0].write(graph, struct.pack("<I", 0))
            return 0 if guests[0].read(name, length) == self.known.encode() else 8

        def init_execution_context(_graph: int, context: int) -> int:
            guests[0].write(context, struct.pack("<I", 0))
            return 0

        def set_input(_context: int, index: int, record: int) -> int:
            dims_at, dims, kind, data_at, data_bytes = struct.unpack("<5I", guests[0].read(record, 20))
            shape = struct.unpack(f"<{dims}I", guests[0].read(dims_at, 4 * dims))
            assert (index, kind) == (0, 1)
            self.inputs.append(np.frombuffer(guests[0].read(data_at, data_bytes), np.float32).reshape(shape))
            return 0

        def compute(_context: int) -> int:
            outputs.append(self.model(self.inputs[-1]).astype(np.float32).tobytes())
            return 0

        def get_output(_context: int, _index: int, buffer: int, size: int, written: int) -> int:
            guests[0].write(written, struct.pack("<I", len(outputs[-1])))
            if len(outputs[-1]) > size:
                return 7
            guests[0].write(buffer, outputs[-1])
            return 0

        i32 = wasmtime.ValType.i32()
        for function, count in (
            (load_by_name, 3),
            (init_execution_context, 2),
            (set_input, 3),
            (compute, 1),
            (get_output, 5),
        ):
            kind = wasmtime.FuncType([i32] * count, [i32])
            linker.define_func("wasi_ephemeral_nn", function.__name__, kind, function)


@pytest.fixture(scope="module")
def engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    return wasmtime.Engine(config)


@pytest.fixture(scope="module")
def module(engine: wasmtime.Engine) -> wasmtime.Module:
    return wasmtime.Module(engine, (FUNCTION / "module.wasm").read_bytes())


@pytest.fixture
def platform(engine: wasmtime.Engine, module: wasmtime.Module, tmp_path: Path) -> Platform:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "labels.txt").write_text("".join(f"class {number}\n" for number in range(1000)))
    (tmp_path / "tmp" / "logs").mkdir(parents=True)
    return Platform(engine=engine, module=module, root=tmp_path, model=sure_of(0))


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (224, 224), (225, 223), (480, 640)])
def test_pixels_become_the_tensor_that_numpy_makes(platform: Platform, height: int, width: int, as_array: bool) -> None:
    pixels = rgba(height, width)
    status, answer = platform.ask(json_body(pixels, as_array=as_array))
    assert status == 200, answer
    np.testing.assert_array_equal(platform.inputs[0], reference(pixels[:, :, :3]))


def test_an_answer_has_its_label_and_its_line_in_the_log(platform: Platform) -> None:
    platform.model = sure_of(999)
    status, answer = platform.ask(json_body(rgba(2, 3)))
    expected = 1 / (1 + 999 * np.exp(-20))
    assert (status, answer["label"], answer["confidence"]) == (200, "class 999", round(expected, 4))
    assert answer.keys() == {"label", "confidence", "latency_ms"}
    assert 0 <= answer["latency_ms"] < 60_000
    assert platform.ask(b"[]")[0] == 400
    first, second = platform.log()
    assert first.startswith("class 999 1.0000 from rgba 3x2 in ")
    assert second == "refused: the body is no JSON object"


@pytest.mark.parametrize("background", ["background\n", ""])
@pytest.mark.parametrize("number", [0, 281, 999])
def test_a_line_for_the_background_is_stepped_over(platform: Platform, background: str, number: int) -> None:
    labels = platform.root / "models" / "labels.txt"
    labels.write_text(background + labels.read_text())
    platform.model = sure_of(number)
    assert platform.ask(json_body(rgba(1, 1)))[1]["label"] == f"class {number}"


def test_a_label_is_escaped(platform: Platform) -> None:
    (platform.root / "models" / "labels.txt").write_text('a "quoted\\" é\tlabel\n' + "other\n" * 999)
    assert platform.ask(json_body(rgba(1, 1)))[1]["label"] == 'a "quoted\\" é\tlabel'


@pytest.mark.parametrize("fault", ["no labels", "other labels", "no model", "not a number"])
def test_a_function_that_is_not_set_up_does_not_blame_the_caller(platform: Platform, fault: str) -> None:
    labels = platform.root / "models" / "labels.txt"
    if fault == "no labels":
        labels.unlink()
    elif fault == "other labels":
        labels.write_text("one\ntwo\n")
    elif fault == "no model":
        platform.known = "resnet"
    else:
        platform.model = lambda _input: np.full((1, 1000), np.nan, np.float32)
    status, answer = platform.ask(json_body(rgba(1, 1)))
    assert (status, answer.keys()) == (500, {"error"})
    assert "labels.txt" not in answer["error"]
    assert platform.log()[0].startswith("failed: ")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["expect"]["json"]["error"][:40])
def test_each_sample_request_is_answered_as_it_says(platform: Platform, sample: dict[str, Any]) -> None:
    file = sample.get("file")
    body = sample.get("body", "").encode() if file is None else (FUNCTION / "samples" / file).read_bytes()
    answered = platform.ask(body, sample["headers"].get("content-type"), sample["method"])
    assert answered == (sample["expect"]["status"], sample["expect"]["json"])
    assert platform.inputs == []


@pytest.mark.parametrize("content_type", ["application/json", "image/png", "image/jpeg", "image/bmp", None])
@pytest.mark.parametrize(
    "body",
    [
        b"\x00" * 64,
        b"{" * 10_000,
        b"BM" + b"\xff" * 200,
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 64,
        b"\xff\xd8" + b"\xff" * 64,
    ],
    ids=["zeros", "braces", "bmp", "png", "jpeg"],
)
def test_rubbish_of_any_kind_is_the_callers_fault(platform: Platform, content_type: str | None, body: bytes) -> None:
    status, answer = platform.ask(body, content_type)
    assert (status, answer.keys()) == (400, {"error"})


def test_a_body_that_promises_more_than_it_holds_takes_no_memory_for_it(platform: Platform) -> None:
    huge = b"BM" + struct.pack("<IIIIii", 0, 0, 54, 40, 2048, 1024) + b"\x01\x00\x18\x00" + b"\x00" * 24
    assert platform.ask(huge, "image/bmp")[0] == 400
    assert platform.ask(b'{"image_data": "AAAA", "width": 2048, "height": 1024}')[0] == 400
    assert platform.ask(b'{"image_data": [0, 0], "width": 2048, "height": 1024}')[0] == 400


def test_the_policy_fits_its_tenants_class_and_admits_the_module() -> None:
    policy = parse_policy((FUNCTION / "policy.yaml").read_bytes())
    ceilings = Ceilings.load(ROOT / "policies")
    tenant_class = ceilings.for_class(parse_class("free"))
    assert check(policy, tenant_class, ceilings.ceiling) == ()
    grants = narrow(policy, tenant_class, ceilings.ceiling)
    assert (grants.fuel, grants.memory_bytes) == (FUEL, MEMORY_BYTES)
    assert [mount.mount for mount in grants.files] == ["/models", "/tmp/logs"]
    assert admit(read_facts((FUNCTION / "module.wasm").read_bytes()), grants) == ()


@pytest.fixture(scope="module")
def mobilenet() -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])

    def infer(pixels: Tensor) -> Tensor:
        logits: Tensor = session.run(None, {"input": pixels})[0]
        return logits

    return infer


@needs_data
@pytest.mark.parametrize(
    ("photo", "content_type", "label", "confidence"),
    [
        ("cat.bmp", "image/bmp", "Egyptian cat", 0.84),
        ("kitten.png", "image/png", "tabby, tabby cat", 0.92),
        ("banana.jpg", "image/jpeg", "banana", 1.00),
    ],
)
def test_a_photo_is_what_it_shows(
    platform: Platform, mobilenet: Model, photo: str, content_type: str, label: str, confidence: float
) -> None:
    platform.model = mobilenet
    (platform.root / "models" / "labels.txt").write_bytes(LABELS.read_bytes())
    content = (DATA / "photos" / photo).read_bytes()
    for declared in (content_type, None):
        status, answer = platform.ask(content, declared)
        assert (status, answer["label"]) == (200, label)
        assert answer["confidence"] == pytest.approx(confidence, abs=0.01)


@needs_data
@pytest.mark.parametrize(("photo", "steps"), [("cat.bmp", 0), ("kitten.png", 0), ("banana.jpg", 3)])
def test_a_photo_becomes_the_tensor_that_pillow_and_numpy_make(platform: Platform, photo: str, steps: int) -> None:
    """`steps`: how far off a sample of 256 levels may be. JPEG leaves rounding to the decoder (ITU-T T.81, A.3.3)."""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    content = DATA / "photos" / photo
    assert platform.ask(content.read_bytes(), None)[0] == 200
    expected = reference(np.asarray(image.open(content).convert("RGB")))
    levels = np.abs(platform.inputs[0] - expected) * DEVIATION[:, None, None] * 255
    assert levels.max() <= steps + 1e-3
