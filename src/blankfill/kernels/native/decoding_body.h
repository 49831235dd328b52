/* The functions of decoding.c for one set of instructions: TARGET, LEVEL and NAME() are those of the file that includes
   this one. A vector has 16 numbers for all of them, so that the order of sums is the same. */

TARGET INLINE Vector NAME(load)(const void *from, int type, int64_t at)
{
    Vector made;
    if (type == FLOAT32) {
        memcpy(&made, (const float *)from + at, sizeof made);
        return made;
    }
    const uint16_t *half = (const uint16_t *)from + at;
#if LEVEL == 2
    if (type == FLOAT16)
        return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)half));
    return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)half)), 16);
#elif LEVEL == 1
    __m256 low, high;
    __m128i first = _mm_loadu_si128((const __m128i *)half), second = _mm_loadu_si128((const __m128i *)(half + 8));
    if (type == FLOAT16) {
        low = _mm256_cvtph_ps(first);
        high = _mm256_cvtph_ps(second);
    } else {
        low = (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(first), 16);
        high = (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(second), 16);
    }
    memcpy(&made, &low, sizeof low);
    memcpy((char *)&made + sizeof low, &high, sizeof high);
    return made;
#else
    for (int k = 0; k < 16; k++)
        made[k] = type == FLOAT16 ? from_half(half[k]) : from_bfloat(half[k]);
    return made;
#endif
}

TARGET INLINE void NAME(store)(float *to, Vector x)
{
    memcpy(to, &x, sizeof x);
}

TARGET INLINE float NAME(sum)(Vector x)
{
#if LEVEL == 2
    return _mm512_reduce_add_ps((__m512)x);
#else
    float part[16];
    memcpy(part, &x, sizeof part);
    for (int size = 8; size; size /= 2)
        for (int k = 0; k < size; k++)
            part[k] += part[k + size];
    return part[0];
#endif
}

TARGET INLINE Vector NAME(spread)(float x)
{
    return x - (Vector){0};
}

TARGET INLINE Vector NAME(pick)(Ints where, Vector x, Vector other)
{
    return (Vector)((where & (Ints)x) | (~where & (Ints)other));
}

/* e^x: 2^n · e^r with |r| <= ln 2 / 2, a polynomial of degree 6; 0 below -87. NaN stays NaN. */
TARGET INLINE Vector NAME(exponential)(Vector x)
{
    x = NAME(pick)(x > 88.0f, NAME(spread)(88.0f), x);
    Ints small = x < -87.0f;
    x = NAME(pick)(small, NAME(spread)(-87.0f), x);
    Vector shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    Vector r = x - n * 0.693145752f - n * 1.42860677e-6f;
    Vector made = NAME(spread)(1.0f / 720);
    made = made * r + 1.0f / 120;
    made = made * r + 1.0f / 24;
    made = made * r + 1.0f / 6;
    made = made * r + 0.5f;
    made = made * r + 1.0f;
    made = made * r + 1.0f;
    Ints power = ((Ints)shifted - 0x4b400000 + 127) << 23;
    made = made * (Vector)power;
    return NAME(pick)(small, NAME(spread)(0.0f), made);
}

TARGET INLINE Vector NAME(activated)(Vector x, int kind)
{
    if (kind == RELU)
        return NAME(pick)(x < 0.0f, NAME(spread)(0.0f), x);
    if (kind == SILU)
        return x / (1.0f + NAME(exponential)(-x));
    if (kind == GELU_TANH) {
        Vector u = 0.797884561f * (x + 0.044715f * x * x * x);
        return x - x / (1.0f + NAME(exponential)(2.0f * u));
    }
    /* erf by Abramowitz and Stegun, 7.1.26: its error is at most 1.5e-7 */
    Vector z = NAME(pick)(x < 0.0f, -x, x) * 0.707106781f, t = 1.0f / (1.0f + 0.3275911f * z);
    Vector tail = NAME(spread)(1.061405429f);
    tail = tail * t - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = (tail * t + 0.254829592f) * t * NAME(exponential)(-z * z); /* 1 - erf(z) */
    return 0.5f * x * NAME(pick)(x < 0.0f, tail, 2.0f - tail);
}

