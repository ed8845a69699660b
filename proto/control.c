/* Control messages: see control.h. */
#include "proto/control.h"

#include "common/json.h"

#include <stdio.h>
#include <string.h>

static const char *const op_name[] = {"hello", "assign", "release", "need", "status", "stats"};
static const char *const state_name[] = {"idle", "fetching", "loading", "ready", "failed"};

const char *cake_worker_state_name(cake_worker_state s) {
    return (unsigned)s < sizeof state_name / sizeof *state_name ? state_name[s] : "?";
}

void cake_assign_deinit(cake_assign *a) {
    json_object_put(a->owner);
    *a = (cake_assign){0};
}

/* ---- building ---- */

static json_object *begin(cake_control_op op) {
    json_object *o = json_object_new_object();
    json_object_object_add(o, "op", json_object_new_string(op_name[op]));
    return o;
}
static void put_str(json_object *o, const char *key, const char *s) {
    json_object_object_add(o, key, json_object_new_string(s));
}
static void put_u64(json_object *o, const char *key, uint64_t v) {
    json_object_object_add(o, key, json_object_new_int64((int64_t)v));
}
static void put_double(json_object *o, const char *key, double v) {
    json_object_object_add(o, key, json_object_new_double(v));
}
static void put_bool(json_object *o, const char *key, bool v) {
    json_object_object_add(o, key, json_object_new_boolean(v));
}

