"""The pages are part of the library: their vectors and examples run, no codec lacks its page, case, vectors or test.

Vectors of docs/format/*.md run here on every backend (those of frame.md and container.md in
tests/containers/test_format_pages.py), Python blocks of README.md and docs/ once, in the page's order.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import arraycodec
from arraycodec import registry
from arraycodec.base import Codec, Then
from arraycodec.primitives.formats import FORMATS
from arraycodec_conformance import vectors as golden
from arraycodec_conformance.cases import CASES

ROOT = Path(__file__).parents[1]
# Pages about files: their vectors are bytes of these, not arrays.
ELSEWHERE = {  # what these tell of are files, not arrays
    "awq.md", "bitsandbytes.md", "block_fp8.md", "compressed_tensors.md", "container.md", "frame.md", "gptq.md",
    "marlin_24.md", "modelopt.md", "sparse_bitmask.md",
}  # fmt: skip
SECTIONS = (
    "Parameters", "Planes", "Encoding", "Decoding", "Edge cases", "Compatibility", "Vectors", "Version history",
    "Errata",
)  # fmt: skip
MIN_VECTORS = 6

Call = Callable[[list[str]], list[str]]  # the words of a function's arguments -> those of its results


def _script(name: str) -> ModuleType:
    """A module of the folder docs, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = _script("vectors")
generate = _script("generate")
FORMAT_PAGES = [page for page in sorted((ROOT / "docs/format").glob("*.md")) if page.name not in ELSEWHERE]


# -- vectors


def _torch_functions() -> dict[str, Call]:
    import torch

    from arraycodec_torch import casts, codebook, scales
    from arraycodec_torch import primitives as p

    def bits(arguments: list[str]) -> torch.Tensor:
        return torch.from_numpy(pages.uint32(arguments).view(np.int32))

    def of_bits(function: Callable[[torch.Tensor], torch.Tensor], out: Any = np.uint32) -> Call:
        return lambda arguments: pages.words(function(bits(arguments)).reshape(-1).numpy().astype(out))

    def small(format: str) -> Call:
        return of_bits(lambda b: casts.float32_to_small(b, FORMATS[format].casting()), np.uint8)

    def widened(dtype: torch.dtype) -> Call:
        return of_bits(lambda b: p.widen(b.to(torch.int16).view(dtype)))

    def mul_add(arguments: list[str]) -> list[str]:
        u = p.flushed(p.as_bits(p.mul_add(*p.as_float(bits(arguments)).split(1))))
        return pages.words(torch.where((u & p.MAGNITUDE) > p.INFINITY, p.NAN, u).numpy())

    return {
        "recip_rn": of_bits(p.recip_rn),
        "div_rn": of_bits(lambda b: p.as_bits(p.as_float(b[:1]) / p.as_float(b[1:]))),
        "flushed": of_bits(p.flushed),
        "bfloat16_to_float32": widened(torch.bfloat16),
        "half_to_float32": widened(torch.float16),
        "float32_to_bfloat16": of_bits(lambda b: p.float32_to_bfloat16(b) & 0xFFFF, np.uint16),
        "float32_to_half": of_bits(lambda b: p.float32_to_half(b) & 0xFFFF, np.uint16),
        "float32_to_e4m3fn": small("float8_e4m3fn"),
        "float32_to_e5m2fnuz": small("float8_e5m2fnuz"),
        "float32_to_e3m2fn": small("float6_e3m2fn"),
        "stored_scale": of_bits(lambda b: scales.stored_scale((p.flushed(b) & p.MAGNITUDE).amax())),
        "used_scale": of_bits(lambda b: p.as_bits(scales.used_scale(p.as_float(b)))),
        "scaled": of_bits(lambda b: p.as_bits(scales.scale_run(b[None, :-1], b[None, -1:]))),
        "mul_add": mul_add,
        "tree_sum": of_bits(lambda b: p.as_bits(p.tree_sum(p.as_float(b)))),
        "mean": of_bits(lambda b: p.as_bits(codebook.mean(p.as_float(p.flushed(b))))),
    }


