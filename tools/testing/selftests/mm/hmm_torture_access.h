/* SPDX-License-Identifier: GPL-2.0-only */
/* Accesses to tortured memory that several operations use. */
#ifndef HMM_TORTURE_ACCESS_H
#define HMM_TORTURE_ACCESS_H

#include "hmm_torture_memory.h"

void catch_faults(void);
bool try_copy(void *to, const void *from, size_t size);
bool cpu_read_block(struct worker *w, const char *who, const struct span *s);
bool cpu_fill(struct worker *w, const struct span *s);

int far_device(struct worker *w);
int near_device(struct worker *w);
bool device_read_span(struct worker *w, const char *who, int fd,
		      unsigned long request, const struct span *s);
bool device_fill(struct worker *w, int fd, const struct span *s);

uint64_t pick_hole_order(struct worker *w);
void vary_allocation(struct worker *w, int fd);
bool migrate_checked(struct worker *w, int fd, const struct span *s);
bool discard_block(struct worker *w, const struct span *s);

/* The region that can be one huge page */
struct span huge_span(void);
void migrate_unread(int fd, const struct span *s);
bool make_huge(struct worker *w);

void let_device_confirm(struct worker *w, const struct span *s);

#endif /* HMM_TORTURE_ACCESS_H */
