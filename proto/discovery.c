/* Discovery: nodes from service instances, events for the owner, TXT records; see discovery.h. */
#include "common/file.h"
#include "common/log.h"
#include "common/mem.h"
#include "proto/mdns.h"
#include "proto/wire.h"

#include <avahi-common/alternative.h>
#include <avahi-common/malloc.h>
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <net/if.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NO_TAG "0000000000000000" /* --insecure */

/* ---- text from the network ---- */

/* Copy as printable UTF-8: what is malformed or a control character becomes '?'. */
static void clean_text(char *out, size_t cap, const uint8_t *in, size_t len) {
    size_t n = 0, i = 0;
    while (i < len) {
        size_t l = in[i] < 0x80                    ? 1
                   : in[i] >= 0xc2 && in[i] < 0xe0 ? 2
                   : in[i] >= 0xe0 && in[i] < 0xf0 ? 3
                   : in[i] >= 0xf0 && in[i] < 0xf5 ? 4
                                                   : 0;
        bool ok = l && i + l <= len && in[i] >= 0x20 && in[i] != 0x7f;
        for (size_t k = 1; ok && k < l; k++) ok = (in[i + k] & 0xc0) == 0x80;
        if (ok && ((l == 3 && in[i] == 0xe0 && in[i + 1] < 0xa0) ||
                   (l == 4 && in[i] == 0xf0 && in[i + 1] < 0x90) ||
                   (l == 4 && in[i] == 0xf4 && in[i + 1] > 0x8f) ||
                   (l == 3 && in[i] == 0xed && in[i + 1] > 0x9f) ||
                   (l == 2 && in[i] == 0xc2 && in[i + 1] < 0xa0)))
            ok = false; /* overlong, surrogate, out of range, C1 control */
        if (n + (ok ? l : 1) >= cap) break;
        if (ok)
            memcpy(out + n, in + i, l);
        else
            out[n] = '?';
        n += ok ? l : 1;
        i += ok ? l : 1;
    }
    out[n] = 0;
}

static bool is_hex(const uint8_t *p, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f'))) return false;
    return true;
}

bool cake_node_txt_parse(const uint8_t *txt, size_t len, cake_node *out) {
    enum { V = 1, ID = 2, TAG = 4, NAME = 8 };
    unsigned seen = 0;
    cake_node n = {0};
    for (size_t at = 0; at < len;) {
        size_t l = txt[at++];
        if (l > len - at) return false;
        const uint8_t *s = txt + at, *eq = memchr(s, '=', l);
        at += l;
        if (!eq) continue;
        size_t key = (size_t)(eq - s), vlen = l - key - 1;
        const uint8_t *v = eq + 1;
        if (key == 1 && (s[0] | 32) == 'v' && !(seen & V)) { /* of equal keys the first counts */
            if (vlen == 0 || vlen > 6) return false;
            for (size_t i = 0; i < vlen; i++) {
                if (!isdigit(v[i])) return false;
                n.version = n.version * 10 + (uint32_t)(v[i] - '0');
            }
            seen |= V;
        } else if (key == 2 && strncasecmp((const char *)s, "id", 2) == 0 && !(seen & ID)) {
            if (vlen != CAKE_NODE_ID_HEX - 1 || !is_hex(v, vlen)) return false;
            memcpy(n.id, v, vlen);
            seen |= ID;
        } else if (key == 3 && strncasecmp((const char *)s, "tag", 3) == 0 && !(seen & TAG)) {
            if (vlen != sizeof n.tag - 1 || !is_hex(v, vlen)) return false;
            memcpy(n.tag, v, vlen);
            seen |= TAG;
        } else if (key == 4 && strncasecmp((const char *)s, "name", 4) == 0 && !(seen & NAME)) {
            clean_text(n.name, sizeof n.name, v, vlen);
            seen |= NAME;
        }
    }
    if ((seen & (V | ID | TAG)) != (V | ID | TAG)) return false;
    *out = n;
    return true;
}

size_t cake_node_txt_write(uint8_t *txt, size_t cap, const cake_node *n) {
    char field[4][80];
    size_t at = 0;
    snprintf(field[0], sizeof field[0], "v=%u", n->version);
    snprintf(field[1], sizeof field[1], "id=%s", n->id);
    snprintf(field[2], sizeof field[2], "tag=%s", n->tag);
    snprintf(field[3], sizeof field[3], "name=%s", n->name);
    for (int i = 0; i < 4; i++) {
        size_t l = strlen(field[i]);
        if (at + 1 + l > cap) return 0;
        txt[at++] = (uint8_t)l;
        memcpy(txt + at, field[i], l);
        at += l;
    }
    return at;
}

