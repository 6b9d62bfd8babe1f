/* LoRA's products with a few columns, for which libraries of large products take ten times the time that reading x takes.

   A and the transposed B are (rank, width) in fp32; widths are multiples of LANES. */

#include "numbers.h"

INLINE void down_row(const real *x, const float *a, float *low, int64_t width, int64_t rank, float scale) {
    lanes sums[rank];
    for (int64_t r = 0; r < rank; r++) sums[r] = (lanes){0};
    for (int64_t j = 0; j < width; j += LANES) {
        lanes part = get_lanes(x + j);
        for (int64_t r = 0; r < rank; r++) sums[r] += part * get_wide(a + r * width + j);
    }
    for (int64_t r = 0; r < rank; r++) low[r] = scale * sum_of(sums[r]);
}

/* low = scale x A^T: (rows, width) to (rows, rank). */
void NAME(lora_down)(const real *x, const float *a, float *low, int64_t rows, int64_t width, int64_t rank, float scale,
                     int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 16)
    for (int64_t i = 0; i < rows; i++) {
        if (rank == 8) down_row(x + i * width, a, low + i * 8, width, 8, scale);
        else if (rank == 16) down_row(x + i * width, a, low + i * 16, width, 16, scale);
        else down_row(x + i * width, a, low + i * rank, width, rank, scale);
    }
}

INLINE void up_row(const float *low, const float *a, real *y, int64_t width, int64_t rank, float scale, float keep) {
    for (int64_t j = 0; j < width; j += LANES) {
        lanes sum = (lanes){0};
        for (int64_t r = 0; r < rank; r++) sum += low[r] * get_wide(a + r * width + j);
        put_lanes(y + j, keep ? get_lanes(y + j) + scale * sum : scale * sum);
    }
}

/* y = keep y + scale low A: (rows, rank) to (rows, width); keep is 1, or 0 where y holds nothing yet. */
void NAME(lora_up)(const float *low, const float *a, real *y, int64_t rows, int64_t width, int64_t rank, float scale,
                   float keep, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 16)
    for (int64_t i = 0; i < rows; i++) {
        if (rank == 8) up_row(low + i * 8, a, y + i * width, width, 8, scale, keep);
        else if (rank == 16) up_row(low + i * 16, a, y + i * width, width, 16, scale, keep);
        else up_row(low + i * rank, a, y + i * width, width, rank, scale, keep);
    }
}

#define STRIP 2 /* vectors side by side: a line of cache in bf16 */

INLINE void gradient_strip(const float *low, const real *x, float *da, int64_t rows, int64_t width, int64_t rank,
                           int64_t from, int64_t strip, float scale) {
    lanes sums[rank * strip];
    for (int64_t r = 0; r < rank * strip; r++) sums[r] = (lanes){0};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t s = 0; s < strip; s++) {
            __builtin_prefetch(x + (i + 16) * width + from);
            lanes part = get_lanes(x + i * width + from + s * LANES);
            for (int64_t r = 0; r < rank; r++) sums[r * strip + s] += low[i * rank + r] * part;
        }
    for (int64_t r = 0; r < rank; r++)
        for (int64_t s = 0; s < strip; s++)
            put_wide(da + r * width + from + s * LANES, scale * sums[r * strip + s]);
}

/* dA = scale low^T x: (rows, rank) and (rows, width) to (rank, width). */
void NAME(lora_gradient)(const float *low, const real *x, float *da, int64_t rows, int64_t width, int64_t rank,
                         float scale, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 16)
    for (int64_t from = 0; from < width; from += STRIP * LANES) {
        int64_t strip = from + STRIP * LANES <= width ? STRIP : 1;
        if (rank == 8 && strip == STRIP) gradient_strip(low, x, da, rows, width, 8, from, STRIP, scale);
        else gradient_strip(low, x, da, rows, width, rank, from, strip, scale);
    }
}
