/* Shared by the files of master/tokenizer only: the compiled tokenizer and the state of one encode.
 */
#ifndef CAKE_MASTER_TOKENIZER_INTERNAL_H
#define CAKE_MASTER_TOKENIZER_INTERNAL_H

#include "common/json.h"
#include "common/mem.h"
#include "common/model/gguf.h"
#include "master/tokenizer/tokenizer.h"
#include "master/tokenizer/unicode.h"

#include <pthread.h>

#define TOK_NONE UINT32_MAX

enum {
    TOK_MAX_IDS = 1 << 22,      /* largest id + 1 that a file may name */
    TOK_MAX_STAGES = 32,        /* components of one kind after flattening Sequences */
    TOK_MAX_TEXT = 256 << 20,   /* one text, bytes */
    TOK_MAX_WORD = 16 << 20,    /* one pre-token, bytes */
    TOK_MAX_PATTERN = 1 << 16,  /* a regular expression, bytes */
    TOK_MAX_TOKEN = 1 << 16,    /* content of one token, bytes */
    TOK_MAX_SPECIAL = 64,       /* ids a post-processor adds on one side */
    TOK_MATCH_LIMIT = 10 << 20, /* backtracking steps of one match */
    TOK_FILE_MAX = 64 << 20,    /* tokenizer.json and its like */
};

/* ---- growable bytes ---- */
typedef struct {
    char *p;
    size_t n, cap;
} tok_buf;
bool tok_buf_reserve(tok_buf *b, size_t cap); /* false when memory is out */
bool tok_buf_add(tok_buf *b, const void *p, size_t n);
void tok_buf_free(tok_buf *b);

/* ---- vocabulary ---- */
enum {                  /* bits of tok_token.kind */
       TOK_MODEL = 1,   /* an entry of the model's vocabulary */
       TOK_ADDED = 2,   /* an entry of added_tokens */
       TOK_SPECIAL = 4, /* special */
       TOK_BYTE = 8,    /* "<0xHH>" under a ByteFallback decoder; its bytes are that one byte */
};
typedef struct {
    uint32_t off, len;         /* content in vocab.text */
    uint32_t raw_off, raw_len; /* bytes in decoded text, in vocab.raw */
    uint8_t kind;              /* 0: no such token */
} tok_token;
typedef struct {
    tok_token *v;
    uint32_t n;      /* largest id + 1 */
    uint32_t n_used; /* tokens present */
    tok_buf text, raw;
    uint32_t *slot; /* content -> id + 1, open addressing, power-of-two size */
    uint32_t mask;
    uint64_t seed;
} tok_vocab;

uint64_t tok_hash(const void *p, size_t n, uint64_t seed);
uint64_t tok_random_seed(void);
/* Grow v->v to hold id. CAKE_EFORMAT above TOK_MAX_IDS. */
cake_status tok_vocab_add(tok_vocab *v, uint32_t id, const char *s, size_t len, unsigned kind,
                          cake_error *err);
uint32_t tok_vocab_find(const tok_vocab *v, const char *s, size_t len); /* TOK_NONE */
void tok_vocab_free(tok_vocab *v);

/* ---- BPE ---- */
typedef struct {
    uint64_t key; /* left << 32 | right */
    uint32_t rank, id;
} tok_pair; /* id TOK_NONE: empty */
typedef struct {
    tok_pair *pairs;
    uint64_t mask, seed;
    size_t n_pairs;
    bool byte_level, byte_fallback, fuse_unk, ignore_merges;
    bool split_meta;       /* words may be cut before each U+2581 that follows another character */
    uint32_t unk;          /* TOK_NONE: none */
    uint32_t byte_id[256]; /* byte_level: the token of each byte, TOK_NONE when absent */
    uint32_t fallback_id[256]; /* "<0xHH>" */
    uint32_t ascii_id[128];    /* not byte_level: single ASCII characters */
} tok_bpe;

