#!/bin/bash
# cake-master quantize, inspect, verify: the files whose contents the real mlx_lm and gguf packages confirmed, made again
# byte for byte (tests/vectors/tools/quantized.txt); what runs on them; interruptions, refusals, broken checkpoints.
. "${0%/*}/lib.sh"
it_need python3
FLOAT=$REPO/${B:-build/release}/tests/tools/make_float
HF=$(model babyllama105-hf)
MLX=$(model babyllama105-mlx-4bit-g64)
cd "$REPO" || exit 1

cake() { "$BIN/cake-master" -q "$@" >"$IT/out" 2>"$IT/err"; }
# refused NAME CODE REGEX ARG...: exit code and stderr
refused() {
    local name=$1 code=$2 regex=$3 got
    shift 3
    cake "$@"
    got=$?
    if [[ $got == "$code" ]] && grep -qE -- "$regex" "$IT/err" "$IT/out"; then ok "$name"; else not_ok "$name: exit $got, $(tail -n1 "$IT/err")"; fi
}
hash_of() { cat "$1"/model*.safetensors | sha256sum | cut -d' ' -f1; } # hash_of FOLDER
# says EXPRESSION: of the JSON in $IT/out as d
says() { python3 -c "import json,sys; d=json.load(open('$IT/out')); sys.exit(not ($1))"; }

for k in dense qwen2 qwen3moe qwen2moe mixtral; do check "a random $k" "$FLOAT" "$k" "$IT/$k" || exit 1; done

# Under a sanitizer every seventh is enough.
every=$((IT_SLOW > 1 ? 7 : 1)) n=0
while read -r want source args; do
    ((n++ % every == 0)) || continue
    [[ -d $source ]] || source=$IT/$source
    rm -rf "$IT/result"
    # shellcheck disable=SC2086
    if cake quantize --model "$source" --out "$IT/result" --threads $((n % 3 + 1)) $args; then
        same "$(basename "$source") $args" "$want" "$(hash_of "$IT/result")"
    else
        not_ok "$(basename "$source") $args: $(tail -n1 "$IT/err")"
    fi
done <tests/vectors/tools/quantized.txt
check "the last one is whole" cake verify "$IT/result"
check "three files" cake quantize --model "$IT/dense" --out "$IT/shards" --mlx-bits 4 --shard-size 500K
check "named as mlx_lm does" test -e "$IT/shards/model-00002-of-00003.safetensors"
check "and whole" cake verify "$IT/shards"

# What was made runs, and says what its source says.
key_new
check "4 bits" cake quantize --model "$HF" --out "$IT/q4" --mlx-bits 4
check "blocks" cake quantize --model "$HF" --out "$IT/q8" --type q8_0
check "side files come along" cmp "$HF/tokenizer.json" "$IT/q8/tokenizer.json"
story() { cake run --discovery-timeout 0 --threads 1 -n 40 -t 0 --model "$1" --prompt "Once upon a time" && cat "$IT/out"; }
same "the same story from q8_0" "$(story "$HF")" "$(story "$IT/q8")"
check "a story from 4 bits" test -n "$(story "$IT/q4")"

