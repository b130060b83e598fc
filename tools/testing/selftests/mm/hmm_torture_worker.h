/* SPDX-License-Identifier: GPL-2.0-only */
/* The processes that do operations on tortured memory, and the final check. */
#ifndef HMM_TORTURE_WORKER_H
#define HMM_TORTURE_WORKER_H

#include "hmm_torture_common.h"

void worker_process(void);
void last_look(void);

#endif /* HMM_TORTURE_WORKER_H */
