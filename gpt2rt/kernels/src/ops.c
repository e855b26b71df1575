/* The ops of the domain `gpt2rt`, as ONNX Runtime calls them.
 *
 * Everything that comes from a model file or a caller is checked here: ranks, sizes, slots and
 * positions. What does not fit is an error that names the op. The kernels trust what they get.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "kernels.h"
#include "ort.h"

#define DOMAIN_NAME "gpt2rt"
#define MOST_INPUTS 8
#define GROUP_COLUMNS 16 /* of INT8 and INT4 weights, side by side */
#define MOST_K (1 << 17) /* 127 * 128 times this is below 2^31 */
#define TASK_ROWS 240    /* most rows of a task: what they read stays in the L2 cache */

const OrtAnyFunction *ort_api;

enum kind { NORM, PRODUCT, ATTENTION, EMBED };

/* An op: what stands around its product, or the type of its keys and values. */
typedef struct {
    OrtOp op; /* first, since ONNX Runtime hands back its address */
    const char *name;
    enum kind kind;
    enum format format;
    int norm, bias, gelu, residual;
    int half;
} Op;

typedef struct {
    const Op *op;
    float number;    /* epsilon or scale */
    int64_t columns; /* of INT4 weights */
} Instance;

/* An input: its data, rank and sizes. */
typedef struct {
    const void *data;
    size_t rank;
    int64_t sizes[5];
} Tensor;

static OrtStatus *wrong(const Op *op, const char *what) {
    char message[200];
    snprintf(message, sizeof message, DOMAIN_NAME ".%s: %s", op->name, what);
    return ort_error(ORT_INVALID_ARGUMENT, message);
}

#define TRY(call) \
    do { \
        OrtStatus *status_ = (call); \
        if (status_) return status_; \
    } while (0)
#define CHECK(condition, what) \
    if (!(condition)) return wrong(op, what)

/* ---- what an op takes and gives */

static size_t weight_inputs(enum format format) { return format == INT8 ? 2 : format == INT4 ? 3 : 1; }

static size_t ORT_CALL count_inputs(const OrtOp *self) {
    const Op *op = (const Op *)self;
    if (op->kind == NORM) return 3;
    if (op->kind == ATTENTION || op->kind == EMBED) return 5;
    return 1 + 2 * (size_t)op->norm + weight_inputs(op->format) + (size_t)op->bias +
           (size_t)op->residual;
}

static int ORT_CALL type_of_input(const OrtOp *self, size_t index) {
    static const int weights[FORMATS][3] = {
        [INT8] = {ORT_UINT8, ORT_FLOAT}, [INT4] = {ORT_UINT8, ORT_FLOAT16, ORT_UINT8},
        [HALF] = {ORT_FLOAT16}, [FLOAT] = {ORT_FLOAT}};
    const Op *op = (const Op *)self;
    if (op->kind == EMBED) return index < 2 ? ORT_INT32 : index == 2 ? ORT_UINT8 : ORT_FLOAT;
    if (op->kind == NORM || index == 0) return ORT_FLOAT;
    if (op->kind == ATTENTION) return index < 3 ? ORT_INT32 : op->half ? ORT_FLOAT16 : ORT_FLOAT;
    const size_t first = 1 + 2 * (size_t)op->norm;
    if (index < first || index >= first + weight_inputs(op->format)) return ORT_FLOAT;
    return weights[op->format][index - first];
}

static size_t ORT_CALL count_outputs(const OrtOp *self) {
    return ((const Op *)self)->kind == ATTENTION ? 3 : 1;
}

static int ORT_CALL type_of_output(const OrtOp *self, size_t index) {
    return index && ((const Op *)self)->half ? ORT_FLOAT16 : ORT_FLOAT;
}

static const char *ORT_CALL name_of(const OrtOp *self) { return ((const Op *)self)->name; }
static const char *ORT_CALL provider_of(const OrtOp *self) { return (void)self, NULL; }
static int ORT_CALL required(const OrtOp *self, size_t index) { return (void)self, (void)index, 0; }
static int ORT_CALL on_cpu(const OrtOp *self, size_t index) { return (void)self, (void)index, 0; }
static int ORT_CALL none(const OrtOp *self) { return (void)self, 0; }
static int ORT_CALL since(const OrtOp *self) { return (void)self, 1; }
static int ORT_CALL until(const OrtOp *self) { return (void)self, INT32_MAX; }

