/* cake-master chat: a conversation, with a server somewhere or with the model here. Here, too, it
 * talks to a server, one of its own on the loopback that knows one secret key: there is one way
 * from words to tokens, and a lost worker is dealt with as `serve` does. */
#include "common/clock.h"
#include "common/file.h"
#include "common/mem.h"
#include "master/chat/chat.h"
#include "master/chat/line.h"
#include "master/commands/commands.h"
#include "master/commands/serve.h"
#include "master/commands/session.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { KEY_FILE_MAX = 64 << 10, KEY_BYTES = 24 };

/* ---- interrupts ---- */

static int stop_fd = -1;

static void on_interrupt(int sig) {
    (void)sig;
    uint64_t one = 1;
    (void)!write(stop_fd, &one, sizeof one);
}

static void take_interrupts(void) {
    struct sigaction sa = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &sa, NULL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- the engine of this machine ---- */

typedef struct {
    cake_service *serving;
    pthread_t thread;
    bool runs;
    _Atomic bool over;
    cake_status status;
    cake_error err;
    char key[2 * KEY_BYTES + 1];
} engine;

static void *engine_main(void *arg) {
    engine *e = arg;
    e->status = cake_service_run(e->serving, &e->err);
    atomic_store(&e->over, true);
    return NULL;
}

static void engine_stop(engine *e) {
    if (e->runs) {
        cake_session_interrupt();
        pthread_join(e->thread, NULL);
    }
    cake_service_close(e->serving);
}

/* Until the model is loaded. */
static cake_status engine_start(engine *e, const cake_master_options *o, cake_error *err) {
    unsigned char raw[KEY_BYTES];
    if (RAND_bytes(raw, sizeof raw) != 1)
        return cake_fail(err, CAKE_EIO, "no random numbers to make a key of");
    for (size_t i = 0; i < sizeof raw; i++) snprintf(e->key + 2 * i, 3, "%02x", raw[i]);
    cake_service_private p = {.address = "127.0.0.1:0", .api_key = e->key, .sequences = 1};
    cake_status st = cake_service_open(&e->serving, o, &p, err);
    if (st != CAKE_OK) return st;
    e->runs = pthread_create(&e->thread, NULL, engine_main, e) == 0;
    if (!e->runs) return cake_fail(err, CAKE_ENOMEM, "cannot start a thread");
    while (!cake_service_began(e->serving) && !atomic_load(&e->over)) usleep(10000);
    if (!atomic_load(&e->over)) return CAKE_OK;
    pthread_join(e->thread, NULL);
    e->runs = false;
    return cake_fail(err, e->status, "%s", e->err.msg);
}

/* ---- a server elsewhere ---- */

/* The first key of the file, else that of the environment; NULL: none. The caller frees it. */
static cake_status read_key(const cake_master_options *o, char **key, cake_error *err) {
    const char *env = getenv("CAKE_API_KEY");
    *key = NULL;
    if (!o->api_key_file) {
        if (env && *env) *key = cake_strdup(env);
    } else {
        char *text;
        size_t len;
        cake_status st = cake_file_read(o->api_key_file, KEY_FILE_MAX, &text, &len, err);
        if (st != CAKE_OK) return st;
        for (char *line = text, *next; line && !*key; line = next) {
            next = strchr(line, '\n');
            if (next) *next++ = 0;
            line[strcspn(line, " \t\r")] = 0;
            if (*line && *line != '#') *key = cake_strdup(line);
        }
        cake_wipe(text, len);
        free(text);
        if (!*key) return cake_fail(err, CAKE_ECONFIG, "%s: no API key in it", o->api_key_file);
    }
    for (const char *c = *key; c && *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return cake_fail(err, CAKE_ECONFIG, "an API key is printable ASCII without blanks");
    return CAKE_OK;
}

/* The first model the server names; asking also tells whether it is there and takes the key. */
static cake_status first_model(const cake_http_target *t, char **name, cake_error *err) {
    json_object *o = NULL, *data = NULL, *id = NULL;
    cake_status st = cake_conversation_get(t, "/v1/models", &o, err);
    if (st == CAKE_EAUTH)
        return cake_fail_in(err, st, "%s (give --api-key-file FILE or CAKE_API_KEY)", t->url->text);
    if (st != CAKE_OK) return st;
    if (json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, "data", &data) &&
        json_object_is_type(data, json_type_array) && json_object_array_length(data) > 0 &&
        json_object_object_get_ex(json_object_array_get_idx(data, 0), "id", &id))
        *name = cake_strdup(json_object_get_string(id));
    json_object_put(o);
    return CAKE_OK;
}

/* ---- the verb ---- */

/* Sampling options that were given; the others are the server's to choose. */
static void take_settings(cake_conversation *c, const cake_master_options *o, const cake_cli *cli) {
    const struct {
        const char *option, *field;
        double v;
        bool whole;
    } given[] = {{"temperature", "temperature", o->temperature, false},
                 {"top-k", "top_k", (double)o->top_k, true},
                 {"top-p", "top_p", o->top_p, false},
                 {"min-p", "min_p", o->min_p, false},
                 {"repeat-penalty", "repeat_penalty", o->repeat_penalty, false},
                 {"repeat-last-n", "repeat_last_n", (double)o->repeat_last_n, true},
                 {"presence-penalty", "presence_penalty", o->presence_penalty, false},
                 {"frequency-penalty", "frequency_penalty", o->frequency_penalty, false},
                 {"sample-len", "max_tokens", (double)o->sample_len, true},
                 {"seed", "seed", (double)o->seed, true}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        if (cake_cli_source_of(&cake_master_program, cli, given[i].option) == CAKE_FROM_DEFAULT ||
            given[i].v < 0)
            continue;
        json_object_object_add(c->settings, given[i].field,
                               given[i].whole ? json_object_new_int64((int64_t)given[i].v)
                                              : json_object_new_double(given[i].v));
    }
    cake_conversation_set_system(c, o->system_prompt);
}

/* The history's file in a folder that only the user can read; NULL: off. */
static char *history_path(const cake_master_options *o) {
    if (!o->history) return NULL;
    char *dir = cake_state_dir();
    char *path = dir && cake_mkdir_p(dir, 0700, NULL) == CAKE_OK
                     ? cake_path_join(dir, "chat_history")
                     : NULL;
    free(dir);
    return path;
}

cake_status cake_command_chat(const cake_master_options *o, const cake_cli *cli, cake_error *err) {
    engine e = {0};
    cake_url url;
    char *key = NULL, *model = NULL, *history = history_path(o);
    cake_conversation c;
    cake_conversation_init(&c);
    take_settings(&c, o, cli);
    cake_line_set_locale();
    stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cake_status st = stop_fd >= 0 ? CAKE_OK : cake_fail(err, CAKE_EIO, "cannot make an eventfd");
    if (st == CAKE_OK && !o->server) st = engine_start(&e, o, err);
    if (st == CAKE_OK)
        st = cake_url_parse(&url, o->server ? o->server : cake_service_url(e.serving), err);
    if (st == CAKE_OK && o->server) st = read_key(o, &key, err);
    cake_http_target target = {.url = &url, .key = o->server ? key : e.key, .stop_fd = stop_fd};
    if (st == CAKE_OK) {
        take_interrupts();
        st = first_model(&target, &model, err);
    }
    if (st == CAKE_OK) {
        cake_chat_config config = {.server = target,
                                   .history = history,
                                   .name = model,
                                   .color = (cake_color)o->color,
                                   .quiet = o->quiet};
        if (o->server) c.model = model ? cake_strdup(model) : NULL;
        st = cake_chat_run(&config, &c, err);
    }
    engine_stop(&e);
    cake_conversation_deinit(&c);
    if (key) cake_wipe(key, strlen(key));
    free(key);
    free(model);
    free(history);
    if (stop_fd >= 0) close(stop_fd);
    return st;
}
