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

/* Prefetch the keys or values of `count` positions from `at` on. */
INLINE void prefetch_kept(const char *all, size_t at, size_t count, size_t width, const int half) {
    const size_t bytes = width * (half ? sizeof(uint16_t) : sizeof(float));
    for (size_t i = at * bytes; i < (at + count) * bytes; i += 64) PREFETCH(all + i);
}

/* The keys that are scored after those of a head of the token before `token`. */
INLINE const char *keys_after(const Attention *a, size_t head, size_t token) {
    if (token < a->t) return head_of(a, a->keys, (size_t)a->slot[token], head);
    return head_of(a, a->keys, (size_t)a->slot[0], (head + 1) % a->heads);
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
#define SUMS 16 /* of a tile: as many as there are registers for */
#else
#define SUMS 4
#endif

/* ---- a few queries, each with a row of scores */

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

INLINE void scores_of(const Attention *a, const float *q, size_t pitch, const char *keys,
                      const char *values, size_t length, float *scores, size_t row, const int Q,
                      const int half) {
    const size_t width = a->width;
    size_t at = 0;
    for (; at + SUMS / Q <= length; at += SUMS / Q) {
        prefetch_kept(values, at, SUMS / Q, width, half);
        score_tile(q, pitch, keys, at, width, a->scale, scores, row, Q, SUMS / Q, half);
    }
    for (; at < length; at++)
        score_tile(q, pitch, keys, at, width, a->scale, scores, row, Q, 1, half);
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

/* The values that Q queries see, weighted, for D times 16 lanes. The first query sees `shared`
 * positions, each further one another; what all see is read once. The weight of query i at a position
 * is weights[position * step + i * row] * inverse[i]. As many of the `next` keys are prefetched. */
INLINE void mix_tile(const float *weights, size_t step, size_t row, const char *values,
                     const char *next, size_t shared, size_t width, size_t d, const float *inverse,
                     float *mixed, size_t pitch, const int Q, const int D, const int half) {
    f32x16 sums[4][4];
    UNROLL for (int i = 0; i < Q; i++)
        UNROLL for (int j = 0; j < D; j++) sums[i][j] = splat(0);
    for (size_t at = 0; at < shared; at++) {
        if (next) prefetch_kept(next, at, 1, width, half);
        UNROLL for (int j = 0; j < D; j++) {
            const f32x16 value = load_kept(values, at * width + d + 16 * j, half);
            UNROLL for (int i = 0; i < Q; i++)
                sums[i][j] = fma16(splat(weights[at * step + i * row]), value, sums[i][j]);
        }
    }
    UNROLL for (int i = 0; i < Q; i++)
        UNROLL for (int j = 0; j < D; j++) {
            for (size_t at = shared; at < shared + i; at++)
                sums[i][j] = fma16(splat(weights[at * step + i * row]),
                                   load_kept(values, at * width + d + 16 * j, half), sums[i][j]);
            store(mixed + i * pitch + d + 16 * j, mul(sums[i][j], splat(inverse[i])));
        }
}

INLINE void mix(const float *weights, size_t step, size_t row, const char *values, const char *next,
                size_t shared, size_t width, const float *inverse, float *mixed, size_t pitch,
                const int Q, const int half) {
    const int D = SUMS / Q < 4 ? SUMS / Q : 4;
    size_t d = 0;
    for (; d + D * LANES <= width; d += D * LANES)
        mix_tile(weights, step, row, values, d ? NULL : next, shared, width, d, inverse, mixed, pitch,
                 Q, D, half);
    for (; d < width; d += LANES)
        mix_tile(weights, step, row, values, d ? NULL : next, shared, width, d, inverse, mixed, pitch,
                 Q, 1, half);
}

/* `attend` for Q tokens with a row of scores each. */
INLINE void attend_rows(const Attention *a, size_t head, size_t first, float *scratch, const int Q,
                        const int half) {
    const size_t width = a->width, all = a->heads * width, pitch = 3 * all;
    const size_t row = round_up(a->capacity, LANES), shared = (size_t)a->position[first] + 1;
    const char *keys = head_of(a, a->keys, (size_t)a->slot[first], head);
    const char *values = head_of(a, a->values, (size_t)a->slot[first], head);
    const float *q = a->qkv + first * pitch + head * width;
    float inverse[4];
    scores_of(a, q, pitch, keys, values, shared, scratch, row, Q, half);
    UNROLL for (int i = 0; i < Q; i++) {
        for (size_t at = shared; at < shared + i; at++)
            score_tile(q + i * pitch, pitch, keys, at, width, a->scale, scratch + i * row, row, 1, 1,
                       half);
        inverse[i] = soften(scratch + i * row, shared + i);
    }
    mix(scratch, 1, row, values, keys_after(a, head, first + Q), shared, width, inverse,
        a->mixed + first * all + head * width, all, Q, half);
}

/* ---- 16 queries, one in each lane, so that no sum goes over lanes */

#define TILE 4 /* positions that are scored together */

/* Queries [LANES, width], `pitch` floats apart, to [width, LANES]. */
static void turn(const float *q, size_t pitch, size_t width, float *turned) {
    for (size_t d = 0; d < width; d++)
        for (size_t i = 0; i < LANES; i++) turned[d * LANES + i] = q[i * pitch + d];
}

/* Keys [count, width] from the position `at` on as floats; they lie where they did, or in `room`. */
INLINE const float *floats_of(const char *keys, size_t at, size_t count, size_t width, float *room,
                              const int half) {
    if (!half) return (const float *)(const void *)keys + at * width;
    for (size_t i = 0; i < count * width; i += LANES)
        store(room + i, load_kept(keys, at * width + i, half));
    return room;
}

/* What `score_tile` sums in one of its lanes: every 16th product. */
INLINE void lane_of_scores(const float *turned, const float *keys, size_t width, size_t lane,
                           f32x16 *sums, const int N) {
    UNROLL for (int n = 0; n < N; n++) sums[n] = splat(0);
    for (size_t d = lane; d < width; d += LANES) {
        const f32x16 queries = load(turned + d * LANES);
        UNROLL for (int n = 0; n < N; n++)
            sums[n] = fma16(queries, splat(keys[n * width + d]), sums[n]);
    }
}

/* Scores [N, LANES] with N keys: the sums of `score_tile`, one of its lanes after another, in the
 * order of `sum16`. */
INLINE void score_block(const float *turned, const float *keys, size_t width, float scale,
                        float *scores, const int N) {
    f32x16 quarters[4][TILE];
    for (size_t lane = 0; lane < 4; lane++) {
        f32x16 sums[4][TILE];
        UNROLL for (int i = 0; i < 4; i++)
            lane_of_scores(turned, keys, width, lane + 4 * i, sums[i], N);
        UNROLL for (int n = 0; n < N; n++)
            quarters[lane][n] = add(add(sums[0][n], sums[2][n]), add(sums[1][n], sums[3][n]));
    }
    UNROLL for (int n = 0; n < N; n++) {
        const f32x16 even = add(quarters[0][n], quarters[1][n]);
        const f32x16 odd = add(quarters[2][n], quarters[3][n]);
        store(scores + n * LANES, mul(add(even, odd), splat(scale)));
    }
}

INLINE void scores_of_block(const Attention *a, const float *turned, const char *keys, size_t length,
                            float *scores, float *room, const int half) {
    const size_t width = a->width;
    size_t at = 0;
    for (; at + TILE <= length; at += TILE)
        score_block(turned, floats_of(keys, at, TILE, width, room, half), width, a->scale,
                    scores + at * LANES, TILE);
    for (; at < length; at++)
        score_block(turned, floats_of(keys, at, 1, width, room, half), width, a->scale,
                    scores + at * LANES, 1);
}

/* Set the scores that do not count: query i sees `shared` + i positions. */
static void set_unseen(float *scores, size_t shared, size_t padded, float value) {
    for (size_t at = shared; at < padded; at++)
        for (size_t i = 0; i < LANES && i <= at - shared; i++) scores[at * LANES + i] = value;
}

/* `soften` for scores [padded, LANES]: the same sums, one of its lanes after another. */
static void soften_block(float *scores, size_t shared, size_t padded, float *inverse) {
    f32x16 most = splat(-INFINITY), sums[LANES];
    set_unseen(scores, shared, padded, -INFINITY);
    for (size_t at = 0; at < padded; at++) most = larger(load(scores + at * LANES), most);
    for (size_t at = 0; at < padded; at++)
        store(scores + at * LANES, exponential(sub(load(scores + at * LANES), most)));
    set_unseen(scores, shared, padded, 0);
    UNROLL for (int i = 0; i < LANES; i++) sums[i] = splat(0);
    for (size_t at = 0; at < padded; at += LANES)
        UNROLL for (int i = 0; i < LANES; i++)
            sums[i] = add(sums[i], load(scores + (at + i) * LANES));
    for (int n = LANES / 2; n > 2; n /= 2)
        for (int i = 0; i < n; i++) sums[i] = add(sums[i], sums[i + n]);
    const f32x16 all = add(add(sums[0], sums[1]), add(sums[2], sums[3]));
    store(inverse, quotient(splat(1), all));
}

/* `attend` for 16 tokens. */
INLINE void attend_block(const Attention *a, size_t head, size_t first, float *scratch,
                         const int half) {
    const size_t width = a->width, all = a->heads * width, pitch = 3 * all;
    const size_t shared = (size_t)a->position[first] + 1, length = shared + LANES - 1;
    const char *keys = head_of(a, a->keys, (size_t)a->slot[first], head);
    const char *values = head_of(a, a->values, (size_t)a->slot[first], head);
    float *mixed = a->mixed + first * all + head * width, inverse[LANES];
    float *scores = scratch, *turned = scores + round_up(a->capacity, LANES) * LANES;
    turn(a->qkv + first * pitch + head * width, pitch, width, turned);
    scores_of_block(a, turned, keys, length, scores, turned + width * LANES, half);
    soften_block(scores, shared, round_up(length, LANES), inverse);
    for (size_t i = 0; i < LANES; i += 4)
        mix(scores + i, LANES, 1, values, NULL, shared + i, width, inverse + i, mixed + i * all, all, 4,
            half);
}

INLINE void attend_as(const Attention *a, size_t head, size_t first, size_t count, float *scratch,
                      const int half) {
    if (count == LANES) { /* fewer than 13 or so are faster by the row */
        attend_block(a, head, first, scratch, half);
        return;
    }
    const size_t end = first + count;
    for (; first + 4 <= end; first += 4) attend_rows(a, head, first, scratch, 4, half);
    for (; first < end; first++) attend_rows(a, head, first, scratch, 1, half);
}

static void attend(const Attention *a, size_t head, size_t first, size_t count, float *scratch) {
    if (a->half)
        attend_as(a, head, first, count, scratch, 1);
    else
        attend_as(a, head, first, count, scratch, 0);
}

static size_t scratch_floats(const Attention *a) {
    return LANES * round_up(a->capacity, LANES) + (LANES + TILE) * a->width;
}
