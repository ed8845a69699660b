/* Write a small random bf16 checkpoint in Hugging Face's form, for tests of what turns such into
 * others: finite weights, the same file everywhere.
 *
 *   make_float dense|qwen2|qwen3moe|qwen2moe|mixtral DIR
 *
 * Rows are multiples of 256, experts lie one by one, two of the models are in two files. */
#include "tests/unit/modelfile.h"

#include <dirent.h>

#define EXTRA "\"torch_dtype\":\"bfloat16\","
#define DENSE                                                                                      \
    .n_layers = 3, .hidden = 256, .ff = 512, .vocab = 320, .heads = 4, .kv_heads = 2, .head_dim = 64

static const struct {
    const char *name;
    gen_model g;
} kinds[] = {
    {"dense", {.type = "llama", DENSE, .untied = true, .n_shards = 2, .extra = EXTRA}},
    {"qwen2", {.type = "qwen2", DENSE, .extra = EXTRA, .salt = 1}},
    {"qwen3moe",
     {.type = "qwen3_moe",
      DENSE,
      .experts = 4,
      .expert_ff = 256,
      .one_by_one = true,
      .untied = true,
      .n_shards = 2,
      .salt = 2,
      .extra = EXTRA "\"mlp_only_layers\":[],"}},
    {"qwen2moe",
     {.type = "qwen2_moe",
      DENSE,
      .experts = 4,
      .expert_ff = 256,
      .shared_ff = 512,
      .one_by_one = true,
      .untied = true,
      .salt = 3,
      .extra = EXTRA}},
    {"mixtral",
     {.type = "mixtral",
      DENSE,
      .experts = 4,
      .expert_ff = 256,
      .one_by_one = true,
      .untied = true,
      .salt = 4,
      .extra = EXTRA}},
};

/* Sign, fraction and three bits of the exponent stay: magnitudes from 2^-7 to 2. */
static void tame(const char *dir, const char *name) {
    size_t len;
    uint64_t n;
    char *b = read_text(dir, name, &len);
    memcpy(&n, b, 8);
    for (size_t i = 8 + (size_t)n; i + 1 < len; i += 2) {
        uint16_t u;
        memcpy(&u, b + i, 2);
        u = (uint16_t)((u & 0x83ffu) | 0x3c00u);
        memcpy(b + i, &u, 2);
    }
    write_file(dir, name, b, len);
    free(b);
}

int main(int argc, char **argv) {
    for (size_t i = 0; argc == 3 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(argv[1], kinds[i].name) != 0) continue;
        if (cake_mkdir_p(argv[2], 0755, NULL) != CAKE_OK) return 1;
        gen_write(&kinds[i].g, argv[2]);
        DIR *d = opendir(argv[2]);
        for (struct dirent *e; d && (e = readdir(d));)
            if (strstr(e->d_name, ".safetensors") && !strstr(e->d_name, ".json"))
                tame(argv[2], e->d_name);
        if (d) closedir(d);
        return 0;
    }
    fprintf(stderr, "usage: make_float dense|qwen2|qwen3moe|qwen2moe|mixtral DIR\n");
    return 2;
}
