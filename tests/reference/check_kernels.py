#!/usr/bin/env python3
"""Compare the packed kernels with the real packages: every block codec with gguf.quants, every MLX mode with mlx.core.

  check_kernels.py [BUILD_DIR]        (default build/release; needs its tests/tools/matmul_peer)

Decoded weights must have the package's bits. The product in f32 mode must lie within the bound of a float64 product of
them; in int8 mode within the error of eight-bit activations (and of mx.quantized_matmul, where there is one). Exit status 1
when anything differs; a package that is missing, or a format it does not know, is skipped by name.
"""
import subprocess
import sys

import numpy as np

try:
    import gguf
    from gguf import quants
except ImportError:
    gguf = None
try:
    import mlx.core as mx
except ImportError:
    mx = None

N, K, TOKENS = 37, 768, 9
rng = np.random.default_rng(7)
tool = (sys.argv[1] if len(sys.argv) > 1 else "build/release") + "/tests/tools/matmul_peer"
bad = 0

# Block codecs: bytes of a block, weights, where its f16 lie.
CODECS = {
    "q4_0": (18, 32, [0]), "q4_1": (20, 32, [0, 2]), "q5_0": (22, 32, [0]), "q5_1": (24, 32, [0, 2]),
    "q8_0": (34, 32, [0]), "q2_k": (84, 256, [80, 82]), "q3_k": (110, 256, [108]), "q4_k": (144, 256, [0, 2]),
    "q5_k": (176, 256, [0, 2]), "q6_k": (210, 256, [208]), "mxfp4": (17, 32, []), "nvfp4": (36, 64, []),
}


def run(name, stored, x):
    data = b"".join(np.ascontiguousarray(part).tobytes() for part in stored) + x.tobytes()
    out = subprocess.run([tool, name, str(N), str(K), str(TOKENS)], input=data, stdout=subprocess.PIPE, check=True).stdout
    out = np.frombuffer(out, np.float32)
    w, y = out[: N * K].reshape(N, K), out[N * K :].reshape(2, TOKENS, N)
    return w, y[0], y[1]


def compare(name, stored, want, package_y=None):
    global bad
    x = rng.standard_normal((TOKENS, K)).astype(np.float32)
    w, y32, y8 = run(name, stored, x)
    same = np.array_equal(w, want)
    y = x.astype(np.float64) @ w.astype(np.float64).T
    size = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T
    e32, e8 = (np.abs(y32 - y) / size).max(), (np.abs(y8 - y) / size).max()
    ok = same and e32 < (K / 4 + 8) * 2.0**-24 and e8 < 1 / 127
    line = f"weights {'equal' if same else 'DIFFER'}, f32 mode off by {e32:.1e}, int8 mode by {e8:.1e} of the magnitudes"
    if package_y is not None:
        ep = (np.abs(y8 - package_y(x)) / size).max()
        ok = ok and ep < 1 / 64
        line += f", from quantized_matmul {ep:.1e}"
    bad += not ok
    print(("ok - " if ok else "not ok - ") + name + ": " + line)


for name, (block, weights, halves) in CODECS.items():
    kind = gguf and getattr(gguf.GGMLQuantizationType, name.upper(), None)
    if kind is None:
        print(f"skip - {name}: {'this gguf does not know it' if gguf else 'no gguf package'}")
        continue
    raw = rng.integers(0, 256, (N, K // weights, block), np.uint8)
    for at in halves:
        raw[:, :, at : at + 2] = (rng.standard_normal((N, K // weights, 1)) * 0.02).astype(np.float16).view(np.uint8)
    if name == "mxfp4":
        raw[:, :, 0] = rng.integers(117, 130, (N, K // weights))
    raw = raw.reshape(N, -1)
    try:
        want = quants.dequantize(raw, kind)
    except NotImplementedError:
        print(f"skip - {name}: this gguf does not decode it")
        continue
    compare(name, [raw], want)

modes = [("affine", b, g) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)]
modes += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
for mode, bits, group in modes:
    name = f"affine:{bits}:{group}" if mode == "affine" else "mlx:" + mode
    if mx is None:
        print(f"skip - {name}: no mlx package")
        continue
    source = mx.array(rng.standard_normal((N, K)).astype(np.float32)).astype(mx.bfloat16)
    parts = mx.quantize(source, group_size=group, bits=bits, mode=mode)
    how = dict(scales=parts[1], biases=parts[2] if len(parts) > 2 else None, group_size=group, bits=bits, mode=mode)
    wide = dict(how)
    if mode == "affine":  # the package rounds to the type of the scales: give it f32
        wide["scales"], wide["biases"] = how["scales"].astype(mx.float32), how["biases"].astype(mx.float32)
        want = np.array(mx.dequantize(parts[0], **wide))
    else:
        want = np.array(mx.dequantize(parts[0], dtype=mx.float32, **wide))
    stored = [np.array(parts[0])] + [np.array(p.view(mx.uint8 if mode != "affine" else mx.uint16)) for p in parts[1:]]

    def product(x, w=parts[0], how=wide):
        return np.array(mx.quantized_matmul(mx.array(x), w, transpose=True, **how).astype(mx.float32))

    compare(name, stored, want, product)
sys.exit(bad > 0)
