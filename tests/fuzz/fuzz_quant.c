/* Any bytes as the quantization block of a config.json, in each of the places where one may be.
 * What is accepted keeps the bounds that layout and loader rely on. */
#include "common/json.h"
#include "common/model/quant.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const cake_quant_params *p) {
    if (p->mode == CAKE_QUANT_KQUANT) {
        const cake_block_info *b = cake_block_get(p->codec);
        if (!b || !b->weights || !b->bytes || p->group_size != b->weights) abort();
    } else if (p->bits < 2 || p->bits > 8 || p->bits == 7 || p->group_size < 16 ||
               p->group_size > 128 || p->group_size % 16) {
        abort();
    }
}

static void look(const cake_quant *q, const char *path) {
    cake_quant_params p = {0};
    cake_quant_rule rule = cake_quant_lookup(q, path, &p);
    if (rule == CAKE_QUANT_GLOBAL || rule == CAKE_QUANT_LISTED) check(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const place[] = {"quantization", "quantization_config", "text_config"};
    cake_error err = {0};
    json_object *block;
    if (cake_json_parse((const char *)data, size, 16, "input", &block, &err) != CAKE_OK) {
        if (!err.msg[0]) abort();
        return 0;
    }
    for (size_t i = 0; i < 3; i++) {
        json_object *config = json_object_new_object();
        json_object_object_add(config, place[i], json_object_get(block));
        cake_quant *q;
        err = (cake_error){0};
        if (cake_quant_parse(config, &q, &err) == CAKE_OK) {
            look(q, "model.layers.0.self_attn.q_proj");
            look(q, "lm_head");
            look(q, "");
            if (json_object_is_type(block, json_type_object)) {
                json_object_object_foreach(block, key, value) {
                    look(q, key);
                    (void)value;
                }
            }
            for (const char *const *k = cake_quant_ignored_keys(q); *k; k++) look(q, *k);
            cake_quant_free(q);
        } else if (!err.msg[0]) {
            abort();
        }
        json_object_put(config);
    }
    json_object_put(block);
    return 0;
}
