/* What the matmul family makes of stored bytes, for tests/reference/check_kernels.py.
 *
 *   matmul_peer FORMAT N K N_TOK <in >out
 *
 * FORMAT: a codec's name; "mlx:" and an fp mode; "affine:BITS:GROUP" (bf16 scales). In: the stored
 * rows of weights, of scales and of biases, as many as the format has; then x, f32 [N_TOK][K].
 * Out, f32: the decoded weights [N][K]; y [N_TOK][N] in f32 mode; y in int8 mode. */
#include "tests/unit/matmul_data.h"

static bool parse(const char *name, cake_wspec *s) {
    if (strncmp(name, "mlx:", 4) == 0) {
        s->kind = CAKE_W_FP;
        return cake_fp_parse(name + 4, &s->fp);
    }
    if (sscanf(name, "affine:%u:%u", &s->bits, &s->group) == 2) {
        s->kind = CAKE_W_AFFINE, s->ftype = CAKE_BF16;
        return true;
    }
    s->kind = CAKE_W_BLOCK;
    return cake_codec_parse(name, &s->codec);
}

int main(int argc, char **argv) {
    cake_wspec s = {.kind = CAKE_W_BLOCK};
    if (argc != 5 || !parse(argv[1], &s)) return 2;
    s.n = (uint32_t)atoi(argv[2]), s.k = (uint32_t)atoi(argv[3]);
    uint32_t n_tok = (uint32_t)atoi(argv[4]);
    if (!cake_wspec_valid(&s) || n_tok == 0 || n_tok > 64 || s.n > 4096 || s.k > 4096) return 2;
    md_matrix m = md_new(s);
    size_t wb = cake_stored_row_bytes(&s) * s.n, sb = cake_stored_scale_row_bytes(&s) * s.n;
    float *x = md_aligned(sizeof *x * n_tok * s.k), *y = md_aligned(sizeof *y * n_tok * s.n);
    float *row = md_aligned(sizeof *row * s.k);
    void *scratch = md_aligned(cake_matmul_scratch_bytes());
    if (fread(m.weight, 1, wb, stdin) != wb || fread(m.scales, 1, sb, stdin) != sb) return 1;
    if (s.kind == CAKE_W_AFFINE && fread(m.biases, 1, sb, stdin) != sb) return 1;
    if (fread(x, sizeof *x * s.k, n_tok, stdin) != n_tok) return 1;
    free(m.packed);
    md_pack(&m);
    for (uint32_t r = 0; r < s.n; r++) {
        cake_mat_row(&m.mat, r, row);
        fwrite(row, sizeof *row, s.k, stdout);
    }
    md_act a = md_act_new(s.k, n_tok, cake_matmul_for(cake_cpu_isa()), x, s.k);
    for (int f32 = 1; f32 >= 0; f32--) {
        cake_matmul(&m.mat, &a.act, f32, y, s.n, 0, cake_tiles(&s), scratch);
        fwrite(y, sizeof *y * s.n, n_tok, stdout);
    }
    md_act_free(&a);
    md_free(&m);
    free(x), free(y), free(row), free(scratch);
    return fflush(stdout) != 0;
}
