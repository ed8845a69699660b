#!/usr/bin/env python3
"""Compare raw f32 logits (cake-master --dump-logits) with a reference.

  compare_logits.py FILE REFERENCE [--columns N] [--tolerance T] [--last]

REFERENCE is another raw f32 file, or a folder with reference.json and logits.f32. --last compares the last row of each.
Prints the greatest difference, the RMS and the rows whose best token differs; exit 1 above the tolerance (1e-3).
"""
import argparse
import json
import os
import sys

import numpy as np


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("file")
    a.add_argument("reference")
    a.add_argument("--columns", type=int)
    a.add_argument("--tolerance", type=float, default=1e-3)
    a.add_argument("--last", action="store_true")
    args = a.parse_args()
    reference = args.reference
    if os.path.isdir(reference):
        with open(os.path.join(reference, "reference.json")) as f:
            r = json.load(f)
        if "logits_file" in r:
            args.columns, want = r["logits_columns"], np.fromfile(os.path.join(reference, r["logits_file"]), "<f4")
        else:
            want = np.array(r["logits_after_prompt"], np.float32)
            args.columns, args.last = want.size, True
    else:
        want = np.fromfile(reference, "<f4")
    if not args.columns:
        a.error("--columns is needed when the reference is a raw file")
    got, want = np.fromfile(args.file, "<f4").reshape(-1, args.columns), want.reshape(-1, args.columns)
    if args.last:
        got, want = got[-1:], want[-1:]
    if got.shape != want.shape:
        print(f"shapes differ: {got.shape} and {want.shape}")
        return 1
    d = np.abs(got.astype(np.float64) - want)
    flips = np.flatnonzero(got.argmax(1) != want.argmax(1)).tolist()
    print(f"rows {len(got)}, greatest difference {d.max():.3e}, rms {np.sqrt((d * d).mean()):.3e}, best token differs in rows {flips}")
    return 0 if d.max() <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
