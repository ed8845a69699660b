#!/usr/bin/env python3
"""Make the tiny random checkpoints and goldens of tests/vectors/reference/ with the real mlx, mlx-lm and transformers.

  make_models.py OUT [NAME...]          write the folders (all, or only those named)
  make_models.py --check OUT [NAME...]  make them again beside OUT and compare: tensors bit for bit, logits within 1e-4

A case is (name, family config, storage). Plain checkpoints are written the way Hugging Face tools write them (the
safetensors package) or through mlx-lm; quantized ones go through mlx-lm's own load, quantize and save. The recorded logits
are transformers' float32 forward of the stored (dequantized) weights; the float64 forward of forward.py and mlx-lm's own
forward must agree before anything is written.
"""
import copy
import json
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # the CPU build has no need of a compiler at run time
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import mlx.core as mx
import numpy as np
import torch
import transformers
from mlx_lm import __version__ as mlx_lm_version
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
from safetensors.torch import save_file

import forward

PROMPT = [1, 17, 5, 88, 42, 9, 63, 30, 2, 71, 55, 13, 90, 24, 8, 77, 36, 50, 3, 66, 19, 81, 47, 28]
GREEDY = 16
TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
MLX = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
LONG = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
VERSIONS = {"mlx": mx.__version__, "mlx-lm": mlx_lm_version, "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0], "numpy": np.__version__}

# ---------------------------------------------------------------- configurations


def llama(**kw):
    c = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
         "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 128,
         "max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
         "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False,
         "vocab_size": 128}
    return {**c, **kw}


def qwen2(**kw):
    c = llama(architectures=["Qwen2ForCausalLM"], model_type="qwen2", rms_norm_eps=1e-6, rope_theta=1000000.0,
              tie_word_embeddings=True, use_sliding_window=False)
    del c["attention_bias"], c["mlp_bias"]
    return {**c, **kw}


def qwen3(**kw):
    c = llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", rms_norm_eps=1e-6, rope_theta=1000000.0,
              head_dim=32, tie_word_embeddings=True)  # 4 heads x 32 != hidden 64
    del c["mlp_bias"]
    return {**c, **kw}


def mixture(base, kind, architecture, **kw):
    """8 experts, 3 of them for each row; random routers decide clearly."""
    c = base(architectures=[architecture], model_type=kind, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
             decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True, tie_word_embeddings=False)
    return {**c, **kw}


def qwen2_moe(**kw):
    return mixture(qwen2, "qwen2_moe", "Qwen2MoeForCausalLM", **{"shared_expert_intermediate_size": 96, **kw})


def qwen3_moe(**kw):
    return mixture(qwen3, "qwen3_moe", "Qwen3MoeForCausalLM", **kw)


def mixtral(**kw):
    c = llama(architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=4, num_experts_per_tok=2,
              rope_theta=1000000.0, sliding_window=None, intermediate_size=64)
    del c["attention_bias"], c["mlp_bias"]
    return {**c, **kw}


def gemma2(**kw):
    """A window and caps that a short prompt feels; sqrt(96) is no bfloat16."""
    c = llama(architectures=["Gemma2ForCausalLM"], model_type="gemma2", hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6,
              hidden_size=96, head_dim=32, query_pre_attn_scalar=24, sliding_window=9, attn_logit_softcapping=4.0,
              final_logit_softcapping=3.0, tie_word_embeddings=True, num_hidden_layers=3)
    del c["hidden_act"], c["mlp_bias"], c["rope_scaling"]
    return {**c, **kw}


def gemma3(**kw):
    c = gemma2(architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", rope_theta=1000000.0, rope_local_base_freq=10000.0,
               rope_scaling={"rope_type": "linear", "factor": 8.0}, sliding_window_pattern=3, num_hidden_layers=4,
               attn_logit_softcapping=None, final_logit_softcapping=None)
    return {**c, **kw}


FAMILY = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"type": "linear", "factor": 2.5}


