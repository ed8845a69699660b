/* Discovery: TXT records as hostile neighbours write them, node ids, and advertising and browsing
 * with the responder inside the process, over whatever interfaces this machine has (loopback is
 * enough). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/discovery.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ID  "0123456789abcdef0123456789abcdef"
#define TAG "fedcba9876543210"

/* Fields to a record set. */
static size_t records(uint8_t *out, const char *const *field, size_t n) {
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t l = strlen(field[i]);
        out[at++] = (uint8_t)l;
        memcpy(out + at, field[i], l);
        at += l;
    }
    return at;
}

static bool parse(cake_node *n, const char *a, const char *b, const char *c, const char *d) {
    const char *field[] = {a, b, c, d};
    uint8_t txt[1100];
    size_t len = records(txt, field, d ? 4 : c ? 3 : b ? 2 : 1);
    uint8_t *exact = malloc(len);
    memcpy(exact, txt, len);
    bool ok = cake_node_txt_parse(exact, len, n);
    free(exact);
    return ok;
}

static void txt_records(void **state) {
    (void)state;
    cake_node n;
    assert_true(parse(&n, "v=1", "id=" ID, "tag=" TAG, "name=kitchen"));
    assert_string_equal(n.id, ID);
    assert_string_equal(n.tag, TAG);
    assert_string_equal(n.name, "kitchen");
    assert_int_equal(n.version, 1);
    assert_true(
        parse(&n, "future=yes", "TAG=" TAG, "Id=" ID, "v=7")); /* order, case, unknown keys */
    assert_string_equal(n.name, "");
    assert_int_equal(n.version, 7);
    assert_false(parse(&n, "id=" ID, "tag=" TAG, "name=x", NULL));
    assert_false(parse(&n, "v=1", "tag=" TAG, NULL, NULL));
    assert_false(parse(&n, "v=1", "id=" ID, NULL, NULL));
    assert_false(parse(&n, "v=1x", "id=" ID, "tag=" TAG, NULL));
    assert_false(parse(&n, "v=", "id=" ID, "tag=" TAG, NULL));
    assert_false(parse(&n, "v=12345678", "id=" ID, "tag=" TAG, NULL));
    assert_false(parse(&n, "v=1", "id=" ID "0", "tag=" TAG, NULL));
    assert_false(parse(&n, "v=1", "id=../../../../etc/passwd/aaaaaaaaaaa", "tag=" TAG, NULL));
    assert_false(parse(&n, "v=1", "id=" ID, "tag=xxxxxxxxxxxxxxxx", NULL));
    assert_false(cake_node_txt_parse(NULL, 0, &n));
}

static void txt_names_are_cleaned(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } c[] = {{"name=\xc3\xbc"
              "ber",
              "\xc3\xbc"
              "ber"},
             {"name=a\x1b[31mb\nc", "a?[31mb?c"},
             {"name=\xff\xc0\x80", "???"},
             {"name=\xe0\x80\x80", "???"},
             {"name=\xed\xa0\x80", "???"},
             {"name=\xf4\x90\x80\x80", "????"},
             {"name=\xc2\x85", "??"},
             {"name=\xe2\x82", "??"}};
    cake_node n;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        assert_true(parse(&n, "v=1", "id=" ID, "tag=" TAG, c[i].in));
        assert_string_equal(n.name, c[i].out);
    }
    char big[255] = "name=";
    while (strlen(big) < 250) strcat(big, "\xe2\x82\xac");
    assert_true(parse(&n, "v=1", "id=" ID, "tag=" TAG, big));
    assert_int_equal(strlen(n.name), 63); /* 21 whole characters */
}

static void txt_truncated(void **state) {
    (void)state;
    const char *const field[] = {"v=1", "id=" ID, "tag=" TAG, "name=kitchen"};
    uint8_t txt[256], again[256];
    size_t len = records(txt, field, 4), whole = records(again, field, 3);
    for (size_t n = 0; n < len; n++) {
        uint8_t *p = malloc(n ? n : 1);
        memcpy(p, txt, n);
        cake_node node;
        assert_int_equal(cake_node_txt_parse(p, n, &node), n == whole);
        free(p);
    }
    cake_node node;
    assert_true(cake_node_txt_parse(txt, len, &node));
    assert_int_equal(cake_node_txt_write(again, sizeof again, &node), len);
    assert_memory_equal(again, txt, len);
    assert_int_equal(cake_node_txt_write(again, len - 1, &node), 0);
}

