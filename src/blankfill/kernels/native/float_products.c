/* Products of a few rows with a matrix of fp32, fp16 or bf16, row by row as it is stored. Sums are in fp32, in an order
   that depends on the matrix alone. */

#include "products.h"

typedef struct {
    const Floats *matrix;
    int64_t rows, padded; /* inputs with padding: a multiple of 32 */
    float *x;             /* [rows][padded]; for bf16 the even inputs of a step are before its odd ones */
    void *out;
    int out_type;
} FloatJob;

INLINE void finish_float(const FloatJob *job, int64_t output, int64_t row, float sum)
{
    if (job->matrix->bias)
        sum += job->matrix->bias[output];
    put_number(job->out, job->out_type, row * job->matrix->outputs + output, sum);
}

/* Outputs begin … end of all rows; 16 sums of every output, each of the inputs 16 k + lane. */
static void floats_portable(void *given, int64_t begin, int64_t end)
{
    const FloatJob *job = given;
    const Floats *matrix = job->matrix;
    for (int64_t o = begin; o < end; o++) {
        const char *weight = (const char *)matrix->weight + o * matrix->row_bytes;
        for (int64_t r = 0; r < job->rows; r++) {
            const float *x = job->x + r * job->padded;
            float sums[16] = {0}, sum = 0;
            int64_t i = 0;
            for (; i + 16 <= matrix->inputs; i += 16)
                for (int lane = 0; lane < 16; lane++)
                    sums[lane] += x[i + lane] * number_at(weight, matrix->type, i + lane);
            for (int lane = 0; i < matrix->inputs; i++, lane++)
                sums[lane] += x[i] * number_at(weight, matrix->type, i);
            for (int lane = 0; lane < 16; lane++)
                sum += sums[lane];
            finish_float(job, o, r, sum);
        }
    }
}

#if defined(__x86_64__)

/* The order of fetching is that of integer_products.c. */
INLINE void fetch_floats(const char *const *weight, int64_t row_bytes, int64_t at)
{
    const char *from = weight[0] + 4096 + 4 * row_bytes + 4 * at;
    EACH(line, 4)
        _mm_prefetch(from + 64 * line, _MM_HINT_T1);
}

enum { MANY = 4 }; /* most rows at a time */

/* Inputs of a step: 32 of 16 bits, or 16 of 32 bits, which are 64 bytes. */
AVX512 INLINE void step_avx512(
    __m512 sums[4][MANY], const char *const *weight, const float *x, int64_t padded, const int rows, const int type)
{
    EACH(o, 4) {
        if (type == FLOAT32) {
            __m512 w = _mm512_loadu_ps(weight[o]);
            EACH(r, rows)
                sums[o][r] = _mm512_fmadd_ps(w, _mm512_loadu_ps(x + r * padded), sums[o][r]);
            continue;
        }
        __m512 first, second;
        if (type == BFLOAT16) {
            __m512i both = _mm512_loadu_si512(weight[o]);
            first = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
            second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
        } else {
            first = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)weight[o]));
            second = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(weight[o] + 32)));
        }
        EACH(r, rows) {
            sums[o][r] = _mm512_fmadd_ps(first, _mm512_loadu_ps(x + r * padded), sums[o][r]);
            sums[o][r] = _mm512_fmadd_ps(second, _mm512_loadu_ps(x + r * padded + 16), sums[o][r]);
        }
    }
}

AVX2 INLINE __m256 loaded(const float *x)
{
    return _mm256_loadu_ps(x);
}

AVX2 INLINE void step_avx2(
    __m256 sums[4][MANY], const char *const *weight, const float *x, int64_t padded, const int rows, const int type)
{
    for (int half = 0; half < 2; half++) /* of the 64 bytes */
        EACH(o, 4) {
            const char *at = weight[o] + 32 * half;
            if (type == FLOAT32) {
                __m256 w = loaded((const float *)at);
                EACH(r, rows)
                    sums[o][r] = _mm256_fmadd_ps(w, loaded(x + r * padded + 8 * half), sums[o][r]);
                continue;
            }
            __m256 first, second;
            int64_t one, two;
            if (type == BFLOAT16) {
                __m256i both = _mm256_loadu_si256((const __m256i *)at);
                first = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
                second = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)));
                one = 8 * half, two = one + 16;
            } else {
                first = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
                second = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at + 16)));
                one = 16 * half, two = one + 8;
            }
            EACH(r, rows) {
                sums[o][r] = _mm256_fmadd_ps(first, loaded(x + r * padded + one), sums[o][r]);
                sums[o][r] = _mm256_fmadd_ps(second, loaded(x + r * padded + two), sums[o][r]);
            }
        }
}