def cases():
    """name -> case: config, dtype, writer hf|mlx, and for quantized ones bits, group, overrides, edit of the block."""
    out = {}

    def plain(name, config, dtype, writer="hf", **kw):
        out[name] = {"config": config, "dtype": dtype, "writer": writer, **kw}

    def quant(name, config, dtype, bits, group, **kw):
        out[name] = {"config": config, "dtype": dtype, "writer": "mlx", "bits": bits, "group": group, **kw}

    plain("llama-f32", llama(intermediate_size=80, vocab_size=96), "f32")
    plain("llama-tied-f16", llama(tie_word_embeddings=True, num_key_value_heads=4), "f16")
    plain("llama3-rope-bf16", llama(rope_theta=500000.0, rope_scaling=LLAMA3, num_key_value_heads=1), "bf16")
    plain("llama-linear-f16", llama(rope_scaling=LINEAR), "f16")
    plain("llama-biases-f32", llama(attention_bias=True, mlp_bias=True, intermediate_size=80, vocab_size=96), "f32")
    plain("llama-bf16-mlx", llama(), "bf16", writer="mlx")
    plain("qwen2-bf16", qwen2(), "bf16")
    plain("qwen2-yarn-f16", qwen2(rope_scaling=YARN, tie_word_embeddings=False), "f16")
    plain("qwen3-bf16", qwen3(tie_word_embeddings=False), "bf16")
    plain("qwen3-yarn-bf16", qwen3(rope_scaling={**YARN, "beta_fast": 8.0, "beta_slow": 2.0}), "bf16")
    # the form newer tools write: rope_parameters and dtype instead of rope_theta, rope_scaling and torch_dtype
    plain("llama3-rope-parameters-f16", llama(rope_parameters={**LLAMA3, "rope_theta": 500000.0}), "f16", newer=True, not_mlx=True)
    plain("qwen3-sharded-bf16", qwen3(), "bf16", writer="mlx", shards=3)
    # eight layers for every split point; long prompts; a character vocabulary so that the programs can run them too
    eight = {"num_hidden_layers": 8, "vocab_size": 105, "intermediate_size": 64, "max_position_embeddings": 256}
    plain("llama-8l-bf16", llama(**{**eight, "hidden_size": 32}), "bf16", prompt=150, tokenizer=True)
    quant("qwen3-8l-4bit-g32", qwen3(**eight, **{"head_dim": 24}), "bf16", 4, 32, prompt=150, tokenizer=True)

    # mixtures of experts: one tensor per expert as Hugging Face tools write them, stacks as mlx-lm does
    plain("qwen2moe-bf16", qwen2_moe(norm_topk_prob=False), "bf16")
    plain("qwen2moe-norm-dense-f32", qwen2_moe(mlp_only_layers=[1], num_hidden_layers=3, intermediate_size=80), "f32", not_mlx=True)
    plain("qwen3moe-f16", qwen3_moe(), "f16")
    plain("qwen3moe-step-bf16", qwen3_moe(decoder_sparse_step=2, norm_topk_prob=False, num_hidden_layers=3), "bf16")
    plain("mixtral-bf16", mixtral(), "bf16")
    gates = [f"model.layers.{i}.mlp.{g}" for i in range(8) for g in ("gate", "shared_expert_gate")]
    gates8 = {g: {"group_size": 64, "bits": 8} for g in gates}
    quant("qwen2moe-4bit-g64-gate8", qwen2_moe(moe_intermediate_size=64, shared_expert_intermediate_size=128,
                                               norm_topk_prob=False), "bf16", 4, 64, overrides=gates8)
    quant("qwen3moe-6bit-g32", qwen3_moe(), "f16", 6, 32)
    quant("mixtral-4bit-g32", mixtral(), "f16", 4, 32)
    quant("qwen3moe-8l-4bit-g32", qwen3_moe(**{**eight, "mlp_only_layers": [3], "head_dim": 24}), "bf16", 4, 32, prompt=150,
          tokenizer=True, overrides=gates8)

    # mlx-lm takes another gelu here
    plain("gemma-bf16", {**llama(architectures=["GemmaForCausalLM"], model_type="gemma", hidden_act="gelu_pytorch_tanh", hidden_size=96,
                                 head_dim=32, rms_norm_eps=1e-6, tie_word_embeddings=True)}, "bf16", not_mlx=True)
    # sliding windows, soft caps, norms after each half of a layer, two kinds of rope
    plain("gemma2-bf16", gemma2(query_pre_attn_scalar=32), "bf16", not_mlx=True)  # mlx-lm knows no window here
    quant("gemma2-4bit-g32", gemma2(hidden_size=64, sliding_window=4096, attn_logit_softcapping=50.0, final_logit_softcapping=30.0), "bf16", 4, 32)
    plain("gemma3-untied-f16", gemma3(tie_word_embeddings=False, query_pre_attn_scalar=32, final_logit_softcapping=5.0), "f16", not_mlx=True)
    plain("gemma3-sees-bf16", gemma3(num_attention_heads=8, num_key_value_heads=4, head_dim=16, layer_types=
          ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]), "bf16", wrapped=True, not_mlx=True)
    quant("gemma3-8l-4bit-g32", gemma3(**{**eight, "sliding_window": 40, "hidden_size": 64}), "bf16", 4, 32, prompt=150, tokenizer=True)
    plain("qwen3-sliding-bf16", qwen3(num_hidden_layers=3, sliding_window=11, use_sliding_window=True, max_window_layers=1, layer_types=
          ["full_attention", "sliding_attention", "sliding_attention"]), "bf16", not_mlx=True)

    for i, bits in enumerate((2, 3, 4, 5, 6, 8)):
        for j, group in enumerate((32, 64, 128)):
            family = ("llama", "qwen2", "qwen3")[(i + j) % 3]
            dtype = ("bf16", "f16", "f32")[(i + 2 * j) % 3]
            wide = {"hidden_size": 128, "vocab_size": 96, "num_hidden_layers": 1} if group == 128 else {}
            quant(f"{family}-{bits}bit-g{group}-{dtype}", FAMILY[family](**wide), dtype, bits, group)

    eight_bit = {"group_size": 64, "bits": 8}
    quant("llama-biases-4bit-g32", llama(attention_bias=True, mlp_bias=True), "bf16", 4, 32)
    quant("mixed-overrides", qwen3(tie_word_embeddings=False), "bf16", 4, 64, overrides={
        "model.embed_tokens": eight_bit, "lm_head": {"group_size": 32, "bits": 6},
        "model.layers.0.self_attn.v_proj": eight_bit, "model.layers.1.mlp.down_proj": {"group_size": 128, "bits": 8},
        "model.layers.1.self_attn.k_proj": False})
    # the block as other producers write it: same meaning, different words
    quant("block-old-no-mode", llama(), "f16", 4, 64, edit={"mode": None}, only="quantization")
    quant("block-null-group", llama(), "bf16", 4, 64, edit={"group_size": "null"}, not_mlx=True, overrides={
        "model.layers.0.mlp.down_proj": {"group_size": 64, "bits": 6}}, null_overrides=True)
    quant("block-default-group", qwen2(), "bf16", 4, 32, overrides={
        "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8}}, edit={
        "model.layers.0.mlp.up_proj": {"bits": 8}})
    quant("block-true-and-private", qwen2(), "bf16", 5, 32, edit={
        "model.layers.0.self_attn.q_proj": True, "quant_method_version": "private", "model.layers.7.mlp.gate": True}, not_mlx=True)
    quant("block-awq-list", llama(), "bf16", 4, 64, list_all=True, overrides={
        "model.embed_tokens": {"group_size": 32, "bits": 4}})
    # MLX's floating-point modes, and blocks as mlx-kquant stores them
    quant("llama-mxfp4-bf16", llama(), "bf16", 4, 32, mode="mxfp4")
    quant("qwen2-mxfp8-f16", qwen2(), "f16", 8, 32, mode="mxfp8")
    quant("qwen3-nvfp4-bf16", qwen3(tie_word_embeddings=False), "bf16", 4, 16, mode="nvfp4")
    quant("mixed-fp", llama(tie_word_embeddings=True), "bf16", 4, 32, mode="mxfp4", overrides={
        "model.layers.0.self_attn.v_proj": {"group_size": 64, "bits": 8},
        "model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
        "model.layers.1.mlp.up_proj": {"group_size": 16, "bits": 4, "mode": "nvfp4"}})
    plain("kquant-super-blocks", llama(hidden_size=256, intermediate_size=256, head_dim=32, vocab_size=105), "f16",
          writer="kquant", not_mlx=True, tokenizer=True, codecs={
              "model.embed_tokens": "q5_k", "lm_head": "q6_k", "self_attn.q_proj": "q4_k", "self_attn.k_proj": "q3_k",
              "self_attn.v_proj": "q6_k", "self_attn.o_proj": "q5_1", "mlp.gate_proj": "q2_k", "mlp.up_proj": "q4_k",
              "mlp.down_proj": "q6_k"})
    plain("kquant-small-blocks", qwen2(vocab_size=105), "bf16", writer="kquant", not_mlx=True, tokenizer=True, codecs={
        "model.embed_tokens": "q8_0", "0.self_attn.q_proj": "q4_0", "0.self_attn.k_proj": "q4_1",
        "0.self_attn.v_proj": "q5_0", "0.mlp.gate_proj": "q5_1", "0.mlp.up_proj": "mxfp4", "0.mlp.down_proj": "nvfp4",
        "1.self_attn.q_proj": "q5_1", "1.self_attn.k_proj": "q5_0", "1.self_attn.o_proj": "q8_0", "1.mlp.down_proj": "q4_1"})
    quant("qwen3moe-mxfp4-bf16", qwen3_moe(), "bf16", 4, 32, mode="mxfp4", overrides=gates8)
    plain("kquant-qwen2moe", qwen2_moe(hidden_size=256, moe_intermediate_size=256, shared_expert_intermediate_size=64,
                                       num_experts=4, num_experts_per_tok=2, num_hidden_layers=1, head_dim=32), "bf16",
          writer="kquant", not_mlx=True, codecs={
              "switch_mlp.gate_proj": "q4_k", "switch_mlp.up_proj": "q2_k", "switch_mlp.down_proj": "q6_k",
              "shared_expert.down_proj": "q8_0", "self_attn.q_proj": "q3_k"})
    return out


