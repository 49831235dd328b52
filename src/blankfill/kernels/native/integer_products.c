/* Products of a few rows with a matrix of integers of 8 or 4 bits and scales.

   y = x W', W = scale · (q + zero). The matrix stays as it is stored, row by row, so that nothing is packed at load, and
   a file can be mapped. The weights are exact; the activations are rounded to integers of 16 bits with a scale for each
   segment of inputs (a group of scales, or at most 256 inputs), so that products are sums of integers, which are exact.

   AVX-512: the 16 bits are two digits of 8, x = 256 · high + low, for `vpdpbusd`, which takes unsigned weights: q + 128
   or q + 8. What that adds is subtracted in the sums (`first`). AVX2: 16-bit `vpmaddwd`; `vpmaddubsw` would saturate.

   The order of every sum depends on the matrix alone, not on the number of threads or rows. */

#include "products.h"

/* Inputs of a segment; integer of an activation, 127 · 256; rows whose digits are in memory at a time. */
enum { LONGEST = 256, LARGEST = 32512, MOST_ROWS = 32 };

/* A product under way. Sizes are those of a row. */
typedef struct {
    const Matrix *matrix;
    int64_t rows, row_bytes, segment, segments, groups;
    int64_t vectors, unit_vectors, units, splits; /* AVX-512: of 64 bytes; segments that share one: splits */
    int64_t padded;                               /* inputs with padding */
    int8_t *digits;                               /* AVX-512: [rows][vectors][2 · bytes of inputs] */
    int16_t *values;                              /* others: [rows][padded]; of 4 bits: even inputs, then odd ones */
    int32_t *first;                               /* AVX-512: [rows][units][16] */
    float *scales, *sums;                         /* of activations: [rows][segments + 16] */
    void *out;
    int out_type, failed;                         /* failed: there was no memory */
} Job;

/* Rounds a row of activations to 16 bits: values [padded], scales and sums of its segments. */
INLINE void round_row(const Job *job, const float *x, int32_t *values, float *scales, float *sums)
{
    int64_t inputs = job->matrix->inputs;
    for (int64_t s = 0; s < job->segments; s++) {
        int64_t begin = s * job->segment, end = MIN(begin + job->segment, inputs);
        int32_t largest = 0;
        for (int64_t i = begin; i < end; i++) {
            int32_t bits = (int32_t)(bits_of(x[i]) & 0x7fffffff);
            largest = bits > largest ? bits : largest;
        }
        float top = of_bits((uint32_t)largest);
        if (!(top > 1e-30f && top <= 3.4028235e38f)) { /* nothing but zeros, or not finite: then the result is NaN */
            for (int64_t i = begin; i < end; i++)
                values[i] = 0;
            scales[s] = top <= 1e-30f ? 0.0f : NAN;
            sums[s] = scales[s];
            continue;
        }
        float inverse = LARGEST / top;
        int32_t sum = 0;
        for (int64_t i = begin; i < end; i++) {
            float shifted = x[i] * inverse + 0x1.8p23f; /* the last bits of the sum are the rounded integer */
            values[i] = (int32_t)bits_of(shifted) - 0x4b400000;
            sum += values[i];
        }
        scales[s] = top / LARGEST;
        sums[s] = scales[s] * (float)sum;
    }
    for (int64_t i = inputs; i < job->padded; i++)
        values[i] = 0;
    for (int64_t s = job->segments; s < job->segments + 16; s++)
        scales[s] = sums[s] = 0;
}

/* The factors of the sums of an output's segments, [rows][segments + 16], where groups have scales; and what the zero
   points add, [rows], `apart` numbers from one to the next. */
INLINE void factors_of(const Job *job, int64_t output, float *factors, float *added, int64_t apart)
{
    const Matrix *matrix = job->matrix;
    int64_t width = job->segments + 16, each = matrix->group ? matrix->group / job->segment : job->segments;
    for (int64_t r = 0; r < job->rows; r++)
        added[r * apart] = 0;
    for (int64_t s = 0; s < job->segments; s++) {
        int64_t at = output * job->groups + s / each;
        float scale = matrix->group ? number_at(matrix->scale, matrix->scale_type, at) : 1.0f;
        float zero = matrix->zero ? scale * number_at(matrix->zero, matrix->scale_type, at) : 0.0f;
        for (int64_t r = 0; r < job->rows; r++) {
            factors[r * width + s] = scale * job->scales[r * width + s];
            added[r * apart] += zero * job->sums[r * width + s];
        }
    }
}

