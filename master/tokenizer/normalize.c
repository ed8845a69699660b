/* Normalizers: the Unicode forms over utf8proc, and the small text edits of tokenizer.json. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static cake_status no_memory(cake_error *err) {
    return cake_fail(err, CAKE_ENOMEM, "out of memory for normalizing a text");
}

/* Composed characters (below U+30000, all there are) that NFC leaves as they are. */
static uint8_t composed_stable[0x30000 / 8];

static void find_stable(void) {
    for (int32_t cp = 0x300; cp < 0x30000; cp++) {
        const utf8proc_property_t *p = utf8proc_get_property(cp);
        if (p->decomp_seqindex == UINT16_MAX || p->decomp_type) continue;
        int32_t buf[32];
        int last = 0;
        utf8proc_ssize_t n =
            utf8proc_decompose_char(cp, buf, 32, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last);
        if (n > 0 && n <= 32)
            n = utf8proc_normalize_utf32(buf, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (n == 1 && buf[0] == cp) composed_stable[cp / 8] |= (uint8_t)(1 << cp % 8);
    }
}

/* True when no character can change under the form: then the text is normalized already. Says no in
 * doubt (the start of a composition, a mark), which only costs the full pass. */
static bool is_inert(const uint8_t *s, size_t n, bool compat, bool compose) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_stable);
    for (size_t i = 0; i < n;) {
        if (s[i] < 0x80) {
            uint64_t w;
            if (n - i >= 8 && (memcpy(&w, s + i, 8), !(w & 0x8080808080808080u)))
                i += 8;
            else
                i++;
            continue;
        }
        uint32_t cp = tok_utf8_next(s, &i);
        if (!compat && compose && cp < 0x300) continue;
        if (cp >= 0xAC00 && cp <= 0xD7A3) { /* Hangul syllables decompose, and take a final jamo */
            if (!compose) return false;
            continue;
        }
        if ((cp >= 0x1160 && cp <= 0x11FF)) return false;
        const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
        if (p->combining_class) return false;
        if (p->decomp_seqindex != UINT16_MAX && (compat || !p->decomp_type)) {
            bool stable = cp < 0x30000 && (composed_stable[cp / 8] & 1 << cp % 8);
            if (compat || !compose || !stable) return false;
        }
        if (compose && p->comb_index != UINT16_MAX && p->comb_index >= 0x8000) return false;
    }
    return true;
}

static int ccc(int32_t cp) {
    return utf8proc_get_property(cp)->combining_class;
}

/* Canonical order of a run of marks: stable by combining class. utf8proc's own ordering is
 * quadratic in the run, so a long run is counted into place here. */
static void order_marks(int32_t *c, size_t n, int32_t *tmp) {
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) at[ccc(c[i]) + 1]++;
    for (size_t i = 1; i < 257; i++) at[i] += at[i - 1];
    for (size_t i = 0; i < n; i++) tmp[at[ccc(c[i])]++] = c[i];
    memcpy(c, tmp, n * sizeof *c);
}

static cake_status unicode_form(tok_scratch *sc, const uint8_t *s, size_t n, bool compat,
                                bool compose, tok_buf *out, cake_error *err) {
    int options = UTF8PROC_STABLE | (compat ? UTF8PROC_COMPAT : 0) |
                  (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        int32_t cp = (int32_t)tok_utf8_next(s, &i);
        if (sc->cps_cap - k < 32) { /* no character decomposes into more than 18 */
            size_t cap = sc->cps_cap * 2 < 4096 ? 4096 : sc->cps_cap * 2;
            int32_t *p = realloc(sc->cps, cap * sizeof *p);
            if (!p) return no_memory(err);
            sc->cps = p, sc->cps_cap = cap;
        }
        int last = 0;
        utf8proc_ssize_t got = utf8proc_decompose_char(
            cp, sc->cps + k, 32, (utf8proc_option_t)(options | UTF8PROC_DECOMPOSE), &last);
        if (got < 0 || got > 32)
            return cake_fail(err, CAKE_EFORMAT, "U+%04X does not decompose", (unsigned)cp);
        k += (size_t)got;
    }
    for (size_t i = 0; i < k; i++) {
        if (!ccc(sc->cps[i])) continue;
        size_t j = i;
        while (j < k && ccc(sc->cps[j])) j++;
        if (j - i > 1) {
            int32_t local[64], *tmp = j - i <= 64 ? local : malloc((j - i) * sizeof *tmp);
            if (!tmp) return no_memory(err);
            order_marks(sc->cps + i, j - i, tmp);
            if (tmp != local) free(tmp);
        }
        i = j - 1;
    }
    /* U+11A7 composes with nothing, yet utf8proc joins it to a Hangul syllable before it: compose
     * the stretches between. */
    for (size_t i = 0, end = k; compose && i < end;) {
        size_t j = i + 1;
        while (j < end && sc->cps[j] != 0x11A7) j++;
        if (i == 0) k = 0;
        utf8proc_ssize_t m = utf8proc_normalize_utf32(sc->cps + i, (utf8proc_ssize_t)(j - i),
                                                      (utf8proc_option_t)options);
        if (m < 0) return no_memory(err);
        memmove(sc->cps + k, sc->cps + i, (size_t)m * sizeof *sc->cps);
        k += (size_t)m;
        i = j;
    }
    out->n = 0;
    if (!tok_buf_reserve(out, 4 * k + 1)) return no_memory(err);
    for (size_t i = 0; i < k; i++) out->n += tok_utf8_put((uint32_t)sc->cps[i], out->p + out->n);
    return CAKE_OK;
}

