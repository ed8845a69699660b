"""What HTTP costs, as JSON lines: processor time of the HTTP thread per streamed token, beside that of the same answers in one
piece; memory of 1,000 clients whose streams are open and idle because one other is being answered. Usage: tests/bench/bench_http.py"""
import json, os, re, resource, select, socket, subprocess, sys, tempfile, time

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SMALL = REPO + "/tests/models/stories260K-hf"
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)

def serve(model, *options):
    """The process and its address."""
    log = tempfile.NamedTemporaryFile()
    p = subprocess.Popen([REPO + "/build/cake-master", "serve", "--model", model, "--api", "127.0.0.1:0", "--discovery-timeout", "0",
                          "--threads", "1", *options], stderr=log, stdout=log)
    for _ in range(600):
        m = re.search(r"Serving .* on http://([0-9.]+):(\d+)", open(log.name).read())
        if m: return p, (m.group(1), int(m.group(2)))
        time.sleep(0.1)
    p.terminate()
    raise SystemExit("the server did not start: " + open(log.name).read())

def http_thread():
    for t in os.listdir(f"/proc/{p.pid}/task"):
        if open(f"/proc/{p.pid}/task/{t}/comm").read().strip() == "cake-http": return t

def cpu_ns(): return int(open(f"/proc/{p.pid}/task/{thread}/schedstat").read().split()[0])
def rss(): return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{p.pid}/status").read()).group(1)) * 1024

def ask(path, body, n):
    """n of the same at once; read to the end."""
    b = json.dumps(body).encode()
    conns = []
    for _ in range(n):
        s = socket.create_connection(addr)
        s.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(b), b))
        conns.append(s)
    left = set(conns)
    while left:
        for s in select.select(list(left), [], [])[0]:
            if not s.recv(1 << 16): left.discard(s); s.close()

def tokens():
    s = socket.create_connection(addr)
    s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    got = b""
    while x := s.recv(1 << 16): got += x
    return int(re.search(rb"\ncake_generation_tokens_total (\d+)", got).group(1))

p, addr = serve(SMALL, "--sequences", "8")
try:
    thread = http_thread()
    def cost(streams, stream):
        n, c = tokens(), cpu_ns()
        ask("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": stream}, streams)
        c = cpu_ns() - c
        return c / (tokens() - n) / 1000
    for streams in (1, 8):
        cost(streams, True) # warm
        best = min(cost(streams, True) for _ in range(5))
        whole = min(cost(streams, False) for _ in range(5))
        print(json.dumps({"bench": "http", "what": "streamed token", "streams": streams, "us": round(best, 2), "us_whole_reply": round(whole, 2),
                          "bar_us": 20, "ok": best <= 20}), flush=True)
finally:
    p.terminate()
    p.wait()

with tempfile.TemporaryDirectory() as model: # slow enough that the others wait
    subprocess.run([REPO + "/build/release/tests/tools/make_model", "51mb", model, SMALL], check=True, stdout=sys.stderr)
    p, addr = serve(model, "--sequences", "1", "--queue", "1000", "--context", "2048")
    try:
        b = json.dumps({"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": True, "stream": True}).encode()
        def stream():
            s = socket.create_connection(addr)
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(b), b))
            s.settimeout(20)
            return s, s.recv(4096).startswith(b"HTTP/1.1 200")
        # a whole answer first: the pages of the KV cache belong to nobody who waits
        ask("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": True, "stream": True}, 1)
        first = stream()
        before = rss()
        clients = [stream() for _ in range(1000)]
        there = sum(ok for _, ok in clients)
        used = rss() - before
        print(json.dumps({"bench": "http", "what": "idle streams", "clients": there, "mb": round(used / 1e6, 2), "kb_each": round(used / 1e3 / 1000, 2),
                          "rss_before_mb": round(before / 1e6, 2), "bar_mb": 30, "ok": there == 1000 and used <= 30e6}), flush=True)
    finally:
        p.terminate()
        p.wait()