/* ---- nodes ---- */

static void wake(struct cake_discovery *d) {
    uint64_t one = 1;
    ssize_t rc = write(d->event_fd, &one, sizeof one);
    (void)rc; /* full only after 2^64 events */
}

/* Lower is tried first: IPv4 and routable IPv6 before link-local, loopback last. */
static int address_rank(const char *a) {
    if (strncmp(a, "127.", 4) == 0 || strncmp(a, "[::1]", 5) == 0) return 3;
    if (strncmp(a, "[fe80", 5) == 0 || strncmp(a, "169.254.", 8) == 0) return 2;
    return a[0] == '[' ? 1 : 0;
}

/* Put the addresses of all instances of node `id` together and note what changed. */
static void update_node(struct cake_discovery *d, const char *id) {
    cake_node now = {0};
    for (int rank = 0; rank < 4; rank++)
        for (size_t i = 0; i < d->n_instances; i++) {
            const struct mdns_instance *s = d->instances[i];
            if (!s->resolved || strcmp(s->node.id, id) != 0 ||
                address_rank(s->node.address[0]) != rank)
                continue;
            if (now.n_addresses == 0) {
                now = s->node;
                continue;
            }
            bool known = now.n_addresses == CAKE_NODE_ADDRESSES;
            for (size_t k = 0; k < now.n_addresses; k++)
                known |= strcmp(now.address[k], s->node.address[0]) == 0;
            if (!known)
                memcpy(now.address[now.n_addresses++], s->node.address[0], CAKE_ADDRESS_MAX);
        }
    pthread_mutex_lock(&d->lock);
    struct mdns_entry *e = NULL;
    size_t at = 0;
    for (; at < d->n_entries; at++)
        if (strcmp(d->entries[at]->node.id, id) == 0) {
            e = d->entries[at];
            break;
        }
    bool present = now.n_addresses > 0;
    if (!e && present && d->n_entries < MDNS_NODES_MAX) {
        e = cake_trymalloc(sizeof *e);
        if (e) {
            *e = (struct mdns_entry){0};
            d->entries[d->n_entries++] = e;
        }
    }
    if (e && (present != e->present || (present && memcmp(&now, &e->node, sizeof now) != 0))) {
        if (present) e->node = now;
        e->present = present;
        e->dirty = true;
        wake(d);
    }
    pthread_mutex_unlock(&d->lock);
}

static void free_instance(struct mdns_instance *i) {
    if (i->resolver) i->d->backend->resolve_end(i->resolver);
    free(i->name);
    free(i->domain);
    free(i);
}

void mdns_instance_new(struct cake_discovery *d, AvahiIfIndex interface, AvahiProtocol protocol,
                       const char *name, const char *domain) {
    if (d->n_instances == MDNS_INSTANCES_MAX) return; /* a LAN that full is an attack */
    for (size_t i = 0; i < d->n_instances; i++) {
        const struct mdns_instance *s = d->instances[i];
        if (s->interface == interface && s->protocol == protocol && strcmp(s->name, name) == 0 &&
            strcmp(s->domain, domain) == 0)
            return;
    }
    struct mdns_instance *s = cake_calloc(1, sizeof *s);
    s->d = d;
    s->interface = interface;
    s->protocol = protocol;
    s->name = cake_strdup(name);
    s->domain = cake_strdup(domain);
    d->instances[d->n_instances++] = s;
    s->resolver = d->backend->resolve(d, s);
}

void mdns_instance_gone(struct cake_discovery *d, AvahiIfIndex interface, AvahiProtocol protocol,
                        const char *name, const char *domain) {
    for (size_t i = 0; i < d->n_instances; i++) {
        struct mdns_instance *s = d->instances[i];
        if (s->interface != interface || s->protocol != protocol || strcmp(s->name, name) != 0 ||
            strcmp(s->domain, domain) != 0)
            continue;
        d->instances[i] = d->instances[--d->n_instances];
        if (s->resolved) update_node(d, s->node.id);
        free_instance(s);
        return;
    }
}

void mdns_forget_all(struct cake_discovery *d) {
    while (d->n_instances) {
        struct mdns_instance *s = d->instances[--d->n_instances];
        if (s->resolved) update_node(d, s->node.id);
        free_instance(s);
    }
}

