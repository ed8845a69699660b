/* Arbitrary bytes as stored weights: every format decodes them without reading or writing outside
 * its blocks, and what it decodes can be encoded again, infinities and NaNs included. */
#include "kernels/codec.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    uint32_t pick = data[0], flavour = data[1] & 1;
    bool weigh = data[1] & 2;
    data += 2, size -= 2;
    if (size > 4096) size = 4096;
    uint8_t *in = malloc(size + 1), *out = NULL; /* exact: one byte too far is an error */
    float *y = NULL;
    memcpy(in, data, size);
    if (pick % 3 == 0) {
        cake_codec c = (cake_codec)(pick / 3 % CAKE_CODEC_COUNT);
        const cake_codec_info *info = cake_codec_get(c);
        size_t k = size / info->bytes * info->weights;
        y = malloc(k * 4 + 1), out = malloc(size + 1);
        cake_codec_decode_row(c, in, y, k);
        cake_codec_encode_row(c, (cake_encode_flavour)flavour, y, weigh ? y : NULL, out, k);
        k = size / 4 / info->weights * info->weights; /* and the bytes as floats */
        free(y), free(out);
        y = malloc(size + 1), out = malloc(cake_codec_row_bytes(c, k) + 1);
        memcpy(y, in, k * 4);
        cake_codec_encode_row(c, (cake_encode_flavour)flavour, y, weigh ? y : NULL, out, k);
    } else if (pick % 3 == 1) {
        static const uint8_t widths[] = {2, 3, 4, 5, 6, 8};
        uint32_t bits = widths[pick / 3 % 6], group = 32u << (data[-1] >> 2) % 3;
        cake_ftype type = (cake_ftype)((data[-1] >> 4) % 3);
        size_t sb = cake_ftype_bytes(type), n = size / (group * bits / 8 + 2 * sb), k = n * group;
        y = malloc(k * 4 + 1), out = malloc(size + 1);
        size_t s = k * bits / 8, b = s + n * sb;
        cake_affine_decode(bits, group, type, in, in + s, in + b, y, k);
        cake_affine_encode(bits, group, type, y, out, out + s, out + b, k);
    } else {
        cake_fp_mode m = (cake_fp_mode)(pick / 3 % CAKE_FP_COUNT);
        const cake_fp_info *info = cake_fp_get(m);
        size_t n = size / (info->group * info->bits / 8 + 1), k = n * info->group;
        y = malloc(k * 4 + 1), out = malloc(size + 1);
        cake_fp_decode(m, in, in + (size - n), y, k);
        cake_fp_encode(m, y, out, out + (size - n), k);
    }
    free(in), free(out), free(y);
    return 0;
}
