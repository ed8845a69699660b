"""Requests of serve_negative.sh: a table by API and by member, then bytes."""
import json, socket, sys, time

HOST, PORT = sys.argv[1][7:].split(":")
PORT = int(PORT)
count, bad = 0, []

def exchange(raw, shut=False, timeout=20):
    """Status and body of the first answer, or (None, what came) when the connection was closed without one."""
    with socket.create_connection((HOST, PORT), timeout=timeout) as s:
        try:
            s.sendall(raw)
            if shut: s.shutdown(socket.SHUT_WR)
        except OSError: pass # refused and closed while we were sending
        got = b""
        try:
            while True:
                while b"\r\n\r\n" in got:
                    head, body = got.split(b"\r\n\r\n", 1)
                    if head.startswith(b"HTTP/1.1 100"): got = body; continue
                    n = next((int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length")), 0)
                    if len(body) >= n: return int(head.split()[1]), body[:n]
                    break
                x = s.recv(65536)
                if not x: return None, got
                got += x
        except (ConnectionResetError, BrokenPipeError): return None, got

def expect(name, raw, statuses=None, closed_ok=False, shut=False):
    global count
    count += 1
    try: status, body = exchange(raw, shut)
    except socket.timeout: bad.append(f"{name}: no answer"); return
    if status is None:
        if not closed_ok: bad.append(f"{name}: closed")
        return
    if not 400 <= status <= 499 and status not in (statuses or ()): bad.append(f"{name}: {status} {body[:200]!r}"); return
    if statuses and status not in statuses: bad.append(f"{name}: {status}, not {statuses}"); return
    try:
        e = json.loads(body)["error"]
        assert isinstance(e["message"], str) and len(e["message"]) > 5 and isinstance(e["type"], str)
    except Exception as x: bad.append(f"{name}: no error object: {body[:200]!r} {x!r}")

def post(path, body, head=b""):
    if not isinstance(body, bytes): body = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (path.encode(), head, len(body), body)

CHAT, COMP, MSG, RSP = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
good = {CHAT: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
        COMP: {"prompt": "x", "max_tokens": 1},
        MSG: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
        RSP: {"input": "x", "max_output_tokens": 1}}

def member(path, key, *values):
    for v in values: expect(f"{path} {key}={json.dumps(v)[:60]}", post(path, {**good[path], key: v}), [400, 404])

deep = json.loads("[" * 60 + "]" * 60)
for path in good:
    for body in (b"", b"{", b"[]", b"null", b"5", b'"x"', b"{} {}", b"{'a':1}", b'{"a":NaN}', b'{"a":"\xff\xfe"}', b'{"a":"\xc3"}', b'{"a":"\xed\xa0\x80"}',
                 b"\xef\xbb\xbf[", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", b"\x00" * 20, b"{" * 5000):
        expect(f"{path} body {body[:20]!r}", post(path, body), [400])
    member(path, "temperature", -1, 3, "hot", [], {}, True, 1e400)
    member(path, "top_p", -0.1, 1.01, "x", [])
    member(path, "top_k", -2, 1.5, "x", 1 << 40)
    member(path, "seed", "x", 1.5)
    member(path, "stream", 1, "true", [])
    member(path, "model", 5, [], "other-model", "x" * 300)
for path in (CHAT, COMP):
    member(path, "max_tokens", 0, -1, 1.5, "x", 1 << 60)
    member(path, "n", 0, 5, -1, "x", 1.5)
    member(path, "stop", 5, "", [1], [""], ["x"] * 17, "x" * 257, {})
    member(path, "logit_bias", [], {"a": 1}, {"1": 101}, {"-1": 1}, {"1": "x"}, {"99999999": 1}, {str(i): 1 for i in range(1025)})
    member(path, "frequency_penalty", -2.1, 2.1, "x")
    member(path, "presence_penalty", -2.1, 2.1, "x")
    member(path, "repeat_penalty", 0, 101, "x")
    member(path, "min_p", -1, 2, "x")
    member(path, "stream_options", {}, 5)
member(CHAT, "messages", None, 5, {}, [], "x", [5], [None], [{}], [{"role": "god", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": 5}],
       [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}], [{"role": "user", "content": [{"type": "text"}]}],
       [{"role": "user", "content": "a\u0000b"}], [{"role": "assistant", "content": "x", "tool_calls": 5}], [{"role": "assistant", "content": "x", "tool_calls": [{}]}],
       [{"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "a b"}}]}], [{"role": "user", "content": "x"}] * 1025, [{"role": "user", "content": "x " * 2000}])
member(CHAT, "tools", 5, [5], [{}], [{"type": "web"}], [{"type": "function"}], [{"type": "function", "function": {}}], [{"type": "function", "function": {"name": ""}}],
       [{"type": "function", "function": {"name": "a b"}}], [{"type": "function", "function": {"name": "x" * 65}}], [{"type": "function", "function": {"name": "a", "parameters": 5}}],
       [{"type": "function", "function": {"name": "a", "description": 5}}], [{"type": "function", "function": {"name": "a", "strict": "x"}}],
       [{"type": "function", "function": {"name": "a"}}] * 2, [{"type": "function", "function": {"name": f"a{i}"}} for i in range(129)])
member(CHAT, "tool_choice", 5, "any", "required", {}, {"type": "function"}, {"type": "function", "function": {"name": "x"}})
member(CHAT, "response_format", 5, "json", {}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": 5}},
       {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}, {"type": "json_schema", "json_schema": {"schema": {"not": {}}}},
       {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, {"type": "json_schema", "json_schema": {"schema": {"$ref": "file:///etc/passwd"}}},
       {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "((a{1000}){1000}){1000}"}}}, {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 70000]}}},
       {"type": "json_schema", "json_schema": {"schema": {"properties": {f"p{i}": {} for i in range(2100)}}}}, {"type": "json_schema", "json_schema": {"schema": {"items": deep}}})
member(CHAT, "chat_template_kwargs", 5, [], "x")
member(CHAT, "reasoning_effort", 5, "huge", [])
member(CHAT, "top_logprobs", -1, 21, 3, "x")
member(CHAT, "logprobs", 1, "x")
member(CHAT, "functions", [{}], 5)
member(CHAT, "audio", {})
member(COMP, "prompt", None, 5, {}, [], [1, "x"], [-1], [99999999], "x " * 2000, ["x"] * 17, [[]])
member(COMP, "suffix", "x")
member(COMP, "echo", True, 5)
member(COMP, "best_of", 3, 0, "x")
member(COMP, "logprobs", True, 21, -1)
member(MSG, "messages", None, 5, [], [5], [{"role": "system", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": [5]}], [{"role": "user", "content": [{"type": "image"}]}],
       [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "x", "input": {}}]}], [{"role": "user", "content": [{"type": "tool_result"}]}], [{"role": "assistant", "content": "x"}])
member(MSG, "max_tokens", None, 0, "x")
member(MSG, "system", 5, [5])
member(MSG, "tools", 5, [5], [{}], [{"name": "a b"}], [{"type": "web_search_20250305", "name": "web_search"}], [{"name": "a", "input_schema": 5}])
member(MSG, "tool_choice", 5, "auto", {"type": "any"}, {"type": "x"}, {"type": "tool", "name": "x"})
member(MSG, "thinking", 5, {}, {"type": "x"})
member(MSG, "stop_sequences", 5, [5], [""])
member(RSP, "input", None, 5, [], [5], [{"type": "x"}], [{"role": "x", "content": "x"}], [{"type": "function_call"}], [{"type": "function_call_output"}], [{"type": "reasoning"}])
member(RSP, "previous_response_id", "x")
member(RSP, "background", True, 5)
member(RSP, "truncation", "auto")
member(RSP, "tools", 5, [{}], [{"type": "web_search"}], [{"type": "function"}])
member(RSP, "text", 5, {"format": 5}, {"format": {"type": "x"}}, {"format": {"type": "json_schema"}})
member(RSP, "reasoning", 5, {"effort": "x"})
member(RSP, "max_output_tokens", 0, "x")
for path, bodies in {"/tokenize": [{}, {"content": 5}, {"content": "x", "add_special": 5}], "/detokenize": [{}, {"tokens": 5}, {"tokens": ["x"]}, {"tokens": [-1]}, {"tokens": [1 << 40]}],
                     "/apply-template": [{}, {"messages": []}], "/v1/messages/count_tokens": [{}, {"messages": 5}]}.items():
    for b in bodies: expect(f"{path} {b}", post(path, b), [400])

# ---- methods, paths, headers
for m in ("GET", "PUT", "DELETE", "PATCH"): expect(m, f"{m} {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode(), [405])
for p in ("/", "/v1", "/v1/models/none", "/v1/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/%00", "/health/x", "//health", "/v1/chat/completions/"):
    if p != "/": expect(p, f"GET {p} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), [404])
H = b"Host: localhost\r\n"
for host in (b"evil.example", b"", b"[::1", b"localhost:x", b"127.0.0.1.evil.example", b"a" * 300):
    expect(f"host {host[:30]!r}", b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n", [403, 400])
for origin in (b"https://evil.example", b"null", b"http://localhost.evil.example"):
    expect(f"origin {origin!r}", b"GET /v1/models HTTP/1.1\r\n" + H + b"Origin: " + origin + b"\r\nConnection: close\r\n\r\n", [403])
B = json.dumps(good[CHAT]).encode()
L = b"Content-Length: %d\r\n" % len(B)
for name, raw, st in [
    ("two lengths", b"POST %s HTTP/1.1\r\n" % CHAT.encode() + H + L + b"Content-Length: 3\r\n\r\n" + B, [400]),
    ("length and chunks", b"POST %s HTTP/1.1\r\n" % CHAT.encode() + H + L + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n", [400]),
    ("chunks disguised", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [400]),
    ("chunks twice", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", [400]),
    ("chunks with a tab", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", [400]),
    ("gzip", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [400]),
    ("length plus", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +5\r\n\r\n12345", [400]),
    ("length hex", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x5\r\n\r\n12345", [400]),
    ("length list", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5, 5\r\n\r\n12345", [400]),
    ("length negative", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\n", [400]),
    ("length huge", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999\r\n\r\n", [400, 413]),
    ("length above the limit", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 9000000\r\n\r\n", [413]),
    ("no length", b"POST %s HTTP/1.1\r\n" % CHAT.encode() + H + b"\r\n", [411]),
    ("blank before colon", b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n", [400]),
    ("folded", b"GET /health HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", [400]),
    ("no host", b"GET /health HTTP/1.1\r\n\r\n", [400]),
    ("two hosts", b"GET /health HTTP/1.1\r\n" + H + H + b"\r\n", [400]),
    ("bare CR", b"GET /health HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", [400]),
    ("NUL", b"GET /health HTTP/1.1\r\nHost: local\0host\r\n\r\n", [400]),
    ("control in path", b"GET /hea\x01lth HTTP/1.1\r\n" + H + b"\r\n", [400]),
    ("absolute path missing", b"GET health HTTP/1.1\r\n" + H + b"\r\n", [400]),
    ("version 2", b"GET / HTTP/2.0\r\n" + H + b"\r\n", [400]),
    ("no version", b"GET /\r\n" + H + b"\r\n", [400]),
    ("no HTTP", b"SSH-2.0-OpenSSH\r\n\r\n", [400]),
    ("TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"a" * 100 + b"\n\n", [400]),
    ("long line", b"GET /" + b"a" * 17000 + b" HTTP/1.1\r\n" + H + b"\r\n", [431, 400]),
    ("long header", b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 17000 + b"\r\n\r\n", [431]),
    ("many headers", b"GET / HTTP/1.1\r\n" + H + b"".join(b"X%d: y\r\n" % i for i in range(200)) + b"\r\n", [431]),
    ("expectation", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nExpect: a-miracle\r\n\r\n", [417]),
    ("chunk size", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", [400]),
    ("chunk size negative", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", [400]),
    ("chunk size huge", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n", [400, 413]),
    ("chunk above the limit", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n900000\r\n", [413]),
    ("chunk without end", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX\r\n", [400]),
]: expect(name, raw, st)
for cut in (1, 10, 40, len(B) - 1): # bodies and heads that break off
    raw = b"POST %s HTTP/1.1\r\n" % CHAT.encode() + H + L + b"\r\n" + B
    expect(f"cut after {cut}", raw[:cut], closed_ok=True, shut=True)
    expect(f"body cut after {cut}", raw[: len(raw) - len(B) + cut], closed_ok=True, shut=True)

print(f"ok - {count} bad requests were sent" if count >= 200 else f"not ok - only {count} bad requests")
print("ok - each was refused with the error object" if not bad else "not ok - " + " | ".join(bad)[:3000])

# ---- slow loris: many that never finish do not keep others waiting
slow = []
for i in range(200):
    s = socket.create_connection((HOST, PORT))
    s.sendall((b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"a\"", b"GET /heal", b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")[i % 3])
    slow.append(s)
status, _ = exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
print("ok - 200 slow clients keep nobody waiting" if status == 200 else f"not ok - {status} beside slow clients")
for s in slow: s.close()
status, body = exchange(post(CHAT, good[CHAT]))
print("ok - it still answers" if status == 200 else f"not ok - afterwards {status} {body!r}")
