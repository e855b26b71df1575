/* A product with what follows it: scales, bias, GELU, residual. */
#include "floats.h"
#include "int4.h"
#include "int8.h"
#include "kernels.h"
#include "lanes.h"

#if AMX
#define ROWS 32 /* rows whose sums are made before they are finished */
#else
#define ROWS 24
#endif

/* OpenAI's GELU, 0.5 v (1 + tanh(u)), as v / (1 + exp(-2u)). */
INLINE f32x16 gelu(f32x16 v) {
    const f32x16 cube = mul(mul(v, v), v);
    const f32x16 u = mul(splat(0.7978845608f), fma16(splat(0.044715f), cube, v));
    return quotient(v, add(splat(1), exponential(mul(splat(-2), u))));
}

INLINE void finish_some(const Product *p, size_t m, size_t n, size_t count, f32x16 v) {
    const int all = count == LANES;
    if (p->bias) v = add(v, all ? load(p->bias + n) : load_some(p->bias + n, count));
    if (p->gelu) v = gelu(v);
    const size_t at = m * p->n + n;
    if (p->residual) v = add(v, all ? load(p->residual + at) : load_some(p->residual + at, count));
    if (all)
        store(p->y + at, v);
    else
        store_some(p->y + at, v, count);
}

/* Finish the sums [rows, COLUMNS] of `columns` columns: of int32 for INT8, else of float. */
static void finish(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                   const void *sums) {
    for (size_t m = 0; m < rows; m++)
        for (size_t n = 0; n < columns; n += LANES) {
            const size_t count = columns - n < LANES ? columns - n : LANES;
            f32x16 v;
            if (p->format == INT8) {
                v = as_floats(load_ints((const int32_t *)sums + m * COLUMNS + n));
                const f32x16 scale =
                    count == LANES ? load(p->scale + n0 + n) : load_some(p->scale + n0 + n, count);
                v = mul(v, mul(splat(p->row_scale[m0 + m]), scale));
            } else {
                v = load((const float *)sums + m * COLUMNS + n);
                if (p->format == INT4) v = mul(v, splat(p->row_scale[m0 + m]));
            }
            finish_some(p, m0 + m, n0 + n, count, v);
        }
}

static size_t panel_bytes(const Product *p) {
#if PANELS
    if (p->format == INT8 && p->m >= PANEL_ROWS) return PANEL_BYTES(p);
#endif
    (void)p;
    return 0;
}

static void multiply_block(const Product *p, size_t m0, size_t m1, size_t n0, size_t columns,
                           const void *panel) {
    (void)panel;
    int32_t whole[ROWS * COLUMNS];
    float sums[ROWS * COLUMNS];
    for (size_t m = m0; m < m1; m += ROWS) {
        const size_t rows = m1 - m < ROWS ? m1 - m : ROWS;
        if (p->format == INT8) {
#if PANELS
            if (m1 - m0 >= PANEL_ROWS)
                int8_panel_sums(p, m, rows, panel, whole);
            else
#endif
                int8_sums(p, m, rows, n0, columns, whole);
            finish(p, m, rows, n0, columns, whole);
        } else {
            if (p->format == INT4)
                int4_sums(p, m, rows, n0, columns, sums);
            else
                float_sums(p, m, rows, n0, columns, sums);
            finish(p, m, rows, n0, columns, sums);
        }
    }
}

static void multiply(const Product *p, size_t m0, size_t m1, size_t n0, size_t n1, void *panel) {
#if AMX
    const int tiles = p->format == INT8 && m1 - m0 >= PANEL_ROWS;
    if (tiles) configure_tiles();
#endif
    for (size_t n = n0; n < n1; n += COLUMNS) {
        const size_t columns = n1 - n < COLUMNS ? n1 - n : COLUMNS;
#if PANELS
        if (p->format == INT8 && m1 - m0 >= PANEL_ROWS) int8_pack(p, n, columns, panel);
#endif
        multiply_block(p, m0, m1, n, columns, panel);
    }
#if AMX
    if (tiles) _tile_release();
#endif
}
