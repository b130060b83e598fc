// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/memremap.h> alone declares what later kernels declare in
 * it. Out-of-tree drivers look for a function in that header, and bring their
 * own where they do not find it.
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
