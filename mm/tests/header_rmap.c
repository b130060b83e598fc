// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/rmap.h> alone declares what later kernels declare in
 * it. Out-of-tree drivers look for a function in that header, and bring their
 * own where they do not find it.
 */
#include <linux/rmap.h>

static_assert(__same_type(&make_device_exclusive,
			  struct page *(*)(struct mm_struct *mm,
					   unsigned long addr, void *owner,
					   struct folio **foliop)));
