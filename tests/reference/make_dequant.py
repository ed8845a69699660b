#!/usr/bin/env python3
"""Small tensors quantized and dequantized by the real mx.quantize / mx.dequantize: the ground truth of the importers.

  make_dequant.py OUT           write OUT/affine.safetensors and OUT/affine.json
  make_dequant.py --check OUT   make them again and compare bit for bit

For each bits x group x dtype there is a tensor set b<bits>g<group>_<dtype>. with
  source   [6, K]        the float weights, in dtype
  weight   [6, K*bits/32] U32, scales, biases [6, K/group] in dtype        mx.quantize(source)
  floats   [6, K] F32    mx.dequantize of weight with scales and biases widened to float32
  x        [2, K] F32    and y [2, 6] F32 = x @ floats.T in float64, rounded once
K is two groups. Rows: two of noise; one with a zero group and a constant one; one all positive, one all negative; one
of tiny and huge values. The file is MLX-written, so tensors start at arbitrary offsets.
"""
import json
import os
import sys
import tempfile

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

import mlx.core as mx
import numpy as np

import forward

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


def source_rows(rng, k, group):
    rows = rng.standard_normal((6, k)).astype(np.float32)
    rows[1] *= np.float32(0.03)
    rows[2, :group] = 0
    rows[2, group : 2 * group] = np.float32(-0.375)
    rows[3] = np.abs(rows[3]) + np.float32(0.5)
    rows[4] = -np.abs(rows[4]) - np.float32(0.5)
    rows[5, :group] *= np.float32(1e-4)
    rows[5, group:] *= np.float32(50)
    return rows


def make(out):
    rng = np.random.default_rng(20)
    tensors, sets = {}, []
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for dtype, kind in DTYPES.items():
                k, name = 2 * group, f"b{bits}g{group}_{dtype}"
                source = mx.array(source_rows(rng, k, group)).astype(kind)
                weight, scales, biases = mx.quantize(source, group_size=group, bits=bits)
                floats = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), group_size=group, bits=bits)
                f = np.array(floats)
                codes = forward.unpack_codes(np.array(weight).tobytes(), 6, bits, k).reshape(6, 2, group).astype(np.float32)
                s, b = (np.array(a.astype(mx.float32))[:, :, None] for a in (scales, biases))
                # the recorded floats must be what the formula says: multiply, round, add, round, in float32
                assert np.array_equal(f.view(np.uint32), (codes * s + b).reshape(6, k).view(np.uint32)), name
                x = rng.standard_normal((2, k)).astype(np.float32)
                y = (x.astype(np.float64) @ f.T.astype(np.float64)).astype(np.float32)
                theirs = np.array(mx.quantized_matmul(mx.array(x), weight, scales.astype(mx.float32), biases.astype(mx.float32),
                                                      group_size=group, bits=bits))
                assert np.all(np.abs(theirs - y) <= 2e-6 * (np.abs(x).astype(np.float64) @ np.abs(f).T.astype(np.float64)) + 1e-12), name
                for part, value in (("source", source), ("weight", weight), ("scales", scales), ("biases", biases),
                                    ("floats", floats), ("x", mx.array(x)), ("y", mx.array(y))):
                    tensors[f"{name}.{part}"] = value
                sets.append({"name": name, "bits": bits, "group_size": group, "dtype": dtype, "rows": 6, "columns": k})
    os.makedirs(out, exist_ok=True)
    mx.save_safetensors(os.path.join(out, "affine.safetensors"), tensors, metadata={"format": "mlx"})
    with open(os.path.join(out, "affine.json"), "w") as f:
        json.dump({"versions": {"mlx": mx.__version__, "numpy": np.__version__}, "sets": sets}, f, indent=1)
        f.write("\n")


def load(folder):
    path = os.path.join(folder, "affine.safetensors")
    with open(path, "rb") as f:
        blob = f.read()
    n = int.from_bytes(blob[:8], "little")
    out = {}
    for name, e in json.loads(blob[8 : 8 + n]).items():
        if name != "__metadata__":
            a, b = e["data_offsets"]
            out[name] = (e["dtype"], e["shape"], blob[8 + n + a : 8 + n + b])
    return out


def main(argv):
    if argv[:1] != ["--check"]:
        if len(argv) != 1:
            raise SystemExit(__doc__)
        make(argv[0])
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        make(tmp)
        new, old = load(tmp), load(argv[1])
    different = [name for name in sorted(set(new) | set(old)) if new.get(name) != old.get(name)]
    for name in different:
        print(f"{name} differs")
    print(f"affine.safetensors: {len(old)} tensors, {len(different)} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
