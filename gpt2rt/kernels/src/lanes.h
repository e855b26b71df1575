/* Sixteen floats side by side, the same arithmetic on every instruction set.
 *
 * Every operation here is exact or rounds once, as IEEE 754 says, so a result has the same bits
 * whichever of the four versions below is compiled. Sums over lanes are made in one order (`sum16`).
 * That holds for threads that do not flush subnormal numbers to zero, as none does by default.
 */
#ifndef GPT2RT_LANES_H
#define GPT2RT_LANES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
/* Loops over an array that has to stay in registers. */
#define UNROLL _Pragma("GCC unroll 16")
/* Prefetch a cache line into L2; the address may lie past the end of an array. What is needed next is
 * fetched while something else is computed, so that memory and arithmetic overlap. */
#define PREFETCH(address) __builtin_prefetch((const void *)(address), 0, 2)

#if defined(PORTABLE) /* the version for any processor, below, whatever the compiler knows of this one */
#define ANY_PROCESSOR
#elif defined(__AVX512F__)

#include <immintrin.h>
typedef __m512 f32x16;
typedef __m512i i32x16;

INLINE f32x16 splat(float a) { return _mm512_set1_ps(a); }
INLINE f32x16 load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, f32x16 a) { _mm512_storeu_ps(p, a); }
INLINE __mmask16 first(size_t n) { return (__mmask16)((1u << n) - 1); }
INLINE f32x16 load_some(const float *p, size_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
INLINE void store_some(float *p, f32x16 a, size_t n) { _mm512_mask_storeu_ps(p, first(n), a); }
INLINE f32x16 add(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
INLINE f32x16 sub(f32x16 a, f32x16 b) { return _mm512_sub_ps(a, b); }
INLINE f32x16 mul(f32x16 a, f32x16 b) { return _mm512_mul_ps(a, b); }
INLINE f32x16 quotient(f32x16 a, f32x16 b) { return _mm512_div_ps(a, b); }
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
/* The second operand where either is NaN. */
INLINE f32x16 larger(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }
INLINE f32x16 smaller(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); }
INLINE f32x16 magnitude(f32x16 a) { return _mm512_abs_ps(a); }
INLINE i32x16 rounded(f32x16 a) { return _mm512_cvtps_epi32(a); }
INLINE f32x16 as_floats(i32x16 a) { return _mm512_cvtepi32_ps(a); }
INLINE i32x16 load_ints(const int32_t *p) { return _mm512_loadu_si512(p); }
INLINE void store_bytes(int8_t *p, i32x16 a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(a));
}
/* 2 to the power of n, for -126 to 127. */
INLINE f32x16 power_of_two(i32x16 n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
INLINE f32x16 load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE void store_half(uint16_t *p, f32x16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE float sum16(f32x16 a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_hadd_ps(c, c);
    return _mm_cvtss_f32(_mm_hadd_ps(c, c));
}
INLINE float largest16(f32x16 a) { return _mm512_reduce_max_ps(a); }

/* 16 sums side by side, in the order of `sum16`: halves are added to halves. */
#define SUMS16(add, blocks, pairs, permute, a) \
    UNROLL for (int i = 0; i < 8; i++) \
        a[i] = add(blocks(a[2 * i], a[2 * i + 1], 0x44), blocks(a[2 * i], a[2 * i + 1], 0xEE)); \
    UNROLL for (int i = 0; i < 4; i++) \
        a[i] = add(blocks(a[2 * i], a[2 * i + 1], 0x88), blocks(a[2 * i], a[2 * i + 1], 0xDD)); \
    UNROLL for (int i = 0; i < 2; i++) \
        a[i] = add(pairs(a[2 * i], a[2 * i + 1], 0x88), pairs(a[2 * i], a[2 * i + 1], 0xDD)); \
    a[0] = add(pairs(a[0], a[1], 0x88), pairs(a[0], a[1], 0xDD)); \
    a[0] = permute(_mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), a[0]);
INLINE void sums_of(f32x16 *a, const int n, float *out) {
    if (n == 16) {
        SUMS16(_mm512_add_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_permutexvar_ps, a)
        store(out, a[0]);
    } else {
        UNROLL for (int i = 0; i < n; i++) out[i] = sum16(a[i]);
    }
}

#elif defined(__AVX2__)

#include <immintrin.h>
typedef struct { __m256 low, high; } f32x16;
typedef struct { __m256i low, high; } i32x16;

INLINE f32x16 splat(float a) { return (f32x16){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
INLINE f32x16 load(const float *p) { return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void store(float *p, f32x16 a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}
INLINE f32x16 load_some(const float *p, size_t n) {
    float whole[LANES] = {0};
    memcpy(whole, p, n * sizeof *p);
    return load(whole);
}
INLINE void store_some(float *p, f32x16 a, size_t n) {
    float whole[LANES];
    store(whole, a);
    memcpy(p, whole, n * sizeof *p);
}
INLINE f32x16 add(f32x16 a, f32x16 b) {
    return (f32x16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
INLINE f32x16 sub(f32x16 a, f32x16 b) {
    return (f32x16){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
INLINE f32x16 mul(f32x16 a, f32x16 b) {
    return (f32x16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
INLINE f32x16 quotient(f32x16 a, f32x16 b) {
    return (f32x16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
    return (f32x16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE f32x16 larger(f32x16 a, f32x16 b) {
    return (f32x16){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
INLINE f32x16 smaller(f32x16 a, f32x16 b) {
    return (f32x16){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
INLINE f32x16 magnitude(f32x16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (f32x16){_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
INLINE i32x16 rounded(f32x16 a) {
    return (i32x16){_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)};
}
INLINE f32x16 as_floats(i32x16 a) {
    return (f32x16){_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
INLINE i32x16 load_ints(const int32_t *p) {
    return (i32x16){_mm256_loadu_si256((const __m256i *)p),
                    _mm256_loadu_si256((const __m256i *)(p + 8))};
}
INLINE void store_bytes(int8_t *p, i32x16 a) {
    __m256i words = _mm256_packs_epi32(a.low, a.high);
    words = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)p, bytes);
}
INLINE __m256 power_of_two8(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
INLINE f32x16 power_of_two(i32x16 n) {
    return (f32x16){power_of_two8(n.low), power_of_two8(n.high)};
}
INLINE f32x16 load_half(const uint16_t *p) {
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
INLINE void store_half(uint16_t *p, f32x16 a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
}
INLINE float sum16(f32x16 a) {
    __m256 b = _mm256_add_ps(a.low, a.high);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_hadd_ps(c, c);
    return _mm_cvtss_f32(_mm_hadd_ps(c, c));
}
INLINE float largest16(f32x16 a) {
    __m256 b = _mm256_max_ps(a.low, a.high);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
INLINE void sums_of(f32x16 *a, const int n, float *out) {
    if (n == 4) {
        __m256 b[4];
        UNROLL for (int i = 0; i < 4; i++) b[i] = _mm256_add_ps(a[i].low, a[i].high);
        UNROLL for (int i = 0; i < 2; i++)
            b[i] = _mm256_add_ps(_mm256_permute2f128_ps(b[2 * i], b[2 * i + 1], 0x20),
                                 _mm256_permute2f128_ps(b[2 * i], b[2 * i + 1], 0x31));
        b[0] = _mm256_hadd_ps(b[0], b[1]);
        b[0] = _mm256_hadd_ps(b[0], b[0]);
        __m128 even = _mm256_castps256_ps128(b[0]), odd = _mm256_extractf128_ps(b[0], 1);
        _mm_storeu_ps(out, _mm_unpacklo_ps(even, odd));
    } else {
        UNROLL for (int i = 0; i < n; i++) out[i] = sum16(a[i]);
    }
}

#elif defined(__aarch64__) && defined(__ARM_NEON)

#include <arm_neon.h>
typedef struct { float32x4_t v[4]; } f32x16;
typedef struct { int32x4_t v[4]; } i32x16;

#define FOUR(expression) \
    for (int i = 0; i < 4; i++) { expression; }
INLINE f32x16 splat(float a) {
    f32x16 r;
    FOUR(r.v[i] = vdupq_n_f32(a))
    return r;
}
INLINE f32x16 load(const float *p) {
    f32x16 r;
    FOUR(r.v[i] = vld1q_f32(p + 4 * i))
    return r;
}
INLINE void store(float *p, f32x16 a) { FOUR(vst1q_f32(p + 4 * i, a.v[i])) }
INLINE f32x16 load_some(const float *p, size_t n) {
    float whole[LANES] = {0};
    memcpy(whole, p, n * sizeof *p);
    return load(whole);
}
INLINE void store_some(float *p, f32x16 a, size_t n) {
    float whole[LANES];
    store(whole, a);
    memcpy(p, whole, n * sizeof *p);
}
INLINE f32x16 add(f32x16 a, f32x16 b) {
    FOUR(a.v[i] = vaddq_f32(a.v[i], b.v[i]))
    return a;
}
INLINE f32x16 sub(f32x16 a, f32x16 b) {
    FOUR(a.v[i] = vsubq_f32(a.v[i], b.v[i]))
    return a;
}
INLINE f32x16 mul(f32x16 a, f32x16 b) {
    FOUR(a.v[i] = vmulq_f32(a.v[i], b.v[i]))
    return a;
}
INLINE f32x16 quotient(f32x16 a, f32x16 b) {
    FOUR(a.v[i] = vdivq_f32(a.v[i], b.v[i]))
    return a;
}
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
    FOUR(c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]))
    return c;
}
INLINE f32x16 larger(f32x16 a, f32x16 b) {
    FOUR(a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]))
    return a;
}
INLINE f32x16 smaller(f32x16 a, f32x16 b) {
    FOUR(a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]))
    return a;
}
INLINE f32x16 magnitude(f32x16 a) {
    FOUR(a.v[i] = vabsq_f32(a.v[i]))
    return a;
}
INLINE i32x16 rounded(f32x16 a) {
    i32x16 r;
    FOUR(r.v[i] = vcvtnq_s32_f32(a.v[i]))
    return r;
}
INLINE f32x16 as_floats(i32x16 a) {
    f32x16 r;
    FOUR(r.v[i] = vcvtq_f32_s32(a.v[i]))
    return r;
}
INLINE i32x16 load_ints(const int32_t *p) {
    i32x16 r;
    FOUR(r.v[i] = vld1q_s32(p + 4 * i))
    return r;
}
INLINE void store_bytes(int8_t *p, i32x16 a) {
    int16x8_t low = vcombine_s16(vqmovn_s32(a.v[0]), vqmovn_s32(a.v[1]));
    int16x8_t high = vcombine_s16(vqmovn_s32(a.v[2]), vqmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
INLINE f32x16 power_of_two(i32x16 n) {
    f32x16 r;
    FOUR(r.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23)))
    return r;
}
INLINE f32x16 load_half(const uint16_t *p) {
    f32x16 r;
    FOUR(r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))))
    return r;
}
INLINE void store_half(uint16_t *p, f32x16 a) {
    FOUR(vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i]))))
}
INLINE float sum16(f32x16 a) {
    float32x4_t b = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    b = vpaddq_f32(b, b);
    return vgetq_lane_f32(vpaddq_f32(b, b), 0);
}
INLINE float largest16(f32x16 a) {
    float values[LANES];
    store(values, a);
    float most = values[0];
    for (int i = 1; i < LANES; i++) most = most > values[i] ? most : values[i];
    return most;
}
INLINE void sums_of(f32x16 *a, const int n, float *out) {
    UNROLL for (int i = 0; i < n; i++) out[i] = sum16(a[i]);
}
#undef FOUR

#else
#define ANY_PROCESSOR
#endif

#if defined(ANY_PROCESSOR)

typedef struct { float v[LANES]; } f32x16;
typedef struct { int32_t v[LANES]; } i32x16;

#define EACH(expression) \
    for (int i = 0; i < LANES; i++) { expression; }
INLINE f32x16 splat(float a) {
    f32x16 r;
    EACH(r.v[i] = a)
    return r;
}
INLINE f32x16 load_some(const float *p, size_t n) {
    f32x16 r = {{0}};
    memcpy(r.v, p, n * sizeof *p);
    return r;
}
INLINE void store_some(float *p, f32x16 a, size_t n) { memcpy(p, a.v, n * sizeof *p); }
INLINE f32x16 load(const float *p) { return load_some(p, LANES); }
INLINE void store(float *p, f32x16 a) { store_some(p, a, LANES); }
INLINE f32x16 add(f32x16 a, f32x16 b) {
    EACH(a.v[i] += b.v[i])
    return a;
}
INLINE f32x16 sub(f32x16 a, f32x16 b) {
    EACH(a.v[i] -= b.v[i])
    return a;
}
INLINE f32x16 mul(f32x16 a, f32x16 b) {
    EACH(a.v[i] *= b.v[i])
    return a;
}
INLINE f32x16 quotient(f32x16 a, f32x16 b) {
    EACH(a.v[i] /= b.v[i])
    return a;
}
INLINE f32x16 fma16(f32x16 a, f32x16 b, f32x16 c) {
    EACH(c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]))
    return c;
}
INLINE f32x16 larger(f32x16 a, f32x16 b) {
    EACH(a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i])
    return a;
}
INLINE f32x16 smaller(f32x16 a, f32x16 b) {
    EACH(a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i])
    return a;
}
INLINE f32x16 magnitude(f32x16 a) {
    EACH(a.v[i] = fabsf(a.v[i]))
    return a;
}
/* Integers beyond 32 bits, and NaN, become the least one, as on x86. */
INLINE i32x16 rounded(f32x16 a) {
    i32x16 r;
    EACH(float whole = nearbyintf(a.v[i]);
         r.v[i] = whole >= -2147483648.0f && whole < 2147483648.0f ? (int32_t)whole : INT32_MIN)
    return r;
}
INLINE f32x16 as_floats(i32x16 a) {
    f32x16 r;
    EACH(r.v[i] = (float)a.v[i])
    return r;
}
INLINE i32x16 load_ints(const int32_t *p) {
    i32x16 r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
INLINE void store_bytes(int8_t *p, i32x16 a) {
    EACH(int32_t b = a.v[i]; p[i] = (int8_t)(b < -128 ? -128 : b > 127 ? 127 : b))
}
INLINE f32x16 power_of_two(i32x16 n) {
    f32x16 r;
    EACH(uint32_t bits = ((uint32_t)n.v[i] + 127u) << 23; memcpy(&r.v[i], &bits, 4))
    return r;
}
INLINE float half_to_float(uint16_t h) {
    uint32_t exponent = h >> 10 & 31, mantissa = h & 1023, bits;
    float value;
    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f;
    } else {
        bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
        if (exponent == 31 && mantissa) bits |= 1u << 22; /* a signalling NaN becomes a quiet one */
        memcpy(&value, &bits, 4);
    }
    return h >> 15 ? -value : value;
}
INLINE uint16_t float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff));
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* beyond 65,504 after rounding */
    if (bits < 0x38800000) {                                  /* subnormal: units of 2^-24 */
        float scaled;
        memcpy(&scaled, &bits, 4);
        return (uint16_t)(sign | (uint16_t)nearbyintf(scaled * 0x1p24f));
    }
    bits += 0xfff + (bits >> 13 & 1); /* to the nearest, ties to even */
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}
INLINE f32x16 load_half(const uint16_t *p) {
    f32x16 r;
    EACH(r.v[i] = half_to_float(p[i]))
    return r;
}
INLINE void store_half(uint16_t *p, f32x16 a) { EACH(p[i] = float_to_half(a.v[i])) }
INLINE float sum16(f32x16 a) {
    for (int i = 0; i < 8; i++) a.v[i] += a.v[i + 8];
    for (int i = 0; i < 4; i++) a.v[i] += a.v[i + 4];
    return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
}
INLINE float largest16(f32x16 a) {
    float most = a.v[0];
    for (int i = 1; i < LANES; i++) most = most > a.v[i] ? most : a.v[i];
    return most;
}
INLINE void sums_of(f32x16 *a, const int n, float *out) {
    for (int i = 0; i < n; i++) out[i] = sum16(a[i]);
}
#undef EACH