def _jax_functions() -> dict[str, Call]:
    import jax
    import jax.numpy as jnp
    from jax import lax

    from arraycodec_jax import casts, codebook, scales
    from arraycodec_jax import primitives as p

    def of_bits(function: Callable[[Any], Any]) -> Call:
        compiled = jax.jit(function)
        return lambda arguments: pages.words(np.asarray(compiled(pages.uint32(arguments))))

    def small(format: str) -> Call:
        return of_bits(lambda b: casts.float32_to_small(b, FORMATS[format].casting()))

    def narrowed(dtype: str) -> Call:
        return of_bits(lambda b: lax.bitcast_convert_type(p.narrow(b, dtype), jnp.uint16))

    def widened(dtype: Any) -> Call:
        return of_bits(lambda b: p.widen(lax.bitcast_convert_type(b.astype(jnp.uint16), dtype)))

    def mul_add(b: Any) -> Any:
        u = p.flushed(p.as_bits(p.mul_add(*p.as_float(b))))
        return jnp.where(p.is_nan(u), codebook.NAN, u)

    return {
        "recip_rn": of_bits(p.recip_rn),
        "div_rn": of_bits(lambda b: p.div_rn(b[:1], b[1:])),
        "flushed": of_bits(p.flushed),
        "bfloat16_to_float32": widened(jnp.bfloat16),
        "half_to_float32": widened(jnp.float16),
        "float32_to_bfloat16": narrowed("bfloat16"),
        "float32_to_half": narrowed("float16"),
        "float32_to_e4m3fn": small("float8_e4m3fn"),
        "float32_to_e5m2fnuz": small("float8_e5m2fnuz"),
        "float32_to_e3m2fn": small("float6_e3m2fn"),
        "stored_scale": of_bits(lambda b: scales.stored_scale(scales.largest(p.flushed(b), None))),
        "used_scale": of_bits(scales.used_scale),
        "scaled": of_bits(lambda b: p.as_bits(scales.scale_run(b[:-1], b[-1:]))),
        "mul_add": of_bits(mul_add),
        "tree_sum": of_bits(lambda b: p.as_bits(p.tree_sum(p.as_float(b)))),
        "mean": of_bits(lambda b: p.as_bits(codebook.mean(p.as_float(p.flushed(b))))),
    }


# How each backend runs a vector: its package, one of its implementations, the functions of arithmetic.md.
BACKENDS: dict[str, tuple[str, str, Callable[[], dict[str, Call]] | None]] = {
    "numpy": ("arraycodec.reference", "reference", pages.reference),
    "toy": ("arraycodec_toy", "plain", None),  # an independent witness; it shares the reference's functions
    "torch": ("arraycodec_torch", "torch", _torch_functions),
    "jax": ("arraycodec_jax", "jit", _jax_functions),
}


@cache
def _backend(name: str) -> tuple[Any, Any, dict[str, Call]]:
    package, implementation, functions = BACKENDS[name]
    module = importlib.import_module(package)
    return module, module.IMPLEMENTATIONS[implementation], functions() if functions else {}


def _vectors() -> Iterator[Any]:
    for page in FORMAT_PAGES:
        for vector in pages.vectors(page):
            for name in BACKENDS:
                if isinstance(vector, pages.CodecVector):
                    known = name != "jax" or vector.spec.numpy_dtype.itemsize <= 4  # unless it is told, JAX has no more
                else:
                    known = name != "toy"
                if known:
                    yield pytest.param(vector, name, id=f"{vector.where}-{name}")


@pytest.mark.parametrize(("vector", "name"), list(_vectors()))
def test_vector(vector: Any, name: str) -> None:
    if name in ("torch", "jax"):
        pytest.importorskip(name)
    module, implementation, functions = _backend(name)
    if isinstance(vector, pages.FunctionVector):
        vector.run(functions)
        return
    # No trace knows the length of every plane, and not every codec can be traced.
    if name == "jax" and not (vector.codec.fixed_size(vector.spec) and _names(vector.codec) <= set(module.CODECS)):
        implementation = module.IMPLEMENTATIONS["reference"]
    vector.run(implementation, module.from_numpy, module.to_numpy)
    if name == "numpy":
        vector.run_reads()


@pytest.mark.parametrize("page", FORMAT_PAGES, ids=lambda page: page.name)
def test_format_page_has_vectors(page: Path) -> None:
    count = sum(1 for _ in pages.vectors(page))
    assert count >= MIN_VECTORS, f"{page.name}: must have at least {MIN_VECTORS} vectors, has {count}"


