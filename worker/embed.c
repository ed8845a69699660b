/* The embedded worker: see embed.h. */
#include "worker/embed.h"
#include "common/mem.h"
#include "kernels/attn.h"
#include "worker/engine/stage.h"
#include "worker/node/node.h"

#include <pthread.h>
#include <stdlib.h>

_Static_assert((int)CAKE_EMBED_KV_BLOCK == (int)CAKE_KV_BLOCK,
               "the planner counts the blocks the kernels use");

struct cake_embed {
    cake_serving *node;
    pthread_t thread;
};

static void *embed_main(void *arg) {
    cake_serving_run(arg);
    return NULL;
}

cake_status cake_embed_start(cake_embed **out, const cake_embed_options *o, cake_error *err) {
    cake_embed *e = cake_calloc(1, sizeof *e);
    cake_serving_options so = {.net = o->net,
                               .address = "inproc://cake-embedded",
                               .id = o->id,
                               .name = o->name,
                               .compute = {.local_model = o->model,
                                           .threads = o->threads,
                                           .memory_bytes = o->memory_bytes,
                                           .spin_us = o->spin_us}};
    cake_status st = cake_serving_new(&e->node, &so, err);
    if (st == CAKE_OK && pthread_create(&e->thread, NULL, embed_main, e->node) != 0) {
        cake_serving_free(e->node);
        st = cake_fail(err, CAKE_ENOMEM, "cannot start the embedded worker's thread");
    }
    if (st != CAKE_OK)
        free(e);
    else
        *out = e;
    return st;
}

void cake_embed_stop(cake_embed *e) {
    if (!e) return;
    cake_serving_stop(e->node);
    pthread_join(e->thread, NULL);
    cake_serving_free(e->node);
    free(e);
}

const char *cake_embed_address(const cake_embed *e) {
    return cake_serving_address(e->node);
}

cake_status cake_embed_measure(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end,
                               uint32_t n_seqs, uint32_t context, uint32_t kv_blocks,
                               uint32_t max_rows, unsigned threads, cake_embed_need *out,
                               cake_error *err) {
    cake_stage_options o = {.config = layout->config,
                            .layout = layout,
                            .unit_begin = unit_begin,
                            .unit_end = unit_end,
                            .n_seqs = n_seqs,
                            .context = context,
                            .kv_blocks = kv_blocks,
                            .max_rows = max_rows};
    cake_stage_memory m;
    cake_status st = cake_stage_measure(&o, threads, &m, err);
    if (st == CAKE_OK) *out = (cake_embed_need){m.weight_bytes, m.kv_bytes, m.scratch_bytes};
    return st;
}

uint64_t cake_embed_kv_block_bytes(const cake_model_config *c, bool f32_mode, bool kv_q8) {
    cake_attn_spec a = {.n_heads = c->n_heads,
                        .n_kv_heads = c->n_kv_heads,
                        .head_dim = c->head_dim,
                        .scale = 1,
                        .kv = f32_mode ? CAKE_KV_F32
                              : kv_q8  ? CAKE_KV_Q8
                                       : CAKE_KV_F16};
    return cake_kv_block_bytes(&a);
}
