#!/usr/bin/env python3
"""Run a model folder in the real mlx-lm.

  peer_mlx.py DIR --ids 1,2,3 [--out F] [--as-stored]   logits of every position; raw f32 rows into F, or the last row printed
  peer_mlx.py DIR --ids 1,2,3 --greedy N                greedy ids
  peer_mlx.py DIR --tensor PATH --out F                 one dequantized matrix, raw f32
  peer_mlx.py DIR --check                               load strictly, nothing else: exit status 0 when mlx-lm accepts the folder

Floats are widened to float32 before running unless --as-stored.
"""
import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def load(folder, as_stored=False):
    model, config = load_model(Path(folder))
    if not as_stored:
        model.set_dtype(mx.float32)
    return model, config


def logits(model, ids):
    return np.array(model(mx.array([list(ids)])).astype(mx.float32))[0]


def greedy(model, ids, count):
    ids, out = list(ids), []
    for _ in range(count):
        out.append(int(logits(model, ids)[-1].argmax()))
        ids.append(out[-1])
    return out


def dequantized(model, path):
    module = dict(model.named_modules())[path]
    if not hasattr(module, "scales"):
        return np.array(module.weight.astype(mx.float32))
    w = mx.dequantize(module.weight, module.scales, getattr(module, "biases", None), group_size=module.group_size,
                      bits=module.bits, mode=getattr(module, "mode", "affine"))
    return np.array(w.astype(mx.float32))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder")
    a.add_argument("--ids", type=lambda s: [int(x) for x in s.split(",")])
    a.add_argument("--greedy", type=int)
    a.add_argument("--tensor")
    a.add_argument("--out")
    a.add_argument("--as-stored", action="store_true")
    a.add_argument("--check", action="store_true")
    args = a.parse_args()
    model, _ = load(args.folder, args.as_stored)
    if args.check:
        return 0
    if args.tensor:
        rows = dequantized(model, args.tensor)
    elif args.greedy:
        print(json.dumps(greedy(model, args.ids, args.greedy)))
        return 0
    elif args.ids:
        rows = logits(model, args.ids)
    else:
        a.error("give --ids, --tensor or --check")
    if args.out:
        rows.astype("<f4").tofile(args.out)
    else:
        print("\n".join(f"{v:.6f}" for v in rows[-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
