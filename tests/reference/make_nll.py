#!/usr/bin/env python3
"""Perplexity goldens of the story models in float64 (forward.py), for the tests that bound what int8 activations cost.

  make_nll.py OUT           write OUT/nll.json
  make_nll.py --check OUT   compute again and compare to 1e-6

The first windows' ids are written too, so that the test needs neither the corpus nor a tokenizer. Needs the corpus
../shared/data/corpora/tinystories_val.txt; without it the check is skipped.
"""
import json
import os
import sys
from pathlib import Path

import forward

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("babyllama105-hf", "babyllama105-mlx-4bit-g64", "babyllama105-mlx-8bit-g64", "babyllama105-mlx-4bit-g32-mixed",
          "babyllama105-pad256-hf-f16", "babyllama105-padffn64-hf-bf16", "stories260K-hf", "stories260K-padffn64-hf")


SHORT = 8  # windows whose ids are kept


def short_ids(folder, corpus):
    with open(corpus, "rb") as f:
        text = f.read(65536).decode("utf-8", errors="ignore")
    return forward.tokenizer(str(folder)).encode(text, add_special_tokens=False).ids[: SHORT * 255]


def main(argv):
    check, out = argv[:1] == ["--check"], Path(argv[-1])
    data = ROOT / "../shared/data"
    corpus = data / "corpora/tinystories_val.txt"
    if not corpus.is_file():
        print(f"nll.json: skipped, {corpus} is missing")
        return 0
    found, ids = {}, {}
    for name in MODELS:
        folder = ROOT / "tests/models" / name
        if not folder.is_dir():
            folder = data / "models" / name
        r = forward.nll(str(folder), str(corpus))
        short = forward.nll(str(folder), str(corpus), SHORT)
        vocabulary = name.split("-")[0]
        ids.setdefault(vocabulary, short_ids(folder, corpus))
        assert ids[vocabulary] == short_ids(folder, corpus), name
        found[name] = {"windows": r["windows"], "scored": r["scored"], "mean_nll": round(float(r["mean_nll"]), 7), "ppl": round(r["ppl"], 6),
                       "short_ids": vocabulary, "short_mean_nll": round(float(short["mean_nll"]), 7)}
    path = out / "nll.json"
    if not check:
        with open(path, "w") as f:
            json.dump({"corpus": "corpora/tinystories_val.txt",
                       "protocol": "first 65536 bytes encoded once without special tokens, windows of 255 ids, bos before each, "
                                   "the 255 ids of each of the first 64 windows scored, KV cleared per window",
                       "arithmetic": "float64, weights as stored (tests/reference/forward.py)", "models": found, "short_windows": SHORT}, f, indent=1)
            f.write("\n")
        with open(out / "nll-ids.json", "w") as f:  # windows of 255 ids, one after the other; bos (1) goes before each
            json.dump(ids, f)
            f.write("\n")
        return 0
    with open(path) as f:
        kept = json.load(f)["models"]
    bad = [n for n in found if any(abs(found[n][k] - kept[n][k]) > 1e-6 for k in ("mean_nll", "short_mean_nll"))]
    print(f"nll.json: {len(found)} models, {len(bad)} different {' '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
