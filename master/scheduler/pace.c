/* The cost model of batches: see pace.h. */
#include "master/scheduler/pace.h"

static const double FADE = 0.97;   /* of old batches, a batch */
static const double STRETCH = 1.4; /* of a token's way round, for the sake of prompts */
static const double ROW_SHARE =
    0.2;               /* what a second row costs beside the first, until it is known */
enum { REFRESH = 64 }; /* mixed batches before one that only decodes is wanted */

/* ---- lines ---- */

/* Weighted by 1/y^2: it is the relative error that counts. */
static void line_add(cake_pace_line *l, double d, double y) {
    double w = 1 / (y * y);
    l->w = l->w * FADE + w;
    l->d = l->d * FADE + w * d;
    l->dd = l->dd * FADE + w * d * d;
    l->y = l->y * FADE + w * y;
    l->dy = l->dy * FADE + w * d * y;
}

/* False: nothing was seen yet. While all batches had about the same number of rows an assumed
 * point beside them says how steep it is. */
static bool line_get(const cake_pace_line *l, double *a, double *b) {
    if (l->w <= 0) return false;
    double d0 = l->d / l->w, y0 = l->y / l->w, w = 0.02 * l->w;
    double d1 = d0 + 4,
           y1 = y0 * (1 - ROW_SHARE + ROW_SHARE * d1) / (1 - ROW_SHARE + ROW_SHARE * d0);
    double sw = l->w + w, sd = l->d + w * d1, sdd = l->dd + w * d1 * d1, sy = l->y + w * y1,
           sdy = l->dy + w * d1 * y1;
    *b = (sw * sdy - sd * sy) / (sw * sdd - sd * sd);
    if (!(*b > 0)) *b = 0;
    *a = (sy - *b * sd) / sw;
    if (!(*a > 0)) *a = 0;
    return true;
}

static double line_at(const cake_pace_line *l, double d) {
    double a, b;
    return line_get(l, &a, &b) ? a + b * d : 0;
}

/* ---- learning ---- */

void cake_pace_add(cake_pace *p, uint32_t n_decode, uint32_t n_prompt, double slowest_ns,
                   double sum_ns, double network_ns) {
    if (!(slowest_ns > 0) || !(sum_ns > 0)) return;
    if (network_ns >= 0)
        p->network_ns += ((p->network_ns > 0 ? 0.1 : 1.0)) * (network_ns - p->network_ns);
    double expected = line_at(&p->slowest, n_decode);
    if (n_prompt) {
        /* Of a batch of prompts alone too: what it takes whatever is in it is not theirs. */
        double c = (slowest_ns - expected) / n_prompt;
        if (c < 0.02 * slowest_ns / n_prompt) c = 0.02 * slowest_ns / n_prompt;
        if (p->prompt_ns > 0 && c > 3 * p->prompt_ns) c = 3 * p->prompt_ns;
        p->prompt_ns += (p->prompt_ns > 0 ? 0.2 : 1.0) * (c - p->prompt_ns);
        if (n_decode) p->mixed++;
    } else if (n_decode) {
        /* A preempted core is no reason to plan for one. */
        double limit = expected > 0 ? 3 * expected : slowest_ns;
        double scale = slowest_ns > limit ? limit / slowest_ns : 1;
        line_add(&p->slowest, n_decode, slowest_ns * scale);
        line_add(&p->sum, n_decode, sum_ns * scale);
        p->mixed = 0;
    }
}

/* ---- deciding ---- */

static double way_round(const cake_pace *p, double groups, double rows) {
    double busy = groups * line_at(&p->slowest, rows),
           alone = line_at(&p->sum, rows) + p->network_ns;
    return busy > alone ? busy : alone;
}

uint32_t cake_pace_groups(const cake_pace *p, uint32_t n, uint32_t max) {
    if (n < max) max = n;
    uint32_t best = 1;
    double best_ns = 0;
    if (p->slowest.w <= 0) return max < p->n_stages ? (max ? max : 1) : p->n_stages;
    for (uint32_t g = 1; g <= max; g++) {
        double ns = way_round(p, g, (n + g - 1) / g); /* everybody gets a token in that time */
        if (g == 1 || ns < 0.98 * best_ns) {
            best = g;
            best_ns = ns;
        }
    }
    return best;
}

uint32_t cake_pace_depth(const cake_pace *p, uint32_t n_rows, uint32_t max) {
    double slowest = line_at(&p->slowest, n_rows);
    double n =
        slowest > 0 ? (line_at(&p->sum, n_rows) + p->network_ns) / slowest + 0.999 : p->n_stages;
    return n < 1 ? 1 : n < max ? (uint32_t)n : max;
}

uint32_t cake_pace_prompt_rows(const cake_pace *p, uint32_t n_decode, uint32_t n_streams,
                               uint32_t n_groups, uint32_t n_flights, uint32_t n_carrying) {
    if (n_streams == 0) return UINT32_MAX;
    if (p->slowest.w <= 0 || p->mixed >= REFRESH) return n_decode ? 0 : 1;
    uint32_t least = n_carrying == 0; /* one row a way round, whatever it costs: it must go on */
    if (p->prompt_ns <= 0) return least;
    double rows = (n_streams + n_groups - 1) / n_groups;
    double limit = STRETCH * way_round(p, n_groups, rows);
    double in_turn = limit / n_flights - line_at(&p->slowest, n_decode);
    double on_its_way = (limit - line_at(&p->sum, n_decode) - p->network_ns) / p->n_stages;
    double ns = in_turn < on_its_way ? in_turn : on_its_way;
    double k = ns / p->prompt_ns;
    return k < 1 ? least : k < 1e6 ? (uint32_t)k : 1000000;
}

bool cake_pace_guess_pays(const cake_pace *p, double probability, uint32_t n_decode,
                          uint32_t n_groups) {
    double a, b, sum_a, sum_b;
    if (!line_get(&p->slowest, &a, &b) || !line_get(&p->sum, &sum_a, &sum_b)) return true;
    double rows = n_decode ? n_decode : 1;
    double busy = n_groups * (a + b * rows), alone = sum_a + sum_b * rows + p->network_ns;
    return busy > alone ? probability * (a + b * rows) / rows > b
                        : probability * alone / rows > sum_b;
}
