#!/usr/bin/env python3
"""An independent float64 forward pass of the Llama, Qwen2, Qwen3 and Gemma families, and of mixtures of experts, in numpy.

Written from the format specification alone (safetensors container, MLX affine packing, rope kinds, blocks); it shares
no code with the programs under test nor with mlx-lm or transformers, and is cross-checked against both by
make_models.py. Reads any model folder: plain f32/f16/bf16, MLX affine, mxfp4, mxfp8, nvfp4, or blocks as mlx-kquant stores them (decoded by
the `gguf` package), single-file or sharded.

  forward.py DIR --ids 1,2,3            logits of the last position, one per line
  forward.py DIR --ids 1,2,3 --all      one row of logits per position
  forward.py DIR --greedy 20 --ids ...  continue greedily, print the ids
  forward.py DIR --text "Once upon"     the same with DIR/tokenizer.json (needs the `tokenizers` package)
  forward.py DIR --nll CORPUS           mean NLL by the protocol of reference.json (needs `tokenizers`)
"""
import argparse
import json
import math
import os
import sys

import numpy as np

# ---------------------------------------------------------------- container


def _float(raw, dtype):
    if dtype == "F32":
        return np.frombuffer(raw, "<f4")
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    raise SystemExit(f"forward.py: dtype {dtype} is not a float type")


class Tensors:
    """name -> (dtype, shape, bytes) over all shards of a folder."""

    def __init__(self, folder):
        index = os.path.join(folder, "model.safetensors.index.json")
        if os.path.exists(index):
            with open(index) as f:
                files = sorted(set(json.load(f)["weight_map"].values()))
        else:
            files = ["model.safetensors"]
        self.where = {}
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                blob = f.read()
            n = int.from_bytes(blob[:8], "little")
            for key, entry in json.loads(blob[8 : 8 + n]).items():
                if key == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                self.where[key] = (entry["dtype"], entry["shape"], blob[8 + n + begin : 8 + n + end])

    def __contains__(self, name):
        return name in self.where

    def floats(self, name):
        dtype, shape, raw = self.where[name]
        return _float(raw, dtype).reshape(shape)


def unpack_codes(raw, rows, bits, k):
    """Each row is one little-endian, least-significant-bit-first stream of k codes."""
    bytes_ = np.frombuffer(raw, np.uint8).reshape(rows, k * bits // 8)
    stream = np.unpackbits(bytes_, axis=1, bitorder="little").reshape(rows, k, bits)
    return stream.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
FP = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}  # mode -> group, bits


def e4m3(codes):
    """MLX's reading: no NaN, 0x7F is 480."""
    c = codes.astype(np.int64)
    e, m = c >> 3 & 15, (c & 7).astype(np.float64)
    return np.where(c >> 7, -1.0, 1.0) * np.where(e == 0, m * 2.0**-9, (8 + m) * 2.0 ** (e - 10))


