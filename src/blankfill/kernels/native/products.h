/* What the products share: the description of a matrix, numbers of 16 bits, and the pool of threads. */

#ifndef BLANKFILL_PRODUCTS_H
#define BLANKFILL_PRODUCTS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#define EACH(i, count) _Pragma("GCC unroll 4") for (int i = 0; i < (count); i++)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#if defined(__x86_64__)
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#endif

enum { FLOAT32, FLOAT16, BFLOAT16 };    /* types of numbers */
enum { PORTABLE, WITH_AVX2, WITH_AVX512 }; /* instructions; a larger number needs a newer processor */

/* Calls body(data, begin, end) for pieces of 0 … count, in the threads of the pool. */
typedef void (*Body)(void *data, int64_t begin, int64_t end);
void share(Body body, void *data, int64_t count, int64_t grain);

/* A matrix of integers with scales, as it is stored; see integer_products.c. */
typedef struct {
    const int8_t *weight;
    const void *scale, *zero;
    const float *bias;
    int64_t outputs, inputs;
    int32_t bits, group, scale_type, path;
} Matrix;

/* Computes rows [rows, inputs] of a type → out [rows, outputs] of the same type. Returns 0, or 1 without memory. */
int integer_product(const Matrix *matrix, const void *x, void *out, int type, int64_t rows);

/* A matrix of numbers of a type. */
typedef struct {
    const void *weight;
    const float *bias;
    int64_t outputs, inputs, row_bytes;
    int32_t type, path;
} Floats;

int float_product(const Floats *matrix, const void *x, void *out, int type, int64_t rows);

#if defined(__x86_64__)

/* Sums across vectors, all in one order: lanes k and k + 8, then k + 4, then k + 2, then k + 1. Here the first two. */
AVX512 INLINE __m512 four_totals(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

/* The sum of each of sixteen vectors; lane 4 k + j is that of x[j][k]. */
AVX512 INLINE __m512 sixteen_totals(__m512 x[4][4])
{
    __m512 row[4];
    EACH(j, 4)
        row[j] = four_totals(x[j][0], x[j][1], x[j][2], x[j][3]);
    __m512 low = _mm512_unpacklo_ps(row[0], row[1]), high = _mm512_unpackhi_ps(row[0], row[1]);
    __m512 low2 = _mm512_unpacklo_ps(row[2], row[3]), high2 = _mm512_unpackhi_ps(row[2], row[3]);
    __m512 first = _mm512_shuffle_ps(low, low2, 0x44), second = _mm512_shuffle_ps(low, low2, 0xee);
    __m512 third = _mm512_shuffle_ps(high, high2, 0x44), fourth = _mm512_shuffle_ps(high, high2, 0xee);
    return _mm512_add_ps(_mm512_add_ps(first, third), _mm512_add_ps(second, fourth));
}

#endif

INLINE float of_bits(uint32_t bits)
{
    float made;
    memcpy(&made, &bits, 4);
    return made;
}

INLINE uint32_t bits_of(float x)
{
    uint32_t made;
    memcpy(&made, &x, 4);
    return made;
}

INLINE float from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00)
        return of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x400)
        return of_bits(sign | ((rest << 13) + (112u << 23)));
    float made = (float)rest * 0x1p-24f;
    return sign ? -made : made;
}

INLINE uint16_t to_half(float x) /* rounds to nearest, half to even */
{
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00;
    if (bits >= 0x477ff000) /* 65520, and infinity */
        return sign | 0x7c00;
    if (bits < 0x38800000) /* below 2^-14: the unit is 2^-24 */
        return sign | (uint16_t)(bits_of(of_bits(bits) + 0.5f) - 0x3f000000);
    return sign | (uint16_t)((bits + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

INLINE float from_bfloat(uint16_t x)
{
    return of_bits((uint32_t)x << 16);
}

INLINE uint16_t to_bfloat(float x)
{
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (bits >> 16) | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* x may have any address: a tensor in a mapped file can lie anywhere. */
INLINE float number_at(const void *x, int type, int64_t at)
{
    if (type == FLOAT32) {
        float made;
        memcpy(&made, (const char *)x + 4 * at, 4);
        return made;
    }
    uint16_t half;
    memcpy(&half, (const char *)x + 2 * at, 2);
    return type == BFLOAT16 ? from_bfloat(half) : from_half(half);
}

INLINE void put_number(void *x, int type, int64_t at, float value)
{
    if (type == FLOAT32)
        ((float *)x)[at] = value;
    else
        ((uint16_t *)x)[at] = type == BFLOAT16 ? to_bfloat(value) : to_half(value);
}

INLINE const void *from(const void *x, int type, int64_t at)
{
    return (const char *)x + at * (type == FLOAT32 ? 4 : 2);
}

/* Converts numbers to fp32; with_f16c: the function that this is part of may use the instructions for fp16. */
#if defined(__x86_64__)
__attribute__((target("avx2,f16c"), unused)) static void widen_halves(const uint16_t *x, float *out, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
    for (; i < count; i++)
        out[i] = from_half(x[i]);
}
#endif

INLINE void widen(const void *x, int type, float *out, int64_t count, int path)
{
    (void)path;
    if (type == FLOAT32) {
        memcpy(out, x, 4 * count);
    } else if (type == BFLOAT16) {
        const uint16_t *half = x;
        for (int64_t i = 0; i < count; i++)
            out[i] = from_bfloat(half[i]);
    } else {
        const uint16_t *half = x;
#if defined(__x86_64__)
        if (path != PORTABLE) {
            widen_halves(half, out, count);
            return;
        }
#endif
        for (int64_t i = 0; i < count; i++)
            out[i] = from_half(half[i]);
    }
}

#endif