/* ---- an op in a graph */

static OrtStatus *ORT_CALL create(const OrtOp *self, const OrtAnyFunction *api, const OrtInfo *info,
                                  void **instance) {
    (void)api;
    const Op *op = (const Op *)self;
    Instance *made = malloc(sizeof *made);
    if (!made) return wrong(op, "no memory");
    *made = (Instance){.op = op};
    const char *name = op->kind == ATTENTION ? "scale" : "epsilon";
    const int needs = op->kind == NORM || op->kind == ATTENTION || op->norm;
    OrtStatus *status = needs ? ort_attribute(info, name, &made->number) : NULL;
    if (!status && op->kind == PRODUCT && op->format == INT4)
        status = ort_whole_attribute(info, "N", &made->columns);
    if (status)
        free(made);
    else
        *instance = made;
    return status;
}

static void ORT_CALL destroy(void *instance) { free(instance); }

static OrtStatus *read_input(const OrtContext *context, size_t index, Tensor *into) {
    OrtValue *value = NULL;
    OrtShape *shape = NULL;
    void *data = NULL;
    TRY(ort_input(context, index, &value));
    TRY(ort_data(value, &data));
    TRY(ort_shape(value, &shape));
    into->data = data;
    OrtStatus *status = ort_rank(shape, &into->rank);
    if (!status) status = ort_sizes(shape, into->sizes, into->rank < 5 ? into->rank : 5);
    ort_release_shape(shape);
    return status;
}

static OrtStatus *make_output(OrtContext *context, size_t index, const int64_t *sizes, size_t rank,
                              void **data) {
    OrtValue *value = NULL;
    TRY(ort_output(context, index, sizes, rank, &value));
    return ort_data(value, data);
}

static int has_sizes(const Tensor *t, size_t rank, int64_t a, int64_t b, int64_t c) {
    return t->rank == rank && t->sizes[0] == a && (rank < 2 || t->sizes[1] == b) &&
           (rank < 3 || t->sizes[2] == c);
}

/* ---- Norm */

typedef struct {
    const Kernels *kernels;
    const float *x, *gain, *shift;
    size_t m, k, rows;
    float epsilon, *y;
} Norm;

static void ORT_CALL norm_task(void *data, size_t task) {
    const Norm *n = data;
    for (size_t row = task * n->rows; row < n->m && row < (task + 1) * n->rows; row++)
        n->kernels->norm(n->x + row * n->k, n->gain, n->shift, n->k, n->epsilon, n->y + row * n->k);
}

static OrtStatus *compute_norm(const Instance *instance, OrtContext *context, const Tensor *in) {
    const Op *op = instance->op;
    CHECK(in[0].rank == 2, "x has to be [rows, k]");
    const int64_t k = in[0].sizes[1];
    CHECK(k > 0 && has_sizes(&in[1], 1, k, 0, 0) && has_sizes(&in[2], 1, k, 0, 0),
          "gain and shift do not have the width of x");
    void *y;
    TRY(make_output(context, 0, in[0].sizes, 2, &y));
    Norm norm = {gpt2rt_kernels(), in[0].data, in[1].data, in[2].data, (size_t)in[0].sizes[0],
                 (size_t)k, 16, instance->number, y};
    return ort_parallel(context, norm_task, (norm.m + norm.rows - 1) / norm.rows, 0, &norm);
}

/* ---- products */

typedef struct {
    const Kernels *kernels;
    Product product;
    size_t rows, row_tasks;       /* rows a task of `multiply` */
    size_t columns, column_tasks; /* columns a task */
    size_t prepared;              /* rows a task of `prepare` */
} Multiplication;

static void ORT_CALL prepare_task(void *data, size_t task) {
    const Multiplication *job = data;
    const size_t first = task * job->prepared, last = first + job->prepared;
    job->kernels->prepare(&job->product, first, last < job->product.m ? last : job->product.m);
}

