/* Byte ranges of a transfer request as JSON, and the book-keeping driven by arbitrary operations,
 * checked against a bitmap. */
#include "proto/transfer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void drive(const uint8_t *data, size_t n) {
    cake_ranges r = {0};
    bool map[256] = {false};
    for (size_t i = 0; i + 3 <= n; i += 3) {
        uint64_t a = data[i + 1], b = data[i + 2];
        bool add = data[i] & 1;
        cake_status st = add ? cake_ranges_add(&r, a, b, NULL) : cake_ranges_remove(&r, a, b, NULL);
        if ((st == CAKE_OK) != (a <= b)) abort();
        for (uint64_t k = a; k < b; k++) map[k] = add;
    }
    uint64_t sum = 0;
    for (unsigned k = 0; k < 256; k++) {
        sum += map[k];
        if (cake_ranges_contain(&r, k, k + 1) != map[k]) abort();
    }
    if (cake_ranges_bytes(&r) != sum) abort();
    for (size_t i = 1; i < r.n; i++)
        if (r.at[i].begin <= r.at[i - 1].end) abort();
    cake_ranges missing = {0};
    if (cake_ranges_missing(&r, 255, &missing, NULL) != CAKE_OK) abort();
    if (cake_ranges_bytes(&missing) + sum != 255) abort();
    cake_ranges_deinit(&missing);
    cake_ranges_deinit(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n && data[0] == 0) {
        drive(data + 1, n - 1);
        return 0;
    }
    json_object *o = NULL;
    cake_ranges r = {0};
    if (n > 4096 || cake_json_parse((const char *)data, n, 8, "fuzz", &o, NULL) != CAKE_OK)
        return 0;
    if (cake_ranges_from_json(&r, o, 1 << 20, NULL) == CAKE_OK) {
        if (r.n && r.at[r.n - 1].end > 1 << 20) abort();
        json_object_put(cake_ranges_to_json(&r));
    }
    cake_ranges_deinit(&r);
    json_object_put(o);
    return 0;
}
