/* Regular expressions of tokenizer files: written for Oniguruma (Ruby syntax), matched with PCRE2
 * and its JIT. The few constructs that mean different things in the two are rewritten or refused.
 */
#include "master/tokenizer/internal.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct tok_regex {
    pcre2_code *code;
};

static cake_status no_memory(cake_error *err) {
    return cake_fail(err, CAKE_ENOMEM, "out of memory for a tokenizer pattern");
}

/* \s and \w get Oniguruma's Unicode meaning spelled out; (?m), (?s), \h, set operations are
 * refused. */
static cake_status rewrite(const char *p, size_t n, tok_buf *out, cake_error *err) {
    static const char space[] = "\\t-\\r\\x{85}\\p{Z}", word[] = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";
    bool in_class = false;
    size_t class_at = 0;
    for (size_t i = 0; i < n; i++) {
        bool ok = true;
        if (p[i] == '\\' && i + 1 < n) {
            char c = p[++i];
            const char *set = c == 's' || c == 'S' ? space : c == 'w' || c == 'W' ? word : NULL;
            bool neg = c == 'S' || c == 'W';
            if (c == 'h' || c == 'H' || c == 'C' || c == 'K' || c == 'y' || c == 'Y')
                return cake_fail(err, CAKE_EUNSUPPORTED, "tokenizer pattern: \\%c is not supported",
                                 c);
            if (set && !(in_class && neg)) {
                if (!in_class) ok = tok_buf_add(out, neg ? "[^" : "[", neg ? 2 : 1);
                ok = ok && tok_buf_add(out, set, strlen(set));
                if (!in_class) ok = ok && tok_buf_add(out, "]", 1);
            } else {
                ok = tok_buf_add(out, p + i - 1, 2);
            }
            if (!ok) return no_memory(err);
            continue;
        }
        if (in_class) {
            if (p[i] == '&' && i + 1 < n && p[i + 1] == '&')
                return cake_fail(err, CAKE_EUNSUPPORTED,
                                 "tokenizer pattern: && in a set is not supported");
            if (p[i] == '[' && i + 1 < n && p[i + 1] == ':') { /* [:name:] */
                const char *end = memchr(p + i, ']', n - i);
                size_t len = end ? (size_t)(end - (p + i)) + 1 : 0;
                if (!end || end[-1] != ':')
                    return cake_fail(err, CAKE_EFORMAT, "tokenizer pattern: unfinished [: :]");
                if (!tok_buf_add(out, p + i, len)) return no_memory(err);
                i += len - 1;
                continue;
            }
            if (p[i] == '[')
                return cake_fail(err, CAKE_EUNSUPPORTED,
                                 "tokenizer pattern: a set inside a set is not supported");
            if (p[i] == ']' && i > class_at) in_class = false;
        } else if (p[i] == '[') {
            in_class = true;
            class_at = i + 1; /* a ] right here is literal */
            if (class_at < n && p[class_at] == '^') class_at++;
        } else if (p[i] == '(' && i + 2 < n && p[i + 1] == '?') {
            for (size_t j = i + 2; j < n && p[j] != ':' && p[j] != ')' && ((p[j] | 32) >= 'a') &&
                                   ((p[j] | 32) <= 'z');
                 j++)
                if (p[j] != 'i' && p[j] != 'x')
                    return cake_fail(err, CAKE_EUNSUPPORTED,
                                     "tokenizer pattern: the option (?%c) is not supported", p[j]);
        } else if (p[i] == '(' && i + 1 < n && p[i + 1] == '*') {
            return cake_fail(err, CAKE_EUNSUPPORTED, "tokenizer pattern: (* is not supported");
        }
        if (!tok_buf_add(out, p + i, 1)) return no_memory(err);
    }
    return CAKE_OK;
}

