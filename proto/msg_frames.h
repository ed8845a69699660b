/* Inside of cake_msg, for msg.c and link.c only. */
#ifndef CAKE_PROTO_MSG_FRAMES_H
#define CAKE_PROTO_MSG_FRAMES_H

#include "proto/msg.h"

#include <zmq.h>

struct cake_msg_frames {
    uint32_t n; /* initialised zmq messages */
    zmq_msg_t *zmq;
    struct cake_msg_block *block; /* what the frames of a message we built are parts of, or NULL */
    cake_view views[];
};

/* A message with room for n_frames, none initialised; NULL: no memory. */
cake_msg *cake_msg_alloc(uint32_t n_frames);

#endif
