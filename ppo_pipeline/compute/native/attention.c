/* Attention: of a decoding step, and of sequences packed with its gradient. */

#include "numbers.h"

/* Sizes that the compiler knows can stay in registers. */
#define BY_SIZE(FUNCTION)                                      \
    if (size == 64 && groups == 1) FUNCTION(1, 64);            \
    else if (size == 64 && groups == 3) FUNCTION(3, 64);       \
    else if (size == 64 && groups == 7) FUNCTION(7, 64);       \
    else if (size == 128 && groups == 2) FUNCTION(2, 128);     \
    else if (size == 128 && groups == 4) FUNCTION(4, 128);     \
    else FUNCTION(groups, size)

#define LINE (64 / (int64_t)sizeof(real)) /* numbers in a line of the processor's cache */
#define AHEAD 12                          /* keys */

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
    }
    for (int64_t t = 0; t < count; t++) {
        lanes dot[groups];
        for (int64_t p = 0; p < size; p += LINE) { /* the cache is far larger than the processor's */
            __builtin_prefetch(keys + (t + AHEAD) * size + p);
            __builtin_prefetch(values + t * size + p);
        }
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
#define STEP(shared_by, width_of)                                                                                   \
    attend_one(q + at * groups, k + at, v + at, cosine + row * size, sine + row * size, keys + cached, values + cached, \
               out + at * groups, scores, shared_by, width_of, positions[row], scale)
        BY_SIZE(STEP);
        free(scores);
    }
}

/* Sequences packed as a tree: q and out (tokens, kv_heads groups, size), k and v (tokens, kv_heads, size). Branch s has
   tokens starts[s] to starts[s + 1], behind those of the branch parents[s] (-1: none), which is before it; each of them
   attends to the branches above, `before` tokens in all, and to its own up to itself. */

/* Copy a head's keys or values, those above a branch and its own, to fp32 rows one behind the other. */
INLINE void gather(const real *x, float *rows, const int64_t *starts, const int64_t *parents, int64_t branch,
                   int64_t before, int64_t stride, int64_t size) {
    for (int64_t s = branch, row = before; s >= 0; s = parents[s]) {
        int64_t count = starts[s + 1] - starts[s];
        if (s != branch) row -= count;
        for (int64_t t = 0; t < count; t++)
            for (int64_t p = 0; p < size; p += LANES)
                put_wide(rows + (row + t) * size + p, get_lanes(x + (starts[s] + t) * stride + p));
    }
}

/* scores[g][t] = query g . row t, for `count` rows of fp32. */
INLINE void products(const lanes *query, const float *rows, float *scores, int64_t count, int64_t room, int64_t groups,
                     int64_t parts) {
    for (int64_t t = 0; t < count; t++) {
        lanes dot[groups];
        for (int64_t g = 0; g < groups; g++) dot[g] = (lanes){0};
        for (int64_t p = 0; p < parts; p++) {
            lanes row = get_wide(rows + (t * parts + p) * LANES);
            for (int64_t g = 0; g < groups; g++) dot[g] += query[g * parts + p] * row;
        }
        for (int64_t g = 0; g < groups; g++) scores[g * room + t] = sum_of(dot[g]);
    }
}

