/* Any bytes as a template over a fixed context: parse and render must end, inside their limits,
 * with a text or an error. */
#include "master/template/template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char context_json[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":"
    "\"h\\u00e9llo \\ud83e\\udd17 "
    "<b>\\n\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
    "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":[true,null,2."
    "5]}}}]},"
    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}],\"tools\":[{\"type\":"
    "\"function\",\"function\":{\"name\":\"g\"}}],\"bos_token\":\"<s>\",\"eos_token\":\"</s>\","
    "\"add_generation_prompt\":true,\"s\":\"Hello, "
    "World\",\"l\":[3,1,2],\"d\":{\"b\":2,\"a\":1},\"n\":7,"
    "\"f\":2.5}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_object *context;
    if (!context) context = json_tokener_parse(context_json);
    const cake_template_limits limits = {
        .steps = 100000, .output_bytes = 1 << 16, .memory_bytes = 8 << 20, .depth = 300};
    cake_template *t;
    cake_error err;
    char *text;
    size_t len;
    if (cake_template_parse(&t, (const char *)data, size, "fuzz", &err) != CAKE_OK) return 0;
    if (cake_template_render(t, context, 1721995200, &limits, &text, &len, &err) == CAKE_OK)
        free(text);
    cake_template_free(t);
    return 0;
}
