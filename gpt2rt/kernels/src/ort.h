/* The part of ONNX Runtime's C interface that custom ops need.
 *
 * `OrtApi` is a table of functions that only ever grows; the places below are those of version 17,
 * which ONNX Runtime 1.17 and everything newer have.
 */
#ifndef GPT2RT_ORT_H
#define GPT2RT_ORT_H

#include <stddef.h>
#include <stdint.h>

#define ORT_VERSION 17
#if defined(_WIN32) && !defined(_WIN64)
#define ORT_CALL __stdcall
#else
#define ORT_CALL
#endif

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtContext OrtContext; /* OrtKernelContext */
typedef struct OrtInfo OrtInfo; /* OrtKernelInfo */
typedef struct OrtOptions OrtOptions; /* OrtSessionOptions */
typedef struct OrtDomain OrtDomain; /* OrtCustomOpDomain */
typedef void (*OrtAnyFunction)(void);

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT32 = 6, ORT_FLOAT16 = 10 };

typedef struct {
    const OrtAnyFunction *(ORT_CALL *get_api)(uint32_t version);
    const char *(ORT_CALL *get_version)(void);
} OrtApiBase;

typedef struct OrtOp OrtOp; /* OrtCustomOp */
struct OrtOp {
    uint32_t version;
    void *(ORT_CALL *create)(const OrtOp *, const OrtAnyFunction *, const OrtInfo *);
    const char *(ORT_CALL *name)(const OrtOp *);
    const char *(ORT_CALL *provider)(const OrtOp *);
    int (ORT_CALL *input_type)(const OrtOp *, size_t);
    size_t (ORT_CALL *inputs)(const OrtOp *);
    int (ORT_CALL *output_type)(const OrtOp *, size_t);
    size_t (ORT_CALL *outputs)(const OrtOp *);
    void (ORT_CALL *compute)(void *, OrtContext *);
    void (ORT_CALL *destroy)(void *);
    int (ORT_CALL *input_characteristic)(const OrtOp *, size_t);
    int (ORT_CALL *output_characteristic)(const OrtOp *, size_t);
    int (ORT_CALL *input_memory)(const OrtOp *, size_t);
    int (ORT_CALL *variadic_input_arity)(const OrtOp *);
    int (ORT_CALL *variadic_input_homogeneity)(const OrtOp *);
    int (ORT_CALL *variadic_output_arity)(const OrtOp *);
    int (ORT_CALL *variadic_output_homogeneity)(const OrtOp *);
    OrtStatus *(ORT_CALL *create2)(const OrtOp *, const OrtAnyFunction *, const OrtInfo *, void **);
    OrtStatus *(ORT_CALL *compute2)(void *, OrtContext *);
    OrtStatus *(ORT_CALL *infer_shape)(const OrtOp *, void *);
    int (ORT_CALL *start_version)(const OrtOp *);
    int (ORT_CALL *end_version)(const OrtOp *);
    void *aliases[4];
};

/* `function` number PLACE of the table, as a function (arguments) -> status. */
#define ORT_FUNCTION(PLACE, ...) ((OrtStatus *(ORT_CALL *)(__VA_ARGS__))ort_api[PLACE])
extern const OrtAnyFunction *ort_api;

static inline OrtStatus *ort_error(int code, const char *message) {
    return ((OrtStatus *(ORT_CALL *)(int, const char *))ort_api[0])(code, message);
}
static inline OrtStatus *ort_new_domain(const char *name, OrtDomain **domain) {
    return ORT_FUNCTION(26, const char *, OrtDomain **)(name, domain);
}
static inline OrtStatus *ort_add_op(OrtDomain *domain, const OrtOp *op) {
    return ORT_FUNCTION(27, OrtDomain *, const OrtOp *)(domain, op);
}
static inline OrtStatus *ort_add_domain(OrtOptions *options, OrtDomain *domain) {
    return ORT_FUNCTION(28, OrtOptions *, OrtDomain *)(options, domain);
}
static inline OrtStatus *ort_data(OrtValue *value, void **data) {
    return ORT_FUNCTION(51, OrtValue *, void **)(value, data);
}
static inline OrtStatus *ort_rank(const OrtShape *shape, size_t *rank) {
    return ORT_FUNCTION(61, const OrtShape *, size_t *)(shape, rank);
}
static inline OrtStatus *ort_sizes(const OrtShape *shape, int64_t *sizes, size_t count) {
    return ORT_FUNCTION(62, const OrtShape *, int64_t *, size_t)(shape, sizes, count);
}
static inline OrtStatus *ort_shape(const OrtValue *value, OrtShape **shape) {
    return ORT_FUNCTION(65, const OrtValue *, OrtShape **)(value, shape);
}
static inline OrtStatus *ort_attribute(const OrtInfo *info, const char *name, float *value) {
    return ORT_FUNCTION(85, const OrtInfo *, const char *, float *)(info, name, value);
}
static inline OrtStatus *ort_whole_attribute(const OrtInfo *info, const char *name, int64_t *value) {
    return ORT_FUNCTION(86, const OrtInfo *, const char *, int64_t *)(info, name, value);
}
static inline OrtStatus *ort_input(const OrtContext *context, size_t index, OrtValue **value) {
    return ORT_FUNCTION(90, const OrtContext *, size_t, OrtValue **)(context, index, value);
}
static inline OrtStatus *ort_output(OrtContext *context, size_t index, const int64_t *sizes,
                                    size_t rank, OrtValue **value) {
    return ORT_FUNCTION(91, OrtContext *, size_t, const int64_t *, size_t, OrtValue **)(
        context, index, sizes, rank, value);
}
static inline void ort_release_shape(OrtShape *shape) {
    ((void (ORT_CALL *)(OrtShape *))ort_api[99])(shape);
}
static inline OrtStatus *ort_parallel(const OrtContext *context, void (ORT_CALL *work)(void *, size_t),
                                      size_t total, size_t batches, void *data) {
    return ORT_FUNCTION(274, const OrtContext *, void (ORT_CALL *)(void *, size_t), size_t, size_t,
                        void *)(context, work, total, batches, data);
}

#endif
