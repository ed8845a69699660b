/* Taking answers apart: see answer.h. A buffer holds what cannot be decided yet; each state eats
 * from its front, or waits for more. */
#include "master/chat/answer.h"
#include "common/mem.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    LEAD,      /* before anything: white space, <think>, a Llama 3 call */
    THINK,     /* inside of <think> */
    GAP,       /* white space after thinking or a call */
    TEXT,      /* up to what opens a call */
    OPENED,    /* behind [TOOL_CALLS]: a list, or a name */
    BARE_NAME, /* name[ARGS]{ of Mistral */
    OBJECT,    /* inside of a call's object */
    BETWEEN,   /* behind a call's object */
    PLAIN,     /* text to the end */
} state;

typedef enum { O_OPEN, O_KEY, O_IN_KEY, O_COLON, O_VALUE, O_IN_VALUE, O_NEXT } object_state;
typedef enum { K_NAME, K_ARGUMENTS, K_OTHER } key_kind;

typedef struct {
    char *v;
    size_t n, cap;
} bytes;

struct cake_answer {
    cake_answer_config c;
    cake_part_fn fn;
    void *arg;
    state state;
    bytes held; /* not eaten yet */
    bytes call; /* text of the call so far, until it is announced */
    size_t n_calls;
    bool muted;  /* the call is one too many */
    bool tagged; /* a marker opened the call, so that any name is one */
    /* the object being read */
    object_state object;
    key_kind key;
    bool in_string, escape, bare, announced, streaming;
    unsigned depth;
    bytes word;  /* a key, or the name as JSON */
    bytes value; /* arguments that cannot go out yet */
    bytes out;   /* arguments that go out with this push */
    char name[CAKE_TOOL_NAME_MAX + 1];
};

/* ---- small things ---- */

static void append(bytes *b, const char *s, size_t n) {
    if (n == 0) return;
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n);
        b->v = cake_realloc(b->v, b->cap);
    }
    memcpy(b->v + b->n, s, n);
    b->n += n;
}

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static size_t leading_space(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && is_space(s[i])) i++;
    return i;
}

static void give(cake_answer *a, cake_part_kind kind, const char *s, size_t n) {
    if (n && !(a->muted && kind >= CAKE_PART_CALL)) a->fn(a->arg, kind, s, n);
}

/* s[0..n) begins with word: 1; might once there is more: 0; does not: -1. */
static int begins(const char *s, size_t n, const char *word) {
    size_t w = strlen(word);
    if (memcmp(s, word, n < w ? n : w) != 0) return -1;
    return n >= w;
}

/* How much of s is before word; *whole: word is there, else the rest may begin it. */
static size_t before(const char *s, size_t n, const char *word, bool *whole) {
    size_t w = strlen(word);
    const char *at = memmem(s, n, word, w);
    *whole = at != NULL;
    if (at) return (size_t)(at - s);
    size_t k = n < w - 1 ? n : w - 1;
    while (k && memcmp(s + n - k, word, k) != 0) k--;
    return n - k;
}

static size_t without_trailing_space(const char *s, size_t n) {
    while (n && is_space(s[n - 1])) n--;
    return n;
}

static const char *opener(const cake_answer *a) {
    switch (a->c.format) {
    case CAKE_TOOLS_HERMES: return "<tool_call>";
    case CAKE_TOOLS_LLAMA3: return "<|python_tag|>";
    case CAKE_TOOLS_MISTRAL:
    case CAKE_TOOLS_MISTRAL_ARGS: return "[TOOL_CALLS]";
    default: return NULL;
    }
}

/* ---- calls ---- */

static void open_object(cake_answer *a, bool bare) {
    a->state = OBJECT;
    a->object = bare ? O_VALUE : O_OPEN;
    a->key = K_ARGUMENTS;
    a->bare = bare;
    a->announced = a->streaming = a->in_string = a->escape = false;
    a->depth = 0;
    a->word.n = a->value.n = 0;
    if (!bare) a->name[0] = 0;
}

static bool known_tool(const cake_answer *a) {
    if (a->tagged) return a->name[0] != 0;
    for (size_t i = 0; i < a->c.n_tools; i++)
        if (strcmp(a->name, a->c.tools[i]) == 0) return true;
    return false;
}

/* It was no call: what was taken for one is text. */
static void give_back(cake_answer *a) {
    if (a->announced) {
        a->state = BETWEEN; /* a call that broke off; what follows is whatever it is */
    } else {
        give(a, CAKE_PART_TEXT, a->call.v, a->call.n);
        a->state = PLAIN;
    }
    a->call.n = 0;
}