INLINE void finish(const Job *job, int64_t output, int64_t row, float sum, float added)
{
    const Matrix *matrix = job->matrix;
    float made = sum + added;
    if (!matrix->group)
        made *= number_at(matrix->scale, matrix->scale_type, output);
    if (matrix->bias)
        made += matrix->bias[output];
    put_number(job->out, job->out_type, row * matrix->outputs + output, made);
}

/* Portable */

INLINE float sum_portable(const Job *job, const int8_t *weight, const int16_t *x, const float *factors)
{
    float made = 0;
    int bits = job->matrix->bits;
    int64_t bytes = job->segment * bits / 8, odd = job->padded / 2;
    for (int64_t s = 0; s < job->segments; s++) {
        int64_t begin = s * bytes, end = MIN(begin + bytes, job->row_bytes);
        int32_t sum = 0;
        if (bits == 8)
            for (int64_t i = begin; i < end; i++)
                sum += weight[i] * x[i];
        else
            for (int64_t i = begin; i < end; i++)
                sum += (weight[i] >> 4) * x[i] + ((int8_t)(uint8_t)((uint8_t)weight[i] << 4) >> 4) * x[odd + i];
        made += factors[s] * (float)sum;
    }
    return made;
}

/* Returns zeros, or NULL without memory. */
static float *factors_space(Job *job, int64_t count)
{
    float *space = calloc(count, sizeof(float));
    if (!space)
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return space;
}

static void portable(void *given, int64_t begin, int64_t end)
{
    const Job *job = given;
    int64_t width = job->segments + 16;
    float *factors = factors_space(given, job->rows * (width + 1)), *added = factors + job->rows * width;
    if (!factors)
        return;
    for (int64_t o = begin; o < end; o++) {
        factors_of(job, o, factors, added, 1);
        for (int64_t r = 0; r < job->rows; r++) {
            float sum = sum_portable(
                job, job->matrix->weight + o * job->row_bytes, job->values + r * job->padded, factors + r * width);
            finish(job, o, r, sum, added[r]);
        }
    }
    free(factors);
}

#if defined(__x86_64__)

/* Fetches what will be read, in the order of the addresses, which is twice as fast as in the order of its use, and to
   the second cache, which waits for more lines at a time than the first. at: bytes of each of four rows that were read. */
INLINE void fetch(const Job *job, const int8_t *const *weight, int64_t at)
{
    const char *from = (const char *)weight[0] + 4096 + 4 * job->row_bytes + 4 * at;
    EACH(line, 4)
        _mm_prefetch(from + 64 * line, _MM_HINT_T1);
}

/* The rows of four outputs; after the last output it stands for the others too. */
INLINE void four_rows(const Job *job, int64_t output, int64_t count, const int8_t *weight[4])
{
    for (int o = 0; o < 4; o++)
        weight[o] = job->matrix->weight + (output + MIN(o, count - 1)) * job->row_bytes;
}

AVX2 INLINE float sum_of_8(__m256 x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

AVX2 INLINE __m128 four_sums(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

AVX2 INLINE __m128 four_numbers(const void *x, int type, int64_t at)
{
    if (type == FLOAT32)
        return _mm_loadu_ps((const float *)x + at);
    __m128i half = _mm_loadl_epi64((const __m128i *)((const uint16_t *)x + at));
    if (type == FLOAT16)
        return _mm_cvtph_ps(half);
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16));
}

AVX2 INLINE __m128i four_bfloats(__m128 x) /* rounds to nearest, half to even */
{
    __m128i bits = _mm_castps_si128(x), even = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
    __m128i rounded = _mm_add_epi32(bits, _mm_add_epi32(even, _mm_set1_epi32(0x7fff)));
    __m128i quiet = _mm_or_si128(bits, _mm_set1_epi32(0x400000));
    rounded = _mm_blendv_epi8(rounded, quiet, _mm_castps_si128(_mm_cmpunord_ps(x, x)));
    return _mm_packus_epi32(_mm_srli_epi32(rounded, 16), _mm_setzero_si128());
}

