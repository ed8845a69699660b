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
    if (c.n_heads % c.n_kv_heads || c.head_dim % 8 || c.head_dim > 256 || !c.vocab || !c.ff)
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
