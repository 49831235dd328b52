/* Products of many rows with a matrix of 8 bits, with activations of 8 bits.

   Each row x becomes integers a = round(x / s), with s = m / 127 and m the largest |x| but for OUTLIERS of them, whose
   integers may be larger than 127. The product of integers is exact, in 32 bits, and the result is
   scale_o · s · Σ (q + zero) a + bias_o, after which an activation function may follow. Integers of weights are stored as q + 128, from 0 to 255, and 128 Σ a is subtracted: so the instructions for a product of a byte without
   sign and one with sign can take them. Nothing saturates: the sums of the oldest instructions are of 16 bits, so there
   the bytes are widened first.

   Weights lie in panels of 64 outputs, in which four inputs of each output are together: [panels, inputs / 4, 64, 4].
   A block of rows stays in the cache while all panels pass. */

#include "activations.h"

enum { PANEL = 64, BLOCK = 96, OUTLIERS = 2, LARGEST_OUTLIER = 1 << 20 };
#define LITTLE_ENDIAN_BYTES (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)

typedef struct {
    const uint8_t *weight;              /* q + 128; outputs and inputs that were added for whole panels are 128 */
    const float *scale, *zero, *bias;   /* of each output, of whole panels; zero may be missing */
    int64_t outputs, inputs;
    int32_t activation, path;
} DynamicMatrix;

typedef struct {
    int32_t at, value;
} Outlier;

/* What a row of activations has besides its integers of 8 bits. */
typedef struct {
    float scale;
    int32_t sum; /* of all integers */
    Outlier outliers[OUTLIERS];
} Row;

typedef struct {
    const DynamicMatrix *matrix;
    const void *x;
    void *out;
    int type;
    int64_t rows, padded;
    int8_t *whole;   /* [rows, padded], where all rows are rounded first */
    Row *of;         /* [rows] */
    int failed;
} DynamicJob;

/* ROWS rows [ROWS, padded] times a panel → [ROWS, 64] */

INLINE void tile_portable(const int8_t *x, int64_t padded, const uint8_t *weight, int32_t *out, int rows)
{
    memset(out, 0, sizeof(int32_t) * rows * PANEL);
    for (int64_t k = 0; k < padded; k += 4)
        for (int r = 0; r < rows; r++) {
            const int8_t *a = x + r * padded + k;
            const uint8_t *w = weight + k * PANEL;
            int32_t a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
            for (int o = 0; o < PANEL; o++)
                out[r * PANEL + o] += w[4 * o] * a0 + w[4 * o + 1] * a1 + w[4 * o + 2] * a2 + w[4 * o + 3] * a3;
        }
}

#if defined(__x86_64__)
AVX512 INLINE void tile_avx512(const int8_t *x, int64_t padded, const uint8_t *weight, int32_t *out, int rows)
{
    __m512i sums[6][4];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            sums[r][v] = _mm512_setzero_si512();
    for (int64_t k = 0; k < padded; k += 4) {
        __m512i w[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            w[v] = _mm512_loadu_si512(weight + k * PANEL + 64 * v);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x + r * padded + k, 4);
            __m512i a = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], w[v], a);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            _mm512_storeu_si512(out + r * PANEL + 16 * v, sums[r][v]);
}

AVX2 INLINE void tile_avx2(const int8_t *x, int64_t padded, const uint8_t *weight, int32_t *out, int rows)
{
    for (int part = 0; part < PANEL; part += 16) { /* 16 outputs at a time; each has two sums */
        __m256i sums[3][4];
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                sums[r][v] = _mm256_setzero_si256();
        for (int64_t k = 0; k < padded; k += 4) {
            __m256i w[4];
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                w[v] = _mm256_cvtepu8_epi16(
                    _mm_loadu_si128((const __m128i *)(weight + (k * PANEL + 4 * part + 16 * v))));
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, x + r * padded + k, 4);
                __m256i a = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++)
                    sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(w[v], a));
            }
        }
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < 4; v += 2) {
                __m256i both = _mm256_hadd_epi32(sums[r][v], sums[r][v + 1]); /* outputs 0 1 4 5 2 3 6 7 */
                both = _mm256_permute4x64_epi64(both, 0xd8);
                _mm256_storeu_si256((__m256i *)(out + r * PANEL + part + 4 * v), both);
            }
    }
}
#endif

