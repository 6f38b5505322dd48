/* CUDA's runtime library on host memory, strict: unknown handles, foreign addresses, wrong sizes and
   calls in the wrong order are errors. What is queued on a stream happens when it is waited for.
   Time is made up: TO_DEVICE_MS, TO_HOST_MS and CALL_MS an operation, on a clock of each stream. */
#include <stdlib.h>
#include <string.h>

#define MOST 256
#define MOST_QUEUED 256
#define DEVICES 2
#define TO_DEVICE_MS 0.25f
#define TO_HOST_MS 0.125f
#define CALL_MS 2.0f

enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, INVALID_DEVICE = 101, INVALID_HANDLE = 400,
       NOT_READY = 600, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, ILLEGAL_STATE = 401 };
enum { DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, EXEC };
enum { COPY, RECORD, CALL };

typedef struct { int kind; void *to; const void *from; size_t size; float ms;
                 void (*call)(void *); void *argument; } Operation;
typedef struct { int count; Operation operations[MOST_QUEUED]; } Queue;
typedef struct { int device; float clock; Queue queue; Queue *capture; int broken; } Stream;
typedef struct { int happened; float at; } Event;
typedef struct { int kind; void *handle; size_t size; } Object;

static Object objects[MOST];
static char failing[64];
static int failing_status, last_error, alive;
static char counted[256][64];
static int counts[256];
static __thread int current;

static int *counter(const char *name) {
    int i = 0;
    while (counted[i][0] && strcmp(counted[i], name)) i++;
    strncpy(counted[i], name, 63);
    return &counts[i];
}

static int begin(const char *name) {
    ++*counter(name);
    if (strcmp(failing, name)) return OK;
    failing[0] = 0;
    return last_error = failing_status;
}

#define BEGIN do { int status = begin(__func__); if (status) return status; } while (0)
#define FAIL(status) return last_error = (status)

static Object *find(const void *handle, int kind) {
    for (int i = 0; i < MOST; i++)
        if (objects[i].handle && objects[i].handle == handle && objects[i].kind == kind)
            return &objects[i];
    return NULL;
}

/* the memory of this kind that holds size bytes from address on */
static int holds(const char *address, size_t size, int kind) {
    for (int i = 0; i < MOST; i++) {
        char *start = objects[i].handle;
        if (start && objects[i].kind == kind && address >= start &&
            address + size <= start + objects[i].size)
            return 1;
    }
    return 0;
}

static int make(void **handle, size_t size, int kind) {
    int i = 0;
    while (i < MOST && objects[i].handle) i++;
    if (!handle || i == MOST) FAIL(INVALID_VALUE);
    objects[i] = (Object){kind, calloc(1, size), size};
    *handle = objects[i].handle;
    alive++;
    return OK;
}

static int drop(void *handle, int kind) {
    Object *object = find(handle, kind);
    if (!object) FAIL(INVALID_HANDLE);
    free(object->handle);
    object->handle = NULL;
    alive--;
    return OK;
}

static Stream *usable(void *handle) {
    Object *object = find(handle, STREAM);
    Stream *stream = object ? object->handle : NULL;
    return stream && stream->device == current ? stream : NULL;
}

static int push(void *handle, Operation operation) {
    Stream *stream = usable(handle);
    if (!stream) FAIL(INVALID_HANDLE);
    Queue *queue = stream->capture ? stream->capture : &stream->queue;
    if (queue->count == MOST_QUEUED) FAIL(NO_MEMORY);
    queue->operations[queue->count++] = operation;
    return OK;
}

/* for tests */
void fake_fail(const char *name, int status) { strncpy(failing, name, 63); failing_status = status; }
int fake_count(const char *name) { return *counter(name); }
int fake_alive(void) { return alive; }
int fake_last_error(void) { return last_error; }
int fake_enqueue(void *stream, void (*call)(void *), void *argument) {
    return push(stream, (Operation){.kind = CALL, .ms = CALL_MS, .call = call, .argument = argument});
}

const char *cudaGetErrorString(int status) {
    return status == NO_MEMORY ? "out of memory" : status == INVALID_DEVICE ? "invalid device ordinal"
         : status == CAPTURE_INVALIDATED ? "operation failed due to a previous error during capture"
         : "a made-up error";
}

int cudaGetLastError(void) { int status = last_error; last_error = OK; ++*counter(__func__); return status; }

int cudaSetDevice(int device) {
    BEGIN;
    if (device < 0 || device >= DEVICES) FAIL(INVALID_DEVICE);
    current = device;
    return OK;
}

int cudaGetDeviceProperties(char *properties, int device) {
    BEGIN;
    if (device < 0 || device >= DEVICES) FAIL(INVALID_DEVICE);
    memset(properties, 'x', 1024); /* the struct of CUDA 13 has about as many bytes */
    strcpy(properties, device ? "Fake GPU 1" : "Fake GPU 0");
    return OK;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN;
    if (device != current) FAIL(INVALID_DEVICE);
    if (attribute != 75 && attribute != 76) FAIL(INVALID_VALUE);
    *value = attribute == 75 ? 8 : 7;
    return OK;
}

int cudaHostAlloc(void **address, size_t size, unsigned flags) {
    BEGIN;
    if (flags || !size) FAIL(INVALID_VALUE);
    return make(address, size, HOST_MEMORY);
}

