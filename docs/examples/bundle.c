/* Greedy tokens from a bundle with ONNX Runtime's C interface: bundle BUNDLE COUNT ID...
 *
 * cc bundle.c -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o bundle
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime_c_api.h"

enum { POSITIONS = 1024, ARGUMENTS = 4 };

static const OrtApi *ort;
static OrtMemoryInfo *memory;

static void check(OrtStatus *status) {
    if (!status) return;
    fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
    exit(1);
}

static OrtValue *tensor(void *data, const int64_t *sizes, size_t rank, ONNXTensorElementDataType type) {
    size_t bytes = 4; /* of an int32 or a float */
    for (size_t i = 0; i < rank; i++) bytes *= (size_t)sizes[i];
    OrtValue *value = NULL;
    check(ort->CreateTensorWithDataAsOrtValue(memory, data, bytes, sizes, rank, type, &value));
    return value;
}

static OrtValue *int32s(int32_t *data, int64_t count, size_t rank) {
    const int64_t sizes[] = {1, count};
    return tensor(data, rank == 1 ? &sizes[1] : sizes, rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
}

static void sizes_of(OrtTypeInfo *info, int64_t *sizes, size_t rank) {
    const OrtTensorTypeAndShapeInfo *shape = NULL;
    check(ort->CastTypeInfoToTensorInfo(info, &shape));
    check(ort->GetDimensions(shape, sizes, rank));
    ort->ReleaseTypeInfo(info);
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: bundle BUNDLE COUNT ID...\n"), 2;
    const int count = atoi(argv[2]);
    int total = argc - 3;
    if (count < total || count > POSITIONS) return fprintf(stderr, "a bad COUNT\n"), 2;
    int32_t tokens[POSITIONS], places[POSITIONS];
    for (int i = 0; i < total; i++) tokens[i] = atoi(argv[3 + i]);

    ort = OrtGetApiBase()->GetApi(17); /* of ONNX Runtime 1.17 and later */
    if (!ort) return fprintf(stderr, "this ONNX Runtime is too old\n"), 1;
    char path[4096];
    snprintf(path, sizeof path, "%s/model.portable.onnx", argv[1]);
    OrtEnv *environment = NULL;
    OrtSessionOptions *options = NULL;
    OrtSession *session = NULL;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bundle", &environment));
    check(ort->CreateSessionOptions(&options));
    check(ort->CreateSession(environment, path, options, &session)); /* wchar_t on Windows */
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

    /* The shape of the model: past keys and values [1,H,C,W] of every layer, logits [R,V]. */
    size_t inputs = 0;
    int64_t past[4], rows[2];
    OrtTypeInfo *info = NULL;
    check(ort->SessionGetInputCount(session, &inputs));
    check(ort->SessionGetInputTypeInfo(session, ARGUMENTS, &info));
    sizes_of(info, past, 4);
    check(ort->SessionGetOutputTypeInfo(session, 0, &info));
    sizes_of(info, rows, 2);
    const size_t pasts = inputs - ARGUMENTS, heads = (size_t)past[1], width = (size_t)past[3];
    past[0] = 1, past[2] = POSITIONS;

    const char **names = calloc(inputs, sizeof *names), **made = calloc(pasts + 1, sizeof *made);
    OrtValue **feeds = calloc(inputs, sizeof *feeds), **results = calloc(pasts + 1, sizeof *results);
    float **held = calloc(pasts, sizeof *held);
    const char *arguments[] = {"X", "position", "lengths", "rows"};
    memcpy(names, arguments, sizeof arguments);
    made[0] = "logits";
    for (size_t i = 0; i < pasts; i++) {
        char *name = malloc(64); /* past_key.0, past_value.0, past_key.1 and so on */
        snprintf(name, 64, "past_%s.%zu", i % 2 ? "value" : "key", i / 2);
        names[ARGUMENTS + i] = name;
        made[1 + i] = name + strlen("past_");
        held[i] = calloc(heads * POSITIONS * width, sizeof **held);
        feeds[ARGUMENTS + i] = tensor(held[i], past, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    }

    for (int32_t length = 0, size; total < count; length += size) {
        size = total - length;
        int32_t last = size - 1;
        for (int32_t i = 0; i < size; i++) places[i] = length + i;
        feeds[0] = int32s(tokens + length, size, 2);
        feeds[1] = int32s(places, size, 2);
        feeds[2] = int32s(&length, 1, 2); /* how many positions of the past count */
        feeds[3] = int32s(&last, 1, 1);   /* after which tokens logits are wanted */
        memset(results, 0, (pasts + 1) * sizeof *results);
        check(ort->Run(session, NULL, names, (const OrtValue *const *)feeds, inputs, made, pasts + 1,
                       results));
        for (size_t i = 0; i < pasts; i++) {
            float *values = NULL;
            check(ort->GetTensorMutableData(results[1 + i], (void **)&values));
            for (size_t head = 0; head < heads; head++)
                memcpy(held[i] + (head * POSITIONS + (size_t)length) * width,
                       values + head * (size_t)size * width, (size_t)size * width * sizeof *values);
        }
        float *logits = NULL;
        check(ort->GetTensorMutableData(results[0], (void **)&logits));
        int32_t best = 0;
        for (int32_t token = 1; token < rows[1]; token++)
            if (logits[token] > logits[best]) best = token;
        tokens[total++] = best;
        for (size_t i = 0; i <= pasts; i++) ort->ReleaseValue(results[i]);
        for (size_t i = 0; i < ARGUMENTS; i++) ort->ReleaseValue(feeds[i]);
    }
    for (int i = 0; i < total; i++) printf("%d%c", tokens[i], i + 1 < total ? ' ' : '\n');
    return 0;
}
