/* Reads a handwritten digit: the `handler` ABI and wasi-nn by hand, with no library at all. What a guest in any language
 * has to do is on this page.
 *
 * POST 3136 bytes, f32[1,1,28,28] from 0 to 255. Answers 200 with the ten f32 that the graph `mnist` gives, 400 for a
 * body of another length, and 502 with wasi-nn's errno as one digit.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define IMPORT(name) __attribute__((import_module("wasi_ephemeral_nn"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

IMPORT(load_by_name) u32 load_by_name(const char *name, u32 length, u32 *graph);
IMPORT(init_execution_context) u32 init_execution_context(u32 graph, u32 *context);
IMPORT(set_input) u32 set_input(u32 context, u32 index, const void *tensor);
IMPORT(compute) u32 compute(u32 context);
IMPORT(get_output) u32 get_output(u32 context, u32 index, void *buffer, u32 room, u32 *bytes);

enum { INPUT_BYTES = 4 * 28 * 28, OUTPUT_BYTES = 4 * 10, REQUEST_MAX = 131072, HEAD_BYTES = 12, F32 = 1 };

/* A request: version, `str` method, path and query, the number of headers, (`str` name, `str` value) each, and the body.
 * A `str` is a u32 and that many bytes. */
static u8 request[REQUEST_MAX];

/* A response: version, status, the number of headers (none), and the body. */
static struct {
    u32 version, status, headers;
    u8 body[OUTPUT_BYTES];
} response = {.version = 1};

struct tensor {
    const u32 *dims;
    u32 rank;
    u32 type;
    const void *data;
    u32 bytes;
};

static u32 word(const u8 *at) {
    return at[0] | at[1] << 8 | at[2] << 16 | (u32)at[3] << 24;
}

static const u8 *after_string(const u8 *at) {
    return at + 4 + word(at);
}

static const u8 *body_of(const u8 *message) {
    const u8 *at = after_string(after_string(after_string(message + 4)));
    u32 strings = 2 * word(at);
    for (at += 4; strings > 0; strings--)
        at = after_string(at);
    return at;
}

static u32 infer(const u8 *pixels, u32 *bytes) {
    static const u32 dims[] = {1, 1, 28, 28};
    struct tensor image = {.dims = dims, .rank = 4, .type = F32, .data = pixels, .bytes = INPUT_BYTES};
    u32 graph, context, errno;
    if ((errno = load_by_name("mnist", 5, &graph)) != 0)
        return errno;
    if ((errno = init_execution_context(graph, &context)) != 0)
        return errno;
    if ((errno = set_input(context, 0, &image)) != 0)
        return errno;
    if ((errno = compute(context)) != 0)
        return errno;
    return get_output(context, 0, response.body, OUTPUT_BYTES, bytes);
}

EXPORT(wisp_alloc) u8 *wisp_alloc(u32 length) {
    if (length > REQUEST_MAX)
        __builtin_trap();
    return request;
}

EXPORT(wisp_handle) u64 wisp_handle(const u8 *message, u32 length) {
    const u8 *body = body_of(message);
    u32 bytes = 0, errno;
    if ((u32)(message + length - body) != INPUT_BYTES) {
        response.status = 400;
    } else if ((errno = infer(body, &bytes)) != 0) {
        response.status = 502;
        response.body[0] = '0' + errno;
        bytes = 1;
    } else {
        response.status = 200;
    }
    return (u64)(u32)&response << 32 | (HEAD_BYTES + bytes);
}
