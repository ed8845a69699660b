/* Control messages: round trips, and what a wrong or hostile peer could send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/control.h"

#include <stdio.h>
#include <string.h>

static cake_control_op parse(const cake_msg *m, json_object **o) {
    cake_control_op op;
    cake_error err;
    if (cake_control_parse(cake_msg_body(m), &op, o, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return op;
}

static void hello(void **state) {
    (void)state;
    cake_hello a = {.threads = 8,
                    .memory_bytes = 16ull << 30,
                    .read_bw = 25e9,
                    .ops = 3e11,
                    .busy = true},
               b;
    strcpy(a.id, "0123456789abcdef0123456789abcdef");
    strcpy(a.name, "desk \"one\" \xc3\xa9");
    strcpy(a.version, "0.1.0");
    strcpy(a.isa, "avx512");
    cake_msg *m = cake_control_hello(&a);
    json_object *o;
    assert_int_equal(parse(m, &o), CAKE_CONTROL_HELLO);
    assert_int_equal(cake_control_read_hello(o, &b, NULL), CAKE_OK);
    assert_string_equal(a.name, b.name);
    assert_string_equal(a.id, b.id);
    assert_true(b.threads == 8 && b.memory_bytes == 16ull << 30 && b.busy && b.ops == 3e11);
    json_object_put(o);
    cake_msg_free(m);
}

static void assign(void **state) {
    (void)state;
    cake_assign a = {.n_stages = 2,
                     .config = "{\"a\": 1}\n",
                     .manifest = "{\"m\":\"\\u0041\"}",
                     .f32_mode = true,
                     .wire = CAKE_WIRE_Q8,
                     .context = 4096,
                     .n_seqs = 8,
                     .n_blocks = 520,
                     .max_rows = 256};
    a.stages[0] = (cake_assign_stage){
        .index = 1, .n_stages = 4, .unit_begin = 3, .unit_end = 9, .direct = true};
    strcpy(a.stages[0].next, "[fe80::1%eth0]:10128");
    a.stages[1] = (cake_assign_stage){.index = 3, .n_stages = 4, .unit_begin = 20, .unit_end = 26};
    cake_msg *m = cake_control_assign(77, &a);
    assert_int_equal(m->h.epoch, 77);
    json_object *o;
    cake_assign b;
    cake_error err;
    assert_int_equal(parse(m, &o), CAKE_CONTROL_ASSIGN);
    if (cake_control_read_assign(o, &b, &err) != CAKE_OK) fail_msg("%s", err.msg);
    json_object_put(o); /* b keeps its own reference */
    assert_string_equal(b.config, a.config);
    assert_string_equal(b.manifest, a.manifest);
    assert_memory_equal(b.stages, a.stages, 2 * sizeof *a.stages);
    assert_true(b.f32_mode && b.wire == CAKE_WIRE_Q8 && b.context == 4096 && b.n_seqs == 8 &&
                b.n_blocks == 520 && b.max_rows == 256);
    cake_assign_deinit(&b);
    cake_msg_free(m);

    for (int q8 = 0; q8 < 2; q8++) {
        a.f32_mode = false, a.kv_q8 = q8;
        m = cake_control_assign(77, &a);
        assert_int_equal(parse(m, &o), CAKE_CONTROL_ASSIGN);
        assert_int_equal(cake_control_read_assign(o, &b, NULL), CAKE_OK);
        assert_true(!b.f32_mode && b.kv_q8 == q8);
        json_object_put(o);
        cake_assign_deinit(&b);
        cake_msg_free(m);
    }
}

