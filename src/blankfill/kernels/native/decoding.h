/* The description of one step of decoding, which Python fills in (`kernels.decoding`); the fields are the same there. */

#ifndef BLANKFILL_DECODING_H
#define BLANKFILL_DECODING_H

#include "products.h"

enum { RELU, SILU, GELU, GELU_TANH };
enum { MOST_WIDTH = 512 }; /* numbers of a head */

/* A dense layer: a matrix of integers or of numbers, with its bias. */
typedef struct {
    const Matrix *integers;
    const Floats *floats;
    int64_t outputs, inputs;
} Dense;

/* A norm; no weight and no bias: none at all, where `present` is 0. */
typedef struct {
    const float *weight, *bias;
    float eps;
    int32_t root_mean_square, present;
} Norm;

typedef struct {
    Norm attention_norm, cross_norm, ffn_norm;
    Dense qkv, output, cross_query, cross_output, inner, ffn_output;
    void *key, *value;                     /* the cache, see `Step` */
    const void *cross_key, *cross_value;   /* of the contexts; none for a layer that attends to none */
} Layer;

typedef struct {
    const Layer *layers;
    int64_t count, rows, width, heads, kv_heads, head_width;
    float residual_scale, score_scale, cross_scale;
    int32_t pre, gated, activation, type, path; /* type: of the cache */
    Norm final_norm;
    float *x;                                   /* [rows, width], in and out */
    int64_t cache_row, cache_head;              /* steps in the cache, in numbers */
    int64_t begin, end;                         /* columns of the cache that are seen; the last one is new */
    const int32_t *owner;                       /* rows of the cache that hold the columns of a row, or none: its own */
    int64_t owner_row;
    const float *bias;                          /* of the scores, [rows or 1, heads or 1, columns], or none */
    int64_t bias_row, bias_head;
    const float *cosine, *sine;                 /* [rows, axes, pairs], or none */
    int64_t axes, pairs;
    int64_t contexts, cross_columns, cross_row, cross_head;
    const float *cross_bias;                    /* [contexts, cross_columns], or none */
    float *space;                               /* `decoding_space` numbers */
} Step;

#endif