cake_status tok_regex_new(tok_regex **out, const char *pattern, size_t len, cake_error *err) {
    if (len > TOK_MAX_PATTERN)
        return cake_fail(err, CAKE_EFORMAT, "tokenizer pattern: longer than %d bytes",
                         TOK_MAX_PATTERN);
    tok_buf p = {0};
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    cake_status st = ctx ? rewrite(pattern, len, &p, err) : no_memory(err);
    if (st == CAKE_OK) {
        int code;
        size_t at;
        pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(ctx, 100);
        pcre2_code *c = pcre2_compile(
            (PCRE2_SPTR)(p.p ? p.p : ""), p.n,
            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, ctx);
        if (!c) {
            char why[128] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            st = cake_fail(err, CAKE_EUNSUPPORTED, "tokenizer pattern \"%.*s\": %s",
                           (int)(len > 200 ? 200 : len), pattern, why);
        } else {
            pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* without it, it interprets */
            tok_regex *r = cake_malloc(sizeof *r);
            r->code = c;
            *out = r;
        }
    }
    tok_buf_free(&p);
    pcre2_compile_context_free(ctx);
    return st;
}

void tok_regex_free(tok_regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

static bool match_ready(tok_scratch *sc) {
    if (sc->match_data) return true;
    pcre2_match_context *ctx = pcre2_match_context_create(NULL);
    pcre2_jit_stack *stack = pcre2_jit_stack_create(32 << 10, 1 << 20, NULL);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    if (!ctx || !stack || !data) {
        pcre2_match_context_free(ctx);
        pcre2_jit_stack_free(stack);
        pcre2_match_data_free(data);
        return false;
    }
    pcre2_set_match_limit(ctx, TOK_MATCH_LIMIT);
    pcre2_set_depth_limit(ctx, 1 << 20);
    pcre2_set_heap_limit(ctx, 64 << 10); /* KiB */
    pcre2_jit_stack_assign(ctx, NULL, stack);
    sc->match_ctx = ctx, sc->jit_stack = stack, sc->match_data = data;
    return true;
}

int tok_regex_find(const tok_regex *r, tok_scratch *sc, const char *s, size_t n, size_t from,
                   size_t *start, size_t *end, cake_error *err) {
    if (!match_ready(sc)) return no_memory(err);
    while (from <= n) {
        int rc = pcre2_match(r->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, sc->match_data,
                             sc->match_ctx);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT ||
            rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT)
            return cake_fail(err, CAKE_EFORMAT,
                             "a pattern of the tokenizer takes too many steps on this text");
        if (rc < 0)
            return cake_fail(err, CAKE_EFORMAT, "a pattern of the tokenizer failed (%d)", rc);
        const size_t *o = pcre2_get_ovector_pointer(sc->match_data);
        if (o[1] > o[0]) return *start = o[0], *end = o[1], 1;
        /* an empty match cuts nothing: look on from the next character */
        from = o[0] > from ? o[0] : from;
        if (from >= n) return 0;
        from += tok_utf8_len((uint8_t)s[from]);
    }
    return 0;
}

/* ---- scratch ---- */
tok_scratch *tok_scratch_new(void) {
    tok_scratch *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->cache = aligned_alloc(64, sizeof(tok_slot) << TOK_CACHE_BITS);
    s->small = malloc(3 * 128 * sizeof *s->small);
    if (!s->cache || !s->small) return tok_scratch_free(s), NULL;
    memset(s->cache, 0, sizeof(tok_slot) << TOK_CACHE_BITS);
    s->seed = tok_random_seed();
    return s;
}

void tok_scratch_free(tok_scratch *s) {
    if (!s) return;
    free(s->cache);
    free(s->small);
    free(s->cps);
    free(s->sym);
    free(s->heap);
    tok_buf_free(&s->clean);
    tok_buf_free(&s->norm[0]);
    tok_buf_free(&s->norm[1]);
    tok_buf_free(&s->word);
    tok_buf_free(&s->lookup);
    for (size_t i = 0; i < TOK_MAX_STAGES; i++) tok_buf_free(&s->stage[i]);
    pcre2_match_data_free(s->match_data);
    pcre2_match_context_free(s->match_ctx);
    pcre2_jit_stack_free(s->jit_stack);
    free(s);
}