class Weights(Tensors):
    """Weight matrices in float64, dequantized from what is stored: s*q + b, fp modes, blocks (by the gguf package)."""

    def __init__(self, folder, config):
        super().__init__(folder)
        self.quant = config.get("quantization") or config.get("quantization_config") or {}
        self.cache = {}

    def parameters(self, path):
        over = self.quant.get(path, True)
        if over is False:
            raise SystemExit(f"forward.py: {path} has scales but its override is false")
        source = self.quant if over is True else over
        group, bits = source.get("group_size"), source.get("bits")
        if source.get("mode", "affine") != "affine":
            raise SystemExit(f"forward.py: {path}: mode {source['mode']} is not covered here")
        return (64 if group is None else group), (4 if bits is None else bits)

    def mode(self, path):
        """"affine", an fp mode, or the codec of a kquant module; None for a float one."""
        if self.quant.get("mode") == "kquant":
            return self.quant["per_tensor"].get(path)
        if path + ".scales" not in self:
            return None
        over = self.quant.get(path, True)
        return (self.quant if over is True else over).get("mode", "affine")

    def blocks(self, path, codec):
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        dtype, shape, raw = self.where[path + ".weight"]
        assert dtype == "U8" and len(shape) in (2, 3), path
        kind = GGMLQuantizationType[codec.upper() if codec[-2:] != "_k" else codec[:-1].upper() + "K"]
        return dequantize(np.frombuffer(raw, np.uint8).reshape(shape), kind).astype(np.float64)

    def fp(self, path, mode):
        group, bits = FP[mode]
        dtype, shape, raw = self.where[path + ".weight"]
        assert dtype == "U32" and path + ".biases" not in self, path
        lead, k = tuple(shape[:-1]), shape[-1] * 32 // bits
        scales = np.frombuffer(self.where[path + ".scales"][2], np.uint8).reshape(*lead, k // group)
        scales = e4m3(scales) if mode == "nvfp4" else 2.0 ** (scales.astype(np.float64) - 127)
        codes = unpack_codes(raw, math.prod(lead), bits, k)
        values = E2M1[codes] if bits == 4 else e4m3(codes)
        return (values.reshape(*lead, k // group, group) * scales[..., None]).reshape(*lead, k)

    def matrix(self, path):
        if path not in self.cache:
            mode = self.mode(path)
            if mode is not None and self.quant.get("mode") == "kquant":
                w = self.blocks(path, mode)  # GGUF's mxfp4 and nvfp4, not MLX's
            elif mode in FP:
                w = self.fp(path, mode)
            elif mode == "affine":
                group, bits = self.parameters(path)
                dtype, shape, raw = self.where[path + ".weight"]
                assert dtype == "U32" and shape[-1] * 32 % bits == 0, path
                lead, k = tuple(shape[:-1]), shape[-1] * 32 // bits  # a stack of experts leads with their number
                scales = self.floats(path + ".scales").astype(np.float64)
                biases = self.floats(path + ".biases").astype(np.float64)
                assert scales.shape == lead + (k // group,), (path, scales.shape, lead, k, group)
                codes = unpack_codes(raw, math.prod(lead), bits, k).reshape(*lead, k // group, group)
                w = (scales[..., None] * codes + biases[..., None]).reshape(*lead, k)
            else:
                w = self.floats(path + ".weight").astype(np.float64)
            self.cache[path] = w
        return self.cache[path]

    def bias(self, path):
        return self.floats(path + ".bias").astype(np.float64) if path + ".bias" in self else None


# ---------------------------------------------------------------- model


def rope_frequencies(config, dims, local=False):
    """(inverse frequencies [dims/2], factor on the rotated values); local: of Gemma 3's sliding layers."""
    rope = config.get("rope_scaling") or {}
    base = config.get("rope_theta")
    if local:
        rope, base = {}, config.get("rope_local_base_freq", 1e4)
    if config.get("rope_parameters"):
        rope = config["rope_parameters"]
        if "full_attention" in rope:
            rope = rope["sliding_attention" if local else "full_attention"]
        base = rope.get("rope_theta", base)
    if base is None:
        base = 1e6 if config["model_type"] in ("qwen2", "gemma3_text") else 1e4
    kind = rope.get("type") or rope.get("rope_type") or "default"
    period = float(base) ** (np.arange(0, dims, 2, dtype=np.float64) / dims)
    if kind in ("default", "mrope"):
        return 1 / period, 1.0
    factor = float(rope["factor"])
    if kind == "linear":
        return 1 / (period * factor), 1.0
    original = rope.get("original_max_position_embeddings")
    if kind == "llama3":
        low_f, high_f = rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
        original = original or 8192
        out = period.copy()
        for i, p in enumerate(period):
            wavelength = 2 * math.pi * p
            if wavelength > original / low_f:
                out[i] = p * factor
            elif wavelength >= original / high_f:
                s = (original / wavelength - low_f) / (high_f - low_f)
                out[i] = p / ((1 - s) / factor + s)
        return 1 / out, 1.0
    if kind == "yarn":
        original = original or 4096

        def turns_at(r):
            return dims * math.log(original / (r * 2 * math.pi)) / (2 * math.log(base))

        lo = max(math.floor(turns_at(rope.get("beta_fast", 32))), 0)
        hi = min(math.ceil(turns_at(rope.get("beta_slow", 1))), dims - 1)
        ramp = np.clip((np.arange(dims // 2) - lo) / ((hi - lo) or 0.001), 0, 1)
        inverse = (1 / period) * ((1 - ramp) + ramp / factor)

        def m(scale):
            return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

        return inverse, m(rope.get("mscale", 1)) / m(rope.get("mscale_all_dim", 0))
    raise SystemExit(f"forward.py: rope type {kind} is not covered here")


def text_config(c):
    """config.json of a text model, or what one of a model that sees says about its text model."""
    if c["model_type"] != "gemma3":
        return c
    outer = {k: v for k, v in c.items() if k not in ("architectures", "model_type", "text_config", "vision_config")}
    return {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208, **c["text_config"], **outer,
            "model_type": "gemma3_text"}


def bf16(x):
    """To the nearest bfloat16, ties to even."""
    bits = np.float32(x).view(np.uint32)
    return float(np.uint32((int(bits) + 0x7FFF + (int(bits) >> 16 & 1)) & 0xFFFF0000).view(np.float32))


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as f:
            c = self.config = text_config(json.load(f))
        if c["model_type"] not in ("llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "mixtral", "gemma", "gemma2", "gemma3_text"):
            raise SystemExit(f"forward.py: model_type {c['model_type']} is not covered here")
        self.w = Weights(folder, c)
        self.prefix = "language_model." if any(n.startswith("language_model.") for n in self.w.where) else ""
        self.gemma = c["model_type"].startswith("gemma")
        self.post_norms = self.gemma and c["model_type"] != "gemma"
        self.layers = c["num_hidden_layers"]
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.head_dim = c.get("head_dim") or (256 if self.gemma else c["hidden_size"] // self.heads)
        self.eps = c.get("rms_norm_eps", 1e-6)
        self.angles = [rope_frequencies(c, self.head_dim)] * 2  # of layers that see all, of sliding ones
        if c["model_type"] == "gemma3_text":
            self.angles[1] = rope_frequencies(c, self.head_dim, local=True)
        tied = None if self.gemma else c.get("tie_word_embeddings")
        if tied is None:
            tied = self.prefix + "lm_head.weight" not in self.w
        self.head = self.prefix + ("model.embed_tokens" if tied else "lm_head")
        self.scale = (c.get("query_pre_attn_scalar", 256) if self.post_norms else self.head_dim) ** -0.5
        second = c["model_type"] == "gemma2"
        self.attn_cap = c.get("attn_logit_softcapping", 50.0) if second else None
        self.logit_cap = c.get("final_logit_softcapping", 30.0 if second else None)
        self.sliding = [t == "sliding_attention" for t in c.get("layer_types") or []]
        if not self.sliding:
            pattern = 2 if second else c.get("sliding_window_pattern", 6)
            self.sliding = [self.post_norms and (i + 1) % pattern != 0 for i in range(self.layers)]

    def linear(self, x, path):
        y = x @ self.w.matrix(path).T
        bias = self.w.bias(path)
        return y if bias is None else y + bias

    def norm(self, x, name):
        weight = self.w.floats(name + ".weight").astype(np.float64) + (1 if self.gemma else 0)
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * weight

    def rope(self, x, sliding):
        """x [T, heads, head_dim], positions 0..T-1; pairs (i, i + head_dim/2)."""
        inverse, factor = self.angles[sliding]
        angle = np.arange(x.shape[0], dtype=np.float64)[:, None] * inverse
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        half = self.head_dim // 2
        a, b = x[..., :half] * factor, x[..., half:] * factor
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attention(self, x, p, sliding):
        t = x.shape[0]
        q = self.linear(x, p + "q_proj").reshape(t, self.heads, self.head_dim)
        k = self.linear(x, p + "k_proj").reshape(t, self.kv_heads, self.head_dim)
        v = self.linear(x, p + "v_proj").reshape(t, self.kv_heads, self.head_dim)
        if self.config["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text"):
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
        q, k = self.rope(q, sliding), self.rope(k, sliding)
        group = self.heads // self.kv_heads
        out = np.empty_like(q)
        mask = np.triu(np.full((t, t), -np.inf), 1)
        if sliding:
            mask += np.tril(np.full((t, t), -np.inf), -self.config.get("sliding_window", 4096))
        for h in range(self.heads):
            s = q[:, h] @ k[:, h // group].T * self.scale
            s = (self.attn_cap * np.tanh(s / self.attn_cap) if self.attn_cap else s) + mask
            e = np.exp(s - s.max(axis=1, keepdims=True))
            out[:, h] = e / e.sum(axis=1, keepdims=True) @ v[:, h // group]
        return self.linear(out.reshape(t, -1), p + "o_proj")

    def feed_forward(self, x, p):
        gate = self.linear(x, p + "gate_proj")
        if self.gemma:
            gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * self.linear(x, p + "up_proj"), p + "down_proj")

    def has_experts(self, i):
        c = self.config
        return ((c.get("num_experts") or c.get("num_local_experts") or 0) > 0 and i not in (c.get("mlp_only_layers") or [])
                and (i + 1) % c.get("decoder_sparse_step", 1) == 0)

    def expert(self, p, e, name):
        """A stack of all experts, or a matrix for each; mixtral has its own names for the latter."""
        if p + f"switch_mlp.{name}.weight" in self.w:
            return self.w.matrix(p + "switch_mlp." + name)[e]
        leaf = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[name] if "block_sparse" in p else name
        return self.w.matrix(p + f"experts.{e}.{leaf}")

    def experts(self, x, p):
        c, k = self.config, self.config["num_experts_per_tok"]
        z = self.linear(x, p + "gate")
        z = np.exp(z - z.max(axis=1, keepdims=True))
        prob = z / z.sum(axis=1, keepdims=True)
        out = np.zeros_like(x)
        for t, row in enumerate(prob):
            chosen = np.argsort(-row, kind="stable")[:k]
            total = row[chosen].sum() if c.get("norm_topk_prob", c["model_type"] == "mixtral") else 1.0
            for e in sorted(chosen):
                gate = self.expert(p, e, "gate_proj") @ x[t]
                h = gate / (1 + np.exp(-gate)) * (self.expert(p, e, "up_proj") @ x[t])
                out[t] += row[e] / total * (self.expert(p, e, "down_proj") @ h)
        if p + "shared_expert_gate.weight" in self.w:
            mix = self.linear(x, p + "shared_expert_gate")
            out += self.feed_forward(x, p + "shared_expert.") / (1 + np.exp(-mix))
        return out

    def logits(self, ids, last=False):
        """[len(ids), vocab] in float64 (only the last row if asked)."""
        x = self.w.matrix(self.prefix + "model.embed_tokens")[np.asarray(ids)]
        if self.gemma:
            x = x * bf16(self.config["hidden_size"] ** 0.5)
        for i in range(self.layers):
            p = f"{self.prefix}model.layers.{i}."
            a = self.attention(self.norm(x, p + "input_layernorm"), p + "self_attn.", self.sliding[i])
            if self.post_norms:
                x = x + self.norm(a, p + "post_attention_layernorm")
                h = self.feed_forward(self.norm(x, p + "pre_feedforward_layernorm"), p + "mlp.")
                x = x + self.norm(h, p + "post_feedforward_layernorm")
                continue
            x = x + a
            h = self.norm(x, p + "post_attention_layernorm")
            if not self.has_experts(i):
                x = x + self.feed_forward(h, p + "mlp.")
            elif self.config["model_type"] == "mixtral":
                x = x + self.experts(h, p + "block_sparse_moe.")
            else:
                x = x + self.experts(h, p + "mlp.")
        if last:
            x = x[-1:]
        z = self.linear(self.norm(x, self.prefix + "model.norm"), self.head)
        return self.logit_cap * np.tanh(z / self.logit_cap) if self.logit_cap else z

    def greedy(self, ids, count):
        """(ids, smallest gap between the best and the second logit on the way)."""
        ids, out, margin = list(ids), [], math.inf
        for _ in range(count):
            row = self.logits(ids, last=True)[0]
            top = np.sort(row)[-2:]
            margin = min(margin, float(top[1] - top[0]))
            out.append(int(row.argmax()))
            ids.append(out[-1])
        return out, margin


def tokenizer(folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def nll(folder, corpus, windows=64, length=255, head_bytes=65536):
    """The protocol of reference.json: ids of the first 64 KiB, windows of 255 ids, bos before each, no shared context."""
    model = Model(folder)
    with open(corpus, "rb") as f:
        text = f.read(head_bytes).decode("utf-8", errors="ignore")
    ids = tokenizer(folder).encode(text, add_special_tokens=False).ids
    bos = model.config["bos_token_id"]
    total, count = 0.0, 0
    for i in range(windows):
        window = ids[i * length : (i + 1) * length]
        if len(window) < length:
            break
        z = model.logits([bos] + window[:-1])
        z = z - z.max(axis=1, keepdims=True)
        logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        total -= logp[np.arange(length), window].sum()
        count += length
    return {"total_ids": len(ids), "windows": count // length, "scored": count, "mean_nll": total / count, "ppl": math.exp(total / count)}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder")
    a.add_argument("--ids", type=lambda s: [int(x) for x in s.split(",")])
    a.add_argument("--text")
    a.add_argument("--all", action="store_true")
    a.add_argument("--greedy", type=int)
    a.add_argument("--nll", metavar="CORPUS")
    a.add_argument("--windows", type=int, default=64)
    args = a.parse_args()
    if args.nll:
        print(json.dumps(nll(args.folder, args.nll, args.windows)))
        return
    ids = tokenizer(args.folder).encode(args.text).ids if args.text else args.ids
    if not ids:
        a.error("give --ids, --text or --nll")
    model = Model(args.folder)
    if args.greedy:
        out, margin = model.greedy(ids, args.greedy)
        print(json.dumps({"prompt_ids": ids, "greedy_ids": out, "min_top2_margin": margin}))
        if args.text:
            print(tokenizer(args.folder).decode(ids + out))
        return
    for row in model.logits(ids, last=not args.all):
        print("\n".join(f"{v:.6f}" for v in row) if not args.all else " ".join(f"{v:.6f}" for v in row))


if __name__ == "__main__":
    sys.exit(main())
