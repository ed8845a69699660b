#!/bin/bash
# Bad input gets a sentence with the remedy and the documented exit code, before anything is computed.
. "${0%/*}/lib.sh"

key_new
GOOD=$(model babyllama105-mlx-4bit-g64)

# refused NAME CODE REGEX ARG...: cake-master ARG... ends with CODE, says REGEX on stderr and nothing on stdout
refused() {
    local name=$1 code=$2 regex=$3 got
    shift 3
    MASTER_TIMEOUT=20 master 0 "$@"
    got=$?
    if [[ $got != "$code" ]]; then not_ok "$name: exit $got instead of $code"; return; fi
    if ! grep -qE -- "$regex" "$IT/err"; then not_ok "$name: no /$regex/ on stderr"; return; fi
    if [[ -s $IT/out ]]; then not_ok "$name: something on stdout"; return; fi
    ok "$name"
}
# with a copy of the good model to damage
copy() { rm -rf "$IT/m" && cp -rL "$GOOD" "$IT/m" && chmod -R u+w "$IT/m"; }
alone=(--discovery-timeout 0 --prompt hi)

refused "no model" 2 "--model DIR" --prompt hi
refused "a folder that is not there" 1 "nowhere" --model "$IT/nowhere" "${alone[@]}"
mkdir -p "$IT/empty"
refused "an empty folder" 1 "empty" --model "$IT/empty" "${alone[@]}"

copy; rm "$IT/m/config.json"
refused "no config.json" 1 "config.json" --model "$IT/m" "${alone[@]}"
copy; sed -i 's/"model_type": "llama"/"model_type": "mamba"/' "$IT/m/config.json"
refused "wrong architecture" 1 "mamba" --model "$IT/m" "${alone[@]}"
copy; sed -i 's/"bits": 4/"bits": 7/' "$IT/m/config.json"
refused "unknown bit width" 1 "bits|7" --model "$IT/m" "${alone[@]}"
copy; echo '{' >"$IT/m/config.json"
refused "config.json is not JSON" 1 "config.json" --model "$IT/m" "${alone[@]}"
copy; truncate -s -100 "$IT/m/model.safetensors"
refused "truncated file" 1 "model.safetensors" --model "$IT/m" "${alone[@]}"
copy; printf x >>"$IT/m/model.safetensors"
refused "trailing bytes" 1 "model.safetensors" --model "$IT/m" "${alone[@]}"
copy; rm "$IT/m/tokenizer.json"
refused "no tokenizer" 1 "tokenizer" --model "$IT/m" "${alone[@]}"
copy; sed -i 's/model.safetensors/model-00001-of-00002.safetensors/' "$IT/m/model.safetensors.index.json"
refused "a shard that is missing" 1 "model-00001-of-00002" --model "$IT/m" "${alone[@]}"
# two tensors that claim the same bytes: same length of text, so that nothing else is wrong
copy; perl -0pi -e 's/"data_offsets":\[(\d+),(\d+)\](.*?)"data_offsets":\[(\d+),(\d+)\]/sprintf("\"data_offsets\":[%s,%s]%s\"data_offsets\":[%s,%s]",$1,$2,$3,"0"x length($4),$5)/se' "$IT/m/model.safetensors"
refused "overlapping tensors" 1 "model.safetensors" --model "$IT/m" "${alone[@]}"

refused "a plan that does not fit, with the numbers" 78 "[KM]iB" --model "$GOOD" --memory 100K "${alone[@]}"
refused "context above the model's" 1 "256" --model "$GOOD" --context 100000 "${alone[@]}"
refused "no workers found" 69 "cake-worker" --model "$GOOD" --prompt hi --min-workers 2 --discovery-timeout 500ms --cluster-key-file "$IT_KEY"
refused "unknown option" 2 "--temperature" --model "$GOOD" --temprature 1 "${alone[@]}"
refused "a value out of range" 2 "top-p" --model "$GOOD" --top-p 7 "${alone[@]}"

