/* Token choice: see sampler.h for the chain and the promise of exactness.
 *
 * The vocabulary is large (152k) and almost all of it loses, so nothing here sorts it, and little
 * of it is looked at one by one. One pass finds the maxima of blocks of 64 logits. As many logits
 * as there are blocks are at least as large as the k-th largest of those, so what is above that
 * holds the top k, and lies in few blocks; the top p of the mass is mostly found in the same way.
 * Where that does not help (a large k, a flat distribution), a histogram over the distance to the
 * maximum tells which entries count. Only they are sorted. */
#include "master/sampler/sampler.h"
#include "kernels/cpu.h"
#include "kernels/math.h"
#include "kernels/vec.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = CAKE_MAX_BLOCK,
    TOP_P_BLOCKS = 256, /* the top p is looked for above the maximum of so many blocks */
    PIECE = 1024,       /* drawing from everything adds the weights of so many first */
    N_BINS = 4096, /* of 1/64 nat each: 64 nats below the maximum, the last bin takes the rest */
};

struct cake_sampler {
    cake_sampler_params p; /* p.logit_bias points to our own copy */
    uint32_t n_vocab;
    const uint32_t *allowed;
    const cake_vec_kern *vec;
    const float *row;      /* what is chosen from: the logits as given, or `logit` */
    float *logit;          /* [n_vocab] after bias and penalties; -inf = not allowed */
    float *block;          /* [n_vocab / BLOCK, rounded up] maxima of the row */
    float *weight;         /* [n_vocab] of the candidates, in their order */
    uint32_t *count;       /* [n_vocab] occurrences in the penalty window; all 0 between picks */
    uint64_t *cand, *swap; /* [n_vocab] candidates: (order-preserving logit bits << 32) | id */
    uint32_t bin_count[N_BINS];
    double bin_mass[N_BINS];
};

/* ---- parameters ---- */

void cake_sampler_params_default(cake_sampler_params *p) {
    *p = (cake_sampler_params){.temperature = 0.8f,
                               .top_k = 40,
                               .top_p = 0.95f,
                               .min_p = 0.05f,
                               .repeat_penalty = 1.0f,
                               .repeat_last_n = 64};
}

static bool outside(float v, float min, float max) {
    return !(v >= min && v <= max); /* true for NaN */
}

cake_status cake_sampler_params_check(const cake_sampler_params *p, uint32_t n_vocab,
                                      cake_error *err) {
    const struct {
        const char *name;
        float v, min, max;
    } range[] = {
        {"temperature", p->temperature, 0, 100},
        {"min_p", p->min_p, 0, 1},
        {"repeat_penalty", p->repeat_penalty, 0.01f, 100},
        {"presence_penalty", p->presence_penalty, -100, 100},
        {"frequency_penalty", p->frequency_penalty, -100, 100},
    };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (outside(range[i].v, range[i].min, range[i].max))
            return cake_fail(err, CAKE_EINVAL, "%s is %g; it must lie between %g and %g",
                             range[i].name, (double)range[i].v, (double)range[i].min,
                             (double)range[i].max);
    if (outside(p->top_p, 0, 1) || p->top_p == 0)
        return cake_fail(err, CAKE_EINVAL, "top_p is %g; it must be above 0 and at most 1",
                         (double)p->top_p);
    if (p->n_logit_bias > CAKE_LOGIT_BIAS_MAX)
        return cake_fail(err, CAKE_EINVAL, "logit_bias has %zu entries; at most %d are taken",
                         p->n_logit_bias, CAKE_LOGIT_BIAS_MAX);
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        if (n_vocab && p->logit_bias[i].token >= n_vocab)
            return cake_fail(err, CAKE_EINVAL,
                             "logit_bias names token %u; the vocabulary has %u tokens",
                             p->logit_bias[i].token, n_vocab);
        if (outside(p->logit_bias[i].bias, -100, 100))
            return cake_fail(err, CAKE_EINVAL,
                             "logit_bias of token %u is %g; it must lie between -100 and 100",
                             p->logit_bias[i].token, (double)p->logit_bias[i].bias);
    }
    return CAKE_OK;
}

