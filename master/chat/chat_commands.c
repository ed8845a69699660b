/* What a line that begins with '/' does in a chat. */
#include "common/cli/cli.h"
#include "common/cli/human.h"
#include "common/mem.h"
#include "master/chat/chat_impl.h"
#include "master/ui/table.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- settings ---- */

typedef enum { NUMBER, WHOLE, SWITCH, WORD } kind;
typedef struct {
    const char *name;
    kind kind;
    const char *field; /* of the request; NULL: name */
    const char *help;
} setting;

static const setting settings[] = {
    {"temperature", NUMBER, NULL, "randomness; 0 always takes the likeliest token"},
    {"top_p", NUMBER, NULL, "among the likeliest tokens that hold this probability; 1: all"},
    {"top_k", WHOLE, NULL, "among so many of the likeliest tokens; 0: all"},
    {"min_p", NUMBER, NULL, "drop tokens so many times less likely than the likeliest"},
    {"repeat_penalty", NUMBER, NULL, "make tokens that occurred less likely; 1: off"},
    {"presence_penalty", NUMBER, NULL, "-2 to 2, once for a token that occurred"},
    {"frequency_penalty", NUMBER, NULL, "-2 to 2, for each time a token occurred"},
    {"max_tokens", WHOLE, NULL, "tokens of a reply at most"},
    {"seed", WHOLE, NULL, "the same seed gives the same reply"},
    {"reasoning_effort", WORD, NULL, "low, medium or high, for models that know it"},
    {"thinking", SWITCH, "chat_template_kwargs", "on or off, for models that can do without"},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static const char *field_of(const setting *s) {
    return s->field ? s->field : s->name;
}

static void show_setting(const cake_chat *ch, const setting *s, cake_table *t) {
    json_object *v = NULL;
    json_object_object_get_ex(ch->c->settings, field_of(s), &v);
    if (v && s->kind == SWITCH && !json_object_object_get_ex(v, "enable_thinking", &v)) v = NULL;
    cake_table_add(t, "%s", s->name);
    cake_table_add(t, "%s",
                   !v                  ? "(default)"
                   : s->kind == SWITCH ? (json_object_get_boolean(v) ? "on" : "off")
                                       : json_object_get_string(v));
    cake_table_add(t, "%s", s->help);
}

static json_object *value_of(const setting *s, const char *text) {
    char *end;
    errno = 0;
    if (s->kind == SWITCH) {
        bool on = strcmp(text, "on") == 0 || strcmp(text, "true") == 0;
        if (!on && strcmp(text, "off") != 0 && strcmp(text, "false") != 0) return NULL;
        json_object *o = json_object_new_object();
        json_object_object_add(o, "enable_thinking", json_object_new_boolean(on));
        return o;
    }
    if (s->kind == WORD) return *text ? json_object_new_string(text) : NULL;
    if (s->kind == WHOLE) {
        long long v = strtoll(text, &end, 10);
        return *text && !*end && !errno ? json_object_new_int64(v) : NULL;
    }
    double v = strtod(text, &end);
    return *text && !*end && isfinite(v) ? json_object_new_double_s(v, text) : NULL;
}

static cake_status do_set(cake_chat *ch, char *arg, cake_error *err) {
    char *value = arg + strcspn(arg, " \t=");
    if (*value) *value++ = 0;
    value += strspn(value, " \t=");
    const char *names[N_SETTINGS];
    const setting *s = NULL;
    for (size_t i = 0; i < N_SETTINGS; i++) {
        names[i] = settings[i].name;
        if (strcmp(arg, settings[i].name) == 0) s = &settings[i];
    }
    if (*arg && !s) {
        const char *near = cake_cli_nearest(arg, names, N_SETTINGS);
        return cake_fail(err, CAKE_EINVAL, "there is no setting '%.40s'%s%s%s; /set lists them",
                         arg, near ? " (is '" : "", near ? near : "", near ? "' meant?)" : "");
    }
    if (*value && strcmp(value, "default") == 0) {
        json_object_object_del(ch->c->settings, field_of(s));
    } else if (*value) {
        json_object *v = value_of(s, value);
        if (!v)
            return cake_fail(err, CAKE_EINVAL, "'%.40s' is no value for %s (%s)", value, s->name,
                             s->help);
        json_object_object_add(ch->c->settings, field_of(s), v);
    } else {
        cake_table *t = cake_table_new("lll");
        for (size_t i = 0; i < N_SETTINGS; i++)
            if (!s || s == &settings[i]) show_setting(ch, &settings[i], t);
        cake_table_print(t, 2, stderr);
        cake_table_free(t);
    }
    return CAKE_OK;
}

/* ---- the other commands ---- */

static cake_status do_clear(cake_chat *ch, char *arg, cake_error *err) {
    (void)arg, (void)err;
    cake_conversation_clear(ch->c);
    fputs("(forgotten)\n", stderr);
    return CAKE_OK;
}

static cake_status do_system(cake_chat *ch, char *arg, cake_error *err) {
    (void)err;
    if (*arg) {
        cake_conversation_set_system(ch->c, strcmp(arg, "none") == 0 ? NULL : arg);
    } else {
        fprintf(stderr, "%s\n", ch->c->system ? ch->c->system : "(no system message)");
    }
    return CAKE_OK;
}

static cake_status do_stats(cake_chat *ch, char *arg, cake_error *err) {
    (void)arg, (void)err;
    const cake_conversation_stats *s = &ch->last;
    fprintf(stderr, "  %zu messages\n", cake_conversation_length(ch->c));
    if (!ch->has_last) return CAKE_OK;
    double decode_s = s->total_s - s->first_s;
    if (s->has_usage) {
        fprintf(stderr, "  prompt     %" PRIu64 " tokens, %" PRIu64 " of them known from before\n",
                s->prompt_tokens, s->cached_tokens);
        fprintf(stderr, "  reply      %" PRIu64 " tokens, %.1f per second\n", s->generated_tokens,
                s->generated_tokens > 1 && decode_s > 0
                    ? (double)(s->generated_tokens - 1) / decode_s
                    : 0.0);
    }
    if (s->first_s > 0) fprintf(stderr, "  first text after %.2f s\n", s->first_s);
    fprintf(stderr, "  ended      %s, after %.2f s\n", s->finish[0] ? s->finish : "early",
            s->total_s);
    return CAKE_OK;
}

static const char *text_of(json_object *o, const char *key, const char *none) {
    json_object *v;
    return o && json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string)
               ? json_object_get_string(v)
               : none;
}

