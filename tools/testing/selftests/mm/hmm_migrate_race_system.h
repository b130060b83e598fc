/* SPDX-License-Identifier: GPL-2.0-only */
/* The system around a scenario. */
#ifndef HMM_MIGRATE_RACE_SYSTEM_H
#define HMM_MIGRATE_RACE_SYSTEM_H

#include "hmm_migrate_race_common.h"

/* In KiB, by a walk of the page tables and by the process's counters. */
struct usage {
	long mapped;
	long counted;
};

const char *begin_outside(bool *our_swap);
void end_outside(bool our_swap);
void enter(void);
void ksm_enter(void);
struct usage usage_now(void);
void check_usage(const struct usage *before);

#endif /* HMM_MIGRATE_RACE_SYSTEM_H */
