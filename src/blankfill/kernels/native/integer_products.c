/* Products of a few rows with a matrix of integers of 8 or 4 bits and scales.

   y = x W', W = scale · (q + zero). The matrix stays as it is stored, row by row, so that nothing is packed at load, and
   a file can be mapped. The weights are exact; the activations are rounded to integers of 16 bits with a scale for each
   segment of inputs (a group of scales, or at most 256 inputs), so that products are sums of integers, which are exact.

   AVX-512: the 16 bits are two digits of 8, x = 256 · high + low, for `vpdpbusd`, which takes unsigned weights: q + 128
   or q + 8. What that adds is subtracted in the sums (`first`). AVX2: 16-bit `vpmaddwd`; `vpmaddubsw` would saturate.

   The order of every sum depends on the matrix alone, not on the number of threads or rows. */

#include "products.h"

enum { LONGEST = 256, LARGEST = 32512 }; /* inputs of a segment; integer of an activation: 127 · 256 */

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
    int out_type;
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
}

/* Scales of an output as fp32, one for each segment. */
INLINE void scales_of(const Job *job, const void *given, int64_t output, float *out)
{
    const Matrix *matrix = job->matrix;
    int64_t each = matrix->group / job->segment;
    if (each == 1) {
        widen(from(given, matrix->scale_type, output * job->groups), matrix->scale_type, out, job->groups, matrix->path);
        return;
    }
    for (int64_t s = 0; s < job->segments; s++)
        out[s] = number_at(given, matrix->scale_type, output * job->groups + s / each);
}

/* The factors of the segments' sums, [rows + 1][segments + 16], of which the last row is for the scales, and what the
   zero points add, [rows]. */
INLINE void factors_of(const Job *job, int64_t output, float *factors, float *added)
{
    const Matrix *matrix = job->matrix;
    int64_t width = job->segments + 16;
    float *scales = factors + job->rows * width;
    if (!matrix->group) {
        float zero = matrix->zero ? number_at(matrix->zero, matrix->scale_type, output) : 0.0f;
        for (int64_t r = 0; r < job->rows; r++) {
            float sum = 0;
            if (matrix->zero)
                for (int64_t s = 0; s < job->segments; s++)
                    sum += job->sums[r * width + s];
            added[r] = zero * sum;
        }
        return;
    }
    scales_of(job, matrix->scale, output, scales);
    for (int64_t r = 0; r < job->rows; r++) {
        const float *x = job->scales + r * width;
        float *made = factors + r * width;
        for (int64_t s = 0; s < job->segments; s++)
            made[s] = scales[s] * x[s];
        added[r] = 0;
    }
    if (matrix->zero) {
        float zeros[16];
        int64_t each = matrix->group / job->segment;
        for (int64_t s = 0; s < job->segments; s += 16) {
            int64_t count = MIN(16, job->segments - s);
            for (int64_t k = 0; k < count; k++)
                zeros[k] = scales[s + k] *
                    number_at(matrix->zero, matrix->scale_type, output * job->groups + (s + k) / each);
            for (int64_t r = 0; r < job->rows; r++)
                for (int64_t k = 0; k < count; k++)
                    added[r] += zeros[k] * job->sums[r * width + s + k];
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
                sum += (weight[i] >> 4) * x[i] + ((int8_t)(uint8_t)(weight[i] << 4) >> 4) * x[odd + i];
        made += factors[s] * (float)sum;
    }
    return made;
}

static void portable(void *given, int64_t begin, int64_t end)
{
    const Job *job = given;
    int64_t width = job->segments + 16;
    float *factors = malloc(sizeof(float) * (job->rows + 1) * width), *added = malloc(sizeof(float) * job->rows);
    for (int64_t o = begin; o < end; o++) {
        factors_of(job, o, factors, added);
        const float *used = job->matrix->group ? factors : job->scales;
        for (int64_t r = 0; r < job->rows; r++) {
            float sum = sum_portable(
                job, job->matrix->weight + o * job->row_bytes, job->values + r * job->padded, used + r * width);
            finish(job, o, r, sum, added[r]);
        }
    }
    free(factors);
    free(added);
}

#if defined(__x86_64__)

INLINE const int8_t *ahead_of(const Job *job, int outputs, const int8_t *at)
{
    int64_t tile = outputs * job->row_bytes, tiles = 1;
    while (tiles * tile < 2048)
        tiles++;
    return at + tiles * tile;
}

/* AVX2 */

AVX2 INLINE float sum_of_8(__m256 x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The sums of some outputs and rows. Segments are multiples of 32 inputs, except the last one. */
AVX2 INLINE void tile_avx2(
    const Job *job, int64_t output, int64_t row, const float *const *factors, const float *added, int outputs, int rows,
    int bits)
{
    int64_t width = job->segments + 16, per_vector = bits == 8 ? 16 : 32, odd = job->padded / 2;
    int64_t whole = job->row_bytes / 16, vectors = (job->row_bytes + 15) / 16, each = job->segment / per_vector;
    const int8_t *weight = job->matrix->weight + output * job->row_bytes;
    const int16_t *x = job->values + row * job->padded;
    const int8_t *ahead = ahead_of(job, outputs, weight);
    __m256 made[4][4];
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++)
            made[o][r] = _mm256_setzero_ps();
    int64_t v = 0;
    for (int64_t s = 0; s < job->segments; s++) {
        __m256i sum[4][4];
        for (int o = 0; o < outputs; o++)
            for (int r = 0; r < rows; r++)
                sum[o][r] = _mm256_setzero_si256();
        for (int64_t end = MIN(v + each, vectors); v < end; v++) {
            for (int o = 0; o < outputs; o++) {
                __m128i stored;
                const int8_t *at = weight + o * job->row_bytes + 16 * v;
                _mm_prefetch((const char *)(ahead + o * job->row_bytes + 16 * v), _MM_HINT_T0);
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
                for (int r = 0; r < rows; r++) {
                    const int16_t *values = x + r * job->padded + 16 * v;
                    __m256i made_of = _mm256_madd_epi16(even, _mm256_loadu_si256((const __m256i *)values));
                    sum[o][r] = _mm256_add_epi32(sum[o][r], made_of);
                    if (bits == 4) {
                        made_of = _mm256_madd_epi16(low, _mm256_loadu_si256((const __m256i *)(values + odd)));
                        sum[o][r] = _mm256_add_epi32(sum[o][r], made_of);
                    }
                }
            }
        }
        for (int o = 0; o < outputs; o++)
            for (int r = 0; r < rows; r++) {
                __m256 factor = _mm256_set1_ps(factors[o][r * width + s]);
                made[o][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[o][r]), factor, made[o][r]);
            }
    }
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++)
            finish(job, output + o, row + r, sum_of_8(made[o][r]), added[o * job->rows + r]);
}