# Nothing is overwritten, nothing half done is left.
before=$(hash_of "$IT/q4")
refused "a folder that exists" 1 "exists already" quantize --model "$HF" --out "$IT/q4" --mlx-bits 2
same "it is as it was" "$before" "$(hash_of "$IT/q4")"
refused "a quantized source" 1 "requantize" quantize --model "$IT/q4" --out "$IT/x" --type q8_0
check "unless asked for" cake quantize --model "$IT/q4" --out "$IT/again" --type q8_0 --requantize
check "decoded exactly as far as q8_0 goes" cake verify "$IT/q4" "$IT/again"
cp -r "$IT/dense" "$IT/nan" && printf '\x80\x7f' | dd of="$IT/nan/model-00001-of-00002.safetensors" bs=1 seek=40000 conv=notrunc status=none
refused "weights that are not finite" 1 "not finite" quantize --model "$IT/nan" --out "$IT/x" --mlx-bits 4
refused "verify tells the same" 1 "not finite" verify "$IT/nan"
refused "a mode that is none" 2 "mlx-mode" quantize --model "$HF" --out "$IT/x" --mlx-mode nf4
refused "two at once" 1 "only one" quantize --model "$HF" --out "$IT/x" --mlx-bits 4 --preset q4_k_m
refused "an override for nothing" 1 "decides for no module" quantize --model "$HF" --out "$IT/x" --mlx-bits 4 --override "nowhere=8"
refused "rows that do not divide" 1 "no module" quantize --model "$HF" --out "$IT/x" --preset q4_k_m
refused "no folder named" 2 "--out" quantize --model "$HF" --mlx-bits 4
interrupted() {
    local pid
    "$BIN/cake-master" -q quantize --model "$IT/qwen2moe" --out "$IT/x" --preset q2_k --threads 1 >/dev/null 2>"$IT/err" &
    pid=$!
    for ((i = 0; i < 2000; i++)); do compgen -G "$IT/x.tmp.*/model.safetensors" >/dev/null && break; sleep 0.001; done
    kill -INT "$pid"
    wait "$pid"
    [[ $? == 130 ]]
}
if ((IT_SLOW == 1)); then
    # a model large enough to be caught at work
    python3 - "$IT" <<'PY'
import json, os, sys
it = sys.argv[1]
os.makedirs(it + "/large")
c = json.load(open(it + "/qwen2/config.json"))
c.update(num_hidden_layers=1, vocab_size=65536, hidden_size=256)
json.dump(c, open(it + "/large/config.json", "w"))
b = open(it + "/qwen2/model.safetensors", "rb").read()
n = int.from_bytes(b[:8], "little")
h = json.loads(b[8:8 + n])
data, out, at = [], {}, 0
for k, e in h.items():
    if ".layers." in k and ".layers.0." not in k: continue
    x = b[8 + n + e["data_offsets"][0]:8 + n + e["data_offsets"][1]]
    if k == "model.embed_tokens.weight":
        x = x[:256 * 2] * 65536
        e["shape"][0] = 65536
    e["data_offsets"] = [at, at + len(x)]
    at += len(x)
    out[k] = e
    data.append(x)
t = json.dumps(out).encode()
open(it + "/large/model.safetensors", "wb").write(len(t).to_bytes(8, "little") + t + b"".join(data))
PY
    mv "$IT/qwen2moe" "$IT/qwen2moe.small" && mv "$IT/large" "$IT/qwen2moe"
    check "Ctrl-C is obeyed" interrupted
fi
same "nothing is left" "" "$(cd "$IT" && ls -d x x.tmp.* 2>/dev/null)"

# Importance matrices.
python3 - "$IT" <<'PY'
import struct, sys
def save(path, names, k):
    with open(path, "wb") as f:
        f.write(struct.pack("<i", len(names)))
        for n in names:
            f.write(struct.pack("<i", len(n)) + n.encode() + struct.pack("<ii", 7, k) + struct.pack(f"<{k}f", *(1 + 20 * (i % 5 == 0) for i in range(k))))
save(sys.argv[1] + "/own.dat", [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(3) for p in "qkv"], 256)
save(sys.argv[1] + "/gguf.dat", [f"blk.{i}.attn_{p}.weight" for i in range(3) for p in "qkv"], 256)
save(sys.argv[1] + "/other.dat", ["model.layers.9.x.weight"], 256)
save(sys.argv[1] + "/size.dat", ["model.layers.0.self_attn.q_proj.weight"], 128)
PY
check "without importance" cake quantize --model "$IT/dense" --out "$IT/i0" --type q4_k
check "with importance" cake quantize --model "$IT/dense" --out "$IT/i1" --type q4_k --imatrix "$IT/own.dat" --json
check "for nine modules" says "d['with_importance'] == 9 and d['codec_histogram'] == {'q4_k': 23}"
check "by names of GGUF" cake quantize --model "$IT/dense" --out "$IT/i2" --type q4_k --imatrix "$IT/gguf.dat"
same "the same" "$(hash_of "$IT/i1")" "$(hash_of "$IT/i2")"
if [[ $(hash_of "$IT/i0") != $(hash_of "$IT/i1") ]]; then ok "it matters"; else not_ok "importance changes nothing"; fi
check "with a codec that has no use for it" cake quantize --model "$IT/dense" --out "$IT/i3" --type q5_0 --imatrix "$IT/own.dat" --json
check "which is told" says "d['with_importance'] == 0"
refused "of another model" 1 "none of this model" quantize --model "$IT/dense" --out "$IT/x" --type q4_k --imatrix "$IT/other.dat"
refused "of another size" 1 "another model" quantize --model "$IT/dense" --out "$IT/x" --type q4_k --imatrix "$IT/size.dat"
refused "for MLX" 2 "--preset or --type" quantize --model "$IT/dense" --out "$IT/x" --mlx-bits 4 --imatrix "$IT/own.dat"
refused "not an importance matrix" 1 "neither GGUF nor" quantize --model "$IT/dense" --out "$IT/x" --type q4_k --imatrix "$HF/config.json"

