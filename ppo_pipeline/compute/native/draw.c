/* Draw a token of each row by one uniform number, as in sampling/draw.py: blocks of the vocabulary first, then within one. */

#include "numbers.h"

#define BLOCK 256

INLINE float mass_of(real logit, float temperature, float top) { return fast_exp(get(logit) / temperature - top); }

INLINE void draw_row(const real *logits, double uniform, double *sums, int64_t *token, float *logprob,
                     int64_t vocabulary, float temperature) {
    int64_t blocks = (vocabulary + BLOCK - 1) / BLOCK, block = -1, last = 0, chosen = -1;
    float top = -INFINITY;
    double total = 0, before = 0, before_last = 0, sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < vocabulary; j++) top = get(logits[j]) > top ? get(logits[j]) : top;
    top /= temperature;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
        float mass = 0;
#pragma omp simd reduction(+ : mass)
        for (int64_t j = b * BLOCK; j < end; j++) mass += mass_of(logits[j], temperature, top);
        total += sums[b] = mass;
    }
    /* The first block whose cumulative sum exceeds the target; where rounding leaves none, the last that has any mass. */
    for (int64_t b = 0; b < blocks && block < 0; b++) {
        if (sums[b] > 0) last = b, before_last = before;
        if (before + sums[b] > uniform * total) block = b;
        else before += sums[b];
    }
    if (block < 0) block = last, before = before_last;
    double rest = uniform * total > before ? uniform * total - before : 0;
    int64_t end = (block + 1) * BLOCK < vocabulary ? (block + 1) * BLOCK : vocabulary;
    last = block * BLOCK;
    for (int64_t j = block * BLOCK; j < end && chosen < 0; j++) {
        float mass = mass_of(logits[j], temperature, top);
        if (mass > 0) last = j;
        sum += mass;
        if (sum > rest) chosen = j;
    }
    *token = chosen < 0 ? last : chosen;
    *logprob = get(logits[*token]) / temperature - top - (float)log(total);
}

/* logits: (rows, vocabulary); logprobs: of the tokens under softmax(logits / temperature). */
void NAME(draw)(const real *logits, const double *uniforms, int64_t *tokens, float *logprobs, int64_t rows,
                int64_t vocabulary, float temperature, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < rows; i++) {
        double *sums = malloc(sizeof(double) * (vocabulary / BLOCK + 1));
        draw_row(logits + i * vocabulary, uniforms[i], sums, tokens + i, logprobs + i, vocabulary, temperature);
        free(sums);
    }
}
