from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wisp.inference.reasons import plain, quote
from wisp.wire.admissions import MAX_REASON_CHARS


def test_onnxruntime_s_preface_and_paths_go() -> None:
    raised = (
        "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from /proc/self/fd/5 failed:This is an invalid model."
    )
    assert plain(raised) == "This is an invalid model."
    raised = "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:182 Opset 99 is unknown"
    assert plain(raised) == "Opset 99 is unknown"


def test_names_are_escaped_and_bounded() -> None:
    assert quote('a"\x1b[2J') == '"a"\\x1b[2J"'
    assert len(quote("n" * 10_000)) < 100


@given(st.text(max_size=3000))
def test_any_text_becomes_one_short_printable_line(text: str) -> None:
    said = plain(text)
    assert len(said) <= MAX_REASON_CHARS
    assert said.isascii()
    assert said.isprintable()
