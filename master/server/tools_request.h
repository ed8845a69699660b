/* Tools, tool choice, response format and thinking: the part of a chat request that the forms of
 * the API share. */
#ifndef CAKE_MASTER_SERVER_TOOLS_REQUEST_H
#define CAKE_MASTER_SERVER_TOOLS_REQUEST_H

#include "master/server/request.h"

/* From the body of /v1/chat/completions: tools, tool_choice, parallel_tool_calls, response_format,
 * chat_template_kwargs, reasoning_effort. */
bool cake_api_get_tools(cake_api_request *r, cake_api_error *e);

/* Add one tool; parameters and description may be NULL. param: its place, for messages. */
bool cake_api_add_tool(cake_api_request *r, const char *name, json_object *description,
                       json_object *parameters, bool strict, const char *param, cake_api_error *e);
/* Calls to this tool alone; CAKE_TOOL_NAMED. */
bool cake_api_choose_tool(cake_api_request *r, const char *name, cake_api_error *e);
/* {"type": "text" | "json_object"}, or a schema to follow (borrowed from the body). */
bool cake_api_get_format(cake_api_request *r, json_object *type, json_object *schema,
                         const char *param, cake_api_error *e);
/* none and minimal turn thinking off where the template can; the word itself goes there, too. */
bool cake_api_get_effort(cake_api_request *r, json_object *effort, const char *param,
                         cake_api_error *e);
/* {"id", "type": "function", "function": {"name", "arguments": object}} as templates take it;
 * arguments: text of an object, or an object. */
json_object *cake_api_tool_call(const char *id, const char *name, json_object *arguments);
/* A name that a tool may have. */
bool cake_api_tool_name_ok(const char *name);

#endif
