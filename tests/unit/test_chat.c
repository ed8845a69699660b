/* The chat's parts that need no server: addresses, replies cut anywhere, thinking, files. */
#include "common/file.h"
#include "master/chat/conversation.h"
#include "master/chat/sse.h"
#include "master/chat/think.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void test_urls(void **state) {
    (void)state;
    static const struct {
        const char *in, *host, *port, *base;
    } good[] = {{"http://127.0.0.1:8080", "127.0.0.1", "8080", ""},
                {"localhost:1", "localhost", "1", ""},
                {"HTTP://h/", "h", "80", ""},
                {"http://h:81/v1", "h", "81", ""},
                {"http://h/v1/", "h", "80", ""},
                {"http://h/a/b/v1", "h", "80", "/a/b"},
                {"http://[::1]:8080/x", "::1", "8080", "/x"},
                {"[fe80::1]", "fe80::1", "80", ""},
                {"https://h/v1", "h", "443", ""},
                {"HTTPS://h:1", "h", "1", ""}};
    static const char *const bad[] = {
        "",           "http://",      "http://:80",     "h:",         "h:port",      "h:70000",
        "http://a b", "https://",     "http://[::1",    "http://u@h", "http://h/?q", "[::1]x",
        "h:80x",      "http://h\r\n", "http://h:800000"};
    cake_url u;
    cake_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(cake_url_parse(&u, good[i].in, &err), CAKE_OK);
        assert_string_equal(u.host, good[i].host);
        assert_string_equal(u.port, good[i].port);
        assert_string_equal(u.base, good[i].base);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (cake_url_parse(&u, bad[i], &err) != CAKE_EUSAGE) fail_msg("'%s' is taken", bad[i]);
        assert_true(strlen(err.msg) > 10);
    }
    char text[1000];
    memset(text, 'h', sizeof text - 1);
    text[sizeof text - 1] = 0;
    assert_int_equal(cake_url_parse(&u, text, &err), CAKE_EUSAGE);
}

typedef struct {
    char text[512];
    size_t n;
} sink;

static void add(sink *s, const char *text, size_t len, char mark) {
    for (size_t i = 0; i < len && s->n + 2 < sizeof s->text; i++) {
        s->text[s->n++] = mark;
        s->text[s->n++] = text[i];
    }
    s->text[s->n] = 0;
}
static void on_text(void *arg, const char *text, size_t len, bool thinking) {
    add(arg, text, len, thinking ? '~' : '.');
}

static void test_thinking(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } v[] = {{"<think>a</think>b", "~a.b"},     {" \n<think>a\n</think>\n\nb", "~a~\n.b"},
             {"<think>a<b</think>", "~a~<~b"},  {"<thin", ".<.t.h.i.n"},
             {"<think>a</thi", "~a~<~/~t~h~i"}, {"a<think>b", ".a.<.t.h.i.n.k.>.b"},
             {"<think></think>", ""},           {"<think><</</think>x", "~<~<~/.x"},
             {"<<think>", ".<.<.t.h.i.n.k.>"},  {"b </think>", ".b. .<./.t.h.i.n.k.>"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        for (size_t step = 1; step <= strlen(v[i].in); step++) {
            cake_think t = {0};
            sink s = {{0}, 0};
            for (size_t at = 0; at < strlen(v[i].in); at += step) {
                size_t n = strlen(v[i].in) - at;
                cake_think_feed(&t, v[i].in + at, n < step ? n : step, on_text, &s);
            }
            cake_think_end(&t, on_text, &s);
            assert_string_equal(s.text, v[i].out);
        }
}

static bool on_body(void *arg, const char *data, size_t len) {
    add(arg, data, len, '.');
    return true;
}

static void test_replies(void **state) {
    (void)state;
    static const struct {
        const char *in, *body;
        int status;
        cake_status st;
    } v[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", ".a.b.c", 200, CAKE_OK},
        {"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n",
         ".a.b.c", 200, CAKE_OK},
        {"HTTP/1.0 404 No\n\nabc", ".a.b.c", 404, CAKE_OK},
        {"HTTP/1.1 103 Early\r\nX: y\r\n\r\nHTTP/1.1 204 No\r\n\r\n", "", 204, CAKE_OK},
        {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", ".a.b.c", 200, CAKE_EPROTO},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", ".a.b", 200,
         CAKE_EPROTO},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "", 200, CAKE_EPROTO},
        {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "", 200, CAKE_EPROTO},
        {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "", 200, CAKE_EPROTO},
        {"HTTP/1.1 999 OK\r\n\r\n", "", 999, CAKE_EPROTO},
        {"HTTP/2 200\r\n\r\n", "", 0, CAKE_EPROTO},
        {"", "", 0, CAKE_EPROTO},
    };
    cake_http_reader *r = malloc(sizeof *r);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        for (size_t step = 1; step < 200; step = step * 3 + 1) {
            sink s = {{0}, 0};
            cake_error err;
            cake_status st = CAKE_OK;
            cake_http_reader_init(r);
            size_t len = strlen(v[i].in);
            for (size_t at = 0; st == CAKE_OK && at < len; at += step)
                st = cake_http_reader_feed(r, v[i].in + at, len - at < step ? len - at : step,
                                           on_body, &s, &err);
            if (st == CAKE_OK) st = cake_http_reader_end(r, &err);
            assert_int_equal(st, v[i].st);
            assert_int_equal(r->status, v[i].status);
            assert_string_equal(s.text, v[i].body);
        }
    free(r);
}

static void write_text(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_files(void **state) {
    (void)state;
    char dir[] = "/tmp/cake-chat-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/talk.json", dir);
    cake_conversation c, d;
    cake_conversation_init(&c);
    cake_conversation_init(&d);
    cake_error err;
    cake_conversation_set_system(&c, "Be \"brief\"\n");
    cake_conversation_add(&c, "user", "Gr\xc3\xbc\xc3\x9f", 6);
    cake_conversation_add(&c, "assistant", "Hi", 2);
    json_object_object_add(c.settings, "temperature", json_object_new_double(0.5));
    assert_int_equal(cake_conversation_save(&c, path, &err), CAKE_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(cake_conversation_load(&d, path, &err), CAKE_OK);
    assert_string_equal(d.system, c.system);
    assert_true(json_object_equal(c.messages, d.messages));
    assert_true(json_object_equal(c.settings, d.settings));

    static const char *const bad[] = {"",
                                      "x",
                                      "3",
                                      "{}",
                                      "[1]",
                                      "[{\"role\":\"user\"}]",
                                      "{\"messages\":{}}",
                                      "[{\"role\":\"tool\",\"content\":\"x\"}]",
                                      "[{\"role\":\"user\",\"content\":3}]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(path, bad[i]);
        assert_int_not_equal(cake_conversation_load(&d, path, &err), CAKE_OK);
        assert_int_equal(cake_conversation_length(&d), 2); /* as it was */
    }
    write_text(path,
               "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"}]");
    assert_int_equal(cake_conversation_load(&d, path, &err), CAKE_OK);
    assert_string_equal(d.system, "s");
    assert_int_equal(cake_conversation_length(&d), 1);

    cake_conversation_add(&d, "assistant", "a", 1);
    assert_true(cake_conversation_rewind(&d, false));
    assert_int_equal(cake_conversation_length(&d), 1);
    assert_true(cake_conversation_rewind(&d, true));
    assert_int_equal(cake_conversation_length(&d), 0);
    assert_false(cake_conversation_rewind(&d, true));
    cake_conversation_deinit(&c);
    cake_conversation_deinit(&d);
    unlink(path);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_thinking),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
