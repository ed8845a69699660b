/* Topology files: what is accepted, what each complaint says and where, and the pins for the
 * planner. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "master/plan/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static cake_status parse(cake_topology *t, const char *text, cake_error *err) {
    return cake_topology_parse(t, text, strlen(text), "net.yml", err);
}

static cake_topology good(const char *text) {
    cake_topology t;
    cake_error err = {0};
    if (parse(&t, text, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return t;
}

/* Refused at the line, and the sentence has the word. n_layers 0: by the parser itself. */
static void refused(const char *text, uint32_t n_layers, int line, const char *word) {
    cake_topology t;
    cake_error err = {0};
    cake_status st = parse(&t, text, &err);
    if (n_layers) {
        if (st != CAKE_OK) fail_msg("the parser says: %s", err.msg);
        st = cake_topology_check(&t, n_layers, &err);
        cake_topology_deinit(&t);
    }
    assert_int_equal(st, CAKE_ECONFIG);
    char where[32];
    snprintf(where, sizeof where, "net.yml:%d: ", line);
    if (strncmp(err.msg, where, strlen(where)) != 0) fail_msg("not '%s' but: %s", where, err.msg);
    if (!strstr(err.msg, word)) fail_msg("no '%s' in: %s", word, err.msg);
}

static void test_full_file(void **state) {
    (void)state;
    cake_topology t = good("# my machines\n"
                           "linux_server_1:\n"
                           "  host: 'linux_server.host:10128'\n"
                           "  description: 'NVIDIA Titan X Pascal (12GB)'\n"
                           "  layers:\n"
                           "    - 'model.layers.0-5'\n"
                           "    - \"model.embed_tokens\"\n"
                           "ipad:\n"
                           "  host: \"[fe80::1%eth0]:99\"\n"
                           "  layers: [model.layers.9, model.layers.6-8]\n"
                           "  threads: 4\n"
                           "  memory: 1.5GiB\n"
                           "spare: {host: 10.0.0.7}\n"
                           "tail:\n"
                           "  host: 10.0.0.8:1\n"
                           "  layers:\n"
                           "    - model.layers.10-11\n"
                           "    - model.norm\n"
                           "    - lm_head\n");
    assert_int_equal(t.n_workers, 4);
    const cake_topology_worker *w = t.workers;
    assert_string_equal(w[0].name, "linux_server_1");
    assert_string_equal(w[0].host, "linux_server.host");
    assert_int_equal(w[0].port, 10128);
    assert_string_equal(w[0].description, "NVIDIA Titan X Pascal (12GB)");
    assert_true(w[0].has_layers && w[0].has_embedding && !w[0].has_head);
    assert_int_equal(w[0].layer_begin, 0);
    assert_int_equal(w[0].layer_end, 6); /* ranges are inclusive in the file */
    assert_int_equal(w[0].line, 2);
    assert_string_equal(w[1].host, "fe80::1%eth0");
    assert_int_equal(w[1].port, 99);
    assert_int_equal(w[1].layer_begin, 6);
    assert_int_equal(w[1].layer_end, 10);
    assert_int_equal(w[1].threads, 4);
    assert_int_equal(w[1].memory_bytes, 3u << 29);
    assert_false(w[2].has_layers);
    assert_int_equal(w[2].port, 0);
    assert_string_equal(w[2].description, "");
    assert_true(w[3].has_head && !w[3].has_embedding);
    cake_error err;
    assert_int_equal(cake_topology_check(&t, 12, &err), CAKE_OK);
    assert_int_equal(cake_topology_check(&t, 11, &err), CAKE_ECONFIG);
    cake_topology_deinit(&t);
}