void mdns_instance_found(struct mdns_instance *i, const char *host, const AvahiAddress *address,
                         uint16_t port, AvahiStringList *txt) {
    struct cake_discovery *d = i->d;
    uint8_t raw[2048];
    char before[CAKE_NODE_ID_HEX] = "", text[AVAHI_ADDRESS_STR_MAX];
    if (i->resolved) memcpy(before, i->node.id, sizeof before);
    cake_node n;
    i->resolved = false;
    if (port != 0 && host && address && avahi_string_list_serialize(txt, NULL, 0) <= sizeof raw &&
        cake_node_txt_parse(raw, avahi_string_list_serialize(txt, raw, sizeof raw), &n) &&
        strcmp(n.tag, d->tag) == 0 && strcmp(n.id, d->id) != 0) {
        n.port = port;
        clean_text(n.host, sizeof n.host, (const uint8_t *)host, strlen(host));
        if (!n.name[0]) memcpy(n.name, "worker", 7);
        avahi_address_snprint(text, sizeof text, address);
        char zone[IF_NAMESIZE + 1] = "";
        if (address->proto == AVAHI_PROTO_INET6) {
            /* A link-local address means nothing without its interface. */
            if (strncmp(text, "fe80", 4) == 0 && i->interface > 0 &&
                if_indextoname((unsigned)i->interface, zone + 1))
                zone[0] = '%';
            snprintf(n.address[0], CAKE_ADDRESS_MAX, "[%s%s]:%u", text, zone, (unsigned)port);
        } else {
            snprintf(n.address[0], CAKE_ADDRESS_MAX, "%s:%u", text, (unsigned)port);
        }
        n.n_addresses = 1;
        i->node = n;
        i->resolved = true;
        i->failures = 0;
    }
    if (before[0] && (!i->resolved || strcmp(before, i->node.id) != 0)) update_node(d, before);
    if (i->resolved) update_node(d, i->node.id);
}

void mdns_instance_failed(struct mdns_instance *i) {
    if (i->resolver) i->d->backend->resolve_end(i->resolver);
    i->resolver = ++i->failures <= MDNS_RETRIES ? i->d->backend->resolve(i->d, i) : NULL;
}

void mdns_next_name(struct cake_discovery *d) {
    char *next = avahi_alternative_service_name(d->instance);
    if (!next) return;
    cake_log(CAKE_LOG_INFO, "event=name_taken name=\"%s\" next=\"%s\"", d->instance, next);
    free(d->instance);
    d->instance = cake_strdup(next);
    avahi_free(next);
}

cake_status mdns_load(const char *library, const mdns_symbol *list, cake_error *err) {
    /* Never unloaded: it may have registered things with D-Bus. Loading again only counts
     * references. */
    void *lib = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return cake_fail(err, CAKE_EUNAVAIL, "%s is not installed", library);
    for (; list->name; list++) {
        *list->at = dlsym(lib, list->name);
        if (!*list->at) return cake_fail(err, CAKE_EUNAVAIL, "%s has no %s", library, list->name);
    }
    return CAKE_OK;
}

/* ---- owner's side ---- */

static cake_status random_hex(char *out, size_t n_digits, cake_error *err) {
    uint8_t b[32];
    if (RAND_bytes(b, (int)(n_digits / 2)) != 1)
        return cake_fail(err, CAKE_EIO, "the system gave no random bytes");
    for (size_t i = 0; i < n_digits / 2; i++) snprintf(out + 2 * i, 3, "%02x", b[i]);
    return CAKE_OK;
}

