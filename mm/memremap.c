// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device memory: plugging it into ZONE_DEVICE, the lifetime of a dev_pagemap,
 * and the birth and death of a device folio.
 *
 * A pagemap owns its physical ranges from memremap_pages() until
 * memunmap_pages() returns. pgmap_array says for each page frame which state
 * it is in:
 *
 *	nothing ----> claimed ----> live ----> claimed ----> nothing
 *	         check       plug in     drain        remove
 *
 * A claimed frame may or may not have a memory map just now, so lookups find
 * no pagemap there, yet the frame counts as device memory (and nobody takes it
 * for System RAM that is online in the same section). Claims come before all
 * else that has an effect and go after all else is undone. A live frame has an
 * initialised struct page, and its entry is the pagemap.
 *
 * References. dev_pagemap.ref covers the pagemap: lookups hold it for short,
 * and a folio of 2^n pages of private or coherent memory holds 2^n from
 * zone_device_folio_init() to the end of free_zone_device_folio(). Such a
 * folio has a reference count of zero while it is free. Pages of the other
 * types are there all the time, count one when idle, and hold no reference to
 * the pagemap; their users just count on the page. Users of peer-to-peer
 * memory besides hold one reference to the pagemap for each allocation, since
 * there a page in use may count one as well.
 *
 * Removal, in this order:
 *  1. The frames go from live to claimed and the ref is killed: from then on
 *     no lookup gets a reference, so none turns a page table entry into a
 *     reference to a page. (The driver has unmapped the memory by now and maps
 *     it no more. Page table entries that are not marked as devmap, and so can
 *     be followed without a lookup, hold a reference themselves.)
 *  2. The ref drops to zero. No lookup is on its way any longer, and page
 *     counts can only fall: one look at each page is enough, and a page that
 *     was seen idle stays idle.
 *  3. Pages that idle at one are waited for, one after the other. What drops
 *     the count of a page of generic memory calls nobody, so the waiter looks
 *     again after a bounded sleep; the wakeup that there is for file system
 *     DAX only makes that sleep shorter. There is no wakeup to be lost. A page
 *     of file system DAX also has a user as long as it belongs to a file: the
 *     file's entries for it bear no reference, but lead to the struct page. A
 *     file system that does not let go of its files when its device goes is
 *     waited for until it is unmounted.
 *  4. A grace period. Page table walks read page->pgmap under RCU without a
 *     reference, those that put the last reference may not be out of
 *     put_page() yet, nor those that took the page out of its file.
 *  5. Memory map and linear mapping go, then the claims.
 *
 * Locks: pgmap_claim_mutex makes looking for a conflict and claiming one step;
 * it nests outside of nothing but the array's own lock. The hotplug lock is
 * taken alone.
 */
#define pr_fmt(fmt) "memremap: " fmt

#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/kasan.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/wait_bit.h>
#include <linux/xarray.h>
#include "internal.h"

/* What holds for all memory of a type. */
#define KIND_BUILT_IN		BIT(0)
#define KIND_NEEDS_OWNER	BIT(1)
#define KIND_NEEDS_FREE		BIT(2)
#define KIND_NEEDS_MIGRATE	BIT(3)
#define KIND_CPU_MAPPED		BIT(4)	/* part of the linear mapping */

#define KIND_IF(cond)		((cond) ? KIND_BUILT_IN : 0)

struct pgmap_kind {
	const char *name;
	unsigned int rules;
};

static const struct pgmap_kind pgmap_kinds[] = {
	[0] = { "unknown", 0 },
	[MEMORY_DEVICE_PRIVATE] = {
		"private", KIND_IF(IS_ENABLED(CONFIG_DEVICE_PRIVATE)) |
		KIND_NEEDS_OWNER | KIND_NEEDS_FREE | KIND_NEEDS_MIGRATE,
	},
	[MEMORY_DEVICE_COHERENT] = {
		"coherent", KIND_BUILT_IN | KIND_CPU_MAPPED |
		KIND_NEEDS_OWNER | KIND_NEEDS_FREE,
	},
	[MEMORY_DEVICE_FS_DAX] = {
		"fs-dax", KIND_IF(!IS_ENABLED(CONFIG_FS_DAX_LIMITED)) |
		KIND_CPU_MAPPED,
	},
	[MEMORY_DEVICE_GENERIC] = {
		"generic", KIND_BUILT_IN | KIND_CPU_MAPPED,
	},
	[MEMORY_DEVICE_PCI_P2PDMA] = {
		"p2pdma", KIND_BUILT_IN | KIND_CPU_MAPPED | KIND_NEEDS_FREE,
	},
};

/* As many as a pagemap from kmalloc() can have. */
#define PGMAP_MAX_RANGES	(KMALLOC_MAX_SIZE / sizeof(struct range))
#define PGMAP_MAX_SHIFT		ilog2(MAX_FOLIO_NR_PAGES)