/* Rounds a row to integers, and adds zeros up to `padded`. The largest numbers of the row, whose integers may have more
   than 8 bits, go to `outliers`, and zeros are in their place. Returns the scale: NaN for a row that is not finite. */
INLINE float round_dynamic(const float *x, int64_t inputs, int64_t padded, int8_t *out, int32_t *sum, Outlier *outliers,
                           float *wide)
{
    enum { LANES = 16 };
    uint32_t lanes[LANES] = {0}; /* largest of every 16th number; bits without sign are in the order of the numbers */
    int64_t i = 0;
    for (; i + LANES <= inputs; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            uint32_t bits = bits_of(x[i + lane]) & 0x7fffffff;
            lanes[lane] = bits > lanes[lane] ? bits : lanes[lane];
        }
    for (; i < inputs; i++) {
        uint32_t bits = bits_of(x[i]) & 0x7fffffff;
        lanes[i % LANES] = bits > lanes[i % LANES] ? bits : lanes[i % LANES];
    }
    memcpy(wide, x, 4 * inputs);
    float values[OUTLIERS], largest = 0;
    for (int k = 0; k <= OUTLIERS; k++) {
        int at = 0;
        for (int lane = 1; lane < LANES; lane++)
            at = lanes[lane] > lanes[at] ? lane : at;
        uint32_t most = lanes[at];
        if (most >= 0x7f800000) {
            memset(out, 0, padded);
            memset(outliers, 0, sizeof(Outlier) * OUTLIERS);
            *sum = 0;
            return NAN;
        }
        largest = k ? largest : of_bits(most);
        if (k == OUTLIERS) {
            lanes[0] = most;
            break;
        }
        int64_t place = at;
        while (place + LANES < inputs && (bits_of(wide[place]) & 0x7fffffff) != most)
            place += LANES;
        place = MIN(place, inputs - 1); /* a lane without numbers: all that is left is zero */
        outliers[k].at = (int32_t)place;
        values[k] = wide[place];
        wide[place] = 0;
        lanes[at] = 0;
        for (int64_t j = at; j < inputs; j += LANES) {
            uint32_t bits = bits_of(wide[j]) & 0x7fffffff;
            lanes[at] = bits > lanes[at] ? bits : lanes[at];
        }
    }
    float rest = of_bits(lanes[0]), least = largest * (127.0f / LARGEST_OUTLIER);
    float most = rest > least ? rest : least, factor = 127.0f / most;
    if (!(factor <= 3e38f)) { /* zero, or as good as zero */
        memset(out, 0, padded);
        memset(outliers, 0, sizeof(Outlier) * OUTLIERS);
        *sum = 0;
        return 0.0f;
    }
    for (int64_t j = 0; j < inputs; j++) /* in a loop of its own, so that it is rounded before the next step */
        wide[j] *= factor;
    int32_t total = 0;
    for (int k = 0; k < OUTLIERS; k++) {
        volatile float scaled = values[k] * factor;
        outliers[k].value = (int32_t)bits_of(scaled + 12582912.0f) - 0x4b400000;
        total += outliers[k].value;
    }
    for (int64_t j = 0; j < inputs; j++) { /* the bits of the sum end with the nearest whole number, half to even */
        int32_t q = (int32_t)bits_of(wide[j] + 12582912.0f) - 0x4b400000;
        out[j] = (int8_t)q;
        total += q;
    }
    memset(out + inputs, 0, padded - inputs);
    *sum = total;
    return most / 127.0f;
}

