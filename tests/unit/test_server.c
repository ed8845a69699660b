/* The server's parts that need no model: request bodies, heads of requests, access rules, stop
 * strings. Whatever a client sends is a 4xx with a reason, never a crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/mem.h"
#include "master/generate/generate.h"
#include "master/server/access.h"
#include "master/server/http_head.h"
#include "master/server/reply.h"
#include "master/server/request.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static cake_sampler_params defaults(void) {
    cake_sampler_params p;
    cake_sampler_params_default(&p);
    return p;
}

static bool parse(cake_api_request *r, cake_api_kind kind, const char *body, cake_api_error *e) {
    cake_sampler_params p = defaults();
    return cake_api_parse(r, kind, body, strlen(body), &p, e);
}

/* ---- request bodies ---- */

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define P "\"prompt\":\"hi\""

static const struct {
    cake_api_kind kind;
    const char *body, *param;
} bad[] = {
    {CAKE_API_CHAT, "", ""},
    {CAKE_API_CHAT, "{", ""},
    {CAKE_API_CHAT, "[]", ""},
    {CAKE_API_CHAT, "null", ""},
    {CAKE_API_CHAT, "\"x\"", ""},
    {CAKE_API_CHAT, "{} {}", ""},
    {CAKE_API_CHAT, "{'a':1}", ""},
    {CAKE_API_CHAT, "{" M ",\"temperature\":NaN}", ""},
    {CAKE_API_CHAT, "{\"model\":\"\xff\"}", ""},
    {CAKE_API_CHAT, "{}", "messages"},
    {CAKE_API_CHAT, "{\"messages\":null}", "messages"},
    {CAKE_API_CHAT, "{\"messages\":{}}", "messages"},
    {CAKE_API_CHAT, "{\"messages\":\"hi\"}", "messages"},
    {CAKE_API_CHAT, "{\"messages\":[]}", "messages"},
    {CAKE_API_CHAT, "{\"messages\":[1]}", "messages[0]"},
    {CAKE_API_CHAT, "{\"messages\":[null]}", "messages[0]"},
    {CAKE_API_CHAT, "{\"messages\":[{}]}", "messages[0].role"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":1,\"content\":\"\"}]}", "messages[0].role"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"god\",\"content\":\"\"}]}", "messages[0].role"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":{}}]}", "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}",
     "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[1]}]}", "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{}]}]}", "messages[0].content"},
    {CAKE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
     "messages[0].content"},
    {CAKE_API_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":3}]}]}",
     "messages[0].content"},
    {CAKE_API_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
     "\"url\":"
     "\"x\"}}]}]}",
     "messages[0].content"},
    {CAKE_API_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\"}]}",
     "messages[1].content"},
    {CAKE_API_CHAT, "{" M ",\"model\":3}", "model"},
    {CAKE_API_CHAT, "{" M ",\"temperature\":\"hot\"}", "temperature"},
    {CAKE_API_CHAT, "{" M ",\"temperature\":-0.1}", "temperature"},
    {CAKE_API_CHAT, "{" M ",\"temperature\":2.1}", "temperature"},
    {CAKE_API_CHAT, "{" M ",\"temperature\":1e400}", "temperature"},
    {CAKE_API_CHAT, "{" M ",\"top_p\":-1}", "top_p"},
    {CAKE_API_CHAT, "{" M ",\"top_p\":1.5}", "top_p"},
    {CAKE_API_CHAT, "{" M ",\"top_p\":[]}", "top_p"},
    {CAKE_API_CHAT, "{" M ",\"min_p\":2}", "min_p"},
    {CAKE_API_CHAT, "{" M ",\"top_k\":-2}", "top_k"},
    {CAKE_API_CHAT, "{" M ",\"top_k\":1.5}", "top_k"},
    {CAKE_API_CHAT, "{" M ",\"repeat_penalty\":0}", "repeat_penalty"},
    {CAKE_API_CHAT, "{" M ",\"repetition_penalty\":-1}", "repetition_penalty"},
    {CAKE_API_CHAT, "{" M ",\"presence_penalty\":3}", "presence_penalty"},
    {CAKE_API_CHAT, "{" M ",\"frequency_penalty\":-3}", "frequency_penalty"},
    {CAKE_API_CHAT, "{" M ",\"max_tokens\":0}", "max_tokens"},
    {CAKE_API_CHAT, "{" M ",\"max_tokens\":-5}", "max_tokens"},
    {CAKE_API_CHAT, "{" M ",\"max_tokens\":1.5}", "max_tokens"},
    {CAKE_API_CHAT, "{" M ",\"max_tokens\":99999999999999999999}", "max_tokens"},
    {CAKE_API_CHAT, "{" M ",\"max_completion_tokens\":\"5\"}", "max_completion_tokens"},
    {CAKE_API_CHAT, "{" M ",\"seed\":\"x\"}", "seed"},
    {CAKE_API_CHAT, "{" M ",\"seed\":1.25}", "seed"},
    {CAKE_API_CHAT, "{" M ",\"n\":0}", "n"},
    {CAKE_API_CHAT, "{" M ",\"n\":5}", "n"},
    {CAKE_API_CHAT, "{" M ",\"stream\":1}", "stream"},
    {CAKE_API_CHAT, "{" M ",\"stream\":\"true\"}", "stream"},
    {CAKE_API_CHAT, "{" M ",\"stream\":true,\"stream_options\":3}", "stream_options"},
    {CAKE_API_CHAT, "{" M ",\"stream_options\":{}}", "stream_options"},
    {CAKE_API_CHAT, "{" M ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
     "include_usage"},
    {CAKE_API_CHAT, "{" M ",\"stop\":5}", "stop"},
    {CAKE_API_CHAT, "{" M ",\"stop\":\"\"}", "stop"},
    {CAKE_API_CHAT, "{" M ",\"stop\":[1]}", "stop"},
    {CAKE_API_CHAT, "{" M ",\"stop\":[null]}", "stop"},
    {CAKE_API_CHAT, "{" M ",\"stop\":[\"a\",\"\"]}", "stop"},
    {CAKE_API_CHAT,
     "{" M ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\","
     "\"d\",\"e\",\"f\",\"g\",\"h\"]}",
     "stop"},
    {CAKE_API_CHAT, "{" M ",\"logit_bias\":[]}", "logit_bias"},
    {CAKE_API_CHAT, "{" M ",\"logit_bias\":{\"a\":1}}", "logit_bias"},
    {CAKE_API_CHAT, "{" M ",\"logit_bias\":{\"1\":null}}", "logit_bias"},
    {CAKE_API_CHAT, "{" M ",\"logit_bias\":{\"1\":101}}", "logit_bias"},
    {CAKE_API_CHAT, "{" M ",\"logit_bias\":{\"-1\":1}}", "logit_bias"},
    {CAKE_API_CHAT, "{" M ",\"logprobs\":3}", "logprobs"},
    {CAKE_API_CHAT, "{" M ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs"},
    {CAKE_API_CHAT, "{" M ",\"top_logprobs\":2}", "top_logprobs"},
    {CAKE_API_CHAT, "{" M ",\"tools\":[{}]}", "tools[0]"},
    {CAKE_API_CHAT, "{" M ",\"tools\":5}", "tools"},
    {CAKE_API_CHAT, "{" M ",\"functions\":[{}]}", "functions"},
    {CAKE_API_CHAT, "{" M ",\"tool_choice\":\"required\"}", "tool_choice"},
    {CAKE_API_CHAT, "{" M ",\"response_format\":5}", "response_format"},
    {CAKE_API_CHAT, "{" M ",\"response_format\":{}}", "response_format"},
    {CAKE_API_CHAT, "{" M ",\"response_format\":{\"type\":\"json_schema\"}}", "response_format"},
    {CAKE_API_CHAT, "{" M ",\"response_format\":{\"type\":\"yaml\"}}", "response_format"},
    {CAKE_API_CHAT, "{" M ",\"audio\":{}}", "audio"},
    {CAKE_API_CHAT, "{" M ",\"chat_template_kwargs\":[]}", "chat_template_kwargs"},
    {CAKE_API_COMPLETION, "{}", "prompt"},
    {CAKE_API_COMPLETION, "{\"prompt\":5}", "prompt"},
    {CAKE_API_COMPLETION, "{\"prompt\":[]}", "prompt"},
    {CAKE_API_COMPLETION, "{\"prompt\":[1,\"a\"]}", "prompt"},
    {CAKE_API_COMPLETION, "{\"prompt\":[-1]}", "prompt"},
    {CAKE_API_COMPLETION, "{\"prompt\":[\"a\",1]}", "prompt"},
    {CAKE_API_COMPLETION, "{\"prompt\":[[1],[\"x\"]]}", "prompt"},
    {CAKE_API_COMPLETION, "{" P ",\"logprobs\":true}", "logprobs"},
    {CAKE_API_COMPLETION, "{" P ",\"suffix\":\"x\"}", "suffix"},
    {CAKE_API_COMPLETION, "{" P ",\"echo\":true}", "echo"},
    {CAKE_API_COMPLETION, "{" P ",\"best_of\":3}", "best_of"},
    {CAKE_API_COMPLETION, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"],\"n\":4}", "n"},
    {CAKE_API_TOKENIZE, "{}", "content"},
    {CAKE_API_TOKENIZE, "{\"content\":5}", "content"},
    {CAKE_API_TOKENIZE, "{\"content\":\"a\",\"add_special\":\"x\"}", "add_special"},
    {CAKE_API_DETOKENIZE, "{}", "tokens"},
    {CAKE_API_DETOKENIZE, "{\"tokens\":\"1\"}", "tokens"},
    {CAKE_API_DETOKENIZE, "{\"tokens\":[\"1\"]}", "tokens"},
    {CAKE_API_DETOKENIZE, "{\"tokens\":[-1]}", "tokens"},
    {CAKE_API_TEMPLATE, "{}", "messages"},
};

static void refuses(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cake_api_request r;
        cake_api_error e;
        if (parse(&r, bad[i].kind, bad[i].body, &e)) fail_msg("accepted: %s", bad[i].body);
        if (e.http < 400 || e.http > 499) fail_msg("status %d: %s", e.http, bad[i].body);
        if (strcmp(e.param, bad[i].param) != 0)
            fail_msg("names '%s' (%s): %s", e.param, e.message, bad[i].body);
        json_object *o = cake_reply_error(&e), *in = NULL, *v = NULL;
        assert_true(json_object_object_get_ex(o, "error", &in));
        assert_true(json_object_object_get_ex(in, "message", &v) && v);
        assert_true(json_object_get_string_len(v) > 10);
        assert_true(json_object_object_get_ex(in, "type", &v) && v);
        assert_true(json_object_object_get_ex(in, "param", &v));
        assert_true(json_object_object_get_ex(in, "code", &v) && v);
        json_object_put(o);
    }
    assert_true(sizeof bad / sizeof *bad >= 60);
}

