/* Import of arbitrary stored bytes: any spec that is called valid must pack within its size and
 * decode to what the stored stream says, and a matmul over it must not crash. */
#include "tests/unit/matmul_data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 6) return 0;
    cake_wspec s = {.kind = (cake_wkind)(data[0] % 3),
                    .ftype = (cake_ftype)(data[1] % 4),
                    .bits = data[2] % 10,
                    .group = data[3] % 9 * 16u,
                    .n = data[4] % 40,
                    .k = data[5]};
    if (s.kind == CAKE_W_AFFINE) s.k = data[5] % 9 * 32;
    if (!cake_wspec_valid(&s)) return 0;
    data += 6, size -= 6;
    size_t wb = cake_stored_row_bytes(&s) * s.n, sb = cake_stored_scale_row_bytes(&s) * s.n;
    md_matrix m = {.spec = s, .mem = malloc(wb + 2 * sb)};
    if (!m.mem) abort();
    for (size_t i = 0; i < wb + 2 * sb; i++) m.mem[i] = size ? data[i % size] : 0;
    m.weight = m.mem, m.scales = m.mem + wb, m.biases = m.scales + sb;
    md_pack(&m);
    float row[256], y[40];
    for (uint32_t r = 0; r < s.n; r++) {
        cake_mat_row(&m.mat, r, row);
        for (uint32_t k = 0; k < s.k; k++) {
            float want = md_weight(&m, r, k);
            if (memcmp(&row[k], &want, 4) != 0 && !(isnan(row[k]) && isnan(want))) abort();
        }
    }
    static void *scratch;
    if (!scratch) scratch = md_aligned(cake_matmul_scratch_bytes());
    md_act a = md_act_new(s.k, 1, cake_matmul_for(cake_cpu_isa()), NULL, 0);
    for (int f32 = 0; f32 < 2; f32++)
        cake_matmul(&m.mat, &a.act, f32, y, 40, 0, cake_tiles(&s), scratch);
    md_act_free(&a);
    md_free(&m);
    return 0;
}
