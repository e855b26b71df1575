/* Rows of a product: normed, then quantised. */
#ifndef GPT2RT_ROWS_H
#define GPT2RT_ROWS_H

#include "kernels.h"
#include "lanes.h"

/* How a row's integers are stored for INT8: in 16 bits where the processor multiplies those. */
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
typedef int16_t Integer;
#else
typedef int8_t Integer;
#endif

/* Call `body` with i and `n` for every 16 values of k, n being 16 but for the last ones. */
#define EVERY16(k, body) \
    for (size_t i = 0; i < (k); i += LANES) { \
        const size_t n = (k) - i < LANES ? (k) - i : LANES; \
        body \
    }
#define SOME(p) (n == LANES ? load(p) : load_some(p, n))

static void norm(const float *x, const float *gain, const float *shift, size_t k, float epsilon,
                 float *y) {
    f32x16 sum = splat(0), squares = splat(0);
    EVERY16(k, sum = add(sum, SOME(x + i));)
    const float mean = sum16(sum) / (float)k;
    EVERY16(k, {
        f32x16 far = n == LANES ? sub(load(x + i), splat(mean)) : load_some(x + i, n);
        if (n < LANES) {
            float values[LANES];
            store(values, far);
            for (size_t j = 0; j < LANES; j++) values[j] = j < n ? values[j] - mean : 0;
            far = load(values);
        }
        squares = fma16(far, far, squares);
    })
    const float inverse = 1.0f / sqrtf(sum16(squares) / (float)k + epsilon);
    EVERY16(k, {
        f32x16 far = mul(sub(SOME(x + i), splat(mean)), splat(inverse));
        f32x16 out = fma16(far, SOME(gain + i), SOME(shift + i));
        if (n == LANES)
            store(y + i, out);
        else
            store_some(y + i, out, n);
    })
}

#define LEAST 1e-30f /* that a row is divided by: a row of zeros stays zeros */

/* The scale of a row, the largest magnitude over 127: NaN if a value is not finite. */
static float row_scale(const float *x, size_t k, float *inverse) {
    f32x16 most = splat(0), finite = splat(0);
    EVERY16(k, {
        f32x16 values = SOME(x + i);
        most = larger(magnitude(values), most);
        finite = fma16(values, splat(0), finite);
    })
    const float largest = largest16(most);
    *inverse = 127.0f / (largest > LEAST ? largest : LEAST);
    return largest / 127.0f + sum16(finite);
}

/* Put 64 integers where the product reads them; for int4 the even ones of eight before the odd ones,
 * and the sums of two blocks, negative. */
static void place(const Product *p, int8_t *row, size_t start, const int8_t *units) {
    if (p->format == INT8) {
        Integer *into = (Integer *)(void *)row + start;
        for (size_t i = 0; i < QUANTA; i++) into[i] = units[i];
        return;
    }
    float *sums = (float *)(void *)(row + round_up(p->k, QUANTA)) + start / BLOCK;
    for (size_t i = 0; i < QUANTA; i += BLOCK) {
        int32_t sum = 0;
        for (size_t j = i; j < i + BLOCK; j++) sum += units[j];
        if (start + i < p->k) sums[i / BLOCK] = -(float)sum;
    }
    for (size_t i = 0; i < QUANTA; i += 8)
        for (size_t j = 0; j < 4; j++) {
            row[start + i + j] = units[i + 2 * j];
            row[start + i + 4 + j] = units[i + 2 * j + 1];
        }
}

static void quantise(const Product *p, const float *x, size_t row) {
    int8_t *q = (int8_t *)(p->rows + row * p->stride), units[QUANTA];
    const size_t k = p->k, whole = round_up(k, QUANTA);
    float inverse;
    int32_t total = 0;
    p->row_scale[row] = row_scale(x, k, &inverse);
    if (p->format == INT4) memset(q + whole, 0, p->stride - whole);
    for (size_t start = 0; start < whole; start += QUANTA) {
        for (size_t i = start; i < start + QUANTA; i += LANES) {
            const size_t n = i >= k ? 0 : k - i < LANES ? k - i : LANES;
            f32x16 values = n == LANES ? load(x + i) : n ? load_some(x + i, n) : splat(0);
            store_bytes(units + (i - start), rounded(mul(values, splat(inverse))));
        }
        for (size_t i = 0; i < QUANTA; i++) total += units[i];
        place(p, q, start, units);
    }
    p->row_sum[row] = total;
}

static void prepare(const Product *p, size_t first, size_t last) {
    const int whole = p->format == INT8 || p->format == INT4;
    for (size_t row = first; row < last; row++) {
        const float *x = p->x + row * p->k;
        float *out = whole ? p->normed + row * p->k : (float *)(p->rows + row * p->stride);
        if (p->gain) norm(x, p->gain, p->shift, p->k, p->epsilon, out);
        if (whole) {
            quantise(p, p->gain ? out : x, row);
        } else {
            if (!p->gain) memcpy(out, x, p->k * sizeof *x);
            memset(out + p->k, 0, p->stride - p->k * sizeof *x);
        }
    }
}

/* The bytes of a prepared row: integers, for INT4 with the negative sums of its blocks as floats
 * behind them, or floats. */
static size_t row_bytes(enum format format, size_t k) {
    const size_t blocks = (k + BLOCK - 1) / BLOCK;
    switch (format) {
    case INT8: return round_up(k, QUANTA) * sizeof(Integer);
    case INT4: return round_up(k, QUANTA) + round_up(blocks, LANES) * sizeof(float);
    default: return round_up(k, LANES) * sizeof(float);
    }
}

#endif
