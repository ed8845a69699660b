#!/usr/bin/env python3
"""Run a model folder in the real transformers, in float32; MLX-affine weights are dequantized first.

  peer_transformers.py DIR --ids 1,2,3 [--out F]   logits of every position; raw f32 rows into F, or the last row printed
  peer_transformers.py DIR --ids 1,2,3 --greedy N  greedy ids
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import forward
from make_models import transformers_model


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder")
    a.add_argument("--ids", required=True, type=lambda s: [int(x) for x in s.split(",")])
    a.add_argument("--greedy", type=int)
    a.add_argument("--out")
    args = a.parse_args()
    model = transformers_model(Path(args.folder), forward.Model(args.folder).w)
    ids = torch.tensor([args.ids])
    with torch.no_grad():
        if args.greedy:
            out = model.generate(ids, max_new_tokens=args.greedy, do_sample=False, eos_token_id=None, pad_token_id=0)
            print(json.dumps(out[0].tolist()[len(args.ids):]))
            return 0
        rows = model(ids).logits[0].float().numpy()
    if args.out:
        rows.astype("<f4").tofile(args.out)
    else:
        print("\n".join(f"{v:.6f}" for v in np.asarray(rows)[-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
