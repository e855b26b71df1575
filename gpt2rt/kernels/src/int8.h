/* Sums of whole numbers: rows of int8 times columns of uint8 that stand for w + 128, exact whatever
 * the order. */
#include "kernels.h"
#include "lanes.h"
#include "rows.h"

#define PANEL_ROWS 12 /* from this many rows on, columns are packed side by side first */

#if defined(__AVX512VNNI__)

#define shuffle_pairs(a, b, how) \
    _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), how))

/* In assembly, since GCC 12 copies the accumulator before and after the intrinsic. */
INLINE __m512i dot_add(__m512i sums, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
    return sums;
}

/* VNNI multiplies unsigned by signed bytes: w + 128 as it is, and 128 times the sum of the row comes
 * off at the end. */
/* M rows times N columns, M * N being 16 or N 1. Columns are read one after another: memory is
 * fastest in order. A single row has two sums, since one would wait for itself. */
INLINE void int8_tile(const int8_t *x, size_t stride, const int32_t *row_sum, const uint8_t *w,
                      size_t k, int32_t *sums, const int M, const int N) {
    const int chains = M == 1 ? 2 : 1;
    __m512i acc[16];
    for (int n = 0; n < N; n++, w += k) {
        __m512i some[8];
        UNROLL for (int i = 0; i < M * chains; i++) some[i] = _mm512_setzero_si512();
        size_t at = 0;
        for (; at + 64 * chains <= k; at += 64 * chains)
            UNROLL for (int c = 0; c < chains; c++) {
                const __m512i column = _mm512_loadu_si512(w + at + 64 * c);
                UNROLL for (int m = 0; m < M; m++)
                    some[m + c] = dot_add(some[m + c], column,
                                          _mm512_loadu_si512(x + m * stride + at + 64 * c));
            }
        for (; at < k; at += 64) {
            const __mmask64 there = k - at >= 64 ? ~0ull : (1ull << (k - at)) - 1;
            const __m512i column = _mm512_maskz_loadu_epi8(there, w + at);
            UNROLL for (int m = 0; m < M; m++)
                some[m] = dot_add(some[m], column, _mm512_loadu_si512(x + m * stride + at));
        }
        if (M == 1) some[0] = _mm512_add_epi32(some[0], some[1]);
        UNROLL for (int m = 0; m < M; m++) acc[m * N + n] = some[m];
    }
    int32_t all[16];
    if (N > 1) {
        SUMS16(_mm512_add_epi32, _mm512_shuffle_i32x4, shuffle_pairs, _mm512_permutexvar_epi32, acc)
        _mm512_storeu_si512(all, acc[0]);
    } else {
        UNROLL for (int m = 0; m < M; m++) all[m] = _mm512_reduce_add_epi32(acc[m]);
    }
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++)
            sums[m * COLUMNS + n] = all[m * N + n] - 128 * row_sum[m];
}
#define TILE(M, N) int8_tile(x, stride, row_sum, w, k, sums, M, N)
#define PANELS 1

#elif defined(__AVX2__)

/* Two products of 16 bits each, added: rows are 16 bits wide already, weights are widened. */
INLINE __m256i dot_add(__m256i sums, __m256i w, __m256i x) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(w, x));
}

INLINE int32_t sum8(__m256i a) {
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xB1)));
}

/* Add the products of M rows with 32 values of a column. */
INLINE void add_products(__m256i *acc, const Integer *x, size_t stride, const uint8_t *w,
                         const int M) {
    UNROLL for (int half = 0; half < 2; half++) {
        const __m256i column =
            _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(w + 16 * half)));
        UNROLL for (int m = 0; m < M; m++) {
            const Integer *row = x + m * stride + 16 * half;
            acc[2 * m + half] =
                dot_add(acc[2 * m + half], column, _mm256_loadu_si256((const __m256i *)row));
        }
    }
}

/* M rows times N columns, read one after another. */
INLINE void int8_tile(const Integer *x, size_t stride, const int32_t *row_sum, const uint8_t *w,
                      size_t k, int32_t *sums, const int M, const int N) {
    for (int n = 0; n < N; n++, w += k) {
        __m256i acc[2 * 4];
        UNROLL for (int i = 0; i < 2 * M; i++) acc[i] = _mm256_setzero_si256();
        size_t at = 0;
        for (; at + 32 <= k; at += 32) add_products(acc, x + at, stride, w + at, M);
        if (at < k) {
            uint8_t rest[32] = {0};
            memcpy(rest, w + at, k - at);
            add_products(acc, x + at, stride, rest, M);
        }
        UNROLL for (int m = 0; m < M; m++)
            sums[m * COLUMNS + n] =
                sum8(_mm256_add_epi32(acc[2 * m], acc[2 * m + 1])) - 128 * row_sum[m];
    }
}
#define TILE(M, N) int8_tile(x, stride, row_sum, w, k, sums, M, N)
#define PANELS 1

#elif defined(__ARM_FEATURE_DOTPROD)