# -- examples


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(arraycodec.__path__, "arraycodec.")
    if ">>> " in Path(str(importlib.util.find_spec(module.name).origin)).read_text()  # type: ignore[union-attr]
)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, in which packages can be put; what comes from there is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _forget_entry_points()
    yield tmp_path
    _forget_entry_points()
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def _forget_entry_points() -> None:
    importlib.invalidate_caches()
    registry._entry_points.cache_clear()
    registry._backend.cache_clear()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if re.search(r"^```+(python|pycon|console)$", page.read_text(), re.M)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_examples(page: Path, workplace: Path) -> None:
    """Blocks run in order, in one namespace. A first line `# file: NAME` (in Markdown `<!-- file: NAME -->`) has the
    block written to that file instead; a pyproject.toml is as good as installed. `$ pytest` and `$ python` lines run.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for fence in pages.fences(page):
        if name := re.match(r"(?:#|<!--) file: (\S+)", fence.text):
            _write(workplace / name[1], fence.text)
        elif fence.language in ("python", "pycon"):
            _execute(fence, namespace)
        elif fence.language == "console":
            for line in re.findall(r"^\$ ((?:pytest|python) .*)", fence.text, re.M):
                _shell(line, workplace)
    for written in sorted((workplace / "docs").rglob("*.md")):
        for vector in pages.vectors(written):
            vector.run(*_reference())


def _reference() -> tuple[Any, Any, Any]:
    module, implementation, _ = _backend("numpy")
    return implementation, module.from_numpy, module.to_numpy


def _execute(fence: Any, namespace: dict[str, Any]) -> None:
    where = str(fence.page.relative_to(ROOT)) if fence.page.is_relative_to(ROOT) else str(fence.page)
    if ">>> " in fence.text:
        test = doctest.DocTestParser().get_doctest(fence.text, namespace, where, where, fence.line - 1)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        report: list[str] = []
        runner.run(test, out=report.append, clear_globs=False)
        namespace.update(test.globs)
        assert not runner.summarize(verbose=False).failed, "".join(report)
    else:
        code = compile("\n" * (fence.line - 1) + fence.text, fence.page, "exec")
        exec(code, namespace)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if path.name == "pyproject.toml":  # what `pip install --editable .` would tell importlib.metadata
        project = tomllib.loads(text)["project"]
        info = path.parent / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}")
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        _forget_entry_points()


def _shell(line: str, folder: Path) -> None:
    """Run Python or pytest with the packages of this folder in sight."""
    words = shlex.split(line, comments=True)
    module = ["-m", "pytest", "-p", "no:cacheprovider"] if words[0] == "pytest" else []
    command = [sys.executable, *module, *words[1:]]
    path = os.pathsep.join([str(folder), *(p for p in sys.path if p)])
    run = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"$ {line}\n{run.stdout[-3000:]}{run.stderr[-3000:]}"


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str, workplace: Path) -> None:
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not failed, f"{name}: {failed} of {attempted} examples failed, see above"


# -- nothing is missing


@pytest.mark.parametrize("name", registry.CODECS)
def test_codec_is_complete(name: str) -> None:
    """The five places a codec lives in; each that is missing is named."""
    page, test = ROOT / f"docs/format/{name}.md", ROOT / f"tests/codecs/test_{name}.py"
    missing = []
    if not page.is_file():
        missing.append(f"its page {page.relative_to(ROOT)}")
    elif (count := sum(_concerns(vector, name) for vector in pages.vectors(page))) < MIN_VECTORS:
        missing.append(f"vectors in {page.relative_to(ROOT)}: {count} of at least {MIN_VECTORS}")
    if not any(name in _names(case.codec) for case in CASES):
        missing.append("a case in arraycodec_conformance/cases.py")
    if not any((golden.FOLDER / name).glob("*.json")):
        missing.append(f"golden vectors in arraycodec_conformance/vectors/{name}: run {golden.__name__}")
    if not test.is_file():
        missing.append(f"its test {test.relative_to(ROOT)}")
    assert not missing, f"codec {name} lacks {'; '.join(missing)}"


def _names(codec: Codec) -> set[str]:
    if isinstance(codec, Then):
        return _names(codec.outer).union(*(_names(part) for _, part in codec.parts))
    return {codec.name}


def _concerns(vector: Any, name: str) -> bool:
    return isinstance(vector, pages.CodecVector) and name in _names(vector.codec)


@pytest.mark.parametrize("name", registry.CODECS)
def test_page_has_every_section(name: str) -> None:
    text = (ROOT / f"docs/format/{name}.md").read_text()
    assert re.match(r"# .+\n\n[^#\s`|]", text), f"{name}.md: after the title comes the purpose, in a sentence"
    found = re.findall(r"^## (.*)$", text, re.M)
    missing = [section for section in SECTIONS if section not in found]
    assert not missing, f"{name}.md lacks the sections {', '.join(missing)}"
    assert [section for section in found if section in SECTIONS] == list(SECTIONS), f"{name}.md: order of sections"


def test_claimed_codecs_have_their_modules() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    for column, codec, module in generate.claims():
        assert importlib.util.find_spec(module), f"{column} claims codec {codec}, but there is no module {module}"


@pytest.mark.parametrize("page", generate.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_up_to_date(page: Path) -> None:
    if page.name == "README.md":  # its table asks the backends what they have
        pytest.importorskip("torch")
        pytest.importorskip("jax")
    assert generate.updated(page.read_text()) == page.read_text(), f"{page.name}: run `python docs/generate.py`"


def test_readme_has_the_table_of_codecs() -> None:
    text = (ROOT / "README.md").read_text()
    assert "<!-- table:codecs -->" in text, "README.md lacks the markers <!-- table:codecs --> and <!-- /table -->"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links, anchors aside; what Sphinx checks too, but here for README.md and without a build."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: no {target}"
