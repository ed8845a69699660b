/* Running a parsed template, and what other parts need to know of loops and macros. */
#ifndef CAKE_MASTER_TEMPLATE_JINJA_EVAL_H
#define CAKE_MASTER_TEMPLATE_JINJA_EVAL_H

#include "master/template/jinja_value.h"

/* Render r->t with the members of context (or NULL) as variables into out. Fails through r. */
void cake_jj_run(cake_jj *r, json_object *context, cake_jj_buf *out);

/* loop.name; MISSING when there is no such attribute. */
cake_jj_value cake_jj_loop_attr(cake_jj *r, cake_jj_value loop, cake_jj_value name);
/* loop.cycle(...) and loop.changed(...) */
cake_jj_value cake_jj_loop_method(cake_jj *r, cake_jj_value loop, cake_jj_value name,
                                  const cake_jj_args *a);
cake_jj_value cake_jj_macro_name(cake_jj_value macro);

#endif
