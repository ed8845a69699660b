#!/usr/bin/env python3
"""cake-master chat on a real terminal (a pty), against a scripted server: editing, completion, history, interrupts, thinking,
hostile replies. Prints "ok - NAME" or "not ok - NAME: why". Arguments: PROGRAM FOLDER."""
import json, os, pty, re, select, signal, ssl, stat, subprocess, sys, termios, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROGRAM, HOME = sys.argv[1], sys.argv[2]
SLOW = float(os.environ.get("IT_SLOW", "1"))
failed = 0


def check(name, ok, why=""):
    global failed
    failed += not ok
    print(f"ok - {name}" if ok else f"not ok - {name}: {why!r}"[:600], flush=True)


# ---- the server: what it says next is set by the test


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script, requests, cut, key = [], [], threading.Event(), None

    def log_message(self, *args):
        pass

    def json(self, status, o):
        text = json.dumps(o).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def allowed(self):
        if Server.key in (None, self.headers.get("Authorization", "")[7:]):
            return True
        self.json(401, {"error": {"message": "the API key is missing or wrong"}})

    def do_GET(self):
        if not self.allowed():
            return
        if self.path == "/v1/models":
            self.json(200, {"data": [{"id": "scripted"}]})
        else:
            self.json(404, {"error": {"message": "nothing here"}})

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.allowed():
            return
        Server.requests.append(json.loads(body))
        script = Server.script.pop(0) if Server.script else ["fine"]
        if callable(script):
            return script(self)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for part in script:
                if isinstance(part, float):
                    time.sleep(part)
                elif isinstance(part, bytes):
                    self.chunk(part)
                else:
                    delta = part if isinstance(part, dict) else {"content": part}
                    self.chunk(b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n")
            end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
            usage = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}}
            for o in (end, usage):
                self.chunk(b"data: " + json.dumps(o).encode() + b"\n\n")
            self.chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            Server.cut.set()


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}"


# ---- the terminal


