/* One step of decoding in one call: one new column for each row passes through all layers.

   With few rows a step is as fast as the weights are read from memory, so nothing else may take time: products read
   each weight once, in the type in which it is stored, and everything between products stays in fp32 in the cache. The
   wiring is that of model/layers.py (`through`), and the shapes are those of model/single.py. */

#include "decoding.h"

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

typedef struct {
    const Step *step;
    const Layer *layer;
    float *made, *mixed;
} Attending;

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

/* out = x W' + b, fp32 [rows, outputs]. Returns 0, or 1 without memory. */
static int product_of(const Dense *dense, const float *x, float *out, int64_t rows)
{
    if (dense->integers)
        return integer_product(dense->integers, x, out, FLOAT32, rows);
    return float_product(dense->floats, x, out, FLOAT32, rows);
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
    return step->rows * (widest + inner + step->width);
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
    float *mixed = made + step->rows * widest;
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
            if (product_of(into, given, made, step->rows))
                return 1;
            if (part == 0)
                share(BY_PATH(step->path, self_attention), &job, 4 * step->rows * step->kv_heads, 4);
            else if (part == 1)
                share(BY_PATH(step->path, cross_attention), &job, 4 * step->contexts * step->heads, 4);
            else
                BY_PATH(step->path, activations)(step, made, mixed, into->outputs);
            if (product_of(out, mixed, read, step->rows))
                return 1;
            for (int64_t i = 0; i < step->rows * step->width; i++)
                x[i] = x[i] * step->residual_scale + read[i];
            if (!step->pre && norm->present)
                normed(step, norm, x, x);
        }
    }
    if (step->final_norm.present)
        normed(step, &step->final_norm, x, x);
    return 0;
}