static void refuses_what_is_too_much(void **state) {
    (void)state;
    cake_api_request r;
    cake_api_error e;
    char *body = cake_malloc(200000), *p = body;
    p += sprintf(p, "{\"messages\":[");
    for (int i = 0; i <= CAKE_API_MESSAGES_MAX; i++)
        p += sprintf(p, "%s{\"role\":\"user\",\"content\":\"a\"}", i ? "," : "");
    sprintf(p, "]}");
    assert_false(parse(&r, CAKE_API_CHAT, body, &e));
    assert_string_equal(e.param, "messages");
    p = body + sprintf(body, "{" M ",\"x\":");
    for (int i = 0; i < CAKE_API_DEPTH_MAX; i++) *p++ = '[';
    for (int i = 0; i < CAKE_API_DEPTH_MAX; i++) *p++ = ']';
    sprintf(p, "}");
    assert_false(parse(&r, CAKE_API_CHAT, body, &e));
    assert_string_equal(e.code, "invalid_json");
    p = body + sprintf(body, "{" M ",\"stop\":\"");
    memset(p, 'x', CAKE_API_STOP_BYTES_MAX + 1);
    strcpy(p + CAKE_API_STOP_BYTES_MAX + 1, "\"}");
    assert_false(parse(&r, CAKE_API_CHAT, body, &e));
    assert_string_equal(e.param, "stop");
    strcpy(p + CAKE_API_STOP_BYTES_MAX, "\"}");
    assert_true(parse(&r, CAKE_API_CHAT, body, &e));
    cake_api_request_deinit(&r);
    p = body + sprintf(body, "{" M ",\"logit_bias\":{");
    for (int i = 0; i <= CAKE_LOGIT_BIAS_MAX; i++) p += sprintf(p, "%s\"%d\":1", i ? "," : "", i);
    sprintf(p, "}}");
    assert_false(parse(&r, CAKE_API_CHAT, body, &e));
    assert_string_equal(e.param, "logit_bias");
    free(body);
}

