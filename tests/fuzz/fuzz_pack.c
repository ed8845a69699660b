/* Import of arbitrary stored bytes: any spec that is called valid must pack within its size and
 * decode to what the stored stream says, and a matmul over it must not crash. */
#include "tests/unit/matmul_data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 6) return 0;
    cake_wspec s = {.kind = (cake_wkind)(data[0] % 5),
                    .ftype = (cake_ftype)(data[1] % 4),
                    .bits = data[2] % 10,
                    .group = data[3] % 9 * 16u,
                    .n = data[4] % 40,
                    .k = data[5],
                    .codec = (cake_codec)(data[2] % (CAKE_CODEC_COUNT + 1)),
                    .fp = (cake_fp_mode)(data[2] % (CAKE_FP_COUNT + 1))};
    if (s.kind == CAKE_W_AFFINE) s.k = data[5] % 9 * 32;
    if (s.kind == CAKE_W_BLOCK || s.kind == CAKE_W_FP) s.k = data[5] % 33 * 16;
    if (!cake_wspec_valid(&s)) return 0;
    data += 6, size -= 6;
    size_t wb = cake_stored_row_bytes(&s) * s.n, sb = cake_stored_scale_row_bytes(&s) * s.n;
    md_matrix m = {.spec = s, .mem = malloc(wb + 2 * sb)};
    if (!m.mem) abort();
    for (size_t i = 0; i < wb + 2 * sb; i++) m.mem[i] = size ? data[i % size] : 0;
    m.weight = m.mem, m.scales = m.mem + wb, m.biases = m.scales + sb;
    md_pack(&m);
    /* Tile by tile: the same bytes. */
    size_t tile = cake_packed_tile_bytes(&s), packed = cake_packed_bytes(&s);
    cake_wstored st = md_stored(&m);
    uint8_t *apart = md_aligned(packed);
    for (uint32_t t = cake_tiles(&s); t-- > 0;) cake_pack_tiles(&s, &st, apart, t, t + 1);
    if (memcmp(apart, m.packed, tile * cake_tiles(&s)) != 0) abort();
    free(apart);
    float row[512], stored[512], y[5 * 40], want[5 * 40];
    for (uint32_t r = 0; r < s.n; r++) {
        cake_mat_row(&m.mat, r, row);
        md_row(&m, r, stored);
        for (uint32_t k = 0; k < s.k; k++)
            if (memcmp(&row[k], &stored[k], 4) != 0 && !(isnan(row[k]) && isnan(stored[k])))
                abort();
    }
    static void *scratch;
    if (!scratch) scratch = md_aligned(cake_matmul_scratch_bytes());
    /* One token and several, on the best instruction set and the scalar one: the same bits. */
    for (int n_tok = 1; n_tok <= 5; n_tok += 4) {
        md_act a = md_act_new(s.k, (uint32_t)n_tok, cake_matmul_for(cake_cpu_isa()), NULL, 0);
        for (int f32 = 0; f32 < 2; f32++) {
            cake_matmul(&m.mat, &a.act, f32, y, 40, 0, cake_tiles(&s), scratch);
            cake_matmul_for(CAKE_ISA_SCALAR)
                ->matmul(&m.mat, &a.act, f32, want, 40, 0, cake_tiles(&s), scratch);
            for (int t = 0; t < n_tok; t++)
                for (uint32_t r = 0; r < s.n; r++) {
                    const float *p = &y[t * 40 + r], *q = &want[t * 40 + r];
                    if (memcmp(p, q, 4) != 0 && !(isnan(*p) && isnan(*q))) abort();
                }
        }
        md_act_free(&a);
    }
    md_free(&m);
    return 0;
}
