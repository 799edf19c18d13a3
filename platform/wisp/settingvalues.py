"""What may be written for a setting: each function makes a value of its text, and raises `ValueError` with what is
allowed where it cannot."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

MIN_OPERATOR_KEY = 32
MAX_OPERATOR_KEY = 512
SECRETS_KEY_BYTES = 32
MAX_BATCH_DELAY_S = 0.005

BINARY = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
SIZE = re.compile(r"(0|[1-9][0-9]{0,14})(Ki|Mi|Gi|Ti|)", re.ASCII)
TIME = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m)", re.ASCII)
TIME_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
BIND = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", re.ASCII)
WORDS = {"1": True, "true": True, "0": False, "false": False}


def to_boolean(text: str) -> bool:
    if text not in WORDS:
        raise ValueError("one of 1 true 0 false")
    return WORDS[text]


def to_size_bytes(text: str) -> int:
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a number of bytes, alone or followed by Ki Mi Gi Ti")
    return int(match[1]) * BINARY[match[2]]


def to_time_s(text: str) -> float:
    match = TIME.fullmatch(text)
    if match is None:
        raise ValueError("a whole number followed by ms, s or m")
    return int(match[1]) * TIME_UNITS_S[match[2]]


def to_batch_delay_s(text: str) -> float:
    value = to_time_s(text)
    if value > MAX_BATCH_DELAY_S:
        raise ValueError("0ms to 5ms")
    return value


def positive(parse: Callable[[str], float], rule: str) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        value = parse(text)
        if value <= 0:
            raise ValueError(rule)
        return value

    return parsed


def to_count(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,3}", text, re.ASCII) is None or int(text) > 1024:
        raise ValueError("a whole number from 1 to 1024")
    return int(text)


def to_count_or_none(text: str) -> int:
    return 0 if text == "0" else to_count(text)


def to_bind(text: str) -> str:
    match = BIND.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError("host:port, such as 127.0.0.1:8080 or [::1]:8080; port 0 takes a free one")
    return text


def to_word(*words: str) -> Callable[[str], str]:
    def parsed(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {' '.join(words)}")
        return text

    return parsed


def to_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("a path")
    return Path(text)


def to_url(text: str) -> str:
    try:
        scheme = urlsplit(text).scheme
    except ValueError:
        scheme = ""
    if not scheme:
        raise ValueError("a URL with its scheme")
    return text


def to_operator_key(text: str) -> str:
    sane = text.isascii() and text.isprintable() and " " not in text
    if not sane or not MIN_OPERATOR_KEY <= len(text) <= MAX_OPERATOR_KEY:
        raise ValueError(f"{MIN_OPERATOR_KEY} to {MAX_OPERATOR_KEY} printable ASCII characters without spaces")
    return text


def to_secrets_key(text: str) -> bytes:
    try:
        key = b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != SECRETS_KEY_BYTES:
        raise ValueError(f"{SECRETS_KEY_BYTES} bytes in base64, such as openssl rand -base64 32 prints")
    return key
