/* Request heads: see http_head.h. */
#include "master/server/http_head.h"

#include <string.h>
#include <strings.h>

static bool is_token(const char *s) {
    if (!*s) return false;
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
              strchr("!#$%&'*+-.^_`|~", *s)))
            return false;
    return true;
}

const char *cake_http_head_field(const cake_http_head *h, const char *name) {
    for (size_t i = 0; i < h->n_fields; i++)
        if (strcasecmp(h->field[i].name, name) == 0) return h->field[i].value;
    return NULL;
}

/* True when the comma-separated list holds the word. */
static bool lists(const char *list, const char *word) {
    size_t n = strlen(word);
    while (list && *list) {
        list += strspn(list, " \t,");
        size_t k = strcspn(list, ",");
        size_t end = k;
        while (end && (list[end - 1] == ' ' || list[end - 1] == '\t')) end--;
        if (end == n && strncasecmp(list, word, n) == 0) return true;
        list += k;
    }
    return false;
}

/* METHOD SP TARGET SP HTTP/1.x */
static int request_line(char *line, cake_http_head *h) {
    char *sp = strchr(line, ' ');
    if (!sp) return 400;
    *sp = 0;
    char *target = sp + 1;
    sp = strchr(target, ' ');
    if (!sp) return 400;
    *sp = 0;
    const char *version = sp + 1;
    if (!is_token(line) || strlen(line) > 16 || target[0] != '/') return 400;
    for (const char *p = target; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f) return 400;
    if (strncmp(version, "HTTP/", 5) != 0) return 400;
    if (strcmp(version, "HTTP/1.0") == 0)
        h->http_1_0 = true;
    else if (strcmp(version, "HTTP/1.1") != 0)
        return 400;
    h->method = line;
    h->path = target;
    char *q = strchr(target, '?');
    h->query = "";
    if (q) *q = 0, h->query = q + 1;
    return 0;
}

static int field_line(char *line, cake_http_head *h) {
    if (h->n_fields == CAKE_HTTP_FIELDS_MAX) return 431;
    char *colon = strchr(line, ':');
    if (!colon) return 400;
    *colon = 0;
    if (!is_token(line)) return 400; /* also folded lines and space before the colon */
    char *value = colon + 1 + strspn(colon + 1, " \t");
    size_t n = strlen(value);
    while (n && (value[n - 1] == ' ' || value[n - 1] == '\t')) value[--n] = 0;
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)value[i] < ' ' && value[i] != '\t') || value[i] == 0x7f) return 400;
    h->field[h->n_fields].name = line;
    h->field[h->n_fields++].value = value;
    return 0;
}

static int body_fields(cake_http_head *h) {
    unsigned n_length = 0, n_coding = 0, n_host = 0;
    for (size_t i = 0; i < h->n_fields; i++) {
        const char *v = h->field[i].value;
        if (strcasecmp(h->field[i].name, "content-length") == 0) {
            size_t n = strlen(v);
            if (n_length++ || n == 0 || n > 18 || strspn(v, "0123456789") != n) return 400;
            for (size_t k = 0; k < n; k++)
                h->content_length = h->content_length * 10 + (uint64_t)(v[k] - '0');
        } else if (strcasecmp(h->field[i].name, "transfer-encoding") == 0) {
            if (n_coding++) return 400;
            if (strcasecmp(v, "chunked") != 0) return 400;
            h->chunked = true;
        } else if (strcasecmp(h->field[i].name, "host") == 0) {
            if (n_host++) return 400;
        } else if (strcasecmp(h->field[i].name, "expect") == 0) {
            if (strcasecmp(v, "100-continue") != 0) return 417;
            h->expect_continue = true;
        }
    }
    if (n_length && n_coding) return 400; /* request smuggling lives here */
    if (h->http_1_0 && h->chunked) return 400;
    if (!h->http_1_0 && n_host != 1) return 400;
    if (strcmp(h->method, "POST") == 0 && !n_length && !n_coding) return 411;
    return 0;
}

int cake_http_head_parse(char *text, size_t len, cake_http_head *h) {
    memset(h, 0, sizeof *h);
    if (len > CAKE_HTTP_HEAD_MAX) return 431;
    if (memchr(text, 0, len)) return 400;
    int rc = 0;
    for (size_t at = 0, line = 0; rc == 0; line++) {
        char *end = memchr(text + at, '\n', len - at);
        if (!end) return 400;
        char *begin = text + at;
        at = (size_t)(end - text) + 1;
        if (end > begin && end[-1] == '\r') end--;
        *end = 0;
        if (memchr(begin, '\r', (size_t)(end - begin))) return 400;
        if (end == begin) {
            if (line == 0) return 400;
            break;
        }
        rc = line == 0 ? request_line(begin, h) : field_line(begin, h);
    }
    if (rc == 0) rc = body_fields(h);
    const char *connection = cake_http_head_field(h, "connection");
    h->keep_alive = h->http_1_0 ? lists(connection, "keep-alive") : !lists(connection, "close");
    return rc;
}

int64_t cake_http_chunk_size(const char *line, size_t len) {
    int64_t v = 0;
    size_t i = 0;
    for (; i < len; i++) {
        char c = line[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) break;
        v = v * 16 + d;
        if (v > INT32_MAX) return -1;
    }
    if (i == 0) return -1;
    while (i < len && (line[i] == ' ' || line[i] == '\t')) i++;
    return i == len || line[i] == ';' ? v : -1;
}