cake_sampler *cake_sampler_new(const cake_sampler_params *p, uint32_t n_vocab) {
    cake_sampler *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->p = *p;
    s->p.logit_bias = NULL;
    s->n_vocab = n_vocab;
    s->vec = cake_vec_for(cake_cpu_isa());
    s->logit = malloc((size_t)n_vocab * sizeof *s->logit);
    s->block = malloc(((size_t)n_vocab / BLOCK + 1) * sizeof *s->block);
    s->weight = malloc((size_t)n_vocab * sizeof *s->weight);
    s->count = calloc(n_vocab, sizeof *s->count);
    s->cand = malloc((size_t)n_vocab * sizeof *s->cand);
    s->swap = malloc((size_t)n_vocab * sizeof *s->swap);
    cake_logit_bias *bias = NULL;
    if (p->n_logit_bias) {
        bias = malloc(p->n_logit_bias * sizeof *bias);
        if (bias) memcpy(bias, p->logit_bias, p->n_logit_bias * sizeof *bias);
        s->p.logit_bias = bias;
    }
    if (!s->logit || !s->block || !s->weight || !s->count || !s->cand || !s->swap ||
        (p->n_logit_bias && !bias)) {
        cake_sampler_free(s);
        return NULL;
    }
    return s;
}

void cake_sampler_free(cake_sampler *s) {
    if (!s) return;
    free(s->logit);
    free(s->block);
    free(s->weight);
    free(s->count);
    free(s->cand);
    free(s->swap);
    free((void *)(uintptr_t)s->p.logit_bias);
    free(s);
}

void cake_sampler_allow(cake_sampler *s, const uint32_t *allowed) {
    s->allowed = allowed;
}

/* ---- randomness ---- */

/* Finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1): a two-round hash of (seed, position), keyed in both rounds so that streams of
 * nearby seeds are not shifted copies of each other. */
static double uniform(uint64_t seed, uint64_t position) {
    uint64_t key = mix64(seed + 0x9e3779b97f4a7c15u);
    uint64_t h = mix64(mix64(key ^ position * 0xd1342543de82ef95u) + key);
    return (double)(h >> 11) * 0x1p-53;
}

/* ---- the row: copy, adjust, maximum ---- */

static cake_status not_finite(const float *x, uint32_t n, cake_error *err) {
    uint32_t i = 0;
    while (i + 1 < n && isfinite(x[i])) i++;
    return cake_fail(err, CAKE_EINVAL,
                     "the logit of token %u is %s: the forward pass produced no usable result", i,
                     isnan(x[i]) ? "not a number" : "infinite");
}

/* Whether the penalties can change anything; then *history and *n are the window. */
static bool penalties(const cake_sampler_params *p, const uint32_t **history, size_t *n) {
    if (p->repeat_last_n != CAKE_REPEAT_LAST_ALL && *n > p->repeat_last_n) {
        *history += *n - p->repeat_last_n;
        *n = p->repeat_last_n;
    }
    return *n && (p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0);
}

static void penalise(cake_sampler *s, const uint32_t *history, size_t n) {
    const cake_sampler_params *p = &s->p;
    for (size_t i = 0; i < n; i++)
        if (history[i] < s->n_vocab) s->count[history[i]]++;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = history[i];
        if (id >= s->n_vocab || !s->count[id]) continue;
        float l = s->logit[id];
        l = l > 0 ? l / p->repeat_penalty : l * p->repeat_penalty;
        s->logit[id] = l - (float)s->count[id] * p->frequency_penalty - p->presence_penalty;
        s->count[id] = 0; /* once per id, and clean for the next pick */
    }
}

static cake_status load_row(cake_sampler *s, const float *logits, const uint32_t *history,
                            size_t n_history, float *max, cake_error *err) {
    uint32_t n = s->n_vocab;
    int finite;
    float m = s->vec->max_blocks(s->block, logits, n, &finite);
    if (!finite) return not_finite(logits, n, err);
    s->row = logits;
    bool penalised = penalties(&s->p, &history, &n_history);
    if (s->p.n_logit_bias || penalised || s->allowed) {
        memcpy(s->logit, logits, n * sizeof *s->logit);
        for (size_t i = 0; i < s->p.n_logit_bias; i++)
            s->logit[s->p.logit_bias[i].token] += s->p.logit_bias[i].bias;
        if (penalised) penalise(s, history, n_history);
        if (s->allowed)
            for (uint32_t i = 0; i < n; i++)
                if (!(s->allowed[i >> 5] >> (i & 31) & 1)) s->logit[i] = -INFINITY;
        m = s->vec->max_blocks(s->block, s->logit, n, &finite);
        s->row = s->logit;
    }
    if (m == -INFINITY)
        return cake_fail(err, CAKE_EINVAL,
                         "no token of the vocabulary is allowed at this position");
    if (m == INFINITY)
        return cake_fail(err, CAKE_EINVAL, "a penalty pushed a logit beyond the range of a float");
    *max = m;
    return CAKE_OK;
}

