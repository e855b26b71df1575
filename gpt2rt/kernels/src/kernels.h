/* What the kernels of every instruction set offer, and what a call of one works on. */
#ifndef GPT2RT_KERNELS_H
#define GPT2RT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum format { INT8, INT4, HALF, FLOAT, FORMATS };

#define QUANTA 64 /* values of a quantised row are padded with zeros to a multiple of this */
#define BLOCK 32  /* int4 weights that share a scale and a zero point */
#define COLUMNS 64 /* columns that are multiplied together */

/* y = x W^T, with what is around it: x [m,k] float, W [n,k] in a format, y [m,n] float. For INT8
 * and INT4 W lies as int8.h and int4.h say, else by the row. */
typedef struct {
    enum format format;
    size_t m, k, n;
    const float *x;
    const float *gain, *shift; /* [k] of a layer norm before the product; NULL: none */
    float epsilon;
    const void *w;
    const float *scale;          /* INT8: [n] */
    const uint16_t *block_scale; /* INT4: [n / 16, blocks, 16] float16 */
    const uint8_t *zero;         /* INT4: [n / 16, (blocks + 1) / 2, 16], low half first */
    const float *bias;           /* [n]; NULL: none */
    int gelu;                    /* whether OpenAI's GELU follows */
    const float *residual;       /* [m,n], added at the end; NULL: none */
    float *y;
    /* Rows as the product reads them, made by `prepare`. */
    char *rows;        /* m times `stride` bytes: int8 or float, zeros behind */
    size_t stride;
    float *normed;     /* INT8, INT4 behind a norm: [m,k] */
    float *row_scale;  /* INT8, INT4: [m] */
    int32_t *row_sum;  /* INT8: [m], the sum of a row's integers */
} Product;

/* Causal attention of t tokens over the keys and values of their slots. */
typedef struct {
    size_t t, slots, heads, capacity, width; /* width: a multiple of 16 */
    const float *qkv;        /* [t, 3, heads, width] */
    const int32_t *slot, *position; /* [t] */
    int half;                /* whether keys and values are float16; else float */
    void *keys, *values;     /* [slots, heads, capacity, width] */
    float scale;
    float *mixed;            /* [t, heads, width] */
} Attention;

/* y [t,width] = row tokens[i] of an INT8 matrix, plus row positions[i] of `places`. */
typedef struct {
    size_t t, width;
    const int32_t *tokens, *positions; /* [t] */
    const uint8_t *w;
    const float *scale, *places;
    float *y;
} Embedding;

typedef struct {
    const char *name;
    /* Whether they compute here what they should; NULL: that needs no trial. */
    int (*sound)(void);
    /* A layer norm of a row of k values (Ba, Kiros and Hinton 2016), with the biased variance. */
    void (*norm)(const float *x, const float *gain, const float *shift, size_t k, float epsilon,
                 float *y);
    /* The bytes of a row as the product reads it. */
    size_t (*row_bytes)(enum format format, size_t k);
    /* Make the rows `first` to `last` (exclusive) of p->rows. */
    void (*prepare)(const Product *p, size_t first, size_t last);
    /* Compute y for the rows m0 to m1 and the columns n0 to n1 (exclusive), n0 being a multiple of
     * COLUMNS. */
    void (*multiply)(const Product *p, size_t m0, size_t m1, size_t n0, size_t n1);
    /* Make the rows `first` to `last` of an embedding. */
    void (*embed)(const Embedding *e, size_t first, size_t last);
    /* Write keys and values of the tokens `first` to `last`. */
    void (*remember)(const Attention *a, size_t first, size_t last);
    /* Compute `mixed` of a head for `count` tokens from `first` on, which follow each other in one
     * slot; `scratch` has room for `scratch_floats(a)`. */
    void (*attend)(const Attention *a, size_t head, size_t first, size_t count, float *scratch);
    size_t (*scratch_floats)(const Attention *a);
} Kernels;

#define QUERIES 16 /* most tokens of a call of `attend`: one for each lane */

static inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

const Kernels *gpt2rt_kernels(void);

#endif
