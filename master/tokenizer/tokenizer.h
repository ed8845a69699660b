/* Text to token ids and back, as the model's own tokenizer files say.
 *
 * Read from a model directory: tokenizer.json (Hugging Face `tokenizers`, model type BPE), else
 * tokenizer.model (SentencePiece, BPE type), else vocab.json + merges.txt (GPT-2 and Qwen2 kinds),
 * else the metadata of the GGUF file there. A model path that is a GGUF file has only its metadata.
 * tokenizer_config.json and special_tokens_map.json say which tokens are bos and eos. A component
 * this build does not know is CAKE_EUNSUPPORTED naming it, never a guess.
 *
 * An opened tokenizer is immutable: every function taking a `const cake_tokenizer *` may be called
 * from any number of threads at once. A cake_detok belongs to one thread at a time. */
#ifndef CAKE_MASTER_TOKENIZER_TOKENIZER_H
#define CAKE_MASTER_TOKENIZER_TOKENIZER_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cake_tokenizer cake_tokenizer;

/* A growable array of token ids. Start from {0}; cake_ids_deinit frees. Reuse by setting n = 0. */
typedef struct {
    uint32_t *v;
    size_t n, cap;
} cake_ids;
void cake_ids_deinit(cake_ids *ids);
/* CAKE_ENOMEM, or CAKE_OK with id appended. */
cake_status cake_ids_push(cake_ids *ids, uint32_t id, cake_error *err);

/* Open the tokenizer of a model directory or GGUF file. CAKE_ENOTFOUND (no tokenizer there),
 * CAKE_EIO, CAKE_EFORMAT, CAKE_EUNSUPPORTED, CAKE_ENOSPACE (a file above its cap). Blocks on disk;
 * a 150,000-token vocabulary takes some tenths of a second. Free with cake_tokenizer_free (NULL is
 * fine) after all users of it are gone. */
cake_status cake_tokenizer_open(cake_tokenizer **out, const char *model_dir, cake_error *err);
/* The same from the bytes of a tokenizer.json and, optionally (NULL), a tokenizer_config.json. */
cake_status cake_tokenizer_parse(cake_tokenizer **out, const char *json, size_t json_len,
                                 const char *config, size_t config_len, cake_error *err);
void cake_tokenizer_free(cake_tokenizer *t);

/* Write into the folder dir the tokenizer.json and tokenizer_config.json that say what the metadata
 * of a GGUF file says, for a checkpoint made from it. Errors as for opening, and CAKE_EIO. */
cake_status cake_tokenizer_write_gguf(const char *gguf, const char *dir, cake_error *err);

enum {
    CAKE_TOK_ADD_SPECIAL = 1u << 0, /* add what the post-processor adds (bos, eos) */
    /* Recognise special tokens written in the text ("<|im_end|>"). Without it they are plain text:
     * what a user typed never becomes a control token. Added tokens that are not special are always
     * recognised. Chat templates are encoded with it, user text alone without. */
    CAKE_TOK_PARSE_SPECIAL = 1u << 1,
};

/* Append the ids of text[0..len) to *out. NUL bytes are text. Bytes that are not UTF-8 count as
 * U+FFFD, one per maximal ill-formed part (as Rust's and Python's lossy decoding do). On failure
 * *out may have grown. CAKE_ENOMEM; CAKE_EFORMAT when a pattern of the tokenizer exceeds its match
 * limit on this text; CAKE_ENOSPACE above 256 MiB of text or 16 MiB in one word. */
cake_status cake_tokenizer_encode(const cake_tokenizer *t, const char *text, size_t len,
                                  unsigned flags, cake_ids *out, cake_error *err);

/* One more than the largest id. The model's embedding may have more rows (padding). */
uint32_t cake_tokenizer_vocab_size(const cake_tokenizer *t);

/* The bytes that a token adds to a text in the middle of it, which need not be whole UTF-8
 * characters (NULL and *len 0 for an id that names no token). Borrowed from t. Special tokens:
 * their content. */
const uint8_t *cake_tokenizer_token_bytes(const cake_tokenizer *t, uint32_t id, size_t *len);
/* True for a special token (left out of decoded text when asked so). False for an unknown id. */
bool cake_tokenizer_is_special(const cake_tokenizer *t, uint32_t id);
/* True for any token of the added_tokens list, special or not. */
bool cake_tokenizer_is_added(const cake_tokenizer *t, uint32_t id);
/* The id of a token by its content as written in the vocabulary or the added tokens
 * ("<|im_end|>", "\u0120the"); -1 when there is none. */
int64_t cake_tokenizer_find(const cake_tokenizer *t, const char *content, size_t len);
/* bos_token, eos_token of tokenizer_config.json or special_tokens_map.json; -1 when there is none.
 * What ends a generation is decided by generation_config.json and config.json before this. */
int64_t cake_tokenizer_bos(const cake_tokenizer *t);
int64_t cake_tokenizer_eos(const cake_tokenizer *t);
/* How many ids CAKE_TOK_ADD_SPECIAL puts before and after a text (e.g. 1 and 0). */
void cake_tokenizer_n_special(const cake_tokenizer *t, size_t *n_before, size_t *n_after);

/* Decode n ids at once into a fresh NUL-terminated string of *len bytes (caller frees); always
 * whole UTF-8. Ids that name no token are skipped, as the reference does. CAKE_ENOMEM. */
cake_status cake_tokenizer_decode(const cake_tokenizer *t, const uint32_t *ids, size_t n,
                                  bool skip_special, char **text, size_t *len, cake_error *err);

/* Incremental decoding: push ids one by one and get the text that is certain so far. The pieces
 * together with that of cake_detok_flush equal cake_tokenizer_decode of all the ids at once, and
 * each is whole UTF-8: bytes of an unfinished character are held back (as is a run of byte-fallback
 * tokens until it ends, since the reference replaces a run that is not UTF-8 as a whole). */
typedef struct cake_detok cake_detok;
enum { CAKE_DETOK_SHOWN_MAX = 8 };
/* t must outlive it. skip_special: special tokens give no text. Exits when memory is out. */
cake_detok *cake_detok_new(const cake_tokenizer *t, bool skip_special);
void cake_detok_free(cake_detok *d);
/* Give this special token as text all the same; at most CAKE_DETOK_SHOWN_MAX, further ones are
 * ignored. */
void cake_detok_show(cake_detok *d, uint32_t id);
/* *text (borrowed until the next call on d, NUL-terminated) and *len: the text this id completes,
 * often empty. Allocates only when a piece is longer than any before. Exits when memory is out. */
void cake_detok_push(cake_detok *d, uint32_t id, const char **text, size_t *len);
/* The end: what was held back, U+FFFD for a dangling tail. Leaves d as new. */
void cake_detok_flush(cake_detok *d, const char **text, size_t *len);

#endif
