/* What the option table prints: help, completion for bash and zsh, and roff for the man pages. */
#include "common/cli/cli.h"

#include <ctype.h>
#include <string.h>

enum { WIDTH = 80, HELP_COLUMN = 28 };

static bool visible(const cake_opt *o, int verb) {
    return !(o->hint & CAKE_OPT_HIDDEN) && (o->verbs == 0 || verb < 0 || (o->verbs >> verb & 1));
}

static bool takes_value(const cake_opt *o) {
    return o->type != CAKE_OPT_FLAG && o->type != CAKE_OPT_COUNT;
}

/* Print text from column `at`, wrapped at WIDTH, later lines indented by `indent`; ends the line.
 */
static void wrap(FILE *f, const char *text, int at, int indent) {
    bool first = true;
    while (*text) {
        int n = (int)strcspn(text, " \n");
        if (!first && at + 1 + n > WIDTH) {
            fprintf(f, "\n%*s", indent, "");
            at = indent, first = true;
        }
        at += fprintf(f, "%s%.*s", first ? "" : " ", n, text);
        first = false;
        text += n;
        if (*text == '\n') {
            fprintf(f, "\n%*s", indent, "");
            at = indent, first = true, text++;
        }
        while (*text == ' ') text++;
    }
    fputc('\n', f);
}

static void option_help_text(const cake_opt *o, char *buf, size_t cap) {
    size_t at = (size_t)snprintf(buf, cap, "%s", o->help);
    if (o->type == CAKE_OPT_ENUM && at < cap) {
        at += (size_t)snprintf(buf + at, cap - at, ": ");
        for (size_t i = 0; o->choices[i] && at < cap; i++)
            at += (size_t)snprintf(buf + at, cap - at, "%s%s",
                                   i == 0               ? ""
                                   : !o->choices[i + 1] ? " or "
                                                        : ", ",
                                   o->choices[i]);
    }
    if (o->def && *o->def && at < cap) snprintf(buf + at, cap - at, " (default %s)", o->def);
}

static void print_row(FILE *f, char letter, const char *name, const char *arg, const char *help) {
    char left[96];
    if (letter)
        snprintf(left, sizeof left, "  -%c, --%s%s%s", letter, name, arg ? " " : "",
                 arg ? arg : "");
    else
        snprintf(left, sizeof left, "      --%s%s%s", name, arg ? " " : "", arg ? arg : "");
    int n = fprintf(f, "%s", left);
    if (n > HELP_COLUMN - 2)
        fprintf(f, "\n%*s", HELP_COLUMN, "");
    else
        fprintf(f, "%*s", HELP_COLUMN - n, "");
    wrap(f, help, HELP_COLUMN, HELP_COLUMN);
}

static void print_options(const cake_cli_program *prog, int verb, bool only_common, FILE *f) {
    const char *group = NULL;
    for (size_t i = 0; i < prog->n_opts; i++) {
        const cake_opt *o = &prog->opts[i];
        if (!visible(o, verb) || (only_common && o->verbs != 0)) continue;
        if (!group || strcmp(group, o->group) != 0) fprintf(f, "\n%s:\n", group = o->group);
        char text[512];
        option_help_text(o, text, sizeof text);
        print_row(f, o->letter, o->name, o->arg, text);
    }
    fprintf(f, "\nGeneral:\n");
    print_row(f, 0, "config", "FILE", "read this config file instead of the user's");
    if (!prog->verbs) print_row(f, 0, "completion", "SHELL", "print completion for bash or zsh");
    print_row(f, 'h', "help", NULL, "show this and leave");
    print_row(f, 'V', "version", NULL, "show the version and leave");
}

static bool any_options(const cake_cli_program *prog, int verb) {
    for (size_t i = 0; i < prog->n_opts; i++)
        if (visible(&prog->opts[i], verb)) return true;
    return false;
}