/* Room for n pairs; then tok_bpe_add_pair (a repeated pair takes the later rank). */
cake_status tok_bpe_reserve(tok_bpe *b, size_t n, cake_error *err);
void tok_bpe_add_pair(tok_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* After vocabulary and pairs are complete: symbol tables, split_meta. */
cake_status tok_bpe_finish(tok_bpe *b, const tok_vocab *v, cake_error *err);

/* ---- normalizers ---- */
typedef enum {
    TOK_N_NFC,
    TOK_N_NFD,
    TOK_N_NFKC,
    TOK_N_NFKD,
    TOK_N_LOWER,
    TOK_N_PREPEND,
    TOK_N_APPEND,
    TOK_N_REPLACE,
    TOK_N_REPLACE_RE,
    TOK_N_STRIP,
    TOK_N_COLLAPSE
} tok_norm_kind;
typedef struct tok_regex tok_regex;
typedef struct {
    tok_norm_kind kind;
    char *a, *b; /* PREPEND/APPEND: a; REPLACE: a by b */
    size_t a_len, b_len;
    tok_regex *re;
    bool left, right;
} tok_norm;

/* ---- pre-tokenizers ---- */
typedef enum {
    TOK_P_SCAN,
    TOK_P_SPLIT_RE,
    TOK_P_SPLIT_STR,
    TOK_P_DIGITS,
    TOK_P_PUNCT,
    TOK_P_WHITESPACE,
    TOK_P_WHITESPACE_SPLIT,
    TOK_P_METASPACE,
    TOK_P_PREFIX_SPACE,
    TOK_P_BYTE_MAP
} tok_pre_kind;
typedef enum {
    TOK_B_ISOLATED,
    TOK_B_REMOVED,
    TOK_B_CONTIGUOUS,
    TOK_B_PREVIOUS,
    TOK_B_NEXT
} tok_behavior;
typedef size_t tok_scan_fn(const uint8_t *s, size_t i, size_t n);
typedef struct {
    tok_pre_kind kind;
    tok_behavior behavior;
    bool invert;
    tok_scan_fn *scan;
    tok_regex *re;
    char *str; /* SPLIT_STR pattern, METASPACE replacement */
    size_t str_len;
    enum { TOK_META_ALWAYS, TOK_META_FIRST, TOK_META_NEVER } scheme;
    bool split;
} tok_pre;

/* ---- decoders ---- */
typedef struct {
    enum { TOK_D_REPLACE, TOK_D_STRIP, TOK_D_METASPACE } kind;
    char *a, *b;
    size_t a_len, b_len;
    uint32_t start, stop;
} tok_piece_op; /* applied to each token's text alone */

/* ---- added tokens ---- */
typedef struct {
    uint32_t child, sibling, id; /* id TOK_NONE: no token ends here */
    uint8_t byte;
} tok_node;
typedef struct {
    tok_node *v;
    uint32_t n, cap;
    uint32_t root[256]; /* 0: none (node 0 is unused) */
} tok_trie;
cake_status tok_trie_add(tok_trie *t, const char *s, size_t len, uint32_t id, cake_error *err);
/* Longest token at s[i]; TOK_NONE, or its id and *end. */
uint32_t tok_trie_longest(const tok_trie *t, const uint8_t *s, size_t i, size_t n, size_t *end);
typedef struct {
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized;
    uint32_t off, len; /* its content, normalized if `normalized`, in vocab.text */
} tok_added;

typedef struct tok_scratch tok_scratch;

struct cake_tokenizer {
    tok_vocab vocab;
    tok_bpe bpe;

    tok_norm norm[TOK_MAX_STAGES];
    size_t n_norm;
    tok_pre pre[TOK_MAX_STAGES];
    size_t n_pre;
    bool byte_mapped; /* words reach the model in the byte alphabet (a stage after ByteLevel) */

    tok_added *added; /* by added_of[id] - 1 */
    size_t n_added;
    uint32_t *added_of; /* id -> index + 1 */
    tok_trie raw_trie, norm_trie;

    uint32_t before[TOK_MAX_SPECIAL], after[TOK_MAX_SPECIAL];
    size_t n_before, n_after;
    bool has_template;
    int64_t bos, eos;

    tok_piece_op piece_ops[TOK_MAX_STAGES];
    size_t n_piece_ops;
    bool dec_byte_level, dec_byte_fallback, dec_join_space, dec_first_rule;
    uint32_t strip_cp, strip_start; /* of the whole text */

    pthread_mutex_t lock; /* guards pool, n_pool */
    tok_scratch *pool[8]; /* idle scratch, with warm word caches */
    size_t n_pool;
};

/* ---- one encode: buffers and the word cache, owned by one call at a time ---- */
typedef struct {
    uint64_t key[3]; /* the word, zero padded; len 0: empty slot */
    uint8_t len, n_ids;
    uint16_t pad;
    uint32_t ids[9];
} tok_slot; /* 64 bytes: one cache line */
enum { TOK_CACHE_BITS = 15, TOK_SLOT_KEY = 24, TOK_SLOT_IDS = 9 };

typedef struct {
    uint32_t id, prev, next;
} tok_sym;
typedef struct {
    uint32_t rank, pos, left, right;
} tok_cand;

struct tok_scratch {
    tok_slot *cache;
    uint64_t seed;
    tok_buf clean, norm[2], stage[TOK_MAX_STAGES], word, lookup;
    int32_t *cps; /* normalization workspace */
    size_t cps_cap;
    uint32_t *small; /* 3 x TOK_SMALL */
    tok_sym *sym;
    size_t sym_cap;
    tok_cand *heap;
    size_t heap_n, heap_cap;
    void *match_data, *match_ctx, *jit_stack; /* pcre2 */
};
tok_scratch *tok_scratch_new(void); /* NULL when memory is out */
void tok_scratch_free(tok_scratch *s);

typedef struct {
    const cake_tokenizer *t;
    tok_scratch *s;
    unsigned flags;
    cake_ids *out;
    cake_error *err;
} tok_enc;

/* Ids of one pre-token, appended to e->out. */
cake_status tok_bpe_word(tok_enc *e, const char *s, size_t n);
/* Run pre-tokenizer stage i and those after it on a piece; at_start: it begins the text. */
cake_status tok_pre_run(tok_enc *e, size_t i, const char *s, size_t n, bool at_start);
/* Run all normalizers; *out is s itself or lies in the scratch. */
cake_status tok_norm_run(const cake_tokenizer *t, tok_scratch *sc, const char *s, size_t n,
                         const char **out, size_t *out_n, cake_error *err);

/* ---- regular expressions (PCRE2) ---- */
/* An Oniguruma pattern as tokenizer.json has it, compiled with the same meaning or refused. */
cake_status tok_regex_new(tok_regex **out, const char *pattern, size_t len, cake_error *err);
void tok_regex_free(tok_regex *r);
/* First match at or after `from`: 1 and [*start, *end), 0 none, < 0 with e filled. Never empty. */
int tok_regex_find(const tok_regex *r, tok_scratch *sc, const char *s, size_t n, size_t from,
                   size_t *start, size_t *end, cake_error *err);
/* A hand-written scanner that cuts exactly as this pattern does, or NULL. */
tok_scan_fn *tok_scan_for(const char *pattern, size_t len);
extern const char tok_pattern_gpt2[], tok_pattern_qwen2[], tok_pattern_llama3[],
    tok_pattern_o200k[], tok_pattern_tekken[];

/* ---- loading ---- */
cake_tokenizer *tok_new(void);
/* What every source shares once vocabulary, pairs, added tokens and components are set. */
cake_status tok_finish(cake_tokenizer *t, cake_error *err);
cake_status tok_add_added(cake_tokenizer *t, const tok_added *a, const char *content, size_t len,
                          bool special, cake_error *err);
cake_status tok_load_json(cake_tokenizer *t, json_object *root, cake_error *err);
cake_status tok_load_gpt2(cake_tokenizer *t, const char *dir, json_object *config, cake_error *err);
cake_status tok_load_spm(cake_tokenizer *t, const uint8_t *p, size_t n, cake_error *err);
cake_status tok_load_gguf(cake_tokenizer *t, const cake_gguf *g, cake_error *err);

/* Pieces as SentencePiece and GGUF list them; ids and types are theirs. */
enum {
    TOK_PIECE_NORMAL = 1,
    TOK_PIECE_UNKNOWN,
    TOK_PIECE_CONTROL,
    TOK_PIECE_USER_DEFINED,
    TOK_PIECE_UNUSED,
    TOK_PIECE_BYTE
};
typedef struct {
    const uint8_t *s; /* UTF-8, not empty, borrowed */
    size_t n;
    float score; /* not NaN */
    uint32_t type, id;
} tok_piece;
typedef struct {
    bool dummy_prefix, collapse, escape;
} tok_spm;
/* Vocabulary, merges by score, components; sorts v. Ends with tok_finish. */
cake_status tok_build_spm(cake_tokenizer *t, tok_piece *v, size_t count, const tok_spm *o,
                          cake_error *err);
cake_status tok_add_merge_line(cake_tokenizer *t, const char *s, size_t n, uint32_t rank,
                               tok_buf *tmp, cake_error *err);
/* Components (components.c); o may be NULL or JSON null. */
cake_status tok_parse_normalizer(cake_tokenizer *t, json_object *o, cake_error *err);
cake_status tok_parse_pre(cake_tokenizer *t, json_object *o, cake_error *err);
cake_status tok_parse_post(cake_tokenizer *t, json_object *o, cake_error *err);
cake_status tok_parse_decoder(cake_tokenizer *t, json_object *o, cake_error *err);
/* A token's text as the decoder takes it: added tokens as they are found in normalized text. */
const char *tok_decoder_text(const cake_tokenizer *t, uint32_t id, size_t *n);
/* Fill vocab.raw from the decoder's components. */
cake_status tok_fill_raw(cake_tokenizer *t, cake_error *err);

/* ByteLevel's alphabet: the code point of each byte, and back (-1). */
uint32_t tok_byte_char(uint8_t b);
int tok_char_byte(uint32_t cp);

#endif
