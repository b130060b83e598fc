/* SPDX-License-Identifier: GPL-2.0-only */
/* Scenarios that do not consist of roles alone. */
#ifndef HMM_MIGRATE_RACE_BODIES_H
#define HMM_MIGRATE_RACE_BODIES_H

#include "hmm_migrate_race_common.h"

void fault_together(void);
void fill_up(void);
void kill_children(void);

#endif /* HMM_MIGRATE_RACE_BODIES_H */
