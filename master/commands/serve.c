/* cake-master serve: the model behind an HTTP API, until interrupted. */
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/commands/serve.h"
#include "master/commands/session.h"
#include "master/plan/plan_print.h"
#include "master/server/server.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RETRY_S = 2, TEMPLATE_MAX = 1 << 20 };

struct cake_service {
    const cake_master_options *o;
    cake_serve *server;
    cake_tokenizer *tokenizer;
    cake_chat_template *chat;
    char *name;
    uint32_t sequences;
    bool hidden; /* nobody else is to know of the server */
    _Atomic bool began;
};

/* "ORG/NAME" of the Hugging Face cache stays, a path gives its last part. */
static char *model_name(const cake_master_options *o) {
    if (o->model_name) return cake_strdup(o->model_name);
    size_t n = strlen(o->model);
    while (n > 1 && o->model[n - 1] == '/') n--;
    char *name = cake_strndup(o->model, n);
    if (!cake_dir_exists(o->model)) return name;
    char *real = realpath(name, NULL);
    const char *slash = strrchr(real ? real : name, '/');
    char *last = cake_strdup(slash && slash[1] ? slash + 1 : name);
    free(real);
    free(name);
    return last;
}

static char *token_text(const cake_tokenizer *t, int64_t id) {
    size_t n = 0;
    const uint8_t *b = id < 0 ? NULL : cake_tokenizer_token_bytes(t, (uint32_t)id, &n);
    return b ? cake_strndup((const char *)b, n) : NULL;
}

static cake_status open_template(cake_service *v, const cake_model *m, cake_error *err) {
    if (!v->o->chat_template) {
        cake_status st = cake_chat_template_open(&v->chat, m->path, err);
        if (st == CAKE_ENOTFOUND) {
            cake_log(CAKE_LOG_WARN, "event=no_chat_template hint=\"/v1/chat/completions answers "
                                    "400; give --chat-template FILE\"");
            return CAKE_OK;
        }
        return st;
    }
    char *text;
    size_t len;
    cake_status st = cake_file_read(v->o->chat_template, TEMPLATE_MAX, &text, &len, err);
    if (st != CAKE_OK) return st;
    char *bos = token_text(v->tokenizer, cake_tokenizer_bos(v->tokenizer)),
         *eos = token_text(v->tokenizer, cake_tokenizer_eos(v->tokenizer));
    st = cake_chat_template_new(&v->chat, text, len, bos, eos, err);
    free(text);
    free(bos);
    free(eos);
    return st;
}

/* Once: what stays the same whatever the cluster does. */
static cake_status open_engine(cake_service *v, const cake_session *s, cake_error *err) {
    cake_status st = cake_tokenizer_open(&v->tokenizer, s->model.path, err);
    if (st == CAKE_OK) st = open_template(v, &s->model, err);
    if (st != CAKE_OK) return st;
    cake_serve_engine e = {.tokenizer = v->tokenizer,
                           .chat = v->chat,
                           .n_vocab = (uint32_t)(s->plan.request.logit_bytes / 4),
                           .context = s->plan.options.context,
                           .sequences = s->plan.options.sequences};
    cake_eos_find(&e.eos, &s->model, v->tokenizer);
    cake_serve_set_engine(v->server, &e);
    return CAKE_OK;
}

/* One deployment from beginning to end. *ran: it served. */
static cake_status serve_once(cake_service *v, const cake_master_options *o, bool *ran,
                              cake_error *err) {
    cake_session s;
    cake_status st = cake_session_open_watched(&s, o, cake_serve_observe, v->server, err);
    if (st == CAKE_OK) st = cake_session_plan(&s, v->sequences, err);
    if (st == CAKE_OK && !o->quiet) cake_plan_print(&s.plan.request, &s.plan.plan, stderr);
    if (st == CAKE_OK) st = cake_session_deploy(&s, err);
    if (st == CAKE_OK && !v->tokenizer) st = open_engine(v, &s, err);
    if (st == CAKE_OK) {
        if (!v->hidden)
            cake_progress_line(s.progress, "Serving %s on %s", v->name, cake_serve_url(v->server));
        *ran = true;
        atomic_store(&v->began, true);
        st = cake_serve_loop(v->server, s.cluster, err);
    }
    cake_session_close(&s);
    return st;
}

