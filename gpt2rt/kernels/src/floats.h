/* Rows of floats times columns of float or float16: 16 lanes along K, each a chain of fused
 * multiply-adds, then one sum over the lanes. */
#include "kernels.h"
#include "lanes.h"

INLINE f32x16 load_weights(const void *w, size_t at, size_t n, const int half) {
    if (half) {
        const uint16_t *p = (const uint16_t *)w + at;
        return n == LANES ? load_half(p) : load_half_some(p, n);
    }
    const float *p = (const float *)w + at;
    return n == LANES ? load(p) : load_some(p, n);
}

INLINE void float_tile(const char *x, size_t stride, const void *w, size_t first, size_t k,
                       float *sums, const int M, const int N, const int half) {
    f32x16 acc[16];
    UNROLL for (int i = 0; i < M * N; i++) acc[i] = splat(0);
    size_t at = 0;
    for (; at + LANES <= k; at += LANES)
        UNROLL for (int n = 0; n < N; n++) {
            const f32x16 column = load_weights(w, first + n * k + at, LANES, half);
            PREFETCH((const char *)w + (first + (N + n) * k + at) * (half ? 2 : 4));
            UNROLL for (int m = 0; m < M; m++)
                acc[m * N + n] = fma16(load((const float *)(const void *)(x + m * stride) + at),
                                       column, acc[m * N + n]);
        }
    if (at < k)
        UNROLL for (int n = 0; n < N; n++) {
            const f32x16 column = load_weights(w, first + n * k + at, k - at, half);
            UNROLL for (int m = 0; m < M; m++)
                acc[m * N + n] = fma16(load((const float *)(const void *)(x + m * stride) + at),
                                       column, acc[m * N + n]);
        }
    float all[16];
    sums_of(acc, M * N, all);
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) sums[m * COLUMNS + n] = all[m * N + n];
}

/* The shapes of tiles, rows by columns: as many sums as there are registers for. */
#if defined(__AVX512F__)
#define FLOAT_TILES(SHAPE) SHAPE(4, 4) SHAPE(3, 4) SHAPE(2, 4) SHAPE(1, 4)
#else
#define FLOAT_TILES(SHAPE) SHAPE(2, 2) SHAPE(1, 4)
#endif

INLINE void float_sums_of(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                          float *all, const int half) {
    const size_t k = p->k, stride = p->stride;
    size_t m = 0;
#define SHAPE(M, N) \
    { \
        const size_t start = m, whole = start + (rows - start) / M * M; \
        for (size_t n = 0; n < columns && start < whole;) { \
            const int one = n + N > columns; \
            for (m = start; m < whole; m += M) { \
                const char *x = p->rows + (m0 + m) * stride; \
                float *sums = all + m * COLUMNS + n; \
                if (one) \
                    float_tile(x, stride, p->w, (n0 + n) * k, k, sums, M, 1, half); \
                else \
                    float_tile(x, stride, p->w, (n0 + n) * k, k, sums, M, N, half); \
            } \
            n += one ? 1 : N; \
        } \
        m = whole; \
    }
    FLOAT_TILES(SHAPE)
#undef SHAPE
}

static void float_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                       float *sums) {
    if (p->format == HALF)
        float_sums_of(p, m0, rows, n0, columns, sums, 1);
    else
        float_sums_of(p, m0, rows, n0, columns, sums, 0);
}
