/* Activation functions, without branches, so that the compiler computes several numbers at a time.

   The exponential is 2^n · 2^f with a polynomial for 2^f (relative error 2e-7); the error function is formula 7.1.26 of
   Abramowitz and Stegun (error 1.5e-7). */

#ifndef BLANKFILL_ACTIVATIONS_H
#define BLANKFILL_ACTIVATIONS_H

#include "products.h"

enum { NO_ACTIVATION, GELU, GELU_TANH, SILU, RELU };

INLINE float exponential(float x) /* x ≤ 88; below −87 about 0 */
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float scaled = x * 1.44269504f + 12582912.0f; /* the bits of the sum end with the nearest whole number */
    float whole = scaled - 12582912.0f;
    float rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    return power * of_bits((bits_of(scaled) + 127u) << 23);
}

INLINE float gelu(float x)
{
    float z = fabsf(x) * 0.70710678f;
    float t = 1.0f / (1.0f + 0.3275911f * z);
    float sum = 1.061405429f;
    sum = sum * t - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    float rest = sum * t * exponential(-z * z); /* 1 − erf(z) */
    return 0.5f * x * (x < 0.0f ? rest : 2.0f - rest);
}

INLINE float activated(float x, int activation)
{
    if (activation == GELU)
        return gelu(x);
    if (activation == GELU_TANH)
        return x / (1.0f + exponential(-1.59576912f * x * (1.0f + 0.044715f * x * x)));
    if (activation == SILU)
        return x / (1.0f + exponential(-x));
    if (activation == RELU)
        return x < 0.0f ? 0.0f : x;
    return x;
}

#endif
