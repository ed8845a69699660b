/* The model a master serves: see model.h. */
#include "master/model/model.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/embed.h"

#include <stdlib.h>
#include <string.h>

cake_status cake_model_open(cake_model *m, const char *arg, cake_error *err) {
    *m = (cake_model){0};
    cake_status st = cake_model_resolve(arg, &m->path, err);
    if (st == CAKE_OK) st = cake_checkpoint_open(&m->checkpoint, m->path, err);
    if (st == CAKE_OK) {
        const char *path = m->checkpoint->config_path;
        st = cake_checkpoint_config(m->checkpoint, &m->config_text, &m->config_len, err);
        if (st == CAKE_ENOTFOUND)
            cake_fail(
                err, st,
                "'%s' has no config.json; --model wants a checkpoint folder in Hugging Face or "
                "MLX form, or a GGUF file",
                m->path);
        if (st == CAKE_OK)
            st = cake_config_parse(&m->config, m->config_text, m->config_len, path, err);
    }
    if (st == CAKE_OK) st = cake_layout_new(&m->layout, &m->config, m->checkpoint, NULL, 0, err);
    for (uint32_t i = 0; st == CAKE_OK && i < m->checkpoint->n_warnings; i++)
        cake_log(CAKE_LOG_WARN, "event=checkpoint_warning text=\"%s\"", m->checkpoint->warnings[i]);
    if (st == CAKE_OK && m->layout->n_bare && !m->checkpoint->config_text)
        cake_log(CAKE_LOG_WARN,
                 "event=checkpoint_warning text=\"%u quantized modules lack the one-byte .scales "
                 "that mlx-kquant writes\"",
                 m->layout->n_bare);
    if (st != CAKE_OK) cake_model_close(m);
    return st;
}

void cake_model_close(cake_model *m) {
    cake_layout_free(m->layout);
    if (m->config.quant) cake_config_deinit(&m->config);
    cake_checkpoint_close(m->checkpoint);
    free(m->config_text);
    free(m->path);
    *m = (cake_model){0};
}

/* A token reads and multiplies with top_k experts of a layer, however many it holds. */
static uint64_t idle_bytes(const cake_model *m, uint32_t unit) {
    const cake_moe_config *moe = &m->config.moe;
    uint64_t bytes = 0;
    for (uint32_t j = 0; j < m->layout->units[unit].n_modules; j++) {
        const cake_module *mod = &m->layout->units[unit].modules[j];
        if (mod->role < CAKE_ROLE_EXPERT_GATE || mod->role > CAKE_ROLE_EXPERT_DOWN) continue;
        const int32_t t[] = {mod->weight, mod->scales, mod->biases};
        for (size_t i = 0; i < 3; i++)
            if (t[i] >= 0) bytes += m->checkpoint->tensors[t[i]].n_bytes;
    }
    return bytes ? bytes / moe->n_experts * (moe->n_experts - moe->top_k) : 0;
}

static uint64_t macs_of(const cake_model *m, uint32_t unit) {
    const cake_moe_config *moe = &m->config.moe;
    uint64_t macs = 0;
    for (uint32_t j = 0; j < m->layout->units[unit].n_modules; j++) {
        const cake_module *mod = &m->layout->units[unit].modules[j];
        bool expert = mod->role >= CAKE_ROLE_EXPERT_GATE && mod->role <= CAKE_ROLE_EXPERT_DOWN;
        if (expert && mod != cake_layout_expert(m->layout, unit, mod->role, 0)) continue;
        if (mod->n > 1) macs += (uint64_t)mod->n * mod->k * (expert ? moe->top_k : 1);
    }
    return macs;
}

cake_status cake_model_units(const cake_model *m, uint32_t sequences, uint32_t context,
                             uint32_t max_rows, bool f32_mode, bool kv_q8, cake_plan_unit **out,
                             cake_error *err) {
    uint32_t n_units = m->config.n_layers + 2;
    cake_plan_unit *u = cake_calloc(n_units, sizeof *u);
    uint64_t kv = cake_embed_kv_block_bytes(&m->config, f32_mode, kv_q8) / CAKE_EMBED_KV_BLOCK;
    uint32_t blocks = sequences * (context / CAKE_EMBED_KV_BLOCK + 1);
    for (uint32_t i = 0; i < n_units; i++) {
        cake_embed_need need;
        cake_status st = cake_embed_measure(m->layout, i, i + 1, sequences, context, blocks,
                                            max_rows, 1, &need, err);
        if (st != CAKE_OK) {
            free(u);
            return st;
        }
        uint64_t idle = idle_bytes(m, i);
        if (idle > need.weight_bytes) idle = need.weight_bytes;
        bool layer = i > 0 && i < n_units - 1, embed = i == 0;
        u[i] = (cake_plan_unit){.weight_bytes = need.weight_bytes,
                                .read_bytes = embed ? need.weight_bytes / m->config.vocab
                                                    : need.weight_bytes - idle,
                                .macs = embed ? m->config.hidden : macs_of(m, i),
                                .kv_bytes = layer ? kv : 0,
                                .scratch_bytes = need.scratch_bytes};
        if (i == n_units - 1)
            u[i].scratch_bytes +=
                (uint64_t)cake_logit_rows_max(m->config.vocab, max_rows) * m->config.vocab * 4;
    }
    *out = u;
    return CAKE_OK;
}

cake_status cake_model_context(const cake_model *m, int64_t asked, uint32_t *out, cake_error *err) {
    uint32_t own = m->config.max_positions ? m->config.max_positions : 4096;
    if (asked > own)
        return cake_fail(err, CAKE_EINVAL,
                         "--context %lld is above the %u positions the model was made for; "
                         "ask for less",
                         (long long)asked, own);
    *out = asked > 0 ? (uint32_t)asked : own < 4096 ? own : 4096;
    return CAKE_OK;
}
