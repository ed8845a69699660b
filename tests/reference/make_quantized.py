#!/usr/bin/env python3
"""Checkpoints that `cake-master quantize` makes, held against the real packages; and their hashes as goldens.

  make_quantized.py [--check] OUT          OUT/quantized.txt

Runs build/cake-master and build/release/tests/tools/make_float from the root of the repository. For every line of CASES:
  MLX modes   every tensor equals what mlx_lm quantizes (its own loader, sanitize and predicates), bit for bit, names,
              shapes and dtypes included, and so do config.json's quantization block and the index's metadata; the result
              loads in mlx_lm strictly and gives finite logits. The three fp modes follow MLX's GPU code where its CPU
              code, which runs here, differs: codes may differ for ties and for the sign of zero, scales of groups of
              nothing but zeros; each difference is checked to be one of these.
  blocks      gguf.quants decodes every tensor to the floats that we decode (seen through F16), names and codecs are
              those of config.json, and embed_tokens keeps its rows.
A line of the golden is: sha256 of the weight files, model, arguments. tests/integration/quantize.sh makes them again.
"""
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

import gguf
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import get_total_parameters, load_model, quantize_model
from pathlib import Path

STORIES = ["tests/models/babyllama105-hf", "tests/models/babyllama105-padffn64-hf-bf16"]
RANDOM = ["dense", "qwen2", "qwen3moe", "qwen2moe", "mixtral"]
AFFINE = ["--mlx-bits 4", "--mlx-bits 2 --mlx-group 32", "--mlx-bits 3 --mlx-group 128", "--mlx-bits 5 --mlx-group 32",
          "--mlx-bits 6 --mlx-group 64", "--mlx-bits 8 --mlx-group 32"]
MIXED = [f"--recipe {r} --mlx-group 32" for r in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")]
FP = ["--mlx-mode mxfp4", "--mlx-mode mxfp8", "--mlx-mode nvfp4"]
PRESETS = ["q2_k", "q3_k_m", "q4_k_s", "q4_k_m", "q4_k_moe", "q4_k_xl", "q5_k_s", "q5_k_m", "q5_k_moe", "q5_k_xl", "q6_k",
           "q6_k_xl", "q8"]
CASES = ([(m, a) for m in STORIES for a in AFFINE + MIXED + FP] + [(m, a) for m in RANDOM for a in AFFINE[:1] + MIXED[2:3] + FP[:1]]
         + [("dense", f"--preset {p}") for p in PRESETS] + [("qwen2moe", "--preset q4_k_moe"), ("qwen3moe", "--preset q5_k_m")]
         + [("qwen2", f"--type {t}") for t in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k")]
         + [("mixtral", "--type q4_k --override switch_mlp=q3_k --override lm_head=float"),
            ("dense", "--mlx-bits 3 --override lm_head=8 --override v_proj=6g32 --override o_proj=mxfp8 --shard-size 500K")])


def read(folder):
    out = {}
    for path in sorted(glob.glob(os.path.join(folder, "model*.safetensors"))):
        with open(path, "rb") as f:
            blob = f.read()
        n = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + n])
        assert header.pop("__metadata__") == {"format": "mlx"}
        for name, e in header.items():
            begin, end = e["data_offsets"]
            out[name] = (e["dtype"], tuple(e["shape"]), blob[8 + n + begin : 8 + n + end])
    return out


def load_json(*path):
    with open(os.path.join(*path)) as f:
        return json.load(f)


def options(args):
    words = args.split()
    return {words[i].lstrip("-"): words[i + 1] for i in range(0, len(words), 2)}


DTYPE = {mx.uint32: "U32", mx.uint8: "U8", mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}