/* Larger device folios need their tail pages set up, which nothing does yet. */
#define PGMAP_MAX_FOLIO_ORDER	0

#define PGMAP_POLL_PERIOD	(HZ / 10)
#define PGMAP_FIRST_REPORT	(10 * HZ)
#define PGMAP_REPORT_PERIOD	(60 * HZ)
#define PGMAP_REPORT_FOLIOS	4

/* Pages between two offers of the CPU in a pass over a memory map. */
#define PGMAP_PASS_BATCH	PAGES_PER_SUBSECTION

#define PGMAP_CLAIMED		xa_mk_value(0)

static DEFINE_XARRAY(pgmap_array);
static DEFINE_MUTEX(pgmap_claim_mutex);

static const struct pgmap_kind *pgmap_kind(const struct dev_pagemap *pgmap)
{
	unsigned int type = pgmap->type;

	return &pgmap_kinds[type < ARRAY_SIZE(pgmap_kinds) ? type : 0];
}

static bool pgmap_has_rule(const struct dev_pagemap *pgmap, unsigned int rule)
{
	return pgmap_kind(pgmap)->rules & rule;
}

static bool pgmap_counts_from_zero(const struct dev_pagemap *pgmap)
{
	return pgmap->type == MEMORY_DEVICE_PRIVATE ||
	       pgmap->type == MEMORY_DEVICE_COHERENT;
}

static bool pgmap_can_free(const struct dev_pagemap *pgmap)
{
	return pgmap->ops && (pgmap->ops->folio_free || pgmap->ops->page_free);
}

/* ---- the geometry of a pagemap ---- */

static unsigned long range_pfn(const struct range *range)
{
	return PHYS_PFN(range->start);
}

static unsigned long range_nr_pages(const struct range *range)
{
	return PHYS_PFN(range_len(range));
}

/* One behind the last page. */
static unsigned long range_end_pfn(const struct range *range)
{
	return range_pfn(range) + range_nr_pages(range);
}

/* The first page that is not taken by a memory map in the range itself. */
static unsigned long pgmap_first_pfn(struct dev_pagemap *pgmap, int i)
{
	unsigned long pfn = range_pfn(&pgmap->ranges[i]);

	return i ? pfn : pfn + vmem_altmap_offset(pgmap_altmap(pgmap));
}

static int pgmap_find_range(const struct dev_pagemap *pgmap, unsigned long pfn)
{
	int i;

	for (i = 0; i < pgmap->nr_range; i++) {
		const struct range *range = &pgmap->ranges[i];

		if (pfn - range_pfn(range) < range_nr_pages(range))
			return i;
	}
	return -1;
}

/**
 * pgmap_pfn_valid - is there a device page at this page frame
 * @pgmap: a pagemap that memremap_pages() has accepted
 * @pfn: any page frame number
 *
 * Context: any; @pgmap is referenced or otherwise known to stay
 * Return: true if @pfn lies in one of the ranges and its memory is the
 * device's; false elsewhere, and where the memory holds the memory map
 */
bool pgmap_pfn_valid(struct dev_pagemap *pgmap, unsigned long pfn)
{
	int i = pgmap_find_range(pgmap, pfn);

	return i >= 0 && pfn >= pgmap_first_pfn(pgmap, i);
}

#ifndef CONFIG_ARCH_HAS_MEMREMAP_COMPAT_ALIGN
/**
 * memremap_compat_align - alignment that every use of a namespace can live with
 *
 * Start and size of persistent memory that is to be used by memremap(), which
 * takes single pages, and later by memremap_pages(), must be multiples of this.
 *
 * Return: the alignment in bytes
 */
unsigned long memremap_compat_align(void)
{
	return SUBSECTION_SIZE;
}
EXPORT_SYMBOL_GPL(memremap_compat_align);
#endif

/* ---- what a pagemap must look like ---- */

/* The one line about a pagemap that is not accepted; gives the errno back. */
static int pgmap_refuse(const struct dev_pagemap *pgmap, int i, int error,
			const char *why)
{
	const struct range *range = &pgmap->ranges[i];

	pr_err("%s pagemap (type %d) [mem %#llx-%#llx]: %s (%d)\n",
	       pgmap_kind(pgmap)->name, pgmap->type, range->start, range->end,
	       why, error);
	return error;
}

static int pgmap_check_kind(const struct dev_pagemap *pgmap)
{
	const struct dev_pagemap_ops *ops = pgmap->ops;
	const char *why = NULL;

	if (!pgmap_has_rule(pgmap, KIND_BUILT_IN))
		why = "the type is unknown, or not configured into this kernel";
	else if (pgmap_has_rule(pgmap, KIND_NEEDS_OWNER) && !pgmap->owner)
		why = "there is no owner";
	else if (pgmap_has_rule(pgmap, KIND_NEEDS_FREE) && !pgmap_can_free(pgmap))
		why = "there is neither folio_free() nor page_free()";
	else if (pgmap_has_rule(pgmap, KIND_NEEDS_MIGRATE) &&
		 !ops->migrate_to_ram)
		why = "there is no migrate_to_ram()";

	return why ? pgmap_refuse(pgmap, 0, -EINVAL, why) : 0;
}

