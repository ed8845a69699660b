/* The tables of routes: see routes.h. */
#include "master/server/routes.h"

#include <string.h>

static const cake_route *const tables[] = {
    cake_core_routes,
    cake_cluster_routes,
    cake_page_routes,
};

static bool takes(const cake_route *r, const char *method) {
    return strcmp(method, r->method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

const cake_route *cake_route_find(const char *method, const char *path, const char **rest,
                                  const char **other_method) {
    *other_method = NULL;
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const cake_route *r = tables[t]; r->path; r++) {
            size_t n = strlen(r->path);
            if (strncmp(path, r->path, n) != 0 || (path[n] != 0) != r->prefix) continue;
            *rest = path + n;
            if (takes(r, method)) return r;
            *other_method = r->method;
        }
    return NULL;
}
