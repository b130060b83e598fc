// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device with memory, for KUnit tests.
 *
 * Scope
 *
 *   The device of all suites: its pages, the system memory that stands for
 *   their contents, and a driver that moves pages to the device and back. A
 *   page of system memory in page->zone_device_data backs each device page
 *   that is in use. For a large folio, only its first page has room for that,
 *   and the memory is contiguous.
 *
 *   The driver hands out free pages in the order of their pfns, so that a
 *   test knows which one comes next. A test that forces an outcome uses the
 *   fields of struct kunit_device, or calls the three steps of a migration
 *   itself.
 *
 * Life
 *
 *   Removal waits until every device page is free, and runs when the test
 *   ends. Create the device before the address space that its pages go to:
 *   KUnit runs the actions of a test in reverse order.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/ioport.h>
#include <linux/pagemap.h>

#include "kunit_device.h"

static struct page *kunit_device_alloc_memory(unsigned int order)
{
	struct page *memory = alloc_pages(GFP_KERNEL | __GFP_ZERO, order);

	/* The folio may be split: its pages are freed one by one then. */
	if (memory && order)
		split_page(memory, order);
	return memory;
}

static void kunit_device_free_memory(struct page *memory, unsigned int order)
{
	unsigned long i;

	for (i = 0; i < 1UL << order; i++)
		__free_page(memory + i);
}

static struct page *kunit_device_page(struct kunit_device *dev,
				      unsigned int order)
{
	unsigned long nr, nr_pages = kunit_device_size(dev);
	unsigned long base = PHYS_PFN(dev->pgmap->range.start);
	struct page *page, *memory = kunit_device_alloc_memory(order);

	if (!memory)
		return NULL;
	spin_lock(&dev->lock);
	nr = bitmap_find_next_zero_area_off(dev->used, nr_pages,
					    dev->first - base, 1UL << order,
					    (1UL << order) - 1, base);
	if (nr < nr_pages)
		bitmap_set(dev->used, nr, 1UL << order);
	spin_unlock(&dev->lock);
	if (nr >= nr_pages) {
		kunit_device_free_memory(memory, order);
		return NULL;
	}
	page = pfn_to_page(base + nr);
	page->zone_device_data = memory;
	zone_device_folio_init((struct folio *)page, dev->pgmap, order);
	return page;
}

static void kunit_device_page_free(struct page *page)
{
	struct kunit_device *dev = page_pgmap(page)->owner;
	unsigned long base = PHYS_PFN(dev->pgmap->range.start);
	unsigned int order = folio_order(page_folio(page));

	kunit_device_free_memory(page->zone_device_data, order);
	spin_lock(&dev->lock);
	bitmap_clear(dev->used, page_to_pfn(page) - base, 1UL << order);
	spin_unlock(&dev->lock);
}

/* @tail inherited the memory of @head. */
static void kunit_device_folio_split(struct folio *head, struct folio *tail)
{
	struct page *memory = head->page.zone_device_data;

	if (tail)
		tail->page.zone_device_data = memory +
					      (&tail->page - &head->page);
}

/**
 * kunit_device_used() - count the pages that are in use
 * @dev: the device
 *
 * Return: number of pages.
 */
unsigned long kunit_device_used(struct kunit_device *dev)
{
	unsigned long nr;

	spin_lock(&dev->lock);
	nr = bitmap_weight(dev->used, kunit_device_size(dev));
	spin_unlock(&dev->lock);
	return nr;
}

/**
 * kunit_device_memory() - where the contents of a page are
 * @page: page of a device or of the system
 *
 * Return: a page that the CPU can access.
 */
struct page *kunit_device_memory(struct page *page)
{
	struct folio *folio = page_folio(page);
	struct page *memory;

	if (!is_device_private_page(page))
		return page;
	memory = folio->page.zone_device_data;
	return memory + folio_page_idx(folio, page);
}

/**
 * kunit_device_copy_folio() - allocate a folio and fill it
 * @to: device that the folio is on, or NULL for system memory
 * @source: first page with the contents, or NULL for zeroes
 * @order: order of the folio
 *
 * Return: its first page, locked and with a reference, or NULL.
 */
