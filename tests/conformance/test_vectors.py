"""The golden vectors: there is one of every case, and the kernels reproduce them in plain Python too."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from arraycodec.registry import from_json
from arraycodec_conformance.cases import CASES
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.vectors import entry, load

PLAIN = """
import sys
import numba
from arraycodec_conformance import vectors as v
from arraycodec.registry import from_json
from arraycodec.spec import spec_of

assert numba.config.DISABLE_JIT
for path, test in v.load():
    if test["decoded"]["dtype"] == "float32" and "normal" not in path:
        continue
    codec, x = from_json(test["codec"]), v.array(test["x"] if "x" in test else test["decoded"])
    given, planes = v.arrays(test["given"]), v.arrays(test["planes"])
    books = {}
    if codec.trained and sys.argv[1] == "known" and getattr(codec, "states", 8) == 8:
        books = {name: plane for name, plane in planes.items() if name == "codebook" and name not in codec.computed}
    if "x" in test and (books or not codec.trained or sys.argv[1] == "trained"):
        planes = codec.encode(x, given | books)
    assert {name: v.entry(plane) for name, plane in planes.items()} == test["planes"], path
    assert v.entry(codec.decode(planes, spec_of(x), given)) == test["decoded"], path
print("plain")
"""


def test_kernels_give_the_same_bits_as_plain_python(level: Level) -> None:
    """The kernels are the page's pseudo-code: run uncompiled, they reproduce the golden vectors.

    Training, and searching 64 or 256 states, is for level full: at others the codebooks of the vectors are given.
    """
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN, "trained" if level >= Level.full else "known"],
        capture_output=True, text=True, check=False,
        env={"NUMBA_DISABLE_JIT": "1", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert run.stdout.strip() == "plain", run.stderr[-2000:]


def test_golden_vectors_cover_every_case() -> None:
    # of parameters that are younger than a vector the default is meant
    covered = {json.dumps([from_json(v["codec"]).to_json(), sorted(v["given"])]) for _, v in load()}
    for case in CASES:
        given = sorted(case.encoding(np.ones((1, 4), np.float32)))
        assert json.dumps([case.codec.to_json(), given]) in covered, f"no golden vector for {case}"
    assert entry(np.zeros(1, np.uint8)) == {"dtype": "uint8", "shape": [1], "hex": "00"}
