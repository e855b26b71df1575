/* The part of ONNX Runtime's C interface that docs/examples/bundle.c uses, for machines that have the
 * library but not its header. `OrtApi` is a table that only ever grows: `before_...` stand for the
 * functions in front, as many as there are.
 */
#ifndef ONNXRUNTIME_C_API
#define ONNXRUNTIME_C_API

#include <stddef.h>
#include <stdint.h>

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6
} ONNXTensorElementDataType;

typedef struct {
    void *before_GetErrorMessage[2];
    const char *(*GetErrorMessage)(const OrtStatus *);
    OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *, OrtEnv **); /* 3 */
    void *before_CreateSession[3];
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **);
    void *before_Run[1];
    OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *,
                      size_t, const char *const *, size_t, OrtValue **); /* 9 */
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);
    void *before_SessionGetInputCount[19];
    OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *); /* 30 */
    void *before_SessionGetInputTypeInfo[2];
    OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, size_t, OrtTypeInfo **);
    OrtStatus *(*SessionGetOutputTypeInfo)(const OrtSession *, size_t, OrtTypeInfo **); /* 34 */
    void *before_CreateTensorWithDataAsOrtValue[14];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *,
                                                 size_t, ONNXTensorElementDataType, OrtValue **);
    void *before_GetTensorMutableData[1];
    OrtStatus *(*GetTensorMutableData)(OrtValue *, void **); /* 51 */
    void *before_CastTypeInfoToTensorInfo[3];
    OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **);
    void *before_GetDimensions[6];
    OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t); /* 62 */
    void *before_CreateCpuMemoryInfo[6];
    OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **); /* 69 */
    void *before_ReleaseValue[26];
    void (*ReleaseValue)(OrtValue *); /* 96 */
    void *before_ReleaseTypeInfo[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo *);
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t);
    const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);

#endif