static bool announce(cake_answer *a) {
    if (a->announced) return true;
    if (!known_tool(a)) return false;
    a->muted = a->c.one_call && a->n_calls > 0;
    if (!a->muted) a->n_calls++;
    give(a, CAKE_PART_CALL, a->name, strlen(a->name));
    a->announced = true;
    a->call.n = 0;
    return true;
}

/* A JSON string of word, without what is around it. */
static bool take_name(cake_answer *a) {
    char *text = cake_strndup(a->word.v, a->word.n);
    json_object *o = json_tokener_parse(text);
    free(text);
    size_t n = json_object_is_type(o, json_type_string) ? (size_t)json_object_get_string_len(o) : 0;
    bool ok = n > 0 && n <= CAKE_TOOL_NAME_MAX && strlen(json_object_get_string(o)) == n;
    if (ok) memcpy(a->name, json_object_get_string(o), n + 1);
    json_object_put(o);
    return ok;
}

/* Arguments that were kept: an object as it is, a string that holds one, or null. */
static void give_value(cake_answer *a) {
    const char *v = a->value.v;
    size_t n = a->value.n;
    if (n && v[0] == '"') {
        char *text = cake_strndup(v, n);
        json_object *o = json_tokener_parse(text);
        free(text);
        if (json_object_is_type(o, json_type_string))
            give(a, CAKE_PART_ARGUMENTS, json_object_get_string(o),
                 (size_t)json_object_get_string_len(o));
        json_object_put(o);
    } else if (n == 0 || (n == 4 && memcmp(v, "null", 4) == 0)) {
        give(a, CAKE_PART_ARGUMENTS, "{}", 2);
    } else {
        give(a, CAKE_PART_ARGUMENTS, v, n);
    }
    a->value.n = 0;
}