# ---------------------------------------------------------------- checkpoints


def random_weights(config, seed):
    """Names and float32 values; scales chosen so that attention is peaked and every part moves the logits."""
    rng = np.random.default_rng(seed)
    h, ff, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    d = config.get("head_dim") or h // config["num_attention_heads"]
    nq, nkv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    out, gemma = {}, config["model_type"].startswith("gemma")

    def matrix(path, n, k, gain, bias=False):
        out[path + ".weight"] = rng.standard_normal((n, k)).astype(np.float32) * np.float32(gain / k**0.5)
        if bias:
            out[path + ".bias"] = rng.standard_normal(n).astype(np.float32) * np.float32(0.3)

    def norm(path, n):
        out[path + ".weight"] = ((0 if gemma else 1) + 0.2 * rng.standard_normal(n)).astype(np.float32)

    out["model.embed_tokens.weight"] = rng.standard_normal((v, h)).astype(np.float32)
    if config["tie_word_embeddings"]:
        out["model.embed_tokens.weight"] *= np.float32((1.0 if gemma else 2.5) / h**0.5)
    all_bias = config.get("attention_bias", False)
    qkv_bias = all_bias or config["model_type"] in ("qwen2", "qwen2_moe")
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm", h)
        matrix(p + "self_attn.q_proj", nq, h, 1.6, qkv_bias)
        matrix(p + "self_attn.k_proj", nkv, h, 1.6, qkv_bias)
        matrix(p + "self_attn.v_proj", nkv, h, 1.0, qkv_bias)
        matrix(p + "self_attn.o_proj", h, nq, 1.0, all_bias)
        if config["model_type"] in ("qwen3", "qwen3_moe", "gemma3_text"):
            norm(p + "self_attn.q_norm", d)
            norm(p + "self_attn.k_norm", d)
        norm(p + "post_attention_layernorm", h)
        if gemma and config["model_type"] != "gemma":
            norm(p + "pre_feedforward_layernorm", h)
            norm(p + "post_feedforward_layernorm", h)
        if config["model_type"] == "mixtral":
            matrix(p + "block_sparse_moe.gate", config["num_local_experts"], h, 2.0)
            for e in range(config["num_local_experts"]):
                for leaf, n, k, gain in (("w1", ff, h, 1.0), ("w2", h, ff, 2.0), ("w3", ff, h, 1.0)):
                    matrix(p + f"block_sparse_moe.experts.{e}.{leaf}", n, k, gain)
            continue
        if "num_experts" in config and i not in config["mlp_only_layers"] and (i + 1) % config["decoder_sparse_step"] == 0:
            matrix(p + "mlp.gate", config["num_experts"], h, 2.0)
            groups = [(f"mlp.experts.{e}.", config["moe_intermediate_size"]) for e in range(config["num_experts"])]
            if "shared_expert_intermediate_size" in config:
                matrix(p + "mlp.shared_expert_gate", 1, h, 1.0)
                groups.append(("mlp.shared_expert.", config["shared_expert_intermediate_size"]))
            for group, width in groups:
                matrix(p + group + "gate_proj", width, h, 1.0)
                matrix(p + group + "up_proj", width, h, 1.0)
                matrix(p + group + "down_proj", h, width, 2.0)
            continue
        matrix(p + "mlp.gate_proj", ff, h, 1.0, config.get("mlp_bias", False))
        matrix(p + "mlp.up_proj", ff, h, 1.0, config.get("mlp_bias", False))
        matrix(p + "mlp.down_proj", h, ff, 1.5, config.get("mlp_bias", False))
    norm("model.norm", h)
    if not config["tie_word_embeddings"]:
        matrix("lm_head", v, h, 2.5)
    return out


