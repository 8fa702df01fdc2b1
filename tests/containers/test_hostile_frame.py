"""Frames that lie: every flip and prefix of a small one, and headers whose hash is right but whose content is not."""

import contextlib
import json
import struct
import time

import numpy as np
import pytest

import arraycodec as ac
from tests.containers.support import edited_frame, raises_format, rehashed, weights

DATA = ac.to_bytes(ac.encode(weights(9, 7), "nf4-double"))


def test_every_flipped_bit_is_found():
    assert 500 < len(DATA) < 2000
    for i in range(8 * len(DATA)):
        flipped = bytearray(DATA)
        flipped[i // 8] ^= 1 << i % 8
        raises_format(ac.from_bytes, bytes(flipped))


def test_every_prefix_and_suffix_is_refused():
    for length in range(len(DATA)):
        raises_format(ac.from_bytes, DATA[:length])
    for extra in (b"\0", b"\0" * 64, DATA, b"x" * 1000):
        raises_format(ac.from_bytes, DATA + extra)


def test_other_files():
    for other in (b"", b"GGUF" + bytes(100), b"PK\x03\x04" + bytes(100), b"\x80\x04" + bytes(100), b"<html>" * 20):
        raises_format(ac.from_bytes, other)


def front(version=1, features=0, length=None, chunks=None):
    old = struct.unpack_from("<4sHHII", DATA)
    head = struct.pack("<4sHHII", old[0], version, features, old[3] if length is None else length,
                       old[4] if chunks is None else chunks)  # fmt: skip
    start = -(-(24 + old[3] + 8 * old[4]) // 64) * 64
    return rehashed(head + DATA[16:24] + DATA[24:start], DATA)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, None),
        ({"version": 2}, ac.VersionError),
        ({"version": 65535}, ac.VersionError),
        ({"version": 0}, ac.CorruptError),
        ({"features": 1}, ac.VersionError),
        ({"features": 0x8000}, ac.VersionError),
        ({"length": 0}, ac.FormatError),
        ({"length": 8}, ac.FormatError),
        ({"length": 2**20 + 8}, ac.LimitError),
        ({"length": 2**31}, ac.LimitError),
        ({"length": 2**32 - 8}, ac.LimitError),
        ({"chunks": 0}, ac.CorruptError),
        ({"chunks": 1}, ac.CorruptError),
        ({"chunks": 2**31}, ac.CorruptError),
        ({"chunks": 2**32 - 1}, ac.CorruptError),
    ],
    ids=str,
)
def test_front(fields, error):
    if error is None:
        assert ac.from_bytes(front(**fields))
    else:
        with pytest.raises(error):
            ac.from_bytes(front(**fields))


def setting(**members):
    return lambda data: data | members


def codec_with(**params):
    return lambda data: data | {"codec": data["codec"] | {"outer": data["codec"]["outer"] | params}}


def plane(index, text):
    return lambda data: data | {"planes": [text if i == index else p for i, p in enumerate(data["planes"])]}


