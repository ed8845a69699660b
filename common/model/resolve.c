/* A model argument to a path: see cake_model_resolve in checkpoint.h.
 *
 * Layout of the Hugging Face cache: HUB/models--ORG--NAME/{refs/REVISION, snapshots/COMMIT/files},
 * where refs/REVISION holds the commit. */
#include "common/mem.h"
#include "common/model/checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *hub_dir(void) {
    const char *v = getenv("HF_HUB_CACHE");
    if (v && *v) return cake_strdup(v);
    v = getenv("HF_HOME");
    if (v && *v) return cake_path_join(v, "hub");
    v = getenv("XDG_CACHE_HOME");
    if (v && *v) return cake_path_join(v, "huggingface/hub");
    v = getenv("HOME");
    return cake_path_join(v && *v ? v : "/", ".cache/huggingface/hub");
}

/* ORG/NAME or NAME, of the characters the hub allows: cannot leave the cache folder. */
static bool repo_name_ok(const char *s, size_t n) {
    size_t slashes = 0, part = 0;
    for (size_t i = 0; i < n; i++) {
        char ch = s[i];
        if (ch == '/') {
            if (!part || ++slashes > 1) return false;
            part = 0;
        } else if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
                   (ch >= '0' && ch <= '9') || ch == '_' || ch == '-' || (ch == '.' && part)) {
            part++;
        } else {
            return false;
        }
    }
    return part && n <= 200;
}

/* The commit that refs/REV names, or REV itself, or the only snapshot; NULL otherwise. */
static char *find_snapshot(const char *repo_dir, const char *rev) {
    char *found = NULL, *text = NULL,
         *path = cake_asprintf("%s/refs/%s", repo_dir, rev ? rev : "main");
    size_t len;
    if (cake_file_read(path, 256, &text, &len, NULL) == CAKE_OK) {
        text[strcspn(text, "\r\n \t")] = 0;
        if (cake_name_is_plain(text)) found = cake_asprintf("%s/snapshots/%s", repo_dir, text);
    } else if (rev) {
        found = cake_asprintf("%s/snapshots/%s", repo_dir, rev);
    }
    free(text);
    free(path);
    if (found || rev) goto out;
    path = cake_path_join(repo_dir, "snapshots");
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        if (found) { /* two: which one is meant is not ours to guess */
            free(found);
            found = NULL;
            break;
        }
        found = cake_path_join(path, e->d_name);
    }
    if (d) closedir(d);
    free(path);
out:
    if (found && !cake_dir_exists(found)) {
        free(found);
        found = NULL;
    }
    return found;
}

cake_status cake_model_resolve(const char *arg, char **path, cake_error *err) {
    if (access(arg, F_OK) == 0) {
        *path = cake_strdup(arg);
        return CAKE_OK;
    }
    const char *at = strchr(arg, '@');
    size_t n = at ? (size_t)(at - arg) : strlen(arg);
    if (!repo_name_ok(arg, n) || (at && !cake_name_is_plain(at + 1)))
        return cake_fail(
            err, CAKE_ENOTFOUND,
            "no model at '%s': give a folder with config.json and *.safetensors files, or a "
            "GGUF file",
            arg);
    char *hub = hub_dir(), repo[512];
    size_t o = 0;
    for (size_t i = 0; i < n && o < sizeof repo - 3; i++) {
        if (arg[i] == '/')
            repo[o++] = '-', repo[o++] = '-';
        else
            repo[o++] = arg[i];
    }
    repo[o] = 0;
    char *dir = cake_asprintf("%s/models--%s", hub, repo);
    *path = find_snapshot(dir, at ? at + 1 : NULL);
    cake_status st = CAKE_OK;
    if (!*path)
        st = cake_fail(err, CAKE_ENOTFOUND,
                       "no model at '%s', and the Hugging Face cache has %s (looked for %s); give "
                       "a folder with "
                       "config.json and *.safetensors files, or run: huggingface-cli download %.*s",
                       arg,
                       cake_dir_exists(dir) ? "no complete snapshot of it" : "none of that name",
                       dir, (int)n, arg);
    free(dir);
    free(hub);
    return st;
}
