// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/rmap.h> by itself declares what it declares in
 * later kernels. Out-of-tree drivers look for a function in that header, and
 * define it if they do not find it there.
 */
#include <linux/rmap.h>

static_assert(__same_type(&make_device_exclusive,
			  struct page *(*)(struct mm_struct *mm,
					   unsigned long addr, void *owner,
					   struct folio **foliop)));
