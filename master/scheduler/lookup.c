/* Prompt lookup: see lookup.h. Chains of the places where the same three tokens end, newest first;
 * of the newest few the one that agrees longest with the end of the text is continued. */
#include "master/scheduler/lookup.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

enum {
    GRAM = 3,       /* tokens that must agree at least */
    CANDIDATES = 8, /* places looked at */
    LONG = 16,      /* tokens that agree by no accident */
    AGREE_MAX = 64, /* tokens compared at most; also the most that misses can ask for */
    RUN_MIN = 4,    /* guesses at once */
    RUN_MAX = 16,
    SURE_RUNS = 2, /* runs without a miss before guesses are based on guesses */
    REST_MIN = 16, /* tokens without guessing */
    REST_MAX = 512,
};
#define NONE UINT32_MAX

struct cake_lookup {
    uint32_t *head, n_head; /* power of two; last place of a hash */
    uint32_t *prev, cap;    /* [cap] the place before with the same hash */
    uint32_t n;             /* places known: positions below it */
    uint32_t source;        /* where the guess goes on: position of the next token to copy */
    uint32_t agree, run;    /* asked for: tokens that agree, guesses at once */
    uint32_t length;        /* tokens that agreed for this guess */
    uint32_t hits;          /* runs in a row without a miss */
    uint32_t rest, next_rest;
    double rate;
};

cake_lookup *cake_lookup_new(void) {
    cake_lookup *l = cake_calloc(1, sizeof *l);
    l->source = NONE;
    l->agree = GRAM + 1;
    l->run = RUN_MIN;
    l->next_rest = REST_MIN;
    l->rate = 0.6;
    return l;
}

void cake_lookup_free(cake_lookup *l) {
    if (!l) return;
    free(l->head);
    free(l->prev);
    free(l);
}

static uint32_t hash_at(const cake_lookup *l, const uint32_t *end) {
    uint64_t h = end[-1] * 0x9E3779B97F4A7C15u + end[-2] * 0xC2B2AE3D27D4EB4Fu +
                 end[-3] * 0x165667B19E3779F9u;
    return (uint32_t)(h >> 32) & (l->n_head - 1);
}

/* Place i: the three tokens before position i. */
static void learn(cake_lookup *l, const uint32_t *tokens, uint32_t n) {
    if (n > l->cap) {
        l->cap = 2 * n;
        l->prev = cake_realloc(l->prev, l->cap * sizeof *l->prev);
    }
    if (l->n_head < n) { /* grow and begin anew */
        l->n_head = 256;
        while (l->n_head < 2 * n) l->n_head *= 2;
        l->head = cake_realloc(l->head, l->n_head * sizeof *l->head);
        memset(l->head, 0xff, l->n_head * sizeof *l->head);
        l->n = 0;
    }
    for (uint32_t i = l->n < GRAM ? GRAM : l->n; i < n; i++) {
        uint32_t h = hash_at(l, tokens + i);
        l->prev[i] = l->head[h];
        l->head[h] = i;
    }
    if (n > l->n) l->n = n;
}

static uint32_t agreement(const uint32_t *tokens, uint32_t place, uint32_t n) {
    uint32_t k = 0;
    while (k < AGREE_MAX && k < place && tokens[place - 1 - k] == tokens[n - 1 - k]) k++;
    return k;
}

static uint32_t find(cake_lookup *l, const uint32_t *tokens, uint32_t n) {
    if (n <= GRAM) return NONE;
    learn(l, tokens, n); /* all places before the end itself */
    uint32_t best = NONE, most = l->agree - 1;
    uint32_t at = l->head[hash_at(l, tokens + n)];
    for (int i = 0; i < CANDIDATES && at != NONE && most < AGREE_MAX; i++, at = l->prev[at]) {
        uint32_t k = agreement(tokens, at, n);
        if (k > most) {
            most = k;
            best = at;
        }
    }
    l->length = most;
    return best;
}

/* A long agreement is a copy of something: worth more than what went before lets hope. */
static uint32_t limit_of(const cake_lookup *l) {
    uint32_t n = l->length >= LONG ? RUN_MAX : l->length >= LONG / 2 ? 2 * l->run : l->run;
    return n < RUN_MAX ? n : RUN_MAX;
}

uint32_t cake_lookup_guess(cake_lookup *l, uint32_t *tokens, uint32_t n_sure, uint32_t n,
                           uint32_t room) {
    if (n == n_sure) l->source = find(l, tokens, n);
    if (l->source == NONE) return 0;
    if (room > limit_of(l)) room = limit_of(l);
    /* A copy that runs into its own end repeats: that is what the text does too. */
    for (uint32_t i = 0; i < room; i++) tokens[n + i] = tokens[l->source++];
    return room;
}

uint32_t cake_lookup_want(cake_lookup *l) {
    if (l->rest) {
        l->rest--;
        return 0;
    }
    return RUN_MAX;
}

bool cake_lookup_sure(const cake_lookup *l) {
    return l->hits >= SURE_RUNS || (l->length >= 2 * LONG && l->rate >= 0.5);
}

double cake_lookup_rate(const cake_lookup *l) {
    return l->rate;
}

void cake_lookup_checked(cake_lookup *l, uint32_t n_right, uint32_t n) {
    if (n == 0) return;
    l->rate += 0.25 * ((double)n_right / n - l->rate);
    if (n_right == n) {
        l->hits++;
        if (l->run < RUN_MAX) l->run *= 2;
        if (l->agree > GRAM) l->agree--;
        l->next_rest = REST_MIN;
        return;
    }
    l->hits = 0;
    if (2 * n_right < n && l->run > RUN_MIN) l->run /= 2;
    if (n_right == 0 && l->agree < AGREE_MAX)
        l->agree = 2 * l->agree < AGREE_MAX ? 2 * l->agree : AGREE_MAX;
}

void cake_lookup_rest(cake_lookup *l) {
    l->rest = l->next_rest;
    if (l->next_rest < REST_MAX) l->next_rest *= 2;
    l->rate = 0.6;
    l->hits = 0;
}