static void test_bad_files(void **state) {
    (void)state;
    refused("", 0, 1, "names no worker");
    refused("# nothing\n", 0, 1, "names no worker");
    refused("{}", 0, 1, "names no worker");
    refused("- a\n- b\n", 0, 1, "mapping of worker names");
    refused("a: [", 0, 1, "host");
    refused("a: {host: x:1\n", 0, 2, "not YAML");
    refused("a:\n\thost: x\n", 0, 2, "not YAML");
    refused("a:\n  host: x:1\na:\n  host: y:1\n", 0, 3, "already in line 1");
    refused("a:\n  host: x:1\n  host: y:1\n", 0, 3, "given twice");
    refused("a:\n  host: x:1\n  layer: []\n", 0, 3, "unknown key 'layer'");
    refused("a:\n  host: x:1\n  ? [x]\n  : 1\n", 0, 3, "unknown key");
    refused("a:\n  description: d\n", 0, 1, "no host");
    refused("a: 5\n", 0, 1, "host");
    refused("a:\n  host:\n", 0, 2, "address:port");
    refused("a:\n  host: [x]\n", 0, 2, "address:port");
    refused("a:\n  host: 'x y:1'\n", 0, 2, "not an address");
    refused("a:\n  host: 'x:'\n", 0, 2, "port");
    refused("a:\n  host: 'x:0'\n", 0, 2, "1 to 65535");
    refused("a:\n  host: 'x:65536'\n", 0, 2, "1 to 65535");
    refused("a:\n  host: 'x:12a'\n", 0, 2, "1 to 65535");
    refused("a:\n  host: ':12'\n", 0, 2, "not an address");
    refused("a:\n  host: fe80::1\n", 0, 2, "brackets");
    refused("a:\n  host: '[fe80::1'\n", 0, 2, "[address]:port");
    refused("a:\n  host: x:1\nb:\n  host: x:1\n", 0, 3, "same host");
    refused("'':\n  host: x:1\n", 0, 1, "1 to 63");
    refused("\"a\\tb\":\n  host: x:1\n", 0, 1, "control character");
    refused("a:\n  host: \"x\\0y:1\"\n", 0, 2, "zero byte");
    refused("a:\n  host: x:1\n  threads: 0\n", 0, 3, "1 to 1024");
    refused("a:\n  host: x:1\n  threads: many\n", 0, 3, "1 to 1024");
    refused("a:\n  host: x:1\n  memory: much\n", 0, 3, "6GiB");
    refused("a:\n  host: x:1\n  description: [d]\n", 0, 3, "must be a text");
    refused("a: &x\n  host: x:1\n", 0, 1, "anchors");
    refused("a:\n  host: &h x:1\nb:\n  host: *h\n", 0, 2, "anchors");
    refused("a:\n  host: *h\n", 0, 2, "aliases");
    refused("a:\n  host: !!str x:1\n", 0, 2, "tags");
    refused("a:\n  host: x:1\n---\nb:\n  host: y:1\n", 0, 3, "second document");
    refused("a:\n  host: x:1\n  layers: [[[[[[[[[[1]]]]]]]]]]\n", 0, 3, "model.layers");
}

static void test_bad_layers(void **state) {
    (void)state;
#define ONE(text) "a:\n  host: x:1\n  layers:\n    - " text "\n"
    refused(ONE("model.layers.5-2"), 0, 4, "model.layers.2-5");
    refused(ONE("model.layers."), 0, 4, "number or a range");
    refused(ONE("model.layers.1-"), 0, 4, "number or a range");
    refused(ONE("model.layers.1-2-3"), 0, 4, "number or a range");
    refused(ONE("model.layers.-1"), 0, 4, "number or a range");
    refused(ONE("model.layers.99999999999999999999"), 0, 4, "below 4096");
    refused(ONE("model.layers.4096"), 0, 4, "below 4096");
    refused(ONE("transformer.h.1"), 0, 4, "not a layer");
    refused(ONE("{a: b}"), 0, 4, "must be texts");
    refused(ONE("model.layers.1\n    - model.layers.0-1"), 0, 5, "listed twice");
    refused(ONE("model.layers.0\n    - model.layers.2"), 0, 5, "one run");
    refused(ONE("model.layers.0-8"), 8, 1, "layers 0 to 7");
#undef ONE
#define TWO(a, b) "a:\n  host: x:1\n  layers: [" a "]\nb:\n  host: x:2\n  layers: [" b "]\n"
    refused(TWO("model.layers.0-3", "model.layers.3-7"), 8, 4, "both have layer 3");
    refused(TWO("model.layers.0-3", "model.layers.5-7"), 8, 4, "layer 4 is missing");
    refused(TWO("model.layers.0-2", "model.layers.5-7"), 8, 4, "layers 3-4 are missing");
    refused(TWO("model.layers.0-3, lm_head", "model.layers.4-7, lm_head"), 8, 4, "both");
    refused(TWO("model.layers.0-3, lm_head", "model.layers.4-7"), 8, 1, "last layer, 7");
    refused(TWO("model.layers.0-3", "model.layers.4-7, model.embed_tokens"), 8, 4, "layer 0");
    refused(TWO("model.layers.0-3, model.embed_tokens", "model.embed_tokens"), 8, 4, "both");
    cake_error err;
    /* in any order, and with a gap that a third worker may fill */
    cake_topology t = good(TWO("model.layers.4-7", "model.layers.0-3"));
    assert_int_equal(cake_topology_check(&t, 8, &err), CAKE_OK);
    cake_topology_deinit(&t);
    t = good(TWO("model.layers.0-2", "model.layers.5-7") "c: {host: y}\n");
    assert_int_equal(cake_topology_check(&t, 8, &err), CAKE_OK);
    cake_topology_deinit(&t);
#undef TWO
}