static key_kind kind_of_key(const cake_answer *a) {
    static const struct {
        const char *name;
        key_kind kind;
    } keys[] = {{"name", K_NAME}, {"arguments", K_ARGUMENTS}, {"parameters", K_ARGUMENTS}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (a->word.n == strlen(keys[i].name) && memcmp(a->word.v, keys[i].name, a->word.n) == 0)
            return keys[i].kind;
    return K_OTHER;
}

/* One byte inside of a value; false: c is behind it. */
static bool in_value(cake_answer *a, char c) {
    if (a->escape) {
        a->escape = false;
    } else if (a->in_string) {
        a->escape = c == '\\';
        if (c == '"') {
            a->in_string = false;
            if (a->depth == 0) a->object = O_NEXT;
        }
    } else if (c == '"') {
        a->in_string = true;
    } else if (c == '{' || c == '[') {
        a->depth++;
    } else if (c == '}' || c == ']') {
        if (a->depth == 0) return false;
        if (--a->depth == 0) a->object = O_NEXT;
    } else if (a->depth == 0 && (c == ',' || is_space(c))) {
        return false;
    }
    return true;
}

typedef enum { GO_ON, OVER, BROKEN } verdict;

/* A value of the object has ended. */
static verdict value_over(cake_answer *a) {
    if (a->key == K_NAME) {
        if (!take_name(a)) return BROKEN;
    } else if (a->key == K_ARGUMENTS && a->bare) {
        return OVER;
    }
    return GO_ON;
}

static verdict object_over(cake_answer *a) {
    /* Plain JSON with a name in it is no call. */
    if (!a->tagged && !a->streaming && !a->value.n) return BROKEN;
    if (!announce(a)) return BROKEN;
    if (!a->streaming) give_value(a);
    return OVER;
}

/* One byte of a call. *args: it is of arguments that go out as they come. */
static verdict eat(cake_answer *a, char c, bool *args) {
    *args = false;
    switch (a->object) {
    case O_OPEN:
        if (is_space(c)) return GO_ON;
        a->object = O_KEY;
        return c == '{' ? GO_ON : BROKEN;
    case O_KEY:
        if (is_space(c)) return GO_ON;
        if (c == '}') return object_over(a);
        a->object = O_IN_KEY;
        a->word.n = 0;
        return c == '"' ? GO_ON : BROKEN;
    case O_IN_KEY:
        if (c == '"') {
            a->key = kind_of_key(a);
            a->object = O_COLON;
        } else if (c == '\\' || a->word.n >= CAKE_TOOL_NAME_MAX) {
            return BROKEN;
        } else {
            append(&a->word, &c, 1);
        }
        return GO_ON;
    case O_COLON:
        if (is_space(c)) return GO_ON;
        a->object = O_VALUE;
        return c == ':' ? GO_ON : BROKEN;
    case O_VALUE:
        if (is_space(c)) return GO_ON;
        a->object = O_IN_VALUE;
        a->word.n = 0;
        if (a->key == K_ARGUMENTS) {
            if (a->streaming || a->value.n) return BROKEN; /* twice */
            if (a->name[0] && c == '{') {
                if (!announce(a)) return BROKEN;
                a->streaming = true;
            }
        } else if (a->key == K_NAME && (a->announced || a->name[0])) {
            return BROKEN;
        }
        /* fall through */
    case O_IN_VALUE:
        if (!in_value(a, c)) {
            a->object = O_NEXT;
            if (value_over(a) == BROKEN) return BROKEN;
            return eat(a, c, args);
        }
        if (a->key == K_NAME) {
            append(&a->word, &c, 1);
            if (a->word.n > 6 * CAKE_TOOL_NAME_MAX) return BROKEN;
        } else if (a->key == K_ARGUMENTS) {
            *args = a->streaming;
            if (!a->streaming) append(&a->value, &c, 1);
        }
        return a->object == O_NEXT ? value_over(a) : GO_ON;
    default: /* O_NEXT */
        if (is_space(c)) return GO_ON;
        if (c == '}') return object_over(a);
        a->object = O_KEY;
        return c == ',' ? GO_ON : BROKEN;
    }
}

/* Bytes of an object, from the front of s; how many were eaten. */
static size_t read_object(cake_answer *a, const char *s, size_t n) {
    size_t i = 0;
    verdict v = GO_ON;
    for (; i < n && v == GO_ON; i++) {
        bool args;
        v = eat(a, s[i], &args);
        if (args) append(&a->out, s + i, 1);
        if (!a->announced) append(&a->call, s + i, 1);
    }
    give(a, CAKE_PART_ARGUMENTS, a->out.v, a->out.n);
    a->out.n = 0;
    if (v == OVER) a->state = BETWEEN;
    if (v == BROKEN || (!a->announced && a->call.n > CAKE_ANSWER_HELD_MAX) ||
        a->value.n > CAKE_ANSWER_HELD_MAX)
        give_back(a);
    return i;
}

/* ---- states ---- */

enum { WAIT = -1, BARE_NAME_MAX = 2 * CAKE_TOOL_NAME_MAX + 32 };

/* A marker opened a call. */
static void open_call(cake_answer *a, const char *marker) {
    a->tagged = true;
    a->call.n = 0;
    append(&a->call, marker, strlen(marker));
    if (a->c.format == CAKE_TOOLS_MISTRAL || a->c.format == CAKE_TOOLS_MISTRAL_ARGS)
        a->state = OPENED;
    else
        open_object(a, false);
}

static long lead(cake_answer *a, const char *s, size_t n) {
    size_t w = leading_space(s, n);
    if (w == n) return WAIT;
    int think = a->c.thinks ? begins(s + w, n - w, "<think>") : -1;
    if (think == 0) return WAIT;
    if (think == 1) {
        a->state = THINK;
        return (long)(w + 7);
    }
    if (a->c.format == CAKE_TOOLS_LLAMA3 && s[w] == '{') {
        a->tagged = false;
        a->call.n = 0;
        append(&a->call, s, w);
        open_object(a, false);
        return (long)w;
    }
    a->state = TEXT;
    return 0;
}

static long think(cake_answer *a, const char *s, size_t n) {
    bool whole;
    size_t k = before(s, n, "</think>", &whole), t = without_trailing_space(s, k);
    give(a, CAKE_PART_THINKING, s, t);
    if (!whole) return t ? (long)t : WAIT;
    a->state = GAP;
    return (long)(k + 8);
}

static long gap(cake_answer *a, const char *s, size_t n) {
    size_t w = leading_space(s, n);
    if (w == n) return (long)n;
    a->state = a->c.format == CAKE_TOOLS_LLAMA3 && a->n_calls == 0 ? LEAD : TEXT;
    if (a->state == LEAD) a->c.thinks = false;
    return (long)w;
}

static long text(cake_answer *a, const char *s, size_t n) {
    const char *open = opener(a);
    bool whole = false;
    size_t k = open ? before(s, n, open, &whole) : n;
    /* White space goes out with what follows it, and not at all before a call. */
    size_t t = open ? without_trailing_space(s, k) : k;
    give(a, CAKE_PART_TEXT, s, t);
    if (!whole) return t ? (long)t : WAIT;
    open_call(a, open);
    return (long)(k + strlen(open));
}

static long opened(cake_answer *a, const char *s, size_t n) {
    size_t w = leading_space(s, n);
    if (w == n) return WAIT;
    append(&a->call, s, w);
    if (s[w] == '[') {
        append(&a->call, "[", 1);
        open_object(a, false);
        return (long)(w + 1);
    }
    if (s[w] == '{') {
        open_object(a, false);
        return (long)w;
    }
    a->state = BARE_NAME;
    return (long)w;
}

static long bare_name(cake_answer *a, const char *s, size_t n) {
    /* However the text is cut, no more than this is looked at. */
    size_t look = n < BARE_NAME_MAX ? n : BARE_NAME_MAX;
    const char *brace = memchr(s, '{', look);
    size_t len = brace ? (size_t)(brace - s) : look;
    if (!brace && n < BARE_NAME_MAX) return WAIT;
    const char *mark = memchr(s, '[', len); /* [CALL_ID]..., [ARGS] */
    size_t name = without_trailing_space(s, mark ? (size_t)(mark - s) : len);
    append(&a->call, s, len);
    if (!brace || name == 0 || name > CAKE_TOOL_NAME_MAX) {
        give_back(a);
        return (long)len;
    }
    memcpy(a->name, s, name);
    a->name[name] = 0;
    open_object(a, true);
    return (long)len;
}

static long between(cake_answer *a, const char *s, size_t n) {
    size_t w = leading_space(s, n);
    if (w == n) return (long)n;
    if (a->c.format == CAKE_TOOLS_HERMES) {
        int close = begins(s + w, n - w, "</tool_call>");
        if (close == 0) return w ? (long)w : WAIT;
        a->state = GAP;
        return (long)(close == 1 ? w + 12 : w);
    }
    if (s[w] == ',' || s[w] == ';') return (long)(w + 1);
    if (s[w] == '{') {
        a->call.n = 0;
        open_object(a, false);
        return (long)w;
    }
    a->state = GAP;
    return (long)(s[w] == ']' ? w + 1 : w);
}

static long step(cake_answer *a, const char *s, size_t n) {
    switch (a->state) {
    case LEAD: return lead(a, s, n);
    case THINK: return think(a, s, n);
    case GAP: return gap(a, s, n);
    case TEXT: return text(a, s, n);
    case OPENED: return opened(a, s, n);
    case BARE_NAME: return bare_name(a, s, n);
    case OBJECT: return (long)read_object(a, s, n);
    case BETWEEN: return between(a, s, n);
    default: give(a, CAKE_PART_TEXT, s, n); return (long)n;
    }
}

/* ---- life ---- */

cake_answer *cake_answer_new(const cake_answer_config *c, cake_part_fn fn, void *arg) {
    cake_answer *a = cake_calloc(1, sizeof *a);
    a->c = *c;
    a->fn = fn;
    a->arg = arg;
    a->state = c->thinking ? THINK : LEAD;
    return a;
}

void cake_answer_free(cake_answer *a) {
    if (!a) return;
    free(a->held.v);
    free(a->call.v);
    free(a->word.v);
    free(a->value.v);
    free(a->out.v);
    free(a);
}

void cake_answer_push(cake_answer *a, const char *s, size_t len) {
    append(&a->held, s, len);
    size_t at = 0;
    while (at < a->held.n) {
        state was = a->state;
        long k = step(a, a->held.v + at, a->held.n - at);
        if (k == WAIT || (k == 0 && a->state == was)) break;
        at += (size_t)k;
    }
    if (at) memmove(a->held.v, a->held.v + at, a->held.n - at);
    a->held.n -= at;
}

void cake_answer_end(cake_answer *a) {
    if ((a->state == OBJECT && !a->announced) || a->state == OPENED || a->state == BARE_NAME) {
        if (a->state == OBJECT) a->held.n = 0; /* it is in the call already */
        give_back(a);
    }
    if (a->state == THINK) {
        give(a, CAKE_PART_THINKING, a->held.v, without_trailing_space(a->held.v, a->held.n));
    } else if (a->state != OBJECT && a->state != BETWEEN && a->state != GAP) {
        size_t n = a->n_calls ? without_trailing_space(a->held.v, a->held.n) : a->held.n;
        give(a, CAKE_PART_TEXT, a->held.v, n);
    }
    a->held.n = 0;
}

size_t cake_answer_n_calls(const cake_answer *a) {
    return a->n_calls;
}
