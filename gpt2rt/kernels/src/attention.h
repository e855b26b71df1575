/* Causal attention over the keys and values of a token's own slot. */
#include "kernels.h"
#include "lanes.h"

/* The keys or values of a head of a slot. */
INLINE const char *head_of(const Attention *a, const void *all, size_t slot, size_t head) {
    const size_t bytes = a->half ? sizeof(uint16_t) : sizeof(float);
    return (const char *)all + (slot * a->heads + head) * a->capacity * a->width * bytes;
}

INLINE f32x16 load_kept(const char *all, size_t at, const int half) {
    return half ? load_half((const uint16_t *)(const void *)all + at)
                : load((const float *)(const void *)all + at);
}

static void remember_row(const Attention *a, void *all, const float *values, size_t token,
                         size_t head) {
    char *into = (char *)head_of(a, all, (size_t)a->slot[token], head);
    const size_t at = (size_t)a->position[token] * a->width;
    for (size_t i = 0; i < a->width; i += LANES)
        if (a->half)
            store_half((uint16_t *)(void *)into + at + i, load(values + i));
        else
            store((float *)(void *)into + at + i, load(values + i));
}

static void remember(const Attention *a, size_t first, size_t last) {
    const size_t all = a->heads * a->width;
    for (size_t token = first; token < last; token++)
        for (size_t head = 0; head < a->heads; head++) {
            const float *key = a->qkv + token * 3 * all + all + head * a->width;
            remember_row(a, a->keys, key, token, head);
            remember_row(a, a->values, key + all, token, head);
        }
}

#if defined(__AVX512F__)
#define SCORES 16 /* sums of a tile: as many as there are registers for */
#else
#define SCORES 4
#endif

/* Scores of Q queries with the N positions from `at` on. */
INLINE void score_tile(const float *q, size_t pitch, const char *keys, size_t at, size_t width,
                       float scale, float *scores, size_t row, const int Q, const int N,
                       const int half) {
    f32x16 acc[16];
    UNROLL for (int i = 0; i < Q * N; i++) acc[i] = splat(0);
    for (size_t d = 0; d < width; d += LANES)
        UNROLL for (int n = 0; n < N; n++) {
            const f32x16 key = load_kept(keys, (at + n) * width + d, half);
            UNROLL for (int i = 0; i < Q; i++)
                acc[i * N + n] = fma16(load(q + i * pitch + d), key, acc[i * N + n]);
        }
    float all[16];
    sums_of(acc, Q * N, all);
    UNROLL for (int i = 0; i < Q; i++)
        UNROLL for (int n = 0; n < N; n++) scores[i * row + at + n] = all[i * N + n] * scale;
}

/* The values of the positions from `start` to `end`, weighted, added to Q rows of 16 lanes each. */
INLINE void mix_tile(const float *weights, size_t row, const char *values, size_t start, size_t end,
                     size_t width, size_t d, f32x16 *acc, const int Q, const int D,
                     const int half) {
    f32x16 sums[4][4];
    UNROLL for (int i = 0; i < Q; i++)
        UNROLL for (int j = 0; j < D; j++) sums[i][j] = acc[i * 4 + j];
    for (size_t at = start; at < end; at++)
        UNROLL for (int j = 0; j < D; j++) {
            const f32x16 value = load_kept(values, at * width + d + 16 * j, half);
            UNROLL for (int i = 0; i < Q; i++)
                sums[i][j] = fma16(splat(weights[i * row + at]), value, sums[i][j]);
        }
    UNROLL for (int i = 0; i < Q; i++)
        UNROLL for (int j = 0; j < D; j++) acc[i * 4 + j] = sums[i][j];
}

/* Make scores [length] to exp(score - largest), and return one over their sum. The sum has 16
 * lanes, position by position, and then one order. */