/* ---- candidates ---- */

/* Unsigned integers that order like the floats (no NaN here). */
static uint64_t make_cand(float f, uint32_t id) {
    uint32_t b;
    f += 0.0f; /* -0 ties with 0 */
    memcpy(&b, &f, sizeof b);
    b ^= b >> 31 ? 0xffffffffu : 0x80000000u;
    return (uint64_t)b << 32 | id;
}
static uint32_t cand_id(uint64_t c) {
    return (uint32_t)c;
}

/* Largest logit first; stable, so equal logits stay in the order of their ids. LSD radix on the
 * upper half: linear whatever the input. */
static void sort_cand(cake_sampler *s, uint32_t n) {
    uint64_t *a = s->cand, *b = s->swap;
    if (n <= 48) {
        for (uint32_t i = 1; i < n; i++) {
            uint64_t c = a[i];
            uint32_t j = i;
            for (; j > 0 && a[j - 1] >> 32 < c >> 32; j--) a[j] = a[j - 1];
            a[j] = c;
        }
        return;
    }
    for (int shift = 32; shift < 64; shift += 8) {
        uint32_t at[256] = {0}, sum = 0;
        for (uint32_t i = 0; i < n; i++) at[a[i] >> shift & 255]++;
        for (int d = 255; d >= 0; d--) {
            uint32_t c = at[d];
            at[d] = sum;
            sum += c;
        }
        for (uint32_t i = 0; i < n; i++) b[at[a[i] >> shift & 255]++] = a[i];
        uint64_t *t = a;
        a = b;
        b = t;
    }
    /* Four passes: the result is back in s->cand. */
}

static uint32_t n_blocks(const cake_sampler *s) {
    return s->n_vocab / BLOCK + (s->n_vocab % BLOCK != 0);
}

/* The k-th largest of the blocks' maxima, 1 <= k <= n_blocks. */
static float kth_block(cake_sampler *s, uint32_t k) {
    float *x = s->logit == s->row ? s->weight : s->logit; /* room that nobody uses now */
    uint32_t lo = 0, hi = n_blocks(s), at = k - 1;
    memcpy(x, s->block, hi * sizeof *x);
    while (hi - lo > 1) {                        /* x[lo..hi) holds it, by Hoare's selection */
        float pivot = x[lo + (hi - lo - 1) / 2]; /* not the last: both parts get smaller */
        uint32_t i = lo, j = hi - 1;
        for (;;) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i >= j) break;
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        uint32_t split = j + 1; /* left of it nothing is smaller than what is right of it */
        if (at < split)
            hi = split;
        else
            lo = split;
    }
    return x[at];
}

/* Put every token whose logit is at least `from` into cand, in id order; return how many. */
static uint32_t collect_from(cake_sampler *s, float from) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < n_blocks(s); b++) {
        if (s->block[b] < from) continue;
        uint32_t end = s->n_vocab - b * BLOCK < BLOCK ? s->n_vocab : (b + 1) * BLOCK;
        for (uint32_t i = b * BLOCK; i < end; i++)
            if (s->row[i] >= from && s->row[i] != -INFINITY) s->cand[n++] = make_cand(s->row[i], i);
    }
    return n;
}

/* Which histogram bin; monotone in the logit. */
static uint32_t bin_of(float max, float logit) {
    float d = (max - logit) * 64.0f;
    return d < (float)(N_BINS - 1) ? (uint32_t)d : N_BINS - 1;
}

/* Put every token in bins 0..last into cand, in id order; return how many. */
static uint32_t collect_bins(cake_sampler *s, float max, uint32_t last) {
    uint32_t n = 0;
    if (last > N_BINS - 1) last = N_BINS - 1;
    for (uint32_t i = 0; i < s->n_vocab; i++)
        if (s->row[i] != -INFINITY && (last == N_BINS - 1 || bin_of(max, s->row[i]) <= last))
            s->cand[n++] = make_cand(s->row[i], i);
    return n;
}