/* AVX-512 with VNNI */

AVX512 INLINE float sum_of_16(__m512 x)
{
    return sum_of_8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}

AVX512 INLINE void tile_avx512(
    const Job *job, int64_t output, int64_t row, const float *const *factors, const float *added, int outputs, int rows,
    int bits)
{
    int64_t width = job->segments + 16, vectors = job->vectors, splits = job->splits;
    int64_t per_vector = bits == 8 ? 128 : 256, row_digits = vectors * per_vector, row_first = job->units * 16;
    const int8_t *weight = job->matrix->weight + output * job->row_bytes;
    const int8_t *digits = job->digits + row * row_digits;
    const int32_t *first = job->first + row * row_first;
    const int8_t *ahead = ahead_of(job, outputs, weight);
    __mmask64 last = job->row_bytes % 64 ? ~0ull >> (64 - job->row_bytes % 64) : ~0ull;
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8), top = _mm512_set1_epi8((char)0x80);
    const __m512i lanes = _mm512_srli_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), splits == 4 ? 2 : 3);
    __m512 made[4][4];
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++)
            made[o][r] = _mm512_setzero_ps();
    int64_t v = 0;
    for (int64_t u = 0; u < job->units; u++) {
        __m512i high[4][4], sum[4][4];
        for (int o = 0; o < outputs; o++)
            for (int r = 0; r < rows; r++) {
                high[o][r] = _mm512_setzero_si512();
                sum[o][r] = _mm512_loadu_si512(first + r * row_first + 16 * u);
            }
        for (int64_t end = MIN(v + job->unit_vectors, vectors); v < end; v++) {
            __mmask64 mask = v + 1 == vectors ? last : ~0ull;
            for (int o = 0; o < outputs; o++) {
                const int8_t *at = weight + o * job->row_bytes + 64 * v;
                _mm_prefetch((const char *)(ahead + o * job->row_bytes + 64 * v), _MM_HINT_T0);
                __m512i w = _mm512_maskz_loadu_epi8(mask, at);
                if (bits == 8) {
                    w = _mm512_xor_si512(w, top);
                    for (int r = 0; r < rows; r++) {
                        const int8_t *x = digits + r * row_digits + 128 * v;
                        high[o][r] = _mm512_dpbusd_epi32(high[o][r], w, _mm512_load_si512(x));
                        sum[o][r] = _mm512_dpbusd_epi32(sum[o][r], w, _mm512_load_si512(x + 64));
                    }
                } else { /* (w & 15) ^ 8 */
                    __m512i even = _mm512_ternarylogic_epi32(_mm512_srli_epi16(w, 4), low, eight, 0x6a);
                    __m512i odd = _mm512_ternarylogic_epi32(w, low, eight, 0x6a);
                    for (int r = 0; r < rows; r++) {
                        const int8_t *x = digits + r * row_digits + 256 * v;
                        high[o][r] = _mm512_dpbusd_epi32(high[o][r], even, _mm512_load_si512(x));
                        sum[o][r] = _mm512_dpbusd_epi32(sum[o][r], even, _mm512_load_si512(x + 64));
                        high[o][r] = _mm512_dpbusd_epi32(high[o][r], odd, _mm512_load_si512(x + 128));
                        sum[o][r] = _mm512_dpbusd_epi32(sum[o][r], odd, _mm512_load_si512(x + 192));
                    }
                }
            }
        }
        for (int o = 0; o < outputs; o++)
            for (int r = 0; r < rows; r++) {
                const float *at = factors[o] + r * width + u * splits;
                __m512 factor = splits == 1 ? _mm512_set1_ps(*at) : _mm512_permutexvar_ps(lanes, _mm512_loadu_ps(at));
                __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high[o][r], 8), sum[o][r]);
                made[o][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), factor, made[o][r]);
            }
    }
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++)
            finish(job, output + o, row + r, sum_of_16(made[o][r]), added[o * job->rows + r]);
}