static const char *text_at(json_object *a, size_t i, const char *key) {
    return json_object_get_string(json_object_object_get(json_object_array_get_idx(a, i), key));
}

static void accepts(void **state) {
    (void)state;
    cake_api_request r;
    cake_api_error e;
    const char *body =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be brief\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
        "\"text\":\"b\"}],\"name\":\"bob\"},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]},"
        "{\"role\":\"tool\",\"content\":\"42\",\"tool_call_id\":\"x\"}],"
        "\"temperature\":0.5,\"top_p\":0,\"top_k\":-1,\"seed\":-7,\"max_tokens\":10.0,"
        "\"max_completion_tokens\":20,\"stop\":[\"a\",\"bc\"],\"n\":2,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"logit_bias\":{\"5\":-100},\"user\":\"me\","
        "\"unknown\":{\"deep\":[1]},\"tools\":[],\"tool_choice\":\"none\",\"logprobs\":true,"
        "\"top_logprobs\":3,\"response_format\":{\"type\":\"text\"},\"frequency_penalty\":null}";
    if (!parse(&r, CAKE_API_CHAT, body, &e)) fail_msg("%s", e.message);
    assert_string_equal(r.model, "m");
    assert_int_equal(json_object_array_length(r.messages), 4);
    assert_string_equal(text_at(r.messages, 0, "role"), "system");
    assert_string_equal(text_at(r.messages, 1, "content"), "ab");
    assert_string_equal(text_at(r.messages, 1, "name"), "bob");
    assert_string_equal(text_at(r.messages, 2, "content"), "");
    assert_string_equal(text_at(r.messages, 3, "tool_call_id"), "x");
    assert_true(r.sampler.temperature == 0.5f && r.sampler.top_p > 0 && r.sampler.top_k == 0);
    assert_true(r.has_seed && r.sampler.seed == (uint64_t)-7);
    assert_int_equal(r.max_tokens, 20);
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[1], "bc");
    assert_int_equal(r.n, 2);
    assert_true(r.stream && r.include_usage && r.logprobs);
    assert_int_equal(r.top_logprobs, 3);
    assert_int_equal(r.sampler.n_logit_bias, 1);
    assert_int_equal(r.sampler.logit_bias[0].token, 5);
    assert_int_equal(cake_sampler_params_check(&r.sampler, 100, NULL), CAKE_OK);
    cake_api_request_deinit(&r);
    assert_true(parse(&r, CAKE_API_COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"n\":2}", &e));
    assert_int_equal(r.n_prompts, 2);
    assert_int_equal(r.max_tokens, 16);
    cake_api_request_deinit(&r);
    assert_true(parse(&r, CAKE_API_COMPLETION, "{\"prompt\":[1,2,3]}", &e));
    assert_int_equal(r.n_prompts, 1);
    assert_int_equal(json_object_array_length(r.prompt[0].ids), 3);
    cake_api_request_deinit(&r);
}

