/* What lies between the matrix products of a layer: norm, gated MLP, rotary embedding. */

#include "numbers.h"

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