AVX2 INLINE __m256 eight_numbers(const void *x, int type, int64_t at)
{
    if (type == FLOAT32)
        return _mm256_loadu_ps((const float *)x + at);
    __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + at));
    if (type == FLOAT16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* What `factors_of` computes, where each segment has a scale, eight segments at a time;
   added: [rows][4], of which this output is one. */
AVX2 INLINE void eight_factors_of(const Job *job, int64_t output, float *factors, float *added)
{
    const Matrix *matrix = job->matrix;
    int64_t width = job->segments + 16, at = output * job->groups, left = (matrix->outputs - output) * job->groups;
    if (matrix->group != job->segment || left < job->segments + 8) { /* the last outputs, whose ends cannot be read */
        factors_of(job, output, factors, added, 4);
        return;
    }
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int64_t r = 0; r < job->rows; r++)
        added[4 * r] = 0;
    for (int64_t s = 0; s < job->segments; s += 8) {
        __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(job->segments - s)), lanes);
        __m256 mask = _mm256_castsi256_ps(inside);
        __m256 scale = _mm256_and_ps(mask, eight_numbers(matrix->scale, matrix->scale_type, at + s));
        for (int64_t r = 0; r < job->rows; r++) {
            __m256 x = _mm256_loadu_ps(job->scales + r * width + s);
            _mm256_storeu_ps(factors + r * width + s, _mm256_mul_ps(scale, x));
        }
        if (matrix->zero) {
            __m256 zero = _mm256_and_ps(mask, eight_numbers(matrix->zero, matrix->scale_type, at + s));
            zero = _mm256_mul_ps(zero, scale);
            for (int64_t r = 0; r < job->rows; r++) {
                __m256 sum = _mm256_mul_ps(zero, _mm256_loadu_ps(job->sums + r * width + s));
                added[4 * r] += sum_of_8(sum);
            }
        }
    }
}

/* The same for some of four outputs: factors [4][rows][segments + 16], added [rows][4]. */
AVX2 INLINE void factors_avx2(const Job *job, int64_t output, int64_t count, float *factors, float *added)
{
    for (int64_t k = 0; k < count; k++)
        eight_factors_of(job, output + k, factors + k * job->rows * (job->segments + 16), added + k);
}

/* Writes the results of four outputs, or fewer, of a row. */
AVX2 INLINE void put_four(const Job *job, int64_t output, int64_t count, int64_t row, __m128 sums, __m128 added)
{
    const Matrix *matrix = job->matrix;
    __m128 made = _mm_add_ps(sums, added);
    int64_t at = row * matrix->outputs + output;
    if (count < 4) {
        float each[4];
        _mm_storeu_ps(each, made);
        for (int64_t o = 0; o < count; o++) {
            if (!matrix->group)
                each[o] *= number_at(matrix->scale, matrix->scale_type, output + o);
            if (matrix->bias)
                each[o] += matrix->bias[output + o];
            put_number(job->out, job->out_type, at + o, each[o]);
        }
        return;
    }
    if (!matrix->group)
        made = _mm_mul_ps(made, four_numbers(matrix->scale, matrix->scale_type, output));
    if (matrix->bias)
        made = _mm_add_ps(made, _mm_loadu_ps(matrix->bias + output));
    if (job->out_type == FLOAT32)
        _mm_storeu_ps((float *)job->out + at, made);
    else if (job->out_type == BFLOAT16)
        _mm_storel_epi64((__m128i *)((uint16_t *)job->out + at), four_bfloats(made));
    else
        _mm_storel_epi64((__m128i *)((uint16_t *)job->out + at), _mm_cvtps_ph(made, _MM_FROUND_TO_NEAREST_INT));
}