def mlx_reference(source, args):
    """Tensors, quantization block and number of parameters as mlx_lm's converter makes them."""
    o = options(args)
    model, config = load_model(Path(source), lazy=True)
    dtype = getattr(mx, config["torch_dtype"])
    model.update(tree_map(lambda v: v.astype(dtype) if mx.issubdtype(v.dtype, mx.floating) else v, model.parameters()))
    group = int(o["mlx-group"]) if "mlx-group" in o else None
    predicate = mixed_quant_predicate_builder(o["recipe"], model, group) if "recipe" in o else None
    model, config = quantize_model(model, config, group, int(o["mlx-bits"]) if "mlx-bits" in o else None,
                                   mode=o.get("mlx-mode", "affine"), quant_predicate=predicate)
    tensors = {k: (DTYPE[v.dtype], v.shape, np.array(v.view(mx.uint8)).tobytes()) for k, v in tree_flatten(model.parameters())}
    return tensors, config["quantization"], get_total_parameters(model), tree_flatten(model.parameters())


def fp_differences(mode, theirs, ours, floats, name):
    """Both decode alike but for ties, and the differing bytes are ties, signs of zero and scales of zero groups."""
    group, bits = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}[mode]
    a = {k: np.frombuffer(theirs[name + k][2], np.uint8) for k in (".weight", ".scales")}
    b = {k: np.frombuffer(ours[name + k][2], np.uint8) for k in (".weight", ".scales")}
    w = floats.astype(np.float32).reshape(-1, group)
    zero = ~w.any(axis=1)
    assert ((a[".scales"] == b[".scales"]) | zero).all(), name
    codes = lambda x: (x if bits == 8 else np.stack([x & 15, x >> 4], 1).reshape(-1)).reshape(-1, group)
    ca, cb = codes(a[".weight"]), codes(b[".weight"])
    if bits == 8:
        assert ((ca == cb) | ((ca & 127) + (cb & 127) == 0)).all(), name
        return int((ca != cb).sum())
    value = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    s = b[".scales"].astype(np.int32)
    scale = np.ldexp(np.float32(1), s - 127) if mode == "mxfp4" else np.where(
        (s >> 3) & 15, np.ldexp((8 + (s & 7)).astype(np.float32), ((s >> 3) & 15) - 10), (s & 7) * np.float32(2.0**-9))
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.abs(w / scale[:, None].astype(np.float32))
    middle = (value[ca & 7] + value[cb & 7]) / 2
    same = ca == cb
    signs = ((ca & 7) == (cb & 7)) & ((ca & 7) == 0)
    ties = (np.abs((ca & 7).astype(int) - (cb & 7)) == 1) & np.isclose(x, middle, rtol=3e-7, atol=0)
    assert (same | signs | ties | zero[:, None]).all(), (name, np.argwhere(~(same | signs | ties | zero[:, None]))[:3])
    return int((~same).sum())


def check_mlx(source, args, out):
    theirs, block, parameters, _ = mlx_reference(source, args)
    ours, config, index = read(out), load_json(out, "config.json"), load_json(out, "model.safetensors.index.json")
    assert {k: v[:2] for k, v in theirs.items()} == {k: v[:2] for k, v in ours.items()}, (source, args)
    mode, differ = options(args).get("mlx-mode"), 0
    if mode:
        model, c = load_model(Path(source), lazy=True)
        dense = dict(tree_flatten(model.parameters()))
        for name, t in theirs.items():
            base = name.rsplit(".", 1)[0]
            if name.endswith(".weight") and t[0] == "U32" and base + ".biases" not in theirs:
                w = dense[name].astype(getattr(mx, c["torch_dtype"])).astype(mx.float32)
                differ += fp_differences(mode, theirs, ours, np.array(w), base)
            elif t[0] not in ("U32", "U8") or base + ".biases" in theirs:
                assert t[2] == ours[name][2], name
    else:
        for name in theirs:
            assert theirs[name][2] == ours[name][2], (source, args, name)
    norm = lambda b: {k: {"mode": "affine", **v} if isinstance(v, dict) else v for k, v in b.items()}
    assert norm(block) == norm(config["quantization"]) == norm(config["quantization_config"]), (block, config["quantization"])
    assert index["metadata"] == {"total_size": sum(len(v[2]) for v in ours.values()), "total_parameters": parameters}
    model, _ = load_model(Path(out), strict=True)
    logits = model(mx.array([[1, 5, 9, 2]]))
    assert np.isfinite(np.array(logits.astype(mx.float32))).all()
    return f"{len(ours)} tensors" + (f", {differ} codes where GPU and CPU differ" if differ else "")