/* ---- heads ---- */

static int head(const char *text, cake_http_head *h, char *buf) {
    strcpy(buf, text);
    return cake_http_head_parse(buf, strlen(text), h);
}

static void reads_heads(void **state) {
    (void)state;
    static char buf[CAKE_HTTP_HEAD_MAX + 100];
    cake_http_head h;
    assert_int_equal(head("GET /a/b?c=d HTTP/1.1\r\nHost: x:1\r\nX-Y:  z \t\r\n\r\n", &h, buf), 0);
    assert_string_equal(h.method, "GET");
    assert_string_equal(h.path, "/a/b");
    assert_string_equal(h.query, "c=d");
    assert_string_equal(cake_http_head_field(&h, "x-y"), "z");
    assert_true(h.keep_alive && !h.chunked);
    assert_int_equal(
        head("POST / HTTP/1.1\nHost: x\nContent-Length: 12\nConnection: a, Close\n\n", &h, buf), 0);
    assert_int_equal(h.content_length, 12);
    assert_false(h.keep_alive);
    assert_int_equal(head("GET / HTTP/1.0\r\n\r\n", &h, buf), 0);
    assert_false(h.keep_alive);
    static const struct {
        const char *text;
        int status;
    } refused[] = {
        {"\r\n", 400},
        {"GET\r\n\r\n", 400},
        {"GET /\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400},
        {"GET / FTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: x\rGET /\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 411},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
         400},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: a miracle\r\n\r\n", 417},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        int got = head(refused[i].text, &h, buf);
        if (got != refused[i].status) fail_msg("%zu: %d for %s", i, got, refused[i].text);
    }
    assert_int_equal(cake_http_chunk_size("1aF", 3), 0x1af);
    assert_int_equal(cake_http_chunk_size("5;x=y", 5), 5);
    assert_int_equal(cake_http_chunk_size("", 0), -1);
    assert_int_equal(cake_http_chunk_size("g", 1), -1);
    assert_int_equal(cake_http_chunk_size("ffffffffffffffffff", 18), -1);
}

/* ---- access ---- */

#define KEYS_PATH "/tmp/cake-keys-XXXXXX"

static void write_keys(char *path, const char *text) {
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void checks_access(void **state) {
    (void)state;
    cake_access a;
    cake_error err;
    bool cors;
    assert_int_equal(cake_access_init(&a, NULL, "", &err), CAKE_OK);
    a.host = "127.0.0.1";
    assert_true(cake_access_key_ok(&a, NULL, NULL));
    const char *good[] = {"localhost", "localhost:8080", "127.0.0.1:1",
                          "[::1]:80",  "10.0.0.3",       "a.localhost"};
    const char *evil[] = {
        "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", ":80", "[::1",
        "[evil]",       "localhost:x",       "localhost.evil.example"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!cake_access_host_ok(&a, good[i])) fail_msg("%s", good[i]);
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++)
        if (cake_access_host_ok(&a, evil[i])) fail_msg("%s", evil[i]);
    assert_true(cake_access_origin_ok(&a, NULL, "localhost:1", &cors) && !cors);
    assert_true(cake_access_origin_ok(&a, "http://localhost:1", "localhost:1", &cors) && !cors);
    assert_false(cake_access_origin_ok(&a, "http://localhost:2", "localhost:1", &cors));
    assert_false(cake_access_origin_ok(&a, "null", "localhost:1", &cors));
    a.cors = "https://a.example, https://b.example";
    assert_true(cake_access_origin_ok(&a, "https://b.example", "localhost:1", &cors) && cors);
    assert_false(cake_access_origin_ok(&a, "https://b.example.evil", "localhost:1", &cors));
    assert_false(cake_access_origin_ok(&a, "https://a", "localhost:1", &cors));
    assert_int_equal(cake_access_init(&a, NULL, "0123456789", &err), CAKE_OK);
    assert_true(cake_access_key_ok(&a, "Bearer 0123456789", NULL));
    assert_true(cake_access_key_ok(&a, "bearer 0123456789", NULL));
    assert_false(cake_access_key_ok(&a, NULL, NULL));
    assert_false(cake_access_key_ok(&a, "0123456789", NULL));
    assert_false(cake_access_key_ok(&a, "Bearer 012345678", NULL));
    assert_false(cake_access_key_ok(&a, "Bearer 01234567890", NULL));
    assert_false(cake_access_key_ok(&a, "Basic 0123456789", NULL));
    assert_true(cake_access_key_ok(&a, NULL, "0123456789"));
    assert_true(cake_access_key_ok(&a, "Bearer other", "0123456789"));
    assert_false(cake_access_key_ok(&a, NULL, "Bearer 0123456789"));
    assert_true(cake_access_host_ok(&a, "cake.example"));
    assert_int_equal(cake_access_init(&a, NULL, "short", &err), CAKE_ECONFIG);
    assert_int_equal(cake_access_init(&a, NULL, "has a blank in it", &err), CAKE_ECONFIG);
    char path[] = KEYS_PATH;
    write_keys(path, "# keys\nkey-number-1\n\nkey-number-2\r\n");
    assert_int_equal(cake_access_init(&a, path, NULL, &err), CAKE_OK);
    assert_int_equal(a.n_keys, 2);
    assert_true(cake_access_key_ok(&a, "Bearer key-number-2", NULL));
    unlink(path);
    assert_int_not_equal(cake_access_init(&a, path, NULL, &err), CAKE_OK);
}

static uint64_t client_at(const cake_access *a, const char *address) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = (in_port_t)rand()};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = (in_port_t)rand()};
    bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    assert_true(is_v4 || inet_pton(AF_INET6, address, &v6.sin6_addr) == 1);
    return cake_access_client(a, "Bearer key-number-1", NULL,
                              is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6);
}