/* Full lower case of one character, as Rust's char::to_lowercase: only U+0130 gives two. */
static cake_status lower_case(const uint8_t *s, size_t n, tok_buf *out, cake_error *err) {
    out->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = tok_utf8_next(s, &i);
        if (!tok_buf_reserve(out, out->n + 8)) return no_memory(err);
        if (cp < 0x80) {
            out->p[out->n++] = (char)(cp >= 'A' && cp <= 'Z' ? cp | 32 : cp);
        } else if (cp == 0x130) {
            memcpy(out->p + out->n, "i\xCC\x87", 3);
            out->n += 3;
        } else {
            out->n +=
                tok_utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), out->p + out->n);
        }
    }
    return CAKE_OK;
}

static cake_status replace(const tok_norm *m, tok_scratch *sc, const char *s, size_t n,
                           tok_buf *out, bool *changed, cake_error *err) {
    size_t i = 0;
    out->n = 0;
    for (;;) {
        size_t a, b;
        if (m->re) {
            int rc = tok_regex_find(m->re, sc, s, n, i, &a, &b, err);
            if (rc < 0) return (cake_status)rc;
            if (!rc) break;
        } else {
            const char *hit = m->a_len == 1 ? memchr(s + i, m->a[0], n - i)
                                            : memmem(s + i, n - i, m->a, m->a_len);
            if (!hit) break;
            a = (size_t)(hit - s), b = a + m->a_len;
        }
        if (!tok_buf_add(out, s + i, a - i) || !tok_buf_add(out, m->b, m->b_len))
            return no_memory(err);
        i = b;
    }
    *changed = i > 0;
    if (*changed && !tok_buf_add(out, s + i, n - i)) return no_memory(err);
    return CAKE_OK;
}

static cake_status step(const tok_norm *m, tok_scratch *sc, const char **s, size_t *n, tok_buf *out,
                        cake_error *err) {
    const uint8_t *u = (const uint8_t *)*s, *table;
    cake_status st = CAKE_OK;
    bool changed = true;
    size_t i = 0;
    out->n = 0;
    switch (m->kind) {
    case TOK_N_NFC:
    case TOK_N_NFD:
    case TOK_N_NFKC:
    case TOK_N_NFKD: {
        bool compat = m->kind == TOK_N_NFKC || m->kind == TOK_N_NFKD;
        bool compose = m->kind == TOK_N_NFC || m->kind == TOK_N_NFKC;
        if (is_inert(u, *n, compat, compose)) return CAKE_OK;
        st = unicode_form(sc, u, *n, compat, compose, out, err);
        break;
    }
    case TOK_N_LOWER: st = lower_case(u, *n, out, err); break;
    case TOK_N_PREPEND:
    case TOK_N_APPEND:
        if (!*n) return CAKE_OK;
        if ((m->kind == TOK_N_PREPEND && !tok_buf_add(out, m->a, m->a_len)) ||
            !tok_buf_add(out, *s, *n) ||
            (m->kind == TOK_N_APPEND && !tok_buf_add(out, m->a, m->a_len)))
            st = no_memory(err);
        break;
    case TOK_N_REPLACE:
    case TOK_N_REPLACE_RE: st = replace(m, sc, *s, *n, out, &changed, err); break;
    case TOK_N_STRIP:
        table = tok_class_table();
        while (m->left && i < *n) {
            size_t j = i;
            if (!(table[tok_utf8_next(u, &j)] & TOK_C_S)) break;
            i = j;
        }
        while (m->right && *n > i) {
            size_t j = tok_utf8_last(u, *n), k = j;
            if (!(table[tok_utf8_next(u, &k)] & TOK_C_S)) break;
            *n = j;
        }
        *s += i, *n -= i;
        return CAKE_OK;
    case TOK_N_COLLAPSE: /* SentencePiece: no spaces at the ends, one at a time inside */
        for (i = 0; i < *n; i++) {
            if ((*s)[i] == ' ' && (!out->n || i + 1 == *n || (*s)[i + 1] == ' ')) continue;
            if (!tok_buf_add(out, *s + i, 1)) return no_memory(err);
        }
        break;
    }
    if (st == CAKE_OK && changed) *s = out->p ? out->p : "", *n = out->n;
    return st;
}

cake_status tok_norm_run(const cake_tokenizer *t, tok_scratch *sc, const char *s, size_t n,
                         const char **out, size_t *out_n, cake_error *err) {
    int next = 0;
    for (size_t i = 0; i < t->n_norm; i++) {
        const char *before = s;
        cake_status st = step(&t->norm[i], sc, &s, &n, &sc->norm[next], err);
        if (st != CAKE_OK) return st;
        if (s != before && s == sc->norm[next].p) next ^= 1; /* the other buffer is free now */
    }
    *out = s, *out_n = n;
    return CAKE_OK;
}
