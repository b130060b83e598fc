// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/migrate_device.c: the three steps of a migration, with
 * each outcome forced, on memory of a real address space. The suite
 * device_write tests mm/device_write.c on the same device.
 *
 * The device here has a page of host memory behind each of its pages, in
 * page->zone_device_data, so that contents can be followed. Every test ends
 * with all device pages free and the RSS at what the page table says.
 */
#include <kunit/static_stub.h>
#include <kunit/test-bug.h>
#include <linux/bitmap.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/ksm.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mman.h>
#include <linux/mmu_context.h>
#include <linux/mmu_notifier.h>
#include <linux/oom.h>
#include <linux/page_idle.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/coredump.h>
#include <linux/sched/sysctl.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmstat.h>

#include "../device_write.h"
#include "../internal.h"
#include "../migrate_bulk.h"
#include "kunit_mm.h"

#define MD_PAGES	64UL
#define MD_DEVICE_PAGES	512UL
#define MD_SIZE		(MD_DEVICE_PAGES << PAGE_SHIFT)
#define MD_AROUND	16UL
#define MD_PATIENCE	(60 * HZ)

/**
 * enum md_driver - what the driver does between the steps
 * @MD_MOVES_ALL: moves every page that it is offered
 * @MD_MOVES_ODD: moves those with an odd index
 * @MD_MOVES_NONE: has no memory
 * @MD_GIVES_UP: copies, then finds that the copy failed
 */
enum md_driver {
	MD_MOVES_ALL,
	MD_MOVES_ODD,
	MD_MOVES_NONE,
	MD_GIVES_UP,
};

/**
 * struct md_test - a process and a device
 * @test: the test
 * @km: address space of the thread that runs the test
 * @pgmap: device memory; @md_test is its owner
 * @used: device pages that are not free
 * @lock: of @used
 * @calls: how often migrate_to_ram() was called
 * @expected: threads that migrate_to_ram() waits for before it goes on
 * @arrived: threads that are about to fault
 * @refs: references to the page of the last fault, when all have arrived
 * @unlocked: how often the page of a fault was not locked
 * @around: pages that migrate_to_ram() brings home at once, if not one
 * @broken: migrate_to_ram() fails
 * @relaxed: calls of device_write_relax() since md_watch_looks()
 * @put_after: the call that drops a reference to the page
 * @src: source entries
 * @dst: destination entries
 * @args: of the migration that is under way
 */
struct md_test {
	struct kunit *test;
	struct kunit_mm *km;
	struct dev_pagemap *pgmap;
	DECLARE_BITMAP(used, MD_DEVICE_PAGES);
	spinlock_t lock;	/* of @used */
	atomic_t calls;
	int expected;
	atomic_t arrived;
	int refs;
	atomic_t unlocked;
	unsigned long around;
	bool broken;
	int relaxed;
	int put_after;
	unsigned long src[MD_DEVICE_PAGES];
	unsigned long dst[MD_DEVICE_PAGES];
	struct migrate_vma args;
};

/* To the page, where get_mm_counter() may lag behind the CPUs. */
static unsigned long md_rss(struct md_test *md)
{
	return percpu_counter_sum(&md->km->mm->rss_stat[MM_ANONPAGES]);
}

/* Of all nodes, with what the CPUs have not handed in yet. */
static long md_node_stat(enum node_stat_item item)
{
	struct pglist_data *pgdat;
	long sum = 0;
	int cpu;

	for_each_online_pgdat(pgdat) {
		sum += atomic_long_read(&pgdat->vm_stat[item]);
		for_each_online_cpu(cpu)
			sum += per_cpu_ptr(pgdat->per_cpu_nodestats, cpu)
				->vm_node_stat_diff[item];
	}
	return sum;
}

static long md_anon_mapped(void)
{
	return md_node_stat(NR_ANON_MAPPED);
}

/* Pages on the lists of anonymous memory; those in batches come there first. */
static long md_anon_listed(void)
{
	lru_add_drain_all();
	return md_node_stat(NR_INACTIVE_ANON) + md_node_stat(NR_ACTIVE_ANON);
}

static unsigned long md_first_pfn(struct md_test *md)
{
	return PHYS_PFN(md->pgmap->range.start);
}

/* The device */

static struct page *md_device_alloc(struct md_test *md)
{
	struct page *page, *shadow = alloc_page(GFP_KERNEL | __GFP_ZERO);
	unsigned long nr;

	if (!shadow)
		return NULL;
	spin_lock(&md->lock);
	nr = find_first_zero_bit(md->used, MD_DEVICE_PAGES);
	if (nr < MD_DEVICE_PAGES)
		__set_bit(nr, md->used);
	spin_unlock(&md->lock);
	if (nr == MD_DEVICE_PAGES) {
		__free_page(shadow);
		return NULL;
	}
	page = pfn_to_page(md_first_pfn(md) + nr);
	page->zone_device_data = shadow;
	zone_device_page_init(page);
	return page;
}

static void md_page_free(struct page *page)
{
	struct md_test *md = page->pgmap->owner;

	__free_page(page->zone_device_data);
	spin_lock(&md->lock);
	__clear_bit(page_to_pfn(page) - md_first_pfn(md), md->used);
	spin_unlock(&md->lock);
}

static struct page *md_memory(struct page *page)
{
	return is_device_private_page(page) ? page->zone_device_data : page;
}

static struct page *md_dst_alloc(struct md_test *md, bool device)
{
	struct page *page;

	if (device)
		return md_device_alloc(md);
	page = alloc_page(GFP_HIGHUSER_MOVABLE);
	if (page)
		lock_page(page);
	return page;
}

static bool md_moves(enum md_driver driver, unsigned long i)
{
	if (driver == MD_MOVES_NONE)
		return false;
	return driver != MD_MOVES_ODD || (i & 1);
}

static void md_give_up(unsigned long *dst)
{
	struct page *page = migrate_pfn_to_page(*dst);

	if (!page)
		return;
	unlock_page(page);
	put_page(page);
	*dst = 0;
}

static void md_copy(struct md_test *md, unsigned long npages, bool to_device,
		    enum md_driver driver)
{
	unsigned long i;

	for (i = 0; i < npages; i++) {
		struct page *src = migrate_pfn_to_page(md->src[i]);
		struct page *dst;

		md->dst[i] = 0;
		if (!(md->src[i] & MIGRATE_PFN_MIGRATE) ||
		    !md_moves(driver, i))
			continue;
		/* What never was on the device does not come from there. */
		if (!src && !to_device)
			continue;
		dst = md_dst_alloc(md, to_device);
		if (!dst)
			continue;
		if (src)
			copy_highpage(md_memory(dst), md_memory(src));
		md->dst[i] = migrate_pfn(page_to_pfn(dst));
		if (driver == MD_GIVES_UP)
			md_give_up(&md->dst[i]);
	}
}

static unsigned long md_count_moved(struct md_test *md, unsigned long npages)
{
	unsigned long i, moved = 0;

	for (i = 0; i < npages; i++)
		moved += !!(md->src[i] & MIGRATE_PFN_MIGRATE);
	return moved;
}

static int md_setup(struct md_test *md, unsigned long addr, unsigned long nr,
		    unsigned long select)
{
	md->args = (struct migrate_vma) {
		.vma = vma_lookup(md->km->mm, addr),
		.start = addr,
		.end = addr + (nr << PAGE_SHIFT),
		.src = md->src,
		.dst = md->dst,
		.pgmap_owner = md,
		.flags = select,
	};
	return migrate_vma_setup(&md->args);
}

static unsigned long md_finish(struct md_test *md)
{
	unsigned long moved;

	migrate_vma_pages(&md->args);
	moved = md_count_moved(md, md->args.npages);
	migrate_vma_finalize(&md->args);
	return moved;
}

/* Return: how many pages moved. */
static unsigned long md_migrate(struct md_test *md, unsigned long addr,
				unsigned long nr, unsigned long select,
				enum md_driver driver)
{
	bool to_device = select == MIGRATE_VMA_SELECT_SYSTEM;
	unsigned long moved;
	int ret;

	mmap_read_lock(md->km->mm);
	ret = md_setup(md, addr, nr, select);
	if (ret) {
		mmap_read_unlock(md->km->mm);
		KUNIT_FAIL(md->test, "setup failed: %d", ret);
		return 0;
	}
	md_copy(md, nr, to_device, driver);
	moved = md_finish(md);
	mmap_read_unlock(md->km->mm);
	return moved;
}

static unsigned long md_select_device(struct md_test *md)
{
	return md->pgmap->type == MEMORY_DEVICE_PRIVATE ?
	       MIGRATE_VMA_SELECT_DEVICE_PRIVATE :
	       MIGRATE_VMA_SELECT_DEVICE_COHERENT;
}

static unsigned long md_to_device(struct md_test *md, unsigned long addr,
				  unsigned long nr)
{
	return md_migrate(md, addr, nr, MIGRATE_VMA_SELECT_SYSTEM,
			  MD_MOVES_ALL);
}

static unsigned long md_to_system(struct md_test *md, unsigned long addr,
				  unsigned long nr)
{
	return md_migrate(md, addr, nr, md_select_device(md), MD_MOVES_ALL);
}

/* After migrate_device_range() or migrate_device_pfns() */
static void md_bring_home(struct md_test *md, unsigned long nr)
{
	md_copy(md, nr, false, MD_MOVES_ALL);
	migrate_device_pages(md->src, md->dst, nr);
	migrate_device_finalize(md->src, md->dst, nr);
}

static void md_wait_for_others(struct md_test *md)
{
	unsigned long end = jiffies + MD_PATIENCE;

	while (atomic_read(&md->arrived) < md->expected &&
	       time_before(jiffies, end))
		usleep_range(500, 1000);
	/* Those that have arrived still have to get to the page. */
	if (md->expected)
		msleep(50);
}

/* The page of a fault is the fault path's before and after all three steps. */
static void md_look_at_fault_page(struct md_test *md, struct page *page)
{
	if (!PageLocked(page))
		atomic_inc(&md->unlocked);
}

static vm_fault_t md_migrate_to_ram(struct vm_fault *vmf)
{
	struct md_test *md = vmf->page->pgmap->owner;
	unsigned long size = md->around ? md->around << PAGE_SHIFT : PAGE_SIZE;
	unsigned long src[MD_AROUND] = {}, dst[MD_AROUND] = {}, i;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = round_down(vmf->address, size),
		.end = round_down(vmf->address, size) + size,
		.src = src,
		.dst = dst,
		.pgmap_owner = md,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};
	struct page *page;

	atomic_inc(&md->calls);
	md_look_at_fault_page(md, vmf->page);
	md_wait_for_others(md);
	md->refs = page_ref_count(vmf->page);
	if (md->broken || migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	for (i = 0; i < args.npages; i++) {
		if (!migrate_pfn_to_page(src[i]))
			continue;
		page = md_dst_alloc(md, false);
		if (!page)
			continue;
		copy_highpage(page, md_memory(migrate_pfn_to_page(src[i])));
		dst[i] = migrate_pfn(page_to_pfn(page));
	}
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
	md_look_at_fault_page(md, vmf->page);
	return 0;
}

static const struct dev_pagemap_ops md_ops = {
	.page_free = md_page_free,
	.migrate_to_ram = md_migrate_to_ram,
};

/* The fixture */

static struct md_test *md_alloc(struct kunit *test)
{
	struct md_test *md = kunit_kzalloc(test, sizeof(*md), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, md);
	md->test = test;
	spin_lock_init(&md->lock);
	test->priv = md;
	return md;
}

static int md_init(struct kunit *test)
{
	struct md_test *md = md_alloc(test);

	md->pgmap = kunit_mm_pagemap(test, kunit_mm_region(test, MD_SIZE),
				     MD_SIZE, &md_ops, md);
	md->km = kunit_mm_create(test);
	return 0;
}

static int md_init_coherent(struct kunit *test)
{
	struct md_test *md = md_alloc(test);

	md->pgmap = kunit_mm_coherent(test, &md_ops, md);
	md->km = kunit_mm_create(test);
	return 0;
}

static unsigned long md_pattern(unsigned long i)
{
	return 0xdead0000UL + i * 3;
}

/* Anonymous memory with a word of its own in each page. */
static unsigned long md_memory_map(struct md_test *md, unsigned long nr)
{
	unsigned long i, addr;

	addr = kunit_mm_map(md->km, nr, PROT_READ | PROT_WRITE);
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(md->test, 0,
				put_user(md_pattern(i), (unsigned long __user *)
					 (addr + (i << PAGE_SHIFT))));
	return addr;
}

static void md_expect_contents(struct md_test *md, unsigned long addr,
			       unsigned long nr)
{
	unsigned long i, word;

	for (i = 0; i < nr; i++) {
		KUNIT_ASSERT_EQ(md->test, 0,
				get_user(word, (unsigned long __user *)
					 (addr + (i << PAGE_SHIFT))));
		KUNIT_EXPECT_EQ(md->test, word, md_pattern(i));
	}
}

/* Return: 0 if there is no page. */
static unsigned long md_pfn_at(struct md_test *md, unsigned long addr)
{
	pmd_t pmd = kunit_mm_pmd(md->km, addr);
	pte_t pte;

	if (pmd_present(pmd) && pmd_leaf(pmd))
		return kunit_mm_pfn(md->km, addr);
	pte = kunit_mm_pte(md->km, addr);
	if (pte_present(pte))
		return pte_pfn(pte);
	if (is_swap_pte(pte) && is_device_private_entry(pte_to_swp_entry(pte)))
		return swp_offset_pfn(pte_to_swp_entry(pte));
	return 0;
}

