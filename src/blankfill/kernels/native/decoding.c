/* One step of decoding in one call: one new column for each row passes through all layers.

   With few rows a step is as fast as the weights are read from memory, so nothing else may take time: products read
   each weight once, in the type in which it is stored, and everything between products stays in fp32 in the cache. The
   wiring is that of model/layers.py (`through`), and the shapes are those of model/single.py. */

#include "decoding.h"

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

/* A product with numbers. residual: added to the result, times scale; or none. */
typedef struct {
    const Dense *dense;
    const float *x, *residual;
    float *out, scale;
    int64_t rows;
} Product;

typedef struct {
    const Step *step;
    const Layer *layer;
    float *made, *mixed;
} Attending;

enum { AHEAD = 4 << 10 }; /* bytes that are asked for before they are read: memory answers late */

INLINE int64_t ahead_of(int64_t tile)
{
    return (AHEAD + tile - 1) / tile * tile;
}

#define TARGET
#define LEVEL 0
#define NAME(x) x##_portable
#include "decoding_body.h"
#if defined(__x86_64__)
#define TARGET AVX2
#define LEVEL 1
#define NAME(x) x##_avx2
#include "decoding_body.h"
#define TARGET AVX512
#define LEVEL 2
#define NAME(x) x##_avx512
#include "decoding_body.h"
#define BY_PATH(path, x) ((path) == WITH_AVX512 ? x##_avx512 : (path) == WITH_AVX2 ? x##_avx2 : x##_portable)
#else
#define BY_PATH(path, x) x##_portable
#endif

enum { GRAIN = 16 << 10 }; /* bytes of weights that are worth a piece of their own */

/* out = x W' + b, plus residual · scale where there is one; [rows, outputs]. `spare` has room for the result. Returns 0,
   or 1 without memory. */
static int product_of(
    const Dense *dense, const float *x, float *out, const float *residual, float scale, float *spare, int64_t rows)
{
    if (!dense->integers) {
        Product job = {dense, x, residual, out, scale, rows};
        int64_t grain = 1 + GRAIN / (dense->inputs * (dense->type == FLOAT32 ? 4 : 2));
        share(BY_PATH(dense->path, product), &job, dense->outputs, (grain + 3) / 4 * 4);
        return 0;
    }
    float *made = residual ? spare : out;
    if (integer_product(dense->integers, x, made, FLOAT32, rows))
        return 1;
    for (int64_t i = 0; residual && i < rows * dense->outputs; i++)
        out[i] = residual[i] * scale + made[i];
    return 0;
}

/* The product of one dense layer, for few rows: fp32 [rows, inputs] → fp32 [rows, outputs]. */
int dense_product(const Dense *dense, const float *x, float *out, int64_t rows)
{
    return product_of(dense, x, out, NULL, 1.0f, NULL, rows);
}

/* The number of fp32 numbers that a step needs as space. */
int64_t decoding_space(const Step *step)
{
    int64_t widest = step->width, inner = 0;
    for (int64_t k = 0; k < step->count; k++) {
        const Layer *layer = step->layers + k;
        const Dense *all[] = {&layer->qkv, &layer->output, &layer->cross_query, &layer->inner, &layer->ffn_output};
        for (int d = 0; d < 5; d++)
            widest = all[d]->outputs > widest ? all[d]->outputs : widest;
        inner = layer->ffn_output.inputs > inner ? layer->ffn_output.inputs : inner;
        inner = layer->output.inputs > inner ? layer->output.inputs : inner;
    }
    return step->rows * (2 * widest + inner + step->width) + 64;
}

static void normed(const Step *step, const Norm *norm, const float *x, float *out)
{
    BY_PATH(step->path, norms)(norm, x, out, step->rows, step->width);
}

/* Passes step->x through all layers, and adds the new keys and values to the caches. Returns 0, or 1 without memory. */
int decoding_step(const Step *step)
{
    int64_t widest = step->width;
    for (int64_t k = 0; k < step->count; k++) {
        const Layer *layer = step->layers + k;
        widest = layer->qkv.outputs > widest ? layer->qkv.outputs : widest;
        widest = layer->inner.outputs > widest ? layer->inner.outputs : widest;
    }
    float *x = step->x, *read = step->space, *made = read + step->rows * step->width;
    float *spare = made + step->rows * widest, *mixed = spare + step->rows * widest;
    for (int64_t k = 0; k < step->count; k++) {
        const Layer *layer = step->layers + k;
        Attending job = {step, layer, made, mixed};
        for (int part = 0; part < 3; part++) {
            const Norm *norm = part == 0 ? &layer->attention_norm : part == 1 ? &layer->cross_norm : &layer->ffn_norm;
            const Dense *into = part == 0 ? &layer->qkv : part == 1 ? &layer->cross_query : &layer->inner;
            const Dense *out = part == 0 ? &layer->output : part == 1 ? &layer->cross_output : &layer->ffn_output;
            if (part == 1 && !layer->cross_key)
                continue;
            const float *given = x;
            if (step->pre && norm->present) {
                normed(step, norm, x, read);
                given = read;
            }
            if (product_of(into, given, made, NULL, 1.0f, spare, step->rows))
                return 1;
            if (part == 0)
                share(BY_PATH(step->path, self_attention), &job, 4 * step->rows * step->kv_heads, 4);
            else if (part == 1)
                share(BY_PATH(step->path, cross_attention), &job, 4 * step->contexts * step->heads, 4);
            else
                BY_PATH(step->path, activations)(step, made, mixed, into->outputs);
            if (product_of(out, mixed, x, x, step->residual_scale, spare, step->rows))
                return 1;
            if (!step->pre && norm->present)
                normed(step, norm, x, x);
        }
    }
    if (step->final_norm.present)
        normed(step, &step->final_norm, x, x);
    return 0;
}