static uint32_t collect_top_k(cake_sampler *s, float max, uint32_t k) {
    uint32_t n, last = 0;
    if (k <= n_blocks(s)) {
        n = collect_from(s, kth_block(s, k));
    } else {
        memset(s->bin_count, 0, sizeof s->bin_count);
        for (uint32_t i = 0; i < s->n_vocab; i++)
            if (s->row[i] != -INFINITY) s->bin_count[bin_of(max, s->row[i])]++;
        for (uint64_t sum = s->bin_count[0]; sum < k && last < N_BINS - 1;)
            sum += s->bin_count[++last];
        n = collect_bins(s, max, last);
    }
    sort_cand(s, n);
    return n < k ? n : k;
}

/* A sorted run of candidates that surely holds the top p of the whole mass. *total: the whole mass.
 */
static uint32_t collect_top_p(cake_sampler *s, float max, float top_p, double *total) {
    uint32_t blocks = n_blocks(s) < TOP_P_BLOCKS ? n_blocks(s) : TOP_P_BLOCKS;
    uint32_t n = collect_from(s, kth_block(s, blocks)), last = 0;
    double all = s->vec->exp_sum(s->weight, s->row, s->n_vocab, max, 1.0f), sum = 0;
    sort_cand(s, n);
    *total = all;
    for (uint32_t i = 0; i < n; i++)
        if ((sum += (double)s->weight[cand_id(s->cand[i])]) >= (double)top_p * all) return n;
    memset(s->bin_mass, 0, sizeof s->bin_mass);
    for (uint32_t i = 0; i < s->n_vocab; i++)
        if (s->row[i] != -INFINITY) s->bin_mass[bin_of(max, s->row[i])] += (double)s->weight[i];
    for (sum = s->bin_mass[0]; sum < (double)top_p * all && last < N_BINS - 1;)
        sum += s->bin_mass[++last];
    /* The exact walk adds in another order; one more bin covers the rounding. */
    n = collect_bins(s, max, last + 1);
    sort_cand(s, n);
    return n;
}

/* weight[i] of candidate i = e^((logit - max) / temperature) */
static double weigh(cake_sampler *s, uint32_t n, float max, float temperature) {
    for (uint32_t i = 0; i < n; i++)
        s->weight[i] = (s->row[cand_id(s->cand[i])] - max) / temperature;
    s->vec->exp(s->weight, s->weight, n);
    double total = 0;
    for (uint32_t i = 0; i < n; i++) total += (double)s->weight[i];
    return total;
}

static bool whole_vocab(const cake_sampler *s) {
    return s->p.top_k == 0 || s->p.top_k >= s->n_vocab;
}

/* Filters leave n candidates in s->cand. */
static uint32_t filter(cake_sampler *s, float max) {
    const cake_sampler_params *p = &s->p;
    uint32_t n;
    double total = 0;
    bool whole = whole_vocab(s);
    if (!whole)
        n = collect_top_k(s, max, p->top_k);
    else if (p->top_p < 1)
        n = collect_top_p(s, max, p->top_p, &total);
    else
        n = collect_from(s, max + cake_logf(p->min_p) - 0.0625f); /* a few more, for rounding */
    if (p->top_p == 1 && p->min_p == 0) return n;
    double sum = weigh(s, n, max, 1.0f);
    if (p->top_p < 1) {
        double want = (double)p->top_p * (whole ? total : sum), cum = 0;
        uint32_t keep = 0;
        while (keep < n && (keep == 0 || cum < want)) cum += (double)s->weight[keep++];
        n = keep;
    }
    if (p->min_p > 0) { /* the most likely has weight 1 and always stays */
        uint32_t keep = 0;
        for (uint32_t i = 0; i < n; i++)
            if (s->weight[i] >= p->min_p) s->cand[keep++] = s->cand[i];
        n = keep;
    }
    return n;
}

