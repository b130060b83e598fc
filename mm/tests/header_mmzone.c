// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/mmzone.h> by itself declares what it declares in
 * later kernels. Out-of-tree drivers look for a function in that header, and
 * define it if they do not find it there.
 */
#include <linux/mmzone.h>

static_assert(__same_type(&page_pgmap,
			  struct dev_pagemap *(*)(const struct page *page)));