static void ORT_CALL multiply_task(void *data, size_t task) {
    const Multiplication *job = data;
    const Product *p = &job->product;
    const size_t m0 = task % job->row_tasks * job->rows, n0 = task / job->row_tasks * job->columns;
    const size_t m1 = m0 + job->rows, n1 = n0 + job->columns;
    job->kernels->multiply(p, m0, m1 < p->m ? m1 : p->m, n0, n1 < p->n ? n1 : p->n);
}

/* Rows that a product reads, made beforehand; the memory is `*scratch`. */
static OrtStatus *prepare_rows(const Op *op, OrtContext *context, Multiplication *job,
                               void **scratch) {
    Product *p = &job->product;
    p->stride = job->kernels->row_bytes(p->format, p->k);
    const int whole = p->format == INT8 || p->format == INT4;
    const size_t rows = round_up(p->m * p->stride, 64), numbers = round_up(p->m * 4, 64);
    const size_t normed = whole && p->gain ? p->m * p->k * sizeof(float) : 0;
    char *memory = *scratch = malloc(rows + 2 * numbers + normed + 64);
    CHECK(memory, "no memory for the rows");
    p->rows = memory;
    p->row_scale = (float *)(void *)(memory + rows);
    p->row_sum = (int32_t *)(void *)(memory + rows + numbers);
    p->normed = (float *)(void *)(memory + rows + 2 * numbers);
    if (p->m < 8) {
        job->kernels->prepare(p, 0, p->m);
        return NULL;
    }
    job->prepared = 8;
    return ort_parallel(context, prepare_task, (p->m + 7) / 8, 0, job);
}

/* Weights in groups of 16 columns and their scales. */
static OrtStatus *check_groups(const Op *op, const Tensor *w, int64_t k) {
    CHECK(w[1].rank == 1, "not one scale for each column");
    const int64_t groups = (w[1].sizes[0] + GROUP_COLUMNS - 1) / GROUP_COLUMNS;
    CHECK(has_sizes(w, 4, groups, (int64_t)round_up((size_t)k, QUANTA) / 4, GROUP_COLUMNS) &&
              w->sizes[3] == 4,
          "weights do not have the width of x, or not a scale for each column");
    return NULL;
}

/* Weights in groups of 16 columns, with scales and zero points for their blocks. */
static OrtStatus *check_blocks(const Op *op, const Tensor *w, int64_t k, int64_t n) {
    const int64_t blocks = (k + BLOCK - 1) / BLOCK, groups = w->sizes[0];
    CHECK(n > 0 && (n - 1) / GROUP_COLUMNS + 1 == groups, "not as many weights as N says");
    CHECK(has_sizes(w, 5, groups, blocks, BLOCK / 8) && w->sizes[3] == GROUP_COLUMNS &&
              w->sizes[4] == 4,
          "weights do not have the width of x");
    CHECK(has_sizes(&w[1], 3, groups, blocks, GROUP_COLUMNS), "scales do not fit the weights");
    CHECK(has_sizes(&w[2], 3, groups, (blocks + 1) / 2, GROUP_COLUMNS),
          "zero points do not fit the weights");
    return NULL;
}

static OrtStatus *check_weights(const Instance *instance, const Tensor *w, Product *p) {
    const Op *op = instance->op;
    const int64_t k = (int64_t)p->k, n = w->sizes[0];
    if (op->format == INT4) {
        TRY(check_blocks(op, w, k, instance->columns));
        p->block_scale = w[1].data;
        p->zero = w[2].data;
        p->n = (size_t)instance->columns;
    } else if (op->format == INT8) {
        TRY(check_groups(op, w, k));
        p->scale = w[1].data;
        p->n = (size_t)w[1].sizes[0];
    } else {
        CHECK(has_sizes(&w[0], 2, n, k, 0), "weights do not have the width of x");
        p->n = (size_t)n;
    }
    p->w = w->data;
    return NULL;
}