# topology files
topology() { cat >"$IT/t.yml"; }
with_topology=(--model "$GOOD" --prompt hi --topology "$IT/t.yml" --cluster-key-file "$IT_KEY")
topology <<<$'a:\n  host: "127.0.0.1:1"\n  layers: ["model.layers.0-1"]\nb:\n  host: "127.0.0.1:2"\n  layers: ["model.layers.3-4"]'
refused "topology with a gap" 78 "t.yml.*2" "${with_topology[@]}"
topology <<<$'a:\n  host: "127.0.0.1:1"\n  layers: ["model.layers.0-2"]\nb:\n  host: "127.0.0.1:2"\n  layers: ["model.layers.2-4"]'
refused "topology with an overlap" 78 "t.yml.*2" "${with_topology[@]}"
topology <<<$'a:\n  host: "127.0.0.1:1"\n  layers: ["model.layers.0-77"]'
refused "topology with unknown layers" 78 "77" "${with_topology[@]}"
topology <<<$'a:\n  hots: "127.0.0.1:1"'
refused "topology with a misspelt key" 78 "hots" "${with_topology[@]}"
topology <<<$'a:\n  host: "127.0.0.1:1"\n  layers: ["model.layers.0-4"]'
MASTER_TIMEOUT=40 refused "a worker of the topology that is not there" 69 "'a'" "${with_topology[@]}"

# the worker
port_taken() {
    worker 0 first --address 127.0.0.1:0
    wait_log first 10 'listens on' || return 1
    local port
    port=$(sed -n 's/.*listens on 127.0.0.1:\([0-9]*\).*/\1/p' "$IT/first.log" | head -1)
    timeout 10 "$BIN/cake-worker" --name second --cluster-key-file "$IT_KEY" --cache "$IT/c2" --address "127.0.0.1:$port" 2>"$IT/err"
    [[ $? == 69 ]] && grep -q "$port" "$IT/err"
}
check "port in use: said, exit 69" port_taken
bad_key() {
    echo "these are not the words of a key" >"$IT/bad.key"
    chmod 600 "$IT/bad.key"
    timeout 10 "$BIN/cake-worker" --cluster-key-file "$IT/bad.key" --cache "$IT/c2" --address 127.0.0.1:0 2>"$IT/err"
    [[ $? != 0 ]] && grep -qi "word" "$IT/err"
}
check "a key file with nonsense in it" bad_key
open_key() {
    cp "$IT_KEY" "$IT/open.key"
    chmod 644 "$IT/open.key"
    timeout 10 "$BIN/cake-worker" --cluster-key-file "$IT/open.key" --cache "$IT/c2" --address 127.0.0.1:0 2>"$IT/err"
    [[ $? == 77 ]] && grep -q "chmod\|600\|read" "$IT/err"
}
check "a key file that others may read is refused, exit 77" open_key
# a new key in the place of the old one, which the other machines take over from its words
refused "no key to replace" 1 "cluster create" cluster rotate --cluster-key-file "$IT/none.key"
rotated() {
    cp "$IT_KEY" "$IT/rotated.key" && cp "$IT_KEY" "$IT/other.key"
    on 0 "$BIN/cake-master" cluster rotate --cluster-key-file "$IT/rotated.key" >"$IT/words" 2>"$IT/err" &&
        ! cmp -s "$IT_KEY" "$IT/rotated.key" && [[ $(wc -w <"$IT/words") == 12 && $(stat -c %a "$IT/rotated.key") == 600 ]] &&
        on 0 "$BIN/cake-master" cluster join --force --cluster-key-file "$IT/other.key" <"$IT/words" 2>>"$IT/err" &&
        [[ $(grep -oE 'cluster [0-9a-f]{16}' "$IT/err" | sort -u | wc -l) == 1 ]]
}
check "cluster rotate" rotated

exit $IT_FAILED
