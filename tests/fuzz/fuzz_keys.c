/* Any bytes as the text of a cluster key. What is accepted must read back as itself. */
#include "proto/keys.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    cake_cluster_key k, again;
    cake_error err;
    char *text = malloc(n ? n : 1);
    memcpy(text, data, n);
    if (cake_key_parse(&k, text, n, &err) == CAKE_OK) {
        const char *t = cake_key_text(&k);
        if (cake_key_parse(&again, t, strlen(t), &err) != CAKE_OK || k.typed != again.typed ||
            strcmp(t, cake_key_text(&again)) != 0)
            abort();
    }
    free(text);
    return 0;
}
