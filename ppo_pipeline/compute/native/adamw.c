/* A step of AdamW whose moments are kept in 8 bits; training/eight_bit.py has the equations and the layout. */

#include "numbers.h"

#define BLOCK 256

/* What the 256 codes stand for, in rising order; the border above each code; and for the lowest of the fp32 numbers with
   the same upper 16 bits its code. */
typedef struct { const float *values; const uint8_t *floor; const float *borders; } codes;

INLINE uint8_t code_of(float x, codes table) {
    word w = {.value = x};
    uint8_t code = table.floor[w.bits >> 16];
    return (uint8_t)(code + (x > table.borders[code]));
}

/* A number of [0, 1) from another's bits and the step: the finalizer of MurmurHash3. */
INLINE float dither(float x, uint32_t step) {
    word w = {.value = x};
    uint32_t h = w.bits ^ (step * 0x9e3779b9u);
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return (float)((h ^ (h >> 16)) >> 8) * 0x1p-24f;
}

/* weights (rows, columns), with HALF and `low`: upper halves of fp32 numbers whose lower ones low has, else low is NULL.
   mean, root: codes, rows x columns each, their scales rows x columns / 256 rounded up. shrink: 1 - lr weight_decay.
   size: lr / (1 - beta1^step). unbias: sqrt(1 - beta2^step). mean's borders lie halfway, root's are the values. */
void NAME(adamw_8bit)(real *weights, int16_t *low, const real *grads, uint8_t *mean, float *mean_scales, uint8_t *root,
                      float *root_scales, const float *mean_values, const uint8_t *mean_floor,
                      const float *mean_borders, const float *root_values, const uint8_t *root_floor,
                      const float *root_borders, int64_t rows, int64_t columns, int64_t step, float shrink, float size,
                      float unbias, float beta1, float beta2, float eps, int threads) {
    codes means = {mean_values, mean_floor, mean_borders}, roots = {root_values, root_floor, root_borders};
    int64_t blocks = (columns + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (rows * columns > 8192)
    for (int64_t at = 0; at < rows * blocks; at++) {
        int64_t row = at / blocks, first = at % blocks * BLOCK, start = row * columns + first;
        int64_t count = columns - first < BLOCK ? columns - first : BLOCK;
        float m[BLOCK], r[BLOCK], mean_scale = mean_scales[at], root_scale = root_scales[at];
        float largest_m = 0, largest_r = 0, spoilt = 0; /* not a number where one is: then the block is none */
        for (int64_t j = 0; j < count; j++) {
            m[j] = means.values[mean[start + j]] * mean_scale;
            r[j] = roots.values[root[start + j]] * root_scale;
        }
#pragma omp simd reduction(max : largest_m, largest_r) reduction(+ : spoilt)
        for (int64_t j = 0; j < count; j++) {
            float g = get(grads[start + j]);
            m[j] += (g - m[j]) * (1.0f - beta1);
            r[j] = sqrtf(r[j] * r[j] * beta2 + g * g * (1.0f - beta2));
            float size_of_m = fabsf(m[j]);
            largest_m = size_of_m > largest_m ? size_of_m : largest_m;
            largest_r = r[j] > largest_r ? r[j] : largest_r;
            spoilt += (m[j] - m[j]) + (r[j] - r[j]);
        }
#pragma omp simd
        for (int64_t j = 0; j < count; j++) {
            word w = {.value = get(weights[start + j])};
#ifdef HALF
            w.bits += (uint32_t)(int32_t)low[start + j];
#endif
            w.value = w.value * shrink - size * (m[j] / (r[j] / unbias + eps));
            real high = put(w.value);
            weights[start + j] = high;
#ifdef HALF
            int32_t rest = (int32_t)(w.bits - ((uint32_t)high << 16));
            low[start + j] = (int16_t)(rest > 0x7fff ? 0x7fff : rest < -0x8000 ? -0x8000 : rest);
#endif
        }
        mean_scales[at] = largest_m += spoilt;
        root_scales[at] = largest_r += spoilt;
        float by_m = largest_m < 1e-37f ? 1e-37f : largest_m, by_r = largest_r < 1e-37f ? 1e-37f : largest_r;
        float chance[BLOCK];
#pragma omp simd
        for (int64_t j = 0; j < count; j++) {
            m[j] /= by_m;
            r[j] /= by_r;
            chance[j] = dither(r[j], (uint32_t)step);
        }
        for (int64_t j = 0; j < count; j++) {
            mean[start + j] = code_of(m[j], means);
            uint32_t code = code_of(r[j], roots), next = code + (code < 255);
            float gap = roots.values[next] - roots.values[code];
            code += chance[j] * gap < r[j] - roots.values[code]; /* sums in place of unforeseeable jumps */
            root[start + j] = (uint8_t)(code + ((code == 0) & (r[j] > 0)));
        }
    }
}