static bool md_on_device(struct md_test *md, unsigned long addr)
{
	unsigned long pfn = md_pfn_at(md, addr);

	return pfn >= md_first_pfn(md) &&
	       pfn < md_first_pfn(md) + MD_DEVICE_PAGES;
}

static pte_t md_pte(struct md_test *md, unsigned long addr, unsigned long i)
{
	return kunit_mm_pte(md->km, addr + (i << PAGE_SHIFT));
}

/* Does a device-private entry stand there, which lets the device write? */
static bool md_device_writes(struct md_test *md, unsigned long addr,
			     unsigned long i)
{
	swp_entry_t entry = pte_to_swp_entry(md_pte(md, addr, i));

	return is_writable_device_private_entry(entry);
}

static void md_expect_on_device(struct md_test *md, unsigned long addr,
				unsigned long nr, bool on_device)
{
	unsigned long i;

	for (i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ(md->test, on_device,
				md_on_device(md, addr + (i << PAGE_SHIFT)));
}

static unsigned long md_device_used(struct md_test *md)
{
	return bitmap_weight(md->used, MD_DEVICE_PAGES);
}

/* Of a page that is present or on the device. */
static struct folio *md_folio(struct md_test *md, unsigned long addr)
{
	unsigned long pfn = md_pfn_at(md, addr);

	KUNIT_ASSERT_NE(md->test, pfn, 0UL);
	return pfn_folio(pfn);
}

static struct folio *md_nth_folio(struct md_test *md, unsigned long addr,
				  unsigned long i)
{
	return md_folio(md, addr + (i << PAGE_SHIFT));
}

static void md_write_word(struct md_test *md, unsigned long addr,
			  unsigned long word)
{
	KUNIT_ASSERT_EQ(md->test, 0,
			put_user(word, (unsigned long __user *)addr));
}

static unsigned long md_read_word(struct md_test *md, unsigned long addr)
{
	unsigned long word = 0;

	KUNIT_ASSERT_EQ(md->test, 0,
			get_user(word, (unsigned long __user *)addr));
	return word;
}

static struct md_test *md_of(struct kunit_mm_thread *thread)
{
	return thread->km->test->priv;
}

/* The three steps */

static void a_round_trip_keeps_contents_and_counts(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long rss = md_rss(md);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, true);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_device_used(md));
	KUNIT_EXPECT_EQ(test, rss, md_rss(md));

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_system(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, false);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	KUNIT_EXPECT_EQ(test, rss, md_rss(md));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&md->calls));
}

static void the_cpu_brings_pages_back_one_by_one(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, atomic_read(&md->calls));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void pages_go_back_where_the_driver_has_no_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long pfn = kunit_mm_pfn(md->km, addr);

	KUNIT_EXPECT_EQ(test, 0UL,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_NONE));
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, pfn, kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_TRUE(test, pte_write(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	md_expect_contents(md, addr, MD_PAGES);
}

static void every_second_page_may_move(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ODD));
	for (i = 0; i < MD_PAGES; i++)
		md_expect_on_device(md, addr + (i << PAGE_SHIFT), 1, i & 1);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_copy_that_fails_costs_nothing(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, 0UL,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_GIVES_UP));
	md_expect_on_device(md, addr, MD_PAGES, false);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, 0UL,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
				   MD_GIVES_UP));
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_contents(md, addr, MD_PAGES);
}

/* It has filled dst[], and finds out before migrate_vma_pages(). */
static void md_skip_second_step(struct md_test *md, unsigned long addr,
				unsigned long select)
{
	unsigned long used = md_device_used(md), rss = md_rss(md);
	bool to_device = select == MIGRATE_VMA_SELECT_SYSTEM;
	long mapped = md_anon_mapped();

	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(md->test, 0, md_setup(md, addr, MD_PAGES, select));
	md_copy(md, MD_PAGES, to_device, MD_MOVES_ALL);
	migrate_vma_finalize(&md->args);
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(md->test, used, md_device_used(md));
	KUNIT_EXPECT_EQ(md->test, rss, md_rss(md));
	KUNIT_EXPECT_EQ(md->test, mapped, md_anon_mapped());
	md_expect_on_device(md, addr, MD_PAGES, !to_device);
}

static void a_driver_that_skips_the_second_step_loses_nothing(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	md_skip_second_step(md, addr, MIGRATE_VMA_SELECT_SYSTEM);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_skip_second_step(md, addr, md_select_device(md));
	md_expect_contents(md, addr, MD_PAGES);
}

static void a_full_device_takes_what_it_can(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_DEVICE_PAGES);
	unsigned long more = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_DEVICE_PAGES - 1,
			md_to_device(md, addr, MD_DEVICE_PAGES - 1));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, more, MD_PAGES));
	md_expect_contents(md, more, MD_PAGES);
	md_expect_contents(md, addr, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

/* Counters */

static const struct md_outcome {
	const char *name;
	enum md_driver driver;
	unsigned long moved;
} md_outcomes[] = {
	{ "all of it moves", MD_MOVES_ALL, MD_PAGES },
	{ "half of it moves", MD_MOVES_ODD, MD_PAGES / 2 },
	{ "no memory", MD_MOVES_NONE, 0 },
	{ "the copy fails", MD_GIVES_UP, 0 },
};

static void md_outcome_name(const struct md_outcome *outcome, char *name)
{
	strscpy(name, outcome->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(md_outcome, md_outcomes, md_outcome_name);

/* What the counters were, to be compared with what they are. */
struct md_counts {
	unsigned long rss;
	long mapped;
};

static struct md_counts md_counts_now(struct md_test *md)
{
	return (struct md_counts) { md_rss(md), md_anon_mapped() };
}

static void md_expect_counts(struct md_test *md, struct md_counts before,
			     long more)
{
	KUNIT_EXPECT_EQ(md->test, before.rss + more, md_rss(md));
	KUNIT_EXPECT_EQ(md->test, before.mapped + more, md_anon_mapped());
}

/* Each page there, wherever it is, is charged like any other. */
static void md_expect_charged(struct md_test *md, unsigned long addr,
			      unsigned long nr, struct mem_cgroup *memcg)
{
	unsigned long i;

	if (mem_cgroup_disabled())
		return;
	KUNIT_EXPECT_NOT_NULL(md->test, memcg);
	for (i = 0; i < nr; i++) {
		struct folio *folio;

		if (!md_pfn_at(md, addr + (i << PAGE_SHIFT)))
			continue;
		folio = md_nth_folio(md, addr, i);
		KUNIT_EXPECT_PTR_EQ(md->test, memcg, folio_memcg(folio));
	}
}

static void counts_do_not_change_by_moves(struct kunit *test)
{
	const struct md_outcome *outcome = test->param_value;
	struct md_test *md = test->priv;
	struct md_counts empty = md_counts_now(md), full;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mem_cgroup *memcg = folio_memcg(md_folio(md, addr));

	full = md_counts_now(md);
	md_expect_counts(md, empty, MD_PAGES);
	KUNIT_EXPECT_EQ(test, outcome->moved,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, outcome->driver));
	md_expect_counts(md, full, 0);
	md_expect_charged(md, addr, MD_PAGES, memcg);

	md_to_device(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_device_used(md));
	md_expect_counts(md, full, 0);
	md_expect_charged(md, addr, MD_PAGES, memcg);
	KUNIT_EXPECT_EQ(test, outcome->moved,
			md_migrate(md, addr, MD_PAGES, md_select_device(md),
				   outcome->driver));
	KUNIT_EXPECT_EQ(test, MD_PAGES - outcome->moved, md_device_used(md));
	md_expect_counts(md, full, 0);
	md_expect_charged(md, addr, MD_PAGES, memcg);

	kunit_mm_zap(md->km, addr, MD_PAGES);
	md_expect_counts(md, empty, 0);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void counts_follow_holes_that_are_populated(struct kunit *test)
{
	const struct md_outcome *outcome = test->param_value;
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, MD_PAGES,
					  PROT_READ | PROT_WRITE);
	struct md_counts empty = md_counts_now(md);
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(md->km->mm);

	KUNIT_EXPECT_EQ(test, outcome->moved,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, outcome->driver));
	KUNIT_EXPECT_EQ(test, outcome->moved, md_device_used(md));
	md_expect_counts(md, empty, outcome->moved);
	md_expect_charged(md, addr, MD_PAGES, memcg);
	mem_cgroup_put(memcg);

	KUNIT_EXPECT_EQ(test, outcome->moved,
			md_to_system(md, addr, MD_PAGES));
	md_expect_counts(md, empty, outcome->moved);
	kunit_mm_zap(md->km, addr, MD_PAGES);
	md_expect_counts(md, empty, 0);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void lists_have_the_size_that_is_counted(struct kunit *test)
{
	struct md_test *md = test->priv;
	long empty = md_anon_listed();
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, empty + (long)MD_PAGES, md_anon_listed());
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ODD));
	KUNIT_EXPECT_EQ(test, empty + (long)MD_PAGES / 2, md_anon_listed());
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2, md_to_system(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, empty + (long)MD_PAGES, md_anon_listed());
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, empty, md_anon_listed());
}

/* Who stays */

static void a_pinned_page_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct page *page;
	long pinned;

	pinned = pin_user_pages_fast(addr, 1, FOLL_WRITE | FOLL_LONGTERM,
				     &page);
	KUNIT_ASSERT_EQ(test, pinned, 1L);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, 1, false);
	KUNIT_EXPECT_EQ(test, page_to_pfn(page), kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_TRUE(test, pte_write(kunit_mm_pte(md->km, addr)));
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	md_expect_contents(md, addr, MD_PAGES);
}

static void a_page_with_a_reference_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct folio *folio = md_folio(md, addr + PAGE_SIZE);

	folio_get(folio);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr + PAGE_SIZE, 1, false);
	folio_put(folio);
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
	md_expect_contents(md, addr, MD_PAGES);
}

/* It is found before the driver copies, and goes back there and then. */
static void setup_finds_a_reference(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct folio *folio = md_folio(md, addr);

	folio_get(folio);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 4,
					  MIGRATE_VMA_SELECT_SYSTEM));
	KUNIT_EXPECT_EQ(test, 3UL, md->args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0]);
	KUNIT_EXPECT_TRUE(test, pte_present(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	md_copy(md, 4, true, MD_MOVES_ALL);
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	folio_put(folio);
	md_expect_contents(md, addr, 4);
}

/* Of who found the page by its pfn, once setup had looked. */
static void a_reference_that_came_between_keeps_the_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct folio *folio = md_folio(md, addr);

	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 4,
					  MIGRATE_VMA_SELECT_SYSTEM));
	KUNIT_EXPECT_EQ(test, 4UL, md->args.cpages);
	md_copy(md, 4, true, MD_MOVES_ALL);
	folio_get(folio);
	KUNIT_EXPECT_EQ(test, 3UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 3, true);
	KUNIT_EXPECT_PTR_EQ(test, folio, md_folio(md, addr));
	folio_put(folio);
	KUNIT_EXPECT_EQ(test, 3UL, md_device_used(md));
	md_expect_contents(md, addr, 4);
}

static struct page *md_large_dst(struct md_test *md)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_COMP, 1);

	KUNIT_ASSERT_NOT_NULL(md->test, page);
	get_page(page);		/* of the test's own */
	lock_page(page);
	return page;
}

/* An entry is a base page; a driver that errs gets its page back. */
static void a_large_destination_is_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ | PROT_WRITE);
	struct page *large[] = { md_large_dst(md), md_large_dst(md) };
	unsigned long i, pfn;

	md_write_word(md, addr, md_pattern(0));
	pfn = kunit_mm_pfn(md->km, addr);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 2,
					  MIGRATE_VMA_SELECT_SYSTEM));
	KUNIT_EXPECT_EQ(test, 2UL, md->args.cpages);
	/* the head of the one, the tail of the other */
	for (i = 0; i < 2; i++)
		md->dst[i] = migrate_pfn(page_to_pfn(large[i]) + i);
	KUNIT_EXPECT_EQ(test, 0UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_FALSE(test, PageLocked(large[i]));
		KUNIT_EXPECT_EQ(test, 1, page_ref_count(large[i]));
		put_page(large[i]);
	}
	KUNIT_EXPECT_EQ(test, pfn, kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 1)));
	md_expect_contents(md, addr, 1);
}

/* Page 0 and hole 2 with the flag, page 1 and hole 3 without */
static void compound_destination_is_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 4, PROT_READ | PROT_WRITE);
	unsigned long i;

	for (i = 0; i < 2; i++)
		md_write_word(md, addr + (i << PAGE_SHIFT), md_pattern(i));
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 4,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, 4, true, MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 4UL, md_device_used(md));
	md->dst[0] |= MIGRATE_PFN_COMPOUND;
	md->dst[2] |= MIGRATE_PFN_COMPOUND;
	KUNIT_EXPECT_EQ(test, 2UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 2UL, md_device_used(md));
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 1, true);
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 2)));
	md_expect_on_device(md, addr + 3 * PAGE_SIZE, 1, true);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0] & MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[2] & MIGRATE_PFN_MIGRATE);
	md_expect_contents(md, addr, 2);
}

static void a_locked_page_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct folio *folio = md_folio(md, addr);

	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_to_device(md, addr, MD_PAGES));
	folio_unlock(folio);
	md_expect_on_device(md, addr, 1, false);
	md_expect_contents(md, addr, MD_PAGES);
}

static void a_poisoned_page_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct page *page = pfn_to_page(kunit_mm_pfn(md->km, addr));

	SetPageHWPoison(page);
	KUNIT_EXPECT_EQ(test, 3UL, md_to_device(md, addr, 4));
	ClearPageHWPoison(page);
	md_expect_on_device(md, addr, 1, false);
	md_expect_contents(md, addr, 4);
}

