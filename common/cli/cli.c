/* Parsing of command line, environment and config file by the option table: see cli.h.
 *
 * Order of work: argv is split into options (by row), operands and the verb; then the config file
 * is read into lines; then each row takes the text of its best source and is converted once. */
#include "common/cli/cli.h"
#include "common/cli/human.h"
#include "common/file.h"
#include "common/log.h"
#include "common/mem.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows every program has. They are handled here, not stored. */
enum { BUILTIN_HELP, BUILTIN_VERSION, BUILTIN_CONFIG, BUILTIN_MAN, BUILTIN_COMPLETION, N_BUILTIN };
static const char *const builtin_name[N_BUILTIN] = {"help", "version", "config", "dump-man",
                                                    "completion"};

typedef struct {
    size_t row;
    const char *text; /* flags: "true" or "false" */
} given;

typedef struct {
    char *key, *value; /* into the file's text */
    unsigned line;
    bool other_program; /* below the other program's section */
} config_line;

typedef struct { /* what the results point into; cake_cli.owned */
    char *config_text;
    config_line *config;
    size_t n_config;
    char **env_text; /* copies of list values that were cut at commas */
    size_t n_env_text;
    const char ***lists;
    size_t n_lists;
} owned;

typedef struct {
    const cake_cli_program *prog;
    cake_cli *cli;
    given *given;
    size_t n_given;
    const char *config_path; /* from --config */
    bool help, version, man;
    const char *completion;
    cake_error *err;
} parser;

static bool takes_value(const cake_opt *o) {
    return o->type != CAKE_OPT_FLAG && o->type != CAKE_OPT_COUNT;
}

static bool row_in_verb(const cake_opt *o, int verb) {
    return o->verbs == 0 || verb < 0 || (o->verbs >> verb & 1);
}

/* ---- nearest names ---- */

static size_t edit_distance(const char *a, const char *b) {
    enum { MAX = 48 };
    size_t n = strlen(a), m = strlen(b);
    if (n >= MAX || m >= MAX) return SIZE_MAX;
    size_t row[MAX], before[MAX], two_before[MAX];
    for (size_t j = 0; j <= m; j++) before[j] = j;
    memcpy(two_before, before, sizeof before);
    for (size_t i = 1; i <= n; i++) {
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
            if (before[j] + 1 < best) best = before[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            /* two letters swapped are one slip */
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two_before[j - 2] + 1 < best)
                best = two_before[j - 2] + 1;
            row[j] = best;
        }
        memcpy(two_before, before, sizeof before);
        memcpy(before, row, sizeof row);
    }
    return before[m];
}

const char *cake_cli_nearest(const char *word, const char *const *names, size_t n) {
    const char *best = NULL;
    size_t len = strlen(word), limit = len <= 3 ? 1 : len <= 6 ? 2 : 3, least = limit + 1;
    for (size_t i = 0; i < n; i++) {
        size_t d = edit_distance(word, names[i]);
        if (d < least) least = d, best = names[i];
    }
    if (best || len < 3) return best;
    for (size_t i = 0; i < n; i++) /* "--temp" for temperature: a beginning only one name has */
        if (strncmp(word, names[i], len) == 0) {
            if (best) return NULL;
            best = names[i];
        }
    return best;
}

static const char *nearest_option(const parser *p, const char *word) {
    const char *names[CAKE_CLI_MAX_OPTS + N_BUILTIN];
    size_t n = 0;
    for (size_t i = 0; i < p->prog->n_opts; i++)
        if (!(p->prog->opts[i].hint & CAKE_OPT_HIDDEN)) names[n++] = p->prog->opts[i].name;
    for (size_t i = 0; i < BUILTIN_MAN; i++) names[n++] = builtin_name[i];
    return cake_cli_nearest(word, names, n);
}

/* ---- converting a text ---- */

typedef struct {
    const cake_opt *opt;
    const char *name; /* what the message calls it */
    cake_status status;
} origin;

static void choices_text(const cake_opt *o, char *buf, size_t cap) {
    size_t n = 0, at = 0;
    while (o->choices[n]) n++;
    buf[0] = 0;
    for (size_t i = 0; i < n && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%s",
                               i == 0       ? ""
                               : i + 1 == n ? " or "
                                            : ", ",
                               o->choices[i]);
}