static int pgmap_check_layout(struct dev_pagemap *pgmap, int nid)
{
	const char *why = NULL;

	if (pgmap->nr_range < 1 || pgmap->nr_range > PGMAP_MAX_RANGES)
		why = "the number of ranges is absurd";
	else if (pgmap->flags & ~PGMAP_ALTMAP_VALID)
		why = "there are unknown flags";
	else if (pgmap->vmemmap_shift > PGMAP_MAX_SHIFT)
		why = "vmemmap_shift is too large";
	else if (pgmap->vmemmap_shift && pgmap_counts_from_zero(pgmap))
		why = "vmemmap_shift is not for memory that pages migrate to";
	else if (nid >= MAX_NUMNODES || (nid >= 0 && !node_possible(nid)))
		why = "there is no such node";

	return why ? pgmap_refuse(pgmap, 0, -EINVAL, why) : 0;
}

static int pgmap_check_altmap(struct dev_pagemap *pgmap)
{
	const struct vmem_altmap *altmap = pgmap_altmap(pgmap);
	unsigned long nr = range_nr_pages(&pgmap->range);
	const char *why = NULL;

	if (!altmap)
		return 0;

	if (!pgmap_has_rule(pgmap, KIND_CPU_MAPPED))
		why = "a memory map cannot lie where no CPU can write";
	else if (pgmap->nr_range > 1)
		why = "an altmap serves one range only";
	else if (altmap->base_pfn != range_pfn(&pgmap->range))
		why = "the altmap does not start where the range does";
	else if (altmap->reserve >= nr || altmap->free >= nr - altmap->reserve)
		why = "the altmap leaves no page of the range";

	return why ? pgmap_refuse(pgmap, 0, -EINVAL, why) : 0;
}