INLINE int8x16_t signed_bytes(const uint8_t *w) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(0x80)));
}

INLINE void int8_tile(const int8_t *x, size_t stride, const uint8_t *w, size_t k, int32_t *sums,
                      const int M, const int N) {
    int32x4_t acc[4][8];
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) acc[m][n] = vdupq_n_s32(0);
    size_t at = 0;
    for (; at + 16 <= k; at += 16)
        UNROLL for (int n = 0; n < N; n++) {
            int8x16_t column = signed_bytes(w + n * k + at);
            UNROLL for (int m = 0; m < M; m++)
                acc[m][n] = vdotq_s32(acc[m][n], column, vld1q_s8(x + m * stride + at));
        }
    UNROLL for (int n = 0; n < N && at < k; n++) {
        uint8_t rest[16] = {0};
        memcpy(rest, w + n * k + at, k - at);
        UNROLL for (int m = 0; m < M; m++)
            acc[m][n] =
                vdotq_s32(acc[m][n], signed_bytes(rest), vld1q_s8(x + m * stride + at));
    }
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < N; n++) sums[m * COLUMNS + n] = vaddvq_s32(acc[m][n]);
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

/* The shapes of tiles, rows by columns: as many sums as there are registers for. */
#if defined(__AVX512VNNI__)
#define TILES(SHAPE) SHAPE(8, 2) SHAPE(4, 4) SHAPE(2, 8) SHAPE(1, 16)
#elif defined(__AVX2__)
#define TILES(SHAPE) SHAPE(4, 16) SHAPE(2, 16) SHAPE(1, 16)
#else
#define TILES(SHAPE) SHAPE(2, 4) SHAPE(1, 8)
#endif

/* sums [rows, COLUMNS] of `columns` columns from n0 on, weights as they lie. */
static void int8_sums(const Product *p, size_t m0, size_t rows, size_t n0, size_t columns,
                      int32_t *all) {
    const size_t k = p->k, stride = p->stride / sizeof(Integer);
    const int32_t *row_sum = p->row_sum + m0;
    size_t m = 0;
#define SHAPE(M, N) \
    for (; m + M <= rows; m += M, row_sum += M) { \
        const Integer *x = (const Integer *)(const void *)p->rows + (m0 + m) * stride; \
        const uint8_t *w = (const uint8_t *)p->w + n0 * k; \
        int32_t *sums = all + m * COLUMNS, *end = sums + columns; \
        for (; sums + N <= end; sums += N, w += N * k) TILE(M, N); \
        for (; sums < end; sums++, w += k) TILE(M, 1); \
    }
    TILES(SHAPE)
#undef SHAPE
    (void)row_sum;
}
#undef TILE

#if defined(__AVX512VNNI__)

/* 16 columns of 16 groups of four bytes -> 16 groups of 16 columns. */
INLINE void transpose(__m512i r[16]) {
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
    }
    UNROLL for (int i = 0; i < 4; i++) {
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
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < 4; n++) acc[m][n] = _mm512_setzero_si512();
    for (size_t at = 0; at < stride; at += 4, panel += COLUMNS * 4) {
        __m512i w[4];
        UNROLL for (int n = 0; n < 4; n++) w[n] = _mm512_loadu_si512(panel + 64 * n);
        UNROLL for (int m = 0; m < M; m++) {
            int32_t four;
            memcpy(&four, x + m * stride + at, 4);
            const __m512i row = _mm512_set1_epi32(four);
            UNROLL for (int n = 0; n < 4; n++) acc[m][n] = dot_add(acc[m][n], w[n], row);
        }
    }
    UNROLL for (int m = 0; m < M; m++) {
        const __m512i offset = _mm512_set1_epi32(128 * row_sum[m]);
        UNROLL for (int n = 0; n < 4; n++)
            _mm512_storeu_si512(sums + m * COLUMNS + 16 * n, _mm512_sub_epi32(acc[m][n], offset));
    }
}

#if defined(__AMX_INT8__) || defined(AMX_EMULATED)
#define AMX 1
#define TILE_ROWS 16 /* of a tile of 16 by 64 bytes */

/* Eight tiles: 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 columns of the panel. */
static void configure_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.bytes[i] = 64, all.rows[i] = TILE_ROWS;
    _tile_loadconfig(&all);
}

