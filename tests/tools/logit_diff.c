/* Largest absolute difference of two files of f32 (cake-master --dump-logits), and the RMS of the
 * first: logit_diff A B      prints "MAX RMS"; exit 1 when the files differ in length */
#include <math.h>
#include <stdio.h>

int main(int argc, char **argv) {
    FILE *a = argc == 3 ? fopen(argv[1], "rb") : NULL, *b = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!a || !b) return 2;
    double max = 0, sum = 0;
    size_t n = 0;
    for (;; n++) {
        float x, y;
        size_t i = fread(&x, sizeof x, 1, a), j = fread(&y, sizeof y, 1, b);
        if (i != j) return 1;
        if (!i) break;
        max = fmax(max, fabs((double)x - y));
        sum += (double)x * x;
    }
    printf("%.6g %.6g\n", max, n ? sqrt(sum / (double)n) : 0);
    return 0;
}
