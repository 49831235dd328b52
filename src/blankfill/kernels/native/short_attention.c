/* Attention of short rows: scores, softmax and the mix of values of one head of one row at a time, in fp32.

   For AVX-512 alone: with shorter vectors torch's kernel is faster. */

#include "activations.h"

int best_path(void);

enum { MOST_COLUMNS = 128, MOST_WIDTH = 128, TOGETHER = 4 };
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct {
    const void *packed; /* queries, keys, values: [rows, columns, 3, heads, width] */
    const float *bias;  /* [rows, columns, columns], added to the scores; may be missing */
    void *out;          /* [rows, columns, heads, width] */
    int64_t rows, columns, heads, width;
    float scale;
    int32_t type;
} Attention;

/* A loop, since a call of memcpy takes longer than the few numbers. */
INLINE void widen_here(const Attention *job, int64_t at, float *out)
{
    if (job->type == FLOAT32) {
        const float *x = (const float *)job->packed + at;
        for (int64_t e = 0; e < job->width; e += 16)
            *(Vector *)(out + e) = *(const Vector *)(x + e);
    } else
        widen(from(job->packed, job->type, at), job->type, out, job->width, WITH_AVX512);
}

INLINE void one_head(const Attention *job, int64_t row, int64_t head)
{
    int64_t columns = job->columns, width = job->width, padded = (columns + 15) / 16 * 16;
    float keys[MOST_WIDTH * MOST_COLUMNS], values[MOST_COLUMNS * MOST_WIDTH]; /* keys by columns: [width, padded] */
    float queries[TOGETHER][MOST_WIDTH], scores[TOGETHER][MOST_COLUMNS], line[MOST_WIDTH];
    for (int64_t t = 0; t < columns; t++) {
        int64_t at = (((row * columns + t) * 3 + 1) * job->heads + head) * width;
        widen_here(job, at, line);
        for (int64_t e = 0; e < width; e++)
            keys[e * padded + t] = line[e];
        widen_here(job, at + job->heads * width, values + t * width);
    }
    for (int64_t t = columns; t < padded; t++)
        for (int64_t e = 0; e < width; e++)
            keys[e * padded + t] = 0;
    for (int64_t first = 0; first < columns; first += TOGETHER) {
        int64_t count = MIN(TOGETHER, columns - first);
        for (int64_t r = 0; r < TOGETHER; r++) { /* beyond the last query it is computed again */
            int64_t t = MIN(first + r, columns - 1);
            widen_here(job, ((row * columns + t) * 3 * job->heads + head) * width, queries[r]);
            for (int64_t e = 0; e < width; e++)
                queries[r][e] *= job->scale;
        }
        for (int64_t k = 0; k < padded; k += 16) {
            Vector sums[TOGETHER] = {0};
            for (int64_t e = 0; e < width; e++) {
                Vector key = *(const Vector *)(keys + e * padded + k);
#pragma GCC unroll 4
                for (int r = 0; r < TOGETHER; r++)
                    sums[r] += queries[r][e] * key;
            }
#pragma GCC unroll 4
            for (int r = 0; r < TOGETHER; r++)
                *(Vector *)(scores[r] + k) = sums[r];
        }
        float factors[TOGETHER];
        for (int64_t r = 0; r < TOGETHER; r++) {
            float *score = scores[r], most = -INFINITY, total = 0;
            if (job->bias) {
                const float *bias = job->bias + (row * columns + MIN(first + r, columns - 1)) * columns;
                for (int64_t t = 0; t < columns; t++)
                    score[t] += bias[t];
            }
            for (int64_t t = 0; t < columns; t++)
                most = score[t] > most ? score[t] : most;
            most = most == -INFINITY ? 0 : most;
            for (int64_t t = 0; t < padded; t++)
                score[t] = exponential(score[t] - most);
            for (int64_t t = 0; t < columns; t++)
                total += score[t];
            factors[r] = 1 / total;
        }
        for (int64_t e = 0; e < width; e += 16) {
            Vector sums[TOGETHER] = {0};
            for (int64_t t = 0; t < columns; t++) {
                Vector value = *(const Vector *)(values + t * width + e);
#pragma GCC unroll 4
                for (int r = 0; r < TOGETHER; r++)
                    sums[r] += scores[r][t] * value;
            }
#pragma GCC unroll 4
            for (int r = 0; r < TOGETHER; r++)
                *(Vector *)(queries[r] + e) = factors[r] * sums[r];
        }
        for (int64_t r = 0; r < count; r++) {
            int64_t at = ((row * columns + first + r) * job->heads + head) * width;
            if (job->type == FLOAT32)
                for (int64_t e = 0; e < width; e += 16)
                    *(Vector *)((float *)job->out + at + e) = *(const Vector *)(queries[r] + e);
            else
                for (int64_t e = 0; e < width; e++)
                    put_number(job->out, job->type, at + e, queries[r][e]);
        }
    }
}

#if defined(__x86_64__)
AVX512 static void some_heads(void *data, int64_t begin, int64_t end)
{
    const Attention *job = data;
    int64_t bytes = job->columns * 3 * job->heads * job->width * (job->type == FLOAT32 ? 4 : 2);
    for (int64_t k = begin; k < end; k++) {
        if (k == begin || k % job->heads == 0) { /* heads read lines far apart; in order they come faster */
            const char *row = (const char *)job->packed + k / job->heads * bytes;
            for (int64_t at = 0; at < bytes; at += 64)
                __builtin_prefetch(row + at);
        }
        one_head(job, k / job->heads, k % job->heads);
    }
}
#endif

/* Returns 0, or 1 for sizes or processors for which this is not made. */
int short_attention(const Attention *given)
{
#if defined(__x86_64__)
    Attention job = *given;
    int fits = job.columns > 0 && job.columns <= MOST_COLUMNS && job.width <= MOST_WIDTH && job.width % 16 == 0;
    if (!fits || best_path() != WITH_AVX512)
        return 1;
    share(some_heads, &job, job.rows * job.heads, 1 + 100000 / (job.columns * job.columns * job.width));
    return 0;
#else
    (void)given;
    return 1;
#endif
}
