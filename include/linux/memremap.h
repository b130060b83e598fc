/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device memory with struct pages (ZONE_DEVICE).
 *
 * A driver describes physical ranges in a struct dev_pagemap and passes it to
 * memremap_pages(), which plugs them in. Each page points to its pagemap. For
 * the lifetime of pagemaps and pages see mm/memremap.c.
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
 * enum memory_type - type of a range of device memory
 *
 * @MEMORY_DEVICE_PRIVATE: Device memory that no CPU can address. Pages of a
 *	process can migrate to it. For the CPU such a page looks swapped out:
 *	an access calls migrate_to_ram() of the driver, which migrates it back.
 *	The pages cannot be pinned.
 * @MEMORY_DEVICE_COHERENT: Device memory that CPUs can address and cache like
 *	system memory. Pages of a process can migrate to it and stay mapped.
 *	A long-term pin migrates a page to system memory first, so that the
 *	device can always evict all pages.
 * @MEMORY_DEVICE_FS_DAX: Host memory, usually persistent, whose pages a file
 *	system maps into processes directly. When a page has no other user than
 *	the file system any more, tasks that wait for this (truncation, hole
 *	punching, removal) are woken.
 * @MEMORY_DEVICE_GENERIC: Host memory that a driver provides to processes or
 *	to the kernel by its own rules, as device DAX does.
 * @MEMORY_DEVICE_PCI_P2PDMA: Memory of a PCI BAR that other PCI devices
 *	access directly.
 *
 * Zero is not a valid type, so that an uninitialised pagemap is refused.
 *
 * An unused page of the first two types has a reference count of zero;
 * zone_device_page_init() or zone_device_folio_init() makes it usable. A page
 * of the other types always exists and has a count of one when idle.
 */
enum memory_type {
	MEMORY_DEVICE_PRIVATE		= 1,
	MEMORY_DEVICE_COHERENT		= 2,
	MEMORY_DEVICE_FS_DAX		= 3,
	MEMORY_DEVICE_GENERIC		= 4,
	MEMORY_DEVICE_PCI_P2PDMA	= 5,
};

/**
 * struct vmem_altmap - memory map stored in the device memory itself
 *
 * @reserve: number of pages at the start that the driver uses, e.g. for a label
 * @free: number of pages behind those, for the memory map
 * @align: pages of @free that alignment has used up
 * @alloc: pages of @free that the memory map uses
 * @base_pfn: start of the only range of the pagemap
 * @end_pfn: last page frame that the memory map may use
 * @inaccessible: the memory cannot be written while it is plugged in
 *
 * The usable device pages start behind the first @reserve + @free pages.
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
 * struct dev_pagemap_ops - callbacks of the owner of device memory
 *
 * @folio_free: Called when the last reference to a folio is dropped. The driver
 *	may reuse the memory at once, even before it returns, whole or in
 *	folios of other orders. folio_order() is still that of the folio, until
 *	the driver reuses one of its first two pages. The reference
 *	count is that of an unused page; memcg charge, mapping and
 *	anonymous-exclusive marks are cleared, and tail pages are free pages
 *	like others. Must not sleep: it is called in any context but NMI, also
 *	with spinlocks held. Required for private, coherent and PCI
 *	peer-to-peer memory, unless @page_free is set.
 * @page_free: The same under its name in Linux 6.12, with the first page of the
 *	folio. Not called if @folio_free is set.
 * @migrate_to_ram: Handle a CPU fault on a page of private memory. Migrate it,
 *	and other pages at choice, to system memory. The caller has locked and
 *	referenced the page, and holds the mmap lock for reading.
 *	Returns 0 or a VM_FAULT code. Required for private memory.
 * @memory_failure: Page frames @pfn to @pfn + @nr_pages - 1 are poisoned.
 *	Handle it for all users of these pages; flags are MF_*.
 *	Optional: without it, or if it returns -EOPNOTSUPP, the processes
 *	that map the pages are killed.
 * @folio_split: A large folio is split, and @tail is a new folio that was part
 *	of @head. The driver splits its own state of the folio in the same way.
 *	Called for each new folio, from the last to the first, and with @tail
 *	NULL at the end, when @head has its new order too. @tail has its
 *	pagemap, its mapping and its order. Its driver data is that of @head,
 *	and stays so without this callback. Each folio is freed by a call of
 *	its own. No one else can have a reference to one of the folios; must
 *	not sleep: interrupts are disabled. Optional.
 */
struct dev_pagemap_ops {
	int (*memory_failure)(struct dev_pagemap *pgmap, unsigned long pfn,
			      unsigned long nr_pages, int mf_flags);
	vm_fault_t (*migrate_to_ram)(struct vm_fault *vmf);
	void (*folio_split)(struct folio *head, struct folio *tail);
	void (*folio_free)(struct folio *folio);
	void (*page_free)(struct page *page);
};

/* dev_pagemap.flags: the altmap member is valid */
#define PGMAP_ALTMAP_VALID	BIT(0)

/**
 * struct dev_pagemap - device memory that is plugged in and removed as a unit
 *
 * @ref: Live from memremap_pages() to memunmap_pages(). References are held by
 *	callers of get_dev_pagemap(), by each page of private and coherent
 *	memory in use, and by each allocation of PCI peer-to-peer memory.
 * @type: a MEMORY_DEVICE value
 * @flags: PGMAP flags
 * @owner: Identifies the memory of a driver: walks and migration on behalf of
 *	another owner ignore it. Required for private and coherent
 *	memory.
 * @ops: callbacks of the owner
 * @vmemmap_shift: Order of the compound pages that form the memory map, 0 for
 *	single pages; the last one may be incomplete. Not for private and
 *	coherent memory, whose folios are created dynamically.
 * @done: completed when @ref has dropped to zero
 * @altmap: the source of the memory map, if PGMAP_ALTMAP_VALID is set
 * @nr_range: Number of ranges. During memremap_pages(), index of the current
 *	one; the layout of compound pages in the memory map depends on it.
 * @range: the range, if there is one
 * @ranges: the ranges, if there are several
 *
 * The caller sets type, owner, ops, flags, altmap, shift and ranges before
 * memremap_pages() and does not change them later. The rest is private.
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

/* Number of pages in a compound page of the memory map */
static inline unsigned long pgmap_vmemmap_nr(struct dev_pagemap *pgmap)
{
	return 1UL << pgmap->vmemmap_shift;
}

/**
 * put_dev_pagemap - drop a reference from get_dev_pagemap()
 * @pgmap: the pagemap, may be NULL
 *
 * Context: Any but NMI.
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

/* Without ZONE_DEVICE only memremap() uses a namespace. */
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