static void shares_turns(void **state) {
    (void)state;
    static const struct {
        const char *one, *other;
        bool same;
    } address[] = {{"10.0.0.1", "10.0.0.1", true},
                   {"10.0.0.1", "10.0.0.2", false},
                   {"10.0.0.1", "::ffff:10.0.0.1", true},
                   {"10.0.0.1", "11.0.0.1", false},
                   {"2001:db8::1", "2001:db8::2", true},
                   {"2001:db8::1", "2001:db8:0:1::1", false},
                   {"2001:db8::1", "2002:db8::1", false},
                   {"32.1.13.184", "2001:db8::1", false},
                   {"::1", "127.0.0.1", false}};
    cake_access a;
    assert_int_equal(cake_access_init(&a, NULL, NULL, NULL), CAKE_OK);
    for (size_t i = 0; i < sizeof address / sizeof *address; i++)
        if ((client_at(&a, address[i].one) == client_at(&a, address[i].other)) != address[i].same)
            fail_msg("%s and %s", address[i].one, address[i].other);
    char path[] = KEYS_PATH;
    write_keys(path, "key-number-1\nkey-number-2\n");
    assert_int_equal(cake_access_init(&a, path, NULL, NULL), CAKE_OK);
    unlink(path);
    uint64_t first = client_at(&a, "10.0.0.1");
    assert_int_equal(client_at(&a, "10.0.0.2"), first);
    assert_int_equal(cake_access_client(&a, "bearer  key-number-1", NULL, NULL), first);
    assert_int_equal(cake_access_client(&a, NULL, "key-number-1", NULL), first);
    /* what proves nothing makes nobody another client */
    assert_int_equal(cake_access_client(&a, "Bearer any", "key-number-1", NULL), first);
    assert_int_not_equal(cake_access_client(&a, NULL, "key-number-2", NULL), first);
}

