#!/bin/bash
# /api/v1/topology, /workers and /events of a real server over two workers: while bundles travel, while it answers, when a worker is
# lost and when it comes back.
. "${0%/*}/lib.sh"
it_need curl python3
it_sandbox "$@"
check "three hosts" hosts 3 || exit 1
check "a cluster key" key_new || exit 1
MODEL=$REPO/tests/models/babyllama105-hf
for i in 2 3; do worker $i "w$i" --threads 1; done
for i in 2 3; do check "worker $i listens" wait_until 20 port_open 1 "$(address $i)" 10128 || exit 1; done
printf 'w2:\n  host: "%s:10128"\n  layers: ["model.layers.0-1"]\nw3:\n  host: "%s:10128"\n  layers: ["model.layers.2-4"]\n' \
    "$(address 2)" "$(address 3)" >"$IT/topology.yml"
shape 2 8mbit # its part takes a second or two
spawn 1 main "$BIN/cake-master" serve --model "$MODEL" --api 127.0.0.1:8080 --topology "$IT/topology.yml" \
    --cluster-key-file "$IT_KEY" --threads 1 --sequences 2 --discovery-timeout $((10 * IT_SLOW))
U=http://127.0.0.1:8080
ask() { on 1 curl -s -m 60 "$@"; }
ask_events() { on 1 timeout 600 curl -sN $U/api/v1/events >"$IT/events"; }
check "it listens" wait_until 20 port_open 1 127.0.0.1 8080 || exit 1
ask_events &
EVENTS=$!
# topology EXPRESSION: of the picture t, with node(NAME)
topology() { ask $U/api/v1/topology | python3 -c "
import json, sys
t = json.load(sys.stdin)
node = lambda n: next((x for x in t['nodes'] if x['name'] == n), {})
print($1)"; }
is() { [[ $(topology "$1" 2>/dev/null) == "$2" ]]; }

check "ready in the end" wait_until 60 is 't["status"]' ready || exit 1
shape 2 off
# what was seen on the way
cat >"$IT/seen.py" <<'PY'
import json, sys
seen = [json.loads(l[6:]) for l in open(sys.argv[1]) if l.startswith("data: {") and l.endswith("}\n")]
def states(name):
    out = []
    for t in seen:
        for n in t["nodes"]:
            if n["name"] == name and (not out or out[-1] != n["state"]): out.append(n["state"])
    return out
transfers = [n["transfer"] for t in seen for n in t["nodes"] if n["name"] == "w2" and n.get("transfer", {}).get("kind") == "sending"]
print(eval(sys.argv[2]))
PY
seen() { python3 "$IT/seen.py" "$IT/events" "$1"; }
same "events: loading, then ready" "loading ready" "$(seen '" ".join(dict.fromkeys(t["status"] for t in seen))')"
check "events: the transfer grows to its total" test "$(seen 'len(set(x["done"] for x in transfers)) >= 2 and all(0 <= x["done"] <= x["total"] for x in transfers) and any(x["rate"] > 0 for x in transfers)')" == True
same "events: the states of a worker in order" True "$(seen 'states("w2")[-1] == "ready" and "fetching" in states("w2") and "measuring" in states("w2")')"
same "stages in the order of the pipeline" "node1:embed w2:0-1 w3:2-4 node1:head" "$(topology '" ".join(s["name"] + ":" + s["units"] for s in t["stages"])')"
same "memory, link and machine of a worker" True "$(topology '(lambda n: 0 < n["memory"]["weights"] < n["memory"]["used"] < n["memory"]["total"] and n["rtt_ms"] > 0 and n["bandwidth"] > 0 and 0 <= n["last_seen_ms"] < 3000 and n["threads"] == 1 and n["address"].endswith(":10128"))(node("w2"))')"
same "/workers leaves this machine out" "w2 w3" "$(ask $U/api/v1/workers | python3 -c 'import json,sys; print(" ".join(n["name"] for n in json.load(sys.stdin)["data"]))')"

# times while it answers
for k in $(seq 1000); do
    ask -d '{"prompt":"Once upon a time","max_tokens":230,"ignore_eos":true}' $U/v1/completions >"$IT/answer"
    [[ -e $IT/enough ]] && break
done &
asker=$!
check "tokens per second" wait_until 20 is 't["tokens_per_second"] > 0' True
check "compute and network times of every stage" wait_until 20 is 'all(s["compute_ms"] > 0 for s in t["stages"]) and sum(s["network_ms"] for s in t["stages"]) > 0' True
same "one stage is the slowest" 1 "$(topology 'sum(s["slowest"] for s in t["stages"])')"

# a worker dies
stop w3 KILL 5
start=$(now_ms)
check "lost, with the reason" wait_until 10 is '(node("w3")["state"], node("w3")["reason"] != "", "cake-worker" in node("w3")["hint"])' "('lost', True, True)"
echo "# seen after $(($(now_ms) - start)) ms"
check "the server says why it cannot answer" wait_until 10 is 't["status"] == "unavailable" and "w3" in t["reason"]' True
sleep 3
same "it stays in the picture when the cluster is looked for again" lost "$(topology 'node("w3")["state"]')"
worker 3 w3 --threads 1
check "and is back" wait_until 60 is '(t["status"], node("w3")["state"])' "('ready', 'ready')"
check "it answers again" wait_until 20 is 't["tokens_per_second"] > 0' True
# only its neighbour can see the next death: what is said of it must be the same
on 3 ip route add blackhole "$(address 1)"
stop w3 KILL 5
check "lost, as its neighbour says" wait_until 4 is '(node("w3")["state"], "w2" in node("w3")["reason"], "cake-worker" in node("w3")["hint"])' "('lost', True, True)"
on 3 ip route del blackhole "$(address 1)"
worker 3 w3 --threads 1
check "and is back again" wait_until 60 is '(t["status"], node("w3")["state"])' "('ready', 'ready')"
: >"$IT/enough"
wait $asker
check "events: all of it" test "$(seen '[s for s in states("w3") if s in ("ready", "lost")][-3:] == ["ready", "lost", "ready"]')" == True

# watchers
kill $EVENTS 2>/dev/null
cat >"$IT/watchers.py" <<'PY'
import socket, time
def watch():
    s = socket.create_connection(("127.0.0.1", 8080))
    s.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return s
def head(s):
    return s.recv(12, socket.MSG_WAITALL)
all = [watch() for _ in range(63)]
assert all and set(head(s) for s in all) == {b"HTTP/1.1 200"}, "63 watchers"
while head(more := watch()) == b"HTTP/1.1 200": all.append(more)  # whoever watched before may just have been noticed to be gone
assert len(all) <= 64, len(all)
for s in all: s.close()
time.sleep(0.3)
assert head(watch()) == b"HTTP/1.1 200", "room again"
print("fine")
PY
same "64 watchers at most, none of them reading" fine "$(on 1 python3 "$IT/watchers.py" 2>&1 | tail -1)"
check "it stops on request" stop main TERM 10
