/* Command lines from one table: parsing, --help, shell completion and the option part of the man
 * pages all come from the same rows, so they cannot disagree.
 *
 * A value is taken from the first of: the command line; the environment (CAKE_ and the long name in
 * capitals, '-' as '_': --sample-len is CAKE_SAMPLE_LEN); the config file; the default in the
 * table. Only the winning text is checked, so a flag mends a bad value below it.
 *
 * Config file: cake_config_dir()/config, or --config FILE, or CAKE_CONFIG. Lines "key = value" with
 * long option names as keys, '#' comments, values optionally in double quotes. Keys above the first
 * section hold for every program; below "[cake-master]" or "[cake-worker]" for that one only.
 *
 * Every program has --help/-h, --version/-V, --config FILE, and hidden --dump-man, without rows of
 * its own. A program with verbs also has the verbs `help [VERB]` and `completion bash|zsh`; one
 * without has --completion.
 *
 * libc only. Nothing here is thread-safe; it runs before threads start. */
#ifndef CAKE_COMMON_CLI_CLI_H
#define CAKE_COMMON_CLI_CLI_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum {                  /* stored in the option struct at `offset` as */
               CAKE_OPT_FLAG,   /* bool;  --x, --no-x, --x=false */
               CAKE_OPT_COUNT,  /* int;   -v, -vv */
               CAKE_OPT_STRING, /* const char *, NULL when not given; not empty */
               CAKE_OPT_TEXT,   /* as STRING, but may be empty */
               CAKE_OPT_INT,    /* int64_t in [min, max] */
               CAKE_OPT_FLOAT,  /* double in [min, max] */
               CAKE_OPT_BYTES, /* uint64_t in [min, max]; 4096, 512M, 1.5GiB, 2GB (K M G T and KiB..
                                  are 1024s, KB.. 1000s) */
               CAKE_OPT_DURATION, /* int64_t milliseconds in [min, max]; 2 or 2s, 500ms, 1.5m, 1h */
               CAKE_OPT_ENUM,     /* int, index into choices */
               CAKE_OPT_LIST,     /* cake_cli_list, the option repeated */
} cake_opt_type;

typedef struct {
    const char **v; /* owned by the cake_cli that was parsed */
    size_t n;
} cake_cli_list;

enum {                      /* cake_opt.hint */
       CAKE_OPT_FILE = 1,   /* completion offers files */
       CAKE_OPT_DIR = 2,    /* completion offers folders */
       CAKE_OPT_HIDDEN = 4, /* not in help, completion, man */
       CAKE_OPT_CMDLINE =
           8 /* makes sense on the command line only: no environment, no config file */
};

typedef struct {
    const char *name; /* long name without dashes */
    char letter;      /* short name or 0 */
    cake_opt_type type;
    size_t offset;   /* offsetof in the caller's struct */
    const char *arg; /* placeholder, "N"; NULL for flags */
    const char *def; /* default as the user would type it, or NULL: zero, false, NULL */
    double min, max; /* INT, FLOAT, BYTES, DURATION (ms); both 0: 0 to the largest that fits */
    const char *const *choices; /* ENUM: NULL-terminated */
    uint32_t verbs;             /* bit i: verb i takes it; 0: every verb */
    unsigned hint;
    const char *group; /* heading in help; rows of one group stand together */
    const char *help;  /* one or two sentences, no final full stop for one */
} cake_opt;

typedef struct {
    const char *name; /* "plan", or two words: "cluster create" */
    const char *args; /* operands for the usage line, "[PROMPT]"; NULL: none are taken */
    unsigned min_args, max_args;
    const char *help; /* one line */
    const char *more; /* paragraph for `help VERB` and the man page, or NULL */
} cake_verb;

typedef struct {
    const char *name;       /* "cake-master" */
    const char *summary;    /* one line */
    const char *intro;      /* paragraph for --help, or NULL */
    const char *footer;     /* closing lines of --help (examples), or NULL */
    const cake_verb *verbs; /* NULL when the program has none */
    unsigned n_verbs;       /* at most 32 */
    int default_verb;       /* taken when the command line names none; -1: naming one is required */
    const cake_opt *opts;
    size_t n_opts; /* at most CAKE_CLI_MAX_OPTS */
} cake_cli_program;

enum { CAKE_CLI_MAX_OPTS = 128, CAKE_CLI_CONFIG_MAX = 1 << 20 };

typedef enum {
    CAKE_CLI_RUN,  /* go on: the struct is filled */
    CAKE_CLI_HELP, /* print help: cake_cli_print_help(prog, verb) */
    CAKE_CLI_VERSION,
    CAKE_CLI_COMPLETION, /* args[0] is the shell */
    CAKE_CLI_MAN
} cake_cli_action;

typedef enum { CAKE_FROM_DEFAULT, CAKE_FROM_CONFIG, CAKE_FROM_ENV, CAKE_FROM_ARGV } cake_cli_source;

typedef struct {
    cake_cli_action action;
    int verb;          /* index into verbs; -1 for a program without, or general help */
    bool verb_given;   /* false: the default verb was taken */
    const char **args; /* operands */
    size_t n_args;
    char *config_path; /* file that was read, or would have been; NULL unknown */
    bool config_found;
    uint8_t source[CAKE_CLI_MAX_OPTS]; /* cake_cli_source of each row */
    void *owned;                       /* private */
} cake_cli;

/* Parse argv (argv[0] skipped) into the struct at `out` (any contents; every row's field is written
 * for the verb taken, rows of other verbs get their default). Strings point into argv, the
 * environment or memory of `cli`: keep cli until done with them. CAKE_EUSAGE: unknown option or
 * verb (with the nearest name), missing or bad value, operand too many; CAKE_ECONFIG: the config
 * file or an environment value is at fault. The cli is deinitialised on error. */
cake_status cake_cli_parse(const cake_cli_program *prog, int argc, char **argv, void *out,
                           cake_cli *cli, cake_error *err);
void cake_cli_deinit(cake_cli *cli);

/* For main(): parse and handle everything that is not CAKE_CLI_RUN. Returns -1 to go on, else the
 * exit code: help, version, completion and man text went to stdout (0), a usage error and a hint to
 * stderr (2; 78 for the config file). */
int cake_cli_start(const cake_cli_program *prog, int argc, char **argv, void *out, cake_cli *cli);

/* Where the value of the row with this long name came from. */
cake_cli_source cake_cli_source_of(const cake_cli_program *prog, const cake_cli *cli,
                                   const char *name);

/* Generators. verb -1: the whole program. */
void cake_cli_print_help(const cake_cli_program *prog, int verb, FILE *f);
cake_status cake_cli_print_completion(const cake_cli_program *prog, const char *shell, FILE *f,
                                      cake_error *err);
/* roff for man(7): the synopsis, verbs and options sections, to be put between the hand-written
 * ones. */
void cake_cli_print_man(const cake_cli_program *prog, FILE *f);

/* Set cake_log_min and the log format from --log-level, --log-format (1: json), -q and -v: each -v
 * shows more (info, debug), -q only errors. */
void cake_cli_set_log(int level, int format, bool quiet, int verbose);

/* Nearest of names to `word` by edit distance when near enough to be a slip, else NULL. */
const char *cake_cli_nearest(const char *word, const char *const *names, size_t n);

#endif
