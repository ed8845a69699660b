"""The openai and anthropic packages for Python against a server: URL [KEY]."""
import json, sys
import anthropic, openai

URL, KEY = sys.argv[1], (sys.argv[2:] + ["none"])[0]
oa = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=60)
an = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=60)
M = [{"role": "user", "content": "hi"}]
PARAMS = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["n"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "roll", "description": "d", "parameters": PARAMS}}]
model = oa.models.list().data[0].id

def check(name, good, got=""):
    print(f"ok - {name}" if good else f"not ok - {name}: {str(got)[:500]}")

def test(fn):
    try: fn()
    except Exception as e: check(f"{fn.__name__}", False, repr(e))

def openai_chat():
    r = oa.chat.completions.create(model=model, messages=M, max_tokens=20, seed=1)
    s = oa.chat.completions.create(model=model, messages=M, max_tokens=20, seed=1, stream=True, stream_options={"include_usage": True})
    chunks = list(s)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check("openai: chat, whole and streamed", r.choices[0].message.content == text and chunks[-1].usage.completion_tokens == 20, (r, text))

def openai_stream_helper():
    with oa.chat.completions.stream(model=model, messages=M, max_tokens=200, seed=2, tools=TOOLS, tool_choice="required", parallel_tool_calls=False) as s:
        for _ in s: pass
        r = s.get_final_completion()
    c = r.choices[0].message.tool_calls
    check("openai: a streamed tool call", len(c) == 1 and 1 <= json.loads(c[0].function.arguments)["n"] <= 9 and r.choices[0].finish_reason == "tool_calls", r)

def openai_schema():
    from pydantic import BaseModel
    class Step(BaseModel):
        name: str
        size: int
    class Plan(BaseModel):
        steps: list[Step]
        done: bool | None
    r = None
    for seed in range(8): # the model may ramble; then the length ends it
        try: r = oa.chat.completions.parse(model=model, messages=M, max_tokens=300, seed=seed, response_format=Plan)
        except openai.LengthFinishReasonError: continue
        break
    check("openai: a pydantic model is parsed", r and isinstance(r.choices[0].message.parsed, Plan), r)

def openai_errors():
    try: oa.chat.completions.create(model=model, messages=M, temperature=9)
    except openai.BadRequestError as e: check("openai: BadRequestError names the field", e.param == "temperature", e)
    try: oa.chat.completions.create(model="other", messages=M)
    except openai.NotFoundError as e: check("openai: NotFoundError", e.code == "model_not_found", e)

def openai_responses():
    r = oa.responses.create(model=model, input="hi", max_output_tokens=20)
    with oa.responses.stream(model=model, input="hi", tools=[{"type": "function", "name": "roll", "parameters": PARAMS, "strict": True}], tool_choice="required", parallel_tool_calls=False, max_output_tokens=200) as s:
        events = [e.type for e in s]
        f = s.get_final_response()
    check("openai: responses", len(r.output_text) > 0 and f.output[-1].type == "function_call" and 1 <= json.loads(f.output[-1].arguments)["n"] <= 9, (r, f))
    check("openai: events of responses", events[0] == "response.created" and events[-1] == "response.completed", events)

def openai_completions():
    r = oa.completions.create(model=model, prompt="Once upon a time", max_tokens=8, logprobs=2)
    check("openai: completions with logprobs", len(r.choices[0].logprobs.tokens) == 8, r)

def anthropic_messages():
    r = an.messages.create(model=model, max_tokens=20, messages=M, system="be brief")
    check("anthropic: messages", r.content[0].type == "text" and r.stop_reason == "max_tokens" and r.usage.output_tokens == 20, r)
    c = an.messages.count_tokens(model=model, messages=M, system="be brief")
    check("anthropic: count_tokens", c.input_tokens == r.usage.input_tokens + r.usage.cache_read_input_tokens, c)

def anthropic_stream():
    with an.messages.stream(model=model, max_tokens=200, messages=M, tools=[{"name": "roll", "input_schema": PARAMS}], tool_choice={"type": "any", "disable_parallel_tool_use": True}) as s:
        for _ in s: pass
        r = s.get_final_message()
    b = r.content[-1]
    check("anthropic: a streamed tool use", b.type == "tool_use" and 1 <= b.input["n"] <= 9 and r.stop_reason == "tool_use", r)

def anthropic_errors():
    try: an.messages.create(model=model, max_tokens=5, messages=[])
    except anthropic.BadRequestError as e: check("anthropic: BadRequestError", e.body["error"]["type"] == "invalid_request_error", e.body)

def keys():
    if KEY == "none": return
    try: openai.OpenAI(base_url=URL + "/v1", api_key="wrong-key-123", max_retries=0).models.list()
    except openai.AuthenticationError: check("openai: AuthenticationError", True)
    try: anthropic.Anthropic(base_url=URL, api_key="wrong-key-123", max_retries=0).messages.create(model=model, max_tokens=5, messages=M)
    except anthropic.AuthenticationError: check("anthropic: AuthenticationError", True)

for fn in (openai_chat, openai_stream_helper, openai_schema, openai_errors, openai_responses, openai_completions, anthropic_messages, anthropic_stream, anthropic_errors, keys): test(fn)