INLINE void attend_forward(const real *q, const real *k, const real *v, const int64_t *starts, const int64_t *parents,
                           real *out, float *log_sums, float *room, int64_t branch, int64_t before, int64_t kv_heads,
                           int64_t groups, int64_t size, float scale) {
    int64_t from = starts[branch], to = starts[branch + 1], parts = size / LANES, width = before + to - from;
    float *keys = room, *values = keys + width * size, *scores = values + width * size;
    gather(k, keys, starts, parents, branch, before, kv_heads * size, size);
    gather(v, values, starts, parents, branch, before, kv_heads * size, size);
    for (int64_t t = from; t < to; t++) {
        int64_t count = before + t - from + 1, at = t * kv_heads * groups * size;
        lanes query[groups * parts], mixed[groups * parts];
        float sums[groups];
        for (int64_t i = 0; i < groups * parts; i++) {
            query[i] = get_lanes(q + at + i * LANES) * scale;
            mixed[i] = (lanes){0};
        }
        products(query, keys, scores, count, width, groups, parts);
        for (int64_t g = 0; g < groups; g++) {
            float *row = scores + g * width, top = row[0], sum = 0;
#pragma omp simd reduction(max : top)
            for (int64_t s = 0; s < count; s++) top = row[s] > top ? row[s] : top;
#pragma omp simd reduction(+ : sum)
            for (int64_t s = 0; s < count; s++) sum += row[s] = fast_exp(row[s] - top);
            sums[g] = sum;
            log_sums[t * kv_heads * groups + g] = top + logf(sum);
        }
        for (int64_t s = 0; s < count; s++)
            for (int64_t p = 0; p < parts; p++) {
                lanes value = get_wide(values + s * size + p * LANES);
                for (int64_t g = 0; g < groups; g++) mixed[g * parts + p] += scores[g * width + s] * value;
            }
        for (int64_t g = 0; g < groups; g++)
            for (int64_t p = 0; p < parts; p++)
                put_lanes(out + at + g * size + p * LANES, mixed[g * parts + p] / sums[g]);
    }
}

/* P = exp(s q k - log_sum), dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = s dS K, dK = s dS^T Q
   (Dao et al. 2022, arXiv:2205.14135, appendix B.2). dk and dv of the branch's own tokens are written to the tables;
   those of the tokens above to `shared`, (2, before, size), for each branch by itself, and added up at the end. */
INLINE void attend_backward(const real *q, const real *k, const real *v, const real *grad, const float *log_sums,
                            const int64_t *starts, const int64_t *parents, real *dq, real *dk, real *dv, float *shared,
                            float *room, int64_t branch, int64_t before, int64_t kv_heads, int64_t groups, int64_t size,
                            float scale) {
    int64_t from = starts[branch], to = starts[branch + 1];
    int64_t parts = size / LANES, width = before + to - from, stride = kv_heads * size;
    float *keys = room, *values = keys + width * size, *dkeys = values + width * size, *dvalues = dkeys + width * size;
    float *weights = dvalues + width * size, *slopes = weights + groups * width;
    gather(k, keys, starts, parents, branch, before, stride, size);
    gather(v, values, starts, parents, branch, before, stride, size);
    for (int64_t i = 0; i < 2 * width * size; i++) dkeys[i] = 0;
    for (int64_t t = from; t < to; t++) {
        int64_t count = before + t - from + 1, at = t * kv_heads * groups * size;
        lanes query[groups * parts], above[groups * parts], dquery[groups * parts];
        for (int64_t i = 0; i < groups * parts; i++) {
            query[i] = get_lanes(q + at + i * LANES) * scale;
            above[i] = get_lanes(grad + at + i * LANES);
            dquery[i] = (lanes){0};
        }
        products(query, keys, weights, count, width, groups, parts);
        products(above, values, slopes, count, width, groups, parts);
        for (int64_t g = 0; g < groups; g++) {
            float *weight = weights + g * width, *slope = slopes + g * width;
            float log_sum = log_sums[t * kv_heads * groups + g], mean = 0;
#pragma omp simd reduction(+ : mean)
            for (int64_t s = 0; s < count; s++) {
                weight[s] = fast_exp(weight[s] - log_sum);
                mean += weight[s] * slope[s];
            }
#pragma omp simd
            for (int64_t s = 0; s < count; s++) slope[s] = weight[s] * (slope[s] - mean);
        }
        for (int64_t s = 0; s < count; s++)
            for (int64_t p = 0; p < parts; p++) {
                int64_t place = s * size + p * LANES;
                lanes key = get_wide(keys + place), dkey = get_wide(dkeys + place), dvalue = get_wide(dvalues + place);
                for (int64_t g = 0; g < groups; g++) {
                    dquery[g * parts + p] += slopes[g * width + s] * key;
                    dkey += slopes[g * width + s] * query[g * parts + p];
                    dvalue += weights[g * width + s] * above[g * parts + p];
                }
                put_wide(dkeys + place, dkey);
                put_wide(dvalues + place, dvalue);
            }
        for (int64_t i = 0; i < groups * parts; i++) put_lanes(dq + at + i * LANES, dquery[i] * scale);
    }
    for (int64_t i = 0; i < before * size; i++) {
        shared[i] = dkeys[i];
        shared[before * size + i] = dvalues[i];
    }
    for (int64_t t = before; t < width; t++)
        for (int64_t p = 0; p < size; p += LANES) {
            put_lanes(dk + (from + t - before) * stride + p, get_wide(dkeys + t * size + p));
            put_lanes(dv + (from + t - before) * stride + p, get_wide(dvalues + t * size + p));
        }
}