static OrtStatus *read_product(const Instance *instance, const Tensor *in, Product *p) {
    const Op *op = instance->op;
    CHECK(in[0].rank == 2 && in[0].sizes[1] > 0, "x has to be [rows, k]");
    const int64_t m = in[0].sizes[0], k = in[0].sizes[1];
    CHECK(k <= MOST_K, "x is too wide: sums would not fit 32 bits");
    *p = (Product){.format = op->format, .m = (size_t)m, .k = (size_t)k, .x = in[0].data,
                   .epsilon = instance->number, .gelu = op->gelu};
    const Tensor *next = in + 1;
    if (op->norm) {
        CHECK(has_sizes(&next[0], 1, k, 0, 0) && has_sizes(&next[1], 1, k, 0, 0),
              "gain and shift do not have the width of x");
        p->gain = next[0].data;
        p->shift = next[1].data;
        next += 2;
    }
    TRY(check_weights(instance, next, p));
    next += weight_inputs(op->format);
    if (op->bias) {
        CHECK(has_sizes(next, 1, (int64_t)p->n, 0, 0), "the bias does not fit the weights");
        p->bias = next++->data;
    }
    if (op->residual) {
        CHECK(has_sizes(next, 2, m, (int64_t)p->n, 0), "the residual does not fit the product");
        p->residual = next->data;
    }
    return NULL;
}

static OrtStatus *compute_product(const Instance *instance, OrtContext *context, const Tensor *in) {
    const Op *op = instance->op;
    Multiplication job = {.kernels = gpt2rt_kernels()};
    Product *p = &job.product;
    TRY(read_product(instance, in, p));
    const int64_t sizes[2] = {(int64_t)p->m, (int64_t)p->n};
    void *y, *scratch = NULL;
    TRY(make_output(context, 0, sizes, 2, &y));
    p->y = y;
    if (!p->m || !p->n) return NULL;
    OrtStatus *status = prepare_rows(op, context, &job, &scratch);
    if (!status) {
        job.row_tasks = (p->m + TASK_ROWS - 1) / TASK_ROWS;
        job.rows = round_up((p->m + job.row_tasks - 1) / job.row_tasks, 24);
        job.row_tasks = (p->m + job.rows - 1) / job.rows;
        job.columns = COLUMNS;
        job.column_tasks = (p->n + COLUMNS - 1) / COLUMNS;
        status = ort_parallel(context, multiply_task, job.row_tasks * job.column_tasks, 0, &job);
    }
    free(scratch);
    return status;
}

/* ---- attention */

typedef struct {
    const Kernels *kernels;
    Attention attention;
    size_t *first, groups; /* where each group of tokens begins; one more behind the last */
    size_t scratch;        /* floats */
    volatile int failed;
} Attending;

static void ORT_CALL remember_task(void *data, size_t task) {
    const Attending *job = data;
    const size_t first = task * 8, last = first + 8;
    job->kernels->remember(&job->attention, first, last < job->attention.t ? last : job->attention.t);
}

static void ORT_CALL attend_task(void *data, size_t task) {
    Attending *job = data;
    const size_t group = task % job->groups, head = task / job->groups;
    char *memory = malloc(job->scratch * sizeof(float) + 64);
    if (!memory) {
        job->failed = 1;
        return;
    }
    float *scratch = (float *)(void *)(memory + (-(uintptr_t)memory & 63)); /* whole cache lines */
    const size_t first = job->first[group];
    job->kernels->attend(&job->attention, head, first, job->first[group + 1] - first, scratch);
    free(memory);
}

/* Groups of tokens that follow each other in one slot. */
static size_t group_tokens(const Attention *a, size_t *first) {
    size_t groups = 0;
    for (size_t token = 0; token < a->t; groups++) {
        const size_t start = first[groups] = token++;
        while (token < a->t && token < start + QUERIES && a->slot[token] == a->slot[start] &&
               a->position[token] == a->position[start] + (int32_t)(token - start))
            token++;
    }
    first[groups] = a->t;
    return groups;
}

/* No position twice: tokens of a slot come in ascending order. */
static OrtStatus *check_order(const Op *op, const Attention *a) {
    int32_t *next = calloc(a->slots ? a->slots : 1, sizeof *next);
    CHECK(next, "no memory");
    int ascending = 1;
    for (size_t token = 0; token < a->t; token++) {
        int32_t *least = &next[a->slot[token]];
        ascending &= a->position[token] >= *least;
        *least = a->position[token] + 1;
    }
    free(next);
    CHECK(ascending, "positions of a slot have to ascend");
    return NULL;
}

