/* Print one digest line per (case, ISA) of the matmul family. tests/integration/neon.sh runs this
 * here and, cross-compiled, under qemu, and compares: lines of one case must agree whatever the
 * ISA. */
#include "tests/unit/matmul_data.h"

static uint64_t fnv(uint64_t h, const void *p, size_t n) {
    for (const uint8_t *b = p; n--; b++) h = (h ^ *b) * 0x100000001b3ull;
    return h;
}

static void one_case(cake_wspec s, uint32_t n_tok, bool f32_mode, void *scratch) {
    static float y[70 * 50];
    md_matrix m = md_new(s);
    md_act in = md_act_new(s.k, n_tok, NULL, NULL, 0);
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
        const cake_matmul_ops *ops = cake_matmul_for((cake_isa)isa);
        if (!ops) continue;
        md_act a = md_act_new(s.k, n_tok, ops, in.act.x, in.act.ldx);
        ops->matmul(&m.mat, &a.act, f32_mode, y, s.n, 0, cake_tiles(&s), scratch);
        uint64_t h = fnv(0xcbf29ce484222325ull, y, sizeof(float) * n_tok * s.n);
        if (!f32_mode && s.kind != CAKE_W_DENSE)
            h = fnv(h, a.act.sum64, sizeof(float) * ((s.k + 63) / 64) * n_tok);
        if (!f32_mode && s.kind != CAKE_W_DENSE)
            h = fnv(h, a.act.neg16, sizeof(int32_t) * 2 * ((s.k + 31) / 32) * n_tok);
        printf("kind%d-c%d-fp%d-b%u-g%u-t%d-n%u-k%u-tok%u-f32%d %s %016llx\n", (int)s.kind,
               (int)s.codec, (int)s.fp, s.bits, s.group, (int)s.ftype, s.n, s.k, n_tok, f32_mode,
               cake_isa_name((cake_isa)isa), (unsigned long long)h);
        md_act_free(&a);
    }
    md_act_free(&in);
    md_free(&m);
}

int main(void) {
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    static const uint32_t ks[] = {1, 3, 6, 172, 261}, toks[] = {1, 5, 66};
    void *scratch = md_aligned(cake_matmul_scratch_bytes());
    for (int t = 0; t < CAKE_FTYPE_COUNT; t++)
        for (size_t n = 0; n < 3; n++) {
            for (size_t b = 0; b < 6; b++)
                for (size_t g = 0; g < 3; g++)
                    for (int f32 = 0; f32 < 2; f32++)
                        one_case(MD_AFFINE((cake_ftype)t, widths[b], groups[g], 35, groups[g] * 3),
                                 toks[n], f32, scratch);
            for (size_t k = 0; k < 5; k++)
                one_case(MD_DENSE((cake_ftype)t, 35, ks[k]), toks[n], true, scratch);
        }
    for (int which = 0; which < MD_BLOCKS; which++)
        for (size_t n = 0; n < 3; n++)
            for (uint32_t k = 0; k < 2; k++)
                for (int f32 = 0; f32 < 2; f32++)
                    one_case(md_block_spec(which, 35, k ? 1024 : md_block_columns(which) * 3),
                             toks[n], f32, scratch);
    free(scratch);
    return 0;
}