static int pgmap_check_range(struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	struct range limit =
		mhp_get_pluggable_range(pgmap_has_rule(pgmap, KIND_CPU_MAPPED));

	if (range->start > range->end)
		return pgmap_refuse(pgmap, i, -EINVAL,
				    "the range is empty or wraps around");
	if (!IS_ALIGNED(range->start | (range->end + 1), SUBSECTION_SIZE))
		return pgmap_refuse(pgmap, i, -EINVAL,
				    "the range does not consist of subsections");
	if (range->start < limit.start || range->end > limit.end)
		return pgmap_refuse(pgmap, i, -EINVAL,
				    "the range exceeds what can be addressed");
	if (region_intersects(range->start, range_len(range),
			      IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return pgmap_refuse(pgmap, i, -ENXIO,
				    "the range overlaps System RAM");
	return 0;
}

/*
 * After the altmap has been checked; with one, each page has its own part of the
 * memory map. Device DAX has ranges that end within a page of 1 GiB. A smaller page
 * that is cut short would share its part of the map with what follows, where the map
 * of its tail is one and the same page.
 */
static int pgmap_check_compound(struct dev_pagemap *pgmap, int i)
{
	unsigned long nr = range_end_pfn(&pgmap->ranges[i]) -
			   pgmap_first_pfn(pgmap, i);

	if (IS_ALIGNED(nr, pgmap_vmemmap_nr(pgmap)) ||
	    pgmap->vmemmap_shift >= PFN_SECTION_SHIFT ||
	    !vmemmap_can_optimize(pgmap_altmap(pgmap), pgmap))
		return 0;
	return pgmap_refuse(pgmap, i, -EINVAL,
			    "the range does not consist of compound pages");
}

static int pgmap_check(struct dev_pagemap *pgmap, int nid)
{
	int error, i;

	error = pgmap_check_kind(pgmap);
	if (!error)
		error = pgmap_check_layout(pgmap, nid);
	for (i = 0; !error && i < pgmap->nr_range; i++)
		error = pgmap_check_range(pgmap, i);
	if (!error)
		error = pgmap_check_altmap(pgmap);
	for (i = 0; !error && i < pgmap->nr_range; i++)
		error = pgmap_check_compound(pgmap, i);
	return error;
}

/* ---- who owns which page frame ---- */

static int pgmap_array_store(const struct range *range, void *entry)
{
	return xa_err(xa_store_range(&pgmap_array, range_pfn(range),
				     range_end_pfn(range) - 1, entry,
				     GFP_KERNEL));
}

static void pgmap_release_claim(const struct range *range)
{
	pgmap_array_store(range, NULL);
}

static const char *pgmap_conflict(const struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];

	while (i--) {
		const struct range *other = &pgmap->ranges[i];

		if (range->start <= other->end && other->start <= range->end)
			return "the range overlaps another one of the pagemap";
	}
	return "the range overlaps other device memory";
}

static int pgmap_claim(const struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	unsigned long pfn = range_pfn(range);
	int error;

	guard(mutex)(&pgmap_claim_mutex);
	if (xa_find(&pgmap_array, &pfn, range_end_pfn(range) - 1, XA_PRESENT))
		return pgmap_refuse(pgmap, i, -EBUSY, pgmap_conflict(pgmap, i));

	error = pgmap_array_store(range, PGMAP_CLAIMED);
	if (!error)
		return 0;
	/* part of the range may have been stored */
	pgmap_release_claim(range);
	return pgmap_refuse(pgmap, i, error, "no memory to claim the range");
}

static void pgmap_release_claims(const struct dev_pagemap *pgmap, int nr_claimed)
{
	int i;

	for (i = 0; i < nr_claimed; i++)
		pgmap_release_claim(&pgmap->ranges[i]);
}

static int pgmap_claim_all(const struct dev_pagemap *pgmap)
{
	int error, i;

	for (i = 0; i < pgmap->nr_range; i++) {
		error = pgmap_claim(pgmap, i);
		if (error) {
			pgmap_release_claims(pgmap, i);
			return error;
		}
	}
	return 0;
}

/*
 * From claimed to live and back. The nodes for exactly these ranges are there
 * already, so nothing is allocated and nothing can fail.
 */
static void pgmap_replace_entries(const struct dev_pagemap *pgmap, void *entry)
{
	int i;

	for (i = 0; i < pgmap->nr_range; i++)
		WARN_ON_ONCE(pgmap_array_store(&pgmap->ranges[i], entry));
}

/**
 * pfn_is_device_memory - does a pagemap own this page frame
 * @pfn: any page frame number
 *
 * Context: any
 * Return: true from before memory is plugged in at @pfn by memremap_pages()
 * until after it has been removed, no matter whether it can be used; else false
 */
bool pfn_is_device_memory(unsigned long pfn)
{
	return xa_load(&pgmap_array, pfn);
}

/**
 * get_dev_pagemap - find the pagemap of a page frame
 * @pfn: any page frame number
 * @pgmap: NULL, or the result of an earlier call for another page frame
 *
 * Spares the lookup while a caller that works its way through neighbouring
 * page frames stays in the pagemap that it has a reference to.
 *
 * Context: any but NMI
 * Return: the pagemap that is live at @pfn, referenced: @pgmap with the very
 * reference that came with it, or else a new one. NULL if there is none, or if
 * its removal has begun. A reference that came with @pgmap has been dropped
 * wherever @pgmap is not what is returned.
 */
struct dev_pagemap *get_dev_pagemap(unsigned long pfn,
				    struct dev_pagemap *pgmap)
{
	void *entry;

	if (pgmap) {
		if (pgmap_find_range(pgmap, pfn) >= 0)
			return pgmap;
		put_dev_pagemap(pgmap);
	}

	guard(rcu)();
	entry = xa_load(&pgmap_array, pfn);
	if (!entry || entry == PGMAP_CLAIMED)
		return NULL;
	pgmap = entry;
	return percpu_ref_tryget_live_rcu(&pgmap->ref) ? pgmap : NULL;
}
EXPORT_SYMBOL_GPL(get_dev_pagemap);

/* ---- plugging in and removing ---- */

static pgprot_t pgmap_pgprot(const struct dev_pagemap *pgmap)
{
	switch (pgmap->type) {
	case MEMORY_DEVICE_FS_DAX:
		return pgprot_decrypted(PAGE_KERNEL);
	case MEMORY_DEVICE_PCI_P2PDMA:
		return pgprot_noncached(PAGE_KERNEL);
	default:
		return PAGE_KERNEL;
	}
}

static int plug_cpu_mapped(const struct range *range, int nid,
			   struct mhp_params *params)
{
	u64 size = range_len(range);
	void *start = __va(range->start);
	int error;

	error = kasan_add_zero_shadow(start, size);
	if (error)
		return error;
	error = arch_add_memory(nid, range->start, size, params);
	if (error)
		kasan_remove_zero_shadow(start, size);
	return error;
}

/* Memory map, linear mapping where CPUs reach the memory, and zone. */
static int plug_into_zone(const struct range *range, int nid,
			  struct mhp_params *params)
{
	unsigned long pfn = range_pfn(range), nr = range_nr_pages(range);
	int error;

	mem_hotplug_begin();
	if (pgmap_has_rule(params->pgmap, KIND_CPU_MAPPED))
		error = plug_cpu_mapped(range, nid, params);
	else
		error = add_pages(nid, pfn, nr, params);
	if (!error)
		move_pfn_range_to_zone(&NODE_DATA(nid)->node_zones[ZONE_DEVICE],
				       pfn, nr, params->altmap,
				       MIGRATE_MOVABLE);
	mem_hotplug_done();
	return error;
}

static int pgmap_plug(struct dev_pagemap *pgmap, int i, int nid)
{
	const struct range *range = &pgmap->ranges[i];
	struct mhp_params params = {
		.altmap = pgmap_altmap(pgmap),
		.pgmap = pgmap,
		.pgprot = pgmap_pgprot(pgmap),
	};
	int error;

	error = track_pfn_remap(NULL, &params.pgprot, range_pfn(range), 0,
				range_len(range));
	if (error)
		return error;

	error = plug_into_zone(range, nid, &params);
	if (error) {
		untrack_pfn(NULL, range_pfn(range), range_len(range), true);
		return error;
	}

	/* takes long for much memory, so not under the hotplug lock */
	memmap_init_zone_device(&NODE_DATA(nid)->node_zones[ZONE_DEVICE],
				range_pfn(range), range_nr_pages(range), pgmap);
	return 0;
}

static void pgmap_unplug(struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	unsigned long pfn = range_pfn(range), nr = range_nr_pages(range);
	struct page *page = pfn_to_page(pgmap_first_pfn(pgmap, i));

	mem_hotplug_begin();
	remove_pfn_range_from_zone(page_zone(page), pfn, nr);
	if (pgmap_has_rule(pgmap, KIND_CPU_MAPPED)) {
		arch_remove_memory(range->start, range_len(range),
				   pgmap_altmap(pgmap), pgmap);
		kasan_remove_zero_shadow(__va(range->start), range_len(range));
	} else {
		__remove_pages(pfn, nr, NULL, pgmap);
	}
	mem_hotplug_done();

	untrack_pfn(NULL, pfn, range_len(range), true);
}

/* The first @nr ranges; after a grace period in which nobody uses them. */
static void pgmap_unplug_ranges(struct dev_pagemap *pgmap, int nr)
{
	struct vmem_altmap *altmap = pgmap_altmap(pgmap);
	int i;

	for (i = 0; i < nr; i++)
		pgmap_unplug(pgmap, i);
	if (!altmap)
		return;
	WARN_ONCE(altmap->alloc, "memory map not wholly given back\n");
	altmap->align = 0;
}

static int pgmap_plug_all(struct dev_pagemap *pgmap, int nid)
{
	const int nr_range = pgmap->nr_range;
	int error = 0, i;

	for (i = 0; i < nr_range; i++) {
		/* tells vmemmap where the range at work starts */
		pgmap->nr_range = i;
		error = pgmap_plug(pgmap, i, nid);
		if (error)
			break;
	}
	pgmap->nr_range = nr_range;
	if (!error)
		return 0;

	pgmap_refuse(pgmap, i, error, "the range cannot be plugged in");
	synchronize_rcu();
	pgmap_unplug_ranges(pgmap, i);
	return error;
}

/* ---- waiting for the last user ---- */

struct pgmap_drain {
	struct dev_pagemap *pgmap;
	unsigned long begun;		/* jiffies */
	unsigned long next_report;	/* jiffies */
};

static int pgmap_idle_count(const struct dev_pagemap *pgmap)
{
	return pgmap_counts_from_zero(pgmap) ? 0 : 1;
}

static bool folio_belongs_to_file(const struct dev_pagemap *pgmap,
				  struct folio *folio)
{
	return pgmap->type == MEMORY_DEVICE_FS_DAX && READ_ONCE(folio->mapping);
}

static bool folio_has_users(const struct dev_pagemap *pgmap,
			    struct folio *folio)
{
	return folio_ref_count(folio) > pgmap_idle_count(pgmap) ||
	       folio_belongs_to_file(pgmap, folio);
}

static void report_folio(const struct dev_pagemap *pgmap, struct folio *folio)
{
	pr_warn("  pfn %#lx: %s, order %u, refcount %d%s%s\n", folio_pfn(folio),
		pgmap_kind(pgmap)->name, folio_order(folio),
		folio_ref_count(folio),
		folio_maybe_dma_pinned(folio) ? ", pinned for DMA" : "",
		folio_belongs_to_file(pgmap, folio) ? ", part of a file" : "");
}

/* Names up to @left folios of a range that are in use, says how many. */
static int report_range(struct dev_pagemap *pgmap, int i, int left)
{
	unsigned long pfn = pgmap_first_pfn(pgmap, i);
	unsigned long end = range_end_pfn(&pgmap->ranges[i]);
	int found = 0;

	for (; pfn < end && found < left; pfn += pgmap_vmemmap_nr(pgmap)) {
		struct page *page = pfn_to_page(pfn);

		if (!(pfn % PGMAP_PASS_BATCH))
			cond_resched();
		if (PageTail(page))
			continue;
		if (!folio_has_users(pgmap, page_folio(page)))
			continue;
		report_folio(pgmap, page_folio(page));
		found++;
	}
	return found;
}

static void pgmap_drain_report(struct pgmap_drain *drain)
{
	struct dev_pagemap *pgmap = drain->pgmap;
	int i, found = 0;

	if (time_before(jiffies, drain->next_report))
		return;

	pr_warn("%s pagemap [mem %#llx-%#llx]: removal waits for users for %u s\n",
		pgmap_kind(pgmap)->name, pgmap->range.start, pgmap->range.end,
		jiffies_to_msecs(jiffies - drain->begun) / 1000);
	for (i = 0; i < pgmap->nr_range && found < PGMAP_REPORT_FOLIOS; i++)
		found += report_range(pgmap, i, PGMAP_REPORT_FOLIOS - found);
	if (!found)
		pr_warn("  no page shows a user, the pagemap itself is held\n");
	drain->next_report = jiffies + PGMAP_REPORT_PERIOD;
}

static void pgmap_drain_folio(struct pgmap_drain *drain, struct folio *folio)
{
	while (!wait_var_event_timeout(&folio->_refcount,
				       !folio_has_users(drain->pgmap, folio),
				       PGMAP_POLL_PERIOD))
		pgmap_drain_report(drain);
}

static void pgmap_drain_range(struct pgmap_drain *drain, int i)
{
	struct dev_pagemap *pgmap = drain->pgmap;
	unsigned long pfn = pgmap_first_pfn(pgmap, i);
	unsigned long end = range_end_pfn(&pgmap->ranges[i]);

	for (; pfn < end; pfn += pgmap_vmemmap_nr(pgmap)) {
		pgmap_drain_folio(drain, pfn_folio(pfn));
		if (!(pfn % PGMAP_PASS_BATCH))
			cond_resched();
	}
}

static void pgmap_drain(struct dev_pagemap *pgmap)
{
	struct pgmap_drain drain = {
		.pgmap = pgmap,
		.begun = jiffies,
		.next_report = jiffies + PGMAP_FIRST_REPORT,
	};
	int i;

	percpu_ref_kill(&pgmap->ref);
	while (!wait_for_completion_timeout(&pgmap->done, PGMAP_FIRST_REPORT))
		pgmap_drain_report(&drain);

	if (pgmap_counts_from_zero(pgmap))
		return;
	for (i = 0; i < pgmap->nr_range; i++)
		pgmap_drain_range(&drain, i);
}

static void pgmap_ref_release(struct percpu_ref *ref)
{
	complete(&container_of(ref, struct dev_pagemap, ref)->done);
}

/* ---- FS_DAX: the last user but the file system tells who waits ---- */

#ifdef CONFIG_FS_DAX
DEFINE_STATIC_KEY_FALSE(devmap_managed_key);
EXPORT_SYMBOL(devmap_managed_key);

static void pgmap_watch_puts(const struct dev_pagemap *pgmap)
{
	if (pgmap->type == MEMORY_DEVICE_FS_DAX)
		static_branch_inc(&devmap_managed_key);
}

static void pgmap_unwatch_puts(const struct dev_pagemap *pgmap)
{
	if (pgmap->type == MEMORY_DEVICE_FS_DAX)
		static_branch_dec(&devmap_managed_key);
}

/*
 * The slow half of put_devmap_managed_folio_refs(). Nothing of the folio is
 * touched once its references are gone: the memory map may be next.
 */
bool __put_devmap_managed_folio_refs(struct folio *folio, int refs)
{
	struct dev_pagemap *pgmap = page_pgmap(&folio->page);
	bool managed = pgmap->type == MEMORY_DEVICE_FS_DAX;

	if (managed && folio_ref_sub_return(folio, refs) == 1)
		wake_up_var(&folio->_refcount);
	return managed;
}
EXPORT_SYMBOL(__put_devmap_managed_folio_refs);
#else
static void pgmap_watch_puts(const struct dev_pagemap *pgmap) { }
static void pgmap_unwatch_puts(const struct dev_pagemap *pgmap) { }
#endif /* CONFIG_FS_DAX */

/* ---- the lifetime of a pagemap ---- */

static int pgmap_begin(struct dev_pagemap *pgmap)
{
	int error;

	init_completion(&pgmap->done);
	error = percpu_ref_init(&pgmap->ref, pgmap_ref_release, 0, GFP_KERNEL);
	if (error)
		return pgmap_refuse(pgmap, 0, error, "no memory for the ref");
	pgmap_watch_puts(pgmap);
	return 0;
}

static void pgmap_end(struct dev_pagemap *pgmap)
{
	pgmap_unwatch_puts(pgmap);
	percpu_ref_exit(&pgmap->ref);
}

/**
 * memremap_pages - give device memory struct pages
 * @pgmap: describes the memory; stays the kernel's until memunmap_pages()
 * @nid: the node that the memory belongs to, or NUMA_NO_NODE for the local one
 *
 * Each range consists of whole subsections (2 MiB on most architectures), and
 * nothing else may use its physical addresses: the caller has requested them.
 *
 * On success @pgmap is live, its pages are initialised, and the caller's
 * callbacks may be called. Pages of private and coherent memory are free, with
 * a reference count of zero, other pages are idle with a count of one.
 *
 * On failure nothing is left behind, @pgmap is as it was and the caller's
 * again, and one line in the log says what was wrong.
 *
 * Context: process context, may sleep; takes the memory hotplug lock
 * Return: the address of the first range in the linear mapping (for private
 * memory a mere token), or an ERR_PTR:
 * -EINVAL: @pgmap is not valid, or there is no node @nid;
 * -ENXIO: a range overlaps System RAM;
 * -EBUSY: a range overlaps another one, or one of another pagemap;
 * -EEXIST: there is a memory map for some of the memory already;
 * -ENOMEM: no memory for the memory map or for the bookkeeping;
 * or what the architecture's memory hotplug returned
 */
void *memremap_pages(struct dev_pagemap *pgmap, int nid)
{
	int error;

	error = pgmap_check(pgmap, nid);
	if (error)
		return ERR_PTR(error);
	error = pgmap_claim_all(pgmap);
	if (error)
		return ERR_PTR(error);

	error = pgmap_begin(pgmap);
	if (error)
		goto release;
	error = pgmap_plug_all(pgmap, nid < 0 ? numa_mem_id() : nid);
	if (error)
		goto end;

	pgmap_replace_entries(pgmap, pgmap);
	return __va(pgmap->range.start);
end:
	pgmap_end(pgmap);
release:
	pgmap_release_claims(pgmap, pgmap->nr_range);
	return ERR_PTR(error);
}
EXPORT_SYMBOL_GPL(memremap_pages);

/**
 * memunmap_pages - take device memory away from the kernel
 * @pgmap: a pagemap that memremap_pages() has accepted
 *
 * Before the call the driver sees to it that nobody gets new references: no
 * allocations, no mappings of the memory in any process, no new ones.
 *
 * Waits, uninterruptibly, until every reference to the pagemap is gone and
 * every page is unused, however long that takes. After ten seconds, and then
 * every minute, the log says which pages are in use. Afterwards @pgmap is the
 * caller's again and may be freed, or given to memremap_pages() anew.
 *
 * Context: process context, sleeps; takes the memory hotplug lock. No lock may
 * be held that a user of the memory needs to let go of it, and no reference
 * to it by the caller.
 */
void memunmap_pages(struct dev_pagemap *pgmap)
{
	pgmap_replace_entries(pgmap, PGMAP_CLAIMED);
	pgmap_drain(pgmap);
	/* All CPUs are interrupted anyway, to flush the memory map. */
	synchronize_rcu_expedited();
	pgmap_unplug_ranges(pgmap, pgmap->nr_range);
	pgmap_end(pgmap);
	pgmap_release_claims(pgmap, pgmap->nr_range);
}
EXPORT_SYMBOL_GPL(memunmap_pages);

static void devm_unmap_action(void *pgmap)
{
	memunmap_pages(pgmap);
}

/**
 * devm_memremap_pages - memremap_pages() for as long as a driver is bound
 * @dev: the device; its node is the memory's
 * @pgmap: as for memremap_pages(); must live at least as long as the binding
 *
 * The memory is removed when the driver is unbound, in its turn among the
 * other resources of @dev, or by devm_memunmap_pages().
 *
 * Context: process context, may sleep
 * Return: as memremap_pages()
 */
void *devm_memremap_pages(struct device *dev, struct dev_pagemap *pgmap)
{
	void *addr = memremap_pages(pgmap, dev_to_node(dev));
	int error;

	if (IS_ERR(addr))
		return addr;
	error = devm_add_action_or_reset(dev, devm_unmap_action, pgmap);
	if (error)
		return ERR_PTR(pgmap_refuse(pgmap, 0, error,
					    "no memory for the device resource"));
	return addr;
}
EXPORT_SYMBOL_GPL(devm_memremap_pages);

/**
 * devm_memunmap_pages - undo devm_memremap_pages() early
 * @dev: the device that was given there
 * @pgmap: the pagemap that was given there
 *
 * Context: as memunmap_pages()
 */
void devm_memunmap_pages(struct device *dev, struct dev_pagemap *pgmap)
{
	devm_release_action(dev, devm_unmap_action, pgmap);
}
EXPORT_SYMBOL_GPL(devm_memunmap_pages);

/* ---- birth and death of a folio ---- */

/*
 * A driver must not hand out memory once removal has begun. If it does, the
 * folio still gets its references as long as there is a pagemap to wait for
 * it: removal then takes until the folio is freed.
 */
static void pgmap_get_for_folio(struct dev_pagemap *pgmap, unsigned long nr)
{
	if (likely(percpu_ref_tryget_live(&pgmap->ref))) {
		if (nr > 1)
			percpu_ref_get_many(&pgmap->ref, nr - 1);
		return;
	}
	pr_err_ratelimited("%s pagemap [mem %#llx-%#llx]: memory is handed out while it is removed\n",
			   pgmap_kind(pgmap)->name, pgmap->range.start,
			   pgmap->range.end);
	percpu_ref_tryget_many(&pgmap->ref, nr);
}

/* Locked first, so that whoever finds the folio by its count finds it so. */
static void device_folio_hand_out(struct folio *folio)
{
	folio_lock(folio);
	folio_ref_unfreeze(folio, 1);
}

/**
 * zone_device_page_init - bring a page of private or coherent memory to life
 * @page: a free page, or the head of a free compound page, of the caller's
 *
 * The 6.12 form of zone_device_folio_init(): the page has the pagemap and the
 * order that it had before.
 *
 * Context: process context, may sleep; the caller keeps others from handing
 * out the same page
 */
void zone_device_page_init(struct page *page)
{
	struct folio *folio = page_folio(page);

	pgmap_get_for_folio(page_pgmap(page), folio_nr_pages(folio));
	device_folio_hand_out(folio);
}
EXPORT_SYMBOL_GPL(zone_device_page_init);

/**
 * zone_device_folio_init - bring a folio of device memory to life
 * @folio: the first of 2^@order free pages of the caller's
 * @pgmap: the pagemap of private or coherent memory that they belong to
 * @order: how many pages the folio shall have, as a power of two
 *
 * The folio comes back locked and with one reference, which are the caller's,
 * and holds 2^@order references to @pgmap until it is freed.
 *
 * Orders above 0 are not possible yet: a line in the log says so, and the
 * folio is initialised as the single page that it starts with. It can be
 * unlocked and put like any other; folio_order() tells the difference.
 *
 * Context: process context, may sleep; the caller keeps others from handing
 * out the same pages
 */
void zone_device_folio_init(struct folio *folio, struct dev_pagemap *pgmap,
			    unsigned int order)
{
	if (order > PGMAP_MAX_FOLIO_ORDER) {
		pr_err_ratelimited("%s pagemap: no folio of order %u at pfn %#lx: the largest order is %u\n",
				   pgmap_kind(pgmap)->name, order,
				   folio_pfn(folio), PGMAP_MAX_FOLIO_ORDER);
		order = PGMAP_MAX_FOLIO_ORDER;
	}

	folio->page.pgmap = pgmap;
	pgmap_get_for_folio(pgmap, 1UL << order);
	device_folio_hand_out(folio);
}
EXPORT_SYMBOL_GPL(zone_device_folio_init);

#if defined(CONFIG_PAGE_IDLE_FLAG) && defined(CONFIG_64BIT)
#define DEVICE_FOLIO_AGE_FLAGS	(BIT(PG_young) | BIT(PG_idle))
#else
#define DEVICE_FOLIO_AGE_FLAGS	0UL
#endif

/* What a folio of anonymous memory brings along, or has got on a device. */
#define DEVICE_FOLIO_USER_FLAGS						\
	(BIT(PG_referenced) | BIT(PG_dirty) | BIT(PG_active) |		\
	 BIT(PG_workingset) | BIT(PG_reclaim) | BIT(PG_swapbacked) |	\
	 BIT(PG_unevictable) | DEVICE_FOLIO_AGE_FLAGS)

/* What made it a page of a process; stale marks would confuse the next one. */
static void device_folio_forget_user(struct folio *folio)
{
	long i;

	mem_cgroup_uncharge(folio);
	if (folio_test_anon(folio)) {
		for (i = 0; i < folio_nr_pages(folio); i++)
			__ClearPageAnonExclusive(folio_page(folio, i));
		/* somebody may just find out that the memory is poisoned */
		set_mask_bits(&folio->flags, DEVICE_FOLIO_USER_FLAGS, 0);
	}
	folio->mapping = NULL;
}

/* Return: false if the pagemap has no callback for it. */
static bool device_folio_give_back(const struct dev_pagemap_ops *ops,
				   struct folio *folio)
{
	if (ops && ops->folio_free)
		ops->folio_free(folio);
	else if (ops && ops->page_free)
		ops->page_free(folio_page(folio, 0));
	else
		return false;
	return true;
}

/*
 * The last reference to a device folio is gone. The driver may hand the memory
 * out again, or free it for good, from within its callback on: all that is
 * needed afterwards is taken before.
 */
void free_zone_device_folio(struct folio *folio)
{
	struct dev_pagemap *pgmap = folio->page.pgmap;
	unsigned long nr = folio_nr_pages(folio);
	bool from_zero = pgmap_counts_from_zero(pgmap);

	device_folio_forget_user(folio);
	if (!from_zero)
		folio_ref_unfreeze(folio, 1);

	if (unlikely(!device_folio_give_back(pgmap->ops, folio)))
		pr_err_ratelimited("%s pagemap: pfn %#lx was put once too often\n",
				   pgmap_kind(pgmap)->name, folio_pfn(folio));
	if (from_zero)
		percpu_ref_put_many(&pgmap->ref, nr);
}
