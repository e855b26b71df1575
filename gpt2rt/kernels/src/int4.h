/* Rows of int8 times columns of 4 bits: whole-number sums of 32 values each, scaled and summed block
 * by block.
 *
 * Weights lie in groups of 16 columns, block by block: a group's first 8 values of each column, then
 * the next 8, [n / 16][blocks][4][16][4]. A byte holds an even value in its low half and the odd one
 * behind it in its high half; `quantise` puts a row's values in that order. So sums of 16 columns are
 * side by side, and memory is read in order.
 */
#include "int8.h"
#include "kernels.h"
#include "lanes.h"

#define BLOCK_BYTES (LANES * BLOCK / 2) /* of a block of a group */

/* The sums of a block for M rows, `stride` bytes apart: steps times values, of 16 columns each. */
#define BLOCK_SUMS \
    INLINE void block_sums(const uint8_t *w, const int8_t *x, size_t stride, i32x16 *sums, const int M)

#if defined(__AVX512VNNI__)

BLOCK_SUMS {
    const __m512i half = _mm512_set1_epi8(15);
    UNROLL for (int m = 0; m < M; m++) sums[m] = _mm512_setzero_si512();
    UNROLL for (int i = 0; i < 4; i++) {
        const __m512i bytes = _mm512_loadu_si512(w + 64 * i);
        const __m512i even = _mm512_and_si512(bytes, half);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), half);
        UNROLL for (int m = 0; m < M; m++) {
            sums[m] = dot_add_four(sums[m], even, x + m * stride + 8 * i);
            sums[m] = dot_add_four(sums[m], odd, x + m * stride + 8 * i + 4);
        }
    }
}
#define INT4_TILES(SHAPE) SHAPE(12) SHAPE(6) SHAPE(4) SHAPE(2) SHAPE(1)

#elif defined(__AVX2__)

INLINE __m256i four_times(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

/* 16 products of 15 and 127 fit 16 bits, so a block needs to be widened only once. */
INLINE void half_block_sums(const uint8_t *w, const int8_t *x, size_t stride, __m256i *sums, const int M) {
    const __m256i half = _mm256_set1_epi8(15);
    UNROLL for (int m = 0; m < M; m++) sums[m] = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 4; i++) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(w + 64 * i));
        const __m256i even = _mm256_and_si256(bytes, half);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), half);
        UNROLL for (int m = 0; m < M; m++) {
            const int8_t *row = x + m * stride + 8 * i;
            const __m256i eight = _mm256_add_epi16(_mm256_maddubs_epi16(even, four_times(row)),
                                                   _mm256_maddubs_epi16(odd, four_times(row + 4)));
            sums[m] = _mm256_add_epi16(sums[m], eight);
        }
    }
    UNROLL for (int m = 0; m < M; m++) sums[m] = _mm256_madd_epi16(sums[m], _mm256_set1_epi16(1));
}

BLOCK_SUMS {
    __m256i low[4], high[4];
    half_block_sums(w, x, stride, low, M);
    half_block_sums(w + 32, x, stride, high, M);
    UNROLL for (int m = 0; m < M; m++) sums[m] = (i32x16){low[m], high[m]};
}
#define INT4_TILES(SHAPE) SHAPE(4) SHAPE(1)

#elif defined(__ARM_FEATURE_DOTPROD) && !defined(PORTABLE)

BLOCK_SUMS {
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int j = 0; j < 4; j++) sums[m].v[j] = vdupq_n_s32(0);
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 4; j++) {
            const uint8x16_t bytes = vld1q_u8(w + 64 * i + 16 * j);
            const int8x16_t even = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
            const int8x16_t odd = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
            UNROLL for (int m = 0; m < M; m++) {
                const int8x8_t eight = vld1_s8(x + m * stride + 8 * i);
                sums[m].v[j] = vdotq_lane_s32(sums[m].v[j], even, eight, 0);
                sums[m].v[j] = vdotq_lane_s32(sums[m].v[j], odd, eight, 1);
            }
        }
}
#define INT4_TILES(SHAPE) SHAPE(4) SHAPE(1)

#else

BLOCK_SUMS {
    for (int m = 0; m < M; m++) {
        int32_t all[LANES] = {0};
        for (int i = 0; i < BLOCK_BYTES; i++) {
            const int8_t *four = x + m * stride + i / 64 * 8 + i % 4;
            all[i % 64 / 4] += (w[i] & 15) * four[0] + (w[i] >> 4) * four[4];
        }
        sums[m] = load_ints(all);
    }
}
#define INT4_TILES(SHAPE) SHAPE(1)

#endif

/* 16 zero points, of which a byte holds those of an even block and of the one behind it. */
#if defined(__AVX2__)
INLINE f32x16 zero_points(const uint8_t *zero, size_t block) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(zero + block / 2 * LANES));
    const __m128i whole = _mm_and_si128(block % 2 ? _mm_srli_epi16(bytes, 4) : bytes, _mm_set1_epi8(15));
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(whole));
#else
    return as_floats((i32x16){_mm256_cvtepu8_epi32(whole),
                              _mm256_cvtepu8_epi32(_mm_srli_si128(whole, 8))});
#endif
}
#else
INLINE f32x16 zero_points(const uint8_t *zero, size_t block) {
    int32_t whole[LANES];
    const int shift = 4 * (int)(block % 2);
    for (int i = 0; i < LANES; i++) whole[i] = zero[block / 2 * LANES + i] >> shift & 15;
    return as_floats(load_ints(whole));
}
#endif

/* M rows times a group: the sums of each block, less its zero points times the sum of the row's
 * values, which is exact in a float, times its scales. */
INLINE void int4_tile(const Product *p, size_t m0, size_t group, float *sums, const int M) {
    const size_t blocks = (p->k + BLOCK - 1) / BLOCK, block_sums_at = round_up(p->k, QUANTA);
    const uint8_t *w = (const uint8_t *)p->w + group * blocks * BLOCK_BYTES;
    const uint16_t *scale = p->block_scale + group * blocks * LANES;
    const uint8_t *zero = p->zero + group * ((blocks + 1) / 2) * LANES;
    const char *rows = p->rows + m0 * p->stride;
    f32x16 acc[12];
    UNROLL for (int m = 0; m < M; m++) acc[m] = splat(0);
    for (size_t b = 0; b < blocks; b++) {
        i32x16 whole[12];
        UNROLL for (int i = 0; i < BLOCK_BYTES; i += 64) PREFETCH(w + (blocks + b) * BLOCK_BYTES + i);
        PREFETCH(scale + (blocks + b) * LANES);
        block_sums(w + b * BLOCK_BYTES, (const int8_t *)rows + b * BLOCK, p->stride, whole, M);
        const f32x16 scales = load_half(scale + b * LANES), zeros = zero_points(zero, b);
        UNROLL for (int m = 0; m < M; m++) {
            const float *less = (const float *)(const void *)(rows + m * p->stride + block_sums_at);
            acc[m] = fma16(fma16(zeros, splat(less[b]), as_floats(whole[m])), scales, acc[m]);
        }
    }
    UNROLL for (int m = 0; m < M; m++) store(sums + m * COLUMNS, acc[m]);
}

static void int4_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                      float *sums) {
    for (size_t n = 0; n < columns; n += LANES) {
        size_t m = 0;
#define SHAPE(M) \
    for (; m + M <= rows; m += M) \
        int4_tile(p, m0 + m, (n0 + n) / LANES, sums + m * COLUMNS + n, M);
        INT4_TILES(SHAPE)
#undef SHAPE
    }
}