void cake_cli_print_help(const cake_cli_program *prog, int verb, FILE *f) {
    if (verb >= 0) {
        const cake_verb *v = &prog->verbs[verb];
        fprintf(f, "Usage: %s %s%s%s%s\n\n", prog->name, v->name,
                any_options(prog, verb) ? " [OPTIONS]" : "", v->args ? " " : "",
                v->args ? v->args : "");
        wrap(f, v->help, 0, 0);
        if (v->more) {
            fputc('\n', f);
            wrap(f, v->more, 0, 0);
        }
        print_options(prog, verb, false, f);
    } else if (prog->verbs) {
        fprintf(f, "Usage: %s [VERB] [OPTIONS]\n\n", prog->name);
        wrap(f, prog->intro ? prog->intro : prog->summary, 0, 0);
        fprintf(f, "\nVerbs:\n");
        for (unsigned i = 0; i <= prog->n_verbs + 1; i++) {
            bool own = i < prog->n_verbs;
            const char *name = own                  ? prog->verbs[i].name
                               : i == prog->n_verbs ? "help"
                                                    : "completion";
            const char *help = own                  ? prog->verbs[i].help
                               : i == prog->n_verbs ? "explain a verb and its options"
                                                    : "print completion for bash or zsh";
            fprintf(f, "  %-16s ", name);
            char text[256];
            snprintf(text, sizeof text, "%s%s", help,
                     own && (int)i == prog->default_verb ? " (when no verb is named)" : "");
            wrap(f, text, 19, 19);
        }
        fprintf(f, "\n'%s help VERB' lists the options of a verb. For all verbs:\n", prog->name);
        print_options(prog, -1, true, f);
    } else {
        fprintf(f, "Usage: %s [OPTIONS]\n\n", prog->name);
        wrap(f, prog->intro ? prog->intro : prog->summary, 0, 0);
        print_options(prog, -1, false, f);
    }
    fprintf(
        f,
        "\nAn option can also be set in the environment (--log-level as CAKE_LOG_LEVEL) or in the\n"
        "config file ~/.config/cake/config (log-level = info).\n");
    if (prog->footer && verb < 0) fprintf(f, "\n%s\n", prog->footer);
}

/* ---- completion ---- */

/* "_cake_master" */
static void function_name(const cake_cli_program *prog, FILE *f) {
    fputc('_', f);
    for (const char *c = prog->name; *c; c++) fputc(*c == '-' ? '_' : *c, f);
}

static void option_words(const cake_cli_program *prog, int verb, FILE *f) {
    for (size_t i = 0; i < prog->n_opts; i++) {
        const cake_opt *o = &prog->opts[i];
        if (visible(o, verb)) fprintf(f, "--%s ", o->name);
    }
    fprintf(f, "--config --help%s", prog->verbs ? "" : " --version --completion");
}

/* First words of the verbs, each once; those of two words as one. */
static void verb_words(const cake_cli_program *prog, FILE *f) {
    for (unsigned v = 0; v < prog->n_verbs; v++) {
        const char *name = prog->verbs[v].name;
        size_t len = strcspn(name, " ");
        bool seen = false;
        for (unsigned u = 0; u < v; u++)
            seen |= strcspn(prog->verbs[u].name, " ") == len &&
                    memcmp(prog->verbs[u].name, name, len) == 0;
        if (!seen) fprintf(f, "%.*s ", (int)len, name);
    }
    fprintf(f, "help completion");
}

/* One case of `case "$verb" in` for each verb and each first word of two; body(words) prints it. */
static void verb_cases(const cake_cli_program *prog, FILE *f) {
    for (unsigned v = 0; v < prog->n_verbs; v++) {
        const char *name = prog->verbs[v].name, *space = strchr(name, ' ');
        if (space) {
            size_t len = (size_t)(space - name);
            bool seen = false;
            for (unsigned u = 0; u < v; u++)
                seen |= strncmp(prog->verbs[u].name, name, len + 1) == 0;
            if (!seen) {
                fprintf(f, "    %.*s) words=\"", (int)len, name);
                for (unsigned u = v; u < prog->n_verbs; u++)
                    if (strncmp(prog->verbs[u].name, name, len + 1) == 0)
                        fprintf(f, "%s ", prog->verbs[u].name + len + 1);
                fprintf(f, "\" ;;\n");
            }
        }
        fprintf(f, "    \"%s\") words=\"", name);
        option_words(prog, (int)v, f);
        fprintf(f, "\" ;;\n");
    }
    fprintf(f, "    help) words=\"");
    verb_words(prog, f);
    fprintf(f, "\" ;;\n    completion) words=\"bash zsh\" ;;\n");
}

static void value_options(const cake_cli_program *prog, FILE *f) {
    for (size_t i = 0; i < prog->n_opts; i++) {
        const cake_opt *o = &prog->opts[i];
        if (!visible(o, -1) || !takes_value(o)) continue;
        fprintf(f, "--%s|", o->name);
        if (o->letter) fprintf(f, "-%c|", o->letter);
    }
    fprintf(f, "--config");
    if (!prog->verbs) fprintf(f, "|--completion");
}