/* AVX2: the sums of four outputs and one or two rows. Segments are multiples of 32 inputs, except the last one. */
AVX2 INLINE void tile_avx2(
    const Job *job, int64_t output, int64_t count, int64_t row, const float *factors, int64_t apart, const float *added,
    const int rows, const int bits)
{
    int64_t width = job->segments + 16, per_vector = bits == 8 ? 16 : 32, odd = job->padded / 2;
    int64_t whole = job->row_bytes / 16, vectors = (job->row_bytes + 15) / 16, each = job->segment / per_vector;
    const int8_t *weight[4];
    const int16_t *x = job->values + row * job->padded;
    __m256 made[4][2];
    four_rows(job, output, count, weight);
    EACH(o, 4)
        EACH(r, rows)
            made[o][r] = _mm256_setzero_ps();
    int64_t v = 0;
    for (int64_t s = 0; s < job->segments; s++) {
        __m256i sum[4][2];
        EACH(o, 4)
            EACH(r, rows)
                sum[o][r] = _mm256_setzero_si256();
        for (int64_t end = MIN(v + each, vectors); v < end; v++) {
            if (v % 4 == 0)
                fetch(job, weight, 16 * v);
            EACH(o, 4) {
                __m128i stored;
                const int8_t *at = weight[o] + 16 * v;
                if (v < whole) {
                    stored = _mm_loadu_si128((const __m128i *)at);
                } else {
                    int8_t rest[16] = {0};
                    memcpy(rest, at, job->row_bytes - 16 * whole);
                    stored = _mm_loadu_si128((const __m128i *)rest);
                }
                __m256i w = _mm256_cvtepi8_epi16(stored), even = w, low = w;
                if (bits == 4) {
                    even = _mm256_srai_epi16(w, 4);
                    low = _mm256_srai_epi16(_mm256_slli_epi16(w, 12), 12);
                }
                EACH(r, rows) {
                    const int16_t *values = x + r * job->padded + 16 * v;
                    __m256i product = _mm256_madd_epi16(even, _mm256_loadu_si256((const __m256i *)values));
                    sum[o][r] = _mm256_add_epi32(sum[o][r], product);
                    if (bits == 4) {
                        product = _mm256_madd_epi16(low, _mm256_loadu_si256((const __m256i *)(values + odd)));
                        sum[o][r] = _mm256_add_epi32(sum[o][r], product);
                    }
                }
            }
        }
        EACH(o, 4)
            EACH(r, rows) {
                __m256 factor = _mm256_set1_ps(factors[o * apart + r * width + s]);
                made[o][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[o][r]), factor, made[o][r]);
            }
    }
    EACH(r, rows)
        put_four(
            job, output, count, row + r, four_sums(made[0][r], made[1][r], made[2][r], made[3][r]),
            _mm_loadu_ps(added + 4 * (row + r)));
}

/* AVX-512 with VNNI */

typedef __m512i Sums[4][2];

AVX512 INLINE void add_vector(
    const Job *job, Sums high, Sums low, const int8_t *const *weight, int64_t at, const int8_t *digits,
    int64_t row_digits, __mmask64 mask, const int masked, const int rows, const int bits)
{
    const __m512i nibble = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8), top = _mm512_set1_epi8((char)0x80);
    fetch(job, weight, at);
    EACH(o, 4) {
        const int8_t *from = weight[o] + at;
        __m512i w = masked ? _mm512_maskz_loadu_epi8(mask, from) : _mm512_loadu_si512(from);
        if (bits == 8) {
            w = _mm512_xor_si512(w, top);
            EACH(r, rows) {
                const int8_t *x = digits + r * row_digits + 2 * at;
                high[o][r] = _mm512_dpbusd_epi32(high[o][r], w, _mm512_load_si512(x));
                low[o][r] = _mm512_dpbusd_epi32(low[o][r], w, _mm512_load_si512(x + 64));
            }
        } else { /* (w & 15) ^ 8 */
            __m512i even = _mm512_ternarylogic_epi32(_mm512_srli_epi16(w, 4), nibble, eight, 0x6a);
            __m512i odd = _mm512_ternarylogic_epi32(w, nibble, eight, 0x6a);
            EACH(r, rows) {
                const int8_t *x = digits + r * row_digits + 4 * at;
                high[o][r] = _mm512_dpbusd_epi32(high[o][r], even, _mm512_load_si512(x));
                low[o][r] = _mm512_dpbusd_epi32(low[o][r], even, _mm512_load_si512(x + 64));
                high[o][r] = _mm512_dpbusd_epi32(high[o][r], odd, _mm512_load_si512(x + 128));
                low[o][r] = _mm512_dpbusd_epi32(low[o][r], odd, _mm512_load_si512(x + 192));
            }
        }
    }
}