static cake_msg *finish_request(json_object *o, uint64_t epoch, uint64_t request) {
    size_t len;
    const char *text = json_object_to_json_string_length(
        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    cake_msg *m =
        text && len <= CAKE_CONTROL_MAX ? cake_msg_control(epoch, request, text, len) : NULL;
    json_object_put(o);
    return m;
}
static cake_msg *finish(json_object *o, uint64_t epoch) {
    return finish_request(o, epoch, 0);
}

cake_msg *cake_control_hello_ask(void) {
    json_object *o = begin(CAKE_CONTROL_HELLO);
    put_str(o, "version", CAKE_VERSION);
    return finish(o, 0);
}

cake_msg *cake_control_hello(const cake_hello *h) {
    json_object *o = begin(CAKE_CONTROL_HELLO);
    put_str(o, "id", h->id);
    put_str(o, "name", h->name);
    put_str(o, "version", h->version);
    put_str(o, "isa", h->isa);
    put_u64(o, "threads", h->threads);
    put_u64(o, "memory", h->memory_bytes);
    put_double(o, "read_bw", h->read_bw);
    put_double(o, "ops", h->ops);
    put_bool(o, "busy", h->busy);
    return finish(o, 0);
}

cake_msg *cake_control_assign(uint64_t epoch, const cake_assign *a) {
    json_object *o = begin(CAKE_CONTROL_ASSIGN), *stages = json_object_new_array();
    for (uint32_t i = 0; i < a->n_stages; i++) {
        const cake_assign_stage *s = &a->stages[i];
        json_object *e = json_object_new_object();
        put_u64(e, "index", s->index);
        put_u64(e, "of", s->n_stages);
        put_u64(e, "begin", s->unit_begin);
        put_u64(e, "end", s->unit_end);
        if (s->direct) put_str(e, "next", s->next);
        json_object_array_add(stages, e);
    }
    json_object_object_add(o, "stages", stages);
    if (a->manifest) {
        put_str(o, "config", a->config);
        put_str(o, "manifest", a->manifest);
    }
    put_str(o, "compute", a->f32_mode ? "f32" : "int8");
    put_str(o, "kv", a->f32_mode ? "f32" : a->kv_q8 ? "q8" : "f16");
    if (a->collect) put_bool(o, "collect", true);
    put_str(o, "wire", cake_wire_type_name(a->wire));
    put_u64(o, "context", a->context);
    put_u64(o, "sequences", a->n_seqs);
    put_u64(o, "blocks", a->n_blocks);
    put_u64(o, "rows", a->max_rows);
    return finish(o, epoch);
}

cake_msg *cake_control_release(uint64_t epoch) {
    return finish(begin(CAKE_CONTROL_RELEASE), epoch);
}

cake_msg *cake_control_stats(uint64_t epoch, uint64_t request, const cake_stats_ask *a) {
    json_object *o = begin(CAKE_CONTROL_STATS);
    put_u64(o, "unit", a->unit);
    put_str(o, "input", a->input);
    return finish_request(o, epoch, request);
}

cake_msg *cake_control_need(uint64_t epoch, const cake_need *n) {
    json_object *o = begin(CAKE_CONTROL_NEED);
    put_u64(o, "transfer", n->transfer);
    put_u64(o, "size", n->size);
    json_object_object_add(o, "ranges", cake_ranges_to_json(&n->ranges));
    return finish(o, epoch);
}

cake_msg *cake_control_status(uint64_t epoch, const cake_worker_status *s) {
    json_object *o = begin(CAKE_CONTROL_STATUS), *relayed = json_object_new_array();
    put_str(o, "state", cake_worker_state_name(s->state));
    put_u64(o, "done", s->done);
    put_u64(o, "total", s->total);
    put_u64(o, "reused", s->reused_bytes);
    put_u64(o, "weights", s->weight_bytes);
    put_u64(o, "kv", s->kv_bytes);
    put_u64(o, "other", s->other_bytes);
    for (int i = 0; i < CAKE_ASSIGN_STAGES_MAX; i++)
        json_object_array_add(relayed, json_object_new_boolean(s->relayed[i]));
    json_object_object_add(o, "relayed", relayed);
    json_object_object_add(o, "code", json_object_new_int(s->code));
    put_str(o, "message", s->message);
    return finish(o, epoch);
}

/* ---- reading ---- */

enum { DEPTH_MAX = 8, TEXT_MAX = CAKE_CONTROL_MAX };

cake_status cake_control_parse(cake_view body, cake_control_op *op, json_object **out,
                               cake_error *err) {
    json_object *o;
    const char *name = "";
    cake_status st =
        cake_json_parse((const char *)body.data, body.len, DEPTH_MAX, "control message", &o, err);
    if (st != CAKE_OK) return st;
    st = cake_json_string(o, "op", true, 32, &name, err);
    for (size_t i = 0; st == CAKE_OK && i < sizeof op_name / sizeof *op_name; i++) {
        if (strcmp(name, op_name[i]) != 0) continue;
        *op = (cake_control_op)i;
        *out = o;
        return CAKE_OK;
    }
    if (st == CAKE_OK) st = cake_fail(err, CAKE_EPROTO, "control message: unknown op");
    json_object_put(o);
    return st;
}

/* A member copied into a fixed array; anything unprintable becomes '?', so that it can be logged.
 */
static cake_status get_text(json_object *o, const char *key, char *out, size_t cap,
                            cake_error *err) {
    const char *s = "";
    cake_status st = cake_json_string(o, key, true, cap - 1, &s, err);
    if (st != CAKE_OK) return st;
    size_t n = strlen(s);
    for (size_t i = 0; i <= n; i++) out[i] = (unsigned char)s[i] < 0x20 && s[i] ? '?' : s[i];
    return CAKE_OK;
}

static cake_status get_u64(json_object *o, const char *key, uint64_t *out, cake_error *err) {
    int64_t v = 0;
    cake_status st = cake_json_int(o, key, true, 0, INT64_MAX, &v, err);
    if (st == CAKE_OK) *out = (uint64_t)v;
    return st;
}

cake_status cake_control_read_hello(json_object *o, cake_hello *h, cake_error *err) {
    *h = (cake_hello){0};
    cake_status st = get_text(o, "id", h->id, sizeof h->id, err);
    if (st == CAKE_OK) st = get_text(o, "name", h->name, sizeof h->name, err);
    if (st == CAKE_OK) st = get_text(o, "version", h->version, sizeof h->version, err);
    if (st == CAKE_OK) st = get_text(o, "isa", h->isa, sizeof h->isa, err);
    if (st == CAKE_OK) st = cake_json_u32(o, "threads", true, 1, 4096, &h->threads, err);
    if (st == CAKE_OK) st = get_u64(o, "memory", &h->memory_bytes, err);
    if (st == CAKE_OK) st = cake_json_double(o, "read_bw", true, 1, 1e16, &h->read_bw, err);
    if (st == CAKE_OK) st = cake_json_double(o, "ops", true, 1, 1e18, &h->ops, err);
    if (st == CAKE_OK) st = cake_json_bool(o, "busy", true, &h->busy, err);
    return st;
}

static cake_status read_stage(json_object *e, cake_assign_stage *s, cake_error *err) {
    const char *next = NULL;
    cake_status st = cake_json_u32(e, "of", true, 1, CAKE_STAGES_MAX, &s->n_stages, err);
    if (st == CAKE_OK) st = cake_json_u32(e, "index", true, 0, s->n_stages - 1, &s->index, err);
    if (st == CAKE_OK)
        st = cake_json_u32(e, "begin", true, 0, CAKE_ASSIGN_UNITS_MAX - 1, &s->unit_begin, err);
    if (st == CAKE_OK)
        st = cake_json_u32(e, "end", true, s->unit_begin + 1, CAKE_ASSIGN_UNITS_MAX, &s->unit_end,
                           err);
    if (st == CAKE_OK) st = cake_json_string(e, "next", false, sizeof s->next - 1, &next, err);
    if (st == CAKE_OK && next) {
        s->direct = true;
        snprintf(s->next, sizeof s->next, "%s", next);
    }
    return st;
}

cake_status cake_control_read_assign(json_object *o, cake_assign *a, cake_error *err) {
    *a = (cake_assign){0};
    json_object *stages;
    const char *compute = "", *kv = "", *wire = "";
    cake_status st = cake_json_array(o, "stages", true, CAKE_ASSIGN_STAGES_MAX, &stages, err);
    if (st != CAKE_OK) return st;
    a->n_stages = (uint32_t)json_object_array_length(stages);
    if (a->n_stages == 0) return cake_fail(err, CAKE_EPROTO, "an assignment without stages");
    for (uint32_t i = 0; st == CAKE_OK && i < a->n_stages; i++)
        st = read_stage(json_object_array_get_idx(stages, i), &a->stages[i], err);
    if (st == CAKE_OK) st = cake_json_string(o, "config", false, TEXT_MAX, &a->config, err);
    if (st == CAKE_OK) st = cake_json_string(o, "manifest", false, TEXT_MAX, &a->manifest, err);
    if (st == CAKE_OK) st = cake_json_string(o, "compute", true, 8, &compute, err);
    if (st == CAKE_OK) st = cake_json_string(o, "kv", true, 8, &kv, err);
    if (st == CAKE_OK) st = cake_json_bool(o, "collect", false, &a->collect, err);
    if (st == CAKE_OK) st = cake_json_string(o, "wire", true, 8, &wire, err);
    if (st == CAKE_OK)
        st = cake_json_u32(o, "context", true, 1, CAKE_ASSIGN_CONTEXT_MAX, &a->context, err);
    if (st == CAKE_OK)
        st = cake_json_u32(o, "sequences", true, 1, CAKE_ASSIGN_SEQS_MAX, &a->n_seqs, err);
    if (st == CAKE_OK)
        st = cake_json_u32(o, "blocks", true, 1, CAKE_ASSIGN_BLOCKS_MAX, &a->n_blocks, err);
    if (st == CAKE_OK) st = cake_json_u32(o, "rows", true, 1, CAKE_ROWS_MAX, &a->max_rows, err);
    if (st != CAKE_OK) return st;
    if (strcmp(compute, "f32") != 0 && strcmp(compute, "int8") != 0)
        return cake_fail(err, CAKE_EUNSUPPORTED, "unknown compute mode '%s'", compute);
    if (!cake_wire_type_parse(wire, &a->wire) || a->wire == CAKE_WIRE_NONE)
        return cake_fail(err, CAKE_EUNSUPPORTED, "unknown wire type '%s'", wire);
    if (!a->config != !a->manifest)
        return cake_fail(err, CAKE_EPROTO, "an assignment with only one of config and manifest");
    a->f32_mode = strcmp(compute, "f32") == 0;
    a->kv_q8 = strcmp(kv, "q8") == 0;
    if (strcmp(kv, "f32") == 0 ? !a->f32_mode
                               : a->f32_mode || (!a->kv_q8 && strcmp(kv, "f16") != 0))
        return cake_fail(err, CAKE_EUNSUPPORTED, "a KV cache in '%s' with compute mode '%s'", kv,
                         compute);
    a->owner = json_object_get(o);
    return CAKE_OK;
}

cake_status cake_control_read_stats(json_object *o, cake_stats_ask *a, cake_error *err) {
    *a = (cake_stats_ask){0};
    cake_status st = cake_json_u32(o, "unit", true, 0, CAKE_ASSIGN_UNITS_MAX - 1, &a->unit, err);
    return st == CAKE_OK ? get_text(o, "input", a->input, sizeof a->input, err) : st;
}

cake_status cake_control_read_need(json_object *o, cake_need *n, cake_error *err) {
    *n = (cake_need){0};
    json_object *ranges;
    cake_status st = get_u64(o, "transfer", &n->transfer, err);
    if (st == CAKE_OK) st = get_u64(o, "size", &n->size, err);
    if (st == CAKE_OK) st = cake_json_array(o, "ranges", true, CAKE_RANGES_MAX, &ranges, err);
    if (st == CAKE_OK) st = cake_ranges_from_json(&n->ranges, ranges, n->size, err);
    return st;
}

cake_status cake_control_read_status(json_object *o, cake_worker_status *s, cake_error *err) {
    *s = (cake_worker_status){0};
    const char *state = "";
    json_object *relayed;
    int64_t code = 0;
    cake_status st = cake_json_string(o, "state", true, 16, &state, err);
    if (st == CAKE_OK) st = get_u64(o, "done", &s->done, err);
    if (st == CAKE_OK) st = get_u64(o, "total", &s->total, err);
    if (st == CAKE_OK) st = get_u64(o, "reused", &s->reused_bytes, err);
    if (st == CAKE_OK) st = get_u64(o, "weights", &s->weight_bytes, err);
    if (st == CAKE_OK) st = get_u64(o, "kv", &s->kv_bytes, err);
    if (st == CAKE_OK) st = get_u64(o, "other", &s->other_bytes, err);
    if (st == CAKE_OK) st = cake_json_int(o, "code", true, CAKE_EUSAGE, 0, &code, err);
    if (st == CAKE_OK) st = get_text(o, "message", s->message, sizeof s->message, err);
    if (st == CAKE_OK)
        st = cake_json_array(o, "relayed", true, CAKE_ASSIGN_STAGES_MAX, &relayed, err);
    if (st != CAKE_OK) return st;
    s->code = (cake_status)code;
    for (size_t i = 0; i < json_object_array_length(relayed); i++)
        s->relayed[i] = json_object_get_boolean(json_object_array_get_idx(relayed, i));
    for (size_t i = 0; i < sizeof state_name / sizeof *state_name; i++)
        if (strcmp(state, state_name[i]) == 0) return s->state = (cake_worker_state)i, CAKE_OK;
    return cake_fail(err, CAKE_EPROTO, "unknown worker state");
}
