"""Print mlx.txt: SHA-256 of what the real mlx package (CPU) quantizes the rows of test_codec.c to.

    python3 tests/vectors/codec/make_mlx.py > tests/vectors/codec/mlx.txt

Needs mlx and numpy (tests/reference/requirements.txt says which). The rows are made by the same
integer formula as in tests/unit/test_codec.c, with the same f32 operations in the same order.
"""

import hashlib

import mlx.core as mx
import numpy as np

F = np.float32
K = 1024


def uniform():
    state = 88172645463325252
    while True:
        state ^= state << 13 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 7
        state ^= state << 17 & 0xFFFFFFFFFFFFFFFF
        yield F(state >> 40) * F(2.0**-23) - F(1)


def rows():
    """The 15 kinds of row, in the order of make_rows() in test_codec.c."""
    u = uniform()
    out = np.zeros((15, K), F)
    for kind in range(15):
        g = np.zeros(K, F)
        for i in range(K):
            a, b, c = next(u), next(u), next(u)
            g[i] = a + b + c
        i = np.arange(K)
        out[kind] = [
            lambda: g * F(0.1),
            lambda: g * g * g * g * g,
            lambda: np.abs(g),
            lambda: -np.abs(g),
            lambda: np.zeros(K, F),
            lambda: np.where(i % 3 == 0, g, F(0)),
            lambda: np.where((i % 512 >= 32) & (i % 512 < 256), F(0), g),
            lambda: np.full(K, g[0]),
            lambda: g * F(1e-9),
            lambda: g * F(3e-16),
            lambda: g * F(1e-31),
            lambda: np.trunc(g * F(3)) + F(0),
            lambda: (g.view(np.uint32) & 0xFFFF0000).view(F),
            lambda: g * F(1e4),
            lambda: g * F(0.01) + F(5),
        ][kind]()
    return out


def raw(a):
    a = a if a.dtype in (mx.float32, mx.uint32, mx.uint8) else a.view(mx.uint16)
    return np.array(a).tobytes()


def main():
    mx.set_default_device(mx.cpu)
    x = rows()
    # Names are those of formats; affine4g64bf16 and so on.
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for name, dtype in (("f32", mx.float32), ("f16", mx.float16), ("bf16", mx.bfloat16)):
                parts = mx.quantize(mx.array(x).astype(dtype), group_size=group, bits=bits)
                digest = hashlib.sha256(b"".join(raw(p) for p in parts)).hexdigest()
                print(f"affine{bits}g{group}{name} {digest}")
    # Positive rows without zeros: for those MLX's CPU and GPU code agree.
    for mode in ("mxfp4", "mxfp8", "nvfp4"):
        parts = mx.quantize(mx.array(np.abs(x[[0, 1, 13]])), mode=mode)
        decoded = mx.dequantize(*parts, mode=mode, dtype=mx.float32)
        for p in parts[0], parts[1], decoded:
            print(f"{mode} {hashlib.sha256(raw(p)).hexdigest()}")


if __name__ == "__main__":
    main()
