// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/memremap.h> by itself declares what it declares in
 * later kernels. Out-of-tree drivers look for a function in that header, and
 * define it if they do not find it there.
 */
#include <linux/memremap.h>

static_assert(__same_type(&zone_device_folio_init,
			  void (*)(struct folio *folio,
				   struct dev_pagemap *pgmap,
				   unsigned int order)));
static_assert(__same_type(typeof_member(struct dev_pagemap_ops, folio_free),
			  void (*)(struct folio *folio)));
static_assert(__same_type(typeof_member(struct dev_pagemap_ops, folio_split),
			  void (*)(struct folio *head, struct folio *tail)));
