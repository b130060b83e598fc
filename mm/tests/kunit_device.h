/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MM_TESTS_KUNIT_DEVICE_H
#define _MM_TESTS_KUNIT_DEVICE_H

#include <kunit/test.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>

/* Bytes of a device at least, so that two can be neighbours, see memremap.c. */
#define KUNIT_DEVICE_UNIT						\
	max_t(phys_addr_t, SUBSECTION_SIZE,				\
	      PAGE_SIZE / sizeof(struct page) * PAGE_SIZE)

/* Pages that one fault brings back at most. */
#define KUNIT_DEVICE_AROUND	16UL

/**
 * struct kunit_device - a device with memory of its own
 * @test: the test; the device ends with it
 * @pgmap: memory of the device, which is its owner
 * @first: pfn of the first page that is handed out
 * @used: a bit for each page of @pgmap, set while the page is in use
 * @lock: protects @used, @faults and @unlocked
 * @faults: calls of migrate_to_ram()
 * @unlocked: how often the page of a fault was not locked
 * @around: pages that a fault brings back, aligned to that number; 0 for one
 * @keeps: a fault leaves its page on the device, and reports success
 * @declines: the same, but the fault collects the page first
 * @broken: a fault fails
 * @fails: pfn of a page whose fault fails, or 0
 * @on_fault: called by migrate_to_ram() first, unless it is NULL
 * @serve_fault: does the work of migrate_to_ram(), unless it is NULL
 */
struct kunit_device {
	struct kunit *test;
	struct dev_pagemap *pgmap;
	unsigned long first;
	unsigned long *used;
	spinlock_t lock;	/* of @used, @faults and @unlocked */
	int faults;
	int unlocked;
	unsigned long around;
	bool keeps;
	bool declines;
	bool broken;
	unsigned long fails;
	void (*on_fault)(struct kunit_device *dev, struct page *page);
	vm_fault_t (*serve_fault)(struct kunit_device *dev,
				  struct vm_fault *vmf);
};

phys_addr_t kunit_device_region(struct kunit *test, unsigned long size);
struct kunit_device *kunit_device_create(struct kunit *test, phys_addr_t start,
					 unsigned long size);
struct kunit_device *kunit_device_create_coherent(struct kunit *test,
						  unsigned long size);

unsigned long kunit_device_used(struct kunit_device *dev);
struct page *kunit_device_memory(struct page *page);
struct page *kunit_device_copy_folio(struct kunit_device *to,
				     struct page *source, unsigned int order);
struct page *kunit_device_copy(struct kunit_device *to, struct page *source);
unsigned long kunit_device_moved(const struct migrate_vma *args);
unsigned long kunit_device_migrate(struct migrate_vma *args,
				   struct kunit_device *to);

/* Number of pages that the device has. */
static inline unsigned long kunit_device_size(struct kunit_device *dev)
{
	return PHYS_PFN(range_len(&dev->pgmap->range));
}

static inline bool kunit_device_has(struct kunit_device *dev,
				    unsigned long pfn)
{
	return range_contains(&dev->pgmap->range,
			      &(struct range) { PFN_PHYS(pfn), PFN_PHYS(pfn) });
}

#endif /* _MM_TESTS_KUNIT_DEVICE_H */