#if defined(__x86_64__)
AVX512 INLINE __m512 sixteen(const void *x, int type, int64_t at, __mmask16 mask)
{
    if (type == FLOAT32)
        return _mm512_maskz_loadu_ps(mask, (const float *)x + at);
    __m256i half = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)x + at);
    if (type == FLOAT16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* What round_dynamic computes, to the bit, from numbers of a type. wide: room for whole vectors. */
AVX512 INLINE float round_dynamic_avx512(const void *x, int type, int64_t inputs, int64_t padded, int8_t *out, int32_t *sum,
                                         Outlier *outliers, float *wide)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __mmask16 last = (__mmask16)(0xffffu >> (15 & -inputs));
    __m512i lanes = _mm512_setzero_si512();
    for (int64_t i = 0; i < inputs; i += 16) {
        __m512 part = sixteen(x, type, i, i + 16 > inputs ? last : 0xffff);
        _mm512_storeu_ps(wide + i, part);
        lanes = _mm512_max_epu32(lanes, _mm512_and_si512(_mm512_castps_si512(part), magnitude));
    }
    float values[OUTLIERS], largest = 0, rest = 0;
    for (int k = 0; k <= OUTLIERS; k++) {
        const uint32_t most = _mm512_reduce_max_epu32(lanes);
        const __m512i same = _mm512_set1_epi32((int32_t)most);
        const int at = __builtin_ctz(_mm512_cmpeq_epi32_mask(lanes, same));
        if (most >= 0x7f800000) {
            memset(out, 0, padded);
            memset(outliers, 0, sizeof(Outlier) * OUTLIERS);
            *sum = 0;
            return NAN;
        }
        largest = k ? largest : of_bits(most);
        rest = of_bits(most);
        if (k == OUTLIERS)
            break;
        int64_t place = at;
        while (place + 16 < inputs && (bits_of(wide[place]) & 0x7fffffff) != most)
            place += 16;
        place = MIN(place, inputs - 1);
        outliers[k].at = (int32_t)place;
        values[k] = wide[place];
        wide[place] = 0;
        lanes = _mm512_setzero_si512();
        for (int64_t i = 0; i < inputs; i += 16)
            lanes = _mm512_max_epu32(lanes, _mm512_and_si512(_mm512_loadu_si512(wide + i), magnitude));
    }
    float least = largest * (127.0f / LARGEST_OUTLIER), most = rest > least ? rest : least, factor = 127.0f / most;
    if (!(factor <= 3e38f)) {
        memset(out, 0, padded);
        memset(outliers, 0, sizeof(Outlier) * OUTLIERS);
        *sum = 0;
        return 0.0f;
    }
    int32_t total = 0;
    for (int k = 0; k < OUTLIERS; k++) {
        volatile float scaled = values[k] * factor;
        outliers[k].value = (int32_t)bits_of(scaled + 12582912.0f) - 0x4b400000;
        total += outliers[k].value;
    }
    __m512i sums = _mm512_setzero_si512();
    for (int64_t i = 0; i < inputs; i += 16) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(wide + i), _mm512_set1_ps(factor)));
        __m128i bytes = _mm512_cvtepi32_epi8(q);
        sums = _mm512_add_epi32(sums, q);
        if (i + 16 <= padded)
            _mm_storeu_si128((__m128i *)(out + i), bytes);
        else
            memcpy(out + i, &bytes, padded - i);
    }
    *sum = total + _mm512_reduce_add_epi32(sums);
    return most / 127.0f;
}
#endif

INLINE void finish(const DynamicJob *job, int32_t *sums, int64_t row, const Row *of, int64_t panel)
{
    const DynamicMatrix *matrix = job->matrix;
    float scale = of->scale;
    int32_t sum = of->sum;
    for (int k = 0; k < OUTLIERS; k++) {
        const uint8_t *four = matrix->weight + panel * PANEL * job->padded + of->outliers[k].at / 4 * 4 * PANEL;
        int byte = of->outliers[k].at % 4, shift = 8 * (LITTLE_ENDIAN_BYTES ? byte : 3 - byte);
        uint32_t value = (uint32_t)of->outliers[k].value, words[PANEL];
        memcpy(words, four, 4 * PANEL);
        for (int o = 0; o < PANEL; o++)
            sums[o] = (int32_t)((uint32_t)sums[o] + value * (words[o] >> shift & 255));
    }
    const float *weight_scale = matrix->scale + panel * PANEL, *bias = matrix->bias + panel * PANEL;
    float made[PANEL];
    uint32_t offset = 128 * (uint32_t)sum;
    if (matrix->zero) {
        const float *zero = matrix->zero + panel * PANEL;
        for (int o = 0; o < PANEL; o++)
            made[o] = ((float)(int32_t)((uint32_t)sums[o] - offset) + zero[o] * (float)sum) * (scale * weight_scale[o]) + bias[o];
    } else
        for (int o = 0; o < PANEL; o++)
            made[o] = (float)(int32_t)((uint32_t)sums[o] - offset) * (scale * weight_scale[o]) + bias[o];
    if (matrix->activation == GELU)
        for (int o = 0; o < PANEL; o++)
            made[o] = activated(made[o], GELU);
    else if (matrix->activation == GELU_TANH)
        for (int o = 0; o < PANEL; o++)
            made[o] = activated(made[o], GELU_TANH);
    else if (matrix->activation == SILU)
        for (int o = 0; o < PANEL; o++)
            made[o] = activated(made[o], SILU);
    else if (matrix->activation == RELU)
        for (int o = 0; o < PANEL; o++)
            made[o] = activated(made[o], RELU);
    int64_t at = row * matrix->outputs + panel * PANEL, count = MIN(PANEL, matrix->outputs - panel * PANEL);
    if (job->type == FLOAT32)
        memcpy((float *)job->out + at, made, 4 * count);
    else if (job->type == BFLOAT16)
        for (int64_t o = 0; o < count; o++)
            ((uint16_t *)job->out)[at + o] = to_bfloat(made[o]);
    else
        for (int64_t o = 0; o < count; o++)
            ((uint16_t *)job->out)[at + o] = to_half(made[o]);
}

