/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device memory with struct pages (ZONE_DEVICE).
 *
 * A driver describes physical ranges by a struct dev_pagemap and hands it to
 * memremap_pages(), which plugs the ranges in and gives each of their pages a
 * pointer back to the pagemap. mm/memremap.c says how the two live and die.
 */
#ifndef _LINUX_MEMREMAP_H_
#define _LINUX_MEMREMAP_H_

#include <linux/ioport.h>
#include <linux/mmzone.h>
#include <linux/percpu-refcount.h>
#include <linux/range.h>

struct device;
struct resource;

/**
 * enum memory_type - what a range of device memory is, and who may use it
 *
 * @MEMORY_DEVICE_PRIVATE: Memory of a device that no CPU can address. It has
 *	struct pages, and a process page can live in it, but to the CPU such a
 *	page looks swapped out: an access brings it back by way of the driver's
 *	migrate_to_ram(). It can never be pinned.
 * @MEMORY_DEVICE_COHERENT: Memory of a device that CPUs address as they do
 *	their own, caches included. Process pages live in it and stay mapped.
 *	A long-term pin moves the page to system memory first, so that the
 *	device can always be emptied.
 * @MEMORY_DEVICE_FS_DAX: Host memory, persistent as a rule, whose pages a
 *	file system maps into processes directly. When the last user but the
 *	file system lets go of a page, whoever waits for that (truncation, hole
 *	punching, teardown) is woken.
 * @MEMORY_DEVICE_GENERIC: Host memory that a driver hands to processes or to
 *	the kernel by its own rules, as device DAX does.
 * @MEMORY_DEVICE_PCI_P2PDMA: Memory behind a PCI BAR that other PCI devices
 *	reach without a detour through host memory.
 *
 * Zero is no type, so that a pagemap nobody filled in is found out.
 *
 * A page of the first two types that nobody uses has a reference count of
 * zero, and zone_device_page_init() or zone_device_folio_init() brings it to
 * life. A page of the other types always exists and idles at one.
 */
enum memory_type {
	MEMORY_DEVICE_PRIVATE		= 1,
	MEMORY_DEVICE_COHERENT		= 2,
	MEMORY_DEVICE_FS_DAX		= 3,
	MEMORY_DEVICE_GENERIC		= 4,
	MEMORY_DEVICE_PCI_P2PDMA	= 5,
};

/**
 * struct vmem_altmap - a memory map that lies in the device memory itself
 *
 * @reserve: pages at the start that are the driver's, for a label or the like
 * @free: pages after those, set aside for the memory map
 * @align: of @free, pages lost to alignment so far
 * @alloc: of @free, pages that the memory map has taken so far
 * @base_pfn: where the pagemap's only range starts
 * @end_pfn: last page frame that the memory map may take
 * @inaccessible: the memory cannot be written yet while it is plugged in
 *
 * Device pages proper start after the first @reserve + @free pages.
 */
struct vmem_altmap {
	const unsigned long reserve;
	unsigned long free;
	unsigned long align;
	unsigned long alloc;
	unsigned long base_pfn;
	const unsigned long end_pfn;
	bool inaccessible;
};

/**
 * struct dev_pagemap_ops - what the owner of device memory is asked to do
 *
 * @folio_free: The last reference to a folio is gone and the memory is the
 *	driver's again, to be handed out as soon as it likes, from within the
 *	call on. The count is what an unused page of the type has; charge,
 *	mapping and anonymous-exclusive marks are gone. May be called in any
 *	context but NMI, with spinlocks held, so it must not sleep. Required
 *	for the types private, coherent and PCI peer-to-peer, unless @page_free
 *	is there.
 * @page_free: The same for folios of one page, as Linux 6.12 names it. Not
 *	called where @folio_free is there, too.
 * @migrate_to_ram: A CPU touched a page of private memory. Move it, and what
 *	else seems worthwhile, to system memory. The page at hand is locked and
 *	referenced for the call by the caller, the mmap or VMA lock is held for
 *	read. Returns 0 or a VM_FAULT code. Required for private memory.
 * @memory_failure: Page frames @pfn to @pfn + @nr_pages - 1 have gone bad.
 *	Tell those who use them and save what can be saved; flags are MF_*.
 *	Optional: without it, or when it returns -EOPNOTSUPP, the processes
 *	that map the pages are killed.
 * @folio_split: A folio of several pages has been split and @tail, its head
 *	once, is a part of @head no longer. The driver splits what it keeps
 *	about the memory likewise. Called for each new folio, with @tail NULL
 *	when all are done. Must not sleep. Optional.
 */
struct dev_pagemap_ops {
	int (*memory_failure)(struct dev_pagemap *pgmap, unsigned long pfn,
			      unsigned long nr_pages, int mf_flags);
	vm_fault_t (*migrate_to_ram)(struct vm_fault *vmf);
	void (*folio_split)(struct folio *head, struct folio *tail);
	void (*folio_free)(struct folio *folio);
	void (*page_free)(struct page *page);
};

/* dev_pagemap.flags: the altmap member is filled in */
#define PGMAP_ALTMAP_VALID	BIT(0)

