/* SPDX-License-Identifier: GPL-2.0-only */
/* What must not be left after a torture. */
#ifndef HMM_TORTURE_REST_H
#define HMM_TORTURE_REST_H

#include "hmm_torture_common.h"

#define USAGE_KEYS	12

/* In KiB, as in /proc/meminfo */
struct usage {
	long kib[USAGE_KEYS];
};

const char *set_up_cgroup(void);
void check_group(const char *group);

struct usage usage_now(void);
void check_free(const struct usage *before);
void check_counters(void);

#endif /* HMM_TORTURE_REST_H */
