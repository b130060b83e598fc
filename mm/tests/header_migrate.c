// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/migrate.h> alone declares what later kernels declare in
 * it. Out-of-tree drivers look for a function in that header, and bring their
 * own where they do not find it.
 */
#include <linux/migrate.h>

static_assert(__same_type(&migrate_device_pfns,
			  int (*)(unsigned long *src_pfns,
				  unsigned long npages)));