/* befores: (branches,). log_sums: (tokens, kv_heads groups), for the way back. Tokens behind the last branch are left
   as they are. */
void NAME(attend)(const real *q, const real *k, const real *v, const int64_t *starts, const int64_t *parents,
                  const int64_t *befores, real *out, float *log_sums, int64_t branches, int64_t kv_heads, int64_t groups,
                  int64_t size, float scale, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < branches * kv_heads; i++) {
        int64_t s = i / kv_heads, h = i % kv_heads, width = befores[s] + starts[s + 1] - starts[s];
        float *room = malloc(sizeof(float) * width * (2 * size + groups));
#define FORWARD(shared_by, width_of)                                                                                    \
    attend_forward(q + h * groups * size, k + h * size, v + h * size, starts, parents, out + h * groups * size,         \
                   log_sums + h * groups, room, s, befores[s], kv_heads, shared_by, width_of, scale)
        BY_SIZE(FORWARD);
        free(room);
    }
}

/* ends: (branches,), where what is behind each branch ends: these follow it without a gap. rooms: (branches,), the sum
   of `befores` so far. dq like q; dk and dv like k; shared: for each branch (kv_heads, 2, before, size), what it adds to
   the tokens above. */
void NAME(attend_backward)(const real *q, const real *k, const real *v, const real *grad, const float *log_sums,
                           const int64_t *starts, const int64_t *parents, const int64_t *befores, const int64_t *ends,
                           const int64_t *rooms, real *dq, real *dk, real *dv, float *shared, int64_t branches,
                           int64_t kv_heads, int64_t groups, int64_t size, float scale, int threads) {
#define SHARED(s, h) (shared + (rooms[s] * kv_heads + befores[s] * (h)) * 2 * size)
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < branches * kv_heads; i++) {
        int64_t s = i / kv_heads, h = i % kv_heads, width = befores[s] + starts[s + 1] - starts[s];
        float *room = malloc(sizeof(float) * width * (4 * size + 2 * groups));
#define BACKWARD(shared_by, width_of)                                                                                   \
    attend_backward(q + h * groups * size, k + h * size, v + h * size, grad + h * groups * size, log_sums + h * groups, \
                    starts, parents, dq + h * groups * size, dk + h * size, dv + h * size, SHARED(s, h), room, s,       \
                    befores[s], kv_heads, shared_by, width_of, scale)
        BY_SIZE(BACKWARD);
        free(room);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < branches * kv_heads; i++) {
        int64_t a = i / kv_heads, h = i % kv_heads;
        if (ends[a] == a + 1) continue;
        for (int64_t t = 0; t < starts[a + 1] - starts[a]; t++)
            for (int64_t p = 0; p < size; p += LANES) {
                int64_t at = ((starts[a] + t) * kv_heads + h) * size + p;
                lanes dkey = get_lanes(dk + at), dvalue = get_lanes(dv + at);
                for (int64_t s = a + 1; s < ends[a]; s++) {
                    const float *mine = SHARED(s, h) + (befores[a] + t) * size + p;
                    dkey += get_wide(mine);
                    dvalue += get_wide(mine + befores[s] * size);
                }
                put_lanes(dk + at, dkey);
                put_lanes(dv + at, dvalue);
            }
    }
#undef SHARED
}