INLINE void finish_portable(const DynamicJob *job, int32_t *sums, int64_t row, const Row *of, int64_t panel)
{
    finish(job, sums, row, of, panel);
}

#if defined(__x86_64__)
AVX2 INLINE void finish_avx2(const DynamicJob *job, int32_t *sums, int64_t row, const Row *of, int64_t panel)
{
    finish(job, sums, row, of, panel);
}

AVX512 INLINE __m512 exponential_avx512(__m512 x) /* see `exponential`; exact in the power of 2 */
{
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x); /* the second operand where one is NaN */
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), x);
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 power = _mm512_set1_ps(1.9875691500e-4f);
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.3981999507e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(8.3334519073e-3f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(4.1665795894e-2f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.6666665459e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.0000001201e-1f));
    power = _mm512_fmadd_ps(_mm512_mul_ps(power, rest), rest, _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(power, whole);
}

AVX512 INLINE __m512 reciprocal_avx512(__m512 x) /* 14 bits, and a step of Newton */
{
    __m512 near = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(near, _mm512_fnmadd_ps(x, near, _mm512_set1_ps(2.0f)));
}

AVX512 INLINE __m512 gelu_avx512(__m512 x)
{
    __m512 one = _mm512_set1_ps(1.0f), z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    __m512 t = reciprocal_avx512(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
    __m512 sum = _mm512_set1_ps(1.061405429f);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f));
    __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    __m512 rest = _mm512_mul_ps(_mm512_mul_ps(sum, t), exponential_avx512(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps())));
    __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mul_ps(half, _mm512_mask_sub_ps(rest, (__mmask16)~below, _mm512_set1_ps(2.0f), rest));
}

AVX512 INLINE __m512 activated_avx512(__m512 x, int activation)
{
    __m512 one = _mm512_set1_ps(1.0f), zero = _mm512_setzero_ps();
    if (activation == GELU)
        return gelu_avx512(x);
    if (activation == GELU_TANH) {
        __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), one);
        __m512 power = exponential_avx512(_mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(-1.59576912f)), cubic));
        return _mm512_div_ps(x, _mm512_add_ps(one, power));
    }
    if (activation == SILU)
        return _mm512_div_ps(x, _mm512_add_ps(one, exponential_avx512(_mm512_sub_ps(zero, x))));
    return activation == RELU ? _mm512_max_ps(zero, x) : x;
}

AVX512 INLINE void finish_avx512(const DynamicJob *job, int32_t *sums, int64_t row, const Row *of, int64_t panel)
{
    const DynamicMatrix *matrix = job->matrix;
    const uint8_t *weight = matrix->weight + panel * PANEL * job->padded;
    const uint8_t *columns[OUTLIERS];
    __m512i values[OUTLIERS], byte = _mm512_set1_epi32(255);
    __m128i shifts[OUTLIERS];
    for (int k = 0; k < OUTLIERS; k++) {
        columns[k] = weight + of->outliers[k].at / 4 * 4 * PANEL;
        shifts[k] = _mm_cvtsi32_si128(8 * (of->outliers[k].at % 4));
        values[k] = _mm512_set1_epi32(of->outliers[k].value);
    }
    __m512i offset = _mm512_set1_epi32((int32_t)(128 * (uint32_t)of->sum));
    __m512 scale = _mm512_set1_ps(of->scale), whole = _mm512_set1_ps((float)of->sum);
    int64_t at = row * matrix->outputs + panel * PANEL, left = matrix->outputs - panel * PANEL;
    for (int v = 0; v < 4 && 16 * v < left; v++) {
        int64_t o = panel * PANEL + 16 * v;
        __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + 16 * v), offset);
