/* cake-master: placeholder main until the serving loop lands. */
#include <stdio.h>
int main(void) {
    puts("cake-master " CAKE_VERSION);
    return 0;
}
