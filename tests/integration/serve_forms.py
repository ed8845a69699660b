"""Requests of serve_forms.sh: forms of answers over HTTP, with the standard library only."""
import json, sys, urllib.request, urllib.error

URL = sys.argv[1]

def call(path, body, headers={}):
    data = json.dumps(body).encode() if body is not None else None
    r = urllib.request.Request(URL + path, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(r, timeout=120) as f: return f.status, json.load(f)
    except urllib.error.HTTPError as e: return e.code, json.load(e)

def stream(path, body, headers={}):
    """[(event or None, object)] of a stream; the last may be '[DONE]'."""
    data = json.dumps({**body, "stream": True}).encode()
    r = urllib.request.Request(URL + path, data, {"Content-Type": "application/json", **headers})
    events, name = [], None
    with urllib.request.urlopen(r, timeout=120) as f:
        for line in f:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "): name = line[7:]
            if line.startswith("data: "):
                events.append((name, line[6:] if line == "data: [DONE]" else json.loads(line[6:])))
                name = None
    return events

def check(name, good, got=None):
    print(f"ok - {name}" if good else f"not ok - {name}: {str(got)[:600]}")

def gather(events):
    """What an OpenAI client makes of the chunks of one choice."""
    m = {"content": "", "reasoning_content": "", "tool_calls": [], "finish": None}
    for _, d in events:
        if d == "[DONE]": continue
        for c in d["choices"]:
            delta = c["delta"]
            m["content"] += delta.get("content") or ""
            m["reasoning_content"] += delta.get("reasoning_content") or ""
            for t in delta.get("tool_calls", []):
                if t["index"] == len(m["tool_calls"]):
                    m["tool_calls"].append({"id": t["id"], "type": t["type"], "function": {"name": t["function"]["name"], "arguments": ""}})
                m["tool_calls"][t["index"]]["function"]["arguments"] += t["function"]["arguments"]
            m["finish"] = c["finish_reason"] or m["finish"]
    return m

PARAMS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["c", "f"]}},
          "required": ["city", "unit"], "additionalProperties": False}
OTHER = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["n"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "w", "parameters": PARAMS}},
         {"type": "function", "function": {"name": "roll", "parameters": OTHER, "strict": True}}]
BASE = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 120}
CHAT = "/v1/chat/completions"

def valid(call):
    a = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "roll": return list(a) == ["n"] and 1 <= a["n"] <= 9
    return set(a) == {"city", "unit"} and len(a["city"]) <= 8 and a["unit"] in "cf"