static void test_limits(void **state) {
    (void)state;
    cake_topology t;
    cake_error err;
    char *text = malloc(CAKE_TOPOLOGY_MAX_BYTES + 2);
    assert_non_null(text);
    memset(text, '#', CAKE_TOPOLOGY_MAX_BYTES + 1);
    text[CAKE_TOPOLOGY_MAX_BYTES + 1] = 0;
    assert_int_equal(parse(&t, text, &err), CAKE_ECONFIG);
    assert_non_null(strstr(err.msg, "at most"));
    for (int extra = 0; extra < 2; extra++) { /* workers */
        size_t at = 0;
        for (int i = 0; i < CAKE_TOPOLOGY_MAX_WORKERS + extra; i++)
            at += (size_t)sprintf(text + at, "w%d: {host: h%d}\n", i, i);
        assert_int_equal(parse(&t, text, &err), extra ? CAKE_ECONFIG : CAKE_OK);
        cake_topology_deinit(&t);
    }
    assert_non_null(strstr(err.msg, "more than 1024 workers"));
    size_t at = (size_t)sprintf(text, "a:\n  host: x\n  layers:\n");
    for (int i = 0; i <= CAKE_TOPOLOGY_MAX_RANGES; i++)
        at += (size_t)sprintf(text + at, "  - model.layers.%d\n", i);
    assert_int_equal(parse(&t, text, &err), CAKE_ECONFIG);
    assert_non_null(strstr(err.msg, "use ranges"));
    at = (size_t)sprintf(text, "a:\n  host: x\n  description: ");
    memset(text + at, 'd', CAKE_TOPOLOGY_MAX_TEXT + 1);
    text[at + CAKE_TOPOLOGY_MAX_TEXT + 1] = 0;
    assert_int_equal(parse(&t, text, &err), CAKE_ECONFIG);
    text[at + CAKE_TOPOLOGY_MAX_TEXT] = 0;
    assert_int_equal(parse(&t, text, &err), CAKE_OK);
    cake_topology_deinit(&t);
    /* depth: brackets alone must not recurse or allocate without end */
    memset(text, '[', 100000);
    text[100000] = 0;
    assert_int_equal(parse(&t, text, &err), CAKE_ECONFIG);
    free(text);
}

/* Every prefix of a good file is either good or refused with a line; nothing leaks (asan). */
static void test_every_prefix(void **state) {
    (void)state;
    static const char text[] =
        "a:\n  host: \"10.0.0.1:5\"\n  layers:\n    - model.layers.0-3\nb: {host: \"[::1]:2\", "
        "threads: 3, memory: 2G, layers: [lm_head, model.layers.4]}\n";
    for (size_t n = 0; n < sizeof text; n++) {
        cake_topology t;
        cake_error err = {0};
        cake_status st = cake_topology_parse(&t, text, n, "net.yml", &err);
        if (st == CAKE_OK)
            cake_topology_deinit(&t);
        else
            assert_non_null(strstr(err.msg, "net.yml:"));
    }
}

static void test_read(void **state) {
    (void)state;
    cake_topology t;
    cake_error err;
    assert_int_equal(cake_topology_read(&t, "/nonexistent/net.yml", &err), CAKE_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/nonexistent/net.yml"));
    char path[] = "/tmp/cake-topology-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "a: {host: h:1}\n", 15), 15);
    close(fd);
    assert_int_equal(cake_topology_read(&t, path, &err), CAKE_OK);
    assert_int_equal(t.n_workers, 1);
    assert_string_equal(t.path, path);
    cake_topology_deinit(&t);
    unlink(path);
}

static void test_shipped_example(void **state) {
    (void)state;
    cake_topology t;
    cake_error err = {0};
    if (cake_topology_read(&t, "deploy/topology.example.yml", &err) != CAKE_OK)
        fail_msg("%s", err.msg);
    if (cake_topology_check(&t, 32, &err) != CAKE_OK) fail_msg("%s", err.msg);
    assert_true(t.n_workers >= 2);
    cake_topology_deinit(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_file),       cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_bad_layers),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_every_prefix),    cmocka_unit_test(test_read),
        cmocka_unit_test(test_shipped_example),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
