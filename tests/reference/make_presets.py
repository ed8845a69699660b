#!/usr/bin/env python3
"""What the real mlx-kquant 0.1.0 decides for every module of some model shapes, for every preset.

  make_presets.py SDIST [--check] OUT      OUT/presets.txt

SDIST is the unpacked source archive of mlx-kquant 0.1.0 (its package cannot be installed on Linux, but recipes.py is
plain Python). One line per module: shape, number of layers, role ("-" for none), path, and one letter per preset in
the order of the first line: the digit of the codec (8 is q8_0), "-" float.
"""
import importlib.util
import os
import sys
import types

PRESETS = ["q2_k", "q3_k_m", "q4_k_s", "q4_k_m", "q4_k_moe", "q4_k_xl", "q5_k_s", "q5_k_m", "q5_k_moe", "q5_k_xl",
           "q6_k", "q6_k_xl", "q8"]
LETTER = {"q2_k": "2", "q3_k": "3", "q4_k": "4", "q5_k": "5", "q6_k": "6", "q8_0": "8", None: "-"}


def load(sdist):
    package = types.ModuleType("mlx_kquant")
    package.__path__ = [os.path.join(sdist, "mlx_kquant")]
    sys.modules["mlx_kquant"] = package
    for name in ("codec_geometry", "recipes"):
        spec = importlib.util.spec_from_file_location(f"mlx_kquant.{name}", os.path.join(sdist, "mlx_kquant", f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def shapes():
    attn = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    ffn = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    stacks = ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj", "mlp.gate"]
    shared = ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj", "mlp.shared_expert_gate"]
    linear = ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba", "linear_attn.out_proj"]
    layers = lambda n, parts: [f"model.layers.{i}.{p}" for i in range(n) for p in parts]
    yield "tied", 28, ["model.embed_tokens"] + layers(28, attn + ffn)
    yield "untied", 9, ["model.embed_tokens", "lm_head"] + layers(9, attn + ffn)
    yield "moe", 8, ["model.embed_tokens", "lm_head"] + layers(8, attn + stacks)
    yield "next", 8, ["model.embed_tokens", "lm_head"] + [
        f"model.layers.{i}.{p}" for i in range(8) for p in (attn if (i + 1) % 4 == 0 else linear) + stacks + shared]
    yield "odd", 3, [
        "language_model.model.embed_tokens", "language_model.lm_head", "model.embed_tokens_per_layer", "transformer.wte",
        "word_embeddings", "model.my_embed_tokens", "model.layers.0.attn.out_proj", "attn.out_proj",
        "model.layers.0.self_attn.out_proj", "model.layers.0.xattn.out_proj", "model.layers.0.self_attn.qkv_proj",
        "model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.experts.3.up_proj", "model.layers.0.mlp.experts.up_proj",
        "model.layers.0.mlp.experts.x.up_proj", "model.layers.0.experts.switch_glu.down_proj",
        "model.layers.0.mlp.experts.3.up_proj.x", "model.layers.0.router.proj", "model.layers.0.router",
        "model.layers.0.mlp.router", "model.layers.0.block_sparse_moe.switch_mlp.up_proj",
        "model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.shared_experts.up_proj",
        "model.layers.0.self_attn.kv_a_proj_with_mqa", "vision_tower.blocks.0.mlp.up_proj", "vision_tower.blocks.0.fc1",
        "model.visual.merger.proj", "model.visuals.proj", "multi_modal_projector.linear", "model.embed_vision.proj",
        "model.layers.0.linear_attn.conv1d", "model.layers.0.linear_attn.a.b", "model.layers.2.mlp.down_proj",
        "model.layers.1.mlp.down_proj", "layers.1.mlp.down_proj", "model.norm_proj", "x.connector", "audio_tower.q"]


def make(recipes):
    lines = [" ".join(PRESETS)]
    for name, n_layers, paths in shapes():
        roles = {p: r for p in paths if (r := recipes.classify_path(p)) is not None}
        decided = [recipes.resolve_codec_map(roles, preset=p, default_codec=None) for p in PRESETS]
        for path in paths:
            role = roles[path].value if path in roles else "-"
            lines.append(f"{name} {n_layers} {role} {path} " + "".join(LETTER[d.get(path)] for d in decided))
    return "\n".join(lines) + "\n"


def main():
    args = [a for a in sys.argv[1:] if a != "--check"]
    text = make(load(args[0]))
    path = os.path.join(args[1], "presets.txt")
    if "--check" in sys.argv:
        with open(path) as f:
            if f.read() != text:
                sys.exit(f"{path} is not what mlx-kquant 0.1.0 decides")
        print(f"ok: {path}")
        return
    os.makedirs(args[1], exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


main()
