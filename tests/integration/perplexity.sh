#!/bin/bash
# cake-master perplexity and calibrate: the value the logits give, the float64 reference's value, the same digits over two workers as alone,
# a model beside itself and beside its unquantized form, an importance
# matrix that is the same from one node and from two, and what is said of texts that cannot be scored.
. "${0%/*}/lib.sh"
it_sandbox "$@"
it_need python3
check "three hosts" hosts 3 || exit 1
check "a cluster key" key_new || exit 1
M=$(model babyllama105-mlx-4bit-g64)
REF=$(model babyllama105-padffn64-hf-bf16)

# ppl NAME ARG...: JSON into $IT/NAME.json
ppl() {
    local name=$1
    shift
    master 1 perplexity --json --threads 1 "$@" && mv "$IT/out" "$IT/$name.json"
}
# json EXPRESSION NAME...: evaluated with d = the objects of the names
json() { python3 -c "import json,math,sys; d=[json.load(open('$IT/'+n+'.json')) for n in sys.argv[2:]]; print(eval(sys.argv[1]))" "$@"; }
says() { ! master 1 perplexity --model "$M" --discovery-timeout 0 "${@:2}" && grep -q -e "$1" "$IT/err"; } # says TEXT ARG...

# One more token: what it adds is what the logits of a run say of it.
printf 'Once upo' >"$IT/one.txt"
printf 'Once upon' >"$IT/two.txt"
alone=(--model "$M" --discovery-timeout 0)
check "a text" ppl one "${alone[@]}" --text "$IT/one.txt"
check "one token more" ppl two "${alone[@]}" --text "$IT/two.txt"
master 1 run "${alone[@]}" --threads 1 --raw -n 1 --temperature 0 --dump-logits "$IT/l.f32" --prompt 'Once upo' >/dev/null
cat >"$IT/last.py" <<'EOF'
import array, json, math, sys
it, model = sys.argv[1:]
v = array.array("f", open(it + "/l.f32", "rb").read())[:105]
top = max(v)
want = top + math.log(sum(math.exp(x - top) for x in v)) - v[json.load(open(model + "/tokenizer.json"))["model"]["vocab"]["n"]]
one, two = (json.load(open(f"{it}/{n}.json")) for n in ("one", "two"))
print(two["tokens"] - one["tokens"], abs(two["nll"] * two["tokens"] - one["nll"] * one["tokens"] - want) < 1e-4)
EOF
same "costs what its logit says" "1 True" "$(python3 "$IT/last.py" "$IT" "$M")"

CORPUS=$REPO/../shared/data/corpora/tinystories_val.txt
if [[ -r $CORPUS ]]; then
    head -c 4000 "$CORPUS" >"$IT/text.txt"
    # nll.json scores 64 windows of 255 ids after bos: so many have these characters, and a rest too short to count
    python3 -c "import sys; sys.stdout.write(open(sys.argv[1], encoding='utf-8').read(16420))" "$CORPUS" >"$IT/all.txt"
    check "64 windows of the corpus" ppl golden --model "$M" --discovery-timeout 0 --context 256 --compute f32 --text "$IT/all.txt"
    same "are those of the float64 reference" "16320 64 True" \
        "$(json "f\"{d[0]['tokens']} {d[0]['windows']} {abs(d[0]['nll'] - json.load(open('$REPO/tests/vectors/reference/nll.json'))['models']['babyllama105-mlx-4bit-g64']['mean_nll']) < 1e-4}\"" golden)"
else
    skip "the float64 reference: ../shared/data/corpora/tinystories_val.txt is missing"
    for _ in {1..40}; do echo "once upon a time there was a little girl who had a red ball and a small dog."; done >"$IT/text.txt"
fi

for i in 2 3; do worker $i "w$i" --threads 1; done
for i in 2 3; do check "worker $i listens" wait_until 20 port_open 1 "$(address $i)" 10128 || exit 1; done
for i in 2 3; do
    printf 'w%s:\n  host: "%s:10128"\n  layers: ["model.layers.%s"]\n' $i "$(address $i)" "$([[ $i == 2 ]] && echo 0-1 || echo 2-3)"
done >"$IT/topology.yml"
layers=$(python3 -c "import json;print(json.load(open('$M/config.json'))['num_hidden_layers'])")
sed -i "s/2-3/2-$((layers - 1))/" "$IT/topology.yml"
check "windows of 128, alone" ppl alone "${alone[@]}" --context 128 --text "$IT/text.txt"
check "windows of 128, over two workers" ppl split --model "$M" --topology "$IT/topology.yml" --cluster-key-file "$IT_KEY" \
    --context 128 --text "$IT/text.txt"
check "the same digits" cmp "$IT/alone.json" "$IT/split.json"
check "beside itself" ppl self "${alone[@]}" --context 128 --text "$IT/text.txt" --reference "$M"
same "no divergence, every token the same" "0 1 True" \
    "$(json "f\"{d[0]['kl_divergence']:.6g} {d[0]['top1_agreement']:g} {d[0]['nll'] == d[0]['reference_nll'] == d[1]['nll']}\"" self alone)"
check "beside the unquantized model, over two workers" ppl kl --model "$M" --topology "$IT/topology.yml" \
    --cluster-key-file "$IT_KEY" --context 128 --text "$IT/text.txt" --reference "$REF"
same "some divergence, most tokens the same" True "$(json "0.01 < d[0]['kl_divergence'] < 0.5 and 0.7 < d[0]['top1_agreement'] < 1" kl)"

calibrate() { master 1 calibrate --threads 1 --text "$IT/text.txt" --out "$@"; }
check "an importance matrix, alone" calibrate "$IT/alone.dat" "${alone[@]}" --context 128
check "over two workers" calibrate "$IT/split.dat" --model "$M" --topology "$IT/topology.yml" --cluster-key-file "$IT_KEY" \
    --context 128
check "the same bytes" cmp "$IT/alone.dat" "$IT/split.dat"
same "an entry for each matrix" $((layers * 7 + 1)) "$(od -An -tu4 -N4 "$IT/alone.dat" | tr -d ' ')"
check "as GGUF, of one window" calibrate "$IT/one.gguf" "${alone[@]}" --context 128 --chunks 1
same "its magic" GGUF "$(head -c 4 "$IT/one.gguf")"
same "what it tells" 1 "$(grep -c "tokens in 1 windows of 128; perplexity" "$IT/err")"
check "nowhere to write" fails master 1 calibrate "${alone[@]}" --text "$IT/two.txt" --out "$IT/none/x.dat"
check "says so" grep -q "none/x.dat" "$IT/err"

: >"$IT/empty.txt"
check "an empty text" says "too short" --text "$IT/empty.txt"
check "no text" says "--text FILE"
check "a text that is not there" says "missing.txt" --text "$IT/missing.txt"
check "a window of one position" says "window\|context" --text "$IT/two.txt" --context 1
for i in 2 3; do check "worker $i stops on request" stop "w$i"; done
