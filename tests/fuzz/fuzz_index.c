/* Any bytes as model.safetensors.index.json. No file name it yields may leave the folder. */
#include "common/file.h"
#include "common/model/checkpoint.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_index ix;
    cake_error err = {0};
    if (cake_index_parse(&ix, (const char *)data, size, "input", &err) != CAKE_OK) {
        if (!err.msg[0]) abort();
        return 0;
    }
    for (size_t i = 0; i < ix.n_entries; i++)
        if (!cake_name_is_plain(ix.entries[i].file) || !ix.entries[i].tensor) abort();
    cake_index_deinit(&ix);
    return 0;
}
