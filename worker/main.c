/* cake-worker: placeholder main until the serving loop lands. */
#include <stdio.h>
int main(void) {
    puts("cake-worker " CAKE_VERSION);
    return 0;
}
