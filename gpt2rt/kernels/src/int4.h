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
INLINE i32x16 row_sums(Unit row) { return unit_sums(_mm512_set1_epi8(1), row); }
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
INLINE i32x16 row_sums(Unit row) {
    __m256i one = _mm256_set1_epi8(1);
    return unit_sums((Unit){one, one}, row);
}
#elif defined(__ARM_FEATURE_DOTPROD)
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
INLINE i32x16 row_sums(Unit row) {
    Unit ones;
    for (int i = 0; i < 4; i++) ones.v[i] = vdupq_n_s8(1);
    return unit_sums(ones, row);
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
INLINE i32x16 row_sums(Unit row) {
    Unit ones;
    memset(ones.v, 1, sizeof ones.v);
    return unit_sums(ones, row);
}
#endif

/* The scales of 16 blocks, and their zero points. */
#define GROUP 16
/* Lane i of the result is lane 2 * unit of `blocks`, or the one behind it for the second block. */
#if defined(__AVX512F__)
INLINE f32x16 of_blocks(const float *blocks, size_t unit) {
    const __m512i lanes = _mm512_set_epi32(1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(
        lanes, _mm512_castpd_ps(_mm512_set1_pd(*(const double *)(const void *)(blocks + 2 * unit))));
}
#else
INLINE f32x16 of_blocks(const float *blocks, size_t unit) {
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = blocks[2 * unit + (i / 4) % 2];
    return load(lanes);
}
#endif

/* Scales and zero points of a column's blocks, as floats with zeros behind the last. */
static void column_blocks(const Product *p, size_t n, float *scales, float *zeros) {
    const size_t blocks = (p->k + BLOCK - 1) / BLOCK;
    const uint16_t *scale = p->block_scale + n * blocks;
    const uint8_t *zero = p->zero + n * ((blocks + 1) / 2);
    for (size_t i = 0; i < blocks; i += GROUP) {
        const size_t count = blocks - i < GROUP ? blocks - i : GROUP;
        store(scales + i, count == GROUP ? load_half(scale + i) : load_half_some(scale + i, count));
        int32_t whole[GROUP] = {0};
        for (size_t j = 0; j < count; j++) whole[j] = zero[(i + j) / 2] >> 4 * ((i + j) % 2) & 15;
        store(zeros + i, as_floats(load_ints(whole)));
    }
}

INLINE void int4_tile(const Product *p, size_t m0, size_t n, const float *scales,
                      const float *zeros, float *sums, const int M) {
    const size_t blocks = (p->k + BLOCK - 1) / BLOCK, units = blocks / 2;
    const uint8_t *w = (const uint8_t *)p->w + n * blocks * 16;
    const int8_t *x = (const int8_t *)p->rows + m0 * p->stride;
    f32x16 acc[4];
    for (int m = 0; m < M; m++) acc[m] = splat(0);
    for (size_t u = 0; u < units + blocks % 2; u++) {
        Unit steps;
        if (u < units) {
            steps = load_steps(w + 32 * u);
        } else {
            uint8_t rest[32] = {0};
            memcpy(rest, w + 32 * u, 16);
            steps = load_steps(rest);
        }
        const f32x16 scale = of_blocks(scales, u), zero = of_blocks(zeros, u);
        for (int m = 0; m < M; m++) {
            Unit row = load_row(x + m * p->stride + 64 * u);
            /* Exact: sums are below 2^13. */
            f32x16 sum = sub(as_floats(unit_sums(steps, row)), mul(zero, as_floats(row_sums(row))));
            acc[m] = fma16(sum, scale, acc[m]);
        }
    }
    for (int m = 0; m < M; m++) sums[m * COLUMNS] = sum16(acc[m]);
}

static void int4_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                      float *sums, float *blocks) {
    float *scales = blocks, *zeros = blocks + round_up((p->k + BLOCK - 1) / BLOCK, GROUP);
    for (size_t n = 0; n < columns; n++) {
        column_blocks(p, n0 + n, scales, zeros);
        size_t m = 0;
        for (; m + 4 <= rows; m += 4)
            int4_tile(p, m0 + m, n0 + n, scales, zeros, sums + m * COLUMNS + n, 4);
        for (; m < rows; m++)
            int4_tile(p, m0 + m, n0 + n, scales, zeros, sums + m * COLUMNS + n, 1);
    }
}
