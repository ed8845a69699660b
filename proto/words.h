/* The word list of cluster keys (proto/keys.c). */
#ifndef CAKE_PROTO_WORDS_H
#define CAKE_PROTO_WORDS_H

enum { CAKE_WORDS = 2048 };

/* Sorted; the first four letters are unique. */
extern const char cake_words[CAKE_WORDS][8];

#endif
