/* Proof at load time that this machine computes what every other one does. */
#ifndef CAKE_WORKER_ENGINE_SELFTEST_H
#define CAKE_WORKER_ENGINE_SELFTEST_H

#include "kernels/attn.h"
#include "worker/engine/weights.h"

/* For each weight format among w: multiply the first tile of one matrix with a fixed pseudo-random
 * vector, by the chosen instruction set and by the scalar kernel. CAKE_EUNSUPPORTED when one bit
 * differs (a broken CPU, build or memory): the node must not serve. Takes milliseconds. */
cake_status cake_self_test(const cake_weights *w, bool f32_mode, cake_error *err);

/* The same for attention with the shape of one kv head and its form of KV cache. */
cake_status cake_self_test_attn(const cake_attn_spec *s, cake_error *err);

#endif