#pragma GCC unroll 2
        for (int k = 0; k < OUTLIERS; k++) {
            __m512i w = _mm512_srl_epi32(_mm512_loadu_si512(columns[k] + 64 * v), shifts[k]);
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(values[k], _mm512_and_si512(w, byte)));
        }
        __m512 made = _mm512_cvtepi32_ps(sum);
        if (matrix->zero)
            made = _mm512_fmadd_ps(_mm512_loadu_ps(matrix->zero + o), whole, made);
        made = _mm512_fmadd_ps(made, _mm512_mul_ps(scale, _mm512_loadu_ps(matrix->scale + o)),
                               _mm512_loadu_ps(matrix->bias + o));
        made = activated_avx512(made, matrix->activation);
        __mmask16 mask = left - 16 * v >= 16 ? 0xffff : (__mmask16)((1u << (left - 16 * v)) - 1);
        if (job->type == FLOAT32) {
            _mm512_mask_storeu_ps((float *)job->out + at + 16 * v, mask, made);
            continue;
        }
        __m256i half;
        if (job->type == BFLOAT16) {
            __m512i bits = _mm512_castps_si512(made), least = _mm512_set1_epi32(1);
            least = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(bits, 16), least), _mm512_set1_epi32(0x7fff));
            __mmask16 nan = _mm512_cmp_ps_mask(made, made, _CMP_UNORD_Q);
            bits = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, least), nan, _mm512_set1_epi32(0x7fc00000));
            half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
        } else
            half = _mm512_cvtps_ph(made, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16((uint16_t *)job->out + at + 16 * v, mask, half);
    }
}
#endif

INLINE float round_typed(const void *x, int type, int64_t inputs, int64_t padded, int8_t *out, int32_t *sum,
                         Outlier *outliers, float *wide, int path)
{
    if (type != FLOAT32) {
        widen(x, type, wide, inputs, path);
        x = wide;
    }
    return round_dynamic(x, inputs, padded, out, sum, outliers, wide);
}

#define round_any(...) round_typed(__VA_ARGS__, PORTABLE)
#define round_with_f16c(...) round_typed(__VA_ARGS__, WITH_AVX2)

/* For one set of instructions: round_NAME rounds rows, panels_NAME computes panels of some rows. */
#define DYNAMIC(NAME, TARGET, MOST, ROUND)                                                                             \
    TARGET static void round_##NAME(const DynamicJob *job, int64_t begin, int64_t end, int8_t *whole, Row *of,         \
                                    float *wide)                                                                       \
    {                                                                                                                  \
        int64_t inputs = job->matrix->inputs;                                                                          \
        for (int64_t r = begin; r < end; r++) {                                                                        \
            const void *x = from(job->x, job->type, r * inputs);                                                       \
            int8_t *out = whole + (r - begin) * job->padded;                                                           \
            Row *row = of + r - begin;                                                                                 \
            row->scale = ROUND(x, job->type, inputs, job->padded, out, &row->sum, row->outliers, wide);                \
        }                                                                                                              \
    }                                                                                                                  \
    TARGET static void panels_##NAME(const DynamicJob *job, int64_t first, int64_t count, const int8_t *whole,         \
                                     const Row *of, int64_t begin, int64_t end)                                        \
    {                                                                                                                  \
        int32_t made[6 * PANEL];                                                                                       \
        for (int64_t p = begin; p < end; p++) {                                                                        \
            const uint8_t *weight = job->matrix->weight + p * PANEL * job->padded;                                     \
            int64_t r = 0;                                                                                             \
            for (; r + MOST <= count; r += MOST) {                                                                     \
                tile_##NAME(whole + r * job->padded, job->padded, weight, made, MOST);                                 \
                for (int k = 0; k < MOST; k++)                                                                         \
                    finish_##NAME(job, made + k * PANEL, first + r + k, of + r + k, p);                                \
            }                                                                                                          \
            for (; r < count; r++) {                                                                                   \
                tile_##NAME(whole + r * job->padded, job->padded, weight, made, 1);                                    \
                finish_##NAME(job, made, first + r, of + r, p);                                                        \
            }                                                                                                          \
        }                                                                                                              \
    }

