"""The strict parser: what Python's own accepts and we do not."""

import pytest

from arraycodec.containers import strict_json
from arraycodec.containers.checks import shown
from arraycodec.errors import FormatError, LimitError


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (b"", FormatError, "not JSON"),
        (b"{", FormatError, "not JSON"),
        (b'{"a":1} x', FormatError, "not JSON"),
        (b"\xef\xbb\xbf{}", FormatError, "BOM"),
        (b'{"a":"\xff"}', FormatError, "UTF-8"),
        (b'{"a":"\x00"}', FormatError, "not JSON"),
        (b"{}\x00", FormatError, "not JSON"),
        (b'{"a":1,"a":1}', FormatError, "twice"),
        (b'{"b":{"a":1,"\\u0061":2}}', FormatError, "twice"),
        (b"NaN", FormatError, "finite"),
        (b"-Infinity", FormatError, "finite"),
        (b"1e999", FormatError, "finite"),
        (b"0." + b"1" * 5000, FormatError, "short"),
        (b"9" * 5000, FormatError, "20 characters"),
        (b'"\\ud800"', FormatError, "surrogate"),
        (b'{"\\uDC00":1}', FormatError, "surrogate"),
        (b"[" * 40 + b"]" * 40, LimitError, "nested"),
        (b"[" * 100_000, LimitError, "nested"),
        (b'{"a":' * 100_000, LimitError, "nested"),
        (b'{"a":1,' + b'"":0,' * (1 << 23) + b'"b":1}', LimitError, "members"),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_refused(text, error, says):
    with pytest.raises(error, match=says):
        strict_json.loads(text, "x")


def test_accepted():
    value = {"a": [1, -2.5, True, None, "é\U0001f600"], "b": {}, "c": [[[]]]}
    assert strict_json.loads(strict_json.dumps(value), "x") == value
    assert strict_json.loads(strict_json.canonical(value), "x") == value
    assert strict_json.loads(b'"\\ud83d\\ude00"', "x") == "\U0001f600"
    assert strict_json.loads(b"[" * 32 + b"]" * 32, "x")
    assert strict_json.canonical({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'


def test_shown_prints_nothing_active():
    text = shown("a\x1b[2J\u202e\x00\x7f\n" + "é")
    assert text.isascii() and text.isprintable()
    assert len(shown("x" * 10**6)) < 200
