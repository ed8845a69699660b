/* cake-master inspect: what a checkpoint holds. */
#include "master/commands/commands.h"
#include "master/tools/inspection.h"

cake_status cake_command_inspect(const cake_master_options *o, cake_error *err) {
    cake_inspection x;
    cake_status st = cake_inspect(&x, o->paths[0], err);
    if (st != CAKE_OK) return st;
    if (o->json)
        cake_inspection_print_json(&x, stdout);
    else
        cake_inspection_print(&x, o->tensors, stdout);
    cake_inspection_deinit(&x);
    return CAKE_OK;
}