/* made[count] = activation(made), times other[count] for a gated layer */
TARGET INLINE void NAME(activate)(float *made, const float *x, const float *other, int64_t count, int kind)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        Vector value = NAME(activated)(NAME(load)(x, FLOAT32, i), kind);
        NAME(store)(made + i, other ? value * NAME(load)(other, FLOAT32, i) : value);
    }
    for (; i < count; i++) {
        Vector value = NAME(activated)(NAME(spread)(x[i]), kind);
        made[i] = other ? value[0] * other[i] : value[0];
    }
}

TARGET INLINE void NAME(norm_row)(const Norm *norm, const float *x, float *out, int64_t width)
{
    float mean = 0, square = 0;
    Vector sums = {0};
    int64_t i = 0;
    if (!norm->root_mean_square) {
        for (; i + 16 <= width; i += 16)
            sums += NAME(load)(x, FLOAT32, i);
        mean = NAME(sum)(sums);
        for (; i < width; i++)
            mean += x[i];
        mean /= (float)width;
    }
    sums = (Vector){0};
    for (i = 0; i + 16 <= width; i += 16) {
        Vector apart = NAME(load)(x, FLOAT32, i) - mean;
        sums += apart * apart;
    }
    square = NAME(sum)(sums);
    for (; i < width; i++)
        square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(square / (float)width + norm->eps);
    for (i = 0; i < width; i++) {
        float made = (x[i] - mean) * scale * norm->weight[i];
        out[i] = norm->bias ? made + norm->bias[i] : made;
    }
}

/* Attention of one query to the columns of one head, a block at a time. key, value: [.., columns, width]; owner: the row
   of the cache of each column, `apart` numbers each, or none. */
