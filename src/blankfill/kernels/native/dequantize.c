/* The numbers of a matrix of integers, scale · (q + zero), each rounded once to a type: those of kernels/integers.py. */

#include "products.h"

enum { AT_ONCE = 256 }; /* integers of 8 bits whose numbers are computed before they are rounded */

typedef struct {
    const Matrix *matrix;
    int64_t first;
    char *out;
    int type;
} Numbers;

INLINE void put_numbers(void *out, int type, int64_t at, const float *x, int64_t count)
{
    if (type == FLOAT32)
        memcpy((float *)out + at, x, 4 * count);
    else if (type == BFLOAT16)
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits = bits_of(x[i]), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            ((uint16_t *)out)[at + i] = (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded;
        }
    else
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)out)[at + i] = to_half(x[i]);
}

INLINE void bytes_of(const int8_t *weight, float scale, float zero, void *out, int type, int64_t at, int64_t count)
{
    float wide[AT_ONCE];
    for (int64_t i = 0; i < count; i += AT_ONCE) {
        int64_t some = MIN(AT_ONCE, count - i);
        for (int64_t k = 0; k < some; k++)
            wide[k] = ((float)weight[i + k] + zero) * scale;
        put_numbers(out, type, at + i, wide, some);
    }
}

/* The sixteen numbers of a group of 4 bits, in the order of the bits. */
INLINE void sixteen_of(float scale, float zero, void *table, int type)
{
    static const float whole[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    float wide[16];
    for (int k = 0; k < 16; k++)
        wide[k] = (whole[k] + zero) * scale;
    put_numbers(table, type, 0, wide, 16);
}

INLINE void nibbles_of(const uint8_t *weight, const void *table, void *out, int type, int64_t at, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++) {
        if (type == FLOAT32) {
            float *into = (float *)out + at + 2 * i;
            into[0] = ((const float *)table)[weight[i] >> 4];
            into[1] = ((const float *)table)[weight[i] & 15];
        } else {
            uint16_t *into = (uint16_t *)out + at + 2 * i;
            into[0] = ((const uint16_t *)table)[weight[i] >> 4];
            into[1] = ((const uint16_t *)table)[weight[i] & 15];
        }
    }
}

#if defined(__x86_64__)
AVX512 INLINE void sixteen_of_avx512(float scale, float zero, void *table, int type)
{
    const __m512 whole = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    __m512 made = _mm512_mul_ps(_mm512_add_ps(whole, _mm512_set1_ps(zero)), _mm512_set1_ps(scale));
    if (type == FLOAT32) {
        _mm512_storeu_ps(table, made);
    } else if (type == FLOAT16) {
        _mm256_storeu_si256(table, _mm512_cvtps_ph(made, _MM_FROUND_TO_NEAREST_INT));
    } else { /* rounds to nearest, half to even */
        __m512i bits = _mm512_castps_si512(made), even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        __mmask16 unordered = _mm512_cmp_ps_mask(made, made, _CMP_UNORD_Q);
        rounded = _mm512_mask_or_epi32(rounded, unordered, bits, _mm512_set1_epi32(0x400000));
        _mm256_storeu_si256(table, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
    }
}

AVX512 INLINE void nibbles_of_avx512(
    const uint8_t *weight, const void *table, void *out, int type, int64_t at, int64_t bytes)
{
    const __m128i nibble = _mm_set1_epi8(15);
    int64_t i = 0;
    for (; i + 16 <= bytes; i += 16) {
        __m128i w = _mm_loadu_si128((const __m128i *)(weight + i));
        __m128i even = _mm_and_si128(_mm_srli_epi16(w, 4), nibble), odd = _mm_and_si128(w, nibble);
        __m128i low = _mm_unpacklo_epi8(even, odd), high = _mm_unpackhi_epi8(even, odd);
        if (type == FLOAT32) {
            float *into = (float *)out + at + 2 * i;
            const __m512 all = _mm512_loadu_ps(table);
            _mm512_storeu_ps(into, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(low), all));
            _mm512_storeu_ps(into + 16, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(high), all));
        } else {
            const __m512i all = _mm512_castsi256_si512(_mm256_loadu_si256(table));
            __m512i chosen = _mm512_cvtepu8_epi16(_mm256_set_m128i(high, low));
            _mm512_storeu_si512((uint16_t *)out + at + 2 * i, _mm512_permutexvar_epi16(chosen, all));
        }
    }
    nibbles_of(weight + i, table, out, type, at + 2 * i, bytes - i);
}
#endif

#define NUMBERS(NAME, TARGET, SIXTEEN, NIBBLES)                                                                        \
    TARGET static void NAME(void *given, int64_t begin, int64_t end)                                                   \
    {                                                                                                                  \
        const Numbers *job = given;                                                                                    \
        const Matrix *matrix = job->matrix;                                                                            \
        int64_t inputs = matrix->inputs, groups = matrix->group ? inputs / matrix->group : 1, each = inputs / groups;  \
        for (int64_t row = begin; row < end; row++)                                                                    \
            for (int64_t g = 0; g < groups; g++) {                                                                     \
                int64_t from = (job->first + row) * groups + g, at = row * inputs + g * each;                          \
                float scale = number_at(matrix->scale, matrix->scale_type, from), table[16];                           \
                float zero = matrix->zero ? number_at(matrix->zero, matrix->scale_type, from) : 0.0f;                  \
                const int8_t *weight = matrix->weight + from * each * matrix->bits / 8;                                \
                if (matrix->bits == 4) {                                                                               \
                    SIXTEEN(scale, zero, table, job->type);                                                            \
                    NIBBLES((const uint8_t *)weight, table, job->out, job->type, at, each / 2);                        \
                } else if (job->type == BFLOAT16) {                                                                    \
                    bytes_of(weight, scale, zero, job->out, BFLOAT16, at, each);                                       \
                } else if (job->type == FLOAT32) {                                                                     \
                    bytes_of(weight, scale, zero, job->out, FLOAT32, at, each);                                        \
                } else {                                                                                               \
                    bytes_of(weight, scale, zero, job->out, FLOAT16, at, each);                                        \
                }                                                                                                      \
            }                                                                                                          \
    }

NUMBERS(numbers_portable, , sixteen_of, nibbles_of)
#if defined(__x86_64__)
NUMBERS(numbers_avx2, AVX2, sixteen_of, nibbles_of)
NUMBERS(numbers_avx512, AVX512, sixteen_of_avx512, nibbles_of_avx512)
#endif

/* Writes the numbers of rows first … first + rows of a matrix, [rows, inputs] of a type. */
void dequantized_rows(const Matrix *matrix, int64_t first, int64_t rows, void *out, int type)
{
    Numbers job = {matrix, first, out, type};
    Body body = numbers_portable;
#if defined(__x86_64__)
    if (matrix->path == WITH_AVX512)
        body = numbers_avx512;
    else if (matrix->path == WITH_AVX2)
        body = numbers_avx2;
#endif
    int64_t grain = 1 + (32 << 10) / matrix->inputs;
    share(body, &job, rows, (grain + 3) / 4 * 4);
}
