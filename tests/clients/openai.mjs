// The openai package for Node against a server: URL KEY.
import OpenAI from "openai";

const [url, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url + "/v1", apiKey: key, maxRetries: 0, timeout: 60000 });
const messages = [{ role: "user", content: "hi" }];
const parameters = { type: "object", properties: { n: { type: "integer", minimum: 1, maximum: 9 } }, required: ["n"], additionalProperties: false };
const check = (name, good, got) => console.log(good ? `ok - ${name}` : `not ok - ${name}: ${JSON.stringify(got)?.slice(0, 500)}`);
const model = (await client.models.list()).data[0].id;

const whole = await client.chat.completions.create({ model, messages, max_tokens: 20, seed: 1 });
let text = "";
for await (const c of await client.chat.completions.create({ model, messages, max_tokens: 20, seed: 1, stream: true })) text += c.choices[0]?.delta?.content ?? "";
check("node: chat, whole and streamed", whole.choices[0].message.content === text, [whole, text]);

const run = client.chat.completions.stream({ model, messages, max_tokens: 200, seed: 2, tools: [{ type: "function", function: { name: "roll", parameters } }], tool_choice: "required", parallel_tool_calls: false });
const call = (await run.finalChatCompletion()).choices[0].message.tool_calls[0];
const n = JSON.parse(call.function.arguments).n;
check("node: a streamed tool call", n >= 1 && n <= 9, call);

const response = await client.responses.create({ model, input: "hi", max_output_tokens: 10 });
check("node: responses", response.output_text.length > 0, response);
try {
    await client.chat.completions.create({ model, messages, top_p: 7 });
} catch (e) {
    check("node: an error names the field", e.status === 400 && e.param === "top_p", e);
}
const abort = await client.chat.completions.create({ model, messages, max_tokens: 400, stream: true });
for await (const c of abort) { abort.controller.abort(); break; }
check("node: a stream that is broken off", true);