# inspect and verify
check "inspect" cake inspect --tensors "$MLX"
check "shows the formats" grep -q "affine4g64" "$IT/out"
check "as JSON" cake inspect --json "$IT/i1"
check "with mlx-kquant's keys" says "d['model_type'] == 'llama' and d['num_hidden_layers'] == 3 and d['num_quantized'] == 23 and d['codec_histogram'] == {'q4_k': 23} and [t['path'] for t in d['tensors']] == sorted(t['path'] for t in d['tensors']) and d['tensors'][0] == {'path': 'lm_head', 'kind': 'linear', 'codec': 'q4_k', 'bits': 4, 'group_size': 256, 'packed_shape': [320, 144], 'logical_shape': [320, 256], 'bytes': 46081} and d['runs']"
check "one file of several" cake inspect --json "$IT/dense/model-00001-of-00002.safetensors"
check "of a model it cannot run alone" says "not d['runs'] and 'missing' in d['reason'] and d['num_quantized'] == 0"
check "verify" cake verify "$IT/i1"
same "hashes as sha256sum prints them" "$(cd "$IT/i1" && sha256sum -- *)" "$(grep -v ^ok "$IT/out")"
check "against the source" cake verify --json "$IT/dense" "$IT/i1"
check "worst first" says "d['ok'] and len(d['tensors']) == 30 and all(a['relative_error'] >= b['relative_error'] for a, b in zip(d['tensors'], d['tensors'][1:])) and 0.01 < d['tensors'][0]['relative_error'] < 0.2 and d['tensors'][-1]['cosine'] > 0.9999999"
refused "against another" 1 "has the shape|is not in the source" verify "$IT/qwen2" "$IT/i1"
cp -r "$IT/i1" "$IT/cut" && truncate -s -1 "$IT/cut/model.safetensors"
refused "a file cut off" 1 "problem: .*model.safetensors" verify "$IT/cut"
cp -r "$IT/q4" "$IT/scale" && python3 - "$IT/scale/model.safetensors" <<'PY'
import json, sys
b = bytearray(open(sys.argv[1], "rb").read())
n = int.from_bytes(b[:8], "little")
e = json.loads(b[8:8 + n])["model.layers.2.mlp.up_proj.scales"]
at = 8 + n + e["data_offsets"][0] + 40
b[at:at + 4] = b"\0\0\x80\x7f" if e["dtype"] == "F32" else b"\x80\x7f\x80\x7f"
open(sys.argv[1], "wb").write(b)
PY
refused "a scale that is infinite" 1 "layers.2.mlp.up_proj.weight' holds scales" verify "$IT/scale"
cp -r "$IT/i1" "$IT/config" && sed -i 's/"model.layers.1.mlp.up_proj": "q4_k"/"model.layers.1.mlp.up_proj": "q5_k"/' "$IT/config/config.json"
refused "another codec than stored" 1 "layers.1.mlp.up_proj" verify "$IT/config"
check "the list of presets" cake quantize --list-presets
same "thirteen presets" 13 "$(sed '/^$/,$d;1d' "$IT/out" | wc -l)"
