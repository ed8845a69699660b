/* Packed weights: validity and sizes, the documented layout, exact import from any alignment,
 * padding, parallel ranges, and decoding of rows, against a decoder that reads the stored stream
 * bit by bit. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/matmul_data.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))
static const uint32_t widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
static const cake_ftype ftypes[] = {CAKE_F16, CAKE_BF16, CAKE_F32};

static void test_valid(void **state) {
    (void)state;
    const cake_wspec good = MD_AFFINE(CAKE_BF16, 4, 64, 48, 192);
    assert_true(cake_wspec_valid(&good));
#define BAD(field, value)                                                                          \
    do {                                                                                           \
        cake_wspec s = good;                                                                       \
        s.field = value;                                                                           \
        assert_false(cake_wspec_valid(&s));                                                        \
    } while (0)
    BAD(kind, (cake_wkind)77);
    BAD(ftype, CAKE_FTYPE_COUNT);
    BAD(bits, 0);
    BAD(bits, 1);
    BAD(bits, 7);
    BAD(bits, 9);
    BAD(group, 0);
    BAD(group, 16);
    BAD(group, 256);
    BAD(n, 0);
    BAD(n, CAKE_W_MAX_N + 1);
    BAD(k, 0);
    BAD(k, 96);
    BAD(k, CAKE_W_MAX_K + 64);
    const cake_wspec dense = MD_DENSE(CAKE_F32, 1, 1),
                     wide = MD_DENSE(CAKE_F32, CAKE_W_MAX_N, CAKE_W_MAX_K);
    assert_true(cake_wspec_valid(&dense));
    assert_true(cake_wspec_valid(&wide));
    assert_true(cake_packed_bytes(&wide) == (size_t)CAKE_W_MAX_N * CAKE_W_MAX_K * 4);
}

static void test_sizes(void **state) {
    (void)state;
    for (size_t b = 0; b < COUNT(widths); b++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t f = 0; f < COUNT(ftypes); f++) {
                cake_wspec s = MD_AFFINE(ftypes[f], widths[b], groups[g], 64, 384);
                size_t stored = 64 * (384 * widths[b] / 8 +
                                      2 * (384 / groups[g]) * cake_ftype_bytes(ftypes[f]));
                assert_int_equal(
                    64 * (cake_stored_row_bytes(&s) + 2 * cake_stored_scale_row_bytes(&s)), stored);
                assert_int_equal(cake_packed_bytes(&s), stored);
                s.n = 65;
                assert_int_equal(cake_packed_bytes(&s), stored / 4 * 5);
                assert_int_equal(cake_packed_bytes(&s) % 64, 0);
            }
    cake_wspec d = MD_DENSE(CAKE_F16, 17, 3);
    assert_int_equal(cake_packed_bytes(&d), 2 * 128);
}

/* The layout of matmul.h, spelled out again from its text. */
static void test_layout(void **state) {
    (void)state;
    for (size_t b = 0; b < COUNT(widths); b++) {
        cake_wspec s = MD_AFFINE(CAKE_F16, widths[b], 64, 16, 128);
        md_matrix m = md_new(s);
        const uint8_t *p = m.packed;
        for (uint32_t g = 0; g < 2; g++) {
            for (uint32_t h = 0; h < 2; h++, p += 64 * s.bits)
                for (uint32_t row = 0; row < 16; row++)
                    for (uint32_t t = 0; t < 4; t++) {
                        uint32_t c[8], at = row * 4 + t;
                        for (uint32_t j = 0; j < 8; j++)
                            c[j] = md_code(&m, row, g * 64 + h * 32 + 4 * j + t);
                        uint32_t v[8] = {0};
                        switch (s.bits) {
                        case 8: memcpy(v, c, sizeof v); break;
                        case 2:
                            for (int i = 0; i < 2; i++)
                                v[i] = c[i] | c[i + 2] << 2 | c[i + 4] << 4 | c[i + 6] << 6;
                            break;
                        case 4:
                            for (int i = 0; i < 4; i++) v[i] = c[i] | c[i + 4] << 4;
                            break;
                        case 3: {
                            uint32_t e[3] = {c[6] & 3, c[7] & 3, c[6] >> 2 | (c[7] >> 2) << 1};
                            for (int i = 0; i < 3; i++) v[i] = c[i] | c[i + 3] << 3 | e[i] << 6;
                            break;
                        }
                        case 5: {
                            uint32_t e[5] = {c[5] & 7, c[6] & 7, c[7] & 7,
                                             c[5] >> 3 | (c[7] >> 3 & 1) << 2,
                                             c[6] >> 3 | (c[7] >> 4) << 2};
                            for (int i = 0; i < 5; i++) v[i] = c[i] | e[i] << 5;
                            break;
                        }
                        default: {
                            uint32_t e[6] = {c[6] & 3, c[6] >> 2 & 3, c[6] >> 4,
                                             c[7] & 3, c[7] >> 2 & 3, c[7] >> 4};
                            for (int i = 0; i < 6; i++) v[i] = c[i] | e[i] << 6;
                        }
                        }
                        for (uint32_t i = 0; i < s.bits; i++)
                            assert_int_equal(p[i * 64 + at], v[i]);
                    }
            for (uint32_t row = 0; row < 16; row++) {
                assert_memory_equal(p + row * 2, m.scales + (row * 2 + g) * 2, 2);
                assert_memory_equal(p + 32 + row * 2, m.biases + (row * 2 + g) * 2, 2);
            }
            p += 64;
        }
        assert_ptr_equal(p, (uint8_t *)m.packed + cake_packed_bytes(&s));
        md_free(&m);
    }
}