/* Of a private mapping of a file only the copies that are anonymous move. */
static void private_copies_of_a_file_move(struct kunit *test)
{
	struct md_test *md = test->priv;
	struct file *file = kunit_mm_shmem(test, 3);
	unsigned long addr = kunit_mm_map_file(md->km, file, 3,
					       PROT_READ | PROT_WRITE,
					       MAP_PRIVATE);

	md_write_word(md, addr, md_pattern(0));
	kunit_mm_read(md->km, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 3));
	md_expect_on_device(md, addr, 1, true);
	md_expect_on_device(md, addr + PAGE_SIZE, 2, false);
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 2)));
	KUNIT_EXPECT_EQ(test, md_pattern(0), md_read_word(md, addr));
	KUNIT_EXPECT_EQ(test, 0UL, md_read_word(md, addr + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void device_pages_of_another_owner_stay(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	int ret;

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	mmap_read_lock(md->km->mm);
	md->args = (struct migrate_vma) {
		.vma = vma_lookup(md->km->mm, addr),
		.start = addr,
		.end = addr + (MD_PAGES << PAGE_SHIFT),
		.src = md->src,
		.dst = md->dst,
		.pgmap_owner = test,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
	};
	ret = migrate_vma_setup(&md->args);
	KUNIT_EXPECT_EQ(test, 0, ret);
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, md_count_moved(md, MD_PAGES));
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_contents(md, addr, MD_PAGES);
}

static void pages_that_are_not_selected_stay(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, 0UL, md_to_system(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_contents(md, addr, MD_PAGES);
}

/* Nothing is offered where the driver wants what is on a device. */
static void a_zero_page_that_is_not_selected_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ | PROT_WRITE);

	kunit_mm_read(md->km, addr, 2);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 2, md_select_device(md)));
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0] | md->src[1]);
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
}

static unsigned long md_file_map(struct md_test *md, struct file *file,
				 unsigned long nr)
{
	return kunit_mm_map_file(md->km, file, nr, PROT_READ | PROT_WRITE,
				 MAP_SHARED);
}

static void holes_of_files_are_not_offered(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_file_map(md, kunit_mm_shmem(test, 2), 2);

	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 2,
					  MIGRATE_VMA_SELECT_SYSTEM));
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_TRUE(test, pte_none(kunit_mm_pte(md->km, addr)));
}

/* The PTE of a page that stays is gone for a while, and its mark with it. */
static void files_learn_that_a_page_is_dirty(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_file_map(md, kunit_mm_shmem(test, 1), 1);
	struct folio *folio;

	md_write_word(md, addr, md_pattern(0));
	folio = md_folio(md, addr);
	folio_clear_dirty(folio);
	KUNIT_ASSERT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_PTR_EQ(test, folio, md_folio(md, addr));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	md_expect_contents(md, addr, 1);
}

/* From one page of RAM to another, the page cache included. */
static void pages_of_files_move_within_the_system(struct kunit *test)
{
	struct md_test *md = test->priv;
	struct file *file = kunit_mm_shmem(test, 1);
	unsigned long addr = md_file_map(md, file, 1), other;
	struct folio *folio;

	md_write_word(md, addr, md_pattern(0));
	folio = md_folio(md, addr);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 1,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, 1, false, MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 1UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_PTR_NE(test, folio, md_folio(md, addr));
	folio = md_folio(md, addr);
	KUNIT_EXPECT_PTR_EQ(test, file->f_mapping, folio_mapping(folio));
	md_expect_contents(md, addr, 1);

	other = md_file_map(md, file, 1);
	md_expect_contents(md, other, 1);
	KUNIT_EXPECT_PTR_EQ(test, folio, md_folio(md, other));
}

static void pages_of_files_do_not_go_to_the_device(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_file_map(md, kunit_mm_shmem(test, MD_PAGES),
					 MD_PAGES);
	unsigned long pfn;

	kunit_mm_write(md->km, addr, MD_PAGES);
	pfn = kunit_mm_pfn(md->km, addr);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	kunit_mm_read(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, pfn, kunit_mm_pfn(md->km, addr));
}

static int md_try_setup(struct md_test *md, struct migrate_vma args)
{
	int ret;

	mmap_read_lock(md->km->mm);
	ret = migrate_vma_setup(&args);
	mmap_read_unlock(md->km->mm);
	return ret;
}

static void absurd_arguments_are_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct migrate_vma good = {
		.vma = vma_lookup(md->km->mm, addr),
		.start = addr,
		.end = addr + 2 * PAGE_SIZE,
		.src = md->src,
		.dst = md->dst,
		.pgmap_owner = md,
	};
	struct migrate_vma args;

	KUNIT_EXPECT_EQ(test, 0, md_try_setup(md, good));
	args = good;
	args.vma = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.src = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.dst = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.end = args.start;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.start = args.end + PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.start -= PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.end += PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.fault_page = pfn_to_page(kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	args = good;
	args.flags = MIGRATE_VMA_SELECT_SYSTEM | MIGRATE_VMA_SELECT_COMPOUND;
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
}

static void special_mappings_are_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct vm_area_struct *vma = vma_lookup(md->km->mm, addr);
	struct migrate_vma args = {
		.vma = vma,
		.start = addr,
		.end = addr + 2 * PAGE_SIZE,
		.src = md->src,
		.dst = md->dst,
		.pgmap_owner = md,
	};

	mmap_write_lock(md->km->mm);
	vm_flags_set(vma, VM_IO);
	mmap_write_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	mmap_write_lock(md->km->mm);
	vm_flags_clear(vma, VM_IO);
	mmap_write_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_try_setup(md, args));
}

#ifdef CONFIG_HUGETLB_PAGE
static void hugetlb_is_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_hugetlb(md->km, 1);
	struct migrate_vma args = {
		.vma = vma_lookup(md->km->mm, addr),
		.start = addr,
		.end = addr + PAGE_SIZE,
		.src = md->src,
		.dst = md->dst,
		.pgmap_owner = md,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};

	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
}
#else
static void hugetlb_is_refused(struct kunit *test)
{
	kunit_skip(test, "no hugetlb pages in this kernel");
}
#endif

/* Holes */

static void holes_are_populated(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, MD_PAGES,
					  PROT_READ | PROT_WRITE);
	unsigned long rss = md_rss(md);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, true);
	KUNIT_EXPECT_EQ(test, rss + MD_PAGES,
			md_rss(md));
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, rss, md_rss(md));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void md_expect_written(struct md_test *md, pte_t pte)
{
	KUNIT_EXPECT_TRUE(md->test, pte_present(pte));
	KUNIT_EXPECT_TRUE(md->test, pte_write(pte));
	KUNIT_EXPECT_TRUE(md->test, pte_dirty(pte));
	if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		KUNIT_EXPECT_TRUE(md->test, pte_soft_dirty(pte));
}

/* A device may have written to it, and nothing says that it has not. */
static void a_populated_hole_counts_as_written(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 1, PROT_READ | PROT_WRITE);
	struct folio *folio;
	pte_t pte;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	folio = md_folio(md, addr);
	KUNIT_EXPECT_TRUE(test, folio_test_uptodate(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_swapbacked(folio));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(&folio->page));
	pte = kunit_mm_pte(md->km, addr);
	if (pte_present(pte))
		md_expect_written(md, pte);
	else
		KUNIT_EXPECT_TRUE(test, md_device_writes(md, addr, 0));
	if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) && !pte_present(pte))
		KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(pte));

	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	md_expect_written(md, kunit_mm_pte(md->km, addr));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, 0UL, md_read_word(md, addr));
}

/* What a driver enters for a hole may as well be RAM. */
static void holes_are_populated_with_system_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 1, PROT_READ | PROT_WRITE);
	struct md_counts before = md_counts_now(md);
	struct page *page = md_dst_alloc(md, false);

	KUNIT_ASSERT_NOT_NULL(test, page);
	clear_highpage(page);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 1,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md->dst[0] = migrate_pfn(page_to_pfn(page));
	KUNIT_EXPECT_EQ(test, 1UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(test, page_to_pfn(page), kunit_mm_pfn(md->km, addr));
	md_expect_written(md, kunit_mm_pte(md->km, addr));
	md_expect_counts(md, before, 1);
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, PageLRU(page));
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(page));
}

static pte_t md_protected_by_userfaultfd(pte_t pte)
{
	return pte_mkuffd_wp(pte);
}

static void the_zero_page_is_replaced(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, MD_PAGES,
					  PROT_READ | PROT_WRITE);

	kunit_mm_read(md->km, addr, MD_PAGES);
	KUNIT_ASSERT_TRUE(test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, true);
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_zero_page_that_userfaultfd_protects_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ | PROT_WRITE);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_read(md->km, addr, 2);
	kunit_mm_change(md->km, addr, 1, md_protected_by_userfaultfd);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, pte_present(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
}

/* The batches of a CPU have references, which are no pins. */
static void pages_in_batches_of_this_cpu_move(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, moved, addr = md_memory_map(md, 8);

	lru_add_drain_all();
	migrate_disable();
	for (i = 0; i < 8; i++)
		folio_mark_lazyfree(md_folio(md, addr + (i << PAGE_SHIFT)));
	moved = md_to_device(md, addr, 8);
	migrate_enable();
	KUNIT_EXPECT_EQ(test, 8UL, moved);
}

static void the_huge_zero_page_is_replaced(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_read(md->km, addr, 1);
	if (!is_huge_zero_pmd(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no huge zero page to be had");
	KUNIT_EXPECT_EQ(test, 0UL, md_rss(md));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR, md_rss(md));
	md_expect_on_device(md, addr, HPAGE_PMD_NR, true);
	kunit_mm_zap(md->km, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void the_huge_zero_page_without_access_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_read(md->km, addr, 1);
	if (!is_huge_zero_pmd(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no huge zero page to be had");
	kunit_mm_protect(md->km, addr, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_TRUE(test, is_huge_zero_pmd(kunit_mm_pmd(md->km, addr)));
}

#ifdef CONFIG_KSM
/* As KSM leaves it where a page was all zeroes. */
static pte_t md_merged(pte_t pte)
{
	return pte_mkdirty(pte);
}

static void a_zero_page_of_ksm_is_counted_off(struct kunit *test)
{
	struct md_test *md = test->priv;
	struct mm_struct *mm = md->km->mm;
	unsigned long addr = kunit_mm_map(md->km, 1, PROT_READ | PROT_WRITE);

	kunit_mm_read(md->km, addr, 1);
	ksm_map_zero_page(mm);
	kunit_mm_change(md->km, addr, 1, md_merged);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&mm->ksm_zero_pages));
}
#else
static void a_zero_page_of_ksm_is_counted_off(struct kunit *test)
{
	kunit_skip(test, "no KSM in this kernel");
}
#endif

static int md_write_first(struct kunit_mm_thread *thread)
{
	return put_user(md_pattern(0), (unsigned long __user *)thread->addr);
}

static void a_hole_that_was_filled_first_is_lost(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, MD_PAGES,
					  PROT_READ | PROT_WRITE);
	struct kunit_mm_thread thread;
	int ret;

	mmap_read_lock(md->km->mm);
	ret = md_setup(md, addr, MD_PAGES, MIGRATE_VMA_SELECT_SYSTEM);
	md_copy(md, MD_PAGES, true, MD_MOVES_ALL);
	kunit_mm_thread_start(&thread, md->km, addr, md_write_first);
	kunit_mm_thread_end(&thread);
	migrate_vma_pages(&md->args);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0] & MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_count_moved(md, MD_PAGES));
	migrate_vma_finalize(&md->args);
	mmap_read_unlock(md->km->mm);

	KUNIT_EXPECT_EQ(test, 0, ret);
	KUNIT_EXPECT_EQ(test, 0, thread.ret);
	md_expect_on_device(md, addr, 1, false);
	md_expect_contents(md, addr, 1);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_device_used(md));
}

/* What is there moves, what is not there is userfaultfd's to fill. */
static void holes_of_userfaultfd_are_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, MD_PAGES,
					  PROT_READ | PROT_WRITE);

	md_write_word(md, addr + PAGE_SIZE, md_pattern(1));
	kunit_mm_read(md->km, addr + 2 * PAGE_SIZE, 1);
	kunit_mm_flags(md->km, addr, VM_UFFD_MISSING, 0);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, MD_PAGES));
	kunit_mm_flags(md->km, addr, 0, VM_UFFD_MISSING);
	md_expect_on_device(md, addr + PAGE_SIZE, 1, true);
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	KUNIT_EXPECT_TRUE(test, pte_none(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_to_device(md, addr, MD_PAGES));
}

/* As the OOM reaper leaves it, that may have taken what is now a hole. */
static void holes_of_an_unstable_address_space_are_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, MD_PAGES,
					  PROT_READ | PROT_WRITE);

	set_bit(MMF_UNSTABLE, &md->km->mm->flags);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, MD_PAGES));
	clear_bit(MMF_UNSTABLE, &md->km->mm->flags);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
}

static void holes_of_a_read_only_mapping_stay_read_only(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ);

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_EQ(test, 0UL, md_read_word(md, addr));
	KUNIT_EXPECT_NE(test, 0, put_user(1UL, (unsigned long __user *)addr));
}

static void a_range_ends_where_it_ends(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);

	/* neighbours at both edges that are no part of the VMA */
	kunit_mm_protect(md->km, addr, 1, VM_READ);
	kunit_mm_protect(md->km, addr + 3 * PAGE_SIZE, 1, VM_READ);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr + PAGE_SIZE, 2));
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 2, true);
	md_expect_on_device(md, addr + 3 * PAGE_SIZE, 1, false);
	md_expect_contents(md, addr, 4);
}

/* What an entry keeps */

