/* Plans as text and JSON: see plan_print.h. */
#include "master/plan/plan_print.h"
#include "common/cli/human.h"
#include "master/ui/table.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

const char *cake_plan_units_text(char *buf, uint32_t n_layers, uint32_t begin, uint32_t end) {
    enum { CAP = 64 };
    uint32_t lo = begin ? begin : 1, hi = end > n_layers + 1 ? n_layers + 1 : end;
    size_t at = 0;
    buf[0] = 0;
    if (begin == 0 && end > 0) at += (size_t)snprintf(buf + at, CAP - at, "embed");
    if (hi > lo + 1)
        at += (size_t)snprintf(buf + at, CAP - at, "%s%u-%u", at ? ", " : "", lo - 1, hi - 2);
    else if (hi > lo)
        at += (size_t)snprintf(buf + at, CAP - at, "%s%u", at ? ", " : "", lo - 1);
    if (end == n_layers + 2 && begin < end) snprintf(buf + at, CAP - at, "%shead", at ? ", " : "");
    return buf;
}

/* "12.3 tokens/s" with three digits; small machines have less than one. */
static const char *rate_text(char *buf, double tps) {
    snprintf(buf, CAKE_HUMAN_MAX, "%.*f tokens/s", tps < 9.995 ? 2 : tps < 99.95 ? 1 : 0, tps);
    return buf;
}

void cake_plan_print(const cake_plan_request *req, const cake_plan *plan, FILE *f) {
    static const char *const head[] = {"stage", "node",    "layers", "weights",
                                       "KV",    "compute", "network"};
    char a[CAKE_HUMAN_MAX], b[CAKE_HUMAN_MAX], units[64];
    cake_table *t = cake_table_new("rllrrrrl");
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) cake_table_add(t, "%s", head[i]);
    cake_table_add(t, "%s", "");
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const cake_plan_stage *s = &plan->stages[i];
        cake_table_add(t, "%u", i);
        cake_table_add(t, "%s", req->nodes[s->node].name);
        cake_table_add(t, "%s",
                       cake_plan_units_text(units, req->n_layers, s->unit_begin, s->unit_end));
        cake_table_add(t, "%s", cake_human_bytes(a, s->weight_bytes));
        cake_table_add(t, "%s", cake_human_bytes(a, s->kv_bytes));
        cake_table_add(t, "%s", cake_human_seconds(a, s->compute_s));
        cake_table_add(t, "%s", s->network_s > 0 ? cake_human_seconds(b, s->network_s) : "-");
        cake_table_add(t, "%s%s", s->relayed ? "through the master " : "",
                       plan->n_stages > 1 && i == plan->slowest_stage ? "slowest" : "");
    }
    cake_table_print(t, 0, f);
    cake_table_free(t);

    fputc('\n', f);
    t = cake_table_new("llrrl");
    static const char *const head2[] = {"node", "", "memory", "of", "why"};
    for (size_t i = 0; i < 5; i++) cake_table_add(t, "%s", head2[i]);
    for (uint32_t v = 0; v < plan->n_nodes; v++) {
        const cake_plan_node *n = &plan->nodes[v];
        cake_table_add(t, "%s", req->nodes[v].name);
        cake_table_add(t, "%s", n->used ? "used" : "left out");
        cake_table_add(t, "%s", n->used ? cake_human_bytes(a, n->total_bytes) : "-");
        cake_table_add(t, "%s", cake_human_bytes(b, n->available_bytes));
        cake_table_add(t, "%s", n->reason);
    }
    cake_table_print(t, 0, f);
    cake_table_free(t);

    fprintf(f, "\nexpected: %s for one stream (%s per token), ", rate_text(a, plan->decode_tps),
            cake_human_seconds(b, plan->token_s));
    fprintf(f, "%s with the pipeline full, ", rate_text(a, plan->full_tps));
    fprintf(f, "prompts at %s\n", rate_text(a, plan->prefill_tps));
    uint64_t weights = 0, kv = 0;
    for (uint32_t v = 0; v < plan->n_nodes; v++)
        weights += plan->nodes[v].weight_bytes, kv += plan->nodes[v].kv_bytes;
    fprintf(f, "memory:   weights %s, KV cache %s for %u positions", cake_human_bytes(a, weights),
            cake_human_bytes(b, kv), req->context);
    if (req->sequences > 1) fprintf(f, " x %u sequences", req->sequences);
    fprintf(f, "\ngoal:     %s%s\n", req->goal == CAKE_PLAN_LATENCY ? "latency" : "throughput",
            plan->exact ? "" : " (many nodes: their order was not searched)");
}