static void check_matrix(cake_wspec s) {
    md_matrix m = md_new(s);
    size_t tile_bytes = cake_packed_tile_bytes(&s);
    uint32_t tiles = cake_tiles(&s);
    float row[1280], want[1280];
    assert_true(s.k <= COUNT(row));
    for (uint32_t r = 0; r < s.n; r++) {
        cake_mat_row(&m.mat, r, row);
        md_row(&m, r, want);
        for (uint32_t k = 0; k < s.k; k++)
            if (memcmp(&row[k], &want[k], 4) != 0)
                fail_msg("kind %d codec %d fp %d bits %u group %u type %d row %u col %u: %a, want "
                         "%a",
                         (int)s.kind, (int)s.codec, (int)s.fp, s.bits, s.group, (int)s.ftype, r, k,
                         (double)row[k], (double)want[k]);
    }
    /* Rows past n decode to zero. */
    for (uint32_t r = s.n; r < tiles * 16; r++) {
        cake_mat_row(&m.mat, r, row);
        for (uint32_t k = 0; k < s.k; k++) assert_true(row[k] == 0.0f);
    }
    /* One tile at a time: the same bytes, and nothing else written. */
    uint8_t *p = md_aligned(tiles * tile_bytes), *untouched = md_aligned(tile_bytes);
    memset(untouched, 0x5a, tile_bytes);
    cake_wstored st = md_stored(&m);
    for (uint32_t t = tiles; t-- > 0;) {
        memset(p, 0x5a, tiles * tile_bytes);
        cake_pack_tiles(&s, &st, p, t, t + 1);
        for (uint32_t i = 0; i < tiles; i++)
            assert_memory_equal(p + i * tile_bytes,
                                i == t ? (uint8_t *)m.packed + i * tile_bytes : untouched,
                                tile_bytes);
    }
    free(p), free(untouched);
    md_free(&m);
}

static void test_import(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 15, 16, 17, 40}, ks[] = {1, 2, 3, 7, 16, 33, 172};
    for (size_t r = 0; r < COUNT(rows); r++)
        for (size_t f = 0; f < COUNT(ftypes); f++) {
            for (size_t b = 0; b < COUNT(widths); b++)
                for (size_t g = 0; g < COUNT(groups); g++)
                    for (uint32_t n_groups = 1; n_groups <= 5; n_groups += 2)
                        check_matrix(MD_AFFINE(ftypes[f], widths[b], groups[g], rows[r],
                                               groups[g] * n_groups));
            for (size_t k = 0; k < COUNT(ks); k++)
                check_matrix(MD_DENSE(ftypes[f], rows[r], ks[k]));
        }
}