/* 16 rows, or 32 if `two`, times 32 columns of the panel: rows are the left operand as they lie. */
INLINE void amx_tile(const int8_t *x, size_t stride, const char *panel, int32_t *sums,
                     const int two) {
    const size_t wide = COLUMNS * sizeof(int32_t);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t at = 0; at < stride; at += 64, panel += 16 * wide) {
        _tile_loadd(4, x + at, stride);
        _tile_loadd(6, panel, wide);
        _tile_loadd(7, panel + 64, wide);
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

/* The sums of all rows that fill tiles of 16; returns how many those are. */
static size_t amx_sums(const Product *p, size_t m0, size_t rows, const char *panel, int32_t *sums) {
    const size_t whole = rows / TILE_ROWS * TILE_ROWS;
    for (size_t m = 0; m < whole; m += 2 * TILE_ROWS) {
        const int8_t *x = (const int8_t *)p->rows + (m0 + m) * p->stride;
        int32_t *out = sums + m * COLUMNS;
        for (size_t n = 0; n < COLUMNS; n += 32)
            if (whole - m > TILE_ROWS)
                amx_tile(x, p->stride, panel + 4 * n, out + n, 1);
            else
                amx_tile(x, p->stride, panel + 4 * n, out + n, 0);
    }
    for (size_t m = 0; m < whole; m++)
        for (size_t n = 0; n < COLUMNS; n++) sums[m * COLUMNS + n] -= 128 * p->row_sum[m0 + m];
    return whole;
}
#endif

static void int8_panel_sums(const Product *p, size_t m0, size_t rows, const char *panel,
                            int32_t *sums) {
    size_t m = 0;
#if AMX
    m = amx_sums(p, m0, rows, panel, sums);
#endif
    for (; m < rows; m += 6) {
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

#define PANEL_BYTES(p) ((p)->stride * COLUMNS)

#elif defined(__AVX2__)

/* 8 columns of 8 pairs of bytes -> 8 pairs of 8 columns. */
INLINE void transpose(__m128i r[8]) {
    __m128i t[8];
    UNROLL for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {
        r[i] = _mm_unpacklo_epi32(t[i], t[i + 2]);
        r[i + 1] = _mm_unpackhi_epi32(t[i], t[i + 2]);
        r[i + 2] = _mm_unpacklo_epi32(t[i + 1], t[i + 3]);
        r[i + 3] = _mm_unpackhi_epi32(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm_unpacklo_epi64(r[i], r[i + 4]);
        t[2 * i + 1] = _mm_unpackhi_epi64(r[i], r[i + 4]);
    }
    UNROLL for (int i = 0; i < 8; i++) r[i] = t[i];
}

/* The panel of columns [n0, n0 + columns): for every 16 columns [padded k / 2][16] pairs of 16
 * bits. */
static void int8_pack(const Product *p, size_t n0, size_t columns, char *panel) {
    const size_t k = p->k, padded = round_up(k, QUANTA);
    for (size_t c = 0; c < COLUMNS; c += 8)
        for (size_t at = 0; at < padded; at += 16) {
            __m128i r[8];
            for (size_t i = 0; i < 8; i++) {
                uint8_t rest[16] = {0};
                const uint8_t *w = (const uint8_t *)p->w + (n0 + c + i) * k + at;
                if (c + i >= columns || at >= k)
                    w = rest;
                else if (k - at < 16)
                    w = memcpy(rest, w, k - at);
                r[i] = _mm_loadu_si128((const __m128i *)w);
            }
            transpose(r);
            char *group = panel + (c / 16 * padded / 2 * 16 + c % 16) * 4;
            for (size_t i = 0; i < 8; i++)
                _mm256_storeu_si256((__m256i *)(group + (at / 2 + i) * 16 * 4),
                                    _mm256_cvtepu8_epi16(r[i]));
        }
}

#define PANEL_TILE 4 /* rows */

/* M rows times 16 columns. */
INLINE void panel_tile(const Integer *x, size_t stride, const int32_t *row_sum, const char *panel,
                       int32_t *sums, const int M) {
    __m256i acc[12];
    UNROLL for (int i = 0; i < 2 * M; i++) acc[i] = _mm256_setzero_si256();
    for (size_t at = 0; at < stride; at += 2, panel += 64) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)panel);
        const __m256i high = _mm256_loadu_si256((const __m256i *)(panel + 32));
        UNROLL for (int m = 0; m < M; m++) {
            int32_t two;
            memcpy(&two, x + m * stride + at, 4);
            const __m256i row = _mm256_set1_epi32(two);
            acc[2 * m] = dot_add(acc[2 * m], low, row);
            acc[2 * m + 1] = dot_add(acc[2 * m + 1], high, row);
        }
    }
    UNROLL for (int i = 0; i < 2 * M; i++)
        _mm256_storeu_si256((__m256i *)(sums + i / 2 * COLUMNS + i % 2 * 8),
                            _mm256_sub_epi32(acc[i], _mm256_set1_epi32(128 * row_sum[i / 2])));
}

static void int8_panel_sums(const Product *p, size_t m0, size_t rows, const char *panel,
                            int32_t *sums) {
    const size_t stride = p->stride / sizeof(Integer);
    for (size_t n = 0; n < COLUMNS; n += 16, panel += stride / 2 * 64) {
        size_t m = 0;
#define SHAPE(M) \
    for (; m + M <= rows; m += M) \
        panel_tile((const Integer *)(const void *)p->rows + (m0 + m) * stride, stride, \
                   p->row_sum + m0 + m, panel, sums + m * COLUMNS + n, M);
        SHAPE(PANEL_TILE)
        SHAPE(1)
#undef SHAPE
    }
}
#define PANEL_BYTES(p) ((p)->stride * COLUMNS)
#endif