static float soften(float *scores, size_t length) {
    const size_t padded = round_up(length, LANES);
    for (size_t i = length; i < padded; i++) scores[i] = -INFINITY;
    f32x16 most = splat(-INFINITY), sum = splat(0);
    for (size_t i = 0; i < padded; i += LANES) most = larger(load(scores + i), most);
    const f32x16 largest = splat(largest16(most));
    for (size_t i = 0; i < padded; i += LANES) {
        f32x16 e = exponential(sub(load(scores + i), largest));
        if (i + LANES > length) { /* what is behind the last position counts nothing */
            float values[LANES] = {0}, kept[LANES];
            store(kept, e);
            memcpy(values, kept, (length - i) * sizeof *values);
            e = load(values);
        }
        store(scores + i, e);
        sum = add(sum, e);
    }
    return 1.0f / sum16(sum);
}

INLINE void scores_of(const Attention *a, const float *q, size_t pitch, const char *keys,
                      size_t length, float *scores, size_t row, const int Q, const int half) {
    const size_t width = a->width;
    size_t at = 0;
    for (; at + SCORES / Q <= length; at += SCORES / Q)
        score_tile(q, pitch, keys, at, width, a->scale, scores, row, Q, SCORES / Q, half);
    for (; at < length; at++)
        score_tile(q, pitch, keys, at, width, a->scale, scores, row, Q, 1, half);
}

/* `attend` for Q tokens; the positions that all of them see are read once. */
INLINE void attend_some(const Attention *a, size_t head, size_t first, float *scratch, const int Q,
                        const int half) {
    const size_t width = a->width, all = a->heads * width, pitch = 3 * all;
    const size_t row = round_up(a->capacity, LANES), shared = (size_t)a->position[first] + 1;
    const char *keys = head_of(a, a->keys, (size_t)a->slot[first], head);
    const char *values = head_of(a, a->values, (size_t)a->slot[first], head);
    const float *q = a->qkv + first * pitch + head * width;
    float *mixed = a->mixed + first * all + head * width, inverse[4];
    scores_of(a, q, pitch, keys, shared, scratch, row, Q, half);
    UNROLL for (int i = 0; i < Q; i++) {
        for (size_t at = shared; at < shared + i; at++)
            score_tile(q + i * pitch, pitch, keys, at, width, a->scale, scratch + i * row, row, 1, 1,
                       half);
        inverse[i] = soften(scratch + i * row, shared + i);
    }
    for (size_t d = 0; d < width; d += 64) {
        const int D = width - d < 64 ? (int)((width - d) / LANES) : 4;
        f32x16 acc[16];
        UNROLL for (int i = 0; i < 16; i++) acc[i] = splat(0);
        switch (D) {
        case 4: mix_tile(scratch, row, values, 0, shared, width, d, acc, Q, 4, half); break;
        case 3: mix_tile(scratch, row, values, 0, shared, width, d, acc, Q, 3, half); break;
        case 2: mix_tile(scratch, row, values, 0, shared, width, d, acc, Q, 2, half); break;
        default: mix_tile(scratch, row, values, 0, shared, width, d, acc, Q, 1, half);
        }
        UNROLL for (int i = 0; i < Q; i++)
            UNROLL for (int j = 0; j < D; j++) {
                f32x16 sum = acc[i * 4 + j];
                for (size_t at = shared; at < shared + i; at++)
                    sum = fma16(splat(scratch[i * row + at]),
                                load_kept(values, at * width + d + 16 * j, half), sum);
                store(mixed + i * all + d + 16 * j, mul(sum, splat(inverse[i])));
            }
    }
}

static void attend(const Attention *a, size_t head, size_t first, size_t count, float *scratch) {
    if (count == QUERIES) {
        if (a->half)
            attend_some(a, head, first, scratch, QUERIES, 1);
        else
            attend_some(a, head, first, scratch, QUERIES, 0);
        return;
    }
    for (size_t token = first; token < first + count; token++)
        if (a->half)
            attend_some(a, head, token, scratch, 1, 1);
        else
            attend_some(a, head, token, scratch, 1, 0);
}

static size_t scratch_floats(const Attention *a) {
    return QUERIES * round_up(a->capacity, LANES);
}