static OrtStatus *read_attention(const Instance *instance, const Tensor *in, Attention *a) {
    const Op *op = instance->op;
    const int64_t *kv = in[3].sizes, t = in[0].sizes[0];
    CHECK(in[3].rank == 4 && in[4].rank == 4 && !memcmp(kv, in[4].sizes, sizeof in[4].sizes),
          "past keys and values have to be [slots, heads, positions, width], both of one shape");
    CHECK(kv[3] > 0 && kv[3] % 16 == 0, "the width of a head has to be a multiple of 16");
    CHECK(kv[1] > 0 && kv[1] <= MOST_K && kv[3] <= MOST_K, "too many heads, or too wide ones");
    CHECK(has_sizes(&in[0], 2, t, 3 * kv[1] * kv[3], 0),
          "queries, keys and values do not have the width of the past ones");
    CHECK(has_sizes(&in[1], 1, t, 0, 0) && has_sizes(&in[2], 1, t, 0, 0),
          "not one slot and one position for each token");
    *a = (Attention){.t = (size_t)t, .slots = (size_t)kv[0], .heads = (size_t)kv[1],
                     .capacity = (size_t)kv[2], .width = (size_t)kv[3], .qkv = in[0].data,
                     .slot = in[1].data, .position = in[2].data, .half = op->half,
                     .scale = instance->number};
    for (size_t token = 0; token < a->t; token++) {
        CHECK(a->slot[token] >= 0 && a->slot[token] < kv[0], "a slot that does not exist");
        CHECK(a->position[token] >= 0 && a->position[token] < kv[2],
              "a position beyond the keys and values");
    }
    return check_order(op, a);
}

/* The present keys or values: the same memory as the past ones, or a copy. */
static OrtStatus *present(OrtContext *context, size_t index, const Tensor *past, int half,
                          void **data) {
    const int64_t *s = past->sizes;
    TRY(make_output(context, index, s, 4, data));
    if (*data != past->data)
        memcpy(*data, past->data, (size_t)(s[0] * s[1] * s[2] * s[3]) * (half ? 2 : 4));
    return NULL;
}

static OrtStatus *compute_attention(const Instance *instance, OrtContext *context,
                                    const Tensor *in) {
    const Op *op = instance->op;
    Attending job = {.kernels = gpt2rt_kernels()};
    Attention *a = &job.attention;
    TRY(read_attention(instance, in, a));
    const int64_t sizes[2] = {in[0].sizes[0], in[3].sizes[1] * in[3].sizes[3]};
    void *mixed;
    TRY(make_output(context, 0, sizes, 2, &mixed));
    TRY(present(context, 1, &in[3], a->half, &a->keys));
    TRY(present(context, 2, &in[4], a->half, &a->values));
    a->mixed = mixed;
    if (!a->t) return NULL;
    job.first = malloc((a->t + 1) * sizeof *job.first);
    CHECK(job.first, "no memory");
    job.groups = group_tokens(a, job.first);
    job.scratch = job.kernels->scratch_floats(a);
    OrtStatus *status = NULL;
    if (a->t < 8)
        job.kernels->remember(a, 0, a->t);
    else
        status = ort_parallel(context, remember_task, (a->t + 7) / 8, 0, &job);
    if (!status) status = ort_parallel(context, attend_task, job.groups * a->heads, 0, &job);
    free(job.first);
    if (!status && job.failed) status = wrong(op, "no memory for scores");
    return status;
}

/* ---- the embedding */