/* Draw from everything, in id order. */
static uint32_t draw_any(cake_sampler *s, float max, double u) {
    uint32_t n = s->n_vocab, piece = PIECE * (n / (PIECE * N_BINS) + 1), found = 0;
    double total = 0, cum = 0;
    for (uint32_t i = 0; i < n; i += piece) {
        uint32_t k = n - i < piece ? n - i : piece;
        total += s->bin_mass[i / piece] =
            s->vec->exp_sum(s->weight + i, s->row + i, k, max, s->p.temperature);
    }
    double at = u * total, before = 0;
    for (uint32_t i = 0; i < n && cum <= at; i += piece) {
        if (s->bin_mass[i / piece] == 0) continue;
        found = i, before = cum;
        cum += s->bin_mass[i / piece];
    }
    uint32_t last = found; /* should rounding carry `at` up to the total */
    cum = before;
    for (uint32_t i = found; i < n && i - found < piece && cum <= at; i++) {
        if (s->weight[i] == 0) continue;
        last = i;
        cum += (double)s->weight[i];
    }
    return last;
}

cake_status cake_sampler_pick(cake_sampler *s, const float *logits, const uint32_t *history,
                              size_t n_history, uint64_t position, uint32_t *token,
                              cake_error *err) {
    float max = 0;
    cake_status st = load_row(s, logits, history, n_history, &max, err);
    if (st != CAKE_OK) return st;
    if (s->p.temperature == 0 || s->p.top_k == 1) {
        uint32_t b = 0; /* the first block that holds the maximum */
        while (s->block[b] != max) b++;
        uint32_t left = s->n_vocab - b * BLOCK, at = b * BLOCK;
        *token = at + (uint32_t)s->vec->argmax(s->row + at, left < BLOCK ? left : BLOCK);
        return CAKE_OK;
    }
    double u = uniform(s->p.seed, position);
    if (whole_vocab(s) && s->p.top_p == 1 && s->p.min_p == 0) {
        *token = draw_any(s, max, u);
        return CAKE_OK;
    }
    uint32_t n = filter(s, max);
    cake_assert(n > 0);
    double total = weigh(s, n, max, s->p.temperature);
    double at = u * total, cum = 0;
    uint32_t pick = 0, last = 0;
    for (; pick < n; pick++) {
        if (s->weight[pick] == 0) continue;
        last = pick;
        cum += (double)s->weight[pick];
        if (cum > at) break;
    }
    *token = cand_id(s->cand[last]); /* last, should rounding carry `at` up to the total */
    return CAKE_OK;
}

cake_status cake_sampler_logprobs(const cake_sampler *s, const float *logits, uint32_t token,
                                  uint32_t n_top, float *chosen, cake_logprob *top,
                                  cake_error *err) {
    uint32_t n = s->n_vocab;
    if (token >= n)
        return cake_fail(err, CAKE_EINVAL, "token %u is not in the vocabulary of %u tokens", token,
                         n);
    if (n_top > CAKE_TOP_LOGPROBS_MAX || n_top > n)
        return cake_fail(err, CAKE_EINVAL, "top_logprobs is %u; at most %d are reported", n_top,
                         CAKE_TOP_LOGPROBS_MAX);
    float max = 0, part[256], biggest[256 / BLOCK];
    for (uint32_t i = 0; i < n; i += 256) {
        int finite;
        float m = s->vec->max_blocks(biggest, logits + i, n - i < 256 ? n - i : 256, &finite);
        if (!finite) return not_finite(logits, n, err);
        max = i == 0 || m > max ? m : max;
    }
    double total = 0;
    for (uint32_t i = 0; i < n;) { /* by pieces: s is const, its scratch is not ours */
        uint32_t k = n - i < 256 ? n - i : 256;
        for (uint32_t j = 0; j < k; j++) part[j] = logits[i + j] - max;
        s->vec->exp(part, part, k);
        for (uint32_t j = 0; j < k; j++) total += (double)part[j];
        i += k;
    }
    double lse = (double)max + cake_log(total);
    uint32_t have = 0;
    for (uint32_t i = 0; n_top && i < n; i++) {
        if (have == n_top && logits[i] <= top[have - 1].logprob) continue;
        uint32_t j = have < n_top ? have++ : have - 1;
        for (; j > 0 && top[j - 1].logprob < logits[i]; j--) top[j] = top[j - 1];
        top[j] = (cake_logprob){.token = i, .logprob = logits[i]};
    }
    for (uint32_t i = 0; i < have; i++) top[i].logprob = (float)((double)top[i].logprob - lse);
    *chosen = (float)((double)logits[token] - lse);
    return CAKE_OK;
}