cake_status cake_service_open(cake_service **out, const cake_master_options *o,
                              const cake_service_private *p, cake_error *err) {
    cake_service *v = cake_calloc(1, sizeof *v);
    v->o = o;
    v->name = model_name(o);
    v->hidden = p != NULL;
    v->sequences = p && p->sequences ? p->sequences : (uint32_t)o->sequences;
    cake_serve_config c = {.address = p ? p->address : o->api,
                           .api_key_file = p ? NULL : o->api_key_file,
                           .api_key = p ? p->api_key : getenv("CAKE_API_KEY"),
                           .cors = p ? NULL : o->cors,
                           .tls_cert = p ? NULL : o->tls_cert,
                           .tls_key = p ? NULL : o->tls_key,
                           .model = v->name,
                           .insecure_no_auth = o->insecure_no_auth,
                           .queue = (uint32_t)o->queue,
                           .deadline_ns = (uint64_t)o->deadline_ms * 1000000,
                           .speculate = o->speculate == CAKE_OPTION_SPECULATE_AUTO};
    cake_sampler_params *d = &c.defaults;
    cake_sampler_params_default(d);
    d->temperature = (float)o->temperature;
    d->top_k = (uint32_t)o->top_k;
    d->top_p = (float)o->top_p;
    d->min_p = (float)o->min_p;
    d->repeat_penalty = (float)o->repeat_penalty;
    d->repeat_last_n = (uint32_t)o->repeat_last_n;
    d->presence_penalty = (float)o->presence_penalty;
    d->frequency_penalty = (float)o->frequency_penalty;
    cake_status st = cake_sampler_params_check(d, 0, err);
    if (st == CAKE_OK) st = cake_serve_open(&v->server, &c, err);
    if (st == CAKE_OK)
        *out = v;
    else
        cake_service_close(v);
    return st;
}

cake_status cake_service_run(cake_service *v, cake_error *err) {
    /* A lost worker ends a deployment, not the server: plan again over those that are left. */
    cake_master_options left = *v->o; /* after a loss: better fewer than --min-workers than none */
    left.min_workers = 0;
    int64_t lost_ms = 0;
    cake_status st;
    for (;;) {
        bool ran = false;
        st = serve_once(v, atomic_load(&v->began) ? &left : v->o, &ran, err);
        if (st == CAKE_ECANCELED || !atomic_load(&v->began)) break;
        cake_log(CAKE_LOG_ERROR, "event=cluster_lost reason=\"%s\"", err->msg);
        if (ran) {
            lost_ms = cake_now_ms();
        } else {
            if (cake_now_ms() - lost_ms > v->o->recover_timeout_ms)
                cake_serve_abandon(v->server, err);
            sleep(RETRY_S);
        }
    }
    cake_serve_abandon(v->server, err);
    return st == CAKE_ECANCELED && atomic_load(&v->began) ? CAKE_OK : st; /* how a server ends */
}

bool cake_service_began(const cake_service *v) {
    return atomic_load(&v->began);
}
const char *cake_service_url(const cake_service *v) {
    return cake_serve_url(v->server);
}
const char *cake_service_model(const cake_service *v) {
    return v->name;
}

void cake_service_close(cake_service *v) {
    if (!v) return;
    cake_serve_close(v->server);
    cake_chat_template_free(v->chat);
    cake_tokenizer_free(v->tokenizer);
    free(v->name);
    free(v);
}

cake_status cake_command_serve(const cake_master_options *o, cake_error *err) {
    cake_service *v = NULL;
    cake_status st = cake_service_open(&v, o, NULL, err);
    if (st == CAKE_OK) st = cake_service_run(v, err);
    cake_service_close(v);
    return st;
}
