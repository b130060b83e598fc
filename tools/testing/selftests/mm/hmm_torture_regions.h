/* SPDX-License-Identifier: GPL-2.0-only */
/* The regions that all processes of the torture map. */
#ifndef HMM_TORTURE_REGIONS_H
#define HMM_TORTURE_REGIONS_H

#include "hmm_torture_common.h"

void set_up_lock(pthread_mutex_t *lock);
void set_up_blocks(struct block *blocks, uint8_t leaves);

void make_regions(void);
void check_private_file(void);
void drop_regions(void);

#endif /* HMM_TORTURE_REGIONS_H */
