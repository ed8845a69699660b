/* The verbs of cake-master. Each returns a status that main turns into the exit code; its result is
 * on stdout, everything else on stderr. */
#ifndef CAKE_MASTER_COMMANDS_COMMANDS_H
#define CAKE_MASTER_COMMANDS_COMMANDS_H

#include "master/options.h"

cake_status cake_command_run(const cake_master_options *o, cake_error *err);
cake_status cake_command_chat(const cake_master_options *o, const cake_cli *cli, cake_error *err);
cake_status cake_command_serve(const cake_master_options *o, cake_error *err);
cake_status cake_command_plan(const cake_master_options *o, cake_error *err);
cake_status cake_command_bundle(const cake_master_options *o, cake_error *err);
cake_status cake_command_workers(const cake_master_options *o, cake_error *err);
cake_status cake_command_cluster_create(const cake_master_options *o, cake_error *err);
cake_status cake_command_cluster_show(const cake_master_options *o, cake_error *err);
cake_status cake_command_cluster_rotate(const cake_master_options *o, cake_error *err);
cake_status cake_command_cluster_join(const cake_master_options *o, cake_error *err);
cake_status cake_command_bench(const cake_master_options *o, cake_error *err);
cake_status cake_command_calibrate(const cake_master_options *o, cake_error *err);
cake_status cake_command_perplexity(const cake_master_options *o, cake_error *err);
cake_status cake_command_quantize(const cake_master_options *o, cake_error *err);
cake_status cake_command_inspect(const cake_master_options *o, cake_error *err);
cake_status cake_command_verify(const cake_master_options *o, cake_error *err);
cake_status cake_command_version(const cake_master_options *o, cake_error *err);
cake_status cake_command_doctor(const cake_master_options *o, cake_error *err);

#endif