/* Common to both shells: find the verb among the words before the cursor. */
static void verb_search(const cake_cli_program *prog, const char *first, const char *last,
                        const char *word, FILE *f) {
    fprintf(f, "  verb=\"\"\n  for ((i = %s; i < %s; i++)); do\n    case \"%s\" in\n    ", first,
            last, word);
    value_options(prog, f);
    fprintf(f,
            ") ((i++)) ;;\n    -*|=) ;;\n    *) verb=\"${verb:+$verb }%s\" ;;\n    esac\n  done\n",
            word);
}

static void bash_completion(const cake_cli_program *prog, FILE *f) {
    fprintf(f, "# bash completion for %s; made by '%s completion bash'\n", prog->name, prog->name);
    function_name(prog, f);
    fprintf(f, "() {\n"
               "  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"\" verb words i\n"
               "  ((COMP_CWORD > 0)) && prev=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
               "  # readline cuts --option=value at the sign\n"
               "  if [[ $cur == \"=\" ]]; then cur=\"\"\n"
               "  elif [[ $prev == \"=\" ]]; then prev=\"${COMP_WORDS[COMP_CWORD-2]}\"; fi\n"
               "  COMPREPLY=()\n"
               "  case \"$prev\" in\n");
    for (size_t i = 0; i < prog->n_opts; i++) {
        const cake_opt *o = &prog->opts[i];
        if (!visible(o, -1) || !takes_value(o)) continue;
        fprintf(f, "  --%s", o->name);
        if (o->letter) fprintf(f, "|-%c", o->letter);
        fprintf(f, ") ");
        if (o->type == CAKE_OPT_ENUM) {
            fprintf(f, "COMPREPLY=($(compgen -W \"");
            for (size_t c = 0; o->choices[c]; c++) fprintf(f, "%s%s", c ? " " : "", o->choices[c]);
            fprintf(f, "\" -- \"$cur\")); ");
        } else if (o->hint & CAKE_OPT_DIR) {
            fprintf(f, "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "
                       "\"$cur\"); ");
        } else if (o->hint & CAKE_OPT_FILE) {
            fprintf(f, "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "
                       "\"$cur\"); ");
        }
        fprintf(f, "return ;;\n");
    }
    fprintf(f, "  --config) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "
               "\"$cur\")); return ;;\n");
    if (!prog->verbs)
        fprintf(f,
                "  --completion) COMPREPLY=($(compgen -W \"bash zsh\" -- \"$cur\")); return ;;\n");
    fprintf(f, "  esac\n");
    if (prog->verbs) {
        verb_search(prog, "1", "COMP_CWORD", "${COMP_WORDS[i]}", f);
        fprintf(f, "  case \"$verb\" in\n    \"\") words=\"");
        verb_words(prog, f);
        fputc(' ', f);
        option_words(prog, prog->default_verb, f);
        fprintf(f, " --version\" ;;\n");
        verb_cases(prog, f);
        fprintf(f, "    *) words=\"\" ;;\n  esac\n");
    } else {
        fprintf(f, "  words=\"");
        option_words(prog, -1, f);
        fprintf(f, "\"\n");
    }
    fprintf(f, "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -F ");
    function_name(prog, f);
    fprintf(f, " %s\n", prog->name);
}

/* Text inside a '...' _arguments spec: no quote, and brackets and colons escaped. */
static void zsh_text(const char *s, FILE *f) {
    for (; *s; s++) {
        if (*s == '\'')
            fputs("'\\''", f);
        else if (strchr("[]:\\", *s))
            fprintf(f, "\\%c", *s);
        else
            fputc(*s, f);
    }
}

