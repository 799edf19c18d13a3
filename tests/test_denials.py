"""Denials as events: what is kept, how it is counted, and that they come from real refusals."""

from __future__ import annotations

import pytest

from platforms import HANDLER_POLICY, TENANTS, Tenancy
from wat import answering
from wisp.denials import MAX_EVENTS, MAX_FUNCTIONS, Capability, Denials, capability_of
from wisp.names import RequestId, parse_function, parse_tenant
from wisp.node import Node
from wisp.server import gauges_of
from wisp.telemetry import Metrics
from wisp.wire.outcome import Denial, Outcome

ACME, SPY = parse_tenant("acme"), parse_function("spy")
LOAD = """(import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))"""
TRIES = """
  (i64.store (i32.const 100) (i64.const 0x746572636573))
  (drop (call $load (i32.const 100) (i32.const 6) (i32.const 200)))
"""
MODELS = b"models: [{name: digits, model: digits}]\n"


@pytest.mark.parametrize(
    ("allow", "capability"),
    [
        ("models: [{name: 'a', model: …}]", Capability.MODELS),
        ("files: [{mount: /a, from: scratch}]", Capability.FILES),
        ("allowed_outbound_hosts: ['https://a.org:443']", Capability.ALLOWED_OUTBOUND_HOSTS),
        ("whatever: a guest made of it", Capability.OTHER),
        ("", Capability.OTHER),
    ],
)
def test_labels_are_a_closed_set(allow: str, capability: Capability) -> None:
    assert capability_of(Denial(what="x", allow=allow)) is capability


def test_what_is_kept_is_bounded_and_forgotten_with_the_function() -> None:
    denials = Denials()
    for number in range(MAX_EVENTS + 5):
        denial = Denial(what=str(number), allow="models: []")
        denials.add(ACME, SPY, request_id=RequestId("r"), version=1, denial=denial)
    assert [event.denial.what for event in denials.events(ACME, SPY)][:2] == ["5", "6"]
    assert denials.counts["models"] == MAX_EVENTS + 5
    for number in range(MAX_FUNCTIONS):
        name = parse_function(f"f{number}")
        denials.add(ACME, name, request_id=RequestId("r"), version=1, denial=Denial(what="", allow=""))
    assert denials.events(ACME, SPY) == []
    denials.forget(ACME, parse_function("f1"))
    assert denials.events(ACME, parse_function("f1")) == []
    assert len(denials.events(ACME, parse_function("f2"))) == 1


@pytest.mark.parametrize(
    ("setting", "outcome"), [(b"trap", Outcome.CAPABILITY_DENIED), (b"errno", Outcome.OK)], ids=["trap", "errno"]
)
async def test_a_refusal_is_an_event_whether_it_traps_or_not(
    node: Node, acme: Tenancy, setting: bytes, outcome: Outcome
) -> None:
    await acme.push_model("digits", TENANTS / "acme" / "digits" / "digits.onnx")
    policy = HANDLER_POLICY + MODELS + b"on_violation: " + setting + b"\n"
    await acme.deploy("spy", answering(b"fine", work=TRIES, before=LOAD), policy)
    assert (await acme.call("spy")).outcome is outcome
    (event,) = node.denials.events(acme.name, SPY)
    assert (event.version, event.capability, event.denial.what) == (1, Capability.MODELS, "model 'secret'")
    assert event.denial.allow.startswith("models: [{name: 'secret'")
    line = node.tenantlog.lines(acme.name, SPY)[-1]
    assert str(event.denial) in line.text
    assert line.request_id == event.request_id
    metrics = Metrics()
    metrics.watch(lambda: gauges_of(node))
    exposed = metrics.exposition()[0].decode()
    assert 'wisp_denials_total{capability="models"} 1.0' in exposed
    assert exposed.count("wisp_denials_total{") == len(Capability)