static bool parse_bool(const char *s, bool *out) {
    static const char *const word[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (strcmp(s, word[i]) == 0) return *out = i & 1, true;
    return false;
}

static cake_status range_error(const origin *from, const char *text, cake_error *err) {
    const cake_opt *o = from->opt;
    char lo[CAKE_HUMAN_MAX], hi[CAKE_HUMAN_MAX];
    if (o->type == CAKE_OPT_BYTES) {
        cake_human_bytes(lo, (uint64_t)o->min);
        cake_human_bytes(hi, (uint64_t)o->max);
    } else if (o->type == CAKE_OPT_DURATION) {
        snprintf(lo, sizeof lo, "%.10gs", o->min / 1000);
        snprintf(hi, sizeof hi, "%.10gs", o->max / 1000);
    } else {
        snprintf(lo, sizeof lo, "%.10g", o->min);
        snprintf(hi, sizeof hi, "%.10g", o->max);
    }
    if (o->min == 0 && o->max == 0)
        return cake_fail(err, from->status, "%s %.64s is out of range", from->name, text);
    return cake_fail(err, from->status, "%s %.64s is out of range: it goes from %s to %s",
                     from->name, text, lo, hi);
}

static bool out_of_range(const cake_opt *o, double v) {
    return !(o->min == 0 && o->max == 0) && (v < o->min || v > o->max);
}

static cake_status wrong(const origin *from, const char *text, const char *wanted,
                         cake_error *err) {
    return cake_fail(err, from->status, "%s takes %s, not '%.64s'", from->name, wanted, text);
}

/* Convert text into the row's field of the struct. */
static cake_status store(const origin *from, const char *text, void *out, cake_error *err) {
    const cake_opt *o = from->opt;
    void *field = (char *)out + o->offset;
    switch (o->type) {
    case CAKE_OPT_FLAG: {
        bool v;
        if (!parse_bool(text, &v)) return wrong(from, text, "true or false", err);
        *(bool *)field = v;
        return CAKE_OK;
    }
    case CAKE_OPT_COUNT: {
        bool b;
        int v;
        if (strlen(text) == 1 && isdigit((unsigned char)*text))
            v = *text - '0';
        else if (parse_bool(text, &b))
            v = b;
        else
            return wrong(from, text, "a number from 0 to 9", err);
        *(int *)field = v;
        return CAKE_OK;
    }
    case CAKE_OPT_STRING:
        if (!*text) return cake_fail(err, from->status, "%s is empty", from->name);
        *(const char **)field = text;
        return CAKE_OK;
    case CAKE_OPT_TEXT: *(const char **)field = text; return CAKE_OK;
    case CAKE_OPT_INT: {
        char *end;
        errno = 0;
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || isspace((unsigned char)*text))
            return wrong(from, text, "a whole number", err);
        if (errno || (o->min == 0 && o->max == 0 ? v < 0 : out_of_range(o, (double)v)))
            return range_error(from, text, err);
        *(int64_t *)field = v;
        return CAKE_OK;
    }
    case CAKE_OPT_FLOAT: {
        char *end;
        double v = strtod(text, &end);
        if (end == text || *end || !isfinite(v) || isspace((unsigned char)*text) ||
            strpbrk(text, "xX"))
            return wrong(from, text, "a number", err);
        if (out_of_range(o, v)) return range_error(from, text, err);
        *(double *)field = v;
        return CAKE_OK;
    }
    case CAKE_OPT_BYTES: {
        uint64_t v;
        if (!cake_human_parse_bytes(text, &v))
            return wrong(from, text, "an amount of bytes such as 4096, 512M or 1.5GiB", err);
        if (out_of_range(o, (double)v)) return range_error(from, text, err);
        *(uint64_t *)field = v;
        return CAKE_OK;
    }
    case CAKE_OPT_DURATION: {
        int64_t v;
        if (!cake_human_parse_duration(text, &v))
            return wrong(from, text, "a time such as 2, 500ms or 1.5m", err);
        if (out_of_range(o, (double)v)) return range_error(from, text, err);
        *(int64_t *)field = v;
        return CAKE_OK;
    }
    case CAKE_OPT_ENUM: {
        size_t n = 0;
        for (; o->choices[n]; n++)
            if (strcmp(text, o->choices[n]) == 0) {
                *(int *)field = (int)n;
                return CAKE_OK;
            }
        char list[256];
        choices_text(o, list, sizeof list);
        return wrong(from, text, list, err);
    }
    case CAKE_OPT_LIST: break;
    }
    cake_assert(false && "a list is stored elsewhere");
    return CAKE_EINVAL;
}

