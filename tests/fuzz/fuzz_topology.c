/* Arbitrary bytes as a topology file, then against models of a few sizes. */
#include "master/plan/topology.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_topology t;
    cake_error err;
    if (cake_topology_parse(&t, (const char *)data, size, "fuzz.yml", &err) != CAKE_OK) return 0;
    (void)cake_topology_check(&t, 1, &err);
    (void)cake_topology_check(&t, 8, &err);
    (void)cake_topology_check(&t, 32, &err);
    cake_topology_deinit(&t);
    return 0;
}
