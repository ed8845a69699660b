/* The web page at /. It asks for the key itself, so that it can be loaded without one. */
#include "master/page/page.h"
#include "master/server/routes.h"

#include <string.h>

static bool get_page(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                     cake_api_error *e) {
    (void)s, (void)r, (void)rest, (void)e;
    const cake_page *p = cake_page_get();
    cake_http_header(x, "Content-Security-Policy", p->policy);
    cake_http_header(x, "Cross-Origin-Opener-Policy", "same-origin");
    cake_http_header(x, "Referrer-Policy", "no-referrer");
    cake_http_header(x, "Cache-Control", "no-cache");
    cake_http_header(x, "ETag", p->tag);
    const char *known = cake_http_head_field(cake_exchange_head(x), "if-none-match");
    if (known && strcmp(known, p->tag) == 0)
        cake_http_reply(x, 304, NULL, NULL, 0);
    else
        cake_http_reply(x, 200, "text/html; charset=utf-8", p->html, p->len);
    return true;
}

const cake_route cake_page_routes[] = {
    {"GET", "/", get_page, .open = true},
    {0},
};
