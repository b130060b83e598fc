// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/mmzone.h> alone declares what later kernels declare in
 * it. Out-of-tree drivers look for a function in that header, and bring their
 * own where they do not find it.
 */
#include <linux/mmzone.h>

static_assert(__same_type(&page_pgmap,
			  struct dev_pagemap *(*)(const struct page *page)));
