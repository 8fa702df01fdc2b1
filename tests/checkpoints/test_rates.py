"""Rate and distortion: what is measured, the table, and what the picture holds."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.checkpoints import bench as bench_module
from arraycodec.checkpoints import rates as rates_module
from arraycodec.checkpoints.rates import DB_PER_BIT, Rate, frontier, rates
from tests.checkpoints.support import model, normal, write

POINTS = [Rate("nf4", 4.5, 20.8), Rate("tcq4", 4.1, 22.2), Rate("dq4", 4.0, 24.5), Rate("pqr-local", 16.0, 46.1),
          Rate("lossless", 10.6, math.inf), Rate("nf4-double", 4.1, 22.2)]  # fmt: skip


def test_bits_and_snr_are_of_all_matrices_together(tmp_path):
    x = {"a": normal(96, 128), "b": normal(40, 192, seed=1) * np.float32(7), "bias": normal(4096, seed=2)}
    found = rates(write(tmp_path / "m.safetensors", x), ["lut4", "nf4", "lossless", "dq2"])
    assert (found.source, found.matrices, found.elements) == ("m.safetensors", 2, 96 * 128 + 40 * 192)
    assert found.command == "arraycodec bench m.safetensors --schemes lut4,nf4,lossless,dq2 --rates DIR"
    assert [rate.bits for rate in found.rates] == sorted(rate.bits for rate in found.rates) and not found.notes
    for rate in found.rates:
        pairs = [(x[name], ac.encode(x[name], rate.scheme)) for name in ("a", "b")]
        assert rate.bits == 8 * sum(encoded.nbytes for _, encoded in pairs) / found.elements
        errors = [a.astype(np.float64) - ac.decode(encoded) for a, encoded in pairs]
        noise, power = (sum(float((e.astype(np.float64) ** 2).sum()) for e in y) for y in (errors, (x["a"], x["b"])))
        assert rate.snr_db == (pytest.approx(10 * math.log10(power / noise), abs=1e-6) if noise else math.inf)
        assert rate.below_bound == DB_PER_BIT * rate.bits - rate.snr_db
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {row["scheme"]: row["snr_db"] for row in data["rates"]}["lossless"] is None


def test_what_is_not_measured_is_told(tmp_path, monkeypatch):
    file = write(tmp_path / "m.safetensors", {"a": normal(64, 64), "b": normal(64, 66)})
    with pytest.raises(ac.ArgumentError, match=r"e\.safetensors: no matrices of float32, bfloat16, float16"):
        rates(write(tmp_path / "e.safetensors", {"ids": np.arange(9), "bias": normal(4096)}))
    with pytest.raises(ac.ArgumentError, match="none"):
        rates(file, ["none"])
    with monkeypatch.context() as patch:
        patch.setattr(bench_module, "FILE_LIMIT", 64 * 65)
        assert rates(file, ["nf4"]).notes == ("1 matrices of the file: only 4,160 weights are measured",)
    monkeypatch.setattr(rates_module, "takes", lambda codec, array: codec.name != "lut" or array.shape[1] == 64)
    found = rates(file, ["nf4", "lut4"])
    assert [rate.scheme for rate in found.rates] == ["nf4"]
    assert found.notes == ("lut4 does not take 1 of the 2 matrices",)
    with pytest.raises(ac.ArgumentError, match="nothing to measure: lut4 does not take 1"):
        rates(file, ["lut4"])


def test_what_a_checkpoint_is_called(tmp_path):
    (tmp_path / "tiny").mkdir()
    file = write(tmp_path / "tiny" / "model.safetensors", {"a": normal(64, 64)})
    assert [rates(path, ["nf4"]).source for path in (file, file.parent)] == ["tiny/model.safetensors", "tiny"]


def test_names_of_one_codec_are_one_measurement(tmp_path):
    said = []
    found = rates(write(tmp_path / "m.safetensors", model()), ["fp8", "float8_e4m3fn"], say=said.append)
    assert said == ["fp8"] and {rate.scheme for rate in found.rates} == {"fp8", "float8_e4m3fn"}
    assert len({(rate.bits, rate.snr_db) for rate in found.rates}) == 1 and len(found.dtypes) == 3


def test_frontier():
    assert [rate.scheme for rate in frontier(POINTS)] == ["dq4", "lossless"] and frontier([]) == []
    assert [rate.scheme for rate in frontier(POINTS[:4])] == ["dq4", "pqr-local"]


@pytest.fixture
def page():
    pytest.importorskip("matplotlib")
    from arraycodec.checkpoints import rates_page

    return rates_page


def test_the_table(page):
    assert page.table(POINTS[:5]).splitlines() == [
        "| scheme | bits per weight | SNR [dB] | to the bound [dB] |",
        "|---|---:|---:|---:|",
        "| **`dq4`** | 4.0000 | 24.50 | -0.42 |",
        "| `tcq4` | 4.1000 | 22.20 | 2.48 |",
        "| `nf4` | 4.5000 | 20.80 | 6.29 |",
        "| **`lossless`** | 10.6000 | exact |  |",
        "| `pqr-local` | 16.0000 | 46.10 | 50.23 |",
    ]


def test_the_picture_has_the_bound_and_every_scheme(page, tmp_path):
    found = rates(write(tmp_path / "m.safetensors", {"a": normal(16, 128)}), ["nf4"])
    every = [Rate(name, 2.0 + index * 0.15, math.inf if codec.lossless else 11.0 + 0.7 * index)
             for index, (name, codec) in enumerate(registry.SCHEMES.items())]  # fmt: skip
    figure = page.figure(replace(found, rates=tuple(every)))
    snr, bound = figure.axes
    for axes, slope in ((snr, DB_PER_BIT), (bound, 0.0)):
        (line,) = (line for line in axes.get_lines() if line.get_label() == "_bound")
        assert [y for _, y in line.get_xydata()] == [slope * x for x, _ in line.get_xydata()]
        assert any("Gaussian bound, 6.02 dB a bit" in text.get_text() for text in axes.texts)
        drawn = {tuple(at) for points in axes.collections for at in points.get_offsets().tolist()}
        for rate in every:
            if rate.snr_db < math.inf:
                y = rate.snr_db if slope else max(-rate.below_bound, -28.0)
                assert any(math.dist(at, (min(rate.bits, 10.0), y)) < 1e-9 for at in drawn), rate.scheme
    named = {word.split(" ")[0] for text in bound.texts for word in text.get_text().replace("\n", ", ").split(", ")}
    assert {rate.scheme for rate in every} <= named
    written = page.write(found, tmp_path)
    assert [path.name for path in written] == ["rate_distortion.md", "rate_distortion.png"]
    assert written[1].read_bytes().startswith(b"\x89PNG") and "| **`nf4`** | 4.5" in written[0].read_text("utf-8")


def test_families_look_different():
    pytest.importorskip("matplotlib")
    from arraycodec.checkpoints.rate_plot import family, styles

    assert len(set(styles().values())) == len(styles()) >= len({family(scheme) for scheme in registry.SCHEMES})