static void read_only_stays_read_only(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	kunit_mm_protect(md->km, addr, MD_PAGES, VM_READ);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_system(md, addr, MD_PAGES));
	KUNIT_EXPECT_FALSE(test, pte_write(kunit_mm_pte(md->km, addr)));
	md_expect_contents(md, addr, MD_PAGES);
}

static void memory_without_access_moves_and_stays_so(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	kunit_mm_protect(md->km, addr, MD_PAGES, 0);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, -EFAULT, kunit_mm_try_read(addr));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_device_used(md));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_system(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, -EFAULT, kunit_mm_try_read(addr));
	kunit_mm_protect(md->km, addr, MD_PAGES, VM_READ | VM_WRITE);
	md_expect_contents(md, addr, MD_PAGES);
}

/* The mapping changes its mind while the pages are away. */
static void mprotect_is_obeyed_on_the_device(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, md_device_writes(md, addr, 0));
	kunit_mm_protect(md->km, addr, 2, VM_READ);
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	KUNIT_EXPECT_FALSE(test, pte_write(md_pte(md, addr, 0)));
	md_expect_contents(md, addr, 2);
	KUNIT_EXPECT_NE(test, 0, put_user(1UL, (unsigned long __user *)addr));
	kunit_mm_protect(md->km, addr, 2, VM_READ | VM_WRITE);
	md_write_word(md, addr, 1);
	KUNIT_EXPECT_EQ(test, 1UL, md_read_word(md, addr));
}

static void writable_memory_comes_back_writable_and_dirty(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;
	pte_t pte;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	pte = kunit_mm_pte(md->km, addr);
	folio = md_folio(md, addr);
	KUNIT_EXPECT_TRUE(test, pte_write(pte));
	KUNIT_EXPECT_TRUE(test, pte_dirty(pte));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_swapbacked(folio));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(&folio->page));
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
}

/* So that a driver need not have its page-table entries looked up. */
static void setup_says_what_was_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	unsigned long select = MIGRATE_VMA_SELECT_SYSTEM;

	kunit_mm_change(md->km, addr, 1, pte_wrprotect);
	for (int i = 0; i < 2; i++, select = md_select_device(md)) {
		mmap_read_lock(md->km->mm);
		KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 2, select));
		KUNIT_EXPECT_FALSE(test, md->src[0] & MIGRATE_PFN_WRITE);
		KUNIT_EXPECT_TRUE(test, md->src[1] & MIGRATE_PFN_WRITE);
		md_copy(md, 2, !i, MD_MOVES_ALL);
		KUNIT_EXPECT_EQ(test, 2UL, md_finish(md));
		mmap_read_unlock(md->km->mm);
	}
	md_expect_contents(md, addr, 2);
}

static pte_t md_soft_dirty(pte_t pte)
{
	return pte_mksoft_dirty(pte);
}

/* As clear_refs does it */
static pte_t md_soft_clean(pte_t pte)
{
	return pte_wrprotect(pte_clear_soft_dirty(pte));
}

static void soft_dirty_survives(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	kunit_mm_change(md->km, addr, 1, md_soft_dirty);
	kunit_mm_change(md->km, addr + PAGE_SIZE, 1, md_soft_clean);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, pte_soft_dirty(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, pte_soft_dirty(md_pte(md, addr, 1)));
}

/* clear_refs leaves the entry writable, and nobody asks what the device does. */
static void soft_dirty_is_what_the_device_may_have_written(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 2);

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	kunit_mm_change(md->km, addr, 2, pte_swp_clear_soft_dirty);
	for (i = 0; i < 2; i++)
		KUNIT_ASSERT_TRUE(test, md_device_writes(md, addr, i));
	/* one by the page table, one by the reverse mapping */
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	migrate_device_range(md->src, md_first_pfn(md), MD_DEVICE_PAGES);
	md_bring_home(md, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	for (i = 0; i < 2; i++)
		KUNIT_EXPECT_TRUE(test, pte_soft_dirty(md_pte(md, addr, i)));
}

/* As another thread changes it while the page is on its way */
static int md_change_entry(struct kunit_mm_thread *thread,
			   pte_t (*change)(pte_t pte))
{
	struct mm_struct *mm = md_of(thread)->km->mm;
	int ret = -ENOENT;
	spinlock_t *ptl;	/* of the table that @ptep is in */
	pte_t *ptep;

	mmap_read_lock(mm);
	ptep = get_locked_pte(mm, thread->addr, &ptl);
	if (ptep && is_swap_pte(ptep_get(ptep))) {
		set_pte_at(mm, thread->addr, ptep, change(ptep_get(ptep)));
		ret = 0;
	}
	if (ptep)
		pte_unmap_unlock(ptep, ptl);
	mmap_read_unlock(mm);
	return ret;
}

static int md_clean_page(struct kunit_mm_thread *thread)
{
	return md_change_entry(thread, pte_swp_clear_soft_dirty);
}

/* What was made clean while it was on its way has to fault to be written to. */
static void soft_dirty_is_watched_in_between(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct kunit_mm_thread thread;

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	kunit_mm_flags(md->km, addr, 0, VM_SOFTDIRTY);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 1,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, 1, true, MD_MOVES_NONE);
	kunit_mm_thread_start(&thread, md->km, addr, md_clean_page);
	kunit_mm_thread_end(&thread);
	KUNIT_EXPECT_EQ(test, 0, thread.ret);
	KUNIT_EXPECT_EQ(test, 0UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_FALSE(test, pte_soft_dirty(kunit_mm_pte(md->km, addr)));
	md_write_word(md, addr, md_pattern(0));
	KUNIT_EXPECT_TRUE(test, pte_soft_dirty(kunit_mm_pte(md->km, addr)));
}