static void node_ids(void **state) {
    (void)state;
    char dir[] = "/tmp/cake-state-XXXXXX", a[CAKE_NODE_ID_HEX], b[CAKE_NODE_ID_HEX], path[128];
    assert_non_null(mkdtemp(dir));
    setenv("XDG_STATE_HOME", dir, 1);
    assert_int_equal(cake_node_id_load("worker", a, NULL), CAKE_OK);
    assert_int_equal(cake_node_id_load("worker", b, NULL), CAKE_OK);
    assert_string_equal(a, b);
    assert_int_equal(cake_node_id_load("other", b, NULL), CAKE_OK);
    assert_string_not_equal(a, b);
    assert_int_equal(cake_node_id_load("../escape", b, NULL), CAKE_EINVAL);
    snprintf(path, sizeof path, "%s/cake/worker.id", dir);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    FILE *f = fopen(path, "w"); /* a damaged file is replaced, not believed */
    fputs("not an id\n", f);
    fclose(f);
    assert_int_equal(cake_node_id_load("worker", b, NULL), CAKE_OK);
    assert_int_equal(strlen(b), 32);
    assert_string_not_equal(a, b);
    assert_int_equal(cake_node_id_load(NULL, a, NULL), CAKE_OK);
    assert_string_not_equal(a, b);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

/* Wait for an event about `id`; false when none comes. */
static bool event(cake_discovery *d, const char *id, cake_node_change change, cake_node *node,
                  int ms) {
    int64_t end = cake_now_ms() + ms;
    while (cake_now_ms() < end) {
        cake_node_event e;
        struct pollfd p = {.fd = cake_discovery_fd(d), .events = POLLIN};
        poll(&p, 1, 50);
        while (cake_discovery_next(d, &e)) {
            assert_string_equal(e.node.tag, TAG); /* of other clusters nothing is heard */
            if (strcmp(e.node.id, id) != 0 || e.change != change) continue;
            if (node) *node = e.node;
            return true;
        }
    }
    return false;
}

static void embedded(void **state) {
    (void)state;
    char id[3][CAKE_NODE_ID_HEX];
    for (int i = 0; i < 3; i++) cake_node_id_load(NULL, id[i], NULL);
    cake_discovery *browser, *w[3];
    cake_error err = {0};
    cake_discovery_options b = {.tag = TAG, .browse = true, .backend = CAKE_MDNS_EMBEDDED};
    if (cake_discovery_open(&browser, &b, &err) != CAKE_OK) {
        print_message("skip: no mDNS here: %s\n", err.msg);
        skip();
    }
    assert_string_equal(cake_discovery_backend(browser), "embedded");
    for (int i = 0; i < 3; i++) {
        cake_discovery_options o = {.tag = i == 2 ? "0000000000000001" : TAG,
                                    .id = id[i],
                                    .name = "two of a name",
                                    .port = (uint16_t)(4000 + i),
                                    .advertise = true,
                                    .backend = CAKE_MDNS_EMBEDDED};
        assert_int_equal(cake_discovery_open(&w[i], &o, &err), CAKE_OK);
    }
    cake_node n;
    if (!event(browser, id[0], CAKE_NODE_FOUND, &n, 10000)) {
        for (int i = 0; i < 3; i++) cake_discovery_close(w[i]);
        cake_discovery_close(browser);
        print_message("skip: no interface here carries multicast\n");
        skip();
    }
    assert_string_equal(n.name, "two of a name");
    assert_int_equal(n.port, 4000);
    assert_true(n.n_addresses > 0);
    assert_non_null(strstr(n.address[0], ":4000"));
    cake_discovery_close(w[0]);
    assert_true(event(browser, id[0], CAKE_NODE_LOST, NULL, 10000)); /* it said goodbye */
    /* The other of that name is still there: a new browser finds it, and not the one of the other
     * cluster. */
    cake_discovery *second;
    assert_int_equal(cake_discovery_open(&second, &b, &err), CAKE_OK);
    assert_true(event(second, id[1], CAKE_NODE_FOUND, &n, 10000));
    assert_int_equal(n.port, 4001);
    assert_false(event(second, id[2], CAKE_NODE_FOUND, NULL, 500));
    cake_discovery_close(second);
    cake_discovery_close(w[1]);
    cake_discovery_close(w[2]);
    cake_discovery_close(browser);
}

static void bad_options(void **state) {
    (void)state;
    cake_discovery *d = NULL;
    cake_error err = {0};
    const cake_discovery_options bad[] = {{.tag = TAG, .advertise = true, .port = 1},
                                          {.tag = TAG, .advertise = true, .id = ID},
                                          {.tag = TAG, .advertise = true, .id = "abc", .port = 1},
                                          {.tag = "abc", .browse = true}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cake_discovery_open(&d, &bad[i], &err), CAKE_EINVAL);
    assert_null(d);
    cake_discovery_close(NULL);
}

int main(void) {
    cake_log_min = CAKE_LOG_NONE;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(txt_records),   cmocka_unit_test(txt_names_are_cleaned),
        cmocka_unit_test(txt_truncated), cmocka_unit_test(node_ids),
        cmocka_unit_test(bad_options),   cmocka_unit_test(embedded)};
    return cmocka_run_group_tests_name("discovery", tests, NULL, NULL);
}
