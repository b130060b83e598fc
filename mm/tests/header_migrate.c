// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/migrate.h> by itself declares what it declares in
 * later kernels. Out-of-tree drivers look for a function in that header, and
 * define it if they do not find it there.
 */
#include <linux/migrate.h>

static_assert(__same_type(&migrate_device_pfns,
			  int (*)(unsigned long *src_pfns,
				  unsigned long npages)));

/* Drivers test for these by #ifdef, or use the values of later kernels. */
#ifndef MIGRATE_PFN_COMPOUND
#error MIGRATE_PFN_COMPOUND is not defined
#endif
static_assert(MIGRATE_PFN_COMPOUND == 1UL << 4);
static_assert(MIGRATE_VMA_SELECT_COMPOUND == 1 << 3);
