"""The command line: exit codes, what goes to stdout and what to stderr, what is written and what is imported."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

import arraycodec as ac
from arraycodec import registry
from arraycodec.checkpoints.scheme import MODES
from arraycodec.cli.app import Mode, app
from arraycodec.cli.failures import explain, printable
from tests.checkpoints.support import listing, model, shards, write, write_folder

COMMANDS = ["compress", "decompress", "convert", "info", "verify", "diff", "list", "bench", "demo"]
ROOT = Path(__file__).parent.parent


def run(*args):
    """(exit code, stdout, stderr) of a command, in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="arraycodec")
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def process(*args, script=None, **options):
    """The same in a process of its own; `script` runs before the command does."""
    command = [sys.executable, "-c", f"{script or ''}\nfrom arraycodec.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def src(tmp_path):
    return write(tmp_path / "model.safetensors", model())


@pytest.fixture
def packed(src):
    ac.compress(src, src.with_name("packed.safetensors"))
    return src.with_name("packed.safetensors")


def broken(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


# ---------------------------------------------------------------- what the commands do


def test_the_whole_way_round(src, tmp_path):
    code, out, err = run("compress", src)
    assert (code, err) == (0, "") and "smaller" in out and "embed.weight" in out and "bfloat16 matrix" in out
    dst = tmp_path / "model.nf4.safetensors"
    assert dst.exists() and src.exists()
    assert run("info", dst)[0] == run("verify", dst)[0] == run("verify", dst, "--against", src)[0] == 0
    code, out, _ = run("decompress", dst)
    assert code == 0 and "12 tensors" in out
    assert run("diff", dst, tmp_path / "model.decompressed.safetensors")[0] == 0
    assert run("diff", src, dst)[0] == 1
    assert run("compress", src, "-q", "-f") == (0, "", "")


def test_folders(tmp_path):
    src = write_folder(tmp_path / "m", shards())
    code, out, _ = run("compress", src, "--scheme", "fp4")
    assert code == 0 and "2 files" in out
    assert run("verify", tmp_path / "m-fp4", "--against", src)[0] == 0
    assert run("decompress", tmp_path / "m-fp4")[0] == 0
    assert (tmp_path / "m-decompressed" / "config.json").exists()


def test_lossless_all_the_way_round(src, tmp_path):
    code, out, err = run("compress", src, "--mode", "storage")
    assert (code, err) == (0, "") and "lossless-storage" in out and "smaller than 4 KB" in out
    dst = tmp_path / "model.lossless-storage.safetensors"
    code, out, _ = run("verify", dst, "--against", src)
    assert code == 0 and "12 of 12 tensors equal" in out and "decompresses to the original file" in out
    code, out, _ = run("decompress", dst)
    assert code == 0 and "none of them lossy" in out
    assert (tmp_path / "model.decompressed.safetensors").read_bytes() == src.read_bytes()
    assert run("diff", src, dst)[0] == 0
    code, out, _ = run("info", dst, "--floor")
    assert code == 0 and "order0" in out and "layers.*.up.weight" in out and "gap" in out
    assert "floors" in json.loads(run("info", dst, "--floor", "--json")[1])
    assert run("compress", src, "-s", "nf4", "-m", "balanced")[0] == 0
    assert (tmp_path / "model.nf4+lossless.safetensors").exists()
    assert run("compress", src, "-s", "lossless", "-m", "balanced")[0] == 2
    assert run("compress", src, "-m", "fastest")[0] == 2
    assert set(Mode) == set(MODES)
    code, out, _ = run("bench", src, "--lossless", "--quick")
    assert code == 0 and "decode, out=" in out and "inference" in out and "SNR" not in out
    assert "lossless" in json.loads(run("bench", src, "--lossless", "--quick", "--json")[1])


def test_differences_to_a_base(src, packed, tmp_path):
    base = tmp_path / "base.safetensors"
    base.write_bytes(src.read_bytes())
    code, out, _ = run("compress", src, "--base", base)
    assert code == 0 and "matrix, delta" in out and f"--base {base}" in out
    dst = tmp_path / "model.delta.safetensors"
    assert "differences to base.safetensors" in run("info", dst)[1]
    assert run("decompress", dst, "--base", base, "-o", tmp_path / "b.safetensors")[0] == 0
    assert (tmp_path / "b.safetensors").read_bytes() == src.read_bytes()
    assert run("verify", dst)[0] == run("verify", dst, "--against", src, "--base", base)[0] == 0
    for args in (
        ("decompress", dst, "-o", tmp_path / "c.safetensors"),
        ("verify", dst, "--against", src),
        ("diff", src, dst),
    ):
        code, out, err = run(*args)
        assert code == 2 and out == "" and "--base (in Python base=) must name it" in err
        code, out, err = run(*args, "--base", packed)
        assert code == (1 if args[0] == "verify" else 3), "a report with every tensor, or an error"
        assert "packed.safetensors" in out + err and "'base.safetensors'" in out + err and bool(out) != bool(err)
    assert run("compress", src, "--base", base, "-s", "nf4")[0] == 2
    assert run("compress", src, "--base", tmp_path / "nowhere.safetensors", "-f")[0] == 5


def test_a_base_that_helps_no_tensor_is_not_asked_for(src, tmp_path):
    base = write(tmp_path / "base.safetensors", {"other": np.ones((64, 64), np.float32)})
    code, out, _ = run("compress", src, "--base", base)
    dst = tmp_path / "model.delta.safetensors"
    assert code == 0 and " with lossless" in out and f"no tensor is stored as a difference to {base}" in out
    assert "--base" not in out and "differences" not in run("info", dst)[1]
    assert run("decompress", dst, "-o", tmp_path / "b.safetensors")[0] == 0


def test_what_takes_a_base_is_compared_with_it(tmp_path):
    x = model()["embed.weight"]
    y = x.copy()
    y[0, :9] += 1
    base = write(tmp_path / "base.safetensors", {"a": x, "b": x})
    wrong = write(tmp_path / "wrong.safetensors", {"a": -x, "b": x})
    empty = write(tmp_path / "empty.safetensors", {"c": x})
    src = write_folder(tmp_path / "m", {"1.safetensors": {"a": y}, "2.safetensors": {"b": y, "c": x}})
    code, out, _ = run("compress", src, "--base", base)
    assert code == 0 and "3 of 3 tensors encoded losslessly: 1 delta, 1 tied, 1 lossless, 2 files" in out
    for path, names in ((tmp_path / "m-delta", ["a", "b"]), (tmp_path / "m-delta" / "2.safetensors", ["b"])):
        code, out, _ = run("verify", path)
        told = ", ".join(map(repr, names))
        assert code == 0 and f"without --base only their stored bytes were checked: {told}\n" in out
        assert json.loads(run("verify", path, "--json")[1])["tensors_without_base"] == names
        code, out, _ = run("verify", path, "--base", base)
        assert code == 0 and "note" not in out
        for other in (wrong, empty):
            code, out, _ = run("verify", path, "--base", other)
            assert code == 1 and out.count("bad  ") == len(names) and "'a'" in out


def test_a_wholly_different_original_is_told_in_a_few_lines(tmp_path):
    x = model()["embed.weight"]
    src = write(tmp_path / "a.safetensors", {f"x{i}": x + i for i in range(20)})
    other = write(tmp_path / "b.safetensors", {f"x{i}": x - i - 1 for i in range(20)})
    assert run("compress", src, "-m", "balanced", "-q")[0] == 0
    args = ("verify", tmp_path / "a.lossless.safetensors", "--against", other)
    code, out, _ = run(*args)
    assert code == 1 and out.count("bad  ") == 11 and "bad  11 more; --tensors and --json list all" in out
    code, out, _ = run(*args, "--tensors")
    assert code == 1 and out.count("bad  ") == 21 and "bad  tensor 'x19': differs from the original" in out


def test_a_dry_run_writes_nothing(src, tmp_path):
    before = listing(tmp_path)
    code, out, _ = run("compress", src, "--dry-run")
    assert code == 0 and "nothing was written" in out and listing(tmp_path) == before


def test_include_and_exclude(src, tmp_path):
    args = ("compress", src, "-n", "--json", "--include", "*norm*", "--exclude", "*embed*", "--exclude", "*conv*")
    reasons = {row["name"]: row["reason"] for row in json.loads(run(*args)[1])["tensors"]}
    assert reasons["layers.0.norm.weight"] == "included by *norm*"
    assert reasons["embed.weight"] == "excluded by *embed*" and reasons["layers.0.conv.weight"] == "excluded by *conv*"
    code, _, err = run("compress", src, "--exclude", "*embedding*")
    assert code == 2 and "matches none of 12 tensor names, closest are embed.weight" in err


def test_importance(src, tmp_path):
    given = {"embed.weight": np.linspace(0, 1, 96, dtype=np.float32)}
    vectors = write(tmp_path / "importance.safetensors", given)
    code, out, err = run("compress", src, "-s", "tcq4", "--importance", vectors)
    assert (code, err) == (0, "") and "float32 matrix, with importance" in out
    ac.compress(src, tmp_path / "want.safetensors", "tcq4", importance=given)
    assert (tmp_path / "model.tcq4.safetensors").read_bytes() == (tmp_path / "want.safetensors").read_bytes()
    code, out, err = run("compress", src, "--importance", vectors)
    assert (code, out) == (2, "") and "importance is for the codecs lut, pqr, tcq" in err
    write(vectors, {"embed": given["embed.weight"]})
    code, out, err = run("compress", src, "-s", "tcq4", "-f", "--importance", vectors)
    assert (code, out) == (2, "") and f"{vectors}: 'embed' is no tensor of {src}, closest are 'embed.weight'" in err
    assert run("compress", src, "-s", "tcq4", "-f", "--importance", tmp_path / "nowhere.safetensors")[0] == 5


@pytest.mark.parametrize("command", ["compress", "decompress", "info", "verify", "diff", "list", "bench", "demo"])
def test_json_parses_and_is_all_there_is_on_stdout(src, packed, tmp_path, command, monkeypatch):
    monkeypatch.setattr(registry, "SCHEMES", {"nf4": registry.SCHEMES["nf4"]})
    args = {
        "compress": [src], "decompress": [packed, "-o", tmp_path / "b.safetensors"], "info": [packed],
        "verify": [packed, "--against", src], "diff": [src, src], "list": [],
        "bench": ["--shape", "8x64", "--quick"], "demo": [src, "--no-plot"],
    }  # fmt: skip
    keys = {
        "compress": {"src", "dst", "scheme", "bytes_before", "bytes_after", "ratio", "files", "tensors"},
        "decompress": {"src", "dst", "bytes_before", "bytes_after", "tensors"},
        "info": {"path", "native", "schemes", "bytes_stored", "files", "tensors"},
        "verify": {"path", "ok", "bytes_checked", "problems", "tensors"},
        "diff": {"a", "b", "equal", "counts", "tensors"},
        "list": {"schemes", "codecs", "backends"},
        "bench": {"machine", "cases", "quality", "peers", "notes"},
        "demo": {"ok", "outcomes", "machine", "plot"},
    }
    code, out, err = run(command, *args[command], "--json")
    assert (code, err) == (0, "")
    assert keys[command] <= set(json.loads(out))
    assert out.isascii()


def test_tables_of_every_command(src, packed, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "SCHEMES", {"nf4": registry.SCHEMES["nf4"]})
    assert "layers.*.up.weight" in run("info", packed)[1]
    assert "layers.1.up.weight" in run("info", packed, "--tensors")[1]
    assert "no checksums" in run("info", src)[1] and "no checksums" in run("verify", src)[1]
    assert "7 of 12 tensors equal the original bit for bit" in run("verify", packed, "--against", src)[1]
    code, out, _ = run("diff", src, packed)
    assert code == 1 and "7 same, 5 changed" in out and "dB" in out
    assert "numpy" in run("list")[1]
    code, out, _ = run("bench", "--shape", "8x64", "--quick")
    assert code == 0 and "× copy" in out and "numba" in out
    assert "Speed of the NumPy reference" in out and "torch" not in out  # no peer was run
    code, out, _ = run("demo", src, "-o", tmp_path / "demo", "--no-plot")
    assert code == 0 and "every byte" in out


def test_rates(tmp_path):
    pytest.importorskip("matplotlib")
    src = write(tmp_path / "t.safetensors", {"w": np.random.default_rng(0).standard_normal((16, 64), np.float32)})
    args = ("bench", src, "--rates", tmp_path / "out", "--schemes", "nf4,tcq4")
    code, out, _ = run(*args)
    assert code == 0 and "tcq4" in out and "rate_distortion.md" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rate_distortion.md", "rate_distortion.png"}
    page = (tmp_path / "out" / "rate_distortion.md").read_text("utf-8")
    assert page.startswith("# Rate and distortion of t.safetensors\n")
    assert [row["scheme"] for row in json.loads(run(*args, "--json")[1])["rates"]] == ["nf4", "tcq4"]


def test_json_of_what_is_exact(src, monkeypatch):
    monkeypatch.setattr(registry, "SCHEMES", {"lossless": registry.SCHEMES["lossless"]})
    (outcome,) = json.loads(run("demo", src, "--no-plot", "--json")[1])["outcomes"]
    assert outcome["snr_db"] is None and set(outcome["tensors"].values()) == {None}


def test_names_cannot_drive_the_terminal(tmp_path):
    evil = "w\x1b[2J\u202e[red]x[/red]"
    src = write(tmp_path / "e.safetensors", {evil: np.ones((64, 64), np.float32)})
    for args in (("compress", src), ("info", src), ("diff", src, src), ("compress", src, "--exclude", "\x1b[2Jno")):
        _, out, err = run(*args)
        assert "\x1b[2J" not in out + err and "\u202e" not in out + err, args
    assert r"w\x1b[2J\u202e[red]x[/red]" in run("info", src)[1]
    assert printable("a\x00é\n") == "a\\x00é\n"


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    "args",
    [
        ("compress",),
        ("nonsense",),
        ("compress", "{src}", "--jobs", "0"),
        ("compress", "{src}", "--scheme", "nf5"),
        ("compress", "{src}", "-o", "{src}"),
        ("compress", "{packed}"),
        ("decompress", "{src}"),
        ("bench", "--shape", "12"),
        ("bench", "--lossless"),
        ("bench", "--rates", "never", "--quick"),
        ("bench", "{src}", "--lossless", "--schemes", "nf4"),
        ("bench", "--schemes", "none"),
        ("compress", "{src}", "-o", "{packed}"),
    ],
)
def test_2_for_usage(src, packed, args):
    before = listing(src.parent)
    code, out, err = run(*(arg.format(src=src, packed=packed) for arg in args))
    assert code == 2 and out == "" and err
    assert listing(src.parent) == before


def test_messages_say_what_to_do(src, packed):
    assert "exists already; -f overwrites it" in run("compress", src, "-o", packed)[2]
    assert "'nf5' is not known, closest are nf8, nf4" in run("compress", src, "-s", "nf5")[2]
    assert "is compressed already (holds nf4)" in run("compress", packed)[2]


def test_1_for_a_difference_or_a_failed_verification(src, packed):
    assert run("diff", src, packed)[0] == 1
    broken(packed, -10)
    code, out, _ = run("verify", packed)
    assert code == 1 and "FAILED" in out and "packed.safetensors" in out
    code, out, _ = run("verify", packed, "--json")
    assert code == 1 and json.loads(out)["ok"] is False
    assert run("verify", packed, "-q")[:2] == (1, "")


def test_3_for_corrupt_or_hostile_input(src, packed, tmp_path):
    html = tmp_path / "page.safetensors"
    html.write_text("<!DOCTYPE html><html>not found</html>")
    broken(packed, 300)  # in the header
    for command in ("info", "verify", "decompress"):
        for path in (packed, html):
            code, out, err = run(command, path)
            assert code == 3 and out == "" and path.name in err, (command, path)
    broken(packed, 300)
    broken(packed, -10)
    code, _, err = run("decompress", packed, "-o", tmp_path / "b.safetensors")
    assert code == 3 and "packed.safetensors" in err and "tensor" in err
    assert not (tmp_path / "b.safetensors").exists()


def test_4_for_what_needs_a_newer_version_or_an_extra(packed, tmp_path):
    assert explain(ac.VersionError("codec: 'x' is not known"))[0] == 4
    assert explain(ac.UnsupportedByBackend("no"))[0] == 4
    missing = "import sys; sys.modules['typer'] = None"
    done = process("info", packed, script=missing)
    assert done.returncode == 4 and 'pip install "arraycodec[cli]"' in done.stderr and not done.stdout
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    data = packed.read_bytes().replace(b'\\"version\\":1', b'\\"version\\":9')
    newer = tmp_path / "newer.safetensors"
    newer.write_bytes(data)
    assert process("info", newer, script=script).returncode == 4


def test_5_for_a_missing_file(src, tmp_path):
    nowhere = tmp_path / "nowhere.safetensors"
    for args in (["compress"], ["decompress"], ["info"], ["verify"], ["diff", src], ["bench"], ["demo"]):
        code, out, err = run(*args, nowhere)
        assert code == 5 and out == "" and "nowhere.safetensors: No such file or directory" in err, args


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EIO, "Input/output error"),
     (errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system")],
)  # fmt: skip
def test_5_for_what_the_system_refuses(src, tmp_path, monkeypatch, number, told):
    from arraycodec.containers.atomic import AtomicFile

    before, write_bytes = listing(tmp_path), AtomicFile.write

    def refuse(self, *buffers):
        if self.position > 10_000:
            raise OSError(number, os.strerror(number), str(self.path))
        return write_bytes(self, *buffers)

    monkeypatch.setattr(AtomicFile, "write", refuse)
    code, out, err = run("compress", src)
    assert code == 5 and out == "" and told in err and "model.nf4.safetensors" in err
    assert listing(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which not even root may write")
def test_5_for_a_folder_that_may_not_be_written(src):
    code, _, err = run("compress", src, "-o", "/sys/m.safetensors")
    assert code == 5 and "/sys/m.safetensors: Permission denied" in err


def test_130_for_an_interrupt(src, tmp_path, monkeypatch):
    from arraycodec import api

    before = listing(tmp_path)

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "encode", interrupt)
    code, out, err = run("compress", src, "--jobs", "1")
    assert code == 130 and out == "" and "interrupted" in err
    assert listing(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_130_for_a_real_ctrl_c(src, tmp_path, jobs):
    before = listing(tmp_path)
    script = textwrap.dedent("""
        import signal, time
        from arraycodec import api
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
        encode = api.encode
        def slow(*args, **options):
            print("encoding", flush=True)
            time.sleep(0.5)
            return encode(*args, **options)
        api.encode = slow
        from arraycodec.cli import main; main()
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", script, "compress", str(src), "-j", jobs],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "encoding\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err and "interrupted" in err
    assert listing(tmp_path) == before


def test_bugs_are_told_without_a_traceback_unless_it_is_asked_for(src, monkeypatch):
    from arraycodec.checkpoints import info

    monkeypatch.setattr(info, "scan", lambda path: 1 / 0)
    code, _, err = run("info", src)
    assert code == 70 and "internal error: ZeroDivisionError" in err and "ARRAYCODEC_DEBUG=1" in err
    monkeypatch.setenv("ARRAYCODEC_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(app, ["info", str(src)], catch_exceptions=False)


def test_a_reader_that_goes_away_is_no_error_worth_a_word(packed):
    command = [sys.executable, "-m", "arraycodec.cli", "info", str(packed), "--tensors", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) in (0, 5) and err == b""