static void clear_field(const cake_opt *o, void *out) {
    void *field = (char *)out + o->offset;
    switch (o->type) {
    case CAKE_OPT_FLAG: *(bool *)field = false; break;
    case CAKE_OPT_COUNT:
    case CAKE_OPT_ENUM: *(int *)field = 0; break;
    case CAKE_OPT_STRING:
    case CAKE_OPT_TEXT: *(const char **)field = NULL; break;
    case CAKE_OPT_INT:
    case CAKE_OPT_DURATION: *(int64_t *)field = 0; break;
    case CAKE_OPT_FLOAT: *(double *)field = 0; break;
    case CAKE_OPT_BYTES: *(uint64_t *)field = 0; break;
    case CAKE_OPT_LIST: *(cake_cli_list *)field = (cake_cli_list){0}; break;
    }
}

static void store_default(const cake_opt *o, void *out) {
    clear_field(o, out);
    if (!o->def) return;
    cake_assert(o->type != CAKE_OPT_LIST);
    cake_error err = {0};
    origin from = {o, o->name, CAKE_EINVAL};
    cake_status st = store(&from, o->def, out, &err);
    cake_assert(st == CAKE_OK); /* a default in our own table */
}

/* ---- the command line ---- */

static void add_given(parser *p, size_t row, const char *text) {
    p->given[p->n_given++] = (given){row, text};
}

static cake_status need_value(parser *p, const char *name, const cake_opt *o) {
    if (o && o->type == CAKE_OPT_ENUM) {
        char list[256];
        choices_text(o, list, sizeof list);
        return cake_fail(p->err, CAKE_EUSAGE, "%s needs a value: %s", name, list);
    }
    return cake_fail(p->err, CAKE_EUSAGE, "%s needs a value: %s %s", name, name,
                     o && o->arg ? o->arg : "VALUE");
}

static bool is_long_name(const parser *p, const char *name) {
    for (size_t i = 0; i < p->prog->n_opts; i++)
        if (strcmp(name, p->prog->opts[i].name) == 0) return true;
    return false;
}

/* Is `word` a long option of ours? Then a value was probably forgotten before it. */
static bool is_long_option(const parser *p, const char *word) {
    return word[0] == '-' && word[1] == '-' && is_long_name(p, word + 2);
}

/* The value of an option: what follows '=', or the next argument. */
static cake_status value_of(parser *p, int argc, char **argv, int *i, const char *attached,
                            const char *name, const cake_opt *o, const char **value) {
    if (attached) {
        *value = attached;
        return CAKE_OK;
    }
    if (*i + 1 >= argc) return need_value(p, name, o);
    if (is_long_option(p, argv[*i + 1]))
        return cake_fail(
            p->err, CAKE_EUSAGE,
            "%s needs a value, and '%.64s' is an option (write %s=%.64s if you mean it)", name,
            argv[*i + 1], name, argv[*i + 1]);
    *value = argv[++*i];
    return CAKE_OK;
}