/* ---- stop strings ---- */

static void stops(const char *const *stop, size_t n, const char *text, size_t step,
                  const char *expected, bool hit) {
    cake_stopper s;
    char got[256];
    size_t n_got = 0, len;
    const char *out;
    bool found = false;
    cake_stopper_init(&s, stop, n);
    for (size_t at = 0, end = strlen(text); at < end && !found; at += step) {
        size_t k = end - at < step ? end - at : step;
        found = cake_stopper_push(&s, text + at, k, &out, &len);
        memcpy(got + n_got, out, len);
        n_got += len;
    }
    cake_stopper_flush(&s, &out, &len);
    memcpy(got + n_got, out, len);
    got[n_got + len] = 0;
    cake_stopper_deinit(&s);
    assert_string_equal(got, expected);
    assert_int_equal(found, hit);
}

static void finds_stops(void **state) {
    (void)state;
    const char *one[] = {"END"}, *two[] = {"abcd", "bc"}, *rep[] = {"aab"};
    for (size_t step = 1; step < 12; step++) {
        stops(one, 1, "hello END of it", step, "hello ", true);
        stops(one, 1, "hello EN", step, "hello EN", false);
        stops(one, 1, "EEEND", step, "EE", true);
        stops(one, 1, "END", step, "", true);
        stops(rep, 1, "aaaaab", step, "aaa", true);
        stops(two, 2, "xbc", step, "x", true);
        stops(NULL, 0, "plain", step, "plain", false);
    }
    stops(two, 2, "xabcd", 5, "x", true); /* whole: the earliest */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),       cmocka_unit_test(refuses_what_is_too_much),
        cmocka_unit_test(accepts),       cmocka_unit_test(reads_heads),
        cmocka_unit_test(checks_access), cmocka_unit_test(shares_turns),
        cmocka_unit_test(finds_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