/* Outputs begin … end of all rows, some outputs and rows at a time. The first of `many` is for one row. */
#define TILES(NAME, TARGET, TILE, BITS, ONE, MANY, ROWS)                                                               \
    TARGET static void NAME(void *given, int64_t begin, int64_t end)                                                   \
    {                                                                                                                  \
        const Job *job = given;                                                                                        \
        int64_t width = job->segments + 16, rows = job->rows, most = rows == 1 ? ONE : MANY;                           \
        float *space = malloc(sizeof(float) * most * ((rows + 1) * width + rows));                                     \
        float *added = space + most * (rows + 1) * width;                                                              \
        for (int64_t o = begin; o < end;) {                                                                            \
            int64_t outputs = end - o >= most ? most : 1, r = 0;                                                       \
            const float *factors[4];                                                                                   \
            for (int64_t k = 0; k < outputs; k++) {                                                                    \
                float *own = space + k * (rows + 1) * width;                                                           \
                factors_of(job, o + k, own, added + k * rows);                                                         \
                factors[k] = job->matrix->group ? own : job->scales;                                                   \
            }                                                                                                          \
            while (r < rows) {                                                                                         \
                int64_t taken = rows - r >= ROWS ? ROWS : 1;                                                           \
                const float *at[4];                                                                                    \
                for (int64_t k = 0; k < outputs; k++)                                                                  \
                    at[k] = factors[k] + r * width;                                                                    \
                if (rows == 1 && outputs > 1)                                                                          \
                    TILE(job, o, r, at, added + r, ONE, 1, BITS);                                                      \
                else if (outputs > 1 && taken > 1)                                                                     \
                    TILE(job, o, r, at, added + r, MANY, ROWS, BITS);                                                  \
                else if (outputs > 1)                                                                                  \
                    TILE(job, o, r, at, added + r, MANY, 1, BITS);                                                     \
                else if (taken > 1)                                                                                    \
                    TILE(job, o, r, at, added + r, 1, ROWS, BITS);                                                     \
                else                                                                                                   \
                    TILE(job, o, r, at, added + r, 1, 1, BITS);                                                        \
                r += taken;                                                                                            \
            }                                                                                                          \
            o += outputs;                                                                                              \
        }                                                                                                              \
        free(space);                                                                                                   \
    }

TILES(avx2_of_8, AVX2, tile_avx2, 8, 4, 2, 2)
TILES(avx2_of_4, AVX2, tile_avx2, 4, 4, 2, 2)
TILES(avx512_of_8, AVX512, tile_avx512, 8, 4, 2, 4)
TILES(avx512_of_4, AVX512, tile_avx512, 4, 4, 2, 4)

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

int integer_product(const Matrix *matrix, const void *x, void *out, int type, int64_t rows)
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
    return 0;
}