static void zsh_option(const cake_opt *o, FILE *f) {
    for (int form = 0; form < 2; form++) {
        if (form == 1 && !o->letter) break;
        fprintf(f, " \\\n      '%s",
                o->type == CAKE_OPT_LIST || o->type == CAKE_OPT_COUNT ? "*" : "");
        if (form == 0)
            fprintf(f, "--%s%s[", o->name, takes_value(o) ? "=" : "");
        else
            fprintf(f, "-%c[", o->letter);
        zsh_text(o->help, f);
        fputc(']', f);
        if (takes_value(o)) {
            fputc(':', f);
            zsh_text(o->arg ? o->arg : "VALUE", f);
            fputc(':', f);
            if (o->type == CAKE_OPT_ENUM) {
                fputc('(', f);
                for (size_t c = 0; o->choices[c]; c++)
                    fprintf(f, "%s%s", c ? " " : "", o->choices[c]);
                fputc(')', f);
            } else if (o->hint & CAKE_OPT_DIR) {
                fputs("_files -/", f);
            } else if (o->hint & CAKE_OPT_FILE) {
                fputs("_files", f);
            }
        }
        fputc('\'', f);
    }
}

static void zsh_arguments(const cake_cli_program *prog, int verb, FILE *f) {
    fprintf(f, "_arguments -s");
    for (size_t i = 0; i < prog->n_opts; i++)
        if (visible(&prog->opts[i], verb)) zsh_option(&prog->opts[i], f);
    fprintf(f, " \\\n      '--config=[config file]:FILE:_files' \\\n      '--help[show help]'");
    if (!prog->verbs)
        fprintf(f, " \\\n      '--version[show the version]' \\\n"
                   "      '--completion=[print completion]:SHELL:(bash zsh)'");
    else
        fprintf(f, " \\\n      '*: : '"); /* the verb itself and operands */
}

static void zsh_completion(const cake_cli_program *prog, FILE *f) {
    fprintf(f, "#compdef %s\n# zsh completion for %s; made by '%s %s'\n", prog->name, prog->name,
            prog->name, prog->verbs ? "completion zsh" : "--completion zsh");
    function_name(prog, f);
    fprintf(f, "() {\n");
    if (!prog->verbs) {
        fprintf(f, "  ");
        zsh_arguments(prog, -1, f);
        fprintf(f, "\n");
    } else {
        fprintf(f, "  local verb words_here\n  local -i i\n");
        verb_search(prog, "2", "CURRENT", "${words[i]}", f);
        fprintf(f, "  case \"$verb\" in\n    \"\")\n      if [[ ${words[CURRENT]} != -* ]]; then\n"
                   "        words_here=(");
        verb_words(prog, f);
        fprintf(f, ")\n        compadd -a words_here\n      else\n        ");
        zsh_arguments(prog, prog->default_verb, f);
        fprintf(f, "\n      fi ;;\n");
        for (unsigned v = 0; v < prog->n_verbs; v++) {
            const char *name = prog->verbs[v].name, *space = strchr(name, ' ');
            if (space) {
                size_t len = (size_t)(space - name);
                bool seen = false;
                for (unsigned u = 0; u < v; u++)
                    seen |= strncmp(prog->verbs[u].name, name, len + 1) == 0;
                if (!seen) {
                    fprintf(f, "    %.*s) compadd ", (int)len, name);
                    for (unsigned u = v; u < prog->n_verbs; u++)
                        if (strncmp(prog->verbs[u].name, name, len + 1) == 0)
                            fprintf(f, "%s ", prog->verbs[u].name + len + 1);
                    fprintf(f, ";;\n");
                }
            }
            fprintf(f, "    \"%s\") ", name);
            zsh_arguments(prog, (int)v, f);
            fprintf(f, " ;;\n");
        }
        fprintf(f, "    help) compadd ");
        verb_words(prog, f);
        fprintf(f, " ;;\n    completion) compadd bash zsh ;;\n  esac\n");
    }
    fprintf(f, "}\n");
    /* Works both as a file in fpath, where the body is called, and when sourced. */
    fprintf(f, "if [[ ${funcstack[1]} == _%s ]]; then ", prog->name); /* the file's name */
    function_name(prog, f);
    fprintf(f, " \"$@\"; else compdef ");
    function_name(prog, f);
    fprintf(f, " %s; fi\n", prog->name);
}

cake_status cake_cli_print_completion(const cake_cli_program *prog, const char *shell, FILE *f,
                                      cake_error *err) {
    if (strcmp(shell, "bash") == 0)
        bash_completion(prog, f);
    else if (strcmp(shell, "zsh") == 0)
        zsh_completion(prog, f);
    else
        return cake_fail(err, CAKE_EUSAGE, "completion is there for bash and zsh, not '%.64s'",
                         shell);
    return CAKE_OK;
}

/* ---- man ---- */