AVX512 INLINE __m256 half_of(__m512 x)
{
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}

AVX512 INLINE __m512 sixteen_numbers(const void *x, int type, int64_t at, __mmask16 mask)
{
    if (type == FLOAT32)
        return _mm512_maskz_loadu_ps(mask, (const float *)x + at);
    __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + at);
    if (type == FLOAT16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* What `factors_avx2` computes, sixteen segments at a time. */
AVX512 INLINE void factors_avx512(const Job *job, int64_t output, int64_t count, float *factors, float *added)
{
    const Matrix *matrix = job->matrix;
    const int64_t width = job->segments + 16;
    if (matrix->group != job->segment) {
        for (int64_t k = 0; k < count; k++)
            factors_of(job, output + k, factors + k * job->rows * width, added + k, 4);
        return;
    }
    for (int64_t r = 0; r < job->rows; r++) {
        __m512 zeros[4];
        EACH(k, 4)
            zeros[k] = _mm512_setzero_ps();
        for (int64_t s = 0; s < job->segments; s += 16) {
            const __mmask16 mask = (__mmask16)((1u << MIN(16, job->segments - s)) - 1);
            const __m512 x = _mm512_loadu_ps(job->scales + r * width + s);
            const __m512 sum = _mm512_loadu_ps(job->sums + r * width + s);
            EACH(k, 4) { /* after the last output it stands for the others too */
                const int64_t at = (output + MIN(k, count - 1)) * job->groups + s;
                __m512 scale = sixteen_numbers(matrix->scale, matrix->scale_type, at, mask);
                _mm512_storeu_ps(factors + (k * job->rows + r) * width + s, _mm512_mul_ps(scale, x));
                if (matrix->zero) {
                    __m512 zero = sixteen_numbers(matrix->zero, matrix->scale_type, at, mask);
                    zeros[k] = _mm512_fmadd_ps(_mm512_mul_ps(zero, scale), sum, zeros[k]);
                }
            }
        }
        _mm_storeu_ps(
            added + 4 * r, four_sums(half_of(zeros[0]), half_of(zeros[1]), half_of(zeros[2]), half_of(zeros[3])));
    }
}

AVX512 INLINE void tile_avx512(
    const Job *job, int64_t output, int64_t count, int64_t row, const float *factors, int64_t apart, const float *added,
    const int rows, const int bits)
{
    const int64_t width = job->segments + 16, splits = job->splits, unit_bytes = 64 * job->unit_vectors;
    const int64_t row_digits = job->vectors * (bits == 8 ? 128 : 256), row_first = job->units * 16;
    const int64_t whole = job->row_bytes / 64 * 64;
    const int8_t *digits = job->digits + row * row_digits, *weight[4];
    const int32_t *first = job->first + row * row_first;
    const __mmask64 mask = (1ull << job->row_bytes % 64) - 1;
    const __m512i lanes = _mm512_srli_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), splits == 4 ? 2 : 3);
    __m512 made[4][2];
    four_rows(job, output, count, weight);
    EACH(o, 4)
        EACH(r, rows)
            made[o][r] = _mm512_setzero_ps();
    int64_t at = 0;
    for (int64_t u = 0; u < job->units; u++) {
        Sums high, low;
        EACH(o, 4)
            EACH(r, rows) {
                high[o][r] = _mm512_setzero_si512();
                low[o][r] = _mm512_loadu_si512(first + r * row_first + 16 * u);
            }
        if (unit_bytes == 64 && at < whole) {
            add_vector(job, high, low, weight, at, digits, row_digits, mask, 0, rows, bits);
            at += 64;
        } else {
            for (int64_t end = MIN(at + unit_bytes, whole); at < end; at += 64)
                add_vector(job, high, low, weight, at, digits, row_digits, mask, 0, rows, bits);
        }
        if (mask && u + 1 == job->units)
            add_vector(job, high, low, weight, whole, digits, row_digits, mask, 1, rows, bits);
        EACH(o, 4)
            EACH(r, rows) {
                const float *from = factors + o * apart + r * width + u * splits;
                __m512 factor = splits == 1 ? _mm512_set1_ps(*from) : _mm512_permutexvar_ps(lanes, _mm512_loadu_ps(from));
                __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[o][r], 8), low[o][r]);
                made[o][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, made[o][r]);
            }
    }
    EACH(r, rows)
        put_four(
            job, output, count, row + r,
            four_sums(half_of(made[0][r]), half_of(made[1][r]), half_of(made[2][r]), half_of(made[3][r])),
            _mm_loadu_ps(added + 4 * (row + r)));
}

