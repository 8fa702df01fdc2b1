"""The vectors of docs/format/frame.md and container.md: written to the byte, read back, refused by the right error."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.containers import checks
from arraycodec.containers.manifest import Source
from arraycodec.containers.writer import Writer
from tests.containers.support import assert_bits, everything, same

PAGES = Path(__file__).parents[2] / "docs" / "format"


def vectors(page: str) -> dict[str, list[tuple[str, str]]]:
    """Name -> lines (key, rest) of every block; lines that start with spaces continue the one before."""
    found: dict[str, list[tuple[str, str]]] = {}
    for block in re.findall(r"^```vector\n(.*?)^```$", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE):
        lines = re.sub(r"\n +", "", block).splitlines()
        (key, name), *rest = (tuple(line.split(" ", 1)) for line in lines)
        assert key == "name" and name not in found
        found[name] = rest
    return found


def array(text: str) -> np.ndarray:
    """`dtype[shape] hex` as an array, packed where the dtype is smaller than a byte."""
    spec_text, _, data = text.partition(" ")
    spec = checks.in_memory(checks.spec_of_text(spec_text, "vector"))
    return np.frombuffer(bytes.fromhex(data), spec.numpy_dtype).reshape(spec.known_shape)


def changed(lines: list[tuple[str, str]], pages: dict[str, list[tuple[str, str]]], key: str) -> bytes:
    """The bytes of a vector, its changes to another one applied."""
    data = b""
    for verb, rest in lines:
        if verb == "from":
            data = bytearray(changed(pages[rest], pages, key))
        elif verb == key:
            data = bytearray.fromhex(rest)
        elif verb == "set":
            at, new = int(rest.split()[0]), bytes.fromhex(rest.split()[1])
            data[at : at + len(new)] = new
        elif verb == "cut":
            del data[int(rest) :]
        elif verb == "append":
            data += bytes.fromhex(rest)
    return bytes(data)


FRAMES, CONTAINERS = vectors("frame.md"), vectors("container.md")


def test_there_are_enough():
    for page in (FRAMES, CONTAINERS):
        hostile = sum(any(key == "error" for key, _ in lines) for lines in page.values())
        assert hostile >= 6 and len(page) - hostile >= 6


@pytest.mark.parametrize("name", FRAMES)
def test_frame(name):
    lines = FRAMES[name]
    data = changed(lines, FRAMES, "frame")
    fields = dict(lines)
    if "error" in fields:
        with pytest.raises(ac.FormatError) as caught:
            ac.from_bytes(data)
        assert type(caught.value).__name__ == fields["error"]
        return
    codec = registry.from_json(json.loads(fields["codec"]))
    if "x" in fields:
        given = {rest.split(" ", 1)[0]: array(rest.split(" ", 1)[1]) for key, rest in lines if key == "given"}
        encoded = ac.encode(array(fields["x"]), codec, given=given)
    else:
        planes = {rest.split(" ", 1)[0]: array(rest.split(" ", 1)[1]) for key, rest in lines if key == "plane"}
        encoded = ac.Encoded(codec, checks.spec_of_text(fields["array"], "vector"), planes)
    assert ac.to_bytes(encoded).hex() == data.hex()
    same(ac.from_bytes(data), encoded)


@pytest.mark.parametrize("name", CONTAINERS)
def test_container(name, tmp_path):
    lines, path = CONTAINERS[name], tmp_path / "vector.safetensors"
    data = changed(lines, CONTAINERS, "file")
    fields = dict(lines)
    if "error" in fields:
        path.write_bytes(data)
        with pytest.raises(ac.FormatError) as caught:
            everything(path)
        assert type(caught.value).__name__ == fields["error"]
        return
    values, plan = {}, []
    for key, rest in lines:
        if key != "tensor":
            continue
        tensor, end = json.JSONDecoder().raw_decode(rest)
        kind, text, _ = re.fullmatch(r"(.+) (\w+\[[\d,]*\]( [0-9a-f]+)?)", rest[end + 1 :]).groups()
        spec, codec = checks.spec_of_text(text.partition(" ")[0], "vector"), None
        values[tensor] = array(text)
        if kind != "plain":
            codec = registry.from_json(json.loads(kind))
            values[tensor] = ac.encode(values[tensor], codec)
        plan.append((tensor, spec, codec))
    metadata = json.loads(fields.get("metadata", "{}"))
    source = None
    if "source" in fields:
        header, sha256 = fields["source"].rsplit(" ", 1)
        source = Source(header.encode(), sha256)
    with Writer(path, plan, metadata=metadata, source=source) as writer:
        for tensor in writer.order:
            writer.add(tensor, values[tensor])
    assert path.read_bytes().hex() == data.hex()
    with ac.open_file(path) as file:
        assert file.metadata == metadata and file.source == source and list(file) == list(writer.order)
        for tensor, spec, codec in plan:
            assert (file[tensor].spec, file[tensor].codec) == (spec, codec)
            if codec:
                same(file[tensor].encoded(), values[tensor])
            else:
                assert_bits(file[tensor].decode(), values[tensor])