static void need_and_status(void **state) {
    (void)state;
    cake_need n = {.transfer = 5, .size = 1000}, n2;
    assert_int_equal(cake_ranges_add(&n.ranges, 10, 20, NULL), CAKE_OK);
    assert_int_equal(cake_ranges_add(&n.ranges, 900, 1000, NULL), CAKE_OK);
    cake_msg *m = cake_control_need(3, &n);
    json_object *o;
    assert_int_equal(parse(m, &o), CAKE_CONTROL_NEED);
    assert_int_equal(cake_control_read_need(o, &n2, NULL), CAKE_OK);
    assert_true(n2.transfer == 5 && n2.size == 1000 && n2.ranges.n == 2 &&
                n2.ranges.at[1].begin == 900);
    cake_ranges_deinit(&n.ranges);
    cake_ranges_deinit(&n2.ranges);
    json_object_put(o);
    cake_msg_free(m);

    cake_worker_status s = {.state = CAKE_STATE_FAILED,
                            .done = 1,
                            .total = 1ull << 40,
                            .code = CAKE_ENOSPACE},
                       s2;
    s.relayed[1] = true;
    strcpy(s.message, "12 MiB are needed\nand 3 are free");
    m = cake_control_status(4, &s);
    assert_int_equal(parse(m, &o), CAKE_CONTROL_STATUS);
    assert_int_equal(cake_control_read_status(o, &s2, NULL), CAKE_OK);
    assert_true(s2.state == CAKE_STATE_FAILED && s2.total == 1ull << 40 &&
                s2.code == CAKE_ENOSPACE && s2.relayed[1]);
    assert_string_equal(s2.message, "12 MiB are needed?and 3 are free"); /* fit to be logged */
    json_object_put(o);
    cake_msg_free(m);
}

#define STAGES(s)                                                                                  \
    "{\"op\":\"assign\",\"stages\":[" s                                                            \
    "],\"compute\":\"int8\",\"kv\":\"f16\",\"wire\":\"f32\",\"context\":64,"                       \
    "\"sequences\":1,\"blocks\":2,\"rows\":8}"