static void test_import_blocks(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 15, 16, 17, 40};
    for (int which = 0; which < MD_BLOCKS; which++)
        for (size_t r = 0; r < COUNT(rows); r++)
            for (uint32_t blocks = 1; blocks <= 5; blocks++)
                check_matrix(md_block_spec(which, rows[r], md_block_columns(which) * blocks));
}

/* `n` random bytes that end where their heap block does, at an odd address. */
static uint8_t *random_bytes(size_t n, void **mem) {
    uint8_t *p = malloc(n + 1);
    assert_non_null(p);
    *mem = p++;
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(md_random() >> 20);
    return p;
}

/* Every instruction set: the bytes of the scalar one, whatever is stored; nothing else read (under
 * a sanitizer) or written. */
static void check_isas(cake_wspec s) {
    const size_t scales = cake_stored_scale_row_bytes(&s) * s.n, n = cake_packed_bytes(&s);
    void *mem[3];
    const uint8_t *w = random_bytes(cake_stored_row_bytes(&s) * s.n, &mem[0]);
    const uint8_t *sc = random_bytes(scales, &mem[1]), *bi = random_bytes(scales, &mem[2]);
    const cake_wstored st = {w, sc, bi};
    uint8_t *want = md_aligned(n), *got = md_aligned(n + 64);
    cake_pack_tiles_for(CAKE_ISA_SCALAR, &s, &st, want, 0, cake_tiles(&s));
    for (int isa = 1; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_cpu_has((cake_isa)isa)) continue;
        memset(got, 0x5a, n + 64);
        cake_pack_tiles_for((cake_isa)isa, &s, &st, got, 0, cake_tiles(&s));
        for (size_t i = 0; i < n + 64; i++)
            if (got[i] != (i < n ? want[i] : 0x5a))
                fail_msg("%s kind %d codec %d fp %d bits %u group %u type %d n %u k %u: byte %zu "
                         "is %02x, want %02x",
                         cake_isa_name((cake_isa)isa), (int)s.kind, (int)s.codec, (int)s.fp, s.bits,
                         s.group, (int)s.ftype, s.n, s.k, i, got[i], i < n ? want[i] : 0x5a);
    }
    free(want), free(got);
    for (int i = 0; i < 3; i++) free(mem[i]);
}

static void test_isas(void **state) {
    (void)state;
    for (uint32_t n = 15; n <= 33; n += 9)
        for (uint32_t i = 1; i <= 17; i++) {
            for (size_t f = 0; f < COUNT(ftypes); f++) {
                for (size_t b = 0; b < COUNT(widths); b++)
                    for (size_t g = 0; g < COUNT(groups); g++)
                        check_isas(MD_AFFINE(ftypes[f], widths[b], groups[g], n, groups[g] * i));
                check_isas(MD_DENSE(ftypes[f], n, i * i));
            }
            for (int which = 0; which < MD_BLOCKS; which++)
                check_isas(md_block_spec(which, n, md_block_columns(which) * i));
        }
}

/* Packed size: at most 1.04 of the stored one. A short last unit has a whole head, which shows in
 * rows of a few hundred columns only. */
static void test_block_sizes(void **state) {
    (void)state;
    for (int which = 0; which < MD_BLOCKS; which++)
        for (uint32_t k = 256; k <= 8192; k += 256) {
            cake_wspec s = md_block_spec(which, 64, k);
            assert_true(cake_wspec_valid(&s));
            size_t stored = 64 * (cake_stored_row_bytes(&s) + cake_stored_scale_row_bytes(&s));
            assert_true(cake_packed_bytes(&s) % 64 == 0);
            assert_true(cake_packed_bytes(&s) * 100 <= stored * 104);
            s.k++;
            assert_false(cake_wspec_valid(&s));
        }
    assert_false(cake_wspec_valid(&MD_BLOCK(CAKE_CODEC_COUNT, 1, 256)));
    assert_false(cake_wspec_valid(&MD_FP(CAKE_FP_COUNT, 1, 256)));
}