#endif

INLINE f32x16 load_half_some(const uint16_t *p, size_t n) {
    uint16_t whole[LANES] = {0};
    memcpy(whole, p, n * sizeof *p);
    return load_half(whole);
}

/* exp(x), within 1 unit in the last place or so; 0 below -87.3, 2^127 or so above 88; NaN for NaN.
 * The series of 2^f on [-1/2, 1/2] after x = (n + f) ln 2, the split of ln 2 that of Cody and Waite
 * (1980). */
INLINE f32x16 exponential(f32x16 x) {
    x = larger(splat(-87.3f), x);
    x = smaller(splat(88.0f), x);
    i32x16 n = rounded(mul(x, splat(1.44269504f)));
    f32x16 whole = as_floats(n);
    f32x16 r = fma16(whole, splat(-0.693145752f), x);
    r = fma16(whole, splat(-1.42860677e-6f), r);
    f32x16 p = splat(1.0f / 5040);
    p = fma16(p, r, splat(1.0f / 720));
    p = fma16(p, r, splat(1.0f / 120));
    p = fma16(p, r, splat(1.0f / 24));
    p = fma16(p, r, splat(1.0f / 6));
    p = fma16(p, r, splat(0.5f));
    p = fma16(p, r, splat(1.0f));
    p = fma16(p, r, splat(1.0f));
    return mul(p, power_of_two(n));
}

#endif
