"""Write the golden vectors of cases that have none yet: `python -m arraycodec_conformance.vectors`."""

from __future__ import annotations

import argparse
import json
import re

from arraycodec.base import Then
from arraycodec.spec import spec_of
from arraycodec_conformance.cases import CASES, Case
from arraycodec_conformance.strategies import PATTERNS, Recipe
from arraycodec_conformance.vectors import FOLDER, entry

INPUTS = {
    "normal": Recipe((2, 128), "float32", "normal", 0, 1),
    "ragged-bf16": Recipe((3, 37), "bfloat16", "normal", -6, 2),
    "special-fp16": Recipe((160,), "float16", "sparse", 0, 3, tuple((9 * i, p) for i, p in enumerate(PATTERNS))),
    "thresholds": Recipe((256,), "float32", "thresholds", 0, 4),
}
LOSSLESS = {  # besides, for codecs that take other dtypes and look for more than ranges
    "weights-bf16": Recipe((24, 130), "bfloat16", "normal", -6, 5, ((77, 0x7FC00000), (999, 0x00000001))),
    "sparse-fp32": Recipe((40, 50), "float32", "sparse", -6, 6),
    "codes-int8": Recipe((2000,), "int8", "normal", 5, 7),
    "few-int32": Recipe((30, 64), "int32", "integers", 0, 8),
}


def main() -> None:
    """One file per case and input."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for case in CASES:
        for name, recipe in (INPUTS | LOSSLESS if case.codec.lossless else INPUTS).items():
            codec = case.codec.outer if isinstance(case.codec, Then) else case.codec
            text = str(case) if case.written is None else str(case).lower()  # names that are there stay as they are
            path = FOLDER / codec.name / f"{re.sub('[^a-z0-9]+', '-', text)}.{name}.json"
            if path.exists():
                print(f"kept     {path.relative_to(FOLDER)}")
                continue
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(vector(case, recipe), indent=1) + "\n")
            print(f"written  {path.relative_to(FOLDER)}")


def vector(case: Case, recipe: Recipe) -> dict[str, object]:
    """The vector of one case and input, computed by the reference."""
    x = recipe.array()
    given, inputs = case.encoding(x), case.inputs(x)
    planes = case.planes(x)
    return {
        "codec": case.codec.to_json(),
        **({"x": entry(x)} if case.written is None else {}),
        "given": {name: entry(plane) for name, plane in given.items()},
        "planes": {name: entry(plane) for name, plane in planes.items()},
        "decoded": entry(case.codec.decode(planes, spec_of(x), inputs)),
    }


if __name__ == "__main__":
    main()