int cudaFreeHost(void *address) { BEGIN; return drop(address, HOST_MEMORY); }

int cudaMalloc(void **address, size_t size) {
    BEGIN;
    return size ? make(address, size, DEVICE_MEMORY) : INVALID_VALUE;
}

int cudaFree(void *address) { BEGIN; return drop(address, DEVICE_MEMORY); }

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    BEGIN;
    int to_device = kind == 1;
    if (kind != 1 && kind != 2) FAIL(INVALID_VALUE);
    if (!holds(to, size, to_device ? DEVICE_MEMORY : HOST_MEMORY) ||
        !holds(from, size, to_device ? HOST_MEMORY : DEVICE_MEMORY))
        FAIL(INVALID_VALUE);
    float ms = to_device ? TO_DEVICE_MS : TO_HOST_MS;
    return push(stream, (Operation){.kind = COPY, .to = to, .from = from, .size = size, .ms = ms});
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
    BEGIN;
    if (flags != 1) FAIL(INVALID_VALUE);
    int status = make(stream, sizeof(Stream), STREAM);
    if (!status) ((Stream *)*stream)->device = current;
    return status;
}

int cudaStreamSynchronize(void *handle) {
    BEGIN;
    Stream *stream = usable(handle);
    if (!stream) FAIL(INVALID_HANDLE);
    if (stream->capture) { stream->broken = 1; FAIL(CAPTURE_UNSUPPORTED); }
    for (int i = 0; i < stream->queue.count; i++) {
        Operation *operation = &stream->queue.operations[i];
        stream->clock += operation->ms;
        if (operation->kind == COPY) memcpy(operation->to, operation->from, operation->size);
        if (operation->kind == CALL) operation->call(operation->argument);
        if (operation->kind == RECORD) *(Event *)operation->to = (Event){1, stream->clock};
    }
    stream->queue.count = 0;
    return OK;
}

int cudaStreamDestroy(void *stream) { BEGIN; return drop(stream, STREAM); }

int cudaEventCreateWithFlags(void **event, unsigned flags) {
    BEGIN;
    return flags ? INVALID_VALUE : make(event, sizeof(Event), EVENT);
}

int cudaEventRecord(void *event, void *stream) {
    BEGIN;
    if (!find(event, EVENT)) FAIL(INVALID_HANDLE);
    ((Event *)event)->happened = 0;
    return push(stream, (Operation){.kind = RECORD, .to = event});
}

int cudaEventElapsedTime(float *ms, void *start, void *end) {
    BEGIN;
    if (!find(start, EVENT) || !find(end, EVENT)) FAIL(INVALID_HANDLE);
    if (!((Event *)start)->happened || !((Event *)end)->happened) FAIL(NOT_READY);
    *ms = ((Event *)end)->at - ((Event *)start)->at;
    return OK;
}

int cudaEventDestroy(void *event) { BEGIN; return drop(event, EVENT); }

int cudaStreamBeginCapture(void *handle, int mode) {
    BEGIN;
    Stream *stream = usable(handle);
    if (!stream) FAIL(INVALID_HANDLE);
    if (mode != 1 || stream->capture || stream->queue.count) FAIL(ILLEGAL_STATE);
    return make((void **)&stream->capture, sizeof(Queue), GRAPH);
}

int cudaStreamEndCapture(void *handle, void **graph) {
    Stream *stream = usable(handle);
    if (!stream || !stream->capture) FAIL(ILLEGAL_STATE);
    *graph = stream->capture;
    stream->capture = NULL;
    int status = stream->broken ? CAPTURE_INVALIDATED : begin(__func__);
    stream->broken = 0;
    if (!status) return OK;
    drop(*graph, GRAPH);
    *graph = NULL;
    FAIL(status);
}

static int instantiate(void **exec, void *graph) {
    if (!find(graph, GRAPH)) FAIL(INVALID_HANDLE);
    int status = make(exec, sizeof(Queue), EXEC);
    if (!status) memcpy(*exec, graph, sizeof(Queue));
    return status;
}

#ifdef BEFORE_11_4
int cudaGraphInstantiate(void **exec, void *graph, void **node, char *log, size_t log_size) {
    BEGIN;
    if (node || log || log_size) FAIL(INVALID_VALUE);
    return instantiate(exec, graph);
}
#else
int cudaGraphInstantiate(void **exec, void *graph, unsigned long long flags) {
    BEGIN;
    FAIL(INVALID_VALUE); /* its arguments depend on the release: nobody should call it */
}

int cudaGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    BEGIN;
    if (flags) FAIL(INVALID_VALUE);
    return instantiate(exec, graph);
}
#endif

int cudaGraphDestroy(void *graph) { BEGIN; return drop(graph, GRAPH); }

int cudaGraphLaunch(void *exec, void *stream) {
    BEGIN;
    if (!find(exec, EXEC)) FAIL(INVALID_HANDLE);
    Queue *recorded = exec;
    for (int i = 0; i < recorded->count; i++) {
        int status = push(stream, recorded->operations[i]);
        if (status) return status;
    }
    return OK;
}

int cudaGraphExecDestroy(void *exec) { BEGIN; return drop(exec, EXEC); }
