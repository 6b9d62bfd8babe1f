/* What torch does in many small operations between two matrix products, each in one pass over its rows.

   Compiled twice, for bf16 (HALF) and fp32; library.py says how. Arithmetic is fp32. Where transformers' own code rounds
   to the model's number format in between (`rounded`), so does this, so that both give the same up to the order of a sum.
   Each row is computed by one thread, in one order: the result does not depend on threads or on the other rows. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

typedef union { uint32_t bits; float value; } word;

#ifdef HALF
typedef uint16_t real;
#define NAME(name) name##_bf16
INLINE float get(real x) { word w = {.bits = (uint32_t)x << 16}; return w.value; }
INLINE real put(float x) {  /* to the nearest, ties to even */
    word w = {.value = x};
    uint32_t nearest = (w.bits + 0x7fff + ((w.bits >> 16) & 1)) >> 16;
    return (real)((w.bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest);
}
#else
typedef float real;
#define NAME(name) name##_fp32
INLINE float get(real x) { return x; }
INLINE real put(float x) { return x; }
#endif

INLINE float rounded(float x) { return get(put(x)); }

/* exp by 2^n times a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2]: 2 units in the last place, and the compiler can
   compute 16 at a time, which it cannot do with a call of libm. */
INLINE float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666672f + r * (4.16664e-2f + r * (8.3345e-3f + r * 1.3915e-3f)))));
    word scale = {.bits = (uint32_t)((int32_t)n + 127) << 23};
    return p * scale.value;
}

/* y = w * x / sqrt(mean(x^2) + eps), by row of `width` numbers. */
void NAME(rms_norm)(const real *x, const real *weight, real *y, int64_t rows, int64_t width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 8192)
    for (int64_t i = 0; i < rows; i++) {
        const real *in = x + i * width;
        real *out = y + i * width;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; j++) sum += get(in[j]) * get(in[j]);
        float factor = 1.0f / sqrtf(sum / (float)width + eps);
#pragma omp simd
        for (int64_t j = 0; j < width; j++) out[j] = put(get(weight[j]) * rounded(get(in[j]) * factor));
    }
}

/* dx = f (w dy - x f^2 mean(w dy x)), f = 1 / sqrt(mean(x^2) + eps). */
void NAME(rms_norm_backward)(const real *x, const real *weight, const real *dy, real *dx, int64_t rows, int64_t width,
                             float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 8192)
    for (int64_t i = 0; i < rows; i++) {
        const real *in = x + i * width, *grad = dy + i * width;
        real *out = dx + i * width;
        float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t j = 0; j < width; j++) {
            sum += get(in[j]) * get(in[j]);
            dot += get(weight[j]) * get(grad[j]) * get(in[j]);
        }
        float factor = 1.0f / sqrtf(sum / (float)width + eps);
        float along = dot / (float)width * factor * factor;
#pragma omp simd
        for (int64_t j = 0; j < width; j++)
            out[j] = put(factor * (get(weight[j]) * get(grad[j]) - get(in[j]) * along));
    }
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* y = silu(gate) up, silu(x) = x sigmoid(x). */
void NAME(silu_times)(const real *gate, const real *up, real *y, int64_t count, int threads) {
#pragma omp parallel for simd num_threads(threads) if (count > 8192)
    for (int64_t j = 0; j < count; j++) {
        float g = get(gate[j]);
        y[j] = put(rounded(g * sigmoid(g)) * get(up[j]));
    }
}

void NAME(silu_times_backward)(const real *gate, const real *up, const real *dy, real *dgate, real *dup, int64_t count,
                               int threads) {
#pragma omp parallel for simd num_threads(threads) if (count > 8192)
    for (int64_t j = 0; j < count; j++) {
        float g = get(gate[j]), s = sigmoid(g), grad = get(dy[j]);
        dup[j] = put(grad * g * s);
        dgate[j] = put(grad * get(up[j]) * s * (1.0f + g * (1.0f - s)));
    }
}

/* The rotary embedding of one head: halves (a, b) to (a cos - b sin, b cos + a sin); `sign` -1 is the way back. */
INLINE void rotate(const real *in, const real *cosine, const real *sine, real *out, int64_t size, float sign) {
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        float a = get(in[j]), b = get(in[j + half]);
        /* on the way back the sine is that of the other half, where it came from */
        float first = get(sine[sign > 0 ? j : j + half]), second = get(sine[sign > 0 ? j + half : j]);
        float left = rounded(a * get(cosine[j])) - sign * rounded(b * first);
        float right = rounded(b * get(cosine[j + half])) + sign * rounded(a * second);
        out[j] = put(left);
        out[j + half] = put(right);
    }
}

/* x, y: (tokens, heads, size); cosine, sine: (tokens, size). */
void NAME(rotary)(const real *x, const real *cosine, const real *sine, real *y, int64_t tokens, int64_t heads,
                  int64_t size, float sign, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens * heads * size > 8192)
    for (int64_t i = 0; i < tokens; i++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t at = (i * heads + h) * size;
            rotate(x + at, cosine + i * size, sine + i * size, y + at, size, sign);
        }
}

/* Sixteen numbers at a time, in the vectors that gcc and clang make of any machine's registers. */
#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float half_lanes __attribute__((vector_size(2 * LANES)));
typedef float quarter_lanes __attribute__((vector_size(LANES)));

INLINE lanes get_lanes(const real *x) {
#ifdef HALF
    typedef uint16_t short_lanes __attribute__((vector_size(2 * LANES), aligned(2)));
    typedef uint32_t bit_lanes __attribute__((vector_size(4 * LANES)));
    return (lanes)(__builtin_convertvector(*(const short_lanes *)x, bit_lanes) << 16);
#else
    typedef float loose_lanes __attribute__((vector_size(4 * LANES), aligned(4)));
    return *(const loose_lanes *)x;
#endif
}

INLINE float sum_of(lanes x) {
    union { lanes all; half_lanes halves[2]; } a = {x};
    union { half_lanes all; quarter_lanes halves[2]; } b = {a.halves[0] + a.halves[1]};
    quarter_lanes c = b.halves[0] + b.halves[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
}

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
            for (int64_t j = 0; j < LANES; j++)
                out[g * size + p * LANES + j] = put(mixed[g * parts + p][j] / sum[g]);
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