static cake_status long_option(parser *p, int argc, char **argv, int *i) {
    const char *arg = argv[*i], *body = arg + 2, *eq = strchr(body, '=');
    size_t len = eq ? (size_t)(eq - body) : strlen(body);
    char name[64];
    if (len >= sizeof name - 3)
        return cake_fail(p->err, CAKE_EUSAGE, "unknown option '%.64s...'", arg);
    memcpy(name, body, len);
    name[len] = 0;
    for (int b = 0; b < N_BUILTIN; b++) {
        if (strcmp(name, builtin_name[b]) != 0) continue;
        if (b == BUILTIN_COMPLETION && p->prog->verbs) continue; /* there it is a verb */
        const char *text = NULL;
        if (b == BUILTIN_CONFIG || b == BUILTIN_COMPLETION) {
            cake_status st =
                value_of(p, argc, argv, i, eq ? eq + 1 : NULL,
                         b == BUILTIN_CONFIG ? "--config" : "--completion", NULL, &text);
            if (st != CAKE_OK) return st;
        } else if (eq) {
            return cake_fail(p->err, CAKE_EUSAGE, "--%s takes no value", name);
        }
        switch (b) {
        case BUILTIN_HELP: p->help = true; break;
        case BUILTIN_VERSION: p->version = true; break;
        case BUILTIN_CONFIG: p->config_path = text; break;
        case BUILTIN_MAN: p->man = true; break;
        default: p->completion = text; break;
        }
        return CAKE_OK;
    }
    for (size_t r = 0; r < p->prog->n_opts; r++) {
        const cake_opt *o = &p->prog->opts[r];
        bool no = o->type == CAKE_OPT_FLAG && strncmp(name, "no-", 3) == 0 &&
                  strcmp(name + 3, o->name) == 0;
        if (!no && strcmp(name, o->name) != 0) continue;
        if (!takes_value(o)) {
            if (no && eq) return cake_fail(p->err, CAKE_EUSAGE, "--%s takes no value", name);
            add_given(p, r, no ? "false" : eq ? eq + 1 : "true");
            return CAKE_OK;
        }
        const char *text;
        cake_status st = value_of(p, argc, argv, i, eq ? eq + 1 : NULL, arg, o, &text);
        if (st == CAKE_OK) add_given(p, r, text);
        return st;
    }
    const char *near = nearest_option(p, name);
    if (near)
        return cake_fail(p->err, CAKE_EUSAGE, "unknown option --%s; did you mean --%s?", name,
                         near);
    return cake_fail(p->err, CAKE_EUSAGE, "unknown option --%s", name);
}

/* "-n5", "-n 5", "-qv". */
static cake_status short_options(parser *p, int argc, char **argv, int *i) {
    for (const char *s = argv[*i] + 1; *s; s++) {
        if (*s == 'h' || *s == 'V') {
            *(*s == 'h' ? &p->help : &p->version) = true;
            continue;
        }
        size_t r = 0;
        while (r < p->prog->n_opts && p->prog->opts[r].letter != *s) r++;
        if (r == p->prog->n_opts)
            return is_long_name(p, argv[*i] + 1)
                       ? cake_fail(p->err, CAKE_EUSAGE,
                                   "unknown option %.64s; did you mean -%.64s?", argv[*i], argv[*i])
                       : cake_fail(p->err, CAKE_EUSAGE, "unknown option -%c in '%.64s'", *s,
                                   argv[*i]);
        const cake_opt *o = &p->prog->opts[r];
        if (!takes_value(o)) {
            add_given(p, r, "true");
            continue;
        }
        char name[3] = {'-', *s, 0};
        const char *text = NULL;
        cake_status st = value_of(p, argc, argv, i,
                                  s[1] == '=' ? s + 2
                                  : s[1]      ? s + 1
                                              : NULL,
                                  name, o, &text);
        if (st == CAKE_OK) add_given(p, r, text);
        return st;
    }
    return CAKE_OK;
}

static cake_status split_argv(parser *p, int argc, char **argv) {
    cake_status st = CAKE_OK;
    bool only_operands = false;
    for (int i = 1; i < argc && st == CAKE_OK; i++) {
        const char *a = argv[i];
        if (only_operands || a[0] != '-' || !a[1])
            p->cli->args[p->cli->n_args++] = a;
        else if (strcmp(a, "--") == 0)
            only_operands = true;
        else if (a[1] == '-')
            st = long_option(p, argc, argv, &i);
        else
            st = short_options(p, argc, argv, &i);
    }
    return st;
}

/* ---- verbs ---- */

static void drop_args(cake_cli *cli, size_t n) {
    memmove(cli->args, cli->args + n, (cli->n_args - n) * sizeof *cli->args);
    cli->n_args -= n;
}

/* Match the first one or two operands; *words is how many a verb took. -1: none. */
static int match_verb(const cake_cli_program *prog, const char **args, size_t n, size_t *words) {
    for (unsigned v = 0; v < prog->n_verbs; v++) {
        const char *name = prog->verbs[v].name, *space = strchr(name, ' ');
        if (!space) {
            if (n >= 1 && strcmp(args[0], name) == 0) return *words = 1, (int)v;
        } else if (n >= 2 && strlen(args[0]) == (size_t)(space - name) &&
                   memcmp(args[0], name, (size_t)(space - name)) == 0 &&
                   strcmp(args[1], space + 1) == 0) {
            return *words = 2, (int)v;
        }
    }
    return -1;
}