static void add(json_object *o, const char *key, json_object *v) {
    json_object_object_add(o, key, v);
}
static json_object *bytes(uint64_t n) {
    return json_object_new_uint64(n);
}
static json_object *number(double v) {
    char text[40];
    snprintf(text, sizeof text, "%.6g", v);
    return json_object_new_double_s(v, text);
}

void cake_plan_print_json(const cake_plan_request *req, const cake_plan *plan, FILE *f) {
    json_object *root = json_object_new_object(), *stages = json_object_new_array(),
                *nodes = json_object_new_array();
    char units[64];
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const cake_plan_stage *s = &plan->stages[i];
        json_object *o = json_object_new_object();
        uint32_t begin = s->unit_begin ? s->unit_begin - 1 : 0;
        uint32_t end = s->unit_end > req->n_layers + 1 ? req->n_layers
                       : s->unit_end                   ? s->unit_end - 1
                                                       : 0;
        add(o, "node", json_object_new_string(req->nodes[s->node].name));
        add(o, "id", json_object_new_string(req->nodes[s->node].id ? req->nodes[s->node].id : ""));
        add(o, "units",
            json_object_new_string(
                cake_plan_units_text(units, req->n_layers, s->unit_begin, s->unit_end)));
        add(o, "embedding", json_object_new_boolean(s->unit_begin == 0));
        add(o, "layer_begin", json_object_new_int64(begin));
        add(o, "layer_end", json_object_new_int64(end < begin ? begin : end));
        add(o, "head", json_object_new_boolean(s->unit_end == req->n_layers + 2));
        add(o, "weight_bytes", bytes(s->weight_bytes));
        add(o, "kv_bytes", bytes(s->kv_bytes));
        add(o, "compute_s", number(s->compute_s));
        add(o, "network_s", number(s->network_s));
        add(o, "relayed", json_object_new_boolean(s->relayed));
        add(o, "slowest", json_object_new_boolean(i == plan->slowest_stage));
        json_object_array_add(stages, o);
    }
    for (uint32_t v = 0; v < plan->n_nodes; v++) {
        const cake_plan_node *n = &plan->nodes[v];
        json_object *o = json_object_new_object();
        add(o, "name", json_object_new_string(req->nodes[v].name));
        add(o, "id", json_object_new_string(req->nodes[v].id ? req->nodes[v].id : ""));
        add(o, "local", json_object_new_boolean(req->nodes[v].is_local));
        add(o, "used", json_object_new_boolean(n->used));
        add(o, "weight_bytes", bytes(n->weight_bytes));
        add(o, "kv_bytes", bytes(n->kv_bytes));
        add(o, "scratch_bytes", bytes(n->scratch_bytes));
        add(o, "total_bytes", bytes(n->total_bytes));
        add(o, "available_bytes", bytes(n->available_bytes));
        add(o, "compute_s", number(n->compute_s));
        add(o, "reason", json_object_new_string(n->reason));
        json_object_array_add(nodes, o);
    }
    add(root, "goal",
        json_object_new_string(req->goal == CAKE_PLAN_LATENCY ? "latency" : "throughput"));
    add(root, "context", json_object_new_int64(req->context));
    add(root, "sequences", json_object_new_int64(req->sequences ? req->sequences : 1));
    add(root, "stages", stages);
    add(root, "nodes", nodes);
    add(root, "workers_used", json_object_new_int64(plan->n_workers));
    add(root, "return_s", number(plan->return_s));
    add(root, "token_s", number(plan->token_s));
    add(root, "decode_tokens_per_s", number(plan->decode_tps));
    add(root, "full_tokens_per_s", number(plan->full_tps));
    add(root, "prefill_tokens_per_s", number(plan->prefill_tps));
    add(root, "exact", json_object_new_boolean(plan->exact));
    fprintf(f, "%s\n",
            json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN |
                                                     JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(root);
}