static const char *const bad[] = {
    "",
    "{",
    "[]",
    "null",
    "{}",
    "{\"op\":7}",
    "{\"op\":\"format_disk\"}",
    "{\"op\":\"hello\"}",
    "{\"op\":\"hello\",\"id\":\"x\",\"name\":\"n\",\"version\":\"v\",\"isa\":\"i\",\"threads\":0,"
    "\"memory\":1,\"read_bw\":1,\"ops\":1,\"busy\":false}",
    "{\"op\":\"hello\",\"id\":\"x\",\"name\":\"n\",\"version\":\"v\",\"isa\":\"i\",\"threads\":1,"
    "\"memory\":-1,\"read_bw\":1,\"ops\":1,\"busy\":false}",
    "{\"op\":\"hello\",\"id\":\"x\",\"name\":\"n\",\"version\":\"v\",\"isa\":\"i\",\"threads\":1,"
    "\"memory\":1,\"read_bw\":NaN,\"ops\":1,\"busy\":false}",
    STAGES(""),
    STAGES("{}"),
    STAGES("7"),
    STAGES("{\"index\":4,\"of\":4,\"begin\":0,\"end\":1}"), /* index outside */
    STAGES("{\"index\":0,\"of\":0,\"begin\":0,\"end\":1}"), /* no stages */
    STAGES("{\"index\":0,\"of\":4,\"begin\":3,\"end\":3}"), /* empty */
    STAGES("{\"index\":0,\"of\":4,\"begin\":0,\"end\":99999}"),
    STAGES("{\"index\":0,\"of\":1,\"begin\":0,\"end\":1,\"next\":7}"),
    STAGES("{\"index\":0,\"of\":1,\"begin\":0,\"end\":1,\"next\":"
           "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}"),
    "{\"op\":\"assign\",\"stages\":[{\"index\":0,\"of\":1,\"begin\":0,\"end\":1}],\"config\":\"{}"
    "\",\"compute\":\"int8\",\"kv\":\"f16\",\"wire\":\"f32\",\"context\":64,\"sequences\":1,"
    "\"blocks\":2,\"rows\":"
    "8}",
    "{\"op\":\"assign\",\"stages\":[{\"index\":0,\"of\":1,\"begin\":0,\"end\":1}],\"compute\":"
    "\"int4\",\"kv\":\"f16\",\"wire\":\"f32\",\"context\":64,\"sequences\":1,\"blocks\":2,\"rows\":"
    "8}",
    "{\"op\":\"assign\",\"stages\":[{\"index\":0,\"of\":1,\"begin\":0,\"end\":1}],\"compute\":"
    "\"int8\",\"kv\":\"f16\",\"wire\":\"none\",\"context\":64,\"sequences\":1,\"blocks\":2,"
    "\"rows\":8}",
    "{\"op\":\"assign\",\"stages\":[{\"index\":0,\"of\":1,\"begin\":0,\"end\":1}],\"compute\":"
    "\"int8\",\"kv\":\"f16\",\"wire\":\"f32\",\"context\":0,\"sequences\":1,\"blocks\":2,\"rows\":"
    "8}",
    "{\"op\":\"assign\",\"stages\":[{\"index\":0,\"of\":1,\"begin\":0,\"end\":1}],\"compute\":"
    "\"int8\",\"kv\":\"f16\",\"wire\":\"f32\",\"context\":64,\"sequences\":1,\"blocks\":2,\"rows\":"
    "99999999}",
#define KV(rest)                                                                                   \
    "{\"op\":\"assign\",\"stages\":[{\"index\":0,\"of\":1,\"begin\":0,\"end\":1}],"                \
    "\"wire\":\"f32\",\"context\":64,\"sequences\":1,\"blocks\":2,\"rows\":8," rest "}"
    KV("\"compute\":\"int8\""),
    KV("\"compute\":\"int8\",\"kv\":8"),
    KV("\"compute\":\"int8\",\"kv\":\"q4\""),
    KV("\"compute\":\"int8\",\"kv\":\"f32\""),
    KV("\"compute\":\"f32\",\"kv\":\"q8\""),
    "{\"op\":\"need\",\"transfer\":1,\"size\":10,\"ranges\":[[0,11]]}",
    "{\"op\":\"need\",\"transfer\":1,\"size\":10,\"ranges\":[[5,4]]}",
    "{\"op\":\"need\",\"transfer\":1,\"size\":10,\"ranges\":[[0,5],[3,6]]}",
    "{\"op\":\"need\",\"transfer\":1,\"size\":10,\"ranges\":[[\"a\",5]]}",
    "{\"op\":\"need\",\"transfer\":-1,\"size\":10,\"ranges\":[]}",
    "{\"op\":\"status\",\"state\":\"dancing\",\"done\":0,\"total\":0,\"reused\":0,\"weights\":0,"
    "\"kv\":0,\"other\":0,\"code\":0,\"message\":\"\",\"relayed\":[]}",
    "{\"op\":\"status\",\"state\":\"ready\",\"done\":0,\"total\":0,\"reused\":0,\"weights\":0,"
    "\"kv\":0,\"other\":0,\"code\":5,\"message\":\"\",\"relayed\":[]}",
    "{\"op\":\"status\",\"state\":\"ready\",\"done\":0,\"total\":0,\"reused\":0,\"weights\":0,"
    "\"kv\":0,\"other\":0,\"code\":0,\"message\":\"\",\"relayed\":[0,0,0,0,0,0,0,0,0]}",
    "[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
};

static void refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cake_control_op op;
        json_object *o;
        cake_error err;
        cake_view v = {(const uint8_t *)bad[i], strlen(bad[i])};
        cake_status st = cake_control_parse(v, &op, &o, &err);
        if (st == CAKE_OK) {
            cake_hello h;
            cake_assign a;
            cake_need n;
            cake_worker_status s;
            if (op == CAKE_CONTROL_HELLO) st = cake_control_read_hello(o, &h, &err);
            if (op == CAKE_CONTROL_ASSIGN) st = cake_control_read_assign(o, &a, &err);
            if (op == CAKE_CONTROL_NEED) st = cake_control_read_need(o, &n, &err);
            if (op == CAKE_CONTROL_STATUS) st = cake_control_read_status(o, &s, &err);
            json_object_put(o);
        }
        if (st == CAKE_OK) fail_msg("accepted: %s", bad[i]);
        assert_true(strlen(err.msg) > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hello), cmocka_unit_test(assign),
                                       cmocka_unit_test(need_and_status),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