AVX2 INLINE float total_avx2(__m256 x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

AVX512 INLINE float total_avx512(__m512 x)
{
    return total_avx2(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}

/* Four outputs and one or two rows at a time; after the last output it stands for the others too. */
#define FLOAT_TILES(NAME, TARGET, VECTOR, ZERO, STEP, TOTAL)                                                           \
    TARGET INLINE void NAME##_tile(const FloatJob *job, int64_t output, int64_t count, int64_t row, const int rows,    \
                                   const int type)                                                                     \
    {                                                                                                                  \
        const Floats *matrix = job->matrix;                                                                            \
        const int64_t size = type == FLOAT32 ? 4 : 2, bytes = matrix->inputs * size, whole = bytes / 64 * 64;          \
        const char *weight[4], *at[4];                                                                                 \
        const float *x = job->x + row * job->padded;                                                                   \
        VECTOR sums[4][MANY];                                                                                          \
        EACH(o, 4) {                                                                                                   \
            weight[o] = (const char *)matrix->weight + (output + MIN(o, count - 1)) * matrix->row_bytes;               \
            EACH(r, rows) sums[o][r] = ZERO;                                                                           \
        }                                                                                                              \
        for (int64_t k = 0; k < whole; k += 64) {                                                                      \
            EACH(o, 4) at[o] = weight[o] + k;                                                                          \
            fetch_floats(weight, matrix->row_bytes, k);                                                                \
            STEP(sums, at, x + k / size, job->padded, rows, type);                                                     \
        }                                                                                                              \
        if (whole < bytes) {                                                                                           \
            char rest[4][64] = {{0}};                                                                                  \
            EACH(o, 4) {                                                                                               \
                memcpy(rest[o], weight[o] + whole, bytes - whole);                                                     \
                at[o] = rest[o];                                                                                       \
            }                                                                                                          \
            STEP(sums, at, x + whole / size, job->padded, rows, type);                                                 \
        }                                                                                                              \
        for (int64_t o = 0; o < 4; o++)                                                                                \
            EACH(r, rows) if (o < count) finish_float(job, output + o, row + r, TOTAL(sums[o][r]));                    \
    }                                                                                                                  \
    TARGET INLINE void NAME##_of(const FloatJob *job, int64_t begin, int64_t end, const int type)                      \
    {                                                                                                                  \
        for (int64_t o = begin; o < end; o += 4)                                                                       \
            for (int64_t r = 0; r < job->rows; r += 2)                                                                 \
                if (r + 1 < job->rows)                                                                                 \
                    NAME##_tile(job, o, MIN(4, end - o), r, 2, type);                                                  \
                else                                                                                                   \
                    NAME##_tile(job, o, MIN(4, end - o), r, 1, type);                                                  \
    }                                                                                                                  \
    TARGET static void NAME(void *given, int64_t begin, int64_t end)                                                   \
    {                                                                                                                  \
        const FloatJob *job = given;                                                                                   \
        if (job->matrix->type == FLOAT32)                                                                              \
            NAME##_of(job, begin, end, FLOAT32);                                                                       \
        else if (job->matrix->type == FLOAT16)                                                                         \
            NAME##_of(job, begin, end, FLOAT16);                                                                       \
        else                                                                                                           \
            NAME##_of(job, begin, end, BFLOAT16);                                                                      \
    }

FLOAT_TILES(floats_avx512, AVX512, __m512, _mm512_setzero_ps(), step_avx512, total_avx512)

/* Many rows: four outputs and four rows at a time, some inputs of all rows before the next ones, so that they stay in
   the cache. The sums of a row are those of one row. */

enum { BLOCK_BYTES = 2048, GROUPS = 8 }; /* bytes of a weight's row in a block; groups of rows under way */

/* Bytes begin … end of the weights' rows; kept: the sums before, and after. turn, turns: of the groups of rows, which
   take turns in fetching what will be read, so that memory is never waited for. */
AVX512 INLINE void many_tile(
    const FloatJob *job, int64_t output, int64_t count, int64_t row, int64_t begin, int64_t end, __m512 kept[4][MANY],
    int64_t turn, int64_t turns, const int rows, const int type)
{
    const Floats *matrix = job->matrix;
    const int64_t size = type == FLOAT32 ? 4 : 2, bytes = matrix->inputs * size, whole = MIN(end, bytes / 64 * 64);
    const char *weight[4], *at[4];
    const float *x = job->x + row * job->padded;
    __m512 sums[4][MANY];
    EACH(o, 4) {
        weight[o] = (const char *)matrix->weight + (output + MIN(o, count - 1)) * matrix->row_bytes;
        EACH(r, MANY)
            sums[o][r] = begin ? kept[o][r] : _mm512_setzero_ps();
    }
    for (int64_t k = begin; k < whole; k += 64) {
        EACH(o, 4)
            at[o] = weight[o] + k;
        if (turn-- == 0) {
            fetch_floats(weight, matrix->row_bytes, k);
            turn = turns - 1;
        }
        step_avx512(sums, at, x + k / size, job->padded, rows, type);
    }
    if (whole < end) {
        char rest[4][64] = {{0}};
        EACH(o, 4) {
            memcpy(rest[o], weight[o] + whole, bytes - whole);
            at[o] = rest[o];
        }
        step_avx512(sums, at, x + whole / size, job->padded, rows, type);
    }
    if (end < bytes) {
        EACH(o, 4)
            EACH(r, MANY)
                kept[o][r] = sums[o][r];
        return;
    }
    float made[16];
    _mm512_storeu_ps(made, sixteen_totals(sums));
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < count; o++)
            finish_float(job, output + o, row + r, made[4 * r + o]);
}

