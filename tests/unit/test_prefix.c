/* The prefix cache against a real KV table (worker/engine/kv) and a plain model of who holds which
 * tokens: random sequences come, grow, are cut and end; after every batch both sides agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/mem.h"
#include "master/scheduler/prefix.h"
#include "worker/engine/kv.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 9, RUNNING = 3, POSITIONS = 500, BLOCKS = RUNNING * (POSITIONS / 64 + 1) };

static uint64_t rng = 88172645463325252u;
static uint32_t below(uint32_t n) {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 33) % n;
}

typedef struct {
    bool open;
    uint32_t slot, limit, len, ready, tokens[POSITIONS];
} sequence;

static struct {
    cake_kv *kv;
    cake_prefix *prefix;
    cake_kv_op room[4 * SLOTS + 16];
    cake_kv_ops ops;
    uint32_t held[SLOTS][POSITIONS]; /* tokens the stage computed, by slot */
    sequence s[RUNNING];
} t;

static void apply(void) {
    cake_error err;
    for (uint32_t i = 0; i < t.ops.n; i++) {
        cake_kv_op o = t.ops.v[i];
        cake_status st = CAKE_EINVAL;
        if (o.op == CAKE_KV_FREE) st = cake_kv_release(t.kv, o.seq, &err);
        if (o.op == CAKE_KV_TRIM) st = cake_kv_trim(t.kv, o.seq, o.a, &err);
        if (o.op == CAKE_KV_FORK) {
            st = cake_kv_fork(t.kv, o.seq, o.a, o.b, &err);
            memcpy(t.held[o.seq], t.held[o.a], o.b * sizeof **t.held);
        }
        if (st != CAKE_OK) fail_msg("%s", err.msg);
    }
    t.ops.n = 0;
}

/* Few distinct beginnings, so that prefixes are shared; then noise. */
static void make_tokens(uint32_t *out, uint32_t n) {
    uint32_t family = below(3), common = below(POSITIONS);
    for (uint32_t i = 0; i < n; i++) out[i] = i < common ? family * 1000 + i : below(100000);
}

static void begin(sequence *s) {
    uint32_t n = 1 + below(POSITIONS), cached;
    make_tokens(s->tokens, POSITIONS);
    /* Or go on from what somebody else has, as the next turn of a chat does. */
    if (below(2)) memcpy(s->tokens, t.held[below(SLOTS)], below(POSITIONS) * sizeof *s->tokens);
    uint32_t want = cake_prefix_match(t.prefix, s->tokens, n - 1);
    s->slot = cake_prefix_open(t.prefix, s->tokens, n, n - 1, &cached, &t.ops);
    assert_true(cached <= n - 1 && cached <= want);
    assert_true(want - cached < 64); /* a part of a block may be lost where there is no room */
    s->open = true;
    s->limit = n;
    s->len = s->ready = cached;
}

static void check(uint32_t n_slots) {
    cake_prefix_stats st;
    cake_prefix_stats_get(t.prefix, &st);
    assert_int_equal(st.free_blocks, cake_kv_free_blocks(t.kv));
    assert_true(st.open + st.kept <= n_slots);
    for (int i = 0; i < RUNNING; i++) {
        const sequence *s = &t.s[i];
        if (!s->open) continue;
        assert_int_equal(cake_kv_len(t.kv, s->slot), s->len);
        assert_memory_equal(t.held[s->slot], s->tokens, s->len * sizeof *s->tokens);
    }
}

