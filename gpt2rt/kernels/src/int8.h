/* Sums of whole numbers: rows of int8 times columns of uint8 that stand for w + 128, exact whatever
 * the order.
 *
 * Weights lie as they are read: in groups of 16 columns, a group's first four values of each column,
 * then the next four, [n / 16][k / 4][16][4] with k padded to 64. So sums of 16 columns are side by
 * side, nothing is packed and memory is read in order.
 */
#ifndef GPT2RT_INT8_H
#define GPT2RT_INT8_H

#include "kernels.h"
#include "lanes.h"
#include "rows.h"

#include <stdlib.h>

#define GROUPS (COLUMNS / LANES)

/* A tile of M rows and G groups of columns: `sums` [M, COLUMNS]. `group` is the bytes of a group. */
#define INT8_TILE \
    INLINE void int8_tile(const Integer *x, size_t stride, const int32_t *row_sum, const uint8_t *w, \
                          size_t group, int32_t *sums, const int M, const int G)

#if defined(__AVX512VNNI__)

/* In assembly, since GCC 12 copies the accumulator before and after the intrinsic. */
INLINE __m512i dot_add(__m512i sums, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
}

/* The same with four values that are read and repeated. */
INLINE __m512i dot_add_four(__m512i sums, __m512i w, const int8_t *x) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*(const int8_t(*)[4])x));
    return sums;
}

/* VNNI multiplies unsigned by signed bytes: w + 128 as it is, and 128 times the sum of the row comes
 * off at the end. */
INT8_TILE {
    __m512i acc[24];
    UNROLL for (int i = 0; i < M * G; i++) acc[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < stride; at += 4, w += 64) {
        __m512i columns[4];
        UNROLL for (int g = 0; g < G; g++) {
            columns[g] = _mm512_loadu_si512(w + g * group);
            PREFETCH(w + (G + g) * group);
        }
        UNROLL for (int m = 0; m < M; m++) {
            int32_t four;
            memcpy(&four, x + m * stride + at, 4);
            const __m512i row = _mm512_set1_epi32(four);
            UNROLL for (int g = 0; g < G; g++)
                acc[m * G + g] = dot_add(acc[m * G + g], columns[g], row);
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        const __m512i offset = _mm512_set1_epi32(128 * row_sum[m]);
        UNROLL for (int g = 0; g < G; g++)
            _mm512_storeu_si512(sums + m * COLUMNS + 16 * g,
                                _mm512_sub_epi32(acc[m * G + g], offset));
    }
}
#define TILES(SHAPE) SHAPE(6, 4) SHAPE(4, 4) SHAPE(2, 4) SHAPE(1, 4)

#elif defined(__AVX2__)

/* Rows are 16 bits wide already and weights are widened, unless they are `wide`: two products each,
 * added, two for every column, 128 times the sum of the row too many. `next` is the next group then. */
INLINE void wide_tile(const Integer *x, size_t stride, const int32_t *row_sum, const uint8_t *w,
                      const uint8_t *next, int32_t *sums, const int M, const int wide) {
    __m256i acc[8];
    UNROLL for (int i = 0; i < 4 * M; i++) acc[i] = _mm256_setzero_si256();
    for (size_t at = 0; at < stride; at += 4, w += wide ? 128 : 64) {
        if (wide) PREFETCH(next + at * LANES);
        UNROLL for (int i = 0; i < 4; i++) {
            const __m256i columns =
                wide ? _mm256_loadu_si256((const __m256i *)(w + 32 * i))
                     : _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(w + 16 * i)));
            UNROLL for (int m = 0; m < M; m++) {
                int64_t four;
                memcpy(&four, x + m * stride + at, 8);
                acc[4 * m + i] = _mm256_add_epi32(
                    acc[4 * m + i], _mm256_madd_epi16(columns, _mm256_set1_epi64x(four)));
            }
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        const __m256i offset = _mm256_set1_epi32(128 * row_sum[m]);
        UNROLL for (int i = 0; i < 4; i += 2) { /* columns 0 1 4 5 2 3 6 7 of eight */
            const __m256i pairs = _mm256_hadd_epi32(acc[4 * m + i], acc[4 * m + i + 1]);
            const __m256i eight = _mm256_permute4x64_epi64(pairs, 0xD8);
            _mm256_storeu_si256((__m256i *)(sums + m * COLUMNS + 4 * i),
                                _mm256_sub_epi32(eight, offset));
        }
    }
}

INT8_TILE {
    (void)group, (void)G;
    wide_tile(x, stride, row_sum, w, NULL, sums, M, 0);
}
#define TILES(SHAPE) SHAPE(2, 1) SHAPE(1, 1)
#define WIDENED_ROWS 12 /* from this many rows on, a group's weights are widened first */

/* The sums of a group, whose weights are widened once for all rows, into `wide`. */
static void widened_sums(const Integer *x, size_t stride, const int32_t *row_sum, const uint8_t *w,
                         size_t rows, int32_t *sums, uint8_t *wide) {
    for (size_t i = 0; i < stride * LANES; i += 16)
        _mm256_storeu_si256((__m256i *)(wide + 2 * i),
                            _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(w + i))));
    const uint8_t *next = w + stride * LANES;
    size_t m = 0;
    for (; m + 2 <= rows; m += 2)
        wide_tile(x + m * stride, stride, row_sum + m, wide, next, sums + m * COLUMNS, 2, 1);
    for (; m < rows; m++)
        wide_tile(x + m * stride, stride, row_sum + m, wide, next, sums + m * COLUMNS, 1, 1);
}