AVX512 INLINE void many_of(const FloatJob *job, int64_t begin, int64_t end, const int type)
{
    const int64_t bytes = job->matrix->inputs * (type == FLOAT32 ? 4 : 2);
    __m512 kept[GROUPS][4][MANY];
    for (int64_t first = 0; first < job->rows; first += GROUPS * MANY)
        for (int64_t o = begin; o < end; o += 4)
            for (int64_t at = 0; at < bytes; at += BLOCK_BYTES) {
                const int64_t until = MIN(at + BLOCK_BYTES, bytes), count = MIN(4, end - o);
                const int64_t groups = MIN(GROUPS, (job->rows - first + MANY - 1) / MANY);
                for (int64_t g = 0, row = first; g < groups; g++, row += MANY)
                    switch (MIN(MANY, job->rows - row)) {
                    case 4: many_tile(job, o, count, row, at, until, kept[g], g, groups, 4, type); break;
                    case 3: many_tile(job, o, count, row, at, until, kept[g], g, groups, 3, type); break;
                    case 2: many_tile(job, o, count, row, at, until, kept[g], g, groups, 2, type); break;
                    default: many_tile(job, o, count, row, at, until, kept[g], g, groups, 1, type);
                    }
            }
}

AVX512 static void many_avx512(void *given, int64_t begin, int64_t end)
{
    const FloatJob *job = given;
    if (job->matrix->type == FLOAT32)
        many_of(job, begin, end, FLOAT32);
    else if (job->matrix->type == FLOAT16)
        many_of(job, begin, end, FLOAT16);
    else
        many_of(job, begin, end, BFLOAT16);
}

FLOAT_TILES(floats_avx2, AVX2, __m256, _mm256_setzero_ps(), step_avx2, total_avx2)

#endif

/* Computes rows [rows, inputs] of a type → out [rows, outputs] of the same type. Returns 0, or 1 without memory. */
int float_product(const Floats *matrix, const void *x, void *out, int type, int64_t rows)
{
    FloatJob job = {.matrix = matrix, .rows = rows, .out = out, .out_type = type};
    int64_t inputs = matrix->inputs;
    job.padded = (inputs + 31) / 32 * 32;
    char *space = malloc(4 * job.padded * (rows + 1) + 64);
    if (!space)
        return 1;
    job.x = (float *)(((uintptr_t)space + 63) / 64 * 64);
    float *wide = job.x + job.padded * rows;
    for (int64_t r = 0; r < rows; r++) {
        float *into = job.x + r * job.padded;
        int apart = matrix->type == BFLOAT16 && matrix->path != PORTABLE;
        float *first = apart ? wide : into;
        widen(from(x, type, r * inputs), type, first, inputs, matrix->path);
        for (int64_t i = inputs; i < job.padded; i++)
            first[i] = 0;
        for (int64_t i = 0; apart && i < job.padded; i += 32)
            for (int k = 0; k < 16; k++) {
                into[i + k] = wide[i + 2 * k];
                into[i + 16 + k] = wide[i + 2 * k + 1];
            }
    }
    Body body = floats_portable;
#if defined(__x86_64__)
    if (matrix->path == WITH_AVX512)
        body = rows < MANY ? floats_avx512 : many_avx512;
    else if (matrix->path == WITH_AVX2)
        body = floats_avx2;
#endif
    int64_t grain = 1 + (32 << 10) / matrix->row_bytes;
    share(body, &job, matrix->outputs, (grain + 3) / 4 * 4);
    free(space);
    return 0;
}