def check_blocks(out, scratch):
    """Decode our blocks with gguf, and with ourselves into F16."""
    ours, config = read(out), load_json(out, "config.json")
    codecs = config["quantization"]["per_tensor"]
    assert config["quantization"]["mode"] == "kquant" and config["quantization"] == config["quantization_config"]
    floats = os.path.join(scratch, "floats")
    run(out, "--requantize --mlx-bits 8 --mlx-group 32 --override ^model.layers|lm_head=float", floats)
    decoded = read(floats)
    n = 0
    for path, codec in codecs.items():
        dtype, shape, blob = ours[path + ".weight"]
        assert dtype == "U8" and ours[path + ".scales"] == ("U8", (1,), b"\0")
        kind = getattr(gguf.GGMLQuantizationType, codec.upper())
        f = gguf.quants.dequantize(np.frombuffer(blob, np.uint8).reshape(-1, shape[-1]), kind)
        assert np.isfinite(f).all()
        if path == "model.embed_tokens":
            continue
        dtype, shape, blob = decoded[path + ".weight"]
        # torch_dtype is bfloat16: decoded floats become F16 or BF16
        got = np.frombuffer(blob, np.uint16)
        want = f.reshape(-1).view(np.uint32)
        want = ((want + 0x7FFF + ((want >> 16) & 1)) >> 16).astype(np.uint16) if dtype == "BF16" else f.reshape(-1).astype(np.float16).view(np.uint16)
        assert np.array_equal(got, want), (path, codec)
        n += 1
    assert not [k for k in ours if k.endswith(".scales") and k[:-7] not in codecs]
    return f"{len(codecs)} modules, {n} decoded by gguf"


def run(model, args, out):
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(["build/cake-master", "-q", "quantize", "--model", model, "--out", out, *args.split()], check=True,
                   stdout=subprocess.DEVNULL)


def main():
    out = [a for a in sys.argv[1:] if a != "--check"][0]
    lines = []
    with tempfile.TemporaryDirectory() as tmp:
        for kind in RANDOM:
            subprocess.run(["build/release/tests/tools/make_float", kind, os.path.join(tmp, kind)], check=True)
        for model, args in CASES:
            source, result = (os.path.join(tmp, model) if model in RANDOM else model), os.path.join(tmp, "result")
            run(source, args, result)
            if "--preset" in args or "--type" in args:
                what = check_blocks(result, tmp)
            elif "--override" in args:
                model_, _ = load_model(Path(result), strict=True)
                assert np.isfinite(np.array(model_(mx.array([[1, 5, 9, 2]])).astype(mx.float32))).all()
                what = "loads in mlx_lm"
            else:
                what = check_mlx(source, args, result)
            digest = hashlib.sha256()
            for path in sorted(glob.glob(os.path.join(result, "model*.safetensors"))):
                with open(path, "rb") as f:
                    digest.update(f.read())
            lines.append(f"{digest.hexdigest()} {model} {args}\n")
            print(f"ok: {model} {args}: {what}", flush=True)
    path = os.path.join(out, "quantized.txt")
    if "--check" in sys.argv:
        with open(path) as f:
            if f.read() != "".join(lines):
                sys.exit(f"{path} has other hashes")
        return
    os.makedirs(out, exist_ok=True)
    with open(path, "w") as f:
        f.writelines(lines)


main()