static void protection_by_userfaultfd_survives(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_change(md->km, addr, 1, md_protected_by_userfaultfd);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, pte_swp_uffd_wp(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, pte_swp_uffd_wp(md_pte(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, pte_write(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, pte_uffd_wp(md_pte(md, addr, 1)));
	KUNIT_EXPECT_TRUE(test, pte_write(md_pte(md, addr, 1)));
}

static pte_t md_clean(pte_t pte)
{
	return pte_mkclean(pte);
}

/* Dirt that only the PTE knows of is the folio's afterwards. */
static void dirty_is_the_folios_on_the_device(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	kunit_mm_protect(md->km, addr, 2, VM_READ);
	folio_clear_dirty(md_folio(md, addr));
	folio_clear_dirty(md_folio(md, addr + PAGE_SIZE));
	kunit_mm_change(md->km, addr + PAGE_SIZE, 1, md_clean);
	KUNIT_ASSERT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(md_folio(md, addr)));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(md_nth_folio(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(md_folio(md, addr)));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(md_nth_folio(md, addr, 1)));
	KUNIT_EXPECT_FALSE(test, pte_dirty(md_pte(md, addr, 1)));
}

static pte_t md_old(pte_t pte)
{
	return pte_mkold(pte);
}

/* LRU_GEN has another mark for it, and clears this one by itself. */
static bool md_is_young(struct folio *folio)
{
	if (lru_gen_enabled() && IS_ENABLED(CONFIG_PAGE_IDLE_FLAG))
		return folio_test_young(folio);
	return folio_test_referenced(folio);
}

static void md_make_old(struct folio *folio)
{
	folio_clear_referenced(folio);
	folio_test_clear_young(folio);
}

static void young_is_referenced_on_the_device(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 2);

	lru_add_drain_all();
	for (i = 0; i < 2; i++)
		md_make_old(md_folio(md, addr + i * PAGE_SIZE));
	kunit_mm_change(md->km, addr, 1, md_old);
	KUNIT_ASSERT_TRUE(test, pte_young(md_pte(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_FALSE(test, md_is_young(md_folio(md, addr)));
	KUNIT_EXPECT_TRUE(test, md_is_young(md_nth_folio(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_FALSE(test, md_is_young(md_folio(md, addr)));
	KUNIT_EXPECT_TRUE(test, md_is_young(md_nth_folio(md, addr, 1)));
	KUNIT_EXPECT_FALSE(test, pte_young(kunit_mm_pte(md->km, addr)));
}

/* Pages that do not move keep what the PTE has itself. */
static void a_page_that_stays_keeps_its_age_and_dirt(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	kunit_mm_change(md->km, addr, 1, md_old);
	kunit_mm_change(md->km, addr, 1, md_clean);
	KUNIT_EXPECT_EQ(test, 0UL, md_migrate(md, addr, 2,
					      MIGRATE_VMA_SELECT_SYSTEM,
					      MD_MOVES_NONE));
	KUNIT_EXPECT_FALSE(test, pte_young(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_young(md_pte(md, addr, 1)));
	KUNIT_EXPECT_TRUE(test, pte_dirty(md_pte(md, addr, 1)));
}

static void md_expect_age_of_stayer(struct md_test *md, unsigned long addr)
{
	KUNIT_EXPECT_TRUE(md->test, pte_young(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(md->test, md_is_young(md_folio(md, addr)));
}

/* Its PTE is young again: with PG_referenced it would look accessed twice. */
static void page_that_stays_is_not_aged_twice(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio = md_folio(md, addr);

	lru_add_drain_all();
	md_make_old(folio);
	KUNIT_EXPECT_EQ(test, 0UL, md_migrate(md, addr, 1,
					      MIGRATE_VMA_SELECT_SYSTEM,
					      MD_MOVES_NONE));
	md_expect_age_of_stayer(md, addr);

	lru_add_drain_all();
	folio_get(folio);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, 1));
	folio_put(folio);
	md_expect_age_of_stayer(md, addr);
}

/* Two mappings: each is restored by the reverse mapping. */
static void age_of_shared_page_survives_on_device(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct mm_struct *child;

	lru_add_drain_all();
	md_make_old(md_folio(md, addr));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_ASSERT_TRUE(test, pte_young(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_TRUE(test, md_is_young(md_folio(md, addr)));
	kunit_mm_exit(md->km, child);
}

static bool md_is_exclusive(struct md_test *md, unsigned long addr)
{
	return PageAnonExclusive(&md_folio(md, addr)->page);
}

static void read_only_memory_stays_exclusive(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);

	kunit_mm_protect(md->km, addr, 1, VM_READ);
	KUNIT_ASSERT_TRUE(test, md_is_exclusive(md, addr));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_TRUE(test, md_is_exclusive(md, addr));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	KUNIT_EXPECT_TRUE(test, md_is_exclusive(md, addr));
}

/* The child is gone, so that the only mapping is restored in place. */
static void memory_that_was_shared_does_not_become_exclusive(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	kunit_mm_exit(md->km, child);
	KUNIT_ASSERT_FALSE(test, md_is_exclusive(md, addr));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_FALSE(test, md_is_exclusive(md, addr));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	KUNIT_EXPECT_FALSE(test, md_is_exclusive(md, addr));
	KUNIT_EXPECT_FALSE(test, pte_write(kunit_mm_pte(md->km, addr)));
}

static void mlocked_memory_comes_back_mlocked(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 1, PROT_READ | PROT_WRITE);

	kunit_mm_flags(md->km, addr, VM_LOCKED, 0);
	md_write_word(md, addr, md_pattern(0));
	mlock_drain_local();
	KUNIT_ASSERT_TRUE(test, folio_test_mlocked(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	KUNIT_EXPECT_TRUE(test, folio_test_mlocked(md_folio(md, addr)));
	md_expect_contents(md, addr, 1);
}

static long md_mlock_folio(void *folio)
{
	mlock_folio(folio);
	return 0;
}

static long md_munlock_folio(void *folio)
{
	munlock_folio(folio);
	return 0;
}

/* Return: pages that move while batches of another CPU have references. */
static unsigned long md_move_from_batches(struct md_test *md,
					  unsigned long addr, unsigned long nr,
					  long (*batch)(void *folio))
{
	unsigned long i, moved;
	unsigned int cpu;

	lru_add_drain_all();
	migrate_disable();
	cpu = cpumask_any_but(cpu_online_mask, smp_processor_id());
	for (i = 0; i < nr; i++)
		work_on_cpu(cpu, batch, md_nth_folio(md, addr, i));
	moved = md_to_device(md, addr, nr);
	migrate_enable();
	return moved;
}

/* As after mlock() on another CPU */
static void page_moves_out_of_mlock_batch_of_another_cpu(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 8);

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU");
	kunit_mm_flags(md->km, addr, VM_LOCKED, 0);
	KUNIT_EXPECT_EQ(test, 8UL,
			md_move_from_batches(md, addr, 8, md_mlock_folio));
	KUNIT_EXPECT_EQ(test, 8UL, md_to_system(md, addr, 8));
	KUNIT_EXPECT_TRUE(test, folio_test_mlocked(md_folio(md, addr)));
	md_expect_contents(md, addr, 8);
}

/* As after munlock() on another CPU */
static void page_moves_out_of_munlock_batch_of_another_cpu(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 8);

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU");
	lru_add_drain_all();
	for (i = 0; i < 8; i++)
		mlock_folio(md_nth_folio(md, addr, i));
	KUNIT_EXPECT_EQ(test, 8UL,
			md_move_from_batches(md, addr, 8, md_munlock_folio));
	KUNIT_EXPECT_EQ(test, 8UL, md_to_system(md, addr, 8));
	KUNIT_EXPECT_FALSE(test, folio_test_mlocked(md_folio(md, addr)));
	md_expect_contents(md, addr, 8);
}

/* A page is unlocked before it is listed, so others may mlock it in between. */
static void page_mlocked_before_it_is_listed_is_unevictable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct migrate_relist relist = {};
	struct folio *folio = md_folio(md, addr);

	lru_add_drain_all();
	KUNIT_ASSERT_TRUE(test, folio_isolate_lru(folio));
	migrate_disable();
	relist_add(&relist, folio, vma_lookup(md->km->mm, addr));
	mlock_folio(folio);
	mlock_drain_local();
	migrate_enable();
	relist_flush(&relist);
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_unevictable(folio));

	munlock_folio(folio);
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_unevictable(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_mlocked(folio));
	folio_put(folio);
}

static void disposable_pages_become_ordinary_ones(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	int ret = do_madvise(md->km->mm, addr, PAGE_SIZE, MADV_FREE);

	KUNIT_ASSERT_EQ(test, 0, ret);
	lru_add_drain_all();
	KUNIT_ASSERT_FALSE(test, folio_test_swapbacked(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	KUNIT_EXPECT_TRUE(test, folio_test_swapbacked(md_folio(md, addr)));
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(md_folio(md, addr)));
	md_expect_contents(md, addr, 1);
}

static void md_expect_droppable(struct md_test *md, unsigned long addr,
				unsigned long i)
{
	struct folio *folio = md_nth_folio(md, addr, i);

	KUNIT_EXPECT_FALSE(md->test, folio_test_swapbacked(folio));
}

/* Memory of MAP_DROPPABLE, which must not get to swap. */
static void droppable_pages_stay_droppable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ | PROT_WRITE);
	unsigned long i;

	if (!VM_DROPPABLE)
		kunit_skip(test, "no MAP_DROPPABLE");
	kunit_mm_flags(md->km, addr, VM_DROPPABLE, 0);
	md_write_word(md, addr, md_pattern(0));
	KUNIT_ASSERT_FALSE(test, folio_test_swapbacked(md_folio(md, addr)));
	/* one page, and one hole */
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	for (i = 0; i < 2; i++)
		md_expect_droppable(md, addr, i);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	for (i = 0; i < 2; i++)
		md_expect_droppable(md, addr, i);
	md_expect_contents(md, addr, 1);
}

/* What others are told */

/**
 * struct md_witness - another driver, which is told what happens to the range
 * @sub: its subscription
 * @owner: who it expects to migrate
 * @told: how often it was told of a migration by @owner
 * @otherwise: how often of anything else
 */
struct md_witness {
	struct mmu_interval_notifier sub;
	void *owner;
	unsigned int told;
	unsigned int otherwise;
};

static bool md_witness_invalidate(struct mmu_interval_notifier *sub,
				  const struct mmu_notifier_range *range,
				  unsigned long seq)
{
	struct md_witness *witness = container_of(sub, struct md_witness, sub);

	mmu_interval_set_seq(sub, seq);
	if (range->event == MMU_NOTIFY_MIGRATE && range->owner == witness->owner)
		witness->told++;
	else
		witness->otherwise++;
	return true;
}

static const struct mmu_interval_notifier_ops md_witness_ops = {
	.invalidate = md_witness_invalidate,
};

/* By which a driver tells its own migrations, of pages and of holes. */
static void drivers_are_told_who_migrates(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ | PROT_WRITE);
	struct md_witness witness = { .owner = md };

	md_write_word(md, addr, md_pattern(0));
	KUNIT_ASSERT_EQ(test, 0,
			mmu_interval_notifier_insert(&witness.sub, md->km->mm,
						     addr, 2 * PAGE_SIZE,
						     &md_witness_ops));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 1U, witness.told);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr + PAGE_SIZE, 1));
	/* what setup has found, and what the hole becomes */
	KUNIT_EXPECT_EQ(test, 3U, witness.told);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_EQ(test, 4U, witness.told);
	KUNIT_EXPECT_EQ(test, 0U, witness.otherwise);
	mmu_interval_notifier_remove(&witness.sub);
}

/* Parent and child */

static void fork_shares_device_pages_until_one_writes(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 4);
	struct mm_struct *parent = md->km->mm, *child;

	KUNIT_EXPECT_EQ(test, 4UL, md_to_device(md, addr, 4));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_EXPECT_EQ(test, 4UL, md_device_used(md));
	for (i = 0; i < 4; i++)
		KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, i));
	md_write_word(md, addr, 1);
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&md->calls));

	kunit_mm_enter(md->km, child);
	KUNIT_EXPECT_EQ(test, 4UL, md_rss(md));
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 3, true);
	KUNIT_EXPECT_EQ(test, md_pattern(0), md_read_word(md, addr));
	md_write_word(md, addr + PAGE_SIZE, 2);
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&md->calls));
	KUNIT_EXPECT_EQ(test, 2UL, md_device_used(md));

	kunit_mm_enter(md->km, parent);
	KUNIT_EXPECT_EQ(test, 1UL, md_read_word(md, addr));
	KUNIT_EXPECT_EQ(test, md_pattern(1),
			md_read_word(md, addr + PAGE_SIZE));
	kunit_mm_exit(md->km, child);
	KUNIT_EXPECT_EQ(test, 2UL, md_device_used(md));
	KUNIT_EXPECT_EQ(test, md_pattern(2),
			md_read_word(md, addr + 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, md_pattern(3),
			md_read_word(md, addr + 3 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 4, atomic_read(&md->calls));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_page_that_two_share_moves_for_both(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mm_struct *parent = md->km->mm, *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_device_used(md));
	kunit_mm_enter(md->km, child);
	md_expect_on_device(md, addr, MD_PAGES, true);
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_to_system(md, addr, MD_PAGES / 2));
	md_expect_contents(md, addr, MD_PAGES);
	md_write_word(md, addr, 7);
	kunit_mm_enter(md->km, parent);
	md_expect_on_device(md, addr, MD_PAGES, false);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_FALSE(test, pte_write(md_pte(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

/* What does not move is restored wherever it was mapped. */
static void a_page_that_two_share_stays_for_both(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mm_struct *parent = md->km->mm, *child;
	unsigned long i;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ODD));
	kunit_mm_enter(md->km, child);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_rss(md));
	for (i = 0; i < MD_PAGES; i++)
		md_expect_on_device(md, addr + i * PAGE_SIZE, 1, i & 1);
	md_expect_contents(md, addr, MD_PAGES);
	kunit_mm_enter(md->km, parent);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_child_that_ends_leaves_its_parents_pages(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct md_counts before = md_counts_now(md);
	struct mm_struct *child;

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	kunit_mm_exit(md->km, child);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_device_used(md));
	md_expect_counts(md, before, 0);
	md_expect_contents(md, addr, MD_PAGES);
}

/* Large folios */

static void a_huge_page_is_split_and_moved(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_write(md->km, addr, 1);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no huge page to be had");
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR, md_device_used(md));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_system(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_large_folio_mapped_by_ptes_is_split_and_moved(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_write(md->km, addr, 1);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no huge page to be had");
	kunit_mm_split_pmd(md->km, addr);
	KUNIT_EXPECT_TRUE(test, folio_test_large(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES,
			md_to_device(md, addr + PAGE_SIZE, MD_PAGES));
	md_expect_on_device(md, addr, 1, false);
	KUNIT_EXPECT_FALSE(test, folio_test_large(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES,
			md_to_system(md, addr + PAGE_SIZE, MD_PAGES));
}

static void a_large_folio_that_is_pinned_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);
	struct folio *folio;

	kunit_mm_write(md->km, addr, 1);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no huge page to be had");
	folio = md_folio(md, addr);
	folio_get(folio);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_TRUE(test, folio_test_large(folio));
	folio_put(folio);
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_device(md, addr, HPAGE_PMD_NR));
}

/* Races */

static int md_zap_page(struct kunit_mm_thread *thread)
{
	return do_madvise(md_of(thread)->km->mm, thread->addr, PAGE_SIZE,
			  MADV_DONTNEED);
}

static void md_make_active(struct md_test *md, unsigned long addr,
			   unsigned long nr)
{
	unsigned long i;

	lru_add_drain_all();
	for (i = 0; i < nr; i++) {
		struct folio *folio = md_folio(md, addr + (i << PAGE_SHIFT));

		folio_mark_accessed(folio);
		folio_mark_accessed(folio);
	}
	lru_add_drain_all();
	/* LRU_GEN gives the flag to pages of young generations that leave it. */
	if (!lru_gen_enabled())
		KUNIT_EXPECT_TRUE(md->test,
				  folio_test_active(md_folio(md, addr)));
}

/*
 * A zap between the steps takes the entry; the page must not come back. Nor must
 * it be freed with the flag of the active list, off which it was taken.
 */
static void md_zap_between(struct kunit *test, enum md_driver driver)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long rss = md_rss(md);
	struct kunit_mm_thread thread;
	int ret;

	md_make_active(md, addr, MD_PAGES);

	mmap_read_lock(md->km->mm);
	ret = md_setup(md, addr, MD_PAGES, MIGRATE_VMA_SELECT_SYSTEM);
	md_copy(md, MD_PAGES, true, driver);
	kunit_mm_thread_start(&thread, md->km, addr + PAGE_SIZE, md_zap_page);
	kunit_mm_thread_end(&thread);
	md_finish(md);
	mmap_read_unlock(md->km->mm);

	KUNIT_EXPECT_EQ(test, 0, ret);
	KUNIT_EXPECT_EQ(test, 0, thread.ret);
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, rss - 1,
			md_rss(md));
	KUNIT_EXPECT_EQ(test, driver == MD_MOVES_ALL ? MD_PAGES - 1 : 0,
			md_device_used(md));
	md_expect_contents(md, addr, 1);
}

static void a_page_that_was_zapped_does_not_come_back(struct kunit *test)
{
	md_zap_between(test, MD_MOVES_ALL);
}

static void a_page_that_was_zapped_is_not_restored(struct kunit *test)
{
	md_zap_between(test, MD_MOVES_NONE);
}