static cake_status unknown_verb(const parser *p, const char **args, size_t n) {
    const cake_cli_program *prog = p->prog;
    char subs[256] = "";
    size_t at = 0, len = strlen(args[0]);
    const char *names[64];
    char first_words[32][32];
    size_t n_names = 0;
    for (unsigned v = 0; v < prog->n_verbs; v++) {
        const char *name = prog->verbs[v].name, *space = strchr(name, ' ');
        if (space && len == (size_t)(space - name) && memcmp(name, args[0], len) == 0 &&
            at < sizeof subs)
            at += (size_t)snprintf(subs + at, sizeof subs - at, "%s%s", at ? ", " : "", space + 1);
        snprintf(first_words[v], sizeof first_words[v], "%.*s",
                 space ? (int)(space - name) : (int)strlen(name), name);
        names[n_names++] = first_words[v];
    }
    if (at && n < 2)
        return cake_fail(p->err, CAKE_EUSAGE, "%s needs to know what to do: one of %s", args[0],
                         subs);
    if (at)
        return cake_fail(p->err, CAKE_EUSAGE, "unknown verb '%.64s %.64s': %s takes one of %s",
                         args[0], args[1], args[0], subs);
    names[n_names++] = "help";
    names[n_names++] = "completion";
    const char *near = cake_cli_nearest(args[0], names, n_names);
    if (near)
        return cake_fail(p->err, CAKE_EUSAGE, "unknown verb '%.64s'; did you mean '%s'?", args[0],
                         near);
    return cake_fail(p->err, CAKE_EUSAGE, "unknown verb '%.64s' (a prompt goes after --prompt)",
                     args[0]);
}

static cake_status find_verb(parser *p) {
    cake_cli *cli = p->cli;
    cli->verb = -1;
    if (!p->prog->verbs) return CAKE_OK;
    if (cli->n_args == 0) {
        cli->verb = p->prog->default_verb;
        if (cli->verb < 0 && !p->help && !p->version && !p->man)
            return cake_fail(p->err, CAKE_EUSAGE, "name a verb");
        return CAKE_OK;
    }
    if (strcmp(cli->args[0], "help") == 0) {
        p->help = true;
        drop_args(cli, 1);
        if (cli->n_args == 0) return CAKE_OK;
    } else if (strcmp(cli->args[0], "completion") == 0) {
        if (cli->n_args != 2 && !p->help)
            return cake_fail(p->err, CAKE_EUSAGE, "completion needs the shell: bash or zsh");
        if (!p->help) p->completion = cli->args[1];
        drop_args(cli, cli->n_args);
        return CAKE_OK;
    }
    size_t words = 0;
    cli->verb = match_verb(p->prog, cli->args, cli->n_args, &words);
    if (cli->verb < 0) return unknown_verb(p, cli->args, cli->n_args);
    cli->verb_given = true;
    drop_args(cli, words);
    return CAKE_OK;
}

static cake_status check_operands(const parser *p) {
    const cake_cli *cli = p->cli;
    const cake_verb *v = cli->verb >= 0 ? &p->prog->verbs[cli->verb] : NULL;
    const char *who = v ? v->name : p->prog->name;
    unsigned max = v ? v->max_args : 0, min = v ? v->min_args : 0;
    if (cli->n_args > max && max == 0)
        return cake_fail(p->err, CAKE_EUSAGE, "%s takes no operand: what is '%.64s'?", who,
                         cli->args[0]);
    if (cli->n_args > max)
        return cake_fail(p->err, CAKE_EUSAGE,
                         "%s takes %s: what is '%.64s'? (a text with blanks needs quotes)", who,
                         v->args, cli->args[max]);
    if (cli->n_args < min) return cake_fail(p->err, CAKE_EUSAGE, "%s needs %s", who, v->args);
    return CAKE_OK;
}

static cake_status check_rows_fit_verb(const parser *p) {
    int verb = p->cli->verb;
    for (size_t i = 0; i < p->n_given; i++) {
        const cake_opt *o = &p->prog->opts[p->given[i].row];
        if (row_in_verb(o, verb)) continue;
        char takers[128] = "";
        size_t at = 0;
        for (unsigned v = 0; v < p->prog->n_verbs && at < sizeof takers; v++)
            if (o->verbs >> v & 1)
                at += (size_t)snprintf(takers + at, sizeof takers - at, "%s%s", at ? ", " : "",
                                       p->prog->verbs[v].name);
        return cake_fail(p->err, CAKE_EUSAGE, "'%s' does not take --%s (%s)",
                         p->prog->verbs[verb].name, o->name, takers);
    }
    return CAKE_OK;
}