/* The worked example of formats.md 2.4: one group of 32 at every width, written by mx.quantize. */
static void test_worked_example(void **state) {
    (void)state;
    static const struct {
        uint32_t bits;
        const char *hex;
        uint16_t bf16, f16;
        double scale;
        uint8_t first[8];
    } v[] = {
        {2, "3f94fa4fa9ff54fa", 0xbea0, 0xb500, -0.3125, {3, 3, 3, 0, 0, 1, 1, 2}},
        {3, "fe1169acfd271a5bff8846d6", 0xbe20, 0xb100, -0.15625, {6, 7, 7, 0, 1, 2, 2, 3}},
        {4,
         "dc0f3265a8dbfe316498cbfe216497ca",
         0xbda0,
         0xad00,
         -0.078125,
         {12, 13, 15, 0, 2, 3, 5, 6}},
        {5,
         "577b308c6a705addbf30893d6933ffa2a0e564c5",
         0xbd20,
         0xa900,
         -0.0390625,
         {23, 26, 30, 0, 3, 6, 10, 13}},
        {6,
         "ed9c030633655fb9cab85f2cd1d5912a6cf34302599c88ba",
         0xbca5,
         0xa529,
         -0.02016128972172737,
         {45, 51, 57, 0, 6, 12, 19, 25}},
        {8,
         "b8d2eb0019334c667f98b2cbe5fe132c465f7992abc5def80d264059728ca5be",
         0xbba1,
         0x9d0a,
         -0.0049212598241865635,
         {184, 210, 235, 0, 25, 51, 76, 102}},
    };
    for (size_t i = 0; i < COUNT(v); i++)
        for (int half = 0; half < 2; half++) {
            uint8_t bytes[32], packed[8 * 64 + 64] __attribute__((aligned(64)));
            for (size_t b = 0; b < v[i].bits * 4; b++) {
                char two[3] = {v[i].hex[2 * b], v[i].hex[2 * b + 1], 0};
                bytes[b] = (uint8_t)strtoul(two, NULL, 16);
            }
            cake_wspec s = MD_AFFINE(half ? CAKE_F16 : CAKE_BF16, v[i].bits, 32, 1, 32);
            uint16_t sc = half ? v[i].f16 : v[i].bf16, bi = half ? 0x3900 : 0x3f20;
            uint8_t sc_bytes[4] = {(uint8_t)sc, (uint8_t)(sc >> 8)};
            cake_wstored st = {bytes, &sc, &bi};
            assert_true(cake_packed_bytes(&s) <= sizeof packed);
            cake_pack_tiles(&s, &st, packed, 0, 1);
            cake_mat m = {s, packed};
            float row[32], scale = (float)md_stored_float(sc_bytes, s.ftype);
            cake_mat_row(&m, 0, row);
            for (int c = 0; c < 8; c++) assert_true(row[c] == scale * v[i].first[c] + 0.625f);
            /* Rule 7 of formats.md 2.4 with the scale before rounding gives every code. */
            for (int c = 0; c < 32; c++) {
                double w = ((37 * c + 11) % 41 - 20) / 32.0;
                double code = nearbyintf((float)(w - 0.625) / (float)v[i].scale),
                       top = (1 << v[i].bits) - 1;
                code = code < 0 ? 0 : code > top ? top : code;
                assert_true(row[c] == scale * (float)code + 0.625f);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),          cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_layout),         cmocka_unit_test(test_import),
        cmocka_unit_test(test_worked_example), cmocka_unit_test(test_import_blocks),
        cmocka_unit_test(test_isas),           cmocka_unit_test(test_block_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