static OrtStatus *compute_embedding(const Instance *instance, OrtContext *context,
                                    const Tensor *in) {
    const Op *op = instance->op;
    const int64_t t = in[0].sizes[0], width = in[4].sizes[1];
    CHECK(has_sizes(&in[0], 1, t, 0, 0) && has_sizes(&in[1], 1, t, 0, 0),
          "not one position for each token");
    CHECK(in[4].rank == 2 && width > 0, "positions have to be [positions, width]");
    TRY(check_groups(op, &in[2], width));
    Embedding e = {(size_t)t, (size_t)width, in[0].data, in[1].data, in[2].data, in[3].data,
                   in[4].data, NULL};
    for (size_t i = 0; i < e.t; i++) {
        CHECK(e.tokens[i] >= 0 && e.tokens[i] < in[3].sizes[0], "a token beyond the vocabulary");
        CHECK(e.positions[i] >= 0 && e.positions[i] < in[4].sizes[0], "a position beyond the last");
    }
    const int64_t sizes[2] = {t, width};
    void *y;
    TRY(make_output(context, 0, sizes, 2, &y));
    e.y = y;
    gpt2rt_kernels()->embed(&e, 0, e.t);
    return NULL;
}

/* ---- the table */

static OrtStatus *ORT_CALL compute(void *made, OrtContext *context) {
    const Instance *instance = made;
    Tensor in[MOST_INPUTS];
    memset(in, 0, sizeof in);
    const size_t count = count_inputs(&instance->op->op);
    for (size_t i = 0; i < count; i++) TRY(read_input(context, i, &in[i]));
    switch (instance->op->kind) {
    case NORM: return compute_norm(instance, context, in);
    case ATTENTION: return compute_attention(instance, context, in);
    case EMBED: return compute_embedding(instance, context, in);
    default: return compute_product(instance, context, in);
    }
}

#define INTERFACE \
    { \
        .version = ORT_VERSION, .name = name_of, .provider = provider_of, \
        .input_type = type_of_input, .inputs = count_inputs, .output_type = type_of_output, \
        .outputs = count_outputs, .destroy = destroy, .input_characteristic = required, \
        .output_characteristic = required, .input_memory = on_cpu, .variadic_input_arity = none, \
        .variadic_input_homogeneity = none, .variadic_output_arity = none, \
        .variadic_output_homogeneity = none, .create2 = create, .compute2 = compute, \
        .start_version = since, .end_version = until \
    }
#define PRODUCTS(SUFFIX, FORMAT) \
    {INTERFACE, "NormLinear" SUFFIX, PRODUCT, FORMAT, 1, 1, 0, 0, 0}, \
        {INTERFACE, "NormLinearGelu" SUFFIX, PRODUCT, FORMAT, 1, 1, 1, 0, 0}, \
        {INTERFACE, "LinearAdd" SUFFIX, PRODUCT, FORMAT, 0, 1, 0, 1, 0}, \
        {INTERFACE, "NormHead" SUFFIX, PRODUCT, FORMAT, 1, 0, 0, 0, 0}

static const Op ops[] = {
    {INTERFACE, "Norm", NORM, FLOAT, 0, 0, 0, 0, 0},
    {INTERFACE, "EmbedInt8", EMBED, INT8, 0, 0, 0, 0, 0},
    {INTERFACE, "Attention", ATTENTION, FLOAT, 0, 0, 0, 0, 0},
    {INTERFACE, "Attention", ATTENTION, FLOAT, 0, 0, 0, 0, 1},
    PRODUCTS("Int8", INT8),
    PRODUCTS("Int4", INT4),
    PRODUCTS("Half", HALF),
    PRODUCTS("Float", FLOAT),
};

EXPORTED OrtStatus *ORT_CALL RegisterCustomOps(OrtOptions *options, const OrtApiBase *base);

/* Called by ONNX Runtime's SessionOptions.register_custom_ops_library. */
EXPORTED OrtStatus *ORT_CALL RegisterCustomOps(OrtOptions *options, const OrtApiBase *base) {
    static OrtDomain *domain; /* for all sessions of the process; ONNX Runtime does not own it */
    const OrtAnyFunction *api = base->get_api(ORT_VERSION);
    if (!api) { /* an ONNX Runtime before 1.17, which tells so with what it has */
        ort_api = base->get_api(1);
        return ort_api ? ort_error(ORT_FAIL, "gpt2rt's kernels need ONNX Runtime 1.17") : NULL;
    }
    ort_api = api;
    if (!domain) {
        OrtDomain *made = NULL;
        TRY(ort_new_domain(DOMAIN_NAME, &made));
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) TRY(ort_add_op(made, &ops[i].op));
        domain = made;
    }
    return ort_add_domain(options, domain);
}