/* ---- the config file ---- */

static char *trim(char *s) {
    while (*s == ' ' || *s == '\t') s++;
    char *end = s + strlen(s);
    while (end > s && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) *--end = 0;
    return s;
}

static cake_status config_key_known(const parser *p, const config_line *l) {
    for (size_t r = 0; r < p->prog->n_opts; r++)
        if (strcmp(p->prog->opts[r].name, l->key) == 0) {
            if (!(p->prog->opts[r].hint & CAKE_OPT_CMDLINE)) return CAKE_OK;
            return cake_fail(p->err, CAKE_ECONFIG, "%s:%u: '%s' works on the command line only",
                             p->cli->config_path, l->line, l->key);
        }
    const char *near = nearest_option(p, l->key);
    if (near)
        return cake_fail(p->err, CAKE_ECONFIG, "%s:%u: unknown key '%.64s'; did you mean '%s'?",
                         p->cli->config_path, l->line, l->key, near);
    return cake_fail(
        p->err, CAKE_ECONFIG,
        "%s:%u: %s has no option '%.64s'; if it is meant for another program, put it below "
        "a line with that program's name in brackets, such as [cake-master]",
        p->cli->config_path, l->line, p->prog->name, l->key);
}

static cake_status config_add(parser *p, owned *own, char *text, unsigned line, bool other) {
    char *eq = strchr(text, '=');
    if (!eq)
        return cake_fail(p->err, CAKE_ECONFIG, "%s:%u: expected 'key = value', found '%.64s'",
                         p->cli->config_path, line, text);
    *eq = 0;
    config_line l = {trim(text), trim(eq + 1), line, other};
    for (char *c = l.key; *c; c++)
        if (*c == '_') *c = '-';
    size_t n = strlen(l.value);
    if (n && l.value[0] == '"') {
        if (n < 2 || l.value[n - 1] != '"')
            return cake_fail(p->err, CAKE_ECONFIG,
                             "%s:%u: the quoted value of '%.64s' does not end", p->cli->config_path,
                             line, l.key);
        l.value[n - 1] = 0, l.value++;
    }
    own->config = cake_realloc(own->config, (own->n_config + 1) * sizeof l);
    own->config[own->n_config++] = l;
    return other ? CAKE_OK : config_key_known(p, &l);
}

static cake_status read_config(parser *p, owned *own) {
    const char *path = p->config_path;
    if (!path) path = getenv("CAKE_CONFIG");
    bool named = path && *path;
    if (named) {
        p->cli->config_path = cake_strdup(path);
    } else {
        char *dir = cake_config_dir();
        p->cli->config_path = cake_path_join(dir, "config");
        free(dir);
        if (!cake_file_exists(p->cli->config_path)) return CAKE_OK;
    }
    size_t len;
    cake_status st =
        cake_file_read(p->cli->config_path, CAKE_CLI_CONFIG_MAX, &own->config_text, &len, p->err);
    if (st != CAKE_OK) return cake_fail_in(p->err, CAKE_ECONFIG, "the config file");
    p->cli->config_found = true;
    if (memchr(own->config_text, 0, len))
        return cake_fail(p->err, CAKE_ECONFIG, "%s is not text: it has a zero byte",
                         p->cli->config_path);
    unsigned number = 0;
    bool other = false;
    char *next = own->config_text;
    while (st == CAKE_OK && next && *next) {
        char *line = next;
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        number++;
        line = trim(line);
        if (!*line || *line == '#') continue;
        size_t n = strlen(line);
        if (*line == '[') {
            if (line[n - 1] != ']')
                return cake_fail(p->err, CAKE_ECONFIG, "%s:%u: '%.64s' lacks its closing bracket",
                                 p->cli->config_path, number, line);
            line[n - 1] = 0;
            other = strcmp(trim(line + 1), p->prog->name) != 0;
            continue;
        }
        st = config_add(p, own, line, number, other);
    }
    return st;
}

