/* cake-master: finds workers, gives each a part of a model, and runs it. */
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/options.h"

#include <stdio.h>

static cake_status run_verb(cake_master_options *o, const cake_cli *cli, cake_error *err) {
    cake_status st = cake_master_options_check(o, cli, err);
    if (st != CAKE_OK) return st;
    switch (cli->verb) {
    case CAKE_VERB_RUN: return cake_command_run(o, err);
    case CAKE_VERB_CHAT: return cake_command_chat(o, cli, err);
    case CAKE_VERB_SERVE: return cake_command_serve(o, err);
    case CAKE_VERB_PLAN: return cake_command_plan(o, err);
    case CAKE_VERB_BUNDLE: return cake_command_bundle(o, err);
    case CAKE_VERB_WORKERS: return cake_command_workers(o, err);
    case CAKE_VERB_CLUSTER_CREATE: return cake_command_cluster_create(o, err);
    case CAKE_VERB_CLUSTER_SHOW: return cake_command_cluster_show(o, err);
    case CAKE_VERB_CLUSTER_ROTATE: return cake_command_cluster_rotate(o, err);
    case CAKE_VERB_CLUSTER_JOIN: return cake_command_cluster_join(o, err);
    case CAKE_VERB_BENCH: return cake_command_bench(o, err);
    case CAKE_VERB_CALIBRATE: return cake_command_calibrate(o, err);
    case CAKE_VERB_PERPLEXITY: return cake_command_perplexity(o, err);
    case CAKE_VERB_QUANTIZE: return cake_command_quantize(o, err);
    case CAKE_VERB_INSPECT: return cake_command_inspect(o, err);
    case CAKE_VERB_VERIFY: return cake_command_verify(o, err);
    case CAKE_VERB_DOCTOR: return cake_command_doctor(o, err);
    case CAKE_VERB_VERSION: return cake_command_version(o, err);
    default: return cake_fail(err, CAKE_EUSAGE, "what should it do? Try 'cake-master --help'");
    }
}

int main(int argc, char **argv) {
    cake_mem_keep(256 << 20); /* logits of a batch */
    cake_master_options o;
    cake_cli cli;
    int rc = cake_cli_start(&cake_master_program, argc, argv, &o, &cli);
    if (rc >= 0) return rc;
    cake_cli_set_log(o.log_level, o.log_format, o.quiet, o.verbose);
    cake_error err = {0};
    cake_status st = run_verb(&o, &cli, &err);
    if (st != CAKE_OK) fprintf(stderr, "cake-master: %s\n", err.msg);
    cake_cli_deinit(&cli);
    return cake_status_exit(st);
}