TARGET INLINE void NAME(attend_of)(
    const float *query, const char *key, const char *value, const int type, int64_t columns, int64_t width,
    const int32_t *owner, int64_t apart, const float *bias, float scale, float *out)
{
    enum { BLOCK = 64, AHEAD = 32 }; /* columns */
    int size = type == FLOAT32 ? 4 : 2;
    int64_t whole = width / 16;
    Vector made[MOST_WIDTH / 16 + 1];
    float scores[BLOCK], most = -INFINITY, total = 0, rest[16] = {0};
    for (int64_t v = 0; v < whole; v++)
        made[v] = (Vector){0};
    for (int64_t first = 0; first < columns; first += BLOCK) {
        int64_t count = MIN(BLOCK, columns - first);
        float top = -INFINITY;
#if LEVEL == 2
        __mmask16 nothing = 0; /* NaN */
        Vector tops = NAME(spread)(-INFINITY);
        for (int64_t k = 0; k < count; k += 16) { /* sixteen columns at a time; after the last one it stands for others */
            const char *rows[16];
            __m512 sums[4][4];
            const __mmask16 mask = (__mmask16)((1u << MIN(16, count - k)) - 1);
            for (int c = 0; c < 16; c++) {
                int64_t column = first + MIN(k + c, count - 1), next = MIN(column + AHEAD, columns - 1);
                int64_t at = ((owner ? owner[column] * apart : 0) + column * width) * size;
                rows[c] = key + at;
                for (int64_t line = 0; line < width * size; line += 64) { /* what is read from memory soon */
                    _mm_prefetch(value + at + line, _MM_HINT_T0);
                    _mm_prefetch(key + ((owner ? owner[next] * apart : 0) + next * width) * size + line, _MM_HINT_T0);
                }
            }
            EACH(j, 4)
                EACH(c, 4)
                    sums[j][c] = _mm512_setzero_ps();
            for (int64_t v = 0; v < whole; v++) {
                Vector part = NAME(load)(query, FLOAT32, 16 * v);
                EACH(c, 4)
                    EACH(j, 4)
                        sums[j][c] += (__m512)(part * NAME(load)(rows[4 * c + j], type, 16 * v));
            }
            Vector made_of = (Vector)sixteen_totals(sums);
            for (int64_t i = 16 * whole; i < width; i++)
                for (int c = 0; c < 16; c++)
                    made_of[c] += query[i] * number_at(rows[c], type, i);
            Vector added = bias ? (Vector)_mm512_maskz_loadu_ps(mask, bias + first + k) : (Vector){0};
            made_of = made_of * scale + added;
            made_of = (Vector)_mm512_mask_blend_ps(mask, (__m512)NAME(spread)(-INFINITY), (__m512)made_of);
            nothing |= _mm512_cmp_ps_mask((__m512)made_of, (__m512)made_of, _CMP_UNORD_Q);
            tops = (Vector)_mm512_max_ps((__m512)tops, (__m512)made_of);
            NAME(store)(scores + k, made_of);
        }
        top = nothing ? NAN : _mm512_reduce_max_ps((__m512)tops);
#else
        for (int64_t k = 0; k < count; k += 4) { /* four columns at a time; after the last one it stands for the others */
            const char *rows[4];
            Vector sums[4] = {{0}, {0}, {0}, {0}};
            EACH(c, 4) {
                int64_t column = first + MIN(k + c, count - 1);
                rows[c] = key + ((owner ? owner[column] * apart : 0) + column * width) * size;
            }
            for (int64_t v = 0; v < whole; v++) {
                Vector part = NAME(load)(query, FLOAT32, 16 * v);
                EACH(c, 4)
                    sums[c] += part * NAME(load)(rows[c], type, 16 * v);
            }
            for (int64_t c = 0; c < MIN(4, count - k); c++) {
                float sum = NAME(sum)(sums[c]);
                for (int64_t i = 16 * whole; i < width; i++)
                    sum += query[i] * number_at(rows[c], type, i);
                sum = sum * scale + (bias ? bias[first + k + c] : 0.0f);
                scores[k + c] = sum;
                top = sum > top || sum != sum ? sum : top;
            }
        }
#endif
        if (top == -INFINITY)
            continue;
        for (int64_t k = count; k < BLOCK; k++)
            scores[k] = -INFINITY;
        if (!(top <= most)) {
            Vector lower = NAME(exponential)(NAME(spread)(most - top));
            total *= lower[0];
            for (int64_t v = 0; v < whole; v++)
                made[v] *= lower;
            for (int64_t i = 16 * whole; i < width; i++)
                rest[i - 16 * whole] *= lower[0];
            most = top;
        }
        Vector sums = {0};
        for (int k = 0; k < BLOCK; k += 16) {
            Vector part = NAME(exponential)(NAME(load)(scores, FLOAT32, k) - most);
            NAME(store)(scores + k, part);
            sums += part;
        }
        total += NAME(sum)(sums);
        for (int64_t v = 0; v < whole; v += 4) { /* in registers over all columns */
            const int64_t some = MIN(4, whole - v);
            Vector part[4] = {{0}, {0}, {0}, {0}};
            for (int64_t k = 0; k < count; k++) {
                const char *row = value + ((owner ? owner[first + k] * apart : 0) + (first + k) * width) * size;
                if (some == 4)
                    EACH(c, 4)
                        part[c] += scores[k] * NAME(load)(row, type, 16 * (v + c));
                else
                    for (int64_t c = 0; c < some; c++)
                        part[c] += scores[k] * NAME(load)(row, type, 16 * (v + c));
            }
            for (int64_t c = 0; c < some; c++)
                made[v + c] += part[c];
        }
        for (int64_t k = 0; width % 16 && k < count; k++) {
            const char *row = value + ((owner ? owner[first + k] * apart : 0) + (first + k) * width) * size;
            for (int64_t i = 16 * whole; i < width; i++)
                rest[i - 16 * whole] += scores[k] * number_at(row, type, i);
        }
    }
    float inverse = 1.0f / total;
    for (int64_t v = 0; v < whole; v++)
        NAME(store)(out + 16 * v, made[v] * inverse);
    for (int64_t i = 16 * whole; i < width; i++)
        out[i] = rest[i - 16 * whole] * inverse;
}

TARGET static void NAME(attend)(
    const float *query, const char *key, const char *value, int type, int64_t columns, int64_t width,
    const int32_t *owner, int64_t apart, const float *bias, float scale, float *out)
{
    if (type == FLOAT32)
        NAME(attend_of)(query, key, value, FLOAT32, columns, width, owner, apart, bias, scale, out);
    else if (type == FLOAT16)
        NAME(attend_of)(query, key, value, FLOAT16, columns, width, owner, apart, bias, scale, out);
    else
        NAME(attend_of)(query, key, value, BFLOAT16, columns, width, owner, apart, bias, scale, out);
}