DEEP: dict = {"name": "then", "outer": {"name": "codebook"}, "parts": {}}
for _ in range(200):
    DEEP = {"name": "then", "outer": DEEP, "parts": {}}


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: b"[]",
        lambda data: b"null",
        lambda data: b"{}",
        lambda data: b"\xff" * 16,
        lambda data: json.dumps(data).replace('"array"', '"array":"float32[9,7]","array"').encode(),
        setting(array="float32[9,8]"),
        setting(array="float64[9,7]"),
        setting(array="float4_e2m1fn[9,8]"),
        setting(array="float32[-9,7]"),
        setting(array="float32[09,7]"),
        setting(array="float32[9.0,7]"),
        setting(array="float32[9, 7]"),
        setting(array="float32[99999999999999999999999]"),
        setting(array=f"float32[{2**62},0]"),
        setting(array=f"float32[{2**32},{2**32}]"),
        setting(array=f"float32[{','.join('1' * 65)}]"),
        setting(array="float32"),
        setting(array="object[9,7]"),
        setting(array=None),
        setting(array=["float32", [9, 7]]),
        setting(planes=[]),
        setting(planes={}),
        setting(planes=[1]),
        setting(planes=["codes"]),
        setting(planes=None),
        lambda data: data | {"planes": data["planes"] + data["planes"][:1]},
        lambda data: data | {"planes": [*data["planes"], "more uint8[0]"]},
        lambda data: data | {"planes": data["planes"][::-1]},
        lambda data: data | {"planes": [p.replace("[", "[1,") if i else p for i, p in enumerate(data["planes"])]},
        plane(0, "codes int8[32]"),
        plane(0, "codes uint8[31]"),
        plane(0, "codes uint8[33]"),
        plane(0, "codes uint8[4,8]"),
        plane(0, f"codes uint8[{2**48}]"),
        plane(0, f"codes uint8[{2**63 - 1}]"),
        plane(0, "\x1b[2J uint8[32]"),
        setting(codec=None),
        setting(codec=[]),
        setting(codec={}),
        setting(codec={"name": 1}),
        setting(codec={"name": "codebook", "table": ["nf4"]}),
        setting(codec={"name": "codebook", "zz": 1}),
        setting(codec={"name": "then"}),
        setting(codec={"name": "then", "outer": {"name": "codebook"}, "parts": {}}),
        setting(codec={"name": "then", "outer": {"name": "codebook"}, "parts": {"zz": {"name": "codebook"}}}),
        setting(codec=DEEP),
        codec_with(block_size=0),
        codec_with(block_size=-1),
        codec_with(block_size=True),
        codec_with(block_size=64.0),
        codec_with(block_size="64"),
        codec_with(block_size=8),
        codec_with(table="../nf4"),
        codec_with(offset=1),
    ],
)
def test_lying_header_with_a_right_hash(edit):
    started = time.perf_counter()
    raises_format(ac.from_bytes, edited_frame(DATA, edit))
    assert time.perf_counter() - started < 1


def test_unknown_codec_needs_a_newer_version():
    for name in ("no-such-codec", "os.system", "/tmp/x.py:Codec", "../../x"):
        with pytest.raises(ac.VersionError):
            ac.from_bytes(edited_frame(DATA, setting(codec={"name": name})))


def test_unknown_members_are_left_alone():
    assert ac.from_bytes(edited_frame(DATA, setting(later=[1, 2])))


def test_padding_must_be_zero_even_where_no_hash_covers_it():
    data = bytearray(DATA)
    data[-1] = 1  # after the last plane, `absmax.offset`, one float32
    with pytest.raises(ac.CorruptError, match="padding"):
        ac.from_bytes(bytes(data))
    with pytest.raises(ac.CorruptError, match="padding"):
        ac.from_bytes(bytes(data), verify=False)


def test_codec_rules_are_checked():
    table = np.linspace(-1, 1, 16, dtype=np.float32)
    enc = ac.encode(weights(4, 64), ac.Codebook("user4"), given={"codebook": table})
    bad = ac.Encoded(enc.codec, enc.spec, enc.planes | {"codebook": table[::-1].copy()})
    with pytest.raises(ac.CorruptError, match="rising"):
        ac.from_bytes(ac.to_bytes(bad))
    assert ac.from_bytes(ac.to_bytes(bad), verify=False)


def test_many_empty_arrays_are_no_endless_loop():
    enc = ac.encode(weights(0), "nf4")
    count = 2**40
    planes = [f"{name} {p.dtype}[{count},{','.join(map(str, p.shape))}]" for name, p in enc.planes.items()]
    with pytest.raises(ac.LimitError, match="arrays"):
        ac.from_bytes(edited_frame(ac.to_bytes(enc), setting(planes=planes)))


def test_random_damage_of_header_fields():
    rng = np.random.default_rng(0)
    text = DATA[24 : 24 + struct.unpack_from("<I", DATA, 8)[0]]
    for _ in range(1500):
        changed = bytearray(text)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(text))] = rng.choice(list(b'0123456789[]{}",:. -abexn\x00\xff'))
        with contextlib.suppress(ac.FormatError):
            ac.from_bytes(edited_frame(DATA, lambda _, changed=changed: bytes(changed)))
