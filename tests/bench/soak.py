"""Many clients that behave badly: soak.py URL REQUESTS [SEED]

Whole answers (streamed or not), shared prompts, connections that are closed or reset at any point of the request or of the
answer, clients that stop reading for a while, requests that are refused. Then, one after the other, a client that leaves
while it waits, in its prompt and in its answer, and how long its sequence outlives it. One JSON object on stdout."""
import json
import random
import socket
import struct
import sys
import threading
import time
import urllib.request

URL, REQUESTS = sys.argv[1], int(sys.argv[2])
HOST, PORT = URL[7:].rsplit(":", 1)
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1
WORDS = "once upon a time there was a little girl who liked to play in the big garden with her dog and the cat".split()
count = {"done": 0, "left": 0, "reset": 0, "half": 0, "refused": 0, "failed": 0}
lock = threading.Lock()
left = iter(range(REQUESTS))


def metrics():
    out = {}
    with urllib.request.urlopen(URL + "/metrics", timeout=60) as r:
        for line in r.read().decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
    return out


def connect(body, cut=None):
    s = socket.create_connection((HOST, int(PORT)), timeout=120)
    b = json.dumps(body).encode()
    r = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b)
    s.sendall(r[: int(len(r) * cut)] if cut is not None else r)
    return s


def hang_up(s, reset):
    if reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def read_all(s):
    text = b""
    while True:
        x = s.recv(65536)
        if not x:
            return text
        text += x


def one(rng):
    shared = " ".join(WORDS[: rng.randrange(4, len(WORDS))])
    body = {
        "prompt": shared + " " + " ".join(rng.choices(WORDS, k=rng.randrange(0, 8))),
        "max_tokens": rng.choice([1, 3, 10, 60]),
        "ignore_eos": rng.random() < 0.5,
        "temperature": rng.choice([0, 0.8]),
        "stream": rng.random() < 0.6,
    }
    kind = rng.random()
    if kind < 0.08:
        hang_up(connect(body, rng.random()), rng.random() < 0.5)
        return "half"
    if kind < 0.12:
        body["temperature"] = "hot"
        return "refused" if b" 400 " in read_all(connect(body)) else "failed"
    s = connect(body)
    if kind < 0.55:
        reset = rng.random() < 0.5
        if rng.random() < 0.5:
            time.sleep(rng.random() * 0.02)
        else:
            s.recv(rng.randrange(1, 2000))
        hang_up(s, reset)
        return "reset" if reset else "left"
    if kind < 0.6:
        time.sleep(rng.random() * 0.2)  # silent for a while, then goes on
    text = read_all(s)
    s.close()
    if b" 429 " in text[:20]:
        return "refused"
    return "done" if b" 200 " in text[:20] and (b"[DONE]" in text or b'"usage"' in text) else "failed"


def client(n):
    rng = random.Random(SEED * 1000 + n)
    while True:
        with lock:
            if next(left, None) is None:
                return
        try:
            how = one(rng)
        except OSError:
            how = "reset"  # by the server, which closes what is half sent
        with lock:
            count[how] += 1


def settle(what, seconds):
    end = time.time() + seconds
    while time.time() < end:
        m = metrics()
        if all(m[k] == v for k, v in what.items()):
            return True
        time.sleep(0.005)
    return False


def outlives(phase):
    """How long a sequence is there after its client has left it; ms."""
    running, waiting = "cake_requests_running", "cake_requests_waiting"
    others = []
    if phase == "queue":
        while metrics()[running] < SLOTS:
            others.append(connect({"prompt": "once", "max_tokens": 1 << 20, "ignore_eos": True, "stream": True}))
            time.sleep(0.01)
    prompt = " ".join(WORDS * (40 if phase == "prefill" else 1))[: PROMPT_MAX if phase == "prefill" else 200]
    s = connect({"prompt": str(random.random()) + prompt, "max_tokens": 1 << 20, "ignore_eos": True, "stream": True})
    end = time.time() + 20
    if phase == "queue":
        while metrics()[waiting] < 1 and time.time() < end:
            pass
    elif phase == "decode":
        while b"data:" not in s.recv(65536):
            pass
    else:
        while metrics()[running] < 1 and time.time() < end:
            pass
    start = time.time()
    hang_up(s, phase != "decode")
    gone = settle({waiting: 0} if phase == "queue" else {running: 0}, 60)
    ms = (time.time() - start) * 1e3
    for o in others:
        o.close()
    settle({running: 0, waiting: 0}, 60)
    return round(ms, 1) if gone else -1


SLOTS, PROMPT_MAX = 4, int(sys.argv[4]) if len(sys.argv) > 4 else 600
before = metrics()
clients = [threading.Thread(target=client, args=(n,)) for n in range(16)]
for c in clients:
    c.start()
for c in clients:
    c.join()
nothing = {
    "cake_requests_running": 0,
    "cake_requests_waiting": 0,
    "cake_batches_in_flight": 0,
    "cake_kv_sequences_open": 0,
    "cake_jobs": 0,
}
clean = settle(nothing, 60)
after = metrics()
gone = {phase: outlives(phase) for phase in ("queue", "prefill", "decode")}
clean = clean and settle(nothing, 60)
after = metrics()
print(
    json.dumps(
        {
            "requests": sum(count.values()),
            **count,
            "clean": clean,
            "left_behind": {k: after[k] for k in nothing if after[k]},
            "batches_canceled": after["cake_batches_canceled_total"] - before["cake_batches_canceled_total"],
            "tokens_cached": after["cake_prompt_tokens_cached_total"] - before["cake_prompt_tokens_cached_total"],
            "outlived_ms": gone,
        }
    )
)