/* Text as roff: a leading dot or quote would be a request, a plain '-' would become a hyphen. */
static void roff(const char *s, FILE *f) {
    if (*s == '.' || *s == '\'') fputs("\\&", f);
    for (; *s; s++) {
        if (*s == '\\')
            fputs("\\e", f);
        else if (*s == '-')
            fputs("\\-", f);
        else
            fputc(*s, f);
    }
}

/* A help line as a sentence. */
static void roff_sentence(const char *s, FILE *f) {
    char first[2] = {(char)toupper((unsigned char)*s), 0};
    roff(first, f);
    if (*s) roff(s + 1, f);
}

static void man_verb_usage(const cake_cli_program *prog, const cake_verb *v, bool first, FILE *f) {
    fprintf(f, "%s.B ", first ? "" : ".br\n");
    roff(prog->name, f);
    fputc(' ', f);
    roff(v->name, f);
    fprintf(f, "\n.RI [ options ]\n");
    if (!v->args) return;
    fprintf(f, ".I ");
    roff(v->args, f);
    fputc('\n', f);
}

static void man_option(const cake_cli_program *prog, const cake_opt *o, FILE *f) {
    fprintf(f, ".TP\n");
    if (o->letter)
        fprintf(f, ".BR \\-%c \", \" ", o->letter);
    else
        fprintf(f, ".BR ");
    fprintf(f, "\\-\\-");
    roff(o->name, f);
    if (o->arg) {
        fprintf(f, " \" \\fI");
        roff(o->arg, f);
        fprintf(f, "\\fR\"");
    }
    fputc('\n', f);
    char text[512];
    option_help_text(o, text, sizeof text);
    roff_sentence(text, f);
    fprintf(f, ".\n");
    if (o->verbs && prog->verbs) {
        fprintf(f, "Verbs: ");
        bool first = true;
        for (unsigned v = 0; v < prog->n_verbs; v++)
            if (o->verbs >> v & 1) {
                fprintf(f, "%s", first ? "" : ", ");
                roff(prog->verbs[v].name, f);
                first = false;
            }
        fprintf(f, ".\n");
    }
}

void cake_cli_print_man(const cake_cli_program *prog, FILE *f) {
    fprintf(f, ".SH SYNOPSIS\n");
    if (prog->verbs) {
        for (unsigned v = 0; v < prog->n_verbs; v++)
            man_verb_usage(prog, &prog->verbs[v], v == 0, f);
        fprintf(f, ".SH VERBS\n");
        for (unsigned v = 0; v < prog->n_verbs; v++) {
            fprintf(f, ".TP\n.B ");
            roff(prog->verbs[v].name, f);
            if (prog->verbs[v].args) {
                fputc(' ', f);
                roff(prog->verbs[v].args, f);
            }
            fprintf(f, "\n");
            roff_sentence(prog->verbs[v].help, f);
            fprintf(f, "%s.\n", (int)v == prog->default_verb ? " (when no verb is named)" : "");
            if (prog->verbs[v].more) {
                roff(prog->verbs[v].more, f);
                fputc('\n', f);
            }
        }
        fprintf(f, ".TP\n.B help \\fR[\\fIVERB\\fR]\nExplain a verb and its options.\n"
                   ".TP\n.BR completion \" bash|zsh\"\nPrint completion for the shell.\n");
    } else {
        fprintf(f, ".B ");
        roff(prog->name, f);
        fprintf(f, "\n.RI [ options ]\n");
    }
    fprintf(f, ".SH OPTIONS\n");
    const char *group = NULL;
    for (size_t i = 0; i < prog->n_opts; i++) {
        const cake_opt *o = &prog->opts[i];
        if (!visible(o, -1)) continue;
        if (!group || strcmp(group, o->group) != 0) fprintf(f, ".SS \"%s\"\n", group = o->group);
        man_option(prog, o, f);
    }
    fprintf(f, ".SS \"General\"\n.TP\n.BR \\-\\-config \" \\fIFILE\\fR\"\n"
               "Read this config file instead of the user's.\n");
    if (!prog->verbs)
        fprintf(
            f, ".TP\n.BR \\-\\-completion \" \\fISHELL\\fR\"\nPrint completion for bash or zsh.\n");
    fprintf(f, ".TP\n.BR \\-h \", \" \\-\\-help\nShow help and leave.\n"
               ".TP\n.BR \\-V \", \" \\-\\-version\nShow the version and leave.\n");
}
