"""Which codec for which tensor, and the reasons in words."""

import pytest

import arraycodec as ac
from arraycodec.checkpoints.policy import Decision, Policy, closest

NF4 = ac.codec("nf4")


@pytest.mark.parametrize(
    ("dtype", "shape", "encoded", "reason"),
    [
        ("float32", (64, 64), True, "float32 matrix"),
        ("bfloat16", (8, 16, 3, 3), False, "smaller than 4 KB"),
        ("bfloat16", (64, 16, 3, 3), True, "bfloat16 4-D"),
        ("float16", (32, 64), True, "float16 matrix"),
        ("float16", (32, 63), False, "smaller than 4 KB"),
        ("float32", (4096,), False, "1-D: norms and biases stay plain"),
        ("float32", (), False, "0-D: scalars stay plain"),
        ("float32", (0, 4096), False, "no elements"),
        ("int64", (64, 64), False, "int64: codec nf4 takes float32, bfloat16, float16"),
        ("float4_e2m1fn", (64, 64), False, "float4_e2m1fn: codec nf4 takes float32, bfloat16, float16"),
    ],
)
def test_the_default_rule(dtype, shape, encoded, reason):
    assert Policy("nf4").decide("w", dtype, shape) == Decision(NF4 if encoded else None, reason)


def test_a_lossless_scheme_takes_every_dtype_and_rank(xored):
    policy = Policy(xored)
    assert policy.decide("w", "int64", (4096,)).codec == ac.codec("xored")
    assert policy.decide("w", "uint8", (4096,)).codec is not None
    assert policy.decide("w", "int64", (4,)).reason == "smaller than 4 KB"


@pytest.mark.parametrize(
    ("include", "exclude", "name", "shape", "encoded", "reason"),
    [
        ((), ("*embed*",), "model.embed.weight", (64, 64), False, "excluded by *embed*"),
        (("*.bias",), (), "a.bias", (64,), True, "included by *.bias"),
        (("*.bias",), (), "a.weight", (64, 64), True, "float32 matrix"),
        (("*mlp*",), ("*",), "a.mlp.up", (64, 64), True, "included by *mlp*"),
        (("*mlp*",), ("*",), "a.attn.q", (64, 64), False, "excluded by *"),
        (("*",), ("*norm*",), "a.norm", (64,), False, "excluded by *norm*"),
        (("*",), ("*norm*",), "a.bias", (4,), True, "included by *"),
        (("*up*",), ("*up*",), "a.up", (64, 64), False, "excluded by *up*"),
        (("layers.[01].*",), (), "layers.1.b", (4,), True, "included by layers.[01].*"),
    ],
)
def test_patterns(include, exclude, name, shape, encoded, reason):
    found = Policy("nf4", include, exclude).decide(name, "float32", shape)
    assert (found.codec is not None, found.reason) == (encoded, reason)


def test_an_included_tensor_must_still_be_one_that_the_codec_takes():
    found = Policy("nf4", ("*",)).decide("ids", "int64", (64, 64))
    assert found == Decision(None, "int64: codec nf4 takes float32, bfloat16, float16")
    assert Policy("nf4", ("*",)).decide("none", "float32", (0, 64)).reason == "no elements"


def test_a_pattern_that_matches_nothing_names_the_closest_names():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    Policy("nf4", exclude=("*embed*",)).check_patterns(names)
    with pytest.raises(ac.ArgumentError, match=r"exclude: '\*embedding\*' matches none of 3 .* model.embed_tokens"):
        Policy("nf4", exclude=("*embedding*",)).check_patterns(names)
    with pytest.raises(ac.ArgumentError, match=r"include: 'LM_HEAD.\*' matches none"):
        Policy("nf4", ("LM_HEAD.*",)).check_patterns(names)
    assert closest("LM_HEAD", names)[0] == "lm_head.weight"
    with pytest.raises(ac.ArgumentError, match="matches none of 0"):
        Policy("nf4", ("x",)).check_patterns([])


def test_a_policy_is_a_value():
    assert Policy("nf4", ["a"]) == Policy("nf4", ("a",)) == Policy("nf4", "a")
    assert len({Policy("nf4"), Policy("nf4"), Policy("fp4")}) == 2
    assert eval(repr(Policy("nf4", "a")), {"Policy": Policy}) == Policy("nf4", "a")


@pytest.mark.parametrize("bad", [{"scheme": "nf5"}, {"include": [""]}, {"exclude": [3]}])
def test_bad_policies_fail_at_once(bad):
    with pytest.raises(ac.ArgumentError):
        Policy(**({"scheme": "nf4"} | bad))


def test_a_codec_value_is_a_scheme_too():
    codec = ac.Codebook("nf4", block_size=128)
    assert Policy(codec).decide("w", "float32", (64, 64)).codec == codec
    double = Policy("nf4-double").decide("w", "int8", (64, 64))
    assert double.reason == "int8: codec nf4-double takes float32, bfloat16, float16"
