/* SPDX-License-Identifier: GPL-2.0-only */
/* The process that fills a coherent device. */
#ifndef HMM_TORTURE_FILLER_H
#define HMM_TORTURE_FILLER_H

#include "hmm_torture_common.h"

void filler_process(void);

#endif /* HMM_TORTURE_FILLER_H */
