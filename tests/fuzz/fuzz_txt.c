/* Any bytes as the TXT records of a service on the LAN. What is accepted is clean and writes back.
 */
#include "proto/discovery.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    cake_node a, b;
    if (!cake_node_txt_parse(data, n, &a)) return 0;
    for (const char *p = a.name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) abort();
    uint8_t txt[512];
    size_t len = cake_node_txt_write(txt, sizeof txt, &a);
    if (len == 0 || !cake_node_txt_parse(txt, len, &b)) abort();
    if (strcmp(a.id, b.id) != 0 || strcmp(a.tag, b.tag) != 0 || strcmp(a.name, b.name) != 0 ||
        a.version != b.version)
        abort();
    return 0;
}
