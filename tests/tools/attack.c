/* attack HOST PORT KIND [COUNT]: open COUNT hostile connections (default 1) and wait until the
 * other side has closed each. Prints "KIND: N closed within MS ms"; exit 1 when one is still open
 * after 10 s, 3 when the port does not answer. "all" runs every kind; KIND names are in attack.h.
 */
#include "tests/tools/attack.h"

static int run(const char *host, uint16_t port, const char *kind, int count) {
    int *fd = calloc((size_t)count, sizeof *fd), open = 0, late = 0;
    int64_t start = cake_now_ms();
    for (int i = 0; i < count; i++) {
        fd[i] = attack_run(host, port, kind);
        if (fd[i] >= 0) open++;
    }
    for (int i = 0; i < count; i++) {
        size_t got;
        if (fd[i] < 0) continue;
        if (!attack_is_closed(fd[i], 10000, &got)) late++;
        close(fd[i]);
    }
    printf("%s: %d of %d connected, %d closed within %lld ms, %d still open\n", kind, open, count,
           open - late, (long long)(cake_now_ms() - start), late);
    fflush(stdout);
    free(fd);
    return open == 0 ? 3 : late ? 1 : 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (int i = 0; attack_kinds[i]; i++) puts(attack_kinds[i]);
        return 0;
    }
    if (argc < 4) {
        fprintf(stderr, "usage: attack HOST PORT KIND|all [COUNT]\n");
        return 2;
    }
    uint16_t port = (uint16_t)strtoul(argv[2], NULL, 10);
    int count = argc > 4 ? (int)strtol(argv[4], NULL, 10) : 1, worst = 0;
    for (int i = 0; attack_kinds[i]; i++) {
        if (strcmp(argv[3], "all") != 0 && strcmp(argv[3], attack_kinds[i]) != 0) continue;
        int rc = run(argv[1], port, attack_kinds[i], count < 1 ? 1 : count);
        if (rc > worst) worst = rc;
    }
    return worst;
}