/* Outputs begin … end of all rows, four outputs and two rows at a time. */
#define TILES(NAME, TARGET, FACTORS, TILE, BITS)                                                                       \
    TARGET static void NAME(void *given, int64_t begin, int64_t end)                                                   \
    {                                                                                                                  \
        const Job *job = given;                                                                                        \
        const int64_t width = job->segments + 16, rows = job->rows, each = rows * width;                               \
        const int plain = !job->matrix->group && !job->matrix->zero;                                                   \
        float *space = factors_space(given, 4 * (each + rows)), *added = space + 4 * each;                             \
        if (!space)                                                                                                    \
            return;                                                                                                    \
        const float *factors = job->matrix->group ? space : job->scales;                                               \
        const int64_t apart = job->matrix->group ? each : 0;                                                           \
        for (int64_t o = begin; o < end; o += 4) {                                                                     \
            const int64_t count = MIN(4, end - o);                                                                     \
            if (!plain)                                                                                                \
                FACTORS(job, o, count, space, added);                                                                  \
            for (int64_t r = 0; r < rows; r += 2)                                                                      \
                if (r + 1 < rows)                                                                                      \
                    TILE(job, o, count, r, factors + r * width, apart, added, 2, BITS);                                \
                else                                                                                                   \
                    TILE(job, o, count, r, factors + r * width, apart, added, 1, BITS);                                \
        }                                                                                                              \
        free(space);                                                                                                   \
    }

TILES(avx2_of_8, AVX2, factors_avx2, tile_avx2, 8)
TILES(avx2_of_4, AVX2, factors_avx2, tile_avx2, 4)
TILES(avx512_of_8, AVX512, factors_avx512, tile_avx512, 8)
TILES(avx512_of_4, AVX512, factors_avx512, tile_avx512, 4)

#endif

/* Activations */

INLINE void put_digits(const Job *job, const int32_t *values, int64_t row)
{
    int bits = job->matrix->bits;
    int32_t offset = bits == 8 ? 128 : 8;
    int64_t per_vector = bits == 8 ? 64 : 128, per_lane = per_vector / 16;
    int8_t *out = job->digits + row * job->vectors * 2 * per_vector;
    int32_t *first = job->first + row * job->units * 16;
    memset(first, 0, sizeof(int32_t) * job->units * 16);
    for (int64_t v = 0; v < job->vectors; v++) {
        const int32_t *x = values + v * per_vector;
        int32_t *into = first + v / job->unit_vectors * 16;
        if (bits == 8)
            for (int i = 0; i < 64; i++) {
                int32_t high = (x[i] + 128) >> 8;
                out[128 * v + i] = (int8_t)high;
                out[128 * v + 64 + i] = (int8_t)(x[i] - high * 256);
            }
        else
            for (int i = 0; i < 64; i++) {
                int32_t even = (x[2 * i] + 128) >> 8, odd = (x[2 * i + 1] + 128) >> 8;
                out[256 * v + i] = (int8_t)even;
                out[256 * v + 64 + i] = (int8_t)(x[2 * i] - even * 256);
                out[256 * v + 128 + i] = (int8_t)odd;
                out[256 * v + 192 + i] = (int8_t)(x[2 * i + 1] - odd * 256);
            }
        for (int lane = 0; lane < 16; lane++) {
            int32_t sum = 0;
            for (int i = 0; i < per_lane; i++)
                sum += x[lane * per_lane + i];
            into[lane] -= offset * sum;
        }
    }
}

INLINE void put_values(const Job *job, const int32_t *values, int64_t row)
{
    int16_t *out = job->values + row * job->padded;
    int64_t half = job->padded / 2;
    if (job->matrix->bits == 8)
        for (int64_t i = 0; i < job->padded; i++)
            out[i] = (int16_t)values[i];
    else
        for (int64_t i = 0; i < half; i++) {
            out[i] = (int16_t)values[2 * i];
            out[half + i] = (int16_t)values[2 * i + 1];
        }
}

