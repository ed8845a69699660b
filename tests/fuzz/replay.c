/* Run a fuzz target over files: replay_X FILE|FOLDER... Each input lies in a block of its exact
 * size, so that a sanitizer sees the first byte read too many. A crash ends the process; the last
 * file is named. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static unsigned n_inputs;

static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return perror(path), 1;
    struct stat sb;
    if (fstat(fileno(f), &sb) != 0) return fclose(f), 1;
    size_t n = (size_t)sb.st_size;
    uint8_t *data = malloc(n ? n : 1);
    if (!data || fread(data, 1, n, f) != n) return fclose(f), free(data), 1;
    fclose(f);
    printf("%s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    n_inputs++;
    return 0;
}

static int run_path(const char *path) {
    struct stat sb;
    if (stat(path, &sb) != 0) return perror(path), 1;
    if (!S_ISDIR(sb.st_mode)) return run_file(path);
    DIR *d = opendir(path);
    if (!d) return perror(path), 1;
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        char child[4096];
        if (e->d_name[0] == '.') continue;
        snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        rc = run_path(child);
    }
    closedir(d);
    return rc;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (run_path(argv[i]) != 0) return 2;
    printf("%u inputs\n", n_inputs);
    return n_inputs ? 0 : 2;
}