DYNAMIC(portable, , 4, round_any)
#if defined(__x86_64__)
DYNAMIC(avx2, AVX2, 3, round_with_f16c)
DYNAMIC(avx512, AVX512, 6, round_dynamic_avx512)
#endif

static void round_rows(const DynamicJob *job, int64_t begin, int64_t end, int8_t *whole, Row *of, float *wide)
{
#if defined(__x86_64__)
    if (job->matrix->path == WITH_AVX512)
        round_avx512(job, begin, end, whole, of, wide);
    else if (job->matrix->path == WITH_AVX2)
        round_avx2(job, begin, end, whole, of, wide);
    else
#endif
        round_portable(job, begin, end, whole, of, wide);
}

static void panels(const DynamicJob *job, int64_t first, int64_t count, const int8_t *whole, const Row *of,
                   int64_t begin, int64_t end)
{
#if defined(__x86_64__)
    if (job->matrix->path == WITH_AVX512)
        panels_avx512(job, first, count, whole, of, begin, end);
    else if (job->matrix->path == WITH_AVX2)
        panels_avx2(job, first, count, whole, of, begin, end);
    else
#endif
        panels_portable(job, first, count, whole, of, begin, end);
}

static int64_t all_panels(const DynamicJob *job)
{
    return (job->matrix->outputs + PANEL - 1) / PANEL;
}

static void few_rows(void *data, int64_t begin, int64_t end)
{
    const DynamicJob *job = data;
    panels(job, 0, job->rows, job->whole, job->of, begin, end);
}

static size_t space_of(const DynamicJob *job, int64_t rows)
{
    return rows * (job->padded + (int64_t)sizeof(Row)) + 4 * job->matrix->inputs + 256;
}

/* Divides a piece of memory among what rows are rounded to. */
static void divide(char *space, const DynamicJob *job, int64_t rows, int8_t **whole, Row **of, float **wide)
{
    char *at = (char *)(((uintptr_t)space + 63) / 64 * 64);
    *whole = (int8_t *)at;
    at += (rows * job->padded + 63) / 64 * 64;
    *of = (Row *)at;
    *wide = (float *)(at + rows * sizeof(Row));
}

static void many_rows(void *data, int64_t begin, int64_t end)
{
    DynamicJob *job = data;
    int64_t most = MIN(BLOCK, end - begin);
    char *space = malloc(space_of(job, most));
    if (!space) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    int8_t *whole;
    float *wide;
    Row *of;
    divide(space, job, most, &whole, &of, &wide);
    for (int64_t first = begin; first < end; first += BLOCK) {
        int64_t count = MIN(BLOCK, end - first);
        round_rows(job, first, first + count, whole, of, wide);
        panels(job, first, count, whole, of, 0, all_panels(job));
    }
    free(space);
}

/* Computes rows [rows, inputs] of a type → out [rows, outputs] of the same type. Returns 0, or 1 without memory. */
int dynamic_product(const DynamicMatrix *matrix, const void *x, void *out, int type, int64_t rows)
{
    DynamicJob job = {.matrix = matrix, .x = x, .out = out, .type = type, .rows = rows};
    job.padded = (matrix->inputs + 3) / 4 * 4;
    if (rows >= 4 * BLOCK) {
        share(many_rows, &job, rows, BLOCK);
        return job.failed;
    }
    char *space = malloc(space_of(&job, rows));
    if (!space)
        return 1;
    float *wide;
    divide(space, &job, rows, &job.whole, &job.of, &wide);
    round_rows(&job, 0, rows, job.whole, job.of, wide);
    int64_t grain = 1 + 400000 / (PANEL * job.padded * (rows < 1 ? 1 : rows));
    share(few_rows, &job, all_panels(&job), grain);
    free(space);
    return 0;
}
