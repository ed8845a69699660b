/* Roles, presets and recipes: see recipe.h. */
#include "master/tools/recipe.h"
#include "common/mem.h"
#include "master/ui/table.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* ---- formats ---- */

char *cake_format_name(const cake_format *f, char *out) {
    switch (f->kind) {
    case CAKE_FORMAT_FLOAT: snprintf(out, CAKE_FORMAT_NAME_MAX, "float"); break;
    case CAKE_FORMAT_BLOCK:
        snprintf(out, CAKE_FORMAT_NAME_MAX, "%s", cake_codec_name(f->codec));
        break;
    case CAKE_FORMAT_AFFINE:
        snprintf(out, CAKE_FORMAT_NAME_MAX, "affine%ug%u", f->bits, f->group);
        break;
    case CAKE_FORMAT_FP: snprintf(out, CAKE_FORMAT_NAME_MAX, "%s", cake_fp_get(f->fp)->name); break;
    }
    return out;
}

uint32_t cake_format_group(const cake_format *f) {
    return f->kind == CAKE_FORMAT_FLOAT   ? 1
           : f->kind == CAKE_FORMAT_BLOCK ? cake_codec_get(f->codec)->weights
                                          : f->group;
}

size_t cake_format_row_bytes(const cake_format *f, size_t k) {
    return f->kind == CAKE_FORMAT_FLOAT   ? 0
           : f->kind == CAKE_FORMAT_BLOCK ? cake_codec_row_bytes(f->codec, k)
                                          : k / 8 * f->bits;
}

bool cake_format_equal(const cake_format *a, const cake_format *b) {
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case CAKE_FORMAT_FLOAT: return true;
    case CAKE_FORMAT_BLOCK: return a->codec == b->codec;
    case CAKE_FORMAT_AFFINE: return a->bits == b->bits && a->group == b->group;
    case CAKE_FORMAT_FP: return a->fp == b->fp;
    }
    return false;
}

/* ---- roles ---- */