# ---- tools
bad = []
for seed in range(12):
    q = {**BASE, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": seed, "max_tokens": 250}
    _, whole = call(CHAT, q)
    m, c = whole["choices"][0]["message"], whole["choices"][0]
    s = gather(stream(CHAT, q))
    calls = m.get("tool_calls", [])
    if c["finish_reason"] != "tool_calls" or m["content"] is not None or len(calls) != 1 or not valid(calls[0]): bad.append(whole)
    if s["finish"] != "tool_calls" or [t["function"] for t in s["tool_calls"]] != [t["function"] for t in calls]: bad.append(s)
check("a required call is one, valid, whole and streamed the same", not bad, bad)
_, d = call(CHAT, {**BASE, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "roll"}}})
calls = d["choices"][0]["message"].get("tool_calls", [])
check("a named tool is called", len(calls) == 1 and calls[0]["function"]["name"] == "roll" and valid(calls[0]), d)
_, d = call(CHAT, {**BASE, "tools": TOOLS, "tool_choice": "required", "max_tokens": 250, "seed": 1})
calls = d["choices"][0]["message"]["tool_calls"]
check("parallel calls have ids of their own", len({c["id"] for c in calls}) == len(calls) >= 1, d)
_, d = call(CHAT, {**BASE, "tools": TOOLS, "tool_choice": "none", "max_tokens": 5})
check("tool_choice none gives text", d["choices"][0]["message"]["content"] and d["usage"]["prompt_tokens"] < 60, d)
_, d = call("/apply-template", {"messages": BASE["messages"], "tools": TOOLS})
check("tools reach the template", "<tools> get_weather roll" in d["prompt"], d)
talk = [{"role": "user", "content": "w?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "cold"}]
_, d = call("/apply-template", {"messages": talk})
check("calls and results reach the template", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in d["prompt"] and "tool\ncold" in d["prompt"], d)
st, d = call(CHAT, {**BASE, "tools": [{"type": "function", "function": {"name": "x", "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}], "tool_choice": "required"})
check("a strict schema that cannot be followed is refused", st == 400 and d["error"]["param"] == "tools[0].function.parameters" and "'not'" in d["error"]["message"], d)
st, d = call(CHAT, {**BASE, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "none_such"}}})
check("a tool that is not there cannot be chosen", st == 400 and d["error"]["param"] == "tool_choice", d)

# ---- JSON
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}, "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
          "required": ["name", "tags"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
bad = []
for seed in range(12):
    q = {**BASE, "response_format": FORMAT, "seed": seed, "temperature": seed % 3 * 0.6}
    _, whole = call(CHAT, q)
    text = whole["choices"][0]["message"]["content"]
    o = json.loads(text)
    if set(o) != {"name", "tags"} or len(o["tags"]) > 3 or whole["choices"][0]["finish_reason"] != "stop": bad.append(whole)
    if gather(stream(CHAT, q))["content"] != text: bad.append("stream differs")
check("answers follow a schema, the same in a stream", not bad, bad)
_, d = call(CHAT, {**BASE, "response_format": {"type": "json_object"}, "seed": 4, "max_tokens": 300})
t = d["choices"][0]
check("json_object gives an object", t["finish_reason"] == "length" or isinstance(json.loads(t["message"]["content"]), dict), d)
st, d = call(CHAT, {**BASE, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "multipleOf": 2}}}})
check("an unsupported keyword is named", st == 400 and "multipleOf" in d["error"]["message"], d)
st, d = call(CHAT, {**BASE, "n": 3, "seed": 2, "response_format": FORMAT})
check("n answers of a schema differ", st == 200 and len({c["message"]["content"] for c in d["choices"]}) > 1 and all(json.loads(c["message"]["content"]) for c in d["choices"]), d)
_, d = call(CHAT, {**BASE, "tools": TOOLS, "response_format": FORMAT, "seed": 3})
m = d["choices"][0]["message"]
check("with tools and a format it is one or the other", bool(m.get("tool_calls")) or set(json.loads(m["content"])) == {"name", "tags"}, d)

# ---- thinking
_, d = call(CHAT, {**BASE, "chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 20, "seed": 1})
m = d["choices"][0]["message"]
check("what follows <think> is reasoning_content", m.get("reasoning_content") and m["content"] == "", d)
s = gather(stream(CHAT, {**BASE, "reasoning_effort": "high", "max_tokens": 20, "seed": 1}))
check("reasoning_effort turns it on, streamed the same", s["reasoning_content"] == m["reasoning_content"], s)
_, d = call(CHAT, {**BASE, "reasoning_effort": "none", "max_tokens": 20, "seed": 1})
check("none turns it off", "reasoning_content" not in d["choices"][0]["message"], d)
st, d = call(CHAT, {**BASE, "reasoning_effort": "enormous"})
check("another effort is refused", st == 400 and d["error"]["param"] == "reasoning_effort", d)

# ---- the rest of a reply
_, d = call(CHAT, {**BASE, "max_tokens": 6, "seed": 1})
check("timings", d["timings"]["predicted_n"] == 6 and d["timings"]["predicted_ms"] > 0, d)
e = stream(CHAT, {"messages": [{"role": "user", "content": "once upon a time " * 30}], "max_tokens": 3, "return_progress": True})
p = [d["prompt_progress"] for _, d in e if d != "[DONE]" and "prompt_progress" in d]
check("prefill progress", p and p[-1]["processed"] == p[-1]["total"] > 50, p)
e = stream(CHAT, {**BASE, "max_tokens": 4, "logprobs": True, "top_logprobs": 2})
lp = [t for _, d in e if d != "[DONE]" for c in d["choices"] if c["logprobs"] for t in c["logprobs"]["content"]]
check("logprobs of every token in a stream", len(lp) == 4, lp)
