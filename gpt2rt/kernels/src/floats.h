/* Rows of floats times columns of float or float16: 16 lanes along K, each a chain of fused
 * multiply-adds, then one sum over the lanes. */
#include "kernels.h"
#include "lanes.h"

#if defined(__AVX512F__)
#define FLOAT_ROWS 4
#define FLOAT_COLUMNS 4
#else
#define FLOAT_ROWS 2
#define FLOAT_COLUMNS 2
#endif

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
    f32x16 acc[4][8];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) acc[m][n] = splat(0);
    size_t at = 0;
    for (; at + LANES <= k; at += LANES)
        for (int n = 0; n < N; n++) {
            const f32x16 column = load_weights(w, first + n * k + at, LANES, half);
            for (int m = 0; m < M; m++)
                acc[m][n] = fma16(load((const float *)(x + m * stride) + at), column, acc[m][n]);
        }
    for (int n = 0; n < N && at < k; n++) {
        const f32x16 column = load_weights(w, first + n * k + at, k - at, half);
        for (int m = 0; m < M; m++)
            acc[m][n] = fma16(load((const float *)(x + m * stride) + at), column, acc[m][n]);
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) sums[m * COLUMNS + n] = sum16(acc[m][n]);
}

INLINE void float_sums_of(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                          float *sums, const int half) {
    const size_t k = p->k, stride = p->stride;
    size_t n = 0;
    for (; n + FLOAT_COLUMNS <= columns; n += FLOAT_COLUMNS) {
        const size_t first = (n0 + n) * k;
        const char *x = p->rows + m0 * stride;
        size_t m = 0;
        for (; m + FLOAT_ROWS <= rows; m += FLOAT_ROWS)
            float_tile(x + m * stride, stride, p->w, first, k, sums + m * COLUMNS + n, FLOAT_ROWS,
                       FLOAT_COLUMNS, half);
        for (; m < rows; m++)
            float_tile(x + m * stride, stride, p->w, first, k, sums + m * COLUMNS + n, 1,
                       FLOAT_COLUMNS, half);
    }
    for (; n < columns; n++)
        for (size_t m = 0; m < rows; m++)
            float_tile(p->rows + (m0 + m) * stride, stride, p->w, (n0 + n) * k, k,
                       sums + m * COLUMNS + n, 1, 1, half);
}

static void float_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                       float *sums) {
    if (p->format == HALF)
        float_sums_of(p, m0, rows, n0, columns, sums, 1);
    else
        float_sums_of(p, m0, rows, n0, columns, sums, 0);
}
