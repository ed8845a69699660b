/* Inside of the server: jobs, events and the state the threads share. See server.h. */
#ifndef CAKE_MASTER_SERVER_JOBS_H
#define CAKE_MASTER_SERVER_JOBS_H

#include "common/queue.h"
#include "master/chat/answer.h"
#include "master/chat/tools.h"
#include "master/scheduler/scheduler.h"
#include "master/server/access.h"
#include "master/server/cluster_api.h"
#include "master/server/http.h"
#include "master/server/metrics.h"
#include "master/server/reply.h"
#include "master/server/server.h"
#include "master/server/worker_metrics.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct cake_job cake_job;

/* A tool call in an answer. */
typedef struct {
    char id[32];
    char *name;
    cake_text arguments; /* JSON */
} cake_call;

/* One completion of a job. */
typedef struct cake_choice {
    cake_job *job;
    uint32_t index, prompt; /* which choice, of which prompt */
    /* loop thread */
    cake_generation *gen;
    uint64_t sequence, first_ns, last_ns; /* of its first and last token */
    uint32_t cached;                      /* tokens of the prompt that were not computed again */
    uint32_t told;                        /* progress that was told */
    bool over;
    bool suspended;   /* its workers were lost: goes on with the next deployment */
    unsigned replays; /* how often it did so */
    /* HTTP thread, what came so far */
    cake_answer *answer; /* takes chats apart; NULL for completions */
    cake_text text, thinking;
    cake_call *calls;
    size_t n_calls, n_bytes;           /* n_bytes: of what the model wrote */
    const cake_reply_logprob *pending; /* of the token whose text comes next, streaming */
    cake_reply_logprob *logprobs;
    size_t n_logprobs;
    cake_finish finish;
    int stop; /* which stop string ended it, or -1 */
    uint64_t n_generated, n_cached, first_token_ns, last_token_ns;
} cake_choice;

struct cake_job {
    cake_serve *server;
    cake_api_request req;
    const struct cake_dialect *dialect;
    char id[48];
    int64_t created;
    uint64_t start_ns, salt; /* salt: random, for ids */
    uint64_t client;         /* whose turns it uses */
    _Atomic bool canceled;
    /* prepare thread, then read only */
    cake_ids ids[CAKE_API_PROMPTS_MAX];
    char *text; /* rendered template */
    size_t text_len;
    cake_thinking thinking;
    cake_grammar *grammar; /* that answers follow, or NULL */
    /* loop thread */
    uint32_t n_running; /* choices, and one while the job is being worked on */
    bool failed, listed;
    cake_job *loop_next;
    /* fixed when the job is made */
    cake_choice *choices;
    uint32_t n_choices;
    /* HTTP thread */
    cake_exchange *x; /* NULL: the client is gone or has its answer */
    bool streaming, answered;
    int64_t last_write_ms;
    /* of the dialect: the kind of the open block (-1: none), blocks begun, where its text begins in
     * that of the choice, events sent */
    int open_block;
    uint32_t n_blocks, n_events;
    size_t block_from;
    cake_job *prev, *next;
};

typedef enum {
    CAKE_EVENT_STARTED,  /* accepted by the scheduler */
    CAKE_EVENT_PROGRESS, /* with the prompt */
    CAKE_EVENT_TEXT,
    CAKE_EVENT_FINISH, /* of one choice */
    CAKE_EVENT_ERROR,
    CAKE_EVENT_OVER, /* the last of a job; without STARTED and ERROR: the prepared result */
} cake_event_kind;

typedef struct {
    cake_event_kind kind;
    cake_job *job;
    uint32_t choice;
    cake_finish finish;
    int stop;
    uint64_t n_generated, n_cached, first_token_ns, last_token_ns;
    uint32_t cached, done;       /* PROGRESS */
    cake_api_error *error;       /* ERROR; owned */
    cake_reply_logprob *logprob; /* TEXT, or NULL; owned */
    size_t len;
    char text[];
} cake_event;

typedef enum { CAKE_SERVE_LOADING, CAKE_SERVE_READY, CAKE_SERVE_DOWN } cake_serve_state;

struct cake_serve {
    cake_serve_config config;
    cake_access access;
    char url[300];
    int64_t started; /* unix seconds */
    _Atomic int state;
    _Atomic int64_t heard_ms; /* of the stages, while READY: cake_cluster_heard_ms */
    cake_serve_engine engine; /* valid once the state was READY, and what follows from it: */
    cake_token_trie *trie;
    cake_tool_format tool_format;
    uint32_t shown[CAKE_DETOK_SHOWN_MAX]; /* markers that are special tokens */
    size_t n_shown;
    cake_queue *to_prepare, *to_loop, *to_http;
    pthread_t http_thread, prepare_thread;
    bool http_runs, prepare_runs;
    cake_metrics metrics;
    /* HTTP thread */
    cake_http *http;
    cake_http_tls *tls;
    cake_job *jobs;
    uint32_t n_outstanding; /* choices of jobs that are not over */
    uint64_t next_id;
    cake_watchers watchers;
    cake_cluster_view *view;      /* has a lock of its own */
    cake_worker_metrics *workers; /* the same */
    cake_text scratch;
    /* loop thread */
    cake_scheduler *scheduler;
    cake_job *active;
};

/* A thing in a queue that is no job: stop (prepare), look for cancelled jobs (loop), look at the
 * picture of the cluster (HTTP). */
extern char cake_serve_signal;

void *cake_serve_prepare_thread(void *server);
/* Queue an event without text. */
void cake_serve_event(cake_job *job, cake_event_kind kind);
void cake_serve_error_event(cake_job *job, const cake_api_error *e);
void cake_event_free(cake_event *e);

/* ---- job_http.c ---- */

/* *r is taken. */
void cake_job_new(cake_serve *s, cake_exchange *x, cake_api_request *r);
void cake_job_free(cake_job *j);
/* Its client is gone. */
void cake_job_give_up(cake_job *j);
void cake_job_on_event(cake_event *e);
/* Keep silent streams alive. */
void cake_jobs_tick(cake_serve *s);

#endif