#define ROUNDING(NAME, TARGET, PUT)                                                                                    \
    TARGET static void NAME(const Job *job, const void *x, int type, float *wide, int32_t *values)                     \
    {                                                                                                                  \
        const Matrix *matrix = job->matrix;                                                                            \
        int64_t width = job->segments + 16;                                                                            \
        for (int64_t r = 0; r < job->rows; r++) {                                                                      \
            widen(from(x, type, r * matrix->inputs), type, wide, matrix->inputs, matrix->path);                        \
            round_row(job, wide, values, job->scales + r * width, job->sums + r * width);                              \
            PUT(job, values, r);                                                                                       \
        }                                                                                                              \
    }

ROUNDING(round_portable, , put_values)
#if defined(__x86_64__)
ROUNDING(round_avx2, AVX2, put_values)
ROUNDING(round_avx512, AVX512, put_digits)
#endif

static int product_of_some(const Matrix *matrix, const void *x, void *out, int type, int64_t rows)
{
    Job job = {.matrix = matrix, .rows = rows, .out = out, .out_type = type};
    int wide_path = matrix->path == WITH_AVX512, bits = matrix->bits;
    int64_t inputs = matrix->inputs, per_vector = bits == 8 ? 64 : 128;
    job.row_bytes = inputs * bits / 8;
    job.groups = matrix->group ? inputs / matrix->group : 1;
    job.segment = !matrix->group || matrix->group % LONGEST == 0 ? LONGEST : MIN(matrix->group, 128);
    job.segments = (inputs + job.segment - 1) / job.segment;
    job.vectors = (inputs + per_vector - 1) / per_vector;
    job.padded = job.vectors * per_vector;
    job.splits = job.segment < per_vector ? per_vector / job.segment : 1;
    job.unit_vectors = job.segment < per_vector ? 1 : job.segment / per_vector;
    job.units = (job.vectors + job.unit_vectors - 1) / job.unit_vectors;
    int64_t width = job.segments + 16;
    size_t sizes[] = {
        wide_path ? 2 * rows * job.padded : 2 * rows * job.padded + 64,
        wide_path ? 4 * rows * job.units * 16 : 0,
        4 * rows * width,
        4 * rows * width,
        4 * job.padded,
        4 * job.padded,
    };
    size_t total = 64;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        total += sizes[k] = (sizes[k] + 63) / 64 * 64;
    char *space = malloc(total);
    if (!space)
        return 1;
    char *at = (char *)(((uintptr_t)space + 63) / 64 * 64), *parts[6];
    for (size_t k = 0; k < 6; k++) {
        parts[k] = at;
        at += sizes[k];
    }
    job.digits = (int8_t *)parts[0];
    job.values = (int16_t *)parts[0];
    job.first = (int32_t *)parts[1];
    job.scales = (float *)parts[2];
    job.sums = (float *)parts[3];
    float *wide = (float *)parts[4];
    int32_t *values = (int32_t *)parts[5];
    Body body = portable;
#if defined(__x86_64__)
    if (wide_path) {
        round_avx512(&job, x, type, wide, values);
        body = bits == 8 ? avx512_of_8 : avx512_of_4;
    } else if (matrix->path == WITH_AVX2) {
        round_avx2(&job, x, type, wide, values);
        body = bits == 8 ? avx2_of_8 : avx2_of_4;
    } else
#endif
        round_portable(&job, x, type, wide, values);
    int64_t grain = 1 + (32 << 10) / (job.row_bytes * (rows > 4 ? 4 : rows));
    share(body, &job, matrix->outputs, (grain + 3) / 4 * 4);
    free(space);
    return job.failed;
}

/* Computes rows [rows, inputs] of a type → out [rows, outputs] of the same type. Returns 0, or 1 without memory. */
int integer_product(const Matrix *matrix, const void *x, void *out, int type, int64_t rows)
{
    int failed = 0;
    for (int64_t r = 0; r < rows && !failed; r += MOST_ROWS)
        failed = product_of_some(
            matrix, from(x, type, r * matrix->inputs), (char *)out + r * matrix->outputs * (type == FLOAT32 ? 4 : 2), type,
            MIN(MOST_ROWS, rows - r));
    return failed;
}
