/* Attention: of a decoding step, and of sequences laid end to end with its gradient. */

#include "numbers.h"

/* One key head with the `groups` query heads that share it; `size` is a multiple of LANES. */
INLINE void attend_one(const real *q, const real *k, const real *v, const real *cosine, const real *sine, real *keys,
                       real *values, real *out, float *scores, int64_t groups, int64_t size, int64_t position,
                       float scale) {
    int64_t count = position + 1, parts = size / LANES;
    real turned[groups * size];
    lanes query[groups * parts], mixed[groups * parts];
    float top[groups], sum[groups];
    rotate(k, cosine, sine, keys + position * size, size, 1.0f);
    for (int64_t j = 0; j < size; j++) values[position * size + j] = v[j];
    for (int64_t g = 0; g < groups; g++) {
        rotate(q + g * size, cosine, sine, turned + g * size, size, 1.0f);
        for (int64_t p = 0; p < parts; p++) {
            query[g * parts + p] = get_lanes(turned + g * size + p * LANES) * scale;
            mixed[g * parts + p] = (lanes){0};
        }
        top[g] = -INFINITY;
        sum[g] = 0;
    }
    for (int64_t t = 0; t < count; t++) {
        lanes dot[groups];
        for (int64_t g = 0; g < groups; g++) dot[g] = (lanes){0};
        for (int64_t p = 0; p < parts; p++) {
            lanes key = get_lanes(keys + t * size + p * LANES);
            for (int64_t g = 0; g < groups; g++) dot[g] += query[g * parts + p] * key;
        }
        for (int64_t g = 0; g < groups; g++) {
            float score = sum_of(dot[g]);
            scores[g * count + t] = score;
            top[g] = score > top[g] ? score : top[g];
        }
    }
    for (int64_t g = 0; g < groups; g++) {
        float all = 0;
#pragma omp simd reduction(+ : all)
        for (int64_t t = 0; t < count; t++) all += scores[g * count + t] = fast_exp(scores[g * count + t] - top[g]);
        sum[g] = all;
    }
    for (int64_t t = 0; t < count; t++)
        for (int64_t p = 0; p < parts; p++) {
            lanes value = get_lanes(values + t * size + p * LANES);
            for (int64_t g = 0; g < groups; g++) mixed[g * parts + p] += scores[g * count + t] * value;
        }
    for (int64_t g = 0; g < groups; g++)
        for (int64_t p = 0; p < parts; p++)
            put_lanes(out + g * size + p * LANES, mixed[g * parts + p] / sum[g]);
}

/* A decoding step's attention: row i has a new token at positions[i], whose query and key get their rotary embedding here;
   key and value are stored, and each query attends to its row's keys up to that position.
   q, out: (rows, kv_heads groups, size); k, v: (rows, kv_heads, size); cosine, sine: (rows, size);
   keys, values: (slots, kv_heads, capacity, size). */
void NAME(attend_step)(const real *q, const real *k, const real *v, const real *cosine, const real *sine,
                       const int64_t *positions, real *keys, real *values, real *out, int64_t rows, int64_t kv_heads,
                       int64_t groups, int64_t size, int64_t capacity, float scale, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t i = 0; i < rows * kv_heads; i++) {
        int64_t row = i / kv_heads, at = i * size, cached = i * capacity * size;
        float *scores = malloc(sizeof(float) * groups * (positions[row] + 1));
#define ATTEND(shared, width) \
    attend_one(q + at * groups, k + at, v + at, cosine + row * size, sine + row * size, keys + cached, values + cached, \
               out + at * groups, scores, shared, width, positions[row], scale)
        /* sizes that the compiler knows can stay in registers */
        if (size == 64 && groups == 1) ATTEND(1, 64);
        else if (size == 64 && groups == 3) ATTEND(3, 64);
        else if (size == 64 && groups == 7) ATTEND(7, 64);
        else if (size == 128 && groups == 2) ATTEND(2, 128);
        else if (size == 128 && groups == 4) ATTEND(4, 128);
        else ATTEND(groups, size);
        free(scores);
    }
}
