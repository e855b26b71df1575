/* Rows of int8 times columns of 4 bits: whole-number sums of four values each, scaled block by
 * block and summed in 16 lanes.
 *
 * A unit is 64 values of K, two blocks. Lanes 0 to 3 and 8 to 11 belong to the first, the others to
 * the second: bytes hold an even value in their low half and the odd one behind it in their high
 * half, and `quantise` puts a row's values in that order.
 */
#include "kernels.h"
#include "lanes.h"

#if defined(__AVX512VNNI__)
typedef __m512i Unit; /* 64 steps of a column, or 64 values of a row */
INLINE Unit load_steps(const uint8_t *w) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)w);
    __m256i low = _mm256_set1_epi8(15);
    __m256i even = _mm256_and_si256(bytes, low);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
    return _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1);
}
INLINE Unit load_row(const int8_t *x) { return _mm512_loadu_si512(x); }
INLINE i32x16 unit_sums(Unit steps, Unit row) {
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), steps, row);
}
#elif defined(__AVX2__)
typedef struct { __m256i low, high; } Unit;
INLINE Unit load_steps(const uint8_t *w) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)w), low = _mm256_set1_epi8(15);
    return (Unit){_mm256_and_si256(bytes, low),
                  _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low)};
}
INLINE Unit load_row(const int8_t *x) {
    return (Unit){_mm256_loadu_si256((const __m256i *)x),
                  _mm256_loadu_si256((const __m256i *)(x + 32))};
}
INLINE i32x16 unit_sums(Unit steps, Unit row) {
    __m256i ones = _mm256_set1_epi16(1);
    return (i32x16){_mm256_madd_epi16(_mm256_maddubs_epi16(steps.low, row.low), ones),
                    _mm256_madd_epi16(_mm256_maddubs_epi16(steps.high, row.high), ones)};
}
#elif defined(__ARM_FEATURE_DOTPROD) && !defined(PORTABLE)
typedef struct { int8x16_t v[4]; } Unit;
INLINE Unit load_steps(const uint8_t *w) {
    Unit u;
    for (int i = 0; i < 2; i++) {
        uint8x16_t bytes = vld1q_u8(w + 16 * i);
        u.v[i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
        u.v[i + 2] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
    }
    return u;
}
INLINE Unit load_row(const int8_t *x) {
    Unit u;
    for (int i = 0; i < 4; i++) u.v[i] = vld1q_s8(x + 16 * i);
    return u;
}
INLINE i32x16 unit_sums(Unit steps, Unit row) {
    i32x16 sums;
    for (int i = 0; i < 4; i++) sums.v[i] = vdotq_s32(vdupq_n_s32(0), steps.v[i], row.v[i]);
    return sums;
}
#else
typedef struct { int8_t v[64]; } Unit;
INLINE Unit load_steps(const uint8_t *w) {
    Unit u;
    for (int i = 0; i < 32; i++) {
        u.v[i] = w[i] & 15;
        u.v[i + 32] = w[i] >> 4;
    }
    return u;
}
INLINE Unit load_row(const int8_t *x) {
    Unit u;
    memcpy(u.v, x, sizeof u.v);
    return u;
}
INLINE i32x16 unit_sums(Unit steps, Unit row) {
    int32_t sums[LANES];
    for (int i = 0; i < LANES; i++) {
        sums[i] = 0;
        for (int j = 4 * i; j < 4 * i + 4; j++) sums[i] += steps.v[j] * row.v[j];
    }
    return load_ints(sums);
}
#endif

#define GROUP 16 /* blocks whose scales are read together: 8 units */

/* Lanes of a unit: twice four times the scale of its first block, then of its second. */
#if defined(__AVX512F__)
INLINE f32x16 of_unit(f32x16 scales, const float *stored, size_t unit) {
    const __m512i lanes = _mm512_set_epi32(1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0);
    (void)stored;
    return _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(2 * (int)unit)), scales);
}
/* 16 numbers of four bits, as floats. */
INLINE f32x16 load_nibbles(const uint8_t *p) {
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)p);
    const __m512i twice = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes));
    const __m512i shift = _mm512_set_epi32(4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0);
    return _mm512_cvtepi32_ps(
        _mm512_and_si512(_mm512_srlv_epi32(twice, shift), _mm512_set1_epi32(15)));
}
#else
INLINE f32x16 of_unit(f32x16 scales, const float *stored, size_t unit) {
    float lanes[LANES];
    (void)scales;
    for (size_t i = 0; i < LANES; i++) lanes[i] = stored[2 * unit + i / 4 % 2];
    return load(lanes);
}
INLINE f32x16 load_nibbles(const uint8_t *p) {
    int32_t whole[LANES];
    for (int i = 0; i < LANES; i++) whole[i] = p[i / 2] >> 4 * (i % 2) & 15;
    return as_floats(load_ints(whole));
}
#endif

/* M rows times a column: the steps times their scales, less the zero points times theirs. */
INLINE void int4_tile(const Product *p, size_t m0, size_t n, float *sums, const int M) {
    const size_t blocks = (p->k + BLOCK - 1) / BLOCK;
    const uint8_t *w = (const uint8_t *)p->w + n * blocks * (BLOCK / 2);
    const uint16_t *scale = p->block_scale + n * blocks;
    const uint8_t *zero = p->zero + n * ((blocks + 1) / 2);
    const char *rows = p->rows + m0 * p->stride;
    const size_t block_sums = round_up(p->k, QUANTA);
    f32x16 acc[4], off[4];
    UNROLL for (int m = 0; m < M; m++) acc[m] = off[m] = splat(0);
    for (size_t b = 0; b < blocks; b += GROUP) {
        const size_t count = blocks - b < GROUP ? blocks - b : GROUP;
        uint8_t rest[GROUP / 2] = {0};
        if (count < GROUP) memcpy(rest, zero + b / 2, (count + 1) / 2);
        const f32x16 scales = count == GROUP ? load_half(scale + b) : load_half_some(scale + b, count);
        const f32x16 zeros = mul(load_nibbles(count < GROUP ? rest : zero + b / 2), scales);
        float stored[GROUP];
        store(stored, scales);
        UNROLL for (int m = 0; m < M; m++)
            off[m] = fma16(zeros, load((const float *)(const void *)(rows + m * p->stride + block_sums) + b),
                           off[m]);
        for (size_t u = 0; 2 * u < count; u++) {
            uint8_t last[BLOCK] = {0};
            if (2 * u + 1 == count) memcpy(last, w + (b + 2 * u) * (BLOCK / 2), BLOCK / 2);
            const Unit steps = load_steps(2 * u + 1 == count ? last : w + (b + 2 * u) * (BLOCK / 2));
            const f32x16 each = of_unit(scales, stored, u);
            UNROLL for (int m = 0; m < M; m++) {
                const Unit row = load_row((const int8_t *)rows + m * p->stride + (b + 2 * u) * BLOCK);
                acc[m] = fma16(as_floats(unit_sums(steps, row)), each, acc[m]);
            }
        }
    }
    UNROLL for (int m = 0; m < M; m++) sums[m * COLUMNS] = sum16(sub(acc[m], off[m]));
}

static void int4_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                      float *sums) {
    for (size_t n = 0; n < columns; n++) {
        size_t m = 0;
        for (; m + 4 <= rows; m += 4) int4_tile(p, m0 + m, n0 + n, sums + m * COLUMNS + n, 4);
        for (; m < rows; m++) int4_tile(p, m0 + m, n0 + n, sums + m * COLUMNS + n, 1);
    }
}