/* ---- choosing and storing ---- */

static void env_name(const cake_opt *o, char *buf, size_t cap) {
    int n = snprintf(buf, cap, "CAKE_%s", o->name);
    cake_assert(n > 0 && (size_t)n < cap);
    for (char *c = buf; *c; c++) *c = (char)(*c == '-' ? '_' : toupper((unsigned char)*c));
}

static void list_begin(owned *own, const char ***list, size_t cap) {
    *list = cake_calloc(cap + 1, sizeof **list);
    own->lists = cake_realloc(own->lists, (own->n_lists + 1) * sizeof *own->lists);
    own->lists[own->n_lists++] = *list;
}

/* A list in the environment: items between commas. */
static cake_cli_list env_list(owned *own, const char *text) {
    char *copy = cake_strdup(text);
    own->env_text = cake_realloc(own->env_text, (own->n_env_text + 1) * sizeof *own->env_text);
    own->env_text[own->n_env_text++] = copy;
    size_t n = 1;
    for (char *c = copy; *c; c++) n += *c == ',';
    cake_cli_list l = {NULL, 0};
    list_begin(own, &l.v, n);
    for (char *s = copy; s;) {
        char *comma = strchr(s, ',');
        if (comma) *comma++ = 0;
        s = trim(s);
        if (*s) l.v[l.n++] = s;
        s = comma;
    }
    return l;
}

static cake_status fill_row(parser *p, owned *own, size_t r, void *out) {
    const cake_opt *o = &p->prog->opts[r];
    store_default(o, out);
    p->cli->source[r] = CAKE_FROM_DEFAULT;
    if (!row_in_verb(o, p->cli->verb)) return CAKE_OK;
    cake_cli_list list = {NULL, 0};
    if (o->type == CAKE_OPT_LIST) list_begin(own, &list.v, p->n_given + own->n_config);
    cake_cli_list *field = (cake_cli_list *)(void *)((char *)out + o->offset);

    const char *text = NULL;
    int count = 0;
    for (size_t i = 0; i < p->n_given; i++) {
        if (p->given[i].row != r) continue;
        text = p->given[i].text; /* the last one counts */
        count += strcmp(text, "true") == 0;
        if (o->type == CAKE_OPT_LIST) list.v[list.n++] = text;
    }
    char name[96];
    if (text) {
        p->cli->source[r] = CAKE_FROM_ARGV;
        if (o->type == CAKE_OPT_LIST) return *field = list, CAKE_OK;
        if (o->type == CAKE_OPT_COUNT && strcmp(text, "true") == 0)
            return *(int *)(void *)((char *)out + o->offset) = count, CAKE_OK;
        snprintf(name, sizeof name, "--%s", o->name);
        return store(&(origin){o, name, CAKE_EUSAGE}, text, out, p->err);
    }
    if (o->hint & CAKE_OPT_CMDLINE) return CAKE_OK;
    env_name(o, name, sizeof name);
    text = getenv(name);
    if (text && *text) {
        p->cli->source[r] = CAKE_FROM_ENV;
        if (o->type == CAKE_OPT_LIST) return *field = env_list(own, text), CAKE_OK;
        return store(&(origin){o, name, CAKE_ECONFIG}, text, out, p->err);
    }
    const config_line *line = NULL;
    for (size_t i = 0; i < own->n_config; i++) {
        const config_line *l = &own->config[i];
        if (l->other_program || strcmp(l->key, o->name) != 0) continue;
        if (line && o->type != CAKE_OPT_LIST)
            return cake_fail(p->err, CAKE_ECONFIG, "%s:%u: '%s' was given in line %u already",
                             p->cli->config_path, l->line, l->key, line->line);
        line = l;
        if (o->type == CAKE_OPT_LIST) list.v[list.n++] = l->value;
    }
    if (!line) return CAKE_OK;
    p->cli->source[r] = CAKE_FROM_CONFIG;
    if (o->type == CAKE_OPT_LIST) return *field = list, CAKE_OK;
    cake_status st = store(&(origin){o, o->name, CAKE_ECONFIG}, line->value, out, p->err);
    if (st != CAKE_OK) cake_fail_in(p->err, st, "%s:%u", p->cli->config_path, line->line);
    return st;
}