static bool ends(const char *s, const char *tail) {
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

/* Does the path end in `head` and one more segment, which is gate_proj, up_proj or down_proj? */
static bool ends_ffn(const char *path, const char *head) {
    static const char *const tail[] = {"gate_proj", "up_proj", "down_proj"};
    char want[64];
    for (size_t i = 0; i < sizeof tail / sizeof *tail; i++) {
        snprintf(want, sizeof want, "%s%s", head, tail[i]);
        if (ends(path, want)) return true;
    }
    return false;
}

/* ".mlp.experts.<number>.X" */
static bool numbered_expert(const char *path) {
    static const char head[] = ".mlp.experts.";
    const char *p = strstr(path, head);
    if (!p) return false;
    p += sizeof head - 1;
    size_t digits = strspn(p, "0123456789");
    return digits && p[digits] == '.' && !strchr(p + digits + 1, '.') && ends_ffn(path, ".");
}

static bool word_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool has_word(const char *path, const char *word) {
    size_t n = strlen(word);
    for (const char *p = strstr(path, word); p; p = strstr(p + 1, word))
        if ((p == path || !word_char(p[-1])) && !word_char(p[n])) return true;
    return false;
}

static bool has_segment(const char *path, const char *segment) {
    size_t n = strlen(segment);
    for (const char *p = path;; p++) {
        if (strncmp(p, segment, n) == 0 && p[n] == '.') return true;
        if (!(p = strchr(p, '.'))) return false;
    }
}

static bool vision(const char *path) {
    static const char *const segment[] = {"vision_tower", "vision_model", "visual",
                                          "audio_tower",  "audio_model",  "multi_modal_projector",
                                          "vl_connector", "merger",       "connector",
                                          "embed_vision", "embed_audio"};
    for (size_t i = 0; i < sizeof segment / sizeof *segment; i++)
        if (has_segment(path, segment[i])) return true;
    return false;
}

cake_part cake_part_of(const char *path) {
    const char *last = strrchr(path, '.'), *linear = strstr(path, ".linear_attn.");
    while (linear && strstr(linear + 1, ".linear_attn."))
        linear = strstr(linear + 1, ".linear_attn.");
    if (linear && last == linear + strlen(".linear_attn")) return CAKE_PART_LINEAR_ATTN;
    if (strcmp(path, "attn.out_proj") == 0 || ends(path, ".attn.out_proj"))
        return CAKE_PART_ATTENTION_OUTPUT;
    if (ends_ffn(path, ".experts.switch_glu.") || ends_ffn(path, ".mlp.switch_mlp.") ||
        numbered_expert(path))
        return CAKE_PART_ROUTED_EXPERT;
    if (ends(path, ".router.proj") || ends(path, ".mlp.gate") || ends(path, ".shared_expert_gate"))
        return CAKE_PART_ROUTER;
    if (ends(path, ".self_attn.q_proj") || ends(path, ".self_attn.k_proj") ||
        ends(path, ".self_attn.v_proj") || ends(path, ".self_attn.o_proj"))
        return CAKE_PART_ATTENTION;
    if (strcmp(path, "lm_head") == 0 || ends(path, ".lm_head")) return CAKE_PART_LM_HEAD;
    if (has_word(path, "embed_tokens_per_layer")) return CAKE_PART_EMBEDDING_PER_LAYER;
    if (has_word(path, "embed_tokens") || has_word(path, "wte") ||
        has_word(path, "word_embeddings"))
        return CAKE_PART_EMBEDDING;
    if (ends_ffn(path, ".shared_expert.")) return CAKE_PART_SHARED_EXPERT;
    if (ends_ffn(path, ".mlp.")) return CAKE_PART_FFN;
    return vision(path) ? CAKE_PART_VISION : CAKE_PART_NONE;
}

const char *cake_part_name(cake_part p) {
    static const char *const name[CAKE_PART_COUNT] = {"other",
                                                      "linear_attn",
                                                      "attention_output",
                                                      "routed_expert",
                                                      "moe_router",
                                                      "attention_qkvo",
                                                      "lm_head",
                                                      "embedding_per_layer",
                                                      "embedding",
                                                      "shared_expert",
                                                      "ffn",
                                                      "vlm_tower"};
    return (unsigned)p < CAKE_PART_COUNT ? name[p] : "?";
}

int32_t cake_layer_of(const char *path) {
    const char *p = strncmp(path, "layers.", 7) == 0 ? path + 7 : strstr(path, ".layers.");
    if (!p) return -1;
    if (*p == '.') p += strlen(".layers.");
    size_t digits = strspn(p, "0123456789");
    if (digits == 0 || digits > 6 || p[digits] != '.') return -1;
    return (int32_t)strtol(p, NULL, 10);
}

bool cake_layer_gets_more(uint32_t i, uint32_t n) {
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* ---- presets ---- */

enum { BUMPS_MAX = 5 };
#define NONE   CAKE_CODEC_COUNT
#define Q2     CAKE_CODEC_Q2_K
#define Q3     CAKE_CODEC_Q3_K
#define Q4     CAKE_CODEC_Q4_K
#define Q5     CAKE_CODEC_Q5_K
#define Q6     CAKE_CODEC_Q6_K
#define Q8     CAKE_CODEC_Q8_0
#define V_PROJ ".self_attn.v_proj"
#define O_PROJ ".self_attn.o_proj"
#define DOWN   ".mlp.down_proj"
#define LA_OUT ".linear_attn.out_proj"
#define LA_QKV ".linear_attn.in_proj_qkv"
#define LA_Z   ".linear_attn.in_proj_z"

typedef struct {
    cake_part part; /* NONE ends the list */
    cake_codec codec;
} role_entry;
typedef struct {
    const char *suffix; /* NULL ends the list */
    cake_codec codec;
} bump;

/* First match: a bump by suffix, more (down_proj of the layers that get more), a role, the default.
 */
static const struct {
    const char *name;
    cake_codec standard, more; /* more: NONE when the preset has no such rule */
    role_entry roles[4];
    bump bumps[BUMPS_MAX];
} preset_table[] = {
    {"q2_k",
     Q2,
     NONE,
     {{CAKE_PART_ATTENTION_OUTPUT, Q3}, {CAKE_PART_LM_HEAD, Q3}},
     {{V_PROJ, Q3}, {LA_OUT, Q3}}},
    {"q3_k_m", Q3, Q5, {{CAKE_PART_LM_HEAD, Q5}}, {{V_PROJ, Q5}, {LA_OUT, Q5}}},
    {"q4_k_s", Q4, NONE, {{CAKE_PART_LM_HEAD, Q6}}, {{V_PROJ, Q6}, {LA_OUT, Q5}}},
    {"q4_k_m", Q4, Q6, {{CAKE_PART_LM_HEAD, Q6}}, {{V_PROJ, Q6}, {LA_OUT, Q5}}},
    {"q4_k_moe",
     Q4,
     Q6,
     {{CAKE_PART_LM_HEAD, Q6}, {CAKE_PART_SHARED_EXPERT, Q5}},
     {{V_PROJ, Q6}, {LA_OUT, Q5}}},
    {"q4_k_xl",
     Q4,
     NONE,
     {{CAKE_PART_LM_HEAD, Q6}},
     {{V_PROJ, Q6}, {DOWN, Q6}, {LA_OUT, Q8}, {LA_QKV, Q6}, {LA_Z, Q5}}},
    {"q5_k_s", Q5, NONE, {{CAKE_PART_LM_HEAD, Q6}}, {{V_PROJ, Q6}, {LA_OUT, Q6}}},
    {"q5_k_m", Q5, Q6, {{CAKE_PART_LM_HEAD, Q6}}, {{V_PROJ, Q6}, {LA_OUT, Q6}}},
    {"q5_k_moe",
     Q5,
     Q6,
     {{CAKE_PART_LM_HEAD, Q6}, {CAKE_PART_SHARED_EXPERT, Q6}},
     {{V_PROJ, Q6}, {LA_OUT, Q6}}},
    {"q5_k_xl",
     Q5,
     NONE,
     {{CAKE_PART_LM_HEAD, Q6}},
     {{V_PROJ, Q6}, {DOWN, Q6}, {LA_OUT, Q8}, {LA_QKV, Q6}, {LA_Z, Q6}}},
    {"q6_k", Q6, NONE, {{0}}, {{0}}},
    {"q6_k_xl",
     Q6,
     Q8,
     {{CAKE_PART_ATTENTION, Q8}, {CAKE_PART_EMBEDDING, Q8}, {CAKE_PART_LM_HEAD, Q8}},
     {{O_PROJ, Q6}, {LA_OUT, Q8}, {LA_QKV, Q8}, {LA_Z, Q8}}},
    {"q8", Q8, NONE, {{0}}, {{0}}},
};
enum { N_PRESETS = sizeof preset_table / sizeof *preset_table };

void cake_recipe_print_presets(FILE *f) {
    cake_table *t = cake_table_new("lllll");
    static const char *const head[] = {"PRESET", "DEFAULT", "ROLES", "PATHS ENDING IN",
                                       "DOWN_PROJ*"};
    for (size_t i = 0; i < 5; i++) cake_table_add(t, "%s", head[i]);
    for (size_t i = 0; i < N_PRESETS; i++) {
        char roles[256] = "-", bumps[512] = "-";
        size_t at = 0;
        for (const role_entry *e = preset_table[i].roles; e->part; e++)
            at += (size_t)snprintf(roles + at, sizeof roles - at, "%s%s %s", at ? ", " : "",
                                   cake_part_name(e->part), cake_codec_name(e->codec));
        at = 0;
        for (size_t j = 0; j < BUMPS_MAX && preset_table[i].bumps[j].suffix; j++)
            at += (size_t)snprintf(bumps + at, sizeof bumps - at, "%s%s %s", at ? ", " : "",
                                   preset_table[i].bumps[j].suffix + 1,
                                   cake_codec_name(preset_table[i].bumps[j].codec));
        cake_table_add(t, "%s", preset_table[i].name);
        cake_table_add(t, "%s", cake_codec_name(preset_table[i].standard));
        cake_table_add(t, "%s", roles);
        cake_table_add(t, "%s", bumps);
        cake_table_add(t, "%s",
                       preset_table[i].more == NONE ? "-" : cake_codec_name(preset_table[i].more));
    }
    cake_table_print(t, 0, f);
    cake_table_free(t);
    fprintf(f, "\n* .mlp.down_proj in the first and last eighth of the layers and every third "
               "between.\n  A suffix counts before DOWN_PROJ, that before the role, that before "
               "the default.\n  Routers, vision towers and modules of no known role stay float.\n");
}

/* ---- recipes ---- */

typedef struct {
    pcre2_code *code;
    char *text; /* as given */
    cake_format format;
    uint64_t hits;
} override;

struct cake_recipe {
    int preset; /* -1 */
    bool kquant, mixed;
    cake_codec type;     /* kquant without preset */
    cake_format global;  /* mlx */
    uint32_t low, high;  /* mixed */
    const char *safe[2]; /* mlx: suffixes of modules the family keeps at 8 bits; NULL */
    size_t n_overrides;
    override *overrides;
    pcre2_match_data *match;
};

static const struct {
    const char *name;
    uint32_t low, high;
} mixed_table[] = {
    {"mixed_2_6", 2, 6}, {"mixed_3_4", 3, 4}, {"mixed_3_6", 3, 6}, {"mixed_4_6", 4, 6}};

/* Routers and the like that mlx-lm stores with 8 bits in groups of 64, by model_type. */
static const struct {
    const char *model_type, *suffix[2];
} safe_table[] = {
    {"qwen3_moe", {"mlp.gate", NULL}},
    {"qwen3_next", {"mlp.gate", "shared_expert_gate"}},
    {"qwen3_5", {"mlp.gate", "shared_expert_gate"}},
    {"qwen3_5_moe", {"mlp.gate", "shared_expert_gate"}},
    {"gpt_oss", {"router", NULL}},
    {"granitemoe", {"block_sparse_moe.router.layer", NULL}},
    {"minimax", {"block_sparse_moe.gate", NULL}},
    {"lfm2_moe", {"feed_forward.gate", NULL}},
};

static cake_status affine_format(uint32_t bits, uint32_t group, cake_format *f, cake_error *err) {
    if (!cake_affine_valid(bits, group))
        return cake_fail(err, CAKE_EINVAL,
                         "affine with %u bits in groups of %u does not exist; there are 2, 3, 4, "
                         "5, 6 and 8 bits in groups of 32, 64 and 128",
                         bits, group);
    *f = (cake_format){.kind = CAKE_FORMAT_AFFINE, .bits = bits, .group = group};
    return CAKE_OK;
}

static bool fp_format(const char *name, cake_format *f) {
    cake_fp_mode m;
    if (!cake_fp_parse(name, &m)) return false;
    *f = (cake_format){CAKE_FORMAT_FP, 0, cake_fp_get(m)->bits, cake_fp_get(m)->group, m};
    return true;
}

static bool codec_format(const char *name, cake_format *f) {
    cake_codec c;
    if (!cake_codec_parse(name, &c) || !cake_codec_get(c)->encodes) return false;
    *f = (cake_format){.kind = CAKE_FORMAT_BLOCK, .codec = c};
    return true;
}

#define CODECS "q2_k, q3_k, q4_k, q5_k, q6_k, q4_0, q4_1, q5_0, q5_1 and q8_0"

static cake_status override_format(const cake_recipe *r, const char *type, const char *whole,
                                   cake_format *f, cake_error *err) {
    if (strcmp(type, "float") == 0) {
        *f = (cake_format){.kind = CAKE_FORMAT_FLOAT};
        return CAKE_OK;
    }
    if (r->kquant) {
        if (codec_format(type, f)) return CAKE_OK;
        return cake_fail(err, CAKE_EINVAL,
                         "--override '%.200s': '%.40s' is no codec; there are float, " CODECS,
                         whole, type);
    }
    if (fp_format(type, f)) return CAKE_OK;
    char *end;
    unsigned long bits = strtoul(type, &end, 10),
                  group = r->global.kind == CAKE_FORMAT_AFFINE ? r->global.group : 64;
    bool ok = end != type && bits <= 8;
    if (ok && *end == 'g') {
        const char *digits = end + 1;
        group = strtoul(digits, &end, 10);
        ok = end != digits && group <= 128;
    }
    if (!ok || *end)
        return cake_fail(err, CAKE_EINVAL,
                         "--override '%.200s': '%.40s' is no type of MLX; there are float, bits "
                         "such as 8 or 8g32, mxfp4, mxfp8 and nvfp4",
                         whole, type);
    cake_status st = affine_format((uint32_t)bits, (uint32_t)group, f, err);
    return st == CAKE_OK ? st : cake_fail_in(err, st, "--override '%.200s'", whole);
}

static cake_status add_override(cake_recipe *r, const char *text, cake_error *err) {
    const char *eq = strrchr(text, '=');
    if (!eq || eq == text)
        return cake_fail(err, CAKE_EINVAL,
                         "--override '%.200s' is not REGEX=TYPE, such as 'mlp\\.down_proj=q6_k'",
                         text);
    override *o = &r->overrides[r->n_overrides];
    cake_status st = override_format(r, eq + 1, text, &o->format, err);
    if (st != CAKE_OK) return st;
    int code;
    PCRE2_SIZE at;
    o->code = pcre2_compile((PCRE2_SPTR)text, (PCRE2_SIZE)(eq - text), PCRE2_UTF, &code, &at, NULL);
    if (!o->code) {
        PCRE2_UCHAR why[160] = "";
        pcre2_get_error_message(code, why, sizeof why);
        return cake_fail(err, CAKE_EINVAL, "--override '%.200s': at character %zu: %s", text, at,
                         (const char *)why);
    }
    o->text = cake_strdup(text);
    r->n_overrides++;
    return CAKE_OK;
}

static cake_status set_mlx(cake_recipe *r, const cake_recipe_request *q, cake_error *err) {
    const char *mode = q->mode ? q->mode : "affine";
    cake_status st;
    if (fp_format(mode, &r->global)) {
        if ((q->bits && q->bits != r->global.bits) ||
            (q->group_size && q->group_size != r->global.group))
            return cake_fail(err, CAKE_EINVAL,
                             "%s has %u bits in groups of %u; leave out "
                             "--mlx-bits and --mlx-group",
                             mode, r->global.bits, r->global.group);
        if (q->mixed) return cake_fail(err, CAKE_EINVAL, "--recipe works with affine only");
    } else if (strcmp(mode, "affine") != 0) {
        return cake_fail(err, CAKE_EINVAL,
                         "'%.40s' is no mode of MLX; there are affine, mxfp4, mxfp8 and nvfp4",
                         mode);
    } else if ((st = affine_format(q->bits ? q->bits : 4, q->group_size ? q->group_size : 64,
                                   &r->global, err)) != CAKE_OK) {
        return st;
    }
    for (size_t i = 0; q->mixed && i < sizeof mixed_table / sizeof *mixed_table; i++)
        if (strcmp(q->mixed, mixed_table[i].name) == 0) {
            r->mixed = true;
            r->low = mixed_table[i].low;
            r->high = mixed_table[i].high;
        }
    if (q->mixed && !r->mixed)
        return cake_fail(err, CAKE_EINVAL,
                         "'%.40s' is no recipe; there are mixed_2_6, mixed_3_4, mixed_3_6 and "
                         "mixed_4_6",
                         q->mixed);
    /* mlx-lm: a recipe takes the place of the family's own rule. */
    for (size_t i = 0; !r->mixed && q->model_type && i < sizeof safe_table / sizeof *safe_table;
         i++)
        if (strcmp(q->model_type, safe_table[i].model_type) == 0)
            memcpy(r->safe, safe_table[i].suffix, sizeof r->safe);
    return CAKE_OK;
}

static cake_status set_kquant(cake_recipe *r, const cake_recipe_request *q, cake_error *err) {
    r->kquant = true;
    if (!q->preset) {
        cake_format f;
        if (!codec_format(q->type, &f))
            return cake_fail(err, CAKE_EINVAL,
                             "'%.40s' is no codec that can be written; there are " CODECS, q->type);
        r->type = f.codec;
        return CAKE_OK;
    }
    for (int i = 0; i < N_PRESETS; i++)
        if (strcmp(q->preset, preset_table[i].name) == 0) r->preset = i;
    if (r->preset < 0)
        return cake_fail(err, CAKE_EINVAL, "'%.40s' is no preset; --list-presets shows them",
                         q->preset);
    return CAKE_OK;
}

cake_status cake_recipe_new(cake_recipe **out, const cake_recipe_request *q, cake_error *err) {
    if ((q->preset != NULL) + (q->type != NULL) + q->mlx != 1)
        return cake_fail(err, CAKE_EINVAL,
                         "one of --preset, --type and the --mlx options is needed, and only one");
    cake_recipe *r = cake_calloc(1, sizeof *r);
    r->preset = -1;
    r->overrides = cake_calloc(q->n_overrides + 1, sizeof *r->overrides);
    r->match = pcre2_match_data_create(1, NULL);
    cake_assert(r->match);
    cake_status st = q->mlx ? set_mlx(r, q, err) : set_kquant(r, q, err);
    for (size_t i = 0; i < q->n_overrides && st == CAKE_OK; i++)
        st = add_override(r, q->overrides[i], err);
    if (st != CAKE_OK)
        cake_recipe_free(r);
    else
        *out = r;
    return st;
}

void cake_recipe_free(cake_recipe *r) {
    if (!r) return;
    for (size_t i = 0; i < r->n_overrides; i++) {
        pcre2_code_free(r->overrides[i].code);
        free(r->overrides[i].text);
    }
    pcre2_match_data_free(r->match);
    free(r->overrides);
    free(r);
}

static cake_format preset_format(const cake_recipe *r, const char *path, cake_part part,
                                 uint32_t n_layers, const char **why) {
    const int p = r->preset;
    cake_format f = {.kind = CAKE_FORMAT_BLOCK,
                     .codec = p < 0 ? r->type : preset_table[p].standard};
    if (part == CAKE_PART_NONE) {
        *why = "no preset knows a role for it";
        return (cake_format){.kind = CAKE_FORMAT_FLOAT};
    }
    if (p >= 0) {
        for (size_t i = 0; i < BUMPS_MAX && preset_table[p].bumps[i].suffix; i++)
            if (ends(path, preset_table[p].bumps[i].suffix)) {
                f.codec = preset_table[p].bumps[i].codec;
                return f;
            }
        int32_t layer = cake_layer_of(path);
        if (preset_table[p].more != NONE && layer >= 0 && ends(path, DOWN) &&
            cake_layer_gets_more((uint32_t)layer, n_layers)) {
            f.codec = preset_table[p].more;
            return f;
        }
        for (const role_entry *e = preset_table[p].roles; e->part; e++)
            if (e->part == part) {
                f.codec = e->codec;
                return f;
            }
    }
    if (part == CAKE_PART_ROUTER || part == CAKE_PART_VISION) {
        *why = part == CAKE_PART_ROUTER ? "routers stay as they are"
                                        : "vision towers stay as they are";
        return (cake_format){.kind = CAKE_FORMAT_FLOAT};
    }
    return f;
}

/* mlx-lm's substring tests, as loose as they are: switch_mlp.down_proj is a down_proj too. */
static cake_format mlx_format(const cake_recipe *r, const char *path, uint32_t n_layers) {
    cake_format f = r->global;
    if (r->mixed) {
        int32_t layer = cake_layer_of(path);
        bool more = cake_layer_gets_more(layer < 0 ? 0 : (uint32_t)layer, n_layers);
        bool value = strstr(path, "v_proj") || strstr(path, "v_a_proj") || strstr(path, "v_b_proj");
        bool high = ((value || strstr(path, "down_proj")) && more) || strstr(path, "lm_head");
        f.bits = high ? r->high : r->low;
    }
    for (size_t i = 0; i < 2 && r->safe[i]; i++)
        if (ends(path, r->safe[i]))
            f = (cake_format){.kind = CAKE_FORMAT_AFFINE, .bits = 8, .group = 64};
    return f;
}

cake_status cake_recipe_decide(cake_recipe *r, const char *path, uint64_t k, uint32_t n_layers,
                               cake_format *out, const char **why, cake_error *err) {
    static const char uneven[] = "its rows do not divide into blocks";
    *why = NULL;
    for (size_t i = 0; i < r->n_overrides; i++) {
        override *o = &r->overrides[i];
        if (pcre2_match(o->code, (PCRE2_SPTR)path, strlen(path), 0, 0, r->match, NULL) < 0)
            continue;
        o->hits++;
        *out = o->format;
        if (k % cake_format_group(out) == 0) return CAKE_OK;
        return cake_fail(err, CAKE_EINVAL,
                         "--override '%.200s': rows of '%.200s' have %llu weights, not a multiple "
                         "of %u",
                         o->text, path, (unsigned long long)k, cake_format_group(out));
    }
    *out = r->kquant ? preset_format(r, path, cake_part_of(path), n_layers, why)
                     : mlx_format(r, path, n_layers);
    /* mlx-lm looks at the global group alone, also where a module gets another. */
    uint32_t group = cake_format_group(out);
    if (k % group || (!r->kquant && k % cake_format_group(&r->global))) {
        *out = (cake_format){.kind = CAKE_FORMAT_FLOAT};
        *why = uneven;
    }
    return CAKE_OK;
}

bool cake_recipe_is_kquant(const cake_recipe *r) {
    return r->kquant;
}

cake_format cake_recipe_global(const cake_recipe *r) {
    return r->global;
}

bool cake_recipe_lists_all(const cake_recipe *r) {
    return r->mixed;
}

const char *cake_recipe_unused(const cake_recipe *r) {
    for (size_t i = 0; i < r->n_overrides; i++)
        if (r->overrides[i].hits == 0) return r->overrides[i].text;
    return NULL;
}
