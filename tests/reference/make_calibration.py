#!/usr/bin/env python3
"""Golden for the statistics of matrix inputs: tests/vectors/reference/calibration.json.

Runs the float64 forward pass of forward.py over the prompt of a shipped model and keeps, for every matrix, the mean over
the columns of the mean square of its inputs, and the first four columns. Needs numpy.
"""
import json
import os

import numpy as np

import forward

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
MODELS = ["babyllama105-hf", "stories260K-hf"]


def main():
    out = {}
    for name in MODELS:
        folder = os.path.join(ROOT, "models", name)
        model = forward.Model(folder)
        with open(os.path.join(folder, "reference.json")) as f:
            ids = json.load(f)["prompt_ids"]
        seen = {}
        linear = model.linear

        def spy(x, path):
            seen[path] = np.mean(np.asarray(x, np.float64) ** 2, axis=0)
            return linear(x, path)

        model.linear = spy
        model.logits(ids)
        if model.head == "model.embed_tokens":
            seen["head"] = seen.pop("model.embed_tokens")
        out[name] = {p: {"mean": float(v.mean()), "first": [float(x) for x in v[:4]]} for p, v in seen.items()}
    with open(os.path.join(ROOT, "vectors", "reference", "calibration.json"), "w") as f:
        json.dump({"source": "tests/reference/make_calibration.py", "models": out}, f, indent=1)
        f.write("\n")


main()