cake_status cake_discovery_open(cake_discovery **out, const cake_discovery_options *o,
                                cake_error *err) {
    struct cake_discovery *d = cake_calloc(1, sizeof *d);
    cake_status st = CAKE_OK;
    pthread_mutex_init(&d->lock, NULL);
    d->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    d->advertise = o->advertise;
    d->browse = o->browse;
    d->port = o->port;
    snprintf(d->tag, sizeof d->tag, "%s", o->tag ? o->tag : NO_TAG);
    if (o->id)
        snprintf(d->id, sizeof d->id, "%s", o->id);
    else
        st = random_hex(d->id, 32, err); /* a browser's: nobody else has it */
    if (st != CAKE_OK) goto fail;
    if (strlen(d->id) != CAKE_NODE_ID_HEX - 1 || !is_hex((const uint8_t *)d->id, 32) ||
        strlen(d->tag) != 16 || !is_hex((const uint8_t *)d->tag, 16) ||
        (o->advertise && (o->port == 0 || !o->id))) {
        st = cake_fail(err, CAKE_EINVAL,
                       "discovery needs a node id of 32 hex digits, a tag of 16, and a port");
        goto fail;
    }
    char name[CAKE_NODE_NAME_MAX];
    const char *wanted = o->name && *o->name ? o->name : "cake-worker";
    clean_text(name, sizeof name, (const uint8_t *)wanted, strlen(wanted));
    /* A label of at most 63 bytes. Part of the id makes it unique from the start: losing a probe to
     * another node of that name (two workers on one host) costs a second. */
    char label[CAKE_NODE_NAME_MAX - 5];
    clean_text(label, sizeof label, (const uint8_t *)name, strlen(name));
    d->instance = cake_asprintf("%s-%.4s", label, d->id);
    cake_node self = {.version = CAKE_WIRE_VERSION};
    memcpy(self.id, d->id, sizeof self.id);
    memcpy(self.tag, d->tag, sizeof self.tag);
    memcpy(self.name, name, sizeof self.name);
    uint8_t txt[512];
    size_t n = cake_node_txt_write(txt, sizeof txt, &self);
    if (n == 0 || avahi_string_list_parse(txt, n, &d->txt) != 0) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory for the service record");
        goto fail;
    }
    const struct mdns_backend *try[2] = {&mdns_daemon, &mdns_embedded};
    st = cake_fail(err, CAKE_EUNAVAIL, "no mDNS responder");
    for (int i = 0; i < 2 && st != CAKE_OK; i++) {
        if ((i == 0 && o->backend == CAKE_MDNS_EMBEDDED) ||
            (i == 1 && o->backend == CAKE_MDNS_DAEMON))
            continue;
        d->poll = avahi_threaded_poll_new();
        if (!d->poll) {
            st = cake_fail(err, CAKE_ENOMEM, "cannot make an Avahi event loop");
            break;
        }
        d->backend = try[i];
        st = d->backend->start(d, err);
        if (st == CAKE_OK && avahi_threaded_poll_start(d->poll) != 0) {
            d->backend->stop(d);
            st = cake_fail(err, CAKE_ENOMEM, "cannot start the discovery thread");
        }
        if (st != CAKE_OK) {
            avahi_threaded_poll_free(d->poll);
            d->poll = NULL;
        }
    }
    if (st != CAKE_OK) goto fail;
    *out = d;
    return CAKE_OK;
fail:
    cake_discovery_close(d);
    return st;
}

void cake_discovery_close(struct cake_discovery *d) {
    if (!d) return;
    if (d->poll) {
        avahi_threaded_poll_stop(d->poll);
        d->backend->stop(d);
        avahi_threaded_poll_free(d->poll);
    }
    for (size_t i = 0; i < d->n_entries; i++) free(d->entries[i]);
    if (d->event_fd >= 0) close(d->event_fd);
    avahi_string_list_free(d->txt);
    free(d->instance);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

int cake_discovery_fd(const struct cake_discovery *d) {
    return d->event_fd;
}

const char *cake_discovery_backend(const struct cake_discovery *d) {
    return d->backend->name;
}

bool cake_discovery_next(struct cake_discovery *d, cake_node_event *out) {
    bool found = false;
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < d->n_entries && !found;) {
        struct mdns_entry *e = d->entries[i];
        if (e->dirty) {
            e->dirty = false;
            if (e->present || e->reported) {
                out->change = !e->present   ? CAKE_NODE_LOST
                              : e->reported ? CAKE_NODE_CHANGED
                                            : CAKE_NODE_FOUND;
                out->node = e->node;
                e->reported = e->present;
                found = true;
            }
        }
        if (!e->present && !e->reported) {
            free(e);
            d->entries[i] = d->entries[--d->n_entries];
        } else {
            i++;
        }
    }
    if (!found) {
        uint64_t count;
        ssize_t rc = read(d->event_fd, &count, sizeof count);
        (void)rc;
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

cake_status cake_node_id_load(const char *name, char *out, cake_error *err) {
    if (!name) return random_hex(out, 32, err);
    if (!cake_name_is_plain(name))
        return cake_fail(err, CAKE_EINVAL, "'%.100s' cannot be part of a file name", name);
    char *dir = cake_state_dir(), *file = cake_asprintf("%s/%s.id", dir, name), *text = NULL;
    size_t len = 0;
    cake_status st = cake_file_read(file, 64, &text, &len, NULL);
    if (st == CAKE_OK && len >= 32 && is_hex((const uint8_t *)text, 32)) {
        memcpy(out, text, 32);
        out[32] = 0;
    } else { /* absent or damaged: a new one */
        st = random_hex(out, 32, err);
        if (st == CAKE_OK) st = cake_mkdir_p(dir, 0700, err);
        char line[CAKE_NODE_ID_HEX + 1];
        snprintf(line, sizeof line, "%.32s\n", out);
        if (st == CAKE_OK) st = cake_file_write(file, line, 33, 0600, err);
    }
    free(text);
    free(file);
    free(dir);
    return st;
}
