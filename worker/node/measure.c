/* Start-up measurement: see measure.h. The matrix is larger than any cache share, so that n = 1 is
 * bound by memory as real decoding is; the best of a few passes stands for the undisturbed machine.
 */
#include "worker/node/measure.h"
#include "common/clock.h"
#include "common/mem.h"
#include "kernels/matmul.h"

#include <stdint.h>
#include <string.h>

enum { K = 4096, TILE_CHUNK = 16, BATCH = 64, PASSES = 4 };

typedef struct {
    const cake_mat *mat;
    const cake_act *act;
    float *y;
    uint8_t *scratch;
    size_t scratch_bytes;
    uint32_t n_tiles;
} job;

static void chunk(void *arg, size_t c, unsigned thread) {
    const job *j = arg;
    uint32_t begin = (uint32_t)c * TILE_CHUNK, end = begin + TILE_CHUNK;
    cake_matmul(j->mat, j->act, false, j->y, j->mat->spec.n, begin,
                end < j->n_tiles ? end : j->n_tiles, j->scratch + thread * j->scratch_bytes);
}

static double best_seconds(cake_pool *pool, job *j, int passes) {
    double best = 1e9;
    for (int i = 0; i < passes; i++) {
        uint64_t t0 = cake_now_ns();
        cake_pool_run(pool, (j->n_tiles + TILE_CHUNK - 1) / TILE_CHUNK, chunk, j);
        double s = (double)(cake_now_ns() - t0) * 1e-9;
        if (s < best) best = s;
    }
    return best > 1e-9 ? best : 1e-9;
}

void cake_measure_speed(cake_pool *pool, cake_speed *out) {
    *out = (cake_speed){.read_bw = 1e9, .ops = 1e9};
    cake_wspec spec = {
        .kind = CAKE_W_AFFINE, .ftype = CAKE_F16, .bits = 4, .group = 64, .n = 24576, .k = K};
    size_t packed_bytes = cake_packed_bytes(&spec), act_bytes = cake_act_bytes(K, BATCH);
    size_t scratch_bytes = cake_round_up(cake_matmul_scratch_bytes(), 64);
    size_t x_bytes = sizeof(float) * K * BATCH, y_bytes = sizeof(float) * spec.n * BATCH;
    size_t total =
        packed_bytes + act_bytes + scratch_bytes * cake_pool_threads(pool) + x_bytes + y_bytes;
    uint8_t *p = cake_pages_alloc(total), *at = p;
    if (!p) return;
    memset(p, 0x11,
           packed_bytes); /* any codes and small scales will do: the work does not depend on them */
    cake_mat mat = {spec, at};
    at += packed_bytes;
    uint8_t *act_mem = at;
    at += act_bytes;
    job j = {
        .mat = &mat, .scratch = at, .scratch_bytes = scratch_bytes, .n_tiles = cake_tiles(&spec)};
    at += scratch_bytes * cake_pool_threads(pool);
    float *x = (float *)(void *)at;
    at += x_bytes;
    j.y = (float *)(void *)at;
    for (size_t i = 0; i < (size_t)K * BATCH; i++) x[i] = (float)(i % 17) - 8.0f;
    cake_act act;
    j.act = &act;
    cake_act_init(&act, act_mem, x, K, K, 1);
    cake_act_quantize(&act, 0, 1);
    out->read_bw = (double)packed_bytes / best_seconds(pool, &j, PASSES);
    /* A fraction of the rows is enough where arithmetic is the limit. */
    mat.spec.n = 2048;
    j.n_tiles = cake_tiles(&mat.spec);
    cake_act_init(&act, act_mem, x, K, K, BATCH);
    cake_act_quantize(&act, 0, BATCH);
    out->ops = (double)mat.spec.n * K * BATCH / best_seconds(pool, &j, 2);
    cake_pages_free(p, total);
}
