/* Sums of whole numbers: rows of int8 times columns of uint8 that stand for w + 128, exact whatever
 * the order. */
#include "kernels.h"
#include "lanes.h"

#define PANEL_ROWS 12 /* from this many rows on, columns are packed side by side first */

#if defined(__AVX512VNNI__)

/* VNNI multiplies unsigned by signed bytes: w + 128 as it is, and 128 times the sum of the row comes
 * off at the end. */
INLINE void int8_tile(const int8_t *x, size_t stride, const int32_t *row_sum, const uint8_t *w,
                      size_t k, int32_t *sums, const int M, const int N) {
    __m512i acc[8][8];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) acc[m][n] = _mm512_setzero_si512();
    size_t at = 0;
    for (; at + 64 <= k; at += 64) {
        for (int n = 0; n < N; n++) {
            __m512i column = _mm512_loadu_si512(w + n * k + at);
            for (int m = 0; m < M; m++)
                acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], column,
                                                _mm512_loadu_si512(x + m * stride + at));
        }
    }
    if (at < k) {
        const __mmask64 rest = (1ull << (k - at)) - 1;
        for (int n = 0; n < N; n++) {
            __m512i column = _mm512_maskz_loadu_epi8(rest, w + n * k + at);
            for (int m = 0; m < M; m++)
                acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], column,
                                                _mm512_loadu_si512(x + m * stride + at));
        }
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
            sums[m * COLUMNS + n] = _mm512_reduce_add_epi32(acc[m][n]) - 128 * row_sum[m];
}
#define TILE(M, N) int8_tile(x, stride, row_sum, w, k, sums, M, N)

#elif defined(__AVX2__)

/* |x| times w with the sign of x: both within 127, so that two products fit 16 bits. */
INLINE __m256i four_products(__m256i x, __m256i w) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

INLINE __m256i signed_bytes(__m256i w) { return _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80)); }

INLINE int32_t sum8(__m256i a) {
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xB1)));
}

INLINE void int8_tile(const int8_t *x, size_t stride, const uint8_t *w, size_t k, int32_t *sums,
                      const int M, const int N) {
    __m256i acc[4][8];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) acc[m][n] = _mm256_setzero_si256();
    size_t at = 0;
    for (; at + 32 <= k; at += 32)
        for (int n = 0; n < N; n++) {
            __m256i column = signed_bytes(_mm256_loadu_si256((const __m256i *)(w + n * k + at)));
            for (int m = 0; m < M; m++) {
                __m256i row = _mm256_loadu_si256((const __m256i *)(x + m * stride + at));
                acc[m][n] = _mm256_add_epi32(acc[m][n], four_products(row, column));
            }
        }
    for (int n = 0; n < N && at < k; n++) {
        uint8_t rest[32] = {0};
        memcpy(rest, w + n * k + at, k - at);
        __m256i column = signed_bytes(_mm256_loadu_si256((const __m256i *)rest));
        for (int m = 0; m < M; m++) {
            __m256i row = _mm256_loadu_si256((const __m256i *)(x + m * stride + at));
            acc[m][n] = _mm256_add_epi32(acc[m][n], four_products(row, column));
        }
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) sums[m * COLUMNS + n] = sum8(acc[m][n]);
}
#define TILE(M, N) int8_tile(x, stride, w, k, sums, M, N)

#elif defined(__ARM_FEATURE_DOTPROD)

INLINE int8x16_t signed_bytes(const uint8_t *w) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(0x80)));
}

INLINE void int8_tile(const int8_t *x, size_t stride, const uint8_t *w, size_t k, int32_t *sums,
                      const int M, const int N) {
    int32x4_t acc[4][8];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) acc[m][n] = vdupq_n_s32(0);
    size_t at = 0;
    for (; at + 16 <= k; at += 16)
        for (int n = 0; n < N; n++) {
            int8x16_t column = signed_bytes(w + n * k + at);
            for (int m = 0; m < M; m++)
                acc[m][n] = vdotq_s32(acc[m][n], column, vld1q_s8(x + m * stride + at));
        }
    for (int n = 0; n < N && at < k; n++) {
        uint8_t rest[16] = {0};
        memcpy(rest, w + n * k + at, k - at);
        for (int m = 0; m < M; m++)
            acc[m][n] =
                vdotq_s32(acc[m][n], signed_bytes(rest), vld1q_s8(x + m * stride + at));
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) sums[m * COLUMNS + n] = vaddvq_s32(acc[m][n]);
}
#define TILE(M, N) int8_tile(x, stride, w, k, sums, M, N)

#else

static void int8_tile(const int8_t *x, size_t stride, const uint8_t *w, size_t k, int32_t *sums,
                      const int M, const int N) {
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            int32_t sum = 0;
            for (size_t i = 0; i < k; i++) sum += x[m * stride + i] * (w[n * k + i] - 128);
            sums[m * COLUMNS + n] = sum;
        }
}
#define TILE(M, N) int8_tile(x, stride, w, k, sums, M, N)

