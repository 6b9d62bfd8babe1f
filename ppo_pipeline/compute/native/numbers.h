#ifndef NUMBERS_H
#define NUMBERS_H

/* Number formats, vectors and functions that the kernels share.

   Every file is compiled twice, for bf16 (HALF) and fp32; library.py says how. Arithmetic is fp32. Where transformers' own
   code rounds to the model's dtype in between (`rounded`), so do the kernels, so that both give the same up to
   the order of a sum. Each sum is made by one thread, in one order: no result depends on the number of threads, and that
   of a token or sequence not on the others beside it. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

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
INLINE float fast_exp(float exponent) {
    float x = exponent; /* below the range the result is 0, above it infinity */
    x = x < -87.0f ? -87.0f : x > 89.0f ? 89.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666672f + r * (4.16664e-2f + r * (8.3345e-3f + r * 1.3915e-3f)))));
    word scale = {.bits = (uint32_t)((int32_t)n + 127) << 23};
    return exponent < -87.0f ? 0.0f : p * scale.value;
}

/* Sixteen numbers at a time, in the vectors that gcc and clang make of any machine's registers. */
#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float half_lanes __attribute__((vector_size(2 * LANES)));
typedef float quarter_lanes __attribute__((vector_size(LANES)));
typedef float loose_lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t bit_lanes __attribute__((vector_size(4 * LANES)));
typedef uint16_t short_lanes __attribute__((vector_size(2 * LANES), aligned(2)));

INLINE lanes get_wide(const float *x) { return *(const loose_lanes *)x; }
INLINE void put_wide(float *target, lanes x) { *(loose_lanes *)target = x; }

INLINE lanes get_lanes(const real *x) {
#ifdef HALF
    return (lanes)(__builtin_convertvector(*(const short_lanes *)x, bit_lanes) << 16);
#else
    return *(const loose_lanes *)x;
#endif
}

INLINE float sum_of(lanes x) {
    union { lanes all; half_lanes halves[2]; } a = {x};
    union { half_lanes all; quarter_lanes halves[2]; } b = {a.halves[0] + a.halves[1]};
    quarter_lanes c = b.halves[0] + b.halves[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
}

INLINE void put_lanes(real *target, lanes x) {
#if defined(HALF) && defined(__AVX512BF16__)
    *(short_lanes *)target = (short_lanes)_mm512_cvtneps_pbh((__m512)x);
#elif defined(HALF)
    bit_lanes bits = (bit_lanes)x, nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    bit_lanes is_nan = (bit_lanes)((bits & 0x7fffffff) > 0x7f800000);
    *(short_lanes *)target = __builtin_convertvector((nearest & ~is_nan) | (is_nan & 0x7fc0), short_lanes);
#else
    *(loose_lanes *)target = x;
#endif
}

/* The rotary embedding of one head: halves (a, b) to (a cos - b sin, b cos + a sin); `sign` -1 is the way back. */
INLINE void rotate(const real *restrict in, const real *restrict cosine, const real *restrict sine, real *restrict out,
                   int64_t size, float sign) {
    int64_t half = size / 2;
    /* on the way back a number has the sine of the half that it came from */
    const real *left_sine = sign > 0 ? sine : sine + half, *right_sine = sign > 0 ? sine + half : sine;
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        float a = get(in[j]), b = get(in[j + half]);
        out[j] = put(rounded(a * get(cosine[j])) - sign * rounded(b * get(left_sine[j])));
        out[j + half] = put(rounded(b * get(cosine[j + half])) + sign * rounded(a * get(right_sine[j])));
    }
}

#endif