/* What UFFDIO_WRITEPROTECT does to a migration entry. */
/* What the last page of a process left, the next one would take over. */
static void device_pages_are_free_of_marks(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;

	md_make_active(md, addr, 1);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	folio = md_folio(md, addr);
	KUNIT_EXPECT_TRUE(test, folio_test_active(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_swapbacked(folio));
	kunit_mm_zap(md->km, addr, 1);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	KUNIT_EXPECT_FALSE(test, folio_test_active(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_swapbacked(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_referenced(folio));
}

static pte_t md_write_protect(pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	entry = make_readable_exclusive_migration_entry(swp_offset_pfn(entry));
	return pte_swp_mkuffd_wp(swp_entry_to_pte(entry));
}

static int md_protect_page(struct kunit_mm_thread *thread)
{
	return md_change_entry(thread, md_write_protect);
}

static void protection_that_came_between_is_kept(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct kunit_mm_thread thread;
	pte_t pte;
	int ret;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	mmap_read_lock(md->km->mm);
	ret = md_setup(md, addr, MD_PAGES, MIGRATE_VMA_SELECT_SYSTEM);
	md_copy(md, MD_PAGES, true, MD_MOVES_ALL);
	kunit_mm_thread_start(&thread, md->km, addr, md_protect_page);
	kunit_mm_thread_end(&thread);
	md_finish(md);
	mmap_read_unlock(md->km->mm);

	KUNIT_EXPECT_EQ(test, 0, ret);
	KUNIT_EXPECT_EQ(test, 0, thread.ret);
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_TRUE(test, md_on_device(md, addr));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_TRUE(test, pte_swp_uffd_wp(pte));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(pte));
}

/* UFFDIO_WRITEPROTECT, which the mmap read lock lets in between the steps. */
static int md_uffd_protect(struct kunit_mm_thread *thread)
{
	struct mm_struct *mm = md_of(thread)->km->mm;

	mmap_read_lock(mm);
	uffd_wp_range(vma_lookup(mm, thread->addr), thread->addr, PAGE_SIZE,
		      true);
	mmap_read_unlock(mm);
	return 0;
}

static int md_uffd_unprotect(struct kunit_mm_thread *thread)
{
	struct mm_struct *mm = md_of(thread)->km->mm;

	mmap_read_lock(mm);
	uffd_wp_range(vma_lookup(mm, thread->addr), thread->addr, PAGE_SIZE,
		      false);
	mmap_read_unlock(mm);
	return 0;
}

static void md_uffd_between(struct md_test *md, unsigned long addr,
			    int (*work)(struct kunit_mm_thread *thread))
{
	struct kunit_mm_thread thread;
	int ret;

	mmap_read_lock(md->km->mm);
	ret = md_setup(md, addr, 2, MIGRATE_VMA_SELECT_SYSTEM);
	md_copy(md, 2, true, MD_MOVES_NONE);
	kunit_mm_thread_start(&thread, md->km, addr, work);
	kunit_mm_thread_end(&thread);
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(md->test, 0, ret);
	KUNIT_EXPECT_EQ(md->test, 0, thread.ret);
}

static void protection_is_kept_where_the_page_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	pte_t pte;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_flags(md->km, addr, VM_UFFD_WP, 0);
	md_uffd_between(md, addr, md_uffd_protect);
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_TRUE(test, pte_present(pte) && pte_uffd_wp(pte));
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	pte = md_pte(md, addr, 1);
	KUNIT_EXPECT_FALSE(test, pte_uffd_wp(pte));
	KUNIT_EXPECT_TRUE(test, pte_write(pte));

	md_uffd_between(md, addr, md_uffd_unprotect);
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_FALSE(test, pte_uffd_wp(pte));
	kunit_mm_flags(md->km, addr, 0, VM_UFFD_WP);
	md_expect_contents(md, addr, 2);
}

static int md_write_on(struct kunit_mm_thread *thread)
{
	unsigned long n = 0;
	int ret = 0;

	while (!ret && !READ_ONCE(thread->stop)) {
		ret = put_user(n++, (unsigned long __user *)thread->addr);
		cond_resched();
	}
	return ret;
}

/* A stale entry of the TLB would let the writer on to a page that was taken. */
static void a_page_is_stable_once_setup_returns(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	unsigned long *word, before, after;
	struct kunit_mm_thread thread;
	int i, caught = 0;

	kunit_mm_thread_start(&thread, md->km, addr, md_write_on);
	for (i = 0; i < 200; i++) {
		mmap_read_lock(md->km->mm);
		if (!md_setup(md, addr, 1, MIGRATE_VMA_SELECT_SYSTEM) &&
		    migrate_pfn_to_page(md->src[0])) {
			word = kmap_local_page(migrate_pfn_to_page(md->src[0]));
			before = READ_ONCE(*word);
			usleep_range(50, 100);
			after = READ_ONCE(*word);
			kunmap_local(word);
			KUNIT_EXPECT_EQ(test, before, after);
			caught++;
		}
		md_copy(md, 1, true, i & 1 ? MD_MOVES_ALL : MD_MOVES_NONE);
		md_finish(md);
		mmap_read_unlock(md->km->mm);
		cond_resched();
	}
	kunit_mm_thread_end(&thread);
	KUNIT_EXPECT_EQ(test, 0, thread.ret);
	KUNIT_EXPECT_GT(test, caught, 0);
}

/* Of a reader that never sleeps, so that nothing but a flush stops it. */
struct md_reader {
	struct kunit_mm_thread thread;
	unsigned long rounds;
	unsigned long stale;
	unsigned long expected;		/* once the page is another one */
	bool changed;
};

static int md_read_on(struct kunit_mm_thread *thread)
{
	struct md_reader *reader = container_of(thread, struct md_reader,
						thread);
	unsigned long word;
	bool changed;
	int ret = 0;

	while (!ret && !READ_ONCE(thread->stop)) {
		/* no read from before the change counts: pairs with the release */
		changed = smp_load_acquire(&reader->changed);
		ret = get_user(word, (unsigned long __user *)thread->addr);
		if (changed && word != reader->expected)
			reader->stale++;
		WRITE_ONCE(reader->rounds, reader->rounds + 1);
	}
	return ret;
}

static void md_wait_for_rounds(struct md_reader *reader)
{
	unsigned long begin = READ_ONCE(reader->rounds);
	unsigned long end = jiffies + MD_PATIENCE;

	while (READ_ONCE(reader->rounds) - begin < 1000 &&
	       time_before(jiffies, end))
		cpu_relax();
}

/*
 * A zap finds a migration entry and flushes nothing. So what the TLB knows of
 * the page must be gone before, or the reader goes on in a page that is free.
 */
static void md_zap_under_a_reader(struct md_test *md, unsigned long addr)
{
	struct md_reader reader = {};
	struct kunit_mm_thread zap;

	kunit_mm_thread_start(&reader.thread, md->km, addr, md_read_on);
	md_wait_for_rounds(&reader);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(md->test, 0, md_setup(md, addr, 1,
					      MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, 1, true, MD_MOVES_NONE);
	kunit_mm_thread_start(&zap, md->km, addr, md_zap_page);
	kunit_mm_thread_end(&zap);
	/* the zap is done: pairs with the acquire of the reader */
	smp_store_release(&reader.changed, true);
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	md_wait_for_rounds(&reader);
	kunit_mm_thread_end(&reader.thread);
	KUNIT_EXPECT_EQ(md->test, 0, zap.ret);
	KUNIT_EXPECT_EQ(md->test, 0, reader.thread.ret);
	KUNIT_EXPECT_EQ(md->test, 0UL, reader.stale);
}

static void a_zap_between_leaves_no_stale_translation(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 16);

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a CPU for the reader");
	for (i = 0; i < 16; i++)
		md_zap_under_a_reader(md, addr + i * PAGE_SIZE);
}

/* Whoever goes on in the zero page never sees what the device wrote. */
static void md_replace_zero_under_a_reader(struct md_test *md,
					   unsigned long addr)
{
	struct md_reader reader = { .expected = md_pattern(1) };

	kunit_mm_thread_start(&reader.thread, md->km, addr, md_read_on);
	md_wait_for_rounds(&reader);
	KUNIT_EXPECT_TRUE(md->test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(md->test, 0, md_setup(md, addr, 1,
					      MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, 1, true, MD_MOVES_ALL);
	memcpy_to_page(md_memory(migrate_pfn_to_page(md->dst[0])), 0,
		       (char *)&reader.expected, sizeof(reader.expected));
	KUNIT_EXPECT_EQ(md->test, 1UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	/* it is there: pairs with the acquire of the reader */
	smp_store_release(&reader.changed, true);
	md_wait_for_rounds(&reader);
	kunit_mm_thread_end(&reader.thread);
	KUNIT_EXPECT_EQ(md->test, 0, reader.thread.ret);
	KUNIT_EXPECT_EQ(md->test, 0UL, reader.stale);
}

static void a_zero_page_leaves_no_stale_translation(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = kunit_mm_map(md->km, 16,
					     PROT_READ | PROT_WRITE);

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a CPU for the reader");
	for (i = 0; i < 16; i++)
		md_replace_zero_under_a_reader(md, addr + i * PAGE_SIZE);
}

#define MD_FAULTERS	8

static int md_read_after_arrival(struct kunit_mm_thread *thread)
{
	atomic_inc(&md_of(thread)->arrived);
	return kunit_mm_try_read(thread->addr);
}

static void one_of_many_that_fault_calls_the_driver(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct kunit_mm_thread threads[MD_FAULTERS];
	int i;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	md->expected = MD_FAULTERS;
	for (i = 0; i < MD_FAULTERS; i++)
		kunit_mm_thread_start(&threads[i], md->km, addr,
				      md_read_after_arrival);
	for (i = 0; i < MD_FAULTERS; i++) {
		kunit_mm_thread_end(&threads[i]);
		KUNIT_EXPECT_EQ(test, 0, threads[i].ret);
	}
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&md->calls));
	/* that of the entry, and one of the fault path's; none who waits */
	KUNIT_EXPECT_EQ(test, 2, md->refs);
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&md->unlocked));
	md_expect_contents(md, addr, 1);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_fault_may_bring_its_neighbours(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	md->around = MD_AROUND;
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, md_pattern(5),
			md_read_word(md, addr + 5 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&md->calls));
	KUNIT_EXPECT_EQ(test, 2, md->refs);
	md_expect_on_device(md, addr, MD_AROUND, false);
	KUNIT_EXPECT_EQ(test, MD_PAGES - MD_AROUND, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES / MD_AROUND, atomic_read(&md->calls));
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&md->unlocked));
}

static void a_driver_that_fails_costs_an_access(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	folio = md_folio(md, addr);
	md->broken = true;
	KUNIT_EXPECT_EQ(test, -EFAULT, kunit_mm_try_read(addr));
	KUNIT_EXPECT_NE(test, 0, put_user(1UL, (unsigned long __user *)addr));
	KUNIT_EXPECT_EQ(test, 2, atomic_read(&md->calls));
	md_expect_on_device(md, addr, 1, true);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));
	md->broken = false;
	md_expect_contents(md, addr, 1);
}

static void a_pin_brings_a_page_back_first(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct page *page;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(addr, 1, FOLL_WRITE,
						     &page));
	KUNIT_EXPECT_FALSE(test, is_device_private_page(page));
	KUNIT_EXPECT_EQ(test, page_to_pfn(page), kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_EQ(test, 1, atomic_read(&md->calls));
	unpin_user_page(page);
	md_expect_contents(md, addr, 1);
}

/* From device pages */

static void eviction_brings_every_page_home(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, 0, migrate_device_range(md->src, md_first_pfn(md),
						      MD_DEVICE_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	md_bring_home(md, MD_DEVICE_PAGES);
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	KUNIT_EXPECT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&md->calls));
}

/* With LRU_GEN they wait in a batch of the CPU for others. */
static void evicted_pages_are_listed_by_finalize(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long i;

	if (lru_gen_enabled())
		kunit_skip(test, "LRU_GEN is in use");
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	migrate_device_range(md->src, md_first_pfn(md), MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	md_bring_home(md, MD_DEVICE_PAGES);
	for (i = 0; i < MD_PAGES; i++) {
		struct folio *folio = md_folio(md, addr + (i << PAGE_SHIFT));

		KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
		KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));
	}
}

static void single_pfns_can_be_evicted(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md->src[0] = md_first_pfn(md) + 5;
	md->src[1] = md_first_pfn(md) + MD_DEVICE_PAGES - 1;	/* free */
	md->src[2] = md_first_pfn(md) + 2;
	KUNIT_EXPECT_EQ(test, 0, migrate_device_pfns(md->src, 3));
	KUNIT_EXPECT_EQ(test, 0UL, md->src[1]);
	KUNIT_EXPECT_EQ(test, 2UL, md_count_moved(md, 3));
	md_bring_home(md, 3);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 2, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
}

static void eviction_passes_over_locked_pages(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct page *locked = pfn_to_page(md_first_pfn(md));

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	lock_page(locked);
	migrate_device_range(md->src, md_first_pfn(md), MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0]);
	md_bring_home(md, MD_PAGES);
	unlock_page(locked);
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
}

/*
 * There is no mmap lock to keep the process: whatever its pages are restored by
 * has to be kept by the migration, or is gone.
 */
static void eviction_outlives_the_process(struct kunit *test)
{
	struct md_test *md = test->priv;
	struct mm_struct *parent = md->km->mm, *child;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	kunit_mm_zap(md->km, addr, MD_PAGES);
	kunit_mm_enter(md->km, child);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	kunit_mm_enter(md->km, parent);
	migrate_device_range(md->src, md_first_pfn(md), MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	kunit_mm_exit(md->km, child);
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(addr, MD_PAGES * PAGE_SIZE));
	synchronize_rcu();
	md_bring_home(md, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

/* Each page has a reference of the migration's to it meanwhile. */
static void eviction_gives_the_anon_vma_back(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct anon_vma *anon_vma = vma_lookup(md->km->mm, addr)->anon_vma;
	struct page *pinned;
	int refs;

	KUNIT_EXPECT_EQ(test, 4UL, md_to_device(md, addr, 4));
	pinned = pfn_to_page(md_pfn_at(md, addr));
	refs = atomic_read(&anon_vma->refcount);
	get_page(pinned);
	migrate_device_range(md->src, md_first_pfn(md), MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, refs + 3, atomic_read(&anon_vma->refcount));
	md_bring_home(md, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, refs, atomic_read(&anon_vma->refcount));
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	put_page(pinned);
	md_expect_contents(md, addr, 4);
}

/* Coherent memory: the CPU can access it, so it need not come home for that. */

static void coherent_memory_is_present(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct md_counts before = md_counts_now(md);
	pte_t pte;

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_device_used(md));
	md_expect_on_device(md, addr, MD_PAGES, true);
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_TRUE(test, pte_present(pte) && pte_write(pte));
	md_expect_contents(md, addr, MD_PAGES);
	md_write_word(md, addr, md_pattern(0));
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_counts(md, before, 0);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_system(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
	md_expect_counts(md, before, 0);
	KUNIT_EXPECT_EQ(test, 0, atomic_read(&md->calls));
}

static void only_its_owner_selects_coherent_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);

	KUNIT_EXPECT_EQ(test, 4UL, md_to_device(md, addr, 4));
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, 4));
	KUNIT_EXPECT_EQ(test, 0UL,
			md_migrate(md, addr, 4,
				   MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
				   MD_MOVES_ALL));
	md_expect_on_device(md, addr, 4, true);
	mmap_read_lock(md->km->mm);
	md_setup(md, addr, 0, MIGRATE_VMA_SELECT_DEVICE_COHERENT);
	md->args.end = addr + 4 * PAGE_SIZE;
	md->args.pgmap_owner = test;
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&md->args));
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	md_finish(md);
	mmap_read_unlock(md->km->mm);
	md_expect_contents(md, addr, 4);
	KUNIT_EXPECT_EQ(test, 4UL, md_device_used(md));
}

static void a_short_pin_keeps_coherent_memory_where_it_is(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct page *page;

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(addr, 1, FOLL_WRITE,
						     &page));
	KUNIT_EXPECT_TRUE(test, is_device_coherent_page(page));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 2));
	md_expect_on_device(md, addr, 1, true);
	md_expect_on_device(md, addr + PAGE_SIZE, 1, false);
	unpin_user_page(page);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	md_expect_contents(md, addr, 2);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void a_long_pin_brings_coherent_memory_home(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct md_counts before = md_counts_now(md);
	struct page *pages[2];

	KUNIT_EXPECT_EQ(test, 4UL, md_to_device(md, addr, 4));
	KUNIT_ASSERT_EQ(test, 2, pin_user_pages_fast(addr, 2,
						     FOLL_WRITE | FOLL_LONGTERM,
						     pages));
	KUNIT_EXPECT_FALSE(test, is_device_coherent_page(pages[0]));
	KUNIT_EXPECT_EQ(test, page_to_pfn(pages[0]),
			kunit_mm_pfn(md->km, addr));
	md_expect_on_device(md, addr, 2, false);
	md_expect_on_device(md, addr + 2 * PAGE_SIZE, 2, true);
	KUNIT_EXPECT_EQ(test, 2UL, md_device_used(md));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 4) + 2);
	unpin_user_pages(pages, 2);
	md_expect_contents(md, addr, 4);
	md_expect_counts(md, before, 0);
}