static double number_of(json_object *o, const char *key) {
    json_object *v;
    return o && json_object_object_get_ex(o, key, &v) ? json_object_get_double(v) : 0;
}

static cake_status do_workers(cake_chat *ch, char *arg, cake_error *err) {
    (void)arg;
    json_object *o = NULL, *nodes = NULL;
    cake_status st = cake_conversation_get(&ch->config->server, "/api/v1/topology", &o, err);
    if (st == CAKE_ENOTFOUND) return cake_fail(err, st, "this server does not tell of its workers");
    if (st != CAKE_OK) return st;
    st = json_object_is_type(o, json_type_object)
             ? cake_json_array(o, "nodes", true, 4096, &nodes, err)
             : cake_fail(err, CAKE_EPROTO, "the topology is no object");
    cake_table *t = cake_table_new("lllrrl");
    static const char *const head[] = {"node", "state", "layers", "memory", "compute", "reason"};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) cake_table_add(t, "%s", head[i]);
    for (size_t i = 0; st == CAKE_OK && i < json_object_array_length(nodes); i++) {
        json_object *n = json_object_array_get_idx(nodes, i), *m = NULL;
        if (!json_object_is_type(n, json_type_object)) continue;
        cake_table_add(t, "%.64s", text_of(n, "name", "?"));
        cake_table_add(t, "%.20s", text_of(n, "state", "?"));
        cake_table_add(t, "%.40s", text_of(n, "layers", "-"));
        json_object_object_get_ex(n, "memory", &m);
        if (!json_object_is_type(m, json_type_object)) m = NULL;
        cake_table_add(t, "%.2f of %.2f GB", number_of(m, "used") / 1e9,
                       number_of(m, "total") / 1e9);
        cake_table_add(t, "%.3f ms", number_of(n, "compute_ms"));
        cake_table_add(t, "%.200s", text_of(n, "reason", ""));
    }
    if (st == CAKE_OK) cake_table_print(t, 2, stderr);
    cake_table_free(t);
    json_object_put(o);
    return st;
}

static cake_status do_save(cake_chat *ch, char *arg, cake_error *err) {
    if (!*arg) return cake_fail(err, CAKE_EINVAL, "where to? /save FILE");
    cake_status st = cake_conversation_save(ch->c, arg, err);
    if (st == CAKE_OK)
        fprintf(stderr, "(%zu messages in %s)\n", cake_conversation_length(ch->c), arg);
    return st;
}

static cake_status do_load(cake_chat *ch, char *arg, cake_error *err) {
    if (!*arg) return cake_fail(err, CAKE_EINVAL, "where from? /load FILE");
    cake_status st = cake_conversation_load(ch->c, arg, err);
    if (st == CAKE_OK)
        fprintf(stderr, "(%zu messages of %s)\n", cake_conversation_length(ch->c), arg);
    return st;
}