def write_config(folder, config):
    with open(folder / "config.json", "w") as f:
        json.dump(dict(sorted(config.items())), f, indent=2)
        f.write("\n")


def write_hf(folder, config, weights, dtype):
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    save_file({k: torch.from_numpy(w.copy()).to(TORCH[dtype]) for k, w in weights.items()},
              folder / "model.safetensors", metadata={"format": "pt"})


# codec -> weights, bytes of a block, where its f16 scales lie, dmin/d that centres the weights, a bias field instead of dmin
BLOCKS = {"q4_0": (32, 18, 0, None, 0), "q4_1": (32, 20, 0, 2, -7.5), "q5_0": (32, 22, 0, None, 0), "q5_1": (32, 24, 0, 2, -15.5),
          "q8_0": (32, 34, 0, None, 0), "q2_k": (256, 84, 80, 82, 1.5), "q3_k": (256, 110, 108, None, 0),
          "q4_k": (256, 144, 0, 2, 7.5), "q5_k": (256, 176, 0, 2, 15.5), "q6_k": (256, 210, 208, None, 0)}


def random_blocks(rng, codec, n, k, std):
    """Arbitrary bytes with scales that give weights of about the wanted size: every code and sub-scale occurs."""
    if codec == "mxfp4":
        out = rng.integers(0, 256, (n, k // 32, 17), dtype=np.uint8)
        out[:, :, 0] = 127 + round(np.log2(std / 3)) + rng.integers(-1, 2, (n, k // 32))
        return out.reshape(n, -1)
    if codec == "nvfp4":
        out = rng.integers(0, 256, (n, k // 64, 36), dtype=np.uint8)
        e = 7 + round(np.log2(std / 3))
        out[:, :, :4] = rng.integers(8 * e, 8 * (e + 1), (n, k // 64, 4))
        return out.reshape(n, -1)
    weights, size, d_at, m_at, ratio = BLOCKS[codec]
    out = rng.integers(0, 256, (n, k // weights, size), dtype=np.uint8)
    spread = {"q4_0": 4.6, "q4_1": 4.6, "q5_0": 9.2, "q5_1": 9.2, "q8_0": 74, "q2_k": 15, "q3_k": 43, "q4_k": 260, "q5_k": 540,
              "q6_k": 1370}[codec]
    d = (std / spread * rng.choice([-1, 1], (n, k // weights)) * rng.uniform(0.6, 1.4, (n, k // weights))).astype(np.float16)
    out[:, :, d_at:d_at + 2] = d[:, :, None].view(np.uint8)
    if m_at is not None:
        out[:, :, m_at:m_at + 2] = (d * np.float16(ratio))[:, :, None].view(np.uint8)
    return out.reshape(n, -1)


def stacked(weights):
    """Experts that are stored one by one as mlx-lm's stacks."""
    out = {}
    for name, w in weights.items():
        block, _, rest = name.partition("experts.")
        if not rest:
            out[name] = w
        elif rest.startswith("0."):
            count = sum(n.startswith(block + "experts.") and n.endswith(rest[1:]) for n in weights)
            out[block + "switch_mlp." + rest[2:]] = np.stack([weights[f"{block}experts.{e}.{rest[2:]}"] for e in range(count)])
    return out


def write_kquant(folder, config, weights, case):
    """As mlx-kquant 0.1.0 writes it: rows of blocks as U8, a one-byte .scales beside each, the map in config.json."""
    rng = np.random.default_rng(zlib.crc32(str(folder.name).encode()))
    tensors, per_tensor = {}, {}
    for name, w in stacked(weights).items():
        path = name.rsplit(".", 1)[0]
        codec = next((c for end, c in case["codecs"].items() if path.endswith(end)), None) if name.endswith(".weight") else None
        if codec is None:
            tensors[name] = mx.array(w).astype(MLX[case["dtype"]])
            continue
        per_tensor[path] = codec
        blocks = random_blocks(rng, codec, w.size // w.shape[-1], w.shape[-1], float(w.std()))
        tensors[name] = mx.array(blocks.reshape(*w.shape[:-1], -1))
        tensors[path + ".scales"] = mx.zeros(1, dtype=mx.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    block = {"mode": "kquant", "per_tensor": per_tensor}
    write_config(folder, {**config, "quantization": block, "quantization_config": block})


def quant_predicate(case):
    over = case.get("overrides", {})

    def predicate(path, module):
        if not hasattr(module, "to_quantized"):
            return False
        return over.get(path, True)

    return predicate


def edit_block(case, config):
    """Rewrite the quantization block the way other versions and tools write the same meaning."""
    block = config["quantization"]
    for path, value in case.get("overrides", {}).items():
        if value is False:
            block[path] = False  # mlx-lm does not record these; AWQ and hand-made configurations do
    if case.get("null_overrides"):
        for value in block.values():
            if isinstance(value, dict):
                value["group_size"] = None
    for key, value in case.get("edit", {}).items():
        if value is None:
            block.pop(key, None)
        else:
            block[key] = None if value == "null" else value
    config["quantization"] = config["quantization_config"] = block


def write_mlx(folder, config, weights, case):
    """mlx-lm's conversion: load the float checkpoint, cast, quantize, save."""
    from mlx.utils import tree_flatten

    with tempfile.TemporaryDirectory() as tmp:
        source = Path(tmp)
        write_hf(source, config, weights, "f32")
        model, loaded = load_model(source)
        model.set_dtype(MLX[case["dtype"]])
        config = copy.deepcopy(config)
        if "bits" in case:
            model, config = quantize_model(model, config, case["group"], case["bits"], mode=case.get("mode", "affine"),
                                           quant_predicate=quant_predicate(case))
            if case.get("list_all"):
                stored, block = dict(tree_flatten(model.parameters())), config["quantization"]
                for path in sorted({name.rsplit(".", 1)[0] for name in stored}):
                    quantized = path + ".scales" in stored
                    block.setdefault(path, {"group_size": case["group"], "bits": case["bits"]} if quantized else False)
            edit_block(case, config)
        folder.mkdir(parents=True, exist_ok=True)
        if "shards" in case:
            write_shards(folder, dict(tree_flatten(model.parameters())), case["shards"])
        else:
            save_model(folder, model)
        save_config(dict(config), folder / "config.json")
        if "only" in case:  # older versions did not copy the block to quantization_config
            with open(folder / "config.json") as f:
                written = json.load(f)
            del written["quantization_config"]
            write_config(folder, written)


def write_shards(folder, weights, count):
    """Greedy shards in parameter order, as mlx-lm's, with a limit small enough for three of them."""
    names, total = list(weights), sum(w.nbytes for w in weights.values())
    shards, size = [{}], 0
    for name in names:
        if size + weights[name].nbytes > total / count * 1.1 and len(shards) < count:
            shards.append({})
            size = 0
        shards[-1][name] = weights[name]
        size += weights[name].nbytes
    where = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
        where.update({k: name for k in shard})
    with open(folder / "model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, f, indent=4)
        f.write("\n")


# ---------------------------------------------------------------- logits


def transformers_model(folder, weights64):
    """The real model class in float32 with the stored weights, dequantized and rounded to float32."""
    with open(folder / "config.json") as f:
        config = forward.text_config(json.load(f))
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    kind = config.pop("model_type")
    if config.get("rope_scaling") is None:
        config.pop("rope_scaling", None)
    if is_mixture({**config, "model_type": kind}):
        return transformers_mixture({**config, "model_type": kind}, weights64)
    cfg = transformers.AutoConfig.for_model(kind, **config)
    cfg.dtype = torch.float32
    model = transformers.AutoModelForCausalLM.from_config(cfg, attn_implementation="eager").float().eval()
    if kind.startswith("gemma"):  # the factor as in bfloat16, which it is rounded to in trained models
        model.model.embed_tokens.embed_scale.fill_(forward.bf16(config["hidden_size"] ** 0.5))
    state = {}
    for stored in weights64.where:
        if stored.startswith("vision_tower."):
            continue
        path, name = stored.rsplit(".", 1)[0], stored.removeprefix("language_model.")
        if name.endswith(".weight"):
            w = weights64.floats(stored) if weights64.mode(path) is None and "norm" in path else weights64.matrix(path)
            state[name] = torch.from_numpy(np.array(w, dtype=np.float32))
        elif name.endswith(".bias"):
            state[name] = torch.from_numpy(weights64.floats(stored).copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"} and (not missing or config["tie_word_embeddings"]), missing
    model.tie_weights()
    return model


def is_mixture(config):
    return config["model_type"] in ("qwen2_moe", "qwen3_moe", "mixtral")


def transformers_mixture(config, weights64):
    """transformers keeps experts in another form than it stores them: go through a stored float32 checkpoint."""
    state = {}
    for name in weights64.where:
        path, part = name.rsplit(".", 1)
        if part in ("scales", "biases"):
            continue
        w = weights64.floats(name) if part == "bias" or "norm" in path else weights64.matrix(path)
        if "switch_mlp" not in path:
            state[name] = w
            continue
        block, leaf = path.split("switch_mlp.")
        if "block_sparse" in block:
            leaf = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[leaf]
        for e, one in enumerate(w):
            state[f"{block}experts.{e}.{leaf}.weight"] = one
    with tempfile.TemporaryDirectory() as tmp:
        write_hf(Path(tmp), {**config, "torch_dtype": "float32"}, {k: np.array(w, dtype=np.float32) for k, w in state.items()}, "f32")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def mlx_logits(folder, ids, dtype=None):
    model, _ = load_model(Path(folder))
    if dtype is not None:
        model.set_dtype(dtype)
    return np.array(model(mx.array([ids])).astype(mx.float32))[0]


def check_dequantize(folder):
    """Our unpacking of every quantized matrix equals mx.dequantize of the stored scales widened to float32."""
    weights = forward.Weights(str(folder), json.load(open(folder / "config.json")))
    stored = {}
    for f in sorted(folder.glob("model*.safetensors")):
        stored.update(mx.load(str(f)))
    for name in stored:
        if not name.endswith(".scales"):
            continue
        path = name[: -len(".scales")]
        mode = weights.mode(path)
        if mode != "affine":
            group, bits = forward.FP[mode]
            theirs = mx.dequantize(stored[path + ".weight"], stored[name], group_size=group, bits=bits, mode=mode,
                                   dtype=mx.float32)
            assert np.array_equal(np.array(theirs), weights.matrix(path)), path
            continue
        group, bits = weights.parameters(path)
        theirs = np.array(mx.dequantize(stored[path + ".weight"], stored[name].astype(mx.float32),
                                        stored[path + ".biases"].astype(mx.float32), group_size=group, bits=bits))
        scale = np.abs(theirs).max()
        assert np.abs(theirs - weights.matrix(path)).max() <= 4e-7 * scale, path


def wrap(config, weights):
    """The text model within one that sees, as Gemma 3's larger ones are stored: fields with default values left out."""
    text = {k: v for k, v in config.items() if k not in ("architectures", "eos_token_id", "num_attention_heads", "num_key_value_heads")}
    text["rope_parameters"] = {"full_attention": {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")},
                               "sliding_attention": {"rope_type": "default", "rope_theta": text.pop("rope_local_base_freq")}}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [2, 5], "image_token_index": 4,
             "text_config": text, "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8}}
    tensors = {"language_model." + k: v for k, v in weights.items()}
    tensors["vision_tower.vision_model.post_layernorm.weight"] = np.ones(8, np.float32)
    return outer, tensors


def make(folder, name, case):
    config = dict(case["config"])
    config["torch_dtype"] = LONG[case["dtype"]]
    if case.get("newer"):
        del config["rope_theta"], config["rope_scaling"]
        config["dtype"] = config.pop("torch_dtype")
    weights = random_weights(config, zlib.crc32(name.encode()))
    if case.get("wrapped"):
        config, weights = wrap(config, weights)
    if case["writer"] == "hf":
        write_hf(folder, config, weights, case["dtype"])
    elif case["writer"] == "kquant":
        write_kquant(folder, config, weights, case)
    else:
        write_mlx(folder, config, weights, case)
    if case.get("tokenizer"):
        here = Path(__file__).resolve().parents[2]
        for source in (here / "tests/models/babyllama105-hf", here / "../shared/data/models/babyllama105-hf"):
            if source.is_dir():
                for f in ("tokenizer.json", "tokenizer_config.json"):
                    shutil.copyfile(source / f, folder / f)
                break

    ids = PROMPT if "prompt" not in case else [1] + [int(x) for x in
          np.random.default_rng(7).integers(3, config["vocab_size"], case["prompt"] - 1)]
    model64 = forward.Model(str(folder))
    exact = model64.logits(ids)
    model = transformers_model(folder, model64.w)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float().numpy()
        generated = model.generate(torch.tensor([ids]), max_new_tokens=GREEDY, do_sample=False, eos_token_id=None,
                                   pad_token_id=0)[0].tolist()[len(ids):]
    greedy, margin = model64.greedy(ids, GREEDY)
    agreement = {"forward.py float64": float(np.abs(exact - logits).max())}
    assert agreement["forward.py float64"] < 2e-4, (name, agreement)
    if margin > 1e-3:
        assert greedy == generated, (name, greedy, generated)
    if not case.get("not_mlx"):  # forms that this version of mlx-lm does not read
        agreement["mlx-lm float32"] = float(np.abs(mlx_logits(folder, ids, mx.float32) - logits).max())
        if "bits" in case or not is_mixture(config):  # on a CPU mlx gathers float experts in float32 only
            agreement["mlx-lm as stored"] = float(np.abs(mlx_logits(folder, ids) - logits).max())
        assert agreement["mlx-lm float32"] < 2e-3, (name, agreement)
    if "bits" in case:
        check_dequantize(folder)

    logits.astype("<f4").tofile(folder / "logits.f32")
    reference = {
        "prompt_ids": ids,
        "logits_after_prompt": [round(float(x), 6) for x in logits[-1]],
        "logits_file": "logits.f32",
        "logits_rows": len(ids),
        "logits_columns": logits.shape[1],
        "greedy_ids": greedy,
        "min_top2_margin": round(margin, 6),
        "logits_rms": round(float(np.sqrt(np.mean(logits.astype(np.float64) ** 2))), 4),
        "arithmetic": "transformers, float32, eager attention; weights as stored, dequantized",
        "max_difference": {k: float(f"{v:.2e}") for k, v in agreement.items()},
        "versions": VERSIONS,
    }
    with open(folder / "reference.json", "w") as f:
        json.dump(reference, f, indent=1)
        f.write("\n")
    return agreement, margin, reference["logits_rms"]


# ---------------------------------------------------------------- compare


def compare(made, kept):
    """Differences between a folder made now and the committed one, as sentences."""
    out = []
    new, old = forward.Tensors(str(made)), forward.Tensors(str(kept))
    for name in sorted(set(new.where) | set(old.where)):
        if new.where.get(name) != old.where.get(name):
            out.append(f"{kept.name}: tensor {name} differs")
    for f in ("config.json",):
        if json.load(open(made / f)) != json.load(open(kept / f)):
            out.append(f"{kept.name}: {f} differs")
    a, b = (np.fromfile(x / "logits.f32", "<f4") for x in (made, kept))
    if a.shape != b.shape or np.abs(a - b).max() > 1e-4:
        out.append(f"{kept.name}: logits differ")
    ra, rb = (json.load(open(x / "reference.json")) for x in (made, kept))
    for key in ("prompt_ids", "greedy_ids"):
        if ra[key] != rb[key]:
            out.append(f"{kept.name}: {key} differ")
    return out


def main(argv):
    check = "--check" in argv
    argv = [a for a in argv if a != "--check"]
    if not argv:
        raise SystemExit(__doc__)
    kept, wanted = Path(argv[0]), argv[1:]
    failures = 0
    with tempfile.TemporaryDirectory() as tmp:
        for name, case in cases().items():
            if wanted and name not in wanted:
                continue
            folder = (Path(tmp) if check else kept) / name
            if not check:
                shutil.rmtree(folder, ignore_errors=True)
            agreement, margin, rms = make(folder, name, case)
            line = f"{name:28s} rms {rms:6.3f} margin {margin:.4f} " + " ".join(f"{k} {v:.1e}" for k, v in agreement.items())
            if check:
                found = compare(folder, kept / name)
                failures += len(found)
                line += " same" if not found else " DIFFERENT"
                for sentence in found:
                    print(sentence)
            print(line, flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
