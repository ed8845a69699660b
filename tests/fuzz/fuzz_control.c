/* Control messages: whatever the text, no crash, and what is accepted is within the limits. */
#include "proto/control.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    cake_control_op op;
    json_object *o;
    if (n > CAKE_CONTROL_MAX || cake_control_parse((cake_view){data, n}, &op, &o, NULL) != CAKE_OK)
        return 0;
    cake_hello h;
    cake_assign a;
    cake_need need;
    cake_worker_status s;
    cake_control_read_hello(o, &h, NULL);
    if (cake_control_read_assign(o, &a, NULL) == CAKE_OK) {
        if (a.n_stages == 0 || a.n_stages > CAKE_ASSIGN_STAGES_MAX || a.max_rows > CAKE_ROWS_MAX)
            abort();
        for (uint32_t i = 0; i < a.n_stages; i++)
            if (a.stages[i].unit_begin >= a.stages[i].unit_end ||
                a.stages[i].index >= a.stages[i].n_stages)
                abort();
        cake_assign_deinit(&a);
    }
    if (cake_control_read_need(o, &need, NULL) == CAKE_OK) cake_ranges_deinit(&need.ranges);
    cake_control_read_status(o, &s, NULL);
    json_object_put(o);
    return 0;
}