cake_status cake_cli_parse(const cake_cli_program *prog, int argc, char **argv, void *out,
                           cake_cli *cli, cake_error *err) {
    cake_assert(prog->n_opts <= CAKE_CLI_MAX_OPTS && prog->n_verbs <= 32);
    *cli = (cake_cli){.verb = -1};
    owned *own = cake_calloc(1, sizeof *own);
    cli->owned = own;
    size_t words = 1;
    for (int i = 1; i < argc; i++) words += strlen(argv[i]) + 1; /* -vvvv counts four */
    parser p = {.prog = prog, .cli = cli, .err = err, .given = cake_calloc(words, sizeof(given))};
    cli->args = cake_calloc((size_t)(argc > 0 ? argc : 0) + 1, sizeof *cli->args);

    cake_status st = split_argv(&p, argc, argv);
    if (st == CAKE_OK) st = find_verb(&p);
    if (st != CAKE_OK) goto out;
    if (p.help) {
        cli->action = CAKE_CLI_HELP;
        if (!cli->verb_given) cli->verb = -1;
        goto out;
    }
    if (p.version || p.man) {
        cli->action = p.version ? CAKE_CLI_VERSION : CAKE_CLI_MAN;
        goto out;
    }
    if (p.completion) {
        cli->action = CAKE_CLI_COMPLETION;
        cli->args[0] = p.completion, cli->n_args = 1;
        goto out;
    }
    if ((st = check_operands(&p)) != CAKE_OK) goto out;
    if ((st = check_rows_fit_verb(&p)) != CAKE_OK) goto out;
    if ((st = read_config(&p, own)) != CAKE_OK) goto out;
    for (size_t r = 0; r < prog->n_opts && st == CAKE_OK; r++) st = fill_row(&p, own, r, out);
out:
    free(p.given);
    if (st != CAKE_OK) cake_cli_deinit(cli);
    return st;
}

void cake_cli_deinit(cake_cli *cli) {
    owned *own = cli->owned;
    if (own) {
        for (size_t i = 0; i < own->n_lists; i++) free(own->lists[i]);
        for (size_t i = 0; i < own->n_env_text; i++) free(own->env_text[i]);
        free(own->lists);
        free(own->env_text);
        free(own->config);
        free(own->config_text);
        free(own);
    }
    free(cli->args);
    free(cli->config_path);
    *cli = (cake_cli){.verb = -1};
}

cake_cli_source cake_cli_source_of(const cake_cli_program *prog, const cake_cli *cli,
                                   const char *name) {
    for (size_t r = 0; r < prog->n_opts; r++)
        if (strcmp(prog->opts[r].name, name) == 0) return (cake_cli_source)cli->source[r];
    cake_assert(false && "an option of the table");
    return CAKE_FROM_DEFAULT;
}

void cake_cli_set_log(int level, int format, bool quiet, int verbose) {
    if (quiet && level < CAKE_LOG_ERROR) level = CAKE_LOG_ERROR;
    if (verbose >= 1 && level > CAKE_LOG_INFO) level = CAKE_LOG_INFO;
    if (verbose >= 2) level = CAKE_LOG_DEBUG;
    cake_log_min = (cake_log_level)level;
    cake_log_set_json(format == 1);
}

int cake_cli_start(const cake_cli_program *prog, int argc, char **argv, void *out, cake_cli *cli) {
    cake_error err = {0};
    cake_status st = cake_cli_parse(prog, argc, argv, out, cli, &err);
    if (st == CAKE_OK) switch (cli->action) {
        case CAKE_CLI_RUN: return -1;
        case CAKE_CLI_HELP: cake_cli_print_help(prog, cli->verb, stdout); break;
        case CAKE_CLI_VERSION: printf("%s " CAKE_VERSION "\n", prog->name); break;
        case CAKE_CLI_MAN: cake_cli_print_man(prog, stdout); break;
        case CAKE_CLI_COMPLETION:
            st = cake_cli_print_completion(prog, cli->args[0], stdout, &err);
            break;
        }
    if (st != CAKE_OK) {
        fprintf(stderr, "%s: %s\n", prog->name, err.msg);
        if (st == CAKE_EUSAGE) fprintf(stderr, "Try '%s --help'.\n", prog->name);
    } else if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "%s: cannot write to standard output\n", prog->name);
        st = CAKE_EIO;
    }
    cake_cli_deinit(cli);
    return cake_status_exit(st);
}