/**
 * struct dev_pagemap - device memory that is plugged in and removed as one
 *
 * @ref: Live from memremap_pages() to memunmap_pages(). Holders: whoever got
 *	the pagemap from get_dev_pagemap(), each page in use of private and
 *	coherent memory, each allocation of PCI peer-to-peer memory.
 * @type: a MEMORY_DEVICE value
 * @flags: PGMAP flags
 * @owner: Tells the memory of one driver from that of another: walks and
 *	migration leave foreign device memory alone. Required for private and
 *	coherent memory.
 * @ops: the owner's callbacks
 * @vmemmap_shift: Order of the compound pages that the memory map is laid out
 *	in for good, 0 for single pages; the last one may be cut short. Not
 *	for private and coherent memory, whose folios come and go.
 * @done: completed when @ref has dropped to zero
 * @altmap: where the memory map comes from, if PGMAP_ALTMAP_VALID is set
 * @nr_range: How many ranges. While memremap_pages() runs, which one it is at;
 *	the layout of compound pages in the memory map depends on that.
 * @range: the range, where there is one
 * @ranges: the ranges, where there are more
 *
 * Type, owner, ops, flags, altmap, shift and ranges are the caller's to fill
 * in before and to leave alone after memremap_pages(); the rest is private.
 */
struct dev_pagemap {
	struct percpu_ref ref;
	enum memory_type type;
	unsigned int flags;
	const struct dev_pagemap_ops *ops;
	void *owner;
	struct completion done;
	unsigned long vmemmap_shift;
	int nr_range;
	struct vmem_altmap altmap;
	union {
		struct range range;
		DECLARE_FLEX_ARRAY(struct range, ranges);
	};
};

static inline bool page_is_device_type(const struct page *page,
				       enum memory_type type)
{
	return is_zone_device_page(page) && page_pgmap(page)->type == type;
}

static inline bool is_pci_p2pdma_page(const struct page *page)
{
	if (!IS_ENABLED(CONFIG_PCI_P2PDMA))
		return false;
	return page_is_device_type(page, MEMORY_DEVICE_PCI_P2PDMA);
}

static inline bool is_device_private_page(const struct page *page)
{
	if (!IS_ENABLED(CONFIG_DEVICE_PRIVATE))
		return false;
	return page_is_device_type(page, MEMORY_DEVICE_PRIVATE);
}

static inline bool is_device_coherent_page(const struct page *page)
{
	return page_is_device_type(page, MEMORY_DEVICE_COHERENT);
}

static inline bool folio_is_device_private(const struct folio *folio)
{
	return IS_ENABLED(CONFIG_DEVICE_PRIVATE) &&
	       page_is_device_type(&folio->page, MEMORY_DEVICE_PRIVATE);
}

static inline bool folio_is_device_coherent(const struct folio *folio)
{
	return page_is_device_type(&folio->page, MEMORY_DEVICE_COHERENT);
}

static inline bool pgmap_has_memory_failure(struct dev_pagemap *pgmap)
{
	const struct dev_pagemap_ops *ops = pgmap->ops;

	return ops && ops->memory_failure;
}

static inline struct vmem_altmap *pgmap_altmap(struct dev_pagemap *pgmap)
{
	return pgmap->flags & PGMAP_ALTMAP_VALID ? &pgmap->altmap : NULL;
}

/* how many pages one compound page of the memory map has */
static inline unsigned long pgmap_vmemmap_nr(struct dev_pagemap *pgmap)
{
	return 1UL << pgmap->vmemmap_shift;
}

/**
 * put_dev_pagemap - give a reference from get_dev_pagemap() back
 * @pgmap: the pagemap, may be NULL
 *
 * Context: any but NMI
 */
static inline void put_dev_pagemap(struct dev_pagemap *pgmap)
{
	if (!pgmap)
		return;
	percpu_ref_put(&pgmap->ref);
}

#ifdef CONFIG_ZONE_DEVICE

unsigned long memremap_compat_align(void);
bool pfn_is_device_memory(unsigned long pfn);
bool pgmap_pfn_valid(struct dev_pagemap *pgmap, unsigned long pfn);
struct dev_pagemap *get_dev_pagemap(unsigned long pfn,
				    struct dev_pagemap *pgmap);

void memunmap_pages(struct dev_pagemap *pgmap);
void *memremap_pages(struct dev_pagemap *pgmap, int nid);
void devm_memunmap_pages(struct device *dev, struct dev_pagemap *pgmap);
void *devm_memremap_pages(struct device *dev, struct dev_pagemap *pgmap);

void zone_device_folio_init(struct folio *folio, struct dev_pagemap *pgmap,
			    unsigned int order);
void zone_device_page_init(struct page *page);

#else /* !CONFIG_ZONE_DEVICE */

/* without ZONE_DEVICE a namespace can be as small as memremap() allows */
static inline unsigned long memremap_compat_align(void)
{
	return PAGE_SIZE;
}

static inline bool pfn_is_device_memory(unsigned long pfn)
{
	return false;
}

static inline void devm_memunmap_pages(struct device *dev,
				       struct dev_pagemap *pgmap)
{
}

static inline bool pgmap_pfn_valid(struct dev_pagemap *pgmap, unsigned long pfn)
{
	return false;
}

static inline struct dev_pagemap *get_dev_pagemap(unsigned long pfn,
						  struct dev_pagemap *pgmap)
{
	return NULL;
}

static inline void *devm_memremap_pages(struct device *dev,
					struct dev_pagemap *pgmap)
{
	return ERR_PTR(-ENXIO);
}

#endif /* CONFIG_ZONE_DEVICE */

#endif /* _LINUX_MEMREMAP_H_ */