static void coherent_memory_goes_home_unless_pinned(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	folio = md_folio(md, addr);
	folio_get(folio);
	folio_get(folio);	/* of somebody else's */
	KUNIT_EXPECT_EQ(test, -EBUSY, migrate_device_coherent_folio(folio));
	md_expect_on_device(md, addr, 1, true);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, 2, folio_ref_count(folio));

	KUNIT_EXPECT_EQ(test, 0, migrate_device_coherent_folio(folio));
	md_expect_on_device(md, addr, 1, false);
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	md_expect_contents(md, addr, 2);

	/* One that is mapped nowhere any more has nowhere to come from. */
	folio = md_nth_folio(md, addr, 1);
	folio_get(folio);
	kunit_mm_zap(md->km, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, 0, migrate_device_coherent_folio(folio));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void coherent_memory_is_evicted(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	migrate_device_range(md->src, md_first_pfn(md), MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	md_bring_home(md, MD_DEVICE_PAGES);
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
}

static void holes_are_populated_with_coherent_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = kunit_mm_map(md->km, MD_PAGES,
					     PROT_READ | PROT_WRITE);
	struct md_counts before = md_counts_now(md);

	/* half of them zero pages */
	kunit_mm_read(md->km, addr, MD_PAGES / 2);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, MD_PAGES,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, MD_PAGES, true, MD_MOVES_ALL);
	for (i = 0; i < MD_PAGES; i++)
		clear_highpage(migrate_pfn_to_page(md->dst[i]));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_finish(md));
	mmap_read_unlock(md->km->mm);
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_counts(md, before, MD_PAGES);
	for (i = 0; i < MD_PAGES; i++)
		KUNIT_EXPECT_EQ(test, 0UL, md_read_word(md, addr +
							i * PAGE_SIZE));
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	md_expect_counts(md, before, 0);
}

static void fork_shares_coherent_memory_until_one_writes(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct mm_struct *parent = md->km->mm, *child;

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_EXPECT_EQ(test, 2UL, md_device_used(md));
	md_write_word(md, addr, 9);
	md_expect_on_device(md, addr, 1, false);
	kunit_mm_enter(md->km, child);
	md_expect_on_device(md, addr, 2, true);
	md_expect_contents(md, addr, 2);
	kunit_mm_enter(md->km, parent);
	KUNIT_EXPECT_EQ(test, 9UL, md_read_word(md, addr));
	kunit_mm_exit(md->km, child);
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
}

/*
 * Write access of a device to its own memory, see device_write.c.
 */

/* @addr receives where it stopped. */
static int md_make_writable(struct md_test *md, unsigned long *addr,
			    unsigned long nr, void *owner)
{
	unsigned long end = *addr + (nr << PAGE_SHIFT);
	int ret;

	mmap_read_lock(md->km->mm);
	ret = device_make_writable(vma_lookup(md->km->mm, *addr), addr, end,
				   owner);
	mmap_read_unlock(md->km->mm);
	return ret;
}

static unsigned long md_count_writable(struct md_test *md, unsigned long addr,
				       unsigned long nr)
{
	unsigned long i, writable = 0;

	for (i = 0; i < nr; i++)
		writable += md_device_writes(md, addr, i);
	return writable;
}

/* All of the pages become writable where they are, by one call. */
static void md_expect_made_writable(struct md_test *md, unsigned long addr,
				    unsigned long nr)
{
	unsigned long i, stop = addr;

	KUNIT_EXPECT_EQ(md->test, 0, md_make_writable(md, &stop, nr, md));
	KUNIT_EXPECT_EQ(md->test, stop, addr + (nr << PAGE_SHIFT));
	KUNIT_EXPECT_EQ(md->test, nr, md_count_writable(md, addr, nr));
	for (i = 0; i < nr; i++) {
		struct folio *folio = md_nth_folio(md, addr, i);

		KUNIT_EXPECT_TRUE(md->test, PageAnonExclusive(&folio->page));
		KUNIT_EXPECT_FALSE(md->test, folio_test_locked(folio));
		if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
			KUNIT_EXPECT_TRUE(md->test,
					  pte_swp_soft_dirty(md_pte(md, addr,
								    i)));
	}
	KUNIT_EXPECT_EQ(md->test, 0, atomic_read(&md->calls));
}

/* The first page stays read-only, for a reason that is @ret. */
static void md_expect_not_made_writable(struct md_test *md, unsigned long addr,
					int ret)
{
	unsigned long stop = addr;

	KUNIT_EXPECT_EQ(md->test, ret, md_make_writable(md, &stop, 1, md));
	KUNIT_EXPECT_EQ(md->test, addr, stop);
	KUNIT_EXPECT_FALSE(md->test, md_device_writes(md, addr, 0));
}

/* The pages have been in a child that has gone. */
static void md_share_once(struct md_test *md, unsigned long addr)
{
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(md->test, 0, kunit_mm_fork(md->km, addr, &child));
	kunit_mm_exit(md->km, child);
}

static void private_page_is_made_writable_after_mprotect(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	kunit_mm_protect(md->km, addr, MD_PAGES, VM_READ);
	kunit_mm_protect(md->km, addr, MD_PAGES, VM_READ | VM_WRITE);
	KUNIT_EXPECT_EQ(test, 0UL, md_count_writable(md, addr, MD_PAGES));
	md_expect_made_writable(md, addr, MD_PAGES);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_TRUE(test, pte_write(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
}

static void page_migrated_read_only_is_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	kunit_mm_protect(md->km, addr, MD_PAGES, VM_READ);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	kunit_mm_protect(md->km, addr, MD_PAGES, VM_READ | VM_WRITE);
	KUNIT_EXPECT_EQ(test, 0UL, md_count_writable(md, addr, MD_PAGES));
	md_expect_made_writable(md, addr, MD_PAGES);
	md_expect_contents(md, addr, MD_PAGES);
}

static void shared_page_is_not_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mm_struct *child;

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	md_expect_not_made_writable(md, addr, DEVICE_WRITE_FAULT);
	kunit_mm_exit(md->km, child);
	md_expect_made_writable(md, addr, MD_PAGES);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

/* The page goes over to the anon_vma of the process that has it alone. */
static void child_makes_writable_what_its_parent_gave_up(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mm_struct *parent = md->km->mm, *child;

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	kunit_mm_zap(md->km, addr, MD_PAGES);
	kunit_mm_enter(md->km, child);
	md_expect_made_writable(md, addr, MD_PAGES);
	KUNIT_EXPECT_PTR_EQ(test, vma_lookup(child, addr)->anon_vma,
			    folio_anon_vma(md_folio(md, addr)));
	md_expect_contents(md, addr, MD_PAGES);
	kunit_mm_enter(md->km, parent);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

/* The holder may be a fault of the CPU. An exclusive page needs no lock. */
static void locked_page_is_not_waited_for(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 3), stop = addr;
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 3UL, md_to_device(md, addr, 3));
	md_share_once(md, addr);
	folio = md_nth_folio(md, addr, 1);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, -EBUSY, md_make_writable(md, &stop, 3, md));
	KUNIT_EXPECT_EQ(test, addr + PAGE_SIZE, stop);
	KUNIT_EXPECT_EQ(test, 1UL, md_count_writable(md, addr, 3));
	folio_unlock(folio);
	md_expect_made_writable(md, addr, 3);

	kunit_mm_protect(md->km, addr, 3, VM_READ);
	kunit_mm_protect(md->km, addr, 3, VM_READ | VM_WRITE);
	folio_lock(folio);
	stop = addr;
	KUNIT_EXPECT_EQ(test, 0, md_make_writable(md, &stop, 3, md));
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, 3UL, md_count_writable(md, addr, 3));
}

static void page_with_a_reference_is_made_writable_if_exclusive(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	folio = md_folio(md, addr);
	md_share_once(md, addr);
	folio_get(folio);
	md_expect_not_made_writable(md, addr, DEVICE_WRITE_FAULT);
	folio_put(folio);
	md_expect_made_writable(md, addr, 1);

	kunit_mm_protect(md->km, addr, 1, VM_READ);
	kunit_mm_protect(md->km, addr, 1, VM_READ | VM_WRITE);
	folio_get(folio);
	md_expect_made_writable(md, addr, 1);
	folio_put(folio);
}

/*
 * Stands for another process that has unmapped the page already and drops its
 * reference between two looks at the reference count.
 */
static void md_put_between_looks(struct folio *folio)
{
	struct md_test *md = kunit_get_current_test()->priv;

	if (++md->relaxed == md->put_after)
		folio_put(folio);
}

/* The test's reference is dropped after @put_after looks; not at all if 0. */
static void md_watch_looks(struct md_test *md, int put_after)
{
	md->relaxed = 0;
	md->put_after = put_after;
	kunit_activate_static_stub(md->test, device_write_relax,
				   md_put_between_looks);
}

/* Nobody looked so often: without the put the device could not be removed. */
static void md_put_if_not_looked(struct md_test *md, struct folio *folio)
{
	KUNIT_EXPECT_EQ(md->test, md->put_after, md->relaxed);
	if (md->relaxed < md->put_after)
		folio_put(folio);
	KUNIT_EXPECT_EQ(md->test, 1, folio_ref_count(folio));
}

static void page_that_another_is_unmapping_is_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	md_share_once(md, addr);
	folio = md_folio(md, addr);
	folio_get(folio);
	md_watch_looks(md, 1);
	md_expect_made_writable(md, addr, 1);
	md_put_if_not_looked(md, folio);
	md_expect_contents(md, addr, 1);
}

/* The last look counts as well. */
static void page_with_a_lasting_reference_is_not_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	md_share_once(md, addr);
	folio = md_folio(md, addr);
	folio_get(folio);
	md_watch_looks(md, 0);
	md_expect_not_made_writable(md, addr, DEVICE_WRITE_FAULT);
	KUNIT_EXPECT_GT(test, md->relaxed, 0);
	KUNIT_EXPECT_EQ(test, 2, folio_ref_count(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));

	md_watch_looks(md, max(md->relaxed, 1));
	md_expect_made_writable(md, addr, 1);
	md_put_if_not_looked(md, folio);
}

static void page_that_userfaultfd_watches_is_not_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	kunit_mm_protect(md->km, addr, 2, VM_READ);
	kunit_mm_protect(md->km, addr, 2, VM_READ | VM_WRITE);
	kunit_mm_change(md->km, addr, 1, pte_swp_mkuffd_wp);
	kunit_mm_flags(md->km, addr, VM_UFFD_WP, 0);
	md_expect_not_made_writable(md, addr, DEVICE_WRITE_FAULT);
	KUNIT_EXPECT_TRUE(test, pte_swp_uffd_wp(md_pte(md, addr, 0)));
	md_expect_made_writable(md, addr + PAGE_SIZE, 1);

	kunit_mm_flags(md->km, addr, 0, VM_UFFD_WP);
	md_expect_made_writable(md, addr, 2);
	KUNIT_EXPECT_FALSE(test, pte_swp_uffd_wp(md_pte(md, addr, 0)));
}

static void writable_page_is_made_soft_dirty(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	kunit_mm_change(md->km, addr, 1, pte_swp_clear_soft_dirty);
	KUNIT_EXPECT_TRUE(test, md_device_writes(md, addr, 0));
	md_expect_made_writable(md, addr, 2);
}

static void page_of_another_owner_is_passed_over(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2), stop = addr;

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	kunit_mm_protect(md->km, addr, 2, VM_READ);
	kunit_mm_protect(md->km, addr, 2, VM_READ | VM_WRITE);
	KUNIT_EXPECT_EQ(test, 0, md_make_writable(md, &stop, 2, test));
	KUNIT_EXPECT_EQ(test, addr + 2 * PAGE_SIZE, stop);
	KUNIT_EXPECT_EQ(test, 0UL, md_count_writable(md, addr, 2));
}

static void other_entries_are_passed_over(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES), stop = addr;
	pte_t present;

	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ODD));
	md_share_once(md, addr);
	kunit_mm_zap(md->km, addr + 2 * PAGE_SIZE, 1);
	present = md_pte(md, addr, 0);
	KUNIT_EXPECT_EQ(test, 0, md_make_writable(md, &stop, MD_PAGES, md));
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_count_writable(md, addr, MD_PAGES));
	KUNIT_EXPECT_TRUE(test, pte_same(present, md_pte(md, addr, 0)));
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 2)));
}

/*
 * NUMA hinting
 */

#ifdef CONFIG_NUMA_BALANCING
static void md_reset_balancing(void *data)
{
	sysctl_numa_balancing_mode = (long)data;
}

/* One scan of the range, whatever node its pages are on. */
static void md_hint(struct md_test *md, unsigned long addr, unsigned long nr)
{
	struct mm_struct *mm = md->km->mm;

	if (!(sysctl_numa_balancing_mode & NUMA_BALANCING_NORMAL)) {
		kunit_add_action(md->test, md_reset_balancing,
				 (void *)(long)sysctl_numa_balancing_mode);
		sysctl_numa_balancing_mode |= NUMA_BALANCING_NORMAL;
	}
	mmap_read_lock(mm);
	change_prot_numa(vma_lookup(mm, addr), addr, addr + (nr << PAGE_SHIFT));
	mmap_read_unlock(mm);
}
#else
static void md_hint(struct md_test *md, unsigned long addr, unsigned long nr)
{
	kunit_skip(md->test, "no NUMA balancing in this kernel");
}
#endif

static void numa_scan_leaves_private_pages_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_migrate(md, addr, MD_PAGES,
				   MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ODD));
	md_hint(md, addr, MD_PAGES);
	for (i = 0; i < MD_PAGES; i += 2)
		KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, i)));
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_count_writable(md, addr, MD_PAGES));
	md_expect_contents(md, addr, MD_PAGES);
}

static void numa_scan_leaves_exclusive_pages_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct page *page = NULL;
	swp_entry_t entry;

	mmap_read_lock(md->km->mm);
	make_device_exclusive_range(md->km->mm, addr, addr + PAGE_SIZE, &page,
				    md);
	mmap_read_unlock(md->km->mm);
	KUNIT_ASSERT_NOT_NULL(test, page);
	unlock_page(page);
	put_page(page);
	md_hint(md, addr, 2);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 1)));
	entry = pte_to_swp_entry(md_pte(md, addr, 0));
	KUNIT_EXPECT_TRUE(test, is_writable_device_exclusive_entry(entry));
	md_expect_contents(md, addr, 2);
}

