/* The command line of cake-master as a struct: the one option table, its verbs, and the checks
 * between options. Ranges are checked when parsed; see common/cli/cli.h for where values come from.
 */
#ifndef CAKE_MASTER_OPTIONS_H
#define CAKE_MASTER_OPTIONS_H

#include "common/cli/cli.h"

enum { /* cake_cli.verb; the order of the table */
       CAKE_VERB_RUN,
       CAKE_VERB_CHAT,
       CAKE_VERB_SERVE,
       CAKE_VERB_PLAN,
       CAKE_VERB_BUNDLE,
       CAKE_VERB_WORKERS,
       CAKE_VERB_CLUSTER_CREATE,
       CAKE_VERB_CLUSTER_SHOW,
       CAKE_VERB_CLUSTER_JOIN,
       CAKE_VERB_CLUSTER_ROTATE,
       CAKE_VERB_BENCH,
       CAKE_VERB_PERPLEXITY,
       CAKE_VERB_CALIBRATE,
       CAKE_VERB_QUANTIZE,
       CAKE_VERB_INSPECT,
       CAKE_VERB_VERIFY,
       CAKE_VERB_DOCTOR,
       CAKE_VERB_VERSION,
       CAKE_VERB_COUNT
};

enum { CAKE_COMPUTE_INT8, CAKE_COMPUTE_F32 };                             /* --compute */
enum { CAKE_OPTION_KV_F16, CAKE_OPTION_KV_Q8 };                           /* --kv */
enum { CAKE_OPTION_WIRE_F32, CAKE_OPTION_WIRE_F16, CAKE_OPTION_WIRE_Q8 }; /* --wire */
enum {
    CAKE_MLX_NONE,
    CAKE_MLX_AFFINE,
    CAKE_MLX_MXFP4,
    CAKE_MLX_MXFP8,
    CAKE_MLX_NVFP4
};                                                        /* --mlx-mode */
enum { CAKE_OPTIMIZE_LATENCY, CAKE_OPTIMIZE_THROUGHPUT }; /* --optimize */

enum { CAKE_OPTION_SPECULATE_AUTO, CAKE_OPTION_SPECULATE_OFF }; /* --speculate */

typedef struct {
    /* model and prompt */
    const char *model;         /* folder, or a name in the Hugging Face cache; NULL */
    const char *prompt;        /* NULL: not given (also taken from the operand of `run`) */
    const char *system_prompt; /* NULL */
    bool raw;                  /* prompt goes in as it is, no chat form */
    bool echo;                 /* stdout starts with the prompt */
    int64_t sample_len;        /* tokens to generate at most */
    /* sampling */
    double temperature;    /* 0: greedy */
    int64_t top_k;         /* 0: off */
    double top_p;          /* 1: off */
    double min_p;          /* 0: off */
    double repeat_penalty; /* 1: off */
    int64_t repeat_last_n; /* tokens looked back; 0: off */
    double presence_penalty, frequency_penalty;
    int64_t seed;            /* -1: choose one */
    const char *dump_logits; /* file, NULL */
    /* computing */
    int compute;     /* CAKE_COMPUTE_* */
    int kv;          /* CAKE_OPTION_KV_* */
    int wire;        /* CAKE_OPTION_WIRE_* */
    int64_t threads; /* 0: one per core */
    int64_t context; /* positions; 0: the model's, at most 4096 */
    uint64_t memory; /* bytes this machine gives; 0: what is free */
    int optimize;    /* CAKE_OPTIMIZE_* */
    /* cluster */
    const char *topology;         /* file, NULL: discovery */
    const char *name;             /* NULL: host name */
    const char *address;          /* HOST:PORT */
    const char *cluster_key_file; /* NULL: CAKE_CLUSTER_KEY, then the stored key */
    int64_t discovery_timeout_ms; /* 0: look for nobody */
    int64_t min_workers;
    const char *cache; /* folder, NULL: cake_cache_dir() */
    bool insecure;
    const char *out; /* bundle: folder */
    bool force;      /* cluster create/join: replace a stored key */
    /* model tools */
    const char *text;      /* file */
    const char *reference; /* model to compare with, NULL */
    int64_t chunks;        /* windows to calibrate with; 0: all */
    /* serving */
    const char *api;                /* HOST:PORT */
    int64_t sequences, queue;       /* computed at once, waiting */
    int64_t recover_timeout_ms;     /* answers wait so long for workers that were lost */
    const char *api_key_file;       /* NULL */
    const char *tls_cert, *tls_key; /* PEM files of the API */
    bool insecure_no_auth;
    const char *cors;          /* NULL */
    int64_t deadline_ms;       /* of a request; 0: none */
    int speculate;             /* CAKE_OPTION_SPECULATE_* */
    const char *model_name;    /* NULL: from the model's path */
    const char *chat_template; /* file; NULL: the model's */
    /* talking */
    const char *server; /* address of a server; NULL: the model runs here */
    bool history;       /* remember what was typed */
    /* quantizing */
    const char *preset, *type, *recipe, *imatrix; /* NULL */
    int mlx_mode;                                 /* CAKE_MLX_* */
    int64_t mlx_bits, mlx_group;                  /* 0: not given */
    cake_cli_list overrides;                      /* REGEX=TYPE */
    bool list_presets, requantize;
    uint64_t shard_size;
    bool tensors;         /* inspect: one line for each */
    const char *paths[2]; /* operands of inspect and verify; NULL */
    /* output */
    bool json;
    int color;      /* cake_color */
    int log_format; /* 0 text, 1 json */
    int log_level;  /* cake_log_level */
    bool quiet;
    int verbose;
} cake_master_options;

extern const cake_cli_program cake_master_program;

/* What the table cannot say: run needs a model and a prompt, one prompt only, plan and bundle need
 * a model, and so on. Moves the operand of `run` into o->prompt. CAKE_EUSAGE with the remedy. */
cake_status cake_master_options_check(cake_master_options *o, const cake_cli *cli, cake_error *err);

#endif
