/* From what the workers collected to an importance matrix. */
#ifndef CAKE_MASTER_TOOLS_CALIBRATE_H
#define CAKE_MASTER_TOOLS_CALIBRATE_H

#include "master/cluster/cluster.h"
#include "master/tools/imatrix.h"

/* Ask the stages of c, deployed with `collect`, for the statistics of every matrix of the layout
 * and add an entry for each, named by its module's path and ".weight", in the order of the model.
 * Matrices that read the same values get the same numbers. Experts no token was sent to count 0
 * rows and get ones. Waits; errors of cake_cluster_stats. */
cake_status cake_calibrate_fetch(cake_cluster *c, const cake_layout *layout, cake_imatrix *out,
                                 cake_error *err);

#endif