static int md_hint_one(struct kunit_mm_thread *thread)
{
	md_hint(md_of(thread), thread->addr, 1);
	return 0;
}

static void numa_scan_leaves_migrating_pages_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct kunit_mm_thread thread;

	md_hint(md, addr + PAGE_SIZE, 1);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 1,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md_copy(md, 1, true, MD_MOVES_ALL);
	kunit_mm_thread_start(&thread, md->km, addr, md_hint_one);
	kunit_mm_thread_end(&thread);
	KUNIT_EXPECT_EQ(test, 1UL, md_finish(md));
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 1)));
	KUNIT_EXPECT_TRUE(test, md_device_writes(md, addr, 0));
}

static void numa_scan_leaves_migrating_huge_page_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);
	struct folio *folio;
	pmd_t pmd;

	kunit_mm_write(md->km, addr, HPAGE_PMD_NR);
	if (!thp_migration_supported() ||
	    !pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no THP available that migrates");
	folio = pfn_folio(kunit_mm_pfn(md->km, addr));
	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	md_hint(md, addr, HPAGE_PMD_NR);
	pmd = kunit_mm_pmd(md->km, addr);
	KUNIT_EXPECT_TRUE(test, is_pmd_migration_entry(pmd));
	remove_migration_ptes(folio, folio, 0);
	folio_unlock(folio);
	folio_put(folio);
	KUNIT_EXPECT_TRUE(test, pmd_write(kunit_mm_pmd(md->km, addr)));
}

static void hinted_page_keeps_its_write_permission(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	md_hint(md, addr, MD_PAGES);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 0)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_writable(md, addr, MD_PAGES));
	KUNIT_EXPECT_TRUE(test, md->src[0] & MIGRATE_PFN_WRITE);
	md_expect_contents(md, addr, MD_PAGES);
}

static void hinted_huge_page_keeps_its_write_permission(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_write(md->km, addr, HPAGE_PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no THP available");
	md_hint(md, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test, pmd_protnone(kunit_mm_pmd(md->km, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_writable(md, addr, MD_PAGES));
}

/* The split takes the permission of the PTEs, the write gives it back. */
static void hinted_page_of_large_folio_is_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_write(md->km, addr, HPAGE_PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no THP available");
	kunit_mm_split_pmd(md->km, addr);
	md_hint(md, addr, MD_PAGES);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 0)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_made_writable(md, addr, MD_PAGES);
}

static void hinted_huge_page_of_read_only_vma_stays_read_only(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	kunit_mm_write(md->km, addr, HPAGE_PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(test, "no THP available");
	kunit_mm_protect(md->km, addr, HPAGE_PMD_NR, VM_READ);
	md_hint(md, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test, pmd_protnone(kunit_mm_pmd(md->km, addr)));
	kunit_mm_split_pmd(md->km, addr);
	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_EXPECT_FALSE(test, pte_write(md_pte(md, addr, i)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, 0UL, md_count_writable(md, addr, MD_PAGES));
}

/* Nor do pages get a permission that a fault would refuse. */
static void hinted_page_without_write_permission_gets_none(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long shared = md_memory_map(md, 1);
	unsigned long fixed = md_memory_map(md, 1);
	struct mm_struct *child;

	md_hint(md, shared, 1);
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, shared, &child));
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, shared, 0)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, shared, 1));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, shared, 0));
	md_expect_not_made_writable(md, shared, DEVICE_WRITE_FAULT);

	kunit_mm_protect(md->km, fixed, 1, VM_READ);
	md_hint(md, fixed, 1);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, fixed, 0)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, fixed, 1));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, fixed, 0));
}

static struct kunit_case migrate_device_cases[] = {
	KUNIT_CASE(a_round_trip_keeps_contents_and_counts),
	KUNIT_CASE(the_cpu_brings_pages_back_one_by_one),
	KUNIT_CASE(pages_go_back_where_the_driver_has_no_memory),
	KUNIT_CASE(every_second_page_may_move),
	KUNIT_CASE(a_copy_that_fails_costs_nothing),
	KUNIT_CASE(a_driver_that_skips_the_second_step_loses_nothing),
	KUNIT_CASE(a_full_device_takes_what_it_can),
	KUNIT_CASE_PARAM(counts_do_not_change_by_moves, md_outcome_gen_params),
	KUNIT_CASE_PARAM(counts_follow_holes_that_are_populated,
			 md_outcome_gen_params),
	KUNIT_CASE(lists_have_the_size_that_is_counted),
	KUNIT_CASE(a_pinned_page_stays),
	KUNIT_CASE(a_page_with_a_reference_stays),
	KUNIT_CASE(setup_finds_a_reference),
	KUNIT_CASE(a_reference_that_came_between_keeps_the_page),
	KUNIT_CASE(a_large_destination_is_refused),
	KUNIT_CASE(compound_destination_is_refused),
	KUNIT_CASE(a_locked_page_stays),
	KUNIT_CASE(a_poisoned_page_stays),
	KUNIT_CASE(private_copies_of_a_file_move),
	KUNIT_CASE(device_pages_of_another_owner_stay),
	KUNIT_CASE(pages_that_are_not_selected_stay),
	KUNIT_CASE(a_zero_page_that_is_not_selected_stays),
	KUNIT_CASE(holes_of_files_are_not_offered),
	KUNIT_CASE(files_learn_that_a_page_is_dirty),
	KUNIT_CASE(pages_of_files_move_within_the_system),
	KUNIT_CASE(pages_of_files_do_not_go_to_the_device),
	KUNIT_CASE(absurd_arguments_are_refused),
	KUNIT_CASE(special_mappings_are_refused),
	KUNIT_CASE(hugetlb_is_refused),
	KUNIT_CASE(holes_are_populated),
	KUNIT_CASE(a_populated_hole_counts_as_written),
	KUNIT_CASE(holes_are_populated_with_system_memory),
	KUNIT_CASE(the_zero_page_is_replaced),
	KUNIT_CASE(a_zero_page_that_userfaultfd_protects_stays),
	KUNIT_CASE(pages_in_batches_of_this_cpu_move),
	KUNIT_CASE(the_huge_zero_page_is_replaced),
	KUNIT_CASE(the_huge_zero_page_without_access_stays),
	KUNIT_CASE(a_zero_page_of_ksm_is_counted_off),
	KUNIT_CASE(a_hole_that_was_filled_first_is_lost),
	KUNIT_CASE(holes_of_userfaultfd_are_refused),
	KUNIT_CASE(holes_of_an_unstable_address_space_are_refused),
	KUNIT_CASE(holes_of_a_read_only_mapping_stay_read_only),
	KUNIT_CASE(a_range_ends_where_it_ends),
	KUNIT_CASE(read_only_stays_read_only),
	KUNIT_CASE(memory_without_access_moves_and_stays_so),
	KUNIT_CASE(mprotect_is_obeyed_on_the_device),
	KUNIT_CASE(writable_memory_comes_back_writable_and_dirty),
	KUNIT_CASE(setup_says_what_was_writable),
	KUNIT_CASE(soft_dirty_survives),
	KUNIT_CASE(soft_dirty_is_what_the_device_may_have_written),
	KUNIT_CASE(soft_dirty_is_watched_in_between),
	KUNIT_CASE(protection_by_userfaultfd_survives),
	KUNIT_CASE(dirty_is_the_folios_on_the_device),
	KUNIT_CASE(young_is_referenced_on_the_device),
	KUNIT_CASE(a_page_that_stays_keeps_its_age_and_dirt),
	KUNIT_CASE(page_that_stays_is_not_aged_twice),
	KUNIT_CASE(age_of_shared_page_survives_on_device),
	KUNIT_CASE(read_only_memory_stays_exclusive),
	KUNIT_CASE(memory_that_was_shared_does_not_become_exclusive),
	KUNIT_CASE(mlocked_memory_comes_back_mlocked),
	KUNIT_CASE(page_moves_out_of_mlock_batch_of_another_cpu),
	KUNIT_CASE(page_moves_out_of_munlock_batch_of_another_cpu),
	KUNIT_CASE(page_mlocked_before_it_is_listed_is_unevictable),
	KUNIT_CASE(disposable_pages_become_ordinary_ones),
	KUNIT_CASE(droppable_pages_stay_droppable),
	KUNIT_CASE(device_pages_are_free_of_marks),
	KUNIT_CASE(drivers_are_told_who_migrates),
	KUNIT_CASE(fork_shares_device_pages_until_one_writes),
	KUNIT_CASE(a_page_that_two_share_moves_for_both),
	KUNIT_CASE(a_page_that_two_share_stays_for_both),
	KUNIT_CASE(a_child_that_ends_leaves_its_parents_pages),
	KUNIT_CASE(a_huge_page_is_split_and_moved),
	KUNIT_CASE(a_large_folio_mapped_by_ptes_is_split_and_moved),
	KUNIT_CASE(a_large_folio_that_is_pinned_stays),
	KUNIT_CASE(a_page_that_was_zapped_does_not_come_back),
	KUNIT_CASE(a_page_that_was_zapped_is_not_restored),
	KUNIT_CASE(protection_that_came_between_is_kept),
	KUNIT_CASE(protection_is_kept_where_the_page_stays),
	KUNIT_CASE(a_page_is_stable_once_setup_returns),
	KUNIT_CASE(a_zap_between_leaves_no_stale_translation),
	KUNIT_CASE(a_zero_page_leaves_no_stale_translation),
	KUNIT_CASE(one_of_many_that_fault_calls_the_driver),
	KUNIT_CASE(a_fault_may_bring_its_neighbours),
	KUNIT_CASE(a_driver_that_fails_costs_an_access),
	KUNIT_CASE(a_pin_brings_a_page_back_first),
	KUNIT_CASE(eviction_brings_every_page_home),
	KUNIT_CASE(evicted_pages_are_listed_by_finalize),
	KUNIT_CASE(single_pfns_can_be_evicted),
	KUNIT_CASE(eviction_passes_over_locked_pages),
	KUNIT_CASE(eviction_outlives_the_process),
	KUNIT_CASE(eviction_gives_the_anon_vma_back),
	{}
};

static struct kunit_suite migrate_device_suite = {
	.name = "migrate_device",
	.init = md_init,
	.test_cases = migrate_device_cases,
};

static struct kunit_case migrate_device_coherent_cases[] = {
	KUNIT_CASE(coherent_memory_is_present),
	KUNIT_CASE(only_its_owner_selects_coherent_memory),
	KUNIT_CASE(a_short_pin_keeps_coherent_memory_where_it_is),
	KUNIT_CASE(a_long_pin_brings_coherent_memory_home),
	KUNIT_CASE(coherent_memory_goes_home_unless_pinned),
	KUNIT_CASE(coherent_memory_is_evicted),
	KUNIT_CASE(holes_are_populated_with_coherent_memory),
	KUNIT_CASE(a_populated_hole_counts_as_written),
	KUNIT_CASE(holes_are_populated_with_system_memory),
	KUNIT_CASE(setup_says_what_was_writable),
	KUNIT_CASE(drivers_are_told_who_migrates),
	KUNIT_CASE(a_zero_page_leaves_no_stale_translation),
	KUNIT_CASE(lists_have_the_size_that_is_counted),
	KUNIT_CASE(fork_shares_coherent_memory_until_one_writes),
	KUNIT_CASE_PARAM(counts_do_not_change_by_moves, md_outcome_gen_params),
	KUNIT_CASE_PARAM(counts_follow_holes_that_are_populated,
			 md_outcome_gen_params),
	{}
};

static struct kunit_suite migrate_device_coherent_suite = {
	.name = "migrate_device_coherent",
	.init = md_init_coherent,
	.test_cases = migrate_device_coherent_cases,
};

static struct kunit_case device_write_cases[] = {
	KUNIT_CASE(private_page_is_made_writable_after_mprotect),
	KUNIT_CASE(page_migrated_read_only_is_made_writable),
	KUNIT_CASE(shared_page_is_not_made_writable),
	KUNIT_CASE(child_makes_writable_what_its_parent_gave_up),
	KUNIT_CASE(locked_page_is_not_waited_for),
	KUNIT_CASE(page_with_a_reference_is_made_writable_if_exclusive),
	KUNIT_CASE(page_that_another_is_unmapping_is_made_writable),
	KUNIT_CASE(page_with_a_lasting_reference_is_not_made_writable),
	KUNIT_CASE(page_that_userfaultfd_watches_is_not_made_writable),
	KUNIT_CASE(writable_page_is_made_soft_dirty),
	KUNIT_CASE(page_of_another_owner_is_passed_over),
	KUNIT_CASE(other_entries_are_passed_over),
	KUNIT_CASE(numa_scan_leaves_private_pages_writable),
	KUNIT_CASE(numa_scan_leaves_exclusive_pages_writable),
	KUNIT_CASE(numa_scan_leaves_migrating_pages_writable),
	KUNIT_CASE(numa_scan_leaves_migrating_huge_page_writable),
	KUNIT_CASE(hinted_page_keeps_its_write_permission),
	KUNIT_CASE(hinted_huge_page_keeps_its_write_permission),
	KUNIT_CASE(hinted_page_of_large_folio_is_made_writable),
	KUNIT_CASE(hinted_huge_page_of_read_only_vma_stays_read_only),
	KUNIT_CASE(hinted_page_without_write_permission_gets_none),
	{}
};

static struct kunit_suite device_write_suite = {
	.name = "device_write",
	.init = md_init,
	.test_cases = device_write_cases,
};

kunit_test_suites(&migrate_device_suite, &migrate_device_coherent_suite,
		  &device_write_suite);
