#!/usr/bin/env python3
"""Make a GGUF file of a Hugging Face folder with the real `gguf` package: its writer, its name map, its quantizers.

  make_gguf.py FOLDER OUT.gguf [--type f32|f16|bf16|q8_0|q4_0|q4_1|q5_0|q5_1] [--kquant DIR] [--tokenizer DIR] [--pre NAME]
               [--blocks] [--split N]

Matrices whose rows divide into blocks get the type, the others stay as they are (f16 for quantized types). Llama's q and k rows are
permuted and Gemma's norms get their 1 as llama.cpp's converter does. --kquant also writes the same blocks as an mlx-kquant checkpoint (safetensors),
so that two readers of the same weights can be compared. --blocks takes the rows of a kquant FOLDER as they are. --tokenizer: a
folder whose tokenizer.json goes into the metadata (default: FOLDER). --split N: into N files.
"""
import argparse
import json
import shutil
from pathlib import Path

import gguf
import numpy as np

import forward

ARCH = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
        "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3"}
F = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16}


def kind_of(codec):
    return gguf.GGMLQuantizationType[codec[:-1].upper() + "K" if codec.endswith("_k") else codec.upper()]


def permute(w, heads):
    """Hugging Face's halves of each head to adjacent pairs, rows as they are."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


# ---------------------------------------------------------------- metadata


def add_config(w, c, arch, tensors):
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c.get("num_key_value_heads") or c["num_attention_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    head = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    rope = c.get("rope_parameters") or {}
    theta = c.get("rope_theta") or rope.get("rope_theta")
    if theta:
        w.add_rope_freq_base(theta)
    w.add_rope_dimension_count(head)
    if c.get("head_dim"):
        w.add_key_length(head)
        w.add_value_length(head)
    w.add_vocab_size(c["vocab_size"])
    if "num_local_experts" in c:
        w.add_expert_count(c["num_local_experts"])
        w.add_expert_used_count(c["num_experts_per_tok"])
    if arch.endswith("moe"):
        w.add_expert_count(c["num_experts"])
        w.add_expert_used_count(c["num_experts_per_tok"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
        if "shared_expert_intermediate_size" in c:
            w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
        if "norm_topk_prob" in c:
            w.add_expert_weights_norm(c["norm_topk_prob"])
    if arch in ("gemma2", "gemma3"):
        w.add_sliding_window(c["sliding_window"])
        if c.get("attn_logit_softcapping"):
            w.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        if c.get("final_logit_softcapping"):
            w.add_final_logit_softcapping(c["final_logit_softcapping"])
    if arch == "gemma3":
        w.add_uint32("gemma3.attention.sliding_window_pattern", c.get("sliding_window_pattern", 6))
    scaling = c.get("rope_scaling") or rope
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR if kind == "linear" else gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(scaling["factor"])
        if "original_max_position_embeddings" in scaling:
            w.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "beta_fast" in scaling:
            w.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
            w.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
    elif kind == "llama3":
        original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if original != 8192:
            w.add_rope_scaling_orig_ctx_len(original)
        out = []
        for f in 1.0 / theta ** (np.arange(0, head, 2, dtype=np.float32) / np.float32(head)):
            wave = 2 * np.pi / f
            if wave < original / high:
                out.append(1)
            elif wave > original / low:
                out.append(factor)
            else:
                smooth = (original / wave - low) / (high - low)
                out.append(1 / ((1 - smooth) / factor + smooth))
        tensors["rope_freqs.weight"] = (np.array(out, np.float32), gguf.GGMLQuantizationType.F32)


def add_tokenizer(w, folder, pre, vocab):
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    tok = json.load(open(path))
    conf = json.load(open(folder / "tokenizer_config.json")) if (folder / "tokenizer_config.json").exists() else {}
    m, T = tok["model"], gguf.TokenType
    spm = tok.get("pre_tokenizer") is None
    names = {i: t for t, i in m["vocab"].items()}
    added = {a["content"]: a for a in tok["added_tokens"]}
    names.update({a["id"]: a["content"] for a in tok["added_tokens"]})
    merges = [x.split(" ") if isinstance(x, str) else x for x in m["merges"]]
    rank = {}
    for i, (a, b) in enumerate(merges):
        rank.setdefault(a + b, i)
    tokens, scores, types = [], [], []
    for i in range(max(vocab, max(names) + 1)):
        t = names.get(i)
        if t is None:
            tokens.append(f"[PAD{i}]"), types.append(T.UNUSED), scores.append(-1e4)
            continue
        tokens.append(t)
        scores.append(-1e6 if t not in rank else -float(rank[t]))
        if t == m.get("unk_token"):
            types.append(T.UNKNOWN)
        elif t in added:
            types.append(T.CONTROL if added[t]["special"] else T.USER_DEFINED)
        elif m.get("byte_fallback") and len(t) == 6 and t.startswith("<0x"):
            types.append(T.BYTE)
        else:
            types.append(T.NORMAL)
    w.add_tokenizer_model("llama" if spm else "gpt2")
    w.add_tokenizer_pre("default" if spm else pre)
    w.add_token_list(tokens)
    if spm:
        w.add_token_scores(scores)
    else:
        w.add_token_merges([" ".join(x) for x in merges])
    w.add_token_types(types)

    def special(key):
        t = conf.get(key)
        return t["content"] if isinstance(t, dict) else t

    ids = {t: i for i, t in names.items()}
    if special("bos_token"):
        w.add_bos_token_id(ids[special("bos_token")])
    if special("eos_token"):
        w.add_eos_token_id(ids[special("eos_token")])
    if special("unk_token") and spm:
        w.add_unk_token_id(ids[special("unk_token")])
    if "add_bos_token" in conf:
        w.add_add_bos_token(conf["add_bos_token"])
    if "add_eos_token" in conf:
        w.add_add_eos_token(conf["add_eos_token"])
    if isinstance(conf.get("chat_template"), str):
        w.add_chat_template(conf["chat_template"])


# ---------------------------------------------------------------- tensors


def store(x, kind):
    """(array for the writer, kind): matrices in `kind` where their rows divide into blocks, else f16; vectors f32."""
    if x.ndim < 2:
        return x.astype(np.float32), gguf.GGMLQuantizationType.F32
    if kind not in F.values() and x.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    if kind == gguf.GGMLQuantizationType.F32:
        return x.astype(np.float32), kind
    if kind == gguf.GGMLQuantizationType.F16:
        return x.astype(np.float16), kind
    return gguf.quants.quantize(x.astype(np.float32), kind), kind


def write_kquant(folder, source, config, stored):
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    out, per = {}, {}
    for name, (x, kind) in stored.items():
        path = name[: -len(".weight")]
        if x.dtype == np.uint8:
            per[path] = kind.name.lower()
            out[path + ".scales"] = np.zeros(1, np.uint8)
        out[name] = np.ascontiguousarray(x)
    save_file(out, folder / "model.safetensors", metadata={"format": "mlx"})
    config = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
    if per:
        config["quantization"] = config["quantization_config"] = {"mode": "kquant", "per_tensor": per}
    json.dump(config, open(folder / "config.json", "w"), indent=2)
    for f in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / f).exists():
            shutil.copyfile(source / f, folder / f)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder", type=Path)
    a.add_argument("out", type=Path)
    a.add_argument("--type", default="f16")
    a.add_argument("--kquant", type=Path)
    a.add_argument("--tokenizer", type=Path)
    a.add_argument("--pre", default="llama-bpe")
    a.add_argument("--blocks", action="store_true")
    a.add_argument("--split", type=int, default=0)
    args = a.parse_args()
    config = json.load(open(args.folder / "config.json"))
    arch = ARCH[config["model_type"]]
    source = forward.Tensors(str(args.folder))
    per_tensor = (config.get("quantization") or {}).get("per_tensor", {}) if args.blocks else {}

    stored = {}
    for name, (dtype, shape, raw) in source.where.items():
        path = name.rsplit(".", 1)[0]
        if name.endswith(".scales") or "rotary_emb" in name:
            continue
        if path in per_tensor and name.endswith(".weight"):
            stored[name] = np.frombuffer(raw, np.uint8).reshape(shape), kind_of(per_tensor[path])
        elif dtype == "BF16" and args.type in ("bf16", "f32") and len(shape) > 1 and args.blocks:
            stored[name] = source.floats(name), F["f32"]
        else:
            router = path.endswith(("mlp.gate", "moe.gate", "shared_expert_gate"))  # which llama.cpp never quantizes
            stored[name] = store(source.floats(name), F["f32"] if router else F.get(args.type) or kind_of(args.type))

    # stacks of experts
    for i in range(config["num_hidden_layers"]):
        for p in ("gate_proj", "up_proj", "down_proj"):
            one = f"model.layers.{i}.mlp.experts.%d.{p}.weight"
            if one % 0 in stored:
                parts = [stored.pop(one % e) for e in range(config["num_experts"])]
                stored[f"model.layers.{i}.mlp.switch_mlp.{p}.weight"] = np.stack([x for x, _ in parts]), parts[0][1]
        for p, ours in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):  # Mixtral
            one = f"model.layers.{i}.block_sparse_moe.experts.%d.{p}.weight"
            if one % 0 in stored:
                parts = [stored.pop(one % e) for e in range(config["num_local_experts"])]
                stored[f"model.layers.{i}.block_sparse_moe.switch_mlp.{ours}.weight"] = np.stack([x for x, _ in parts]), parts[0][1]
    if args.kquant:
        write_kquant(args.kquant, args.folder, config, stored)

    w = gguf.GGUFWriter(args.out, arch, split_max_tensors=-(-len(stored) // args.split) if args.split else 0)
    w.add_type("model")
    w.add_name(args.folder.name)
    extra = {}
    add_config(w, config, arch, extra)
    add_tokenizer(w, args.tokenizer or args.folder, args.pre, config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH_NAMES and next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch),
                                     config["num_hidden_layers"])
    for name, (x, kind) in {**stored, **extra}.items():
        known = name.replace("switch_mlp", "experts").replace("block_sparse_moe.experts", "mlp.experts")
        g = name if name in extra else names.get_name(known, try_suffixes=(".weight", ".bias"))
        assert g, name
        if arch == "llama" and ".q_proj." in name:
            x = permute(x, config["num_attention_heads"])
        if arch == "llama" and ".k_proj." in name:
            x = permute(x, config.get("num_key_value_heads") or config["num_attention_heads"])
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            x = x + np.float32(1)
        if g.endswith("ffn_gate_inp_shexp.weight"):
            x = x.reshape(-1)
        w.add_tensor(g, np.ascontiguousarray(x), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
