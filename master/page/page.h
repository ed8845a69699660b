/* The web page: one document with its style and script, compiled in from the files beside this one,
 * and the policy that lets a browser run these and nothing else. */
#ifndef CAKE_MASTER_PAGE_PAGE_H
#define CAKE_MASTER_PAGE_PAGE_H

#include <stddef.h>

/* Made when first asked for, then the same for ever. One thread. */
typedef struct {
    const char *html;
    size_t len;
    const char *policy; /* Content-Security-Policy: the hashes of style and script */
    const char *tag;    /* ETag, with its quotes */
} cake_page;
const cake_page *cake_page_get(void);

#endif