#elif defined(__ARM_FEATURE_DOTPROD) && !defined(PORTABLE)

INT8_TILE {
    int32x4_t acc[16];
    (void)G, (void)row_sum;
    UNROLL for (int i = 0; i < 4 * M; i++) acc[i] = vdupq_n_s32(0);
    for (size_t at = 0; at < stride; at += 4, w += 64) {
        PREFETCH(w + group);
        UNROLL for (int i = 0; i < 4; i++) {
            const int8x16_t columns =
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 16 * i), vdupq_n_u8(0x80)));
            UNROLL for (int m = 0; m < M; m++) {
                int32_t four;
                memcpy(&four, x + m * stride + at, 4);
                acc[4 * m + i] =
                    vdotq_s32(acc[4 * m + i], columns, vreinterpretq_s8_s32(vdupq_n_s32(four)));
            }
        }
    }
    UNROLL for (int i = 0; i < 4 * M; i++)
        vst1q_s32(sums + i / 4 * COLUMNS + i % 4 * 4, acc[i]);
}
#define TILES(SHAPE) SHAPE(4, 1) SHAPE(1, 1)

#else

INT8_TILE {
    (void)group, (void)G, (void)M, (void)row_sum;
    for (size_t c = 0; c < LANES; c++) {
        sums[c] = 0;
        for (size_t at = 0; at < stride; at++)
            sums[c] += x[at] * (w[(at / 4 * LANES + c) * 4 + at % 4] - 128);
    }
}
#define TILES(SHAPE) SHAPE(1, 1)

#endif

#if defined(__AMX_INT8__) || defined(AMX_EMULATED)
#define AMX 1
#define TILE_ROWS 16 /* of a tile of 16 by 64 bytes */

/* Eight tiles: 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 groups of columns. */
static void configure_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.bytes[i] = 64, all.rows[i] = TILE_ROWS;
    __asm__ volatile("" : : "r"(&all) : "memory"); /* GCC 12 says that 8 bytes of it are read */
    _tile_loadconfig(&all);
}

/* 16 rows, or 32 if `two`, times two groups of columns. */
INLINE void amx_tile(const int8_t *x, size_t stride, const uint8_t *w, size_t group, int32_t *sums,
                     const int two) {
    const size_t wide = COLUMNS * sizeof(int32_t);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t at = 0; at < stride; at += 64, w += 64 * TILE_ROWS) {
        _tile_loadd(4, x + at, stride);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + group, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        if (two) {
            _tile_loadd(5, x + TILE_ROWS * stride + at, stride);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
    }
    _tile_stored(0, sums, wide);
    _tile_stored(1, sums + 16, wide);
    if (two) {
        _tile_stored(2, sums + TILE_ROWS * COLUMNS, wide);
        _tile_stored(3, sums + TILE_ROWS * COLUMNS + 16, wide);
    }
}

/* The sums of all rows that fill tiles of 16; returns how many those are. `groups` is even. */
static size_t amx_sums(const int8_t *x, size_t stride, const int32_t *row_sum, const uint8_t *w,
                       size_t group, size_t rows, size_t groups, int32_t *sums) {
    const size_t whole = rows / TILE_ROWS * TILE_ROWS;
    for (size_t m = 0; m < whole; m += 2 * TILE_ROWS)
        for (size_t g = 0; g < groups; g += 2) {
            int32_t *out = sums + m * COLUMNS + g * LANES;
            if (whole - m > TILE_ROWS)
                amx_tile(x + m * stride, stride, w + g * group, group, out, 1);
            else
                amx_tile(x + m * stride, stride, w + g * group, group, out, 0);
        }
    for (size_t m = 0; m < whole; m++)
        for (size_t n = 0; n < groups * LANES; n++) sums[m * COLUMNS + n] -= 128 * row_sum[m];
    return whole;
}
#endif

/* sums [rows, COLUMNS] of the rows from m0 and the columns from n0 on, a multiple of 16. */
static void int8_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                      int32_t *all) {
    const size_t stride = p->stride / sizeof(Integer), group = stride * LANES;
    const size_t groups = (columns + LANES - 1) / LANES;
    const Integer *x = (const Integer *)(const void *)p->rows + m0 * stride;
    const uint8_t *w = (const uint8_t *)p->w + n0 * stride;
    const int32_t *row_sum = p->row_sum + m0;
    size_t m = 0;
#if AMX
    if (groups % 2 == 0) m = amx_sums(x, stride, row_sum, w, group, rows, groups, all);
#endif
#ifdef WIDENED_ROWS
    uint8_t *wide = rows < WIDENED_ROWS ? NULL : malloc(2 * group);
    for (size_t g = 0; wide && g < groups; g++)
        widened_sums(x, stride, row_sum, w + g * group, rows, all + g * LANES, wide);
    if (wide) m = rows;
    free(wide);
#endif
#define SHAPE(M, G) \
    for (; m + M <= rows; m += M) { \
        size_t g = 0; \
        for (; g + G <= groups; g += G) \
            int8_tile(x + m * stride, stride, row_sum + m, w + g * group, group, \
                      all + m * COLUMNS + g * LANES, M, G); \
        for (; g < groups; g++) \
            int8_tile(x + m * stride, stride, row_sum + m, w + g * group, group, \
                      all + m * COLUMNS + g * LANES, M, 1); \
    }
    TILES(SHAPE)
#undef SHAPE
}

#endif