#endif

#if defined(__AVX512VNNI__)
#define MOST_ROWS 8
#else
#define MOST_ROWS 2
#endif

/* sums [rows, COLUMNS] of `columns` columns from n0 on, weights as they lie. */
static void int8_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                      int32_t *sums_of_all) {
    const size_t k = p->k, stride = p->stride;
    for (size_t m = 0; m < rows;) {
        const size_t left = rows - m;
        const int M = left >= 8 && MOST_ROWS >= 8 ? 8 : left >= 4 && MOST_ROWS >= 4 ? 4 : left >= 2 ? 2 : 1;
        const int8_t *x = (const int8_t *)p->rows + (m0 + m) * stride;
#if defined(__AVX512VNNI__)
        const int32_t *row_sum = p->row_sum + m0 + m;
#endif
        for (size_t n = 0; n < columns;) {
            const uint8_t *w = (const uint8_t *)p->w + (n0 + n) * k;
            int32_t *sums = sums_of_all + m * COLUMNS + n;
            const size_t more = columns - n;
            int N = 1;
            if (M == 1 && more >= 8) { N = 8; TILE(1, 8); }
            else if (M == 1) TILE(1, 1);
            else if (M == 2 && more >= 4) { N = 4; TILE(2, 4); }
            else if (M == 2) TILE(2, 1);
#if MOST_ROWS >= 8
            else if (M == 4 && more >= 4) { N = 4; TILE(4, 4); }
            else if (M == 4) TILE(4, 1);
            else if (more >= 2) { N = 2; TILE(8, 2); }
            else TILE(8, 1);
#endif
            n += (size_t)N;
        }
        m += (size_t)M;
    }
}
#undef TILE

#if defined(__AVX512VNNI__)

/* 16 columns of 16 groups of four bytes -> 16 groups of 16 columns. */
INLINE void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

/* The panel of columns [n0, n0 + columns): [stride / 4][COLUMNS] groups of four bytes. */
static void int8_pack(const Product *p, size_t n0, size_t columns, char *panel) {
    const size_t k = p->k;
    for (size_t c = 0; c < COLUMNS; c += 16)
        for (size_t at = 0; at < p->stride; at += 64) {
            const __mmask64 there = k - at >= 64 ? ~0ull : (1ull << (k - at)) - 1;
            __m512i r[16];
            for (size_t i = 0; i < 16; i++) {
                const uint8_t *w = (const uint8_t *)p->w + (n0 + c + i) * k + at;
                r[i] = c + i < columns ? _mm512_maskz_loadu_epi8(there, w)
                                       : _mm512_setzero_si512();
            }
            transpose(r);
            for (size_t i = 0; i < 16; i++)
                _mm512_storeu_si512(panel + ((at / 4 + i) * COLUMNS + c) * 4, r[i]);
        }
}

INLINE void panel_tile(const int8_t *x, size_t stride, const int32_t *row_sum, const char *panel,
                       int32_t *sums, const int M) {
    __m512i acc[6][4];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < 4; n++) acc[m][n] = _mm512_setzero_si512();
    for (size_t at = 0; at < stride; at += 4, panel += COLUMNS * 4) {
        __m512i w[4];
        for (int n = 0; n < 4; n++) w[n] = _mm512_loadu_si512(panel + 64 * n);
        for (int m = 0; m < M; m++) {
            int32_t four;
            memcpy(&four, x + m * stride + at, 4);
            const __m512i row = _mm512_set1_epi32(four);
            for (int n = 0; n < 4; n++) acc[m][n] = _mm512_dpbusd_epi32(acc[m][n], w[n], row);
        }
    }
    for (int m = 0; m < M; m++) {
        const __m512i offset = _mm512_set1_epi32(128 * row_sum[m]);
        for (int n = 0; n < 4; n++)
            _mm512_storeu_si512(sums + m * COLUMNS + 16 * n, _mm512_sub_epi32(acc[m][n], offset));
    }
}

static void int8_panel_sums(const Product *p, size_t m0, size_t rows, const char *panel,
                            int32_t *sums) {
    for (size_t m = 0; m < rows; m += 6) {
        const int8_t *x = (const int8_t *)p->rows + (m0 + m) * p->stride;
        const int32_t *row_sum = p->row_sum + m0 + m;
        int32_t *out = sums + m * COLUMNS;
        switch (rows - m) {
        case 1: panel_tile(x, p->stride, row_sum, panel, out, 1); break;
        case 2: panel_tile(x, p->stride, row_sum, panel, out, 2); break;
        case 3: panel_tile(x, p->stride, row_sum, panel, out, 3); break;
        case 4: panel_tile(x, p->stride, row_sum, panel, out, 4); break;
        case 5: panel_tile(x, p->stride, row_sum, panel, out, 5); break;
        default: panel_tile(x, p->stride, row_sum, panel, out, 6);
        }
    }
}
#endif
