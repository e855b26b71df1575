/* Every version of the kernels that this processor runs, beside the scalar one (the same bits) and
 * beside sums in double (close), for random shapes. Exits with 1 at the first difference.
 *
 * driver [version [rounds [seed]]], the version being one of them or "all"; exits with 77 where this
 * processor does not run it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "kernels.h"

static uint64_t state, printed = 0xcbf29ce484222325ull;

/* Note what a version computed, so that programs for two processors can be compared: Fowler, Noll
 * and Vo's hash (1991). */
static void note(const float *values, size_t count) {
    const uint8_t *bytes = (const uint8_t *)values;
    for (size_t i = 0; i < count * sizeof *values; i++) printed = (printed ^ bytes[i]) * 0x100000001b3ull;
}

static uint64_t draw(void) { /* Marsaglia's xorshift (2003) */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static size_t below(size_t n) { return (size_t)(draw() >> 11) % n; }
static float normal(void) { /* roughly */
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += (float)(draw() >> 40) * 0x1p-24f;
    return sum - 6;
}

/* Memory of exactly this size, so that the sanitizer sees every step beyond it. */
static void *fresh(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) exit(2);
    return memory;
}

static float *normals(size_t count, float scale, float shift) {
    float *values = fresh(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = normal() * scale + shift;
    return values;
}

static uint16_t to_half(float value) { /* normal numbers that float16 has, cut */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t exponent = bits >> 23 & 255;
    if (exponent < 113 || exponent > 142) return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 1023));
}

static double from_half(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h >> 15 ? -value : value;
}

