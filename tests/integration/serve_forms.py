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

# ---- Anthropic's messages
MSG = "/v1/messages"
A = {"model": "default", "max_tokens": 150, "messages": [{"role": "user", "content": "hi"}]}
ATOOLS = [{"name": "get_weather", "input_schema": PARAMS}, {"name": "roll", "input_schema": OTHER}]

def gather_blocks(events):
    """What an Anthropic client makes of the events; also whether they are in order."""
    blocks, names, message, is_open = [], [n for n, _ in events], None, False
    for n, d in events:
        assert n == d["type"], (n, d)
        if n == "message_start": message = d["message"]
        if n == "content_block_start":
            assert not is_open and d["index"] == len(blocks)
            blocks.append({**d["content_block"], "json": ""}); is_open = True
        if n == "content_block_delta":
            assert is_open and d["index"] == len(blocks) - 1
            for k, to in ("text", "text"), ("thinking", "thinking"), ("partial_json", "json"):
                if k in d["delta"]: blocks[-1][to] += d["delta"][k]
        if n == "content_block_stop": is_open = False
        if n == "message_delta": message.update(d["delta"]); message["usage"].update(d["usage"])
    assert names[0] == "message_start" and names[-1] == "message_stop" and not is_open
    for b in blocks:
        j = b.pop("json")
        if b["type"] == "tool_use": b["input"] = json.loads(j)
    return message, blocks

st, d = call(MSG, {**A, "system": "be brief", "max_tokens": 12})
u = d.get("usage", {})
check("/v1/messages answers", st == 200 and d["type"] == "message" and d["content"][0]["type"] == "text" and d["stop_reason"] == "max_tokens" and u["output_tokens"] == 12, d)
_, c = call(MSG + "/count_tokens", {**A, "system": "be brief"})
check("count_tokens agrees", c["input_tokens"] == u["input_tokens"] + u["cache_read_input_tokens"], (c, u))
q = {**A, "tools": ATOOLS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
st, d = call(MSG, {**q, "seed": 5, "max_tokens": 250})
m, blocks = gather_blocks(stream(MSG, {**q, "seed": 5, "max_tokens": 250}))
check("tool_use, the same in a stream", st == 200 and d["stop_reason"] == "tool_use" == m["stop_reason"] and [(b["name"], b["input"]) for b in d["content"]] == [(b["name"], b["input"]) for b in blocks], (d, blocks))
st, d = call(MSG, {**A, "messages": A["messages"] + [{"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "roll", "input": {"n": 3}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "3"}]}]}], "tools": ATOOLS, "max_tokens": 5})
check("tool results are taken", st == 200, d)
e = stream(MSG, {**A, "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 10})
m, blocks = gather_blocks(e)
check("thinking blocks, and a ping", blocks[0]["type"] == "thinking" and blocks[0]["thinking"] and "ping" in [n for n, _ in e], e)
text = call(MSG, {**A, "max_tokens": 40, "seed": 3})[1]["content"][0]["text"]
st, d = call(MSG, {**A, "max_tokens": 40, "seed": 3, "stop_sequences": ["never", text[6:9]]})
check("stop_sequence is named", d["stop_reason"] == "stop_sequence" and d["stop_sequence"] == text[6:9], d)
st, d = call(MSG, {"messages": []})
check("errors in Anthropic's form", st == 400 and d["type"] == "error" and d["error"]["type"] == "invalid_request_error", d)
st, d = call(MSG, {**A, "messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]})
check("an image is refused", st == 400 and "image" in d["error"]["message"], d)

# ---- responses
RSP = "/v1/responses"

def gather_items(events):
    items = []
    for i, (n, d) in enumerate(events):
        assert n == d["type"] and d["sequence_number"] == i, (i, n, d)
        if n == "response.output_item.added":
            assert d["output_index"] == len(items)
            items.append({"text": "", "arguments": ""})
        if n.endswith("text.delta"): items[d["output_index"]]["text"] += d["delta"]
        if n.endswith("arguments.delta"): items[d["output_index"]]["arguments"] += d["delta"]
        if n.endswith("text.done"): assert d["text"] == items[d["output_index"]]["text"]
        if n == "response.output_item.done": items[d["output_index"]]["item"] = d["item"]
    return events[-1][1]["response"], items

st, d = call(RSP, {"input": "hi", "instructions": "be brief", "max_output_tokens": 12, "seed": 3})
check("/v1/responses answers", st == 200 and d["object"] == "response" and d["status"] == "incomplete" and d["output"][0]["content"][0]["text"] and d["usage"]["output_tokens"] == 12, d)
r, items = gather_items(stream(RSP, {"input": "hi", "instructions": "be brief", "max_output_tokens": 12, "seed": 3}))
check("the same in a stream", r["output"][0]["content"] == d["output"][0]["content"] == items[0]["item"]["content"] and r["status"] == "incomplete", (r, items))
RTOOLS = [{"type": "function", "name": "roll", "parameters": OTHER, "strict": True}]
q = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "tools": RTOOLS, "tool_choice": "required", "parallel_tool_calls": False, "seed": 7, "max_output_tokens": 250}
st, d = call(RSP, q)
r, items = gather_items(stream(RSP, q))
f = d["output"][-1]
check("function calls, the same in a stream", f["type"] == "function_call" and 1 <= json.loads(f["arguments"])["n"] <= 9 and items[-1]["arguments"] == f["arguments"] and r["status"] == "completed", (d, items))
st, d = call(RSP, {"input": [{"role": "user", "content": "hi"}, {"type": "function_call", "call_id": "c", "name": "roll", "arguments": "{\"n\": 1}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"}], "max_output_tokens": 4})
check("calls and outputs are taken", st == 200, d)
st, d = call(RSP, {"input": "hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}})
check("text.format is followed", set(json.loads(d["output"][0]["content"][0]["text"])) == {"name", "tags"}, d)
st, d = call(RSP, {"input": "hi", "reasoning": {"effort": "high"}, "max_output_tokens": 9})
check("reasoning is an item", d["output"][0]["type"] == "reasoning" and d["output"][0]["content"][0]["text"], d)
st, d = call(RSP, {"input": "hi", "previous_response_id": "resp_1"})
check("what refers to an earlier response is refused", st == 400 and d["error"]["param"] == "previous_response_id", d)
