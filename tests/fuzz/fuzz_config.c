/* Any bytes as config.json. What is accepted keeps the bounds that the engine relies on. */
#include "common/model/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_model_config c;
    cake_error err = {0};
    if (cake_config_parse(&c, (const char *)data, size, "input", &err) != CAKE_OK) {
        if (!err.msg[0]) abort();
        return 0;
    }
    if (!c.hidden || !c.n_layers || c.n_layers > CAKE_LAYERS_MAX || !c.n_heads || !c.n_kv_heads ||
        !c.head_dim)
        abort();
    if (c.n_heads % c.n_kv_heads || c.head_dim % 8 || c.head_dim > 256 || !c.vocab) abort();
    const cake_moe_config *m = &c.moe;
    bool experts = false;
    for (uint32_t i = 0; i < CAKE_LAYERS_MAX; i++) {
        bool has = cake_config_has_experts(&c, i);
        if ((has && i >= c.n_layers) || (!has && i < c.n_layers && !c.ff)) abort();
        experts |= has;
    }
    if (experts != (m->n_experts > 0) || m->n_experts > CAKE_EXPERTS_MAX ||
        m->top_k > m->n_experts || m->top_k > CAKE_TOP_K_MAX || (experts && (!m->top_k || !m->ff)))
        abort();
    if (!(c.norm_eps > 0) || !(c.rope.theta >= 1) || !(c.rope.factor > 0) ||
        c.n_eos > CAKE_EOS_MAX || !c.quant)
        abort();
    cake_quant_params p = {0};
    if (cake_quant_lookup(c.quant, "model.layers.0.self_attn.q_proj", &p) == CAKE_QUANT_GLOBAL &&
        (!p.bits || !p.group_size))
        abort();
    cake_config_deinit(&c);
    return 0;
}