static uint16_t *halves(size_t count, float scale) {
    uint16_t *values = fresh(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = to_half(normal() * scale);
    return values;
}

static uint8_t *bytes(size_t count, int least) {
    uint8_t *values = fresh(count);
    for (size_t i = 0; i < count; i++) values[i] = (uint8_t)(least + (int)below((size_t)(256 - least)));
    return values;
}

static void fail(const char *what, const char *version, size_t m, size_t k, size_t n) {
    fprintf(stderr, "%s differs in %s: m %zu, k %zu, n %zu\n", what, version, m, k, n);
    exit(1);
}

/* ---- products */

/* A weight as a number. */
static double weight(const Product *p, size_t n, size_t k) {
    const size_t blocks = (p->k + BLOCK - 1) / BLOCK, block = n / 16 * blocks + k / BLOCK;
    switch (p->format) {
    case INT8: {
        const size_t group = n / 16 * round_up(p->k, QUANTA) / 4 + k / 4;
        return (((const uint8_t *)p->w)[(group * 16 + n % 16) * 4 + k % 4] - 128) * (double)p->scale[n];
    }
    case INT4: {
        const size_t eight = block * 4 + k % BLOCK / 8, pair = n / 16 * ((blocks + 1) / 2) + k / BLOCK / 2;
        const uint8_t byte = ((const uint8_t *)p->w)[(eight * 16 + n % 16) * 4 + k % 8 / 2];
        const uint8_t zero = p->zero[pair * 16 + n % 16];
        const int step = byte >> 4 * (k % 2) & 15, origin = zero >> 4 * (k / BLOCK % 2) & 15;
        return (step - origin) * from_half(p->block_scale[block * 16 + n % 16]);
    }
    case HALF: return from_half(((const uint16_t *)p->w)[n * p->k + k]);
    default: return ((const float *)p->w)[n * p->k + k];
    }
}

static void rows_of(const Product *p, size_t row, double *out) {
    double mean = 0, square = 0, most = 0;
    for (size_t i = 0; i < p->k; i++) mean += p->x[row * p->k + i] / (double)p->k;
    for (size_t i = 0; i < p->k; i++) square += pow(p->x[row * p->k + i] - mean, 2) / (double)p->k;
    for (size_t i = 0; i < p->k; i++) {
        out[i] = p->x[row * p->k + i];
        if (p->gain) out[i] = (out[i] - mean) / sqrt(square + p->epsilon) * p->gain[i] + p->shift[i];
        most = fmax(most, fabs(out[i]));
    }
    if (p->format == INT8 || p->format == INT4)
        for (size_t i = 0; i < p->k; i++) out[i] = most ? rint(out[i] * 127 / most) * most / 127 : 0;
}

static void check_product(const Product *p) {
    double *row = fresh(p->k * sizeof *row);
    for (size_t m = 0; m < p->m; m++) {
        rows_of(p, m, row);
        for (size_t n = 0; n < p->n; n++) {
            double y = p->bias ? p->bias[n] : 0, size = 0.1 + fabs(y);
            for (size_t k = 0; k < p->k; k++) {
                y += row[k] * weight(p, n, k);
                size += fabs(row[k] * weight(p, n, k));
            }
            if (p->gelu) y = 0.5 * y * (1 + tanh(sqrt(2 / acos(-1)) * (y + 0.044715 * y * y * y)));
            if (p->residual) y += p->residual[m * p->n + n];
            /* A value on the border of two steps may round to either. */
            const double slack = p->format == INT8 || p->format == INT4 ? size / 50 : size * 2e-6;
            if (!(fabs(y - p->y[m * p->n + n]) <= slack)) fail("a product", "scalar", m, p->k, n);
        }
    }
    free(row);
}

/* y of the versions `name`, in pieces of rows and columns as they come. */
static void multiply(const char *name, Product *p, float *y) {
    if (!gpt2rt_use(name)) exit(2);
    const Kernels *kernels = gpt2rt_kernels();
    p->y = y;
    p->stride = kernels->row_bytes(p->format, p->k);
    p->rows = fresh(p->m * p->stride);
    p->row_scale = fresh(p->m * sizeof(float));
    p->row_sum = fresh(p->m * sizeof(int32_t));
    p->normed = fresh(p->m * p->k * sizeof(float));
    kernels->prepare(p, 0, p->m);
    for (size_t m = 0; m < p->m;) {
        const size_t m1 = m + 1 + below(p->m - m);
        for (size_t n = 0; n < p->n; n += COLUMNS)
            kernels->multiply(p, m, m1, n, n + COLUMNS < p->n ? n + COLUMNS : p->n);
        m = m1;
    }
    free(p->normed), free(p->row_sum), free(p->row_scale), free(p->rows);
}

static void try_product(enum format format, const char *const *versions) {
    const size_t m = 1 + below(below(4) ? 9 : 40), k = 1 + below(200), n = 1 + below(150);
    const size_t blocks = (k + BLOCK - 1) / BLOCK;
    float *x = normals(m * k, 1, 0.1f), *gain = normals(k, 0.1f, 1), *shift = normals(k, 0.1f, 0);
    float *scale = normals(n, 1e-4f, 1e-3f), *bias = normals(n, 0.5f, 0);
    float *residual = normals(m * n, 1, 0);
    const size_t padded = round_up(n, 16);
    uint16_t *block_scale = halves(padded * blocks, 0.01f);
    uint8_t *zero = bytes(padded * ((blocks + 1) / 2), 0);
    void *w = format == INT8 ? (void *)bytes(padded * round_up(k, QUANTA), 1)
              : format == INT4 ? (void *)bytes(padded * blocks * 16, 0)
              : format == HALF ? (void *)halves(n * k, 0.1f) : (void *)normals(n * k, 0.1f, 0);
    if (!below(5)) memset(x + below(m) * k, 0, k * sizeof *x);
    Product p = {.format = format, .m = m, .k = k, .n = n, .x = x, .epsilon = 1e-5f, .w = w,
                 .scale = scale, .block_scale = block_scale, .zero = zero};
    if (below(2)) p.gain = gain, p.shift = shift;
    if (below(2)) p.bias = bias;
    if (below(2)) p.residual = residual;
    p.gelu = !p.residual && below(2);
    float *first = fresh(m * n * sizeof(float)), *other = fresh(m * n * sizeof(float));
    multiply("scalar", &p, first);
    check_product(&p);
    note(first, m * n);
    for (size_t i = 0; versions[i]; i++) {
        multiply(versions[i], &p, other);
        if (memcmp(first, other, m * n * sizeof(float))) fail("a product", versions[i], m, k, n);
    }
    free(first), free(other), free(w), free(zero), free(block_scale), free(residual), free(bias);
    free(scale), free(shift), free(gain), free(x);
}

/* ---- attention */

static double kept(const Attention *a, const void *all, size_t slot, size_t head, size_t at, size_t d) {
    const size_t i = ((slot * a->heads + head) * a->capacity + at) * a->width + d;
    return a->half ? from_half(((const uint16_t *)all)[i]) : ((const float *)all)[i];
}

static void check_attention(const Attention *a) {
    const size_t all = a->heads * a->width;
    for (size_t t = 0; t < a->t; t++)
        for (size_t head = 0; head < a->heads; head++) {
            const float *q = a->qkv + t * 3 * all + head * a->width;
            const size_t slot = (size_t)a->slot[t], length = (size_t)a->position[t] + 1;
            double sum = 0, *e = fresh(length * sizeof *e), most = -INFINITY;
            for (size_t at = 0; at < length; at++) {
                e[at] = 0;
                for (size_t d = 0; d < a->width; d++) e[at] += q[d] * kept(a, a->keys, slot, head, at, d);
                e[at] *= a->scale;
                most = fmax(most, e[at]);
            }
            for (size_t at = 0; at < length; at++) sum += e[at] = exp(e[at] - most);
            for (size_t d = 0; d < a->width; d++) {
                double y = 0;
                for (size_t at = 0; at < length; at++) y += e[at] / sum * kept(a, a->values, slot, head, at, d);
                if (!(fabs(y - a->mixed[t * all + head * a->width + d]) <= 2e-5))
                    fail("attention", "scalar", t, head, d);
            }
            free(e);
        }
}

static void attend(const char *name, Attention *a) {
    if (!gpt2rt_use(name)) exit(2);
    const Kernels *kernels = gpt2rt_kernels();
    float *scratch = fresh(kernels->scratch_floats(a) * sizeof(float));
    kernels->remember(a, 0, a->t);
    for (size_t head = 0; head < a->heads; head++)
        for (size_t t = 0; t < a->t;) {
            size_t count = 1; /* followers, as many as a call takes or fewer */
            while (count < QUERIES && t + count < a->t && a->slot[t + count] == a->slot[t] &&
                   a->position[t + count] == a->position[t] + (int32_t)count && below(20))
                count++;
            kernels->attend(a, head, t, count, scratch);
            t += count;
        }
    free(scratch);
}

static void try_attention(int half, const char *const *versions) {
    const size_t slots = 1 + below(3), heads = 1 + below(3), capacity = 1 + below(60);
    const size_t width = 16 * (1 + below(6)), unit = half ? 2 : 4;
    const size_t size = slots * heads * capacity * width, all = heads * width;
    int32_t slot[200], position[200];
    size_t t = 0;
    for (size_t s = 0; s < slots; s++) {
        const size_t from = below(capacity), count = 1 + below(capacity - from);
        for (size_t i = 0; i < count && t < 200; i++, t++) slot[t] = (int32_t)s, position[t] = (int32_t)(from + i);
    }
    void *past[2], *present[2];
    for (int i = 0; i < 2; i++) {
        past[i] = half ? (void *)halves(size, 1) : (void *)normals(size, 1, 0);
        present[i] = fresh(size * unit);
    }
    float *qkv = normals(t * 3 * all, 1, 0), *first = fresh(t * all * sizeof(float));
    float *other = fresh(t * all * sizeof(float));
    Attention a = {.t = t, .slots = slots, .heads = heads, .capacity = capacity, .width = width,
                   .qkv = qkv, .slot = slot, .position = position, .half = half,
                   .keys = present[0], .values = present[1], .scale = 0.2f};
    for (size_t v = 0; !v || versions[v - 1]; v++) {
        for (int i = 0; i < 2; i++) memcpy(present[i], past[i], size * unit);
        a.mixed = v ? other : first;
        attend(v ? versions[v - 1] : "scalar", &a);
        if (!v) check_attention(&a), note(first, t * all);
        if (v && memcmp(first, other, t * all * sizeof(float))) fail("attention", versions[v - 1], t, capacity, width);
    }
    free(other), free(first), free(qkv);
    for (int i = 0; i < 2; i++) free(past[i]), free(present[i]);
}

int main(int count, char **values) {
    static const char *const known[] = {"avx2", "avx512", "amx", "neon"};
    const char *versions[5] = {0}, *wanted = count > 1 ? values[1] : "all";
    const int rounds = count > 2 ? atoi(values[2]) : 30;
    size_t found = 0;
    state = 0x9E3779B97F4A7C15ull + (count > 3 ? (uint64_t)atoi(values[3]) : 0);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if ((!strcmp(wanted, "all") || !strcmp(wanted, known[i])) && gpt2rt_use(known[i]))
            versions[found++] = known[i];
    if (!found && strcmp(wanted, "all") && strcmp(wanted, "scalar")) return 77;
    const uint64_t seed = state;
    for (uint64_t trial = 0; trial < (uint64_t)rounds * (FORMATS + 1); trial++) {
        state = (seed + trial * 0x9E3779B97F4A7C15ull) | 1; /* however many numbers were drawn */
        for (int i = 0; i < 8; i++) draw();
        if (trial % (FORMATS + 1) < FORMATS)
            try_product((enum format)(trial % (FORMATS + 1)), versions);
        else
            try_attention((int)(trial / (FORMATS + 1) % 2), versions);
    }
    printf("%d rounds, the bits of all results: %016llx\n", rounds, (unsigned long long)printed);
    return 0;
}
