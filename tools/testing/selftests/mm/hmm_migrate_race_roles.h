/* SPDX-License-Identifier: GPL-2.0-only */
/* The threads of a scenario. */
#ifndef HMM_MIGRATE_RACE_ROLES_H
#define HMM_MIGRATE_RACE_ROLES_H

#include "hmm_migrate_race_common.h"

/* Threads that have a quota of operations, and have not done it. */
extern _Atomic unsigned int leaders;

void run_roles(void);
unsigned int start_roles(struct worker *workers);

#endif /* HMM_MIGRATE_RACE_ROLES_H */