/* With few slots a sequence must go on in the very slot it shares with others. */
static void random_lives(uint32_t n_slots) {
    cake_error err;
    uint64_t shared = 0;
    memset(&t, 0, sizeof t);
    cake_kv_options ko = {
        .n_blocks = BLOCKS, .n_seqs = n_slots, .max_positions = POSITIONS, .block_bytes = 64};
    assert_int_equal(cake_kv_new(&t.kv, &ko, &err), CAKE_OK);
    t.prefix = cake_prefix_new(&(cake_prefix_options){
        .n_slots = n_slots, .n_blocks = BLOCKS, .max_positions = POSITIONS, .keep = true});
    t.ops = (cake_kv_ops){.v = t.room, .cap = 4 * n_slots + 16};
    for (int round = 0; round < 20000; round++) {
        sequence *s = &t.s[below(RUNNING)];
        bool opened = !s->open;
        if (opened) {
            begin(s);
            shared += s->len;
        }
        uint32_t grow = below(3) ? below(150) : 0;
        if (grow > s->limit - s->len) grow = s->limit - s->len;
        cake_prefix_extend(t.prefix, s->slot, grow, &t.ops);
        apply();
        assert_int_equal(cake_kv_extend(t.kv, s->slot, s->len, grow, &err), CAKE_OK);
        memcpy(t.held[s->slot] + s->len, s->tokens + s->len, grow * sizeof *s->tokens);
        s->len += grow;
        switch (below(5)) {
        case 0:
        case 1: /* some of it is computed */
            s->ready += below(s->len - s->ready + 1);
            cake_prefix_publish(t.prefix, s->slot, s->tokens, s->ready);
            break;
        case 2: /* proposals that were wrong */
            s->len -= below(s->len - s->ready + 1);
            cake_prefix_trim(t.prefix, s->slot, s->len, &t.ops);
            break;
        case 3:
            cake_prefix_close(t.prefix, s->slot, &t.ops);
            s->open = false;
            break;
        default: break;
        }
        apply();
        check(n_slots);
    }
    for (int i = 0; i < RUNNING; i++)
        if (t.s[i].open) cake_prefix_close(t.prefix, t.s[i].slot, &t.ops);
    apply();
    cake_prefix_stats st;
    cake_prefix_stats_get(t.prefix, &st);
    assert_int_equal(st.open, 0);
    assert_true(st.kept > 0 && st.evicted > 100 && shared > 100000);
    assert_int_equal(st.free_blocks, cake_kv_free_blocks(t.kv));
    cake_prefix_free(t.prefix);
    cake_kv_free(t.kv);
}
static void many_slots(void **state) {
    (void)state;
    random_lives(SLOTS);
}
static void few_slots(void **state) {
    (void)state;
    random_lives(RUNNING);
}

static uint32_t live(cake_prefix *p, const uint32_t *tokens, uint32_t n, cake_kv_ops *ops) {
    uint32_t cached, slot = cake_prefix_open(p, tokens, n, n - 1, &cached, ops);
    cake_prefix_extend(p, slot, n - cached, ops);
    cake_prefix_publish(p, slot, tokens, n);
    cake_prefix_close(p, slot, ops);
    ops->n = 0;
    return cached;
}

/* What is longest unused goes first; what a longer one covers goes at once; short ones are not
 * kept. */
static void what_is_kept(void **state) {
    (void)state;
    cake_kv_op room[64];
    cake_kv_ops ops = {.v = room, .cap = 64};
    cake_prefix *p = cake_prefix_new(
        &(cake_prefix_options){.n_slots = 4, .n_blocks = 40, .max_positions = 640, .keep = true});
    uint32_t a[4][300];
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t i = 0; i < 300; i++) a[k][i] = k * 1000 + i;
    assert_int_equal(live(p, a[0], 63, &ops), 0);
    assert_int_equal(live(p, a[0], 63, &ops), 0); /* too short to keep */
    assert_int_equal(live(p, a[0], 100, &ops), 0);
    assert_int_equal(live(p, a[0], 100, &ops), 99); /* one position is always computed */
    assert_int_equal(live(p, a[0], 300, &ops), 100);
    cake_prefix_stats st;
    cake_prefix_stats_get(p, &st);
    assert_int_equal(st.kept, 1); /* the longer covers the shorter */
    assert_int_equal(live(p, a[0], 200, &ops), 199);
    assert_int_equal(live(p, a[1], 200, &ops), 0);
    assert_int_equal(live(p, a[2], 200, &ops), 0);
    assert_int_equal(live(p, a[0], 299, &ops), 298); /* used again */
    assert_int_equal(live(p, a[3], 200, &ops), 0);
    assert_int_equal(live(p, a[1], 5, &ops), 4); /* needs a slot: of the four, a[2] is oldest */
    assert_int_equal(cake_prefix_match(p, a[2], 200), 0);
    assert_int_equal(cake_prefix_match(p, a[0], 300), 300);
    assert_int_equal(cake_prefix_match(p, a[1], 70), 70);
    cake_prefix_free(p);
    p = cake_prefix_new(
        &(cake_prefix_options){.n_slots = 4, .n_blocks = 40, .max_positions = 640, .keep = false});
    assert_int_equal(live(p, a[0], 300, &ops), 0);
    assert_int_equal(live(p, a[0], 300, &ops), 0);
    cake_prefix_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_slots),
        cmocka_unit_test(few_slots),
        cmocka_unit_test(what_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
