#!/bin/bash
# A cluster of real processes on hosts of their own, found by the embedded mDNS responder: joining and leaving, keys, what is
# sent and what is not, caches, interrupted transfers, and a worker that outlives its master.
. "${0%/*}/lib.sh"
it_sandbox "$@"
it_need python3
M=$(model babyllama105-hf) || {
    skip "$TEST: no babyllama105-hf model"
    exit 0
}
MAKE_MODEL=$REPO/${B:-build/release}/tests/tools/make_model
if [[ ! -x $MAKE_MODEL ]]; then
    skip "$TEST: $MAKE_MODEL is not built"
    exit 0
fi
check "five hosts" hosts 5 || exit 1
check "a cluster key" key_new || exit 1
check "another cluster's key" key_new "$IT/other.key" || exit 1

# run HOST ARG...: a short greedy story
run() {
    local host=$1
    shift
    master "$host" --model "$M" --cluster-key-file "$IT_KEY" --raw --temperature 0 -n 24 --threads 1 --context 128 --echo \
        --prompt "Once upon a time" "$@"
}
listed() { # listed NAME: does the master's list of workers have it, on a usable line?
    master 1 workers --json --cluster-key-file "$IT_KEY" --discovery-timeout 2 && grep -q "\"$1\"" "$IT/out"
}
not_listed() { master 1 workers --json --cluster-key-file "$IT_KEY" --discovery-timeout 2 && ! grep -q "\"$1\"" "$IT/out"; }
layer_bytes() { # stored bytes of layers $1..$2
    python3 - "$M" "$1" "$2" <<'P'
import glob, json, re, sys
total = 0
for path in glob.glob(sys.argv[1] + "/model*.safetensors"):
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    for name, e in header.items():
        m = re.match(r"model\.layers\.(\d+)\.", name)
        if m and int(sys.argv[2]) <= int(m.group(1)) <= int(sys.argv[3]):
            total += e["data_offsets"][1] - e["data_offsets"][0]
print(total)
P
}
pin() { # pin NAME HOST LAYERS ...: a topology file
    : >"$IT/topology.yml"
    while [[ $# -gt 0 ]]; do
        printf '%s:\n  host: "%s:10128"\n  layers: ["model.layers.%s"]\n' "$1" "$(address "$2")" "$3" >>"$IT/topology.yml"
        shift 3
    done
}

# ---- alone, and found by discovery
check "the model runs alone" run 1 --discovery-timeout 0
cp "$IT/out" "$IT/alone"
expected=$(python3 -c "import json;print(json.load(open('$M/reference.json'))['greedy_text'][:30])")
same "alone it tells the reference's story" "$expected" "$(head -c 30 "$IT/alone")"
worker 2 alpha --threads 1
worker 3 beta --threads 1
for w in alpha beta; do check "$w runs" wait_until 20 port_open 1 "$(address $([[ $w == alpha ]] && echo 2 || echo 3))" 10128; done
check "beta is listed" wait_until 20 listed beta
check "alpha too" wait_until 20 listed alpha
discovers_both
check "a story over discovered workers" run 1 --min-workers 2 --discovery-timeout 20
check "is the same story" cmp "$IT/out" "$IT/alone"

# ---- joining, leaving, other clusters
worker 4 gamma --threads 1
check "a worker that joins is seen" wait_until 20 listed gamma
check "it leaves politely" stop gamma
check "a worker that left is not listed any more" wait_until 20 not_listed gamma
spawn 5 stranger "$BIN/cake-worker" --name stranger --cluster-key-file "$IT/other.key" --cache "$IT/cache-stranger"
check "a worker of another cluster runs" wait_until 20 port_open 1 "$(address 5)" 10128
check "it is not listed in ours" not_listed stranger
check "ours is still listed" grep -q '"alpha"' "$IT/out"
pin stranger 5 0-1
check "its address in a topology does not help" fails run 1 --topology "$IT/topology.yml"
check "and the message says key" grep -qiE 'key' "$IT/err"
check "the stranger lives on" alive stranger
stop stranger

# ---- bytes: what a worker gets, once (random weights: the story is none, but always the same)
check "a model of 51 MB" "$MAKE_MODEL" 51mb "$IT/big" "$(model stories260K-hf)"
M=$IT/big
check "it runs alone" run 1 --discovery-timeout 0
cp "$IT/out" "$IT/alone"
fresh() { # fresh NAME HOST: the worker again, with an empty cache
    stop "$1"
    rm -rf "$IT/cache-$1"
    back "$1" "$2"
}
back() { # back NAME HOST: the worker again, with the cache it had
    worker "$2" "$1" --threads 1
    check "$1 is up" wait_until 20 port_open 1 "$(address "$2")" 10128
}
received() { # received HOST NAME: run; sets GOT to the bytes that came to the host
    local before
    before=$(rx "$1")
    check "$2" run 1 --topology "$IT/topology.yml"
    check "$2: same text" cmp "$IT/out" "$IT/alone"
    GOT=$(($(rx "$1") - before))
}
need=$(layer_bytes 1 4)
few=$((need / 20)) # covers measuring the link, activations, headers
pin alpha 2 1-4
fresh alpha 2
received 2 "first run with alpha on layers 1-4"
check "alpha received at most 1.05 x its layers ($GOT of $need bytes)" test "$GOT" -ge "$need" -a $((GOT * 100)) -le $((need * 105))
received 2 "second run"
check "alpha was sent no weights again ($GOT bytes)" test "$GOT" -lt $few
check "alpha stops" stop alpha
back alpha 2
received 2 "run after a restart with the cache"
check "alpha received no weights again ($GOT bytes)" test "$GOT" -lt $few
pin alpha 2 1-3
received 2 "run with one layer less"
check "alpha keeps using what it has ($GOT bytes)" test "$GOT" -lt $few

# the same model in three shards: the same bytes, and no more of them
python3 - "$IT/big" "$IT/sharded" <<'P'
import json, os, shutil, struct, sys
src, dst = sys.argv[1:]
os.mkdir(dst)
for name in os.listdir(src):
    if not name.endswith(".safetensors"):
        shutil.copy(os.path.join(src, name), dst)
blob = open(os.path.join(src, "model.safetensors"), "rb").read()
n = int.from_bytes(blob[:8], "little")
header = json.loads(blob[8 : 8 + n])
header.pop("__metadata__", None)
where = {}
for i in range(3):
    file, at, entries, data = f"model-{i + 1:05d}-of-00003.safetensors", 0, {}, b""
    for k, name in enumerate(sorted(header)):
        if k % 3 == i:
            a, b = header[name]["data_offsets"]
            entries[name] = {**header[name], "data_offsets": [at, at + b - a]}
            at, data, where[name] = at + b - a, data + blob[8 + n + a : 8 + n + b], file
    text = json.dumps(entries).encode()
    with open(os.path.join(dst, file), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
with open(os.path.join(dst, "model.safetensors.index.json"), "w") as f:
    json.dump({"metadata": {}, "weight_map": where}, f)
P
M=$IT/sharded
pin beta 3 1-4
fresh beta 3
received 3 "run from three shards with beta on layers 1-4"
check "beta received at most 1.05 x its layers ($GOT of $need bytes)" test "$GOT" -ge "$need" -a $((GOT * 100)) -le $((need * 105))
pin alpha 2 1-4
received 2 "run from three shards with alpha, which has the tensors of the single file"
check "alpha is sent none of them again ($GOT bytes)" test "$GOT" -lt $few
M=$IT/big

# ---- a damaged cache file
stop alpha
damage() { # flip bytes in the middle of the largest file of the cache
    python3 - "$1" <<'P'
import os, sys
files = [os.path.join(d, f) for d, _, fs in os.walk(sys.argv[1]) for f in fs]
path = max(files, key=os.path.getsize)
st = os.stat(path)
os.chmod(path, 0o600)
with open(path, "r+b") as f:
    f.seek(st.st_size // 2)
    old = f.read(64)
    f.seek(st.st_size // 2)
    f.write(bytes(b ^ 0x5A for b in old))
os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
print("#  ", path, st.st_size)
P
}
check "damage in the cache" damage "$IT/cache-alpha"
back alpha 2
received 2 "run over the damaged cache"
check "the damage was noticed, and only the damaged tensors fetched again ($GOT bytes)" logged alpha 'event=cache_damaged'
check "not everything was" test "$GOT" -lt $((need / 2))

# ---- a transfer that is interrupted
fresh alpha 2
shape 2 80mbit
before=$(rx 2)
MASTER_TIMEOUT=40 run 1 --topology "$IT/topology.yml" &
run_pid=$!
half() { (($(rx 2) - before > need / 2)); }
check "half of the bundle is over" wait_until 30 half
send alpha KILL
wait $run_pid
check "the run without alpha failed" test $? -ne 0
first=$(($(rx 2) - before))
unset "IT_PID[alpha]"
shape 2 off
back alpha 2
received 2 "run after the interruption"
check "the transfer was resumed ($first bytes, then $GOT of $need)" test "$GOT" -lt $((need * 3 / 4))

# ---- masters come and go
rm -f "$IT/out"
MASTER_TIMEOUT=40 master 1 --model "$M" --cluster-key-file "$IT_KEY" --raw --temperature 0 -n 1500 --context 2048 --threads 1 \
    --topology "$IT/topology.yml" --prompt "Once upon a time" &
run_pid=$!
check "a master at work" wait_until 30 test -s "$IT/out"
pid=$(it_child $run_pid cake-master)
check "is killed in the middle" kill -9 "$pid"
wait $run_pid
check "alpha outlives it when it is killed" alive alpha
received 2 "run of the next master"
check "a master on another host is served too" run 3 --topology "$IT/topology.yml"
check "with the same text" cmp "$IT/out" "$IT/alone"
rss=$(rss_kib alpha)
[[ $IT_SLOW != 1 ]] || # sanitizers need memory of their own
    check "alpha needs little beside its weights ($rss KiB for $((need / 1024)) KiB)" test "$rss" -lt $((need / 1024 + 65536))
for w in alpha beta; do check "$w stops on request" stop $w; done