struct page *kunit_device_copy_folio(struct kunit_device *to,
				     struct page *source, unsigned int order)
{
	unsigned long i;
	struct folio *folio;

	if (to) {
		folio = (struct folio *)kunit_device_page(to, order);
	} else {
		folio = folio_alloc(GFP_HIGHUSER_MOVABLE, order);
		if (folio)
			folio_lock(folio);
	}
	if (!folio)
		return NULL;
	for (i = 0; i < 1UL << order; i++) {
		struct page *memory;

		memory = kunit_device_memory(folio_page(folio, i));
		if (source)
			copy_highpage(memory, kunit_device_memory(source + i));
		else
			clear_highpage(memory);
	}
	return folio_page(folio, 0);
}

/**
 * kunit_device_copy() - allocate a page and fill it
 * @to: device that the page is on, or NULL for system memory
 * @source: page with the contents, or NULL for zeroes
 *
 * Return: the page, locked and with a reference, or NULL if there is none.
 */
struct page *kunit_device_copy(struct kunit_device *to, struct page *source)
{
	return kunit_device_copy_folio(to, source, 0);
}

/**
 * kunit_device_moved() - count the pages that migrate
 * @args: a migration after migrate_vma_setup() or migrate_vma_pages()
 *
 * Return: number of entries with MIGRATE_PFN_MIGRATE.
 */
unsigned long kunit_device_moved(const struct migrate_vma *args)
{
	unsigned long i, moved = 0;

	for (i = 0; i < args->npages; i++)
		moved += !!(args->src[i] & MIGRATE_PFN_MIGRATE);
	return moved;
}

/**
 * kunit_device_migrate() - finish a migration
 * @args: a migration after migrate_vma_setup()
 * @to: device that the pages go to, or NULL for system memory
 *
 * Return: number of pages that moved.
 */
unsigned long kunit_device_migrate(struct migrate_vma *args,
				   struct kunit_device *to)
{
	unsigned long i, moved;
	struct page *page;

	for (i = 0; i < args->npages; i++) {
		args->dst[i] = 0;
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		page = kunit_device_copy(to, migrate_pfn_to_page(args->src[i]));
		if (page)
			args->dst[i] = migrate_pfn(page_to_pfn(page));
	}
	migrate_vma_pages(args);
	moved = kunit_device_moved(args);
	migrate_vma_finalize(args);
	return moved;
}

/* The fault path keeps the page locked throughout migrate_to_ram(). */
static void kunit_device_check_locked(struct kunit_device *dev,
				      struct page *page)
{
	if (PageLocked(page))
		return;
	spin_lock(&dev->lock);
	dev->unlocked++;
	spin_unlock(&dev->lock);
}

static void kunit_device_note_fault(struct kunit_device *dev,
				    struct page *page)
{
	spin_lock(&dev->lock);
	dev->faults++;
	spin_unlock(&dev->lock);
	kunit_device_check_locked(dev, page);
	if (dev->on_fault)
		dev->on_fault(dev, page);
}

static vm_fault_t kunit_device_migrate_to_ram(struct vm_fault *vmf)
{
	struct kunit_device *dev = page_pgmap(vmf->page)->owner;
	unsigned long size = (dev->around ?: 1) << PAGE_SHIFT;
	unsigned long src[KUNIT_DEVICE_AROUND] = {};
	unsigned long dst[KUNIT_DEVICE_AROUND] = {};
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = round_down(vmf->address, size),
		.end = round_down(vmf->address, size) + size,
		.src = src,
		.dst = dst,
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};

	kunit_device_note_fault(dev, vmf->page);
	if (dev->serve_fault)
		return dev->serve_fault(dev, vmf);
	if (dev->broken || page_to_pfn(vmf->page) == dev->fails)
		return VM_FAULT_SIGBUS;
	if (dev->keeps)
		return 0;
	if (migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	if (dev->declines)
		migrate_vma_finalize(&args);
	else
		kunit_device_migrate(&args, NULL);
	kunit_device_check_locked(dev, vmf->page);
	return 0;
}

static const struct dev_pagemap_ops kunit_device_ops = {
	.page_free = kunit_device_page_free,
	.folio_split = kunit_device_folio_split,
	.migrate_to_ram = kunit_device_migrate_to_ram,
};