/* Rotates pairs of columns of a head; see attention/positions.py. */
TARGET INLINE void NAME(rotate)(const Step *step, float *x, int64_t row)
{
    for (int64_t a = 0; a < step->axes; a++) {
        float *first = x + 2 * a * step->pairs, *second = first + step->pairs;
        const float *cosine = step->cosine + (row * step->axes + a) * step->pairs;
        const float *sine = step->sine + (row * step->axes + a) * step->pairs;
        for (int64_t p = 0; p < step->pairs; p++) {
            float x1 = first[p], x2 = second[p];
            first[p] = x1 * cosine[p] - x2 * sine[p];
            second[p] = x2 * cosine[p] + x1 * sine[p];
        }
    }
}

/* Self-attention: each piece is a head of keys and values of a row, with the query heads that share it. */
TARGET static void NAME(self_attention)(void *given, int64_t begin, int64_t end)
{
    const Attending *job = given;
    const Step *step = job->step;
    int64_t width = step->head_width, shared = step->heads / step->kv_heads;
    int64_t made_width = (step->heads + 2 * step->kv_heads) * width;
    int size = step->type == FLOAT32 ? 4 : 2;
    for (int64_t piece = begin / 4; piece < end / 4; piece++) { /* four for each: `share` hands out multiples of four */
        int64_t row = piece / step->kv_heads, group = piece % step->kv_heads;
        if (step->owner) { /* rows share columns: a head of all of them before the next head */
            row = piece % step->rows;
            group = piece / step->rows;
        }
        float *made = job->made + row * made_width;
        float *key = made + (step->heads + group) * width, *value = key + step->kv_heads * width;
        if (step->cosine)
            NAME(rotate)(step, key, row);
        int64_t at = group * step->cache_head, here = at + row * step->cache_row + (step->end - 1) * width;
        for (int64_t i = 0; i < width; i++) {
            put_number((char *)job->layer->key + here * size, step->type, i, key[i]);
            put_number((char *)job->layer->value + here * size, step->type, i, value[i]);
        }
        const int32_t *owner = step->owner ? step->owner + row * step->owner_row + step->begin : NULL;
        at += (owner ? 0 : row * step->cache_row) + step->begin * width;
        for (int64_t h = group * shared; h < (group + 1) * shared; h++) {
            if (step->cosine)
                NAME(rotate)(step, made + h * width, row);
            const float *bias = step->bias ? step->bias + row * step->bias_row + h * step->bias_head : NULL;
            NAME(attend)(
                made + h * width, (char *)job->layer->key + at * size, (char *)job->layer->value + at * size, step->type,
                step->end - step->begin, width, owner, step->cache_row, bias, step->score_scale,
                job->mixed + (row * step->heads + h) * width);
        }
    }
}

/* Attention to contexts: each piece is a head of a context, with the rows that share the context. */
TARGET static void NAME(cross_attention)(void *given, int64_t begin, int64_t end)
{
    const Attending *job = given;
    const Step *step = job->step;
    int64_t width = step->head_width, each = step->rows / step->contexts;
    int size = step->type == FLOAT32 ? 4 : 2;
    for (int64_t piece = begin / 4; piece < end / 4; piece++) {
        int64_t context = piece / step->heads, head = piece % step->heads;
        int64_t at = (context * step->cross_row + head * step->cross_head) * size;
        const float *bias = step->cross_bias ? step->cross_bias + context * step->cross_columns : NULL;
        for (int64_t row = context * each; row < (context + 1) * each; row++)
            NAME(attend)(
                job->made + (row * step->heads + head) * width, (const char *)job->layer->cross_key + at,
                (const char *)job->layer->cross_value + at, step->type, step->cross_columns, width, NULL, 0, bias,
                step->cross_scale, job->mixed + (row * step->heads + head) * width);
    }
}

TARGET static void NAME(norms)(const Norm *norm, const float *x, float *out, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        NAME(norm_row)(norm, x + r * width, out + r * width, width);
}

TARGET static void NAME(activations)(const Step *step, const float *made, float *out, int64_t columns)
{
    int64_t inner = step->gated ? columns / 2 : columns;
    for (int64_t r = 0; r < step->rows; r++) {
        const float *x = made + r * columns;
        NAME(activate)(out + r * inner, x, step->gated ? x + inner : NULL, inner, step->activation);
    }
}

#undef TARGET
#undef LEVEL
#undef NAME