static cake_status do_regen(cake_chat *ch, char *arg, cake_error *err) {
    (void)arg;
    if (!cake_conversation_rewind(ch->c, false))
        return cake_fail(err, CAKE_EINVAL, "there is nothing to answer again");
    return cake_chat_reply(ch, err);
}

static cake_status do_quit(cake_chat *ch, char *arg, cake_error *err) {
    (void)arg, (void)err;
    ch->leave = true;
    return CAKE_OK;
}

static cake_status do_help(cake_chat *ch, char *arg, cake_error *err);

static const struct {
    const char *name, *args, *help;
    cake_status (*run)(cake_chat *ch, char *arg, cake_error *err);
} commands[] = {
    {"/help", "", "this list", do_help},
    {"/clear", "", "forget what was said", do_clear},
    {"/system", "[TEXT]", "show or set the system message; 'none' for none", do_system},
    {"/set", "[NAME [VALUE]]", "show or change a setting; 'default' takes it back", do_set},
    {"/stats", "", "tokens and times of the last reply", do_stats},
    {"/workers", "", "the machines that compute, and how they are", do_workers},
    {"/save", "FILE", "write the conversation to a file", do_save},
    {"/load", "FILE", "go on with the conversation of a file", do_load},
    {"/regen", "", "answer the last message again", do_regen},
    {"/quit", "", "leave; so does Ctrl-D", do_quit},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static cake_status do_help(cake_chat *ch, char *arg, cake_error *err) {
    (void)ch, (void)arg, (void)err;
    cake_table *t = cake_table_new("lll");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        cake_table_add(t, "%s", commands[i].name);
        cake_table_add(t, "%s", commands[i].args);
        cake_table_add(t, "%s", commands[i].help);
    }
    cake_table_print(t, 2, stderr);
    cake_table_free(t);
    fputs("  \"\"\" begins and ends a message of many lines; // begins one with a slash.\n",
          stderr);
    return CAKE_OK;
}

cake_status cake_chat_command(cake_chat *ch, const char *line, cake_error *err) {
    char *copy = cake_strdup(line), *arg = copy + strcspn(copy, " \t");
    if (*arg) *arg++ = 0;
    arg += strspn(arg, " \t");
    for (size_t n = strlen(arg); n && isspace((unsigned char)arg[n - 1]);) arg[--n] = 0;
    cake_status st = CAKE_EUSAGE;
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS && st == CAKE_EUSAGE; i++) {
        names[i] = commands[i].name;
        if (strcmp(copy, names[i]) == 0) st = commands[i].run(ch, arg, err);
    }
    if (st == CAKE_EUSAGE) {
        const char *near = cake_cli_nearest(copy, names, N_COMMANDS);
        cake_fail(err, st, "there is no command %.40s%s%s; /help lists them", copy,
                  near ? "; did you mean " : "", near ? near : "");
    }
    free(copy);
    return st;
}

/* ---- completion ---- */

static void complete_file(const char *text, cake_line_choices *out) {
    const char *word = text + out->from;
    char *pattern = cake_asprintf("%s*", word);
    glob_t g;
    if (!strpbrk(word, "*?[") && glob(pattern, GLOB_MARK, NULL, &g) == 0) {
        for (size_t i = 0; i < g.gl_pathc; i++)
            cake_line_choice(out, g.gl_pathv[i], strlen(g.gl_pathv[i]));
        globfree(&g);
    }
    free(pattern);
}

void cake_chat_complete(const char *text, cake_line_choices *out) {
    if (text[0] != '/') return;
    const char *blank = strchr(text, ' ');
    if (!blank) {
        for (size_t i = 0; i < N_COMMANDS; i++)
            if (strncmp(commands[i].name, text, strlen(text)) == 0) {
                char full[32];
                int n = snprintf(full, sizeof full, "%s%s", commands[i].name,
                                 commands[i].args[0] ? " " : "");
                cake_line_choice(out, full, (size_t)n);
            }
        return;
    }
    out->from = (size_t)(blank - text) + 1;
    if (strncmp(text, "/save ", 6) == 0 || strncmp(text, "/load ", 6) == 0)
        complete_file(text, out);
    else if (strncmp(text, "/set ", 5) == 0)
        for (size_t i = 0; i < N_SETTINGS; i++)
            if (strncmp(settings[i].name, text + 5, strlen(text + 5)) == 0)
                cake_line_choice(out, settings[i].name, strlen(settings[i].name));
}