class Terminal:
    def __init__(self, *args, verb=["chat"], env={}):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            e = {"HOME": HOME, "TERM": "xterm", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **env}
            for k, v in os.environ.items():
                if k.endswith("SAN_OPTIONS"):
                    e[k] = v
            os.execve(PROGRAM, [PROGRAM, *verb, *args], e)
        self.all = ""
        self.before = termios.tcgetattr(self.fd)  # of the terminal: a pty's two ends share it

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return None
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.all += data.decode(errors="replace")
        return data

    def wait(self, pattern, seconds=5):
        """Until the output since the last wait matches; the match is used up."""
        end = time.time() + seconds * SLOW
        while time.time() < end:
            m = re.search(pattern, self.all, re.S)
            if m:
                self.seen, self.all = self.all[: m.end()], self.all[m.end() :]
                return True
            if self.read(0.1) == b"":
                break
        self.seen = self.all
        return False

    def type(self, text):
        os.write(self.fd, text.encode())

    def say(self, text, pattern):
        self.type(text)
        return self.wait(pattern)

    def end(self, seconds=5):
        end = time.time() + seconds * SLOW
        while time.time() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0):
                    pass
                self.after = termios.tcgetattr(self.fd)
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            self.read(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return "hangs"

    def leave(self):
        """Ctrl-D until it ends: one typed before the line editor has the terminal is not a key yet."""
        for _ in range(5):
            self.type("\x04")
            end = time.time() + SLOW
            while time.time() < end:
                self.read(0.02)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    os.close(self.fd)
                    return os.waitstatus_to_exitcode(status)
        return self.end(1)


PROMPT = r"> (\x1b\[0m)?"


def last():
    return Server.requests[-1]


t = Terminal("--server", URL)
check("it greets with the model's name", t.wait(r"scripted.*Ctrl-D leaves.*" + PROMPT), t.all)
Server.script = [["Hel", "lo ", "you."]]
check("a reply streams", t.say("hi\r", r"Hello you\."), t.all)
t.wait(PROMPT)
Server.script = [["Again."]]
t.say("once more\r", r"Again\.")
t.wait(PROMPT)
check("the whole conversation is sent", [m["content"] for m in last()["messages"]] == ["hi", "Hello you.", "once more"], last())
check("and the model's name", last()["model"] == "scripted", last())

# editing: the cursor goes back and a letter is put in; UTF-8; history; completion
t.say("wrld" + "\x1b[D" * 3 + "o" + "\r", r"fine")
check("a letter in the middle of a line", last()["messages"][-1]["content"] == "world", last()["messages"][-1])
t.wait(PROMPT)
t.say("Grüße 🍰x\x7f\r", r"fine")
check("characters of more than one byte", last()["messages"][-1]["content"] == "Grüße 🍰", last()["messages"][-1])
t.wait(PROMPT)
t.say("\x1b[A\r", r"fine")
check("the arrow key brings the last line", last()["messages"][-1]["content"] == "Grüße 🍰", last()["messages"][-1])
t.wait(PROMPT)
check("Tab completes a command", t.say("/sta\t\r", r"12 tokens, 8 of them known.*reply +3 tokens"), t.all)
t.wait(PROMPT)
check("Tab lists what may follow", t.say("/s\t", r"/system +/set +/stats +/save"), t.all)
t.wait(PROMPT + "/s")
check("Ctrl-C drops the line", t.say("\x03", PROMPT) and t.say("next\r", r"fine") and last()["messages"][-1]["content"] == "next", last()["messages"][-1])
t.wait(PROMPT)
t.say('"""first\r', r"\.\.\. ")
t.say("\r", r"\.\.\. ")
t.say('  third"""\r', r"fine")
check("a message of many lines", last()["messages"][-1]["content"] == "first\n\n  third", last()["messages"][-1])
t.wait(PROMPT)
t.say("see: \x1b[200~def f():\r\treturn 1\x08\r\rf()\r\x1b[201~", r"f\(\)")
t.say("\r", r"fine")
check("pasted text is one message", last()["messages"][-1]["content"] == "see: def f():\n\treturn 1\n\nf()", last()["messages"][-1])
t.wait(PROMPT)
t.say("\x1b[A!\r", r"fine")
check("and comes back as it was", last()["messages"][-1]["content"] == "see: def f():\n\treturn 1\n\nf()!", last()["messages"][-1])
t.wait(PROMPT)

# commands
t.say("/system Be brief.\r", PROMPT)
t.say("/set temperature 0.25\r", PROMPT)
t.say("/set thinking off\r", PROMPT)
t.say("/set seed 7\r", PROMPT)
n = len(last()["messages"])
t.say("/regen\r", r"fine")
check("/system, /set and /regen reach the request",
      last()["messages"][0] == {"role": "system", "content": "Be brief."} and last()["temperature"] == 0.25 and last()["seed"] == 7
      and last()["chat_template_kwargs"] == {"enable_thinking": False} and len(last()["messages"]) == n + 1, last())
t.wait(PROMPT)
check("/set refuses what is no value", t.say("/set temperature hot\r", r"'hot' is no value for temperature"), t.all)
check("an unknown command names the nearest", t.say("/stat\r", r"did you mean /stats"), t.all)
check("/workers of a server that has none", t.say("/workers\r", r"does not tell of its workers"), t.all)
saved = os.path.join(HOME, "talk.json")
t.say(f"/save {HOME}/ta\x7f\x7ftalk.json\r", r"messages in")
o = json.load(open(saved))
check("/save writes a private file", stat.S_IMODE(os.stat(saved).st_mode) == 0o600 and o["system"] == "Be brief." and len(o["messages"]) >= 10, o)
t.say("/clear\r", r"forgotten")
t.wait(PROMPT)
t.say("after\r", r"fine")
check("/clear forgets, the system message stays", [m["role"] for m in last()["messages"]] == ["system", "user"], last())
t.wait(PROMPT)
check("/load goes on with it", t.say(f"/load {HOME}/tal\t\r", rf"\({len(o['messages'])} messages of"), t.all)
t.wait(PROMPT)
with open(saved, "w") as f:
    f.write('{"messages":[{"role":"root","content":"x"}]}')
check("/load refuses what is no conversation", t.say(f"/load {saved}\r", r"message 0 is of 'root'"), t.all)
t.wait(PROMPT)

# interrupts
Server.cut.clear()
Server.script = [["one "] + [0.1, "more "] * 300]
t.say("/clear\r", PROMPT)
t.say("count\r", r"one more more")
start = time.time()
check("Ctrl-C stops the reply", t.say("\x03", r"\(stopped\)"), t.all)
check("at once, and the server notices", Server.cut.wait(5 * SLOW), time.time() - start)
t.wait(PROMPT)
t.say("go on\r", r"fine")
check("what came stays in the conversation", last()["messages"][-2]["content"].startswith("one more more"), last()["messages"])
t.wait(PROMPT)

# thinking
Server.script = [[{"reasoning_content": "hm, "}, {"reasoning_content": "well"}, "Yes."]]
check("thinking is dimmed", t.say("sure?\r", r"\x1b\[2mhm, well\x1b\[0m\s+Yes\."), t.all)
t.wait(PROMPT)
Server.script = [["<th", "ink>\nlet me ", "see </thi", "nk>\n\nIt is <b>."]]
check("also between tags", t.say("and?\r", r"\x1b\[2m\s*let me see \x1b\[0m\s+It is <b>\."), t.all)
t.wait(PROMPT)
t.say("so\r", r"fine")
check("and is no part of the conversation", [m["content"] for m in last()["messages"]][-4:-1] == ["Yes.", "and?", "It is <b>."], last()["messages"])
t.wait(PROMPT)

# what is sent is not trusted
Server.script = [["a\x1b]0;owned\x07b\x9bc\r\x7fd"]]
check("no control character of the model's reaches the terminal", t.say("esc\r", r"a\?\]0;owned\?b\?c\?\?d"), t.all)
t.wait(PROMPT)
for name, script, want in [
    ("an error in the middle", ["half", b'data: {"error":{"message":"worker w2 \\u001b[31m is lost"}}\n\n'], r"half.*cake-master: worker w2 \?\[31m is lost"),
    ("an event that is no JSON", [b"data: {oops\n\n"], r"cake-master: the server's event"),
    ("an event without end", [b"data: " + b"x" * (5 << 20)], r"event of more than 4 MiB"),
    ("a status with a reason", lambda s: s.json(400, {"error": {"message": "context_length: too long"}}), r"context_length: too long"),
    ("a reply that is no stream", lambda s: s.json(200, {"choices": []}), r"does not stream"),
    ("no HTTP at all", lambda s: (s.wfile.write(b"SSH-2.0-x\r\n\r\n"), setattr(s, "close_connection", True)), r"not HTTP"),
    ("a connection that ends early", lambda s: (s.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc"), setattr(s, "close_connection", True)), r"in the middle of its reply"),
]:
    Server.script = [script]
    check(f"told and survived: {name}", t.say("x\r", want), t.all[-300:])
    t.wait(PROMPT)
t.say("still\r", r"fine")
check("a failed message is not sent again", "x" not in [m["content"] for m in last()["messages"][-2:-1]], last()["messages"][-3:])
t.wait(PROMPT)
how = t.leave()
check("Ctrl-D leaves", how == 0, (how, t.all))

Server.script = [["one "] + [0.1, "more "] * 8]
t = Terminal("--server", URL)
t.wait(PROMPT)
t.say("hello\r", r"more")
t.type("\x04")
how = t.end()
check("Ctrl-D in the middle of a reply leaves after it", how == 0 and "more more more more more more" in t.all, (how, t.all[-300:]))
history = os.path.join(HOME, ".local/state/cake/chat_history")
check("the history is private", os.path.exists(history) and stat.S_IMODE(os.stat(history).st_mode) == 0o600)
check("and holds what was typed", b"once\\040more" in open(history, "rb").read())

t = Terminal("--server", URL + "/v1/", "--no-history", "--color", "never", "--temperature", "0", "-n", "9", "--system-prompt", "S")
t.wait(PROMPT)
check("another conversation finds the history only when asked to", t.say("\x1b[A\x1b[Ayes\r", r"fine") and last()["messages"][-1]["content"] == "yes", last())
check("options of the command line reach the request", last()["temperature"] == 0 and last()["max_tokens"] == 9 and last()["messages"][0]["content"] == "S" and "top_k" not in last(), last())
check("no colours when told so", "\x1b[1;35m" not in t.seen + t.all, t.seen)
t.wait(PROMPT)
t.type("/quit\r")
check("/quit leaves", t.end() == 0)

# however it ends, the terminal is as it was
for name, reply, sig in [("SIGTERM while a line is edited", False, signal.SIGTERM), ("SIGHUP", False, signal.SIGHUP),
                         ("a failed assertion", False, signal.SIGABRT), ("SIGTERM during a reply", True, signal.SIGTERM)]:
    t = Terminal("--server", URL)
    t.wait(PROMPT)
    Server.script = [["one "] + [0.1, "more "] * 300]
    busy = t.say("count\r", r"one more") if reply else t.say("half a li", r"half a li")
    changed = termios.tcgetattr(t.fd) != t.before
    os.kill(t.pid, sig)
    how = t.end()
    check(f"{name}: the terminal is as it was", busy and changed and how == -sig and t.after == t.before and t.all.endswith("\x1b[?2004l\x1b[0m"),
          (busy, changed, how, t.all[-80:]))

t = Terminal(verb=["cluster", "join"])
asked = t.wait(r"Words of the cluster key.*: ")
hidden = not termios.tcgetattr(t.fd)[3] & termios.ECHO
t.type("\x03")
how = t.end()
check("Ctrl-C where a secret is asked for: what is typed is seen again", asked and hidden and how == -signal.SIGINT and t.after == t.before, (asked, hidden, how))

Server.key = "secret-key-1"
t = Terminal("--server", URL)
check("without the key it says what to give", t.wait(r"--api-key-file FILE or CAKE_API_KEY") and t.end() == 77, t.all)
t = Terminal("--server", URL, env={"CAKE_API_KEY": "secret-key-1"})
check("the key of the environment", t.wait(r"scripted") and t.wait(PROMPT) and t.say("hi\r", "fine"), t.all)
t.wait(PROMPT)
t.leave()

# TLS: a certificate that nobody signed but itself
Server.key = None
cert, secret = os.path.join(HOME, "cert.pem"), os.path.join(HOME, "secret.pem")
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", secret, "-out", cert,
                "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
secure = ThreadingHTTPServer(("127.0.0.1", 0), Server)
secure.daemon_threads = True
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, secret)
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=secure.serve_forever, daemon=True).start()
port = secure.server_port
t = Terminal("--server", f"https://127.0.0.1:{port}")
check("TLS: a certificate that is not trusted is refused", t.wait(r"is not trusted: self.signed.*SSL_CERT_FILE") and t.end() == 77, t.all)
t = Terminal("--server", f"https://localhost:{port}", env={"SSL_CERT_FILE": cert})
check("TLS: one for another host too", t.wait(r"is not trusted: hostname mismatch") and t.end() == 77, t.all)
t = Terminal("--server", f"https://127.0.0.1:{server.server_port}", env={"SSL_CERT_FILE": cert})
check("TLS: a server that does not speak it", t.wait(r"does not speak TLS") and t.end() == 69, t.all)
t = Terminal("--server", f"https://127.0.0.1:{port}/v1", env={"SSL_CERT_FILE": cert})
Server.script = [["Safe "] + [0.02, "and sound. "] * 3]
check("TLS: the right one serves", t.wait(r"scripted") and t.wait(PROMPT) and t.say("hi\r", r"Safe (and sound\. ){3}"), t.all)
t.wait(PROMPT)
Server.cut.clear()
Server.script = [["one "] + [0.1, "more "] * 300]
t.say("count\r", r"one more more")
check("TLS: Ctrl-C stops a reply", t.say("\x03", r"\(stopped\)") and Server.cut.wait(5 * SLOW), t.all)
t.wait(PROMPT)
t.leave()
sys.exit(failed > 0)
