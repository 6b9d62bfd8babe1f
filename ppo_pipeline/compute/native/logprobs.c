/* Log probability of a token and entropy from a row of logits, and their gradient, without a second copy of the row. */

#include "numbers.h"

typedef struct { float top, log_sum, entropy; } summary;

/* z = logit / temperature; log_sum = log sum exp(z - top); entropy = log_sum - mean of z - top under the softmax. */
INLINE summary of_row(const real *logits, int64_t vocabulary, float temperature) {
    float top = -INFINITY, sum = 0, weighted = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < vocabulary; j++) top = get(logits[j]) > top ? get(logits[j]) : top;
    top /= temperature;
#pragma omp simd reduction(+ : sum, weighted)
    for (int64_t j = 0; j < vocabulary; j++) {
        float below = get(logits[j]) / temperature - top, mass = fast_exp(below);
        sum += mass;
        weighted += mass > 0 ? mass * below : 0.0f; /* a logit of -inf counts as 0, not as 0 times infinity */
    }
    summary found = {top, logf(sum), logf(sum) - weighted / sum};
    return found;
}

/* logits: (rows, vocabulary); targets, logprobs, entropy: (rows,). */
void NAME(logprobs)(const real *logits, const int64_t *targets, float *logprobs, float *entropy, int64_t rows,
                    int64_t vocabulary, float temperature, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < rows; i++) {
        const real *row = logits + i * vocabulary;
        summary found = of_row(row, vocabulary, temperature);
        logprobs[i] = get(row[targets[i]]) / temperature - found.top - found.log_sum;
        entropy[i] = found.entropy;
    }
}

/* Write over each row of logits the gradient by it, for one of by_logprob[i] by the token's log probability and of
   by_entropy[i] by the entropy, both over the temperature already: p (-by_logprob - by_entropy (log p + entropy)), and
   by_logprob more at the token. */
void NAME(logprobs_backward)(real *logits, const int64_t *targets, const float *entropy, const float *by_logprob,
                             const float *by_entropy, int64_t rows, int64_t vocabulary, float temperature, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < rows; i++) {
        real *row = logits + i * vocabulary;
        summary found = of_row(row, vocabulary, temperature);
        float shift = found.top + found.log_sum, first = by_logprob[i], second = by_entropy[i], h = entropy[i];
        float own = get(row[targets[i]]) / temperature - shift;
#pragma omp simd
        for (int64_t j = 0; j < vocabulary; j++) {
            float logprob = get(row[j]) / temperature - shift, mass = fast_exp(logprob);
            row[j] = put(mass > 0 ? -mass * (first + second * (logprob + h)) : 0.0f);
        }
        float mass = fast_exp(own);
        row[targets[i]] = put(first - (mass > 0 ? mass * (first + second * (own + h)) : 0.0f));
    }
}