static void kunit_device_release_region(void *data)
{
	struct resource *res = data;

	release_mem_region(res->start, resource_size(res));
}

static phys_addr_t kunit_device_keep_region(struct kunit *test,
					    struct resource *res)
{
	phys_addr_t start = res->start;
	int ret;

	ret = kunit_add_action_or_reset(test, kunit_device_release_region, res);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return start;
}

/**
 * kunit_device_region() - a range of physical addresses without memory
 * @test: test, which releases the range when it ends
 * @size: bytes, a multiple of a sub-section
 *
 * Return: first address.
 */
phys_addr_t kunit_device_region(struct kunit *test, unsigned long size)
{
	struct resource *res;

	res = request_free_mem_region(&iomem_resource, size, "kunit_device");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, res);
	return kunit_device_keep_region(test, res);
}

static void kunit_device_unmap_pages(void *data)
{
	memunmap_pages(data);
}

static struct kunit_device *kunit_device_alloc(struct kunit *test,
					       unsigned long nr_pages)
{
	struct kunit_device *dev;

	dev = kunit_kzalloc(test, sizeof(*dev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, dev);
	dev->pgmap = kunit_kzalloc(test, sizeof(*dev->pgmap), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, dev->pgmap);
	dev->used = kunit_kcalloc(test, BITS_TO_LONGS(nr_pages),
				  sizeof(*dev->used), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, dev->used);
	spin_lock_init(&dev->lock);
	dev->test = test;
	return dev;
}

static struct kunit_device *
kunit_device_create_type(struct kunit *test, enum memory_type type,
			 phys_addr_t start, unsigned long size)
{
	struct kunit_device *dev = kunit_device_alloc(test, PHYS_PFN(size));
	void *addr;
	int ret;

	dev->first = PHYS_PFN(start);
	dev->pgmap->type = type;
	dev->pgmap->range.start = start;
	dev->pgmap->range.end = start + size - 1;
	dev->pgmap->nr_range = 1;
	dev->pgmap->ops = &kunit_device_ops;
	dev->pgmap->owner = dev;
	addr = memremap_pages(dev->pgmap, numa_mem_id());
	KUNIT_ASSERT_FALSE(test, IS_ERR(addr));
	ret = kunit_add_action_or_reset(test, kunit_device_unmap_pages,
					dev->pgmap);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return dev;
}

/**
 * kunit_device_create() - a device with private memory
 * @test: test, which removes the device when it ends
 * @start: first address, in a region of kunit_device_region()
 * @size: bytes, a multiple of a sub-section
 *
 * Return: the device; never NULL.
 */
struct kunit_device *kunit_device_create(struct kunit *test, phys_addr_t start,
					 unsigned long size)
{
	return kunit_device_create_type(test, MEMORY_DEVICE_PRIVATE, start,
					size);
}

static int kunit_device_found(struct resource *res, void *data)
{
	struct range *range = data;
	u64 size = range_len(range);

	range->start = ALIGN(res->start, SUBSECTION_SIZE);
	range->end = range->start + size - 1;
	return range->end <= res->end;
}

/* Memory that the system does not use: memmap=SIZE!ADDRESS sets it aside. */
static phys_addr_t kunit_device_spare_memory(struct kunit *test,
					     unsigned long size)
{
	struct range range = { .end = size - 1 };
	struct resource *res = NULL;

	if (walk_iomem_res_desc(IORES_DESC_PERSISTENT_MEMORY_LEGACY,
				IORESOURCE_MEM, 0, -1, &range,
				kunit_device_found) > 0)
		res = request_mem_region(range.start, size, "kunit_device");
	if (!res)
		kunit_skip(test, "needs memory set aside by memmap=");
	return kunit_device_keep_region(test, res);
}

/**
 * kunit_device_create_coherent() - a device with coherent memory
 * @test: test, which removes the device when it ends
 * @size: bytes, a multiple of a sub-section
 *
 * The pages are real memory. Skips the test if none was set aside.
 *
 * Return: the device; never NULL.
 */
struct kunit_device *kunit_device_create_coherent(struct kunit *test,
						  unsigned long size)
{
	return kunit_device_create_type(test, MEMORY_DEVICE_COHERENT,
					kunit_device_spare_memory(test, size),
					size);
}
