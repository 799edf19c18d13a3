"""tenants/globex/classify as its users have it: over HTTP, with a real model, its labels and its log."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest

from platforms import REPOSITORY, TENANTS
from served import Connection, Reply, Served, connected, served_platform

FUNCTION = TENANTS / "globex" / "classify"
DIGITS = TENANTS / "acme" / "digits" / "samples"
RAW = REPOSITORY / "tests" / "guests" / "nnraw" / "module.wasm"
CLIENTS, REQUESTS = 16, 240
URL = "/v1/tenants/globex/functions"
PHOTOS = {
    "cat.bmp": ("image/bmp", "Egyptian cat"),
    "kitten.png": ("image/png", "tabby, tabby cat"),
    "banana.jpg": ("image/jpeg", "banana"),
}
Part = tuple[str, tuple[str, bytes]]


def parts(policy: bytes | None = None, *files: tuple[str, bytes]) -> list[Part]:
    """An upload of classify."""
    text = (FUNCTION / "policy.yaml").read_bytes() if policy is None else policy
    found: list[Part] = [
        ("module", ("module.wasm", (FUNCTION / "module.wasm").read_bytes())),
        ("policy", ("policy.yaml", text)),
    ]
    return found + [("file", file) for file in files]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Served]:
    """A platform with the example tenants, the models of the shared data, `globex/classify` and `acme/mnist`."""
    with served_platform(tmp_path_factory.mktemp("classify"), "--dev") as started:
        started.wait_for("globex/hello")
        labels = (shared_data / "mobilenetv2" / "imagenet_labels.txt").read_bytes()
        with client(started, "globex") as globex:
            globex.put(
                "/v1/tenants/globex/models/mobilenet", content=(shared_data / "mobilenetv2/model.onnx").read_bytes()
            )
            answer = globex.put(f"{URL}/classify", files=parts(None, ("labels.txt", labels)))
            assert (answer.status_code, answer.json()["warnings"]) == (201, []), answer.text
        with client(started, "acme") as acme:
            acme.put("/v1/tenants/acme/models/mnist", content=(shared_data / "mnist-8/model.onnx").read_bytes())
            policy = b"wisp: 1\nabi: handler\nmodels: [{name: mnist, model: mnist}]\n"
            answer = acme.put(
                "/v1/tenants/acme/functions/mnist",
                files={"module": RAW.read_bytes(), "policy": policy},
            )
            assert answer.status_code == 201, answer.text
        yield started


def client(served: Served, tenant: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {served.key(tenant)}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{served.port}", headers=headers, timeout=60)


@pytest.fixture
def globex(served: Served) -> Iterator[httpx.Client]:
    with client(served, "globex") as one:
        yield one


def classify(globex: httpx.Client, body: bytes, kind: str | None, function: str = "classify") -> httpx.Response:
    return globex.post(f"/t/globex/{function}", content=body, headers={} if kind is None else {"content-type": kind})


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_photo_is_what_it_shows(globex: httpx.Client, shared_data: Path, photo: str) -> None:
    kind, label = PHOTOS[photo]
    for declared in (kind, "application/octet-stream"):
        answer = classify(globex, (shared_data / "photos" / photo).read_bytes(), declared)
        assert (answer.status_code, answer.headers["wisp-outcome"]) == (200, "ok"), answer.text
        assert answer.json().keys() == {"label", "confidence", "latency_ms"}
        assert answer.json()["label"] == label
        assert answer.json()["confidence"] > 0.8


def rgba_of(bmp: bytes) -> tuple[bytes, int, int]:
    """Pixels, width and height of an uncompressed BMP of 24 bits (its rows run upward, in BGR)."""
    start, width, height = (int.from_bytes(bmp[at : at + 4], "little") for at in (10, 18, 22))
    stride = (3 * width + 3) // 4 * 4
    rows = np.frombuffer(bmp, np.uint8, stride * height, start).reshape(height, stride)[::-1, : 3 * width]
    rgb = rows.reshape(height, width, 3)[:, :, ::-1]
    opaque = np.full((height, width, 1), 255, np.uint8)
    return np.concatenate([rgb, opaque], axis=2).tobytes(), width, height


@pytest.mark.parametrize("as_array", [False, True])
def test_pixels_in_json_are_read_like_the_file(globex: httpx.Client, shared_data: Path, as_array: bool) -> None:
    bmp = (shared_data / "photos" / "cat.bmp").read_bytes()
    pixels, width, height = rgba_of(bmp)
    data: object = list(pixels) if as_array else base64.b64encode(pixels).decode()
    body = json.dumps({"image_data": data, "width": width, "height": height}).encode()
    answer = classify(globex, body, "application/json")
    assert answer.status_code == 200, answer.text
    of_file = classify(globex, bmp, "image/bmp").json()
    assert (answer.json()["label"], answer.json()["confidence"]) == (of_file["label"], of_file["confidence"])


def test_what_is_no_picture_gets_the_guests_own_answer(globex: httpx.Client) -> None:
    for sample in json.loads((FUNCTION / "samples" / "requests.json").read_text()):
        file = sample.get("file")
        body = sample.get("body", "").encode() if file is None else (FUNCTION / "samples" / file).read_bytes()
        answer = globex.request(sample["method"], "/t/globex/classify", content=body, headers=sample["headers"])
        assert (answer.status_code, answer.json()) == (sample["expect"]["status"], sample["expect"]["json"])
        assert answer.headers["wisp-outcome"] == "ok"
        assert "wisp-error" not in answer.headers


def test_a_request_leaves_its_line_in_the_functions_log(globex: httpx.Client, shared_data: Path) -> None:
    answer = classify(globex, (shared_data / "photos" / "banana.jpg").read_bytes(), "image/jpeg")
    lines = [json.loads(line) for line in globex.get(f"{URL}/classify/logs").text.splitlines()]
    (mine,) = [line for line in lines if line["request_id"] == answer.headers["wisp-request-id"]]
    assert mine["stream"] == "log"
    assert mine["text"].startswith(f"banana {answer.json()['confidence']:.4f} from jpeg ")


WITHOUT_FILES = b"".join(
    line
    for line in (FUNCTION / "policy.yaml").read_bytes().splitlines(keepends=True)
    if b"mount" not in line and b"files:" not in line
)


@pytest.mark.parametrize(
    ("policy", "status", "outcome"),
    [
        pytest.param((FUNCTION / "policy.yaml").read_bytes(), 500, "ok", id="a file that is granted and not there"),
        pytest.param(WITHOUT_FILES, 500, "capability_denied", id="no grant"),
        pytest.param(WITHOUT_FILES + b"on_violation: errno\n", 500, "ok", id="no grant, told by errno"),
    ],
)
def test_without_its_labels_it_ends_as_its_policy_says(
    globex: httpx.Client, shared_data: Path, policy: bytes, status: int, outcome: str
) -> None:
    assert globex.put(f"{URL}/bare", files=parts(policy)).status_code in (200, 201)
    answer = classify(globex, (shared_data / "photos" / "banana.jpg").read_bytes(), None, "bare")
    assert (answer.status_code, answer.headers["wisp-outcome"]) == (status, outcome)
    told = globex.get(f"{URL}/bare/logs").text
    if outcome == "ok":
        assert answer.json() == {"error": "the function is not set up as it should be; its log says more"}
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert "/models" in told
        assert "files:" in told


class Mix:
    """Requests to three functions of two tenants; each answer is judged by its content."""

    def __init__(self, served: Served, data: Path) -> None:
        self.acme, self.globex = served.key("acme"), served.key("globex")
        self.photos = [((data / "photos" / name).read_bytes(), label) for name, (_, label) in PHOTOS.items()]
        right = {
            name: label for name, label in json.loads((DIGITS / "labels.json").read_text()).items() if name != "6-b.png"
        }
        self.digits = [((DIGITS / name).read_bytes(), label) for name, label in sorted(right.items())]
        self.mnist = [
            tuple(
                onnx.numpy_helper.to_array(onnx.load_tensor(str(folder / name))).astype(np.float32)
                for name in ("input_0.pb", "output_0.pb")
            )
            for folder in sorted((data / "mnist-8").glob("test_data_set_*"))
        ]

    async def ask(self, connection: Connection, number: int) -> bool:
        turn, which = number % 3, number // 3
        if turn == 0:
            photo, name = self.photos[which % len(self.photos)]
            reply = await self._post(connection, "/t/globex/classify", self.globex, photo)
            return reply.status == 200 and reply.json()["label"] == name
        if turn == 1:
            png, label = self.digits[which % len(self.digits)]
            reply = await self._post(connection, "/t/acme/digits", self.acme, png)
            return reply.status == 200 and reply.json()["label"] == label
        pixels, expected = self.mnist[which % len(self.mnist)]
        reply = await self._post(connection, "/t/acme/mnist", self.acme, pixels.tobytes())
        return reply.status == 200 and np.allclose(np.frombuffer(reply.body, np.float32), expected[0], atol=1e-3)

    async def _post(self, connection: Connection, url: str, key: str, body: bytes) -> Reply:
        """Asks again where a busy machine made it wait too long: that is no answer."""
        while True:
            reply = await connection.request("POST", url, key=key, body=body)
            if reply.error != "queue_timeout":
                return reply


async def test_sixteen_clients_that_mix_three_models_get_only_right_answers(served: Served, shared_data: Path) -> None:
    mix, numbers, wrong = Mix(served, shared_data), itertools.count(), []

    async def one() -> None:
        async with connected(served.port) as connection:
            while (number := next(numbers)) < REQUESTS:
                if not await mix.ask(connection, number):
                    wrong.append(number)

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(one())
    assert wrong == []
    assert next(numbers) >= REQUESTS
