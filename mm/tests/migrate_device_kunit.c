// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/migrate_device.c: the three steps of a migration and each
 * of their outcomes, in an address space with page tables. The suite
 * device_write tests mm/device_write.c on the same device.
 *
 * Every test ends with all device pages free.
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
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/sched/coredump.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmstat.h>

#include "../device_write.h"
#include "../internal.h"
#include "kunit_device.h"
#include "kunit_mm.h"

#define MD_PAGES	64UL
#define MD_DEVICE_PAGES	512UL
#define MD_SIZE		(MD_DEVICE_PAGES << PAGE_SHIFT)
#define MD_PATIENCE	(60 * HZ)
#define MD_RW		(PROT_READ | PROT_WRITE)

/**
 * enum md_driver - the actions of the driver between the steps
 * @MD_MOVES_ALL: copies every page that was collected
 * @MD_MOVES_ODD: copies those with an odd index
 * @MD_MOVES_NONE: has no memory
 * @MD_GIVES_UP: allocates the destinations and frees them again
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
 * @dev: the device
 * @expected: threads that migrate_to_ram() waits for before it goes on
 * @arrived: threads that are about to fault
 * @refs: references to the page of the last fault, when all have arrived
 * @relaxed: calls of device_write_relax() since md_watch_looks()
 * @put_after: the call that drops a reference to the page
 * @src: source entries
 * @dst: destination entries
 * @args: of the migration that is under way
 */
struct md_test {
	struct kunit *test;
	struct kunit_mm *km;
	struct kunit_device *dev;
	int expected;
	atomic_t arrived;
	int refs;
	int relaxed;
	int put_after;
	unsigned long src[MD_DEVICE_PAGES];
	unsigned long dst[MD_DEVICE_PAGES];
	struct migrate_vma args;
};

/* Exact, where get_mm_counter() may lag behind the CPUs. */
static unsigned long md_rss(struct md_test *md)
{
	return percpu_counter_sum(&md->km->mm->rss_stat[MM_ANONPAGES]);
}

/*
 * Sum of all nodes. Fold the per-CPU differences first: adding them up here
 * would miss one that its CPU is folding at the same time.
 */
static long md_node_stat(enum node_stat_item item)
{
	struct pglist_data *pgdat;
	size_t len = 0;
	loff_t pos = 0;
	long sum = 0;

	if (IS_ENABLED(CONFIG_SMP) && IS_ENABLED(CONFIG_PROC_FS))
		vmstat_refresh(NULL, 0, NULL, &len, &pos);
	for_each_online_pgdat(pgdat)
		sum += atomic_long_read(&pgdat->vm_stat[item]);
	return sum;
}

static long md_anon_mapped(void)
{
	return md_node_stat(NR_ANON_MAPPED);
}

/* Pages on the lists of anonymous memory, after the batches are drained. */
static long md_anon_listed(void)
{
	lru_add_drain_all();
	return md_node_stat(NR_INACTIVE_ANON) + md_node_stat(NR_ACTIVE_ANON);
}

/* The driver, where a test does the three steps itself */

static bool md_moves(enum md_driver driver, unsigned long i)
{
	if (driver == MD_MOVES_NONE)
		return false;
	return driver != MD_MOVES_ODD || (i & 1);
}

static void md_give_up(unsigned long *dst)
{
	struct page *page = migrate_pfn_to_page(*dst);

	unlock_page(page);
	put_page(page);
	*dst = 0;
}

/* @to: the device, or NULL for system memory, where holes are not filled. */
static void md_copy(struct md_test *md, unsigned long npages,
		    struct kunit_device *to, enum md_driver driver)
{
	unsigned long i;

	for (i = 0; i < npages; i++) {
		struct page *page = migrate_pfn_to_page(md->src[i]);

		md->dst[i] = 0;
		if (!(md->src[i] & MIGRATE_PFN_MIGRATE) ||
		    !md_moves(driver, i) || (!page && !to))
			continue;
		page = kunit_device_copy(to, page);
		if (!page)
			continue;
		md->dst[i] = migrate_pfn(page_to_pfn(page));
		if (driver == MD_GIVES_UP)
			md_give_up(&md->dst[i]);
	}
}

static unsigned long md_count_moved(struct md_test *md, unsigned long npages)
{
	struct migrate_vma args = { .src = md->src, .npages = npages };

	return kunit_device_moved(&args);
}

static struct migrate_vma md_args(struct md_test *md, unsigned long addr,
				  unsigned long nr, unsigned long select)
{
	return (struct migrate_vma) {
		.vma = vma_lookup(md->km->mm, addr),
		.start = addr,
		.end = addr + (nr << PAGE_SHIFT),
		.src = md->src,
		.dst = md->dst,
		.pgmap_owner = md->dev,
		.flags = select,
	};
}

static int md_setup(struct md_test *md, unsigned long addr, unsigned long nr,
		    unsigned long select)
{
	md->args = md_args(md, addr, nr, select);
	return migrate_vma_setup(&md->args);
}

static unsigned long md_finish(struct md_test *md)
{
	unsigned long moved;

	migrate_vma_pages(&md->args);
	moved = kunit_device_moved(&md->args);
	migrate_vma_finalize(&md->args);
	return moved;
}

/* The first step and the copy. Takes the mmap lock until md_end(). */
static void md_begin(struct md_test *md, unsigned long addr, unsigned long nr,
		     unsigned long select, enum md_driver driver)
{
	int ret;

	mmap_read_lock(md->km->mm);
	ret = md_setup(md, addr, nr, select);
	KUNIT_EXPECT_EQ(md->test, ret, 0);
	if (ret)
		md->args.npages = 0;
	else
		md_copy(md, nr, select == MIGRATE_VMA_SELECT_SYSTEM ?
				md->dev : NULL, driver);
}

/* Return: number of pages that moved. */
static unsigned long md_end(struct md_test *md)
{
	unsigned long moved = md_finish(md);

	mmap_read_unlock(md->km->mm);
	return moved;
}

static unsigned long md_migrate(struct md_test *md, unsigned long addr,
				unsigned long nr, unsigned long select,
				enum md_driver driver)
{
	md_begin(md, addr, nr, select, driver);
	return md_end(md);
}

/* A migration with @work of another thread, at @at, between setup and pages. */
static unsigned long md_between(struct md_test *md, unsigned long addr,
				unsigned long nr, enum md_driver driver,
				unsigned long at,
				int (*work)(struct kunit_mm_thread *thread))
{
	struct kunit_mm_thread thread;

	md_begin(md, addr, nr, MIGRATE_VMA_SELECT_SYSTEM, driver);
	kunit_mm_thread_start(&thread, md->km, at, work);
	kunit_mm_thread_end(&thread);
	KUNIT_EXPECT_EQ(md->test, 0, thread.ret);
	return md_end(md);
}

static unsigned long md_select_device(struct md_test *md)
{
	return md->dev->pgmap->type == MEMORY_DEVICE_PRIVATE ?
	       MIGRATE_VMA_SELECT_DEVICE_PRIVATE :
	       MIGRATE_VMA_SELECT_DEVICE_COHERENT;
}

static unsigned long md_try_to_device(struct md_test *md, unsigned long addr,
				      unsigned long nr, enum md_driver driver)
{
	return md_migrate(md, addr, nr, MIGRATE_VMA_SELECT_SYSTEM, driver);
}

static unsigned long md_to_device(struct md_test *md, unsigned long addr,
				  unsigned long nr)
{
	return md_try_to_device(md, addr, nr, MD_MOVES_ALL);
}

static unsigned long md_to_system(struct md_test *md, unsigned long addr,
				  unsigned long nr)
{
	return md_migrate(md, addr, nr, md_select_device(md), MD_MOVES_ALL);
}

/* Collect every page of the device, in all address spaces. */
static void md_begin_eviction(struct md_test *md)
{
	migrate_device_range(md->src, md->dev->first, MD_DEVICE_PAGES);
}

/* After migrate_device_range() or migrate_device_pfns() */
static void md_end_eviction(struct md_test *md, unsigned long nr)
{
	md_copy(md, nr, NULL, MD_MOVES_ALL);
	migrate_device_pages(md->src, md->dst, nr);
	migrate_device_finalize(md->src, md->dst, nr);
}

/* The result is the same without the others, so the time does not matter. */
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

static void md_on_fault(struct kunit_device *dev, struct page *page)
{
	struct md_test *md = dev->test->priv;

	md_wait_for_others(md);
	md->refs = page_ref_count(page);
}

/* The fixture */

static struct md_test *md_alloc(struct kunit *test)
{
	struct md_test *md = kunit_kzalloc(test, sizeof(*md), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, md);
	md->test = test;
	test->priv = md;
	return md;
}

static int md_init(struct kunit *test)
{
	struct md_test *md = md_alloc(test);

	md->dev = kunit_device_create(test, kunit_device_region(test, MD_SIZE),
				      MD_SIZE);
	md->dev->on_fault = md_on_fault;
	md->km = kunit_mm_create(test);
	return 0;
}

static int md_init_coherent(struct kunit *test)
{
	struct md_test *md = md_alloc(test);

	md->dev = kunit_device_create_coherent(test, MD_SIZE);
	md->km = kunit_mm_create(test);
	return 0;
}

static unsigned long md_map(struct md_test *md, unsigned long nr)
{
	return kunit_mm_map(md->km, nr, MD_RW);
}

/*
 * Map a huge page, of which @nr base pages will go to the device. Keep
 * khugepaged away, which would bring them back.
 */
static unsigned long md_map_huge(struct md_test *md, unsigned long nr)
{
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	if (nr > MD_DEVICE_PAGES)
		kunit_skip(md->test, "a huge page is larger than the device");
	kunit_mm_write(md->km, addr, HPAGE_PMD_NR);
	if (!pmd_trans_huge(kunit_mm_pmd(md->km, addr)))
		kunit_skip(md->test, "no THP available");
	kunit_mm_flags(md->km, addr, VM_NOHUGEPAGE, VM_HUGEPAGE);
	return addr;
}

static unsigned long md_map_huge_zero(struct md_test *md)
{
	unsigned long addr = kunit_mm_map_huge(md->km, HPAGE_PMD_NR);

	if (HPAGE_PMD_NR > MD_DEVICE_PAGES)
		kunit_skip(md->test, "a huge page is larger than the device");
	kunit_mm_read(md->km, addr, 1);
	if (!is_huge_zero_pmd(kunit_mm_pmd(md->km, addr)))
		kunit_skip(md->test, "no huge zero page available");
	kunit_mm_flags(md->km, addr, VM_NOHUGEPAGE, VM_HUGEPAGE);
	return addr;
}

static int md_put_word(unsigned long addr, unsigned long word)
{
	return put_user(word, (unsigned long __user *)addr);
}

static unsigned long md_pattern(unsigned long i)
{
	return 0xdead0000UL + i * 3;
}

/* Anonymous memory with a different word in each page */
static unsigned long md_memory_map(struct md_test *md, unsigned long nr)
{
	unsigned long i, addr;

	addr = md_map(md, nr);
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(md->test, 0,
				md_put_word(addr + (i << PAGE_SHIFT),
					    md_pattern(i)));
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

	return kunit_device_has(md->dev, pfn);
}

static pte_t md_pte(struct md_test *md, unsigned long addr, unsigned long i)
{
	return kunit_mm_pte(md->km, addr + (i << PAGE_SHIFT));
}

/* Is there a writable device-private entry? */
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
	return kunit_device_used(md->dev);
}

/* The page is present or on the device. */
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
			md_put_word(addr, word));
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

static void round_trip_keeps_contents_and_counts(struct kunit *test)
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
	KUNIT_EXPECT_EQ(test, 0, md->dev->faults);
}

static void cpu_fault_brings_back_one_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md->dev->faults);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void page_is_restored_if_driver_has_no_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long pfn = kunit_mm_pfn(md->km, addr);

	KUNIT_EXPECT_EQ(test, 0UL,
			md_try_to_device(md, addr, MD_PAGES, MD_MOVES_NONE));
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, pfn, kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_TRUE(test, pte_write(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	md_expect_contents(md, addr, MD_PAGES);
}

static void driver_moves_every_second_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_try_to_device(md, addr, MD_PAGES, MD_MOVES_ODD));
	for (i = 0; i < MD_PAGES; i++)
		md_expect_on_device(md, addr + (i << PAGE_SHIFT), 1, i & 1);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void failed_copy_restores_pages(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, 0UL,
			md_try_to_device(md, addr, MD_PAGES, MD_GIVES_UP));
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

/* The driver filled dst[] and then gives up. */
static void md_skip_second_step(struct md_test *md, unsigned long addr,
				unsigned long select)
{
	unsigned long used = md_device_used(md), rss = md_rss(md);
	bool to_device = select == MIGRATE_VMA_SELECT_SYSTEM;
	long mapped = md_anon_mapped();

	md_begin(md, addr, MD_PAGES, select, MD_MOVES_ALL);
	migrate_vma_finalize(&md->args);
	mmap_read_unlock(md->km->mm);
	KUNIT_EXPECT_EQ(md->test, used, md_device_used(md));
	KUNIT_EXPECT_EQ(md->test, rss, md_rss(md));
	KUNIT_EXPECT_EQ(md->test, mapped, md_anon_mapped());
	md_expect_on_device(md, addr, MD_PAGES, !to_device);
}

static void skipped_second_step_loses_no_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	md_skip_second_step(md, addr, MIGRATE_VMA_SELECT_SYSTEM);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_skip_second_step(md, addr, md_select_device(md));
	md_expect_contents(md, addr, MD_PAGES);
}

static void full_device_takes_what_fits(struct kunit *test)
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

/* A snapshot of the counters */
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

/* Pages of the device are charged to the memcg, too. */
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

static void migration_keeps_counters(struct kunit *test)
{
	const struct md_outcome *outcome = test->param_value;
	struct md_test *md = test->priv;
	struct md_counts empty = md_counts_now(md), full;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mem_cgroup *memcg = folio_memcg(md_folio(md, addr));

	full = md_counts_now(md);
	md_expect_counts(md, empty, MD_PAGES);
	KUNIT_EXPECT_EQ(test, outcome->moved,
			md_try_to_device(md, addr, MD_PAGES, outcome->driver));
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

static void populated_holes_are_counted(struct kunit *test)
{
	const struct md_outcome *outcome = test->param_value;
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, MD_PAGES);
	struct md_counts empty = md_counts_now(md);
	struct mem_cgroup *memcg = get_mem_cgroup_from_mm(md->km->mm);

	KUNIT_EXPECT_EQ(test, outcome->moved,
			md_try_to_device(md, addr, MD_PAGES, outcome->driver));
	KUNIT_EXPECT_EQ(test, outcome->moved, md_device_used(md));
	md_expect_counts(md, empty, outcome->moved);
	md_expect_charged(md, addr, MD_PAGES, memcg);
	mem_cgroup_put(memcg);

	KUNIT_EXPECT_EQ(test, outcome->moved, md_to_system(md, addr, MD_PAGES));
	md_expect_counts(md, empty, outcome->moved);
	kunit_mm_zap(md->km, addr, MD_PAGES);
	md_expect_counts(md, empty, 0);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void lru_size_is_number_of_pages(struct kunit *test)
{
	struct md_test *md = test->priv;
	long empty = md_anon_listed();
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, empty + (long)MD_PAGES, md_anon_listed());
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_try_to_device(md, addr, MD_PAGES, MD_MOVES_ODD));
	KUNIT_EXPECT_EQ(test, empty + (long)MD_PAGES / 2, md_anon_listed());
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2, md_to_system(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, empty + (long)MD_PAGES, md_anon_listed());
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, empty, md_anon_listed());
}

/* Pages that do not migrate */

static void pinned_page_does_not_migrate(struct kunit *test)
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

static void referenced_page_does_not_migrate(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct folio *folio = md_nth_folio(md, addr, 1);

	folio_get(folio);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr + PAGE_SIZE, 1, false);
	folio_put(folio);
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
	md_expect_contents(md, addr, MD_PAGES);
}

/* Setup finds the reference before the driver copies, and restores the page. */
static void setup_restores_referenced_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct folio *folio = md_folio(md, addr);

	folio_get(folio);
	md_begin(md, addr, 4, MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 3UL, md->args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0]);
	KUNIT_EXPECT_TRUE(test, pte_present(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	md_end(md);
	folio_put(folio);
	md_expect_contents(md, addr, 4);
}

/* A reference of a pfn walker, taken after setup counted references. */
static void page_referenced_after_setup_is_restored(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);
	struct folio *folio = md_folio(md, addr);

	md_begin(md, addr, 4, MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 4UL, md->args.cpages);
	folio_get(folio);
	KUNIT_EXPECT_EQ(test, 3UL, md_end(md));
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
	get_page(page);		/* so that the test can look at it */
	lock_page(page);
	return page;
}

/* Entries are base pages. A large page is put back to the driver. */
static void large_destination_is_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 2);
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
	KUNIT_EXPECT_EQ(test, 0UL, md_end(md));
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
	unsigned long i, addr = md_map(md, 4);

	for (i = 0; i < 2; i++)
		md_write_word(md, addr + (i << PAGE_SHIFT), md_pattern(i));
	md_begin(md, addr, 4, MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 4UL, md_device_used(md));
	md->dst[0] |= MIGRATE_PFN_COMPOUND;
	md->dst[2] |= MIGRATE_PFN_COMPOUND;
	KUNIT_EXPECT_EQ(test, 2UL, md_end(md));
	KUNIT_EXPECT_EQ(test, 2UL, md_device_used(md));
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 1, true);
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 2)));
	md_expect_on_device(md, addr + 3 * PAGE_SIZE, 1, true);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0] & MIGRATE_PFN_MIGRATE);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[2] & MIGRATE_PFN_MIGRATE);
	md_expect_contents(md, addr, 2);
}

static void locked_page_does_not_migrate(struct kunit *test)
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

static void poisoned_page_does_not_migrate(struct kunit *test)
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

/* In a private mapping of a file, only anonymous pages migrate. */
static void copied_page_of_private_file_migrates(struct kunit *test)
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

static void device_page_of_other_owner_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	mmap_read_lock(md->km->mm);
	md->args = md_args(md, addr, MD_PAGES,
			   MIGRATE_VMA_SELECT_DEVICE_PRIVATE);
	md->args.pgmap_owner = test;
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&md->args));
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, md_count_moved(md, MD_PAGES));
	md_end(md);
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_contents(md, addr, MD_PAGES);
}

static void unselected_page_stays(struct kunit *test)
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

/* A driver that selects device pages gets no zero page. */
static void unselected_zero_page_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 2);

	kunit_mm_read(md->km, addr, 2);
	md_begin(md, addr, 2, md_select_device(md), MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0] | md->src[1]);
	md_end(md);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
}

static unsigned long md_file_map(struct md_test *md, struct file *file,
				 unsigned long nr)
{
	return kunit_mm_map_file(md->km, file, nr, PROT_READ | PROT_WRITE,
				 MAP_SHARED);
}

static void hole_of_file_is_not_collected(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_file_map(md, kunit_mm_shmem(test, 2), 2);

	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 2,
					  MIGRATE_VMA_SELECT_SYSTEM));
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	md_end(md);
	KUNIT_EXPECT_TRUE(test, pte_none(kunit_mm_pte(md->km, addr)));
}

/* Unmapping a page drops its PTE, so the dirty bit goes to the folio. */
static void restored_file_page_is_dirty(struct kunit *test)
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

/* The page cache has the new page as well. */
static void file_page_migrates_within_system_memory(struct kunit *test)
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
	md_copy(md, 1, NULL, MD_MOVES_ALL);
	KUNIT_EXPECT_EQ(test, 1UL, md_end(md));
	KUNIT_EXPECT_PTR_NE(test, folio, md_folio(md, addr));
	folio = md_folio(md, addr);
	KUNIT_EXPECT_PTR_EQ(test, file->f_mapping, folio_mapping(folio));
	md_expect_contents(md, addr, 1);

	other = md_file_map(md, file, 1);
	md_expect_contents(md, other, 1);
	KUNIT_EXPECT_PTR_EQ(test, folio, md_folio(md, other));
}

static void file_page_does_not_migrate_to_device(struct kunit *test)
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

static void invalid_arguments_are_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct migrate_vma good = md_args(md, addr, 2, 0);
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
}

static void special_mapping_is_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct migrate_vma args = md_args(md, addr, 2, 0);

	kunit_mm_flags(md->km, addr, VM_IO, 0);
	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
	kunit_mm_flags(md->km, addr, 0, VM_IO);
	KUNIT_EXPECT_EQ(test, 0, md_try_setup(md, args));
}

static void hugetlb_mapping_is_refused(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map_hugetlb(md->km, 1);
	struct migrate_vma args = md_args(md, addr, 1,
					  MIGRATE_VMA_SELECT_SYSTEM);

	KUNIT_EXPECT_EQ(test, -EINVAL, md_try_setup(md, args));
}

/* Holes */

static void hole_is_populated(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, MD_PAGES);
	unsigned long rss = md_rss(md);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, true);
	KUNIT_EXPECT_EQ(test, rss + MD_PAGES, md_rss(md));
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

/* The device leaves no trace of its writes. */
static void populated_hole_is_dirty(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 1);
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

/* A driver may fill a hole with RAM. */
static void hole_is_populated_with_system_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 1);
	struct md_counts before = md_counts_now(md);
	struct page *page = kunit_device_copy(NULL, NULL);

	KUNIT_ASSERT_NOT_NULL(test, page);
	mmap_read_lock(md->km->mm);
	KUNIT_EXPECT_EQ(test, 0, md_setup(md, addr, 1,
					  MIGRATE_VMA_SELECT_SYSTEM));
	md->dst[0] = migrate_pfn(page_to_pfn(page));
	KUNIT_EXPECT_EQ(test, 1UL, md_end(md));
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

static void zero_page_is_replaced(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, MD_PAGES);

	kunit_mm_read(md->km, addr, MD_PAGES);
	KUNIT_ASSERT_TRUE(test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_on_device(md, addr, MD_PAGES, true);
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void uffd_wp_zero_page_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 2);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_read(md->km, addr, 2);
	kunit_mm_change(md->km, addr, 1, md_protected_by_userfaultfd);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_TRUE(test, pte_present(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
}

/* References of LRU batches are not taken for pins. */
static void page_in_batch_of_this_cpu_migrates(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, moved, addr = md_memory_map(md, 8);

	lru_add_drain_all();
	migrate_disable();
	for (i = 0; i < 8; i++)
		folio_mark_lazyfree(md_nth_folio(md, addr, i));
	moved = md_to_device(md, addr, 8);
	migrate_enable();
	KUNIT_EXPECT_EQ(test, 8UL, moved);
}

static void huge_zero_page_is_replaced(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge_zero(md);

	KUNIT_EXPECT_EQ(test, 0UL, md_rss(md));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR, md_rss(md));
	md_expect_on_device(md, addr, HPAGE_PMD_NR, true);
	kunit_mm_zap(md->km, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void huge_zero_page_without_access_stays(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge_zero(md);

	kunit_mm_protect(md->km, addr, HPAGE_PMD_NR, 0);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_TRUE(test, is_huge_zero_pmd(kunit_mm_pmd(md->km, addr)));
}

#ifdef CONFIG_KSM
/* As KSM maps the zero page for a page of zeroes. */
static pte_t md_merged(pte_t pte)
{
	return pte_mkdirty(pte);
}

static void replaced_ksm_zero_page_is_uncounted(struct kunit *test)
{
	struct md_test *md = test->priv;
	struct mm_struct *mm = md->km->mm;
	unsigned long addr = md_map(md, 1);

	kunit_mm_read(md->km, addr, 1);
	ksm_map_zero_page(mm);
	kunit_mm_change(md->km, addr, 1, md_merged);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 0L, atomic_long_read(&mm->ksm_zero_pages));
}
#else
static void replaced_ksm_zero_page_is_uncounted(struct kunit *test)
{
	kunit_skip(test, "no KSM in this kernel");
}
#endif

static int md_write_first(struct kunit_mm_thread *thread)
{
	return md_put_word(thread->addr, md_pattern(0));
}

static void hole_filled_by_fault_is_not_populated(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES - 1,
			md_between(md, addr, MD_PAGES, MD_MOVES_ALL, addr,
				   md_write_first));
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0] & MIGRATE_PFN_MIGRATE);
	md_expect_on_device(md, addr, 1, false);
	md_expect_contents(md, addr, 1);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 1, md_device_used(md));
}

/* Pages migrate. Missing pages are left to userfaultfd. */
static void hole_of_userfaultfd_is_not_populated(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, MD_PAGES);

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

/* The OOM reaper may have freed the page that is a hole now. */
static void hole_of_unstable_mm_is_not_populated(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, MD_PAGES);

	set_bit(MMF_UNSTABLE, &md->km->mm->flags);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, MD_PAGES));
	clear_bit(MMF_UNSTABLE, &md->km->mm->flags);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
}

static void hole_of_read_only_vma_becomes_read_only(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = kunit_mm_map(md->km, 2, PROT_READ);

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_EQ(test, 0UL, md_read_word(md, addr));
	KUNIT_EXPECT_NE(test, 0, md_put_word(addr, 1));
}

static void migration_stays_within_its_range(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 4);

	/* the VMA has a neighbour at each end */
	kunit_mm_protect(md->km, addr, 1, VM_READ);
	kunit_mm_protect(md->km, addr + 3 * PAGE_SIZE, 1, VM_READ);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr + PAGE_SIZE, 2));
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 2, true);
	md_expect_on_device(md, addr + 3 * PAGE_SIZE, 1, false);
	md_expect_contents(md, addr, 4);
}

/* What entries keep */

static void read_only_page_stays_read_only(struct kunit *test)
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

static void prot_none_page_stays_prot_none(struct kunit *test)
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

/* mprotect() while the pages are on the device */
static void mprotect_makes_private_page_read_only(struct kunit *test)
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
	KUNIT_EXPECT_NE(test, 0, md_put_word(addr, 1));
	kunit_mm_protect(md->km, addr, 2, VM_READ | VM_WRITE);
	md_write_word(md, addr, 1);
	KUNIT_EXPECT_EQ(test, 1UL, md_read_word(md, addr));
}

static void writable_page_comes_back_writable_and_dirty(struct kunit *test)
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

/* A driver need not walk the page table for that. */
static void setup_reports_writable_pages(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	unsigned long select = MIGRATE_VMA_SELECT_SYSTEM;

	kunit_mm_change(md->km, addr, 1, pte_wrprotect);
	for (int i = 0; i < 2; i++, select = md_select_device(md)) {
		md_begin(md, addr, 2, select, MD_MOVES_ALL);
		KUNIT_EXPECT_FALSE(test, md->src[0] & MIGRATE_PFN_WRITE);
		KUNIT_EXPECT_TRUE(test, md->src[1] & MIGRATE_PFN_WRITE);
		KUNIT_EXPECT_EQ(test, 2UL, md_end(md));
	}
	md_expect_contents(md, addr, 2);
}

static pte_t md_soft_dirty(pte_t pte)
{
	return pte_mksoft_dirty(pte);
}

/* As clear_refs does */
static pte_t md_soft_clean(pte_t pte)
{
	return pte_wrprotect(pte_clear_soft_dirty(pte));
}

static void soft_dirty_bit_survives_round_trip(struct kunit *test)
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

/* The entry is writable, so the device may have written after clear_refs. */
static void writable_private_page_comes_back_soft_dirty(struct kunit *test)
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
	md_begin_eviction(md);
	md_end_eviction(md, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	for (i = 0; i < 2; i++)
		KUNIT_EXPECT_TRUE(test, pte_soft_dirty(md_pte(md, addr, i)));
}

/* By another thread, while the page migrates */
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

/* A write to a soft-clean page must fault. */
static void page_cleaned_between_steps_faults_on_write(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);

	if (!IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bit in this kernel");
	kunit_mm_flags(md->km, addr, 0, VM_SOFTDIRTY);
	KUNIT_EXPECT_EQ(test, 0UL, md_between(md, addr, 1, MD_MOVES_NONE, addr,
					      md_clean_page));
	KUNIT_EXPECT_FALSE(test, pte_soft_dirty(kunit_mm_pte(md->km, addr)));
	md_write_word(md, addr, md_pattern(0));
	KUNIT_EXPECT_TRUE(test, pte_soft_dirty(kunit_mm_pte(md->km, addr)));
}

static void uffd_wp_bit_survives_round_trip(struct kunit *test)
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

/* A private entry has no dirty bit, so the folio takes it over. */
static void dirty_pte_makes_device_folio_dirty(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	kunit_mm_protect(md->km, addr, 2, VM_READ);
	folio_clear_dirty(md_folio(md, addr));
	folio_clear_dirty(md_nth_folio(md, addr, 1));
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

static void young_pte_makes_device_folio_referenced(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 2);

	lru_add_drain_all();
	for (i = 0; i < 2; i++)
		kunit_mm_make_old(md_nth_folio(md, addr, i));
	kunit_mm_change(md->km, addr, 1, md_old);
	KUNIT_ASSERT_TRUE(test, pte_young(md_pte(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	KUNIT_EXPECT_FALSE(test, kunit_mm_is_young(md_folio(md, addr)));
	KUNIT_EXPECT_TRUE(test, kunit_mm_is_young(md_nth_folio(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_FALSE(test, kunit_mm_is_young(md_folio(md, addr)));
	KUNIT_EXPECT_TRUE(test, kunit_mm_is_young(md_nth_folio(md, addr, 1)));
	KUNIT_EXPECT_FALSE(test, pte_young(kunit_mm_pte(md->km, addr)));
}

/* The migration entry keeps both bits of the PTE. */
static void restored_page_keeps_young_and_dirty_bits(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	kunit_mm_change(md->km, addr, 1, md_old);
	kunit_mm_change(md->km, addr, 1, md_clean);
	KUNIT_EXPECT_EQ(test, 0UL,
			md_try_to_device(md, addr, 2, MD_MOVES_NONE));
	KUNIT_EXPECT_FALSE(test, pte_young(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_TRUE(test, pte_young(md_pte(md, addr, 1)));
	KUNIT_EXPECT_TRUE(test, pte_dirty(md_pte(md, addr, 1)));
}

static void md_expect_age_of_stayer(struct md_test *md, unsigned long addr)
{
	KUNIT_EXPECT_TRUE(md->test, pte_young(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_FALSE(md->test, kunit_mm_is_young(md_folio(md, addr)));
}

/* Its PTE is young. With PG_referenced it would look accessed twice. */
static void restored_page_is_not_referenced_twice(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio = md_folio(md, addr);

	lru_add_drain_all();
	kunit_mm_make_old(folio);
	KUNIT_EXPECT_EQ(test, 0UL,
			md_try_to_device(md, addr, 1, MD_MOVES_NONE));
	md_expect_age_of_stayer(md, addr);

	lru_add_drain_all();
	folio_get(folio);
	KUNIT_EXPECT_EQ(test, 0UL, md_to_device(md, addr, 1));
	folio_put(folio);
	md_expect_age_of_stayer(md, addr);
}

/* The reverse mapping restores both mappings. */
static void age_of_shared_page_survives_on_device(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct mm_struct *child;

	lru_add_drain_all();
	kunit_mm_make_old(md_folio(md, addr));
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_ASSERT_TRUE(test, pte_young(kunit_mm_pte(md->km, addr)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_TRUE(test, kunit_mm_is_young(md_folio(md, addr)));
	kunit_mm_exit(md->km, child);
}

static bool md_is_exclusive(struct md_test *md, unsigned long addr)
{
	return PageAnonExclusive(&md_folio(md, addr)->page);
}

static void read_only_page_stays_anon_exclusive(struct kunit *test)
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

/* The child exited, so the only mapping is restored in place. */
static void once_shared_page_does_not_become_anon_exclusive(struct kunit *test)
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

static void mlocked_page_comes_back_mlocked(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 1);

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

/* Return: pages that move while a batch of another CPU has a reference. */
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
static void page_in_mlock_batch_of_other_cpu_migrates(struct kunit *test)
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
static void page_in_munlock_batch_of_other_cpu_migrates(struct kunit *test)
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

/* A page may be mlocked after it is unlocked and before it is on the LRU. */
static void page_mlocked_before_it_is_listed_is_unevictable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio = md_folio(md, addr);
	struct folio_batch fbatch;

	lru_add_drain_all();
	KUNIT_ASSERT_TRUE(test, folio_isolate_lru(folio));
	migrate_disable();
	folio_batch_init(&fbatch);
	folio_batch_add(&fbatch, folio);
	mlock_folio(folio);
	mlock_drain_local();
	migrate_enable();
	folios_add_lru(&fbatch);
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

static void lazyfree_page_becomes_swapbacked(struct kunit *test)
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

/* Memory of MAP_DROPPABLE must not be swapped out. */
static void droppable_page_stays_droppable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 2);
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

/* Notifiers */

/**
 * struct md_witness - another driver that mirrors the range
 * @sub: its subscription
 * @owner: owner that is expected to migrate
 * @told: notifications of a migration by @owner
 * @otherwise: other notifications
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
	if (range->event == MMU_NOTIFY_MIGRATE &&
	    range->owner == witness->owner)
		witness->told++;
	else
		witness->otherwise++;
	return true;
}

static const struct mmu_interval_notifier_ops md_witness_ops = {
	.invalidate = md_witness_invalidate,
};

/* So that a driver can ignore its own migrations, of pages and of holes. */
static void notifier_is_told_who_migrates(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map(md, 2);
	struct md_witness witness = { .owner = md->dev };

	md_write_word(md, addr, md_pattern(0));
	KUNIT_ASSERT_EQ(test, 0,
			mmu_interval_notifier_insert(&witness.sub, md->km->mm,
						     addr, 2 * PAGE_SIZE,
						     &md_witness_ops));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_EXPECT_EQ(test, 1U, witness.told);
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr + PAGE_SIZE, 1));
	/* once by setup, once when the hole is populated */
	KUNIT_EXPECT_EQ(test, 3U, witness.told);
	KUNIT_EXPECT_EQ(test, 2UL, md_to_system(md, addr, 2));
	KUNIT_EXPECT_EQ(test, 4U, witness.told);
	KUNIT_EXPECT_EQ(test, 0U, witness.otherwise);
	mmu_interval_notifier_remove(&witness.sub);
}

/* A huge page is split once it is unmapped, of which the driver knows. */
static void split_of_huge_page_invalidates_nothing_more(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, HPAGE_PMD_NR);
	struct md_witness witness = { .owner = md->dev };

	if (!IS_ENABLED(CONFIG_DEVICE_MIGRATION_HUGE))
		kunit_skip(test, "huge pages are split while they are mapped");
	KUNIT_ASSERT_EQ(test, 0,
			mmu_interval_notifier_insert(&witness.sub, md->km->mm,
						     addr, HPAGE_PMD_SIZE,
						     &md_witness_ops));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, 1U, witness.told);
	KUNIT_EXPECT_EQ(test, 0U, witness.otherwise);
	mmu_interval_notifier_remove(&witness.sub);
}

/* Parent and child */

static void fork_shares_device_page_until_a_write(struct kunit *test)
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
	KUNIT_EXPECT_EQ(test, 1, md->dev->faults);

	kunit_mm_enter(md->km, child);
	KUNIT_EXPECT_EQ(test, 4UL, md_rss(md));
	md_expect_on_device(md, addr, 1, false);
	md_expect_on_device(md, addr + PAGE_SIZE, 3, true);
	KUNIT_EXPECT_EQ(test, md_pattern(0), md_read_word(md, addr));
	md_write_word(md, addr + PAGE_SIZE, 2);
	KUNIT_EXPECT_EQ(test, 2, md->dev->faults);
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
	KUNIT_EXPECT_EQ(test, 4, md->dev->faults);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void shared_page_migrates_for_both_processes(struct kunit *test)
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

/* A page that does not move is restored in both address spaces. */
static void shared_page_is_restored_for_both_processes(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct mm_struct *parent = md->km->mm, *child;
	unsigned long i;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_try_to_device(md, addr, MD_PAGES, MD_MOVES_ODD));
	kunit_mm_enter(md->km, child);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_rss(md));
	for (i = 0; i < MD_PAGES; i++)
		md_expect_on_device(md, addr + i * PAGE_SIZE, 1, i & 1);
	md_expect_contents(md, addr, MD_PAGES);
	kunit_mm_enter(md->km, parent);
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void exit_of_child_leaves_device_pages_of_parent(struct kunit *test)
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

static void huge_page_is_split_and_migrates(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, HPAGE_PMD_NR);

	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_device(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR, md_device_used(md));
	KUNIT_EXPECT_EQ(test, (unsigned long)HPAGE_PMD_NR,
			md_to_system(md, addr, HPAGE_PMD_NR));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void pte_mapped_large_folio_is_split_and_migrates(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, MD_PAGES);

	kunit_mm_split_pmd(md->km, addr);
	KUNIT_EXPECT_TRUE(test, folio_test_large(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES,
			md_to_device(md, addr + PAGE_SIZE, MD_PAGES));
	md_expect_on_device(md, addr, 1, false);
	KUNIT_EXPECT_FALSE(test, folio_test_large(md_folio(md, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES,
			md_to_system(md, addr + PAGE_SIZE, MD_PAGES));
}

static void referenced_large_folio_does_not_migrate(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, HPAGE_PMD_NR);
	struct folio *folio;

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
		struct folio *folio = md_nth_folio(md, addr, i);

		folio_mark_accessed(folio);
		folio_mark_accessed(folio);
	}
	lru_add_drain_all();
	/* LRU_GEN sets the flag when a young page leaves the LRU. */
	if (!lru_gen_enabled())
		KUNIT_EXPECT_TRUE(md->test,
				  folio_test_active(md_folio(md, addr)));
}

/*
 * A zap between the steps removes the migration entry, so the page must not
 * come back. It was isolated from the active list: free it without the flag.
 */
static void page_zapped_between_steps_does_not_come_back(struct kunit *test)
{
	const struct md_outcome *outcome = test->param_value;
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long rss = md_rss(md);

	md_make_active(md, addr, MD_PAGES);
	md_between(md, addr, MD_PAGES, outcome->driver, addr + PAGE_SIZE,
		   md_zap_page);
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 1)));
	KUNIT_EXPECT_EQ(test, rss - 1, md_rss(md));
	KUNIT_EXPECT_EQ(test, outcome->moved ? outcome->moved - 1 : 0,
			md_device_used(md));
	md_expect_contents(md, addr, 1);
}

/* The next user of the device page would inherit the flags. */
static void freed_device_page_has_no_flags(struct kunit *test)
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

/* What UFFDIO_WRITEPROTECT does to a migration entry. */
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

static void uffd_wp_bit_set_between_steps_is_kept(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	pte_t pte;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	md_between(md, addr, MD_PAGES, MD_MOVES_ALL, addr, md_protect_page);
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_TRUE(test, md_on_device(md, addr));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, addr, 0));
	KUNIT_EXPECT_TRUE(test, pte_swp_uffd_wp(pte));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_system(md, addr, 1));
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(pte));
}

/* UFFDIO_WRITEPROTECT, which takes the mmap lock for reading as well. */
static int md_uffd_protect(struct kunit_mm_thread *thread)
{
	kunit_mm_uffd_wp(thread->km, thread->addr, 1, true);
	return 0;
}

static int md_uffd_unprotect(struct kunit_mm_thread *thread)
{
	kunit_mm_uffd_wp(thread->km, thread->addr, 1, false);
	return 0;
}

static void restored_page_keeps_uffd_wp_bit(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	pte_t pte;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_flags(md->km, addr, VM_UFFD_WP, 0);
	md_between(md, addr, 2, MD_MOVES_NONE, addr, md_uffd_protect);
	pte = kunit_mm_pte(md->km, addr);
	KUNIT_EXPECT_TRUE(test, pte_present(pte) && pte_uffd_wp(pte));
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	pte = md_pte(md, addr, 1);
	KUNIT_EXPECT_FALSE(test, pte_uffd_wp(pte));
	KUNIT_EXPECT_TRUE(test, pte_write(pte));

	md_between(md, addr, 2, MD_MOVES_NONE, addr, md_uffd_unprotect);
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
		ret = md_put_word(thread->addr, n++);
		cond_resched();
	}
	return ret;
}

/* A stale TLB entry would let the writer change the page after setup. */
static void page_does_not_change_after_setup(struct kunit *test)
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
		md_copy(md, 1, md->dev, i & 1 ? MD_MOVES_ALL : MD_MOVES_NONE);
		md_end(md);
		cond_resched();
	}
	kunit_mm_thread_end(&thread);
	KUNIT_EXPECT_EQ(test, 0, thread.ret);
	KUNIT_EXPECT_GT(test, caught, 0);
}

/* A reader that does not sleep, so only a flush changes what it accesses. */
struct md_reader {
	struct kunit_mm_thread thread;
	unsigned long rounds;
	unsigned long stale;
	unsigned long expected;		/* once @changed is set */
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
		/* read after the change only; pairs with the release */
		changed = smp_load_acquire(&reader->changed);
		ret = get_user(word, (unsigned long __user *)thread->addr);
		if (changed && word != reader->expected)
			reader->stale++;
		WRITE_ONCE(reader->rounds, reader->rounds + 1);
		cond_resched();
	}
	return ret;
}

/* For as long as it takes, unless an access of the reader failed. */
static void md_wait_for_rounds(struct md_reader *reader)
{
	unsigned long begin = READ_ONCE(reader->rounds);

	while (READ_ONCE(reader->rounds) - begin < 1000 &&
	       !completion_done(&reader->thread.done))
		cond_resched();
}

/*
 * A zap of a migration entry does not flush. Setup must have flushed, or the
 * reader goes on in a page that is free.
 */
static void md_zap_under_a_reader(struct md_test *md, unsigned long addr)
{
	struct md_reader reader = {};
	struct kunit_mm_thread zap;

	kunit_mm_thread_start(&reader.thread, md->km, addr, md_read_on);
	md_wait_for_rounds(&reader);
	md_begin(md, addr, 1, MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_NONE);
	kunit_mm_thread_start(&zap, md->km, addr, md_zap_page);
	kunit_mm_thread_end(&zap);
	/* the zap is done: pairs with the acquire of the reader */
	smp_store_release(&reader.changed, true);
	md_end(md);
	md_wait_for_rounds(&reader);
	kunit_mm_thread_end(&reader.thread);
	KUNIT_EXPECT_EQ(md->test, 0, zap.ret);
	KUNIT_EXPECT_EQ(md->test, 0, reader.thread.ret);
	KUNIT_EXPECT_EQ(md->test, 0UL, reader.stale);
}

static void zap_between_steps_leaves_no_stale_tlb_entry(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, 16);

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a CPU for the reader");
	for (i = 0; i < 16; i++)
		md_zap_under_a_reader(md, addr + i * PAGE_SIZE);
}

/* With a stale TLB entry, the reader does not see the write of the device. */
static void md_replace_zero_under_a_reader(struct md_test *md,
					   unsigned long addr)
{
	struct md_reader reader = { .expected = md_pattern(1) };

	kunit_mm_thread_start(&reader.thread, md->km, addr, md_read_on);
	md_wait_for_rounds(&reader);
	KUNIT_EXPECT_TRUE(md->test, is_zero_pfn(kunit_mm_pfn(md->km, addr)));
	md_begin(md, addr, 1, MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ALL);
	memcpy_to_page(kunit_device_memory(migrate_pfn_to_page(md->dst[0])),
		       0, (char *)&reader.expected, sizeof(reader.expected));
	KUNIT_EXPECT_EQ(md->test, 1UL, md_end(md));
	/* it is there: pairs with the acquire of the reader */
	smp_store_release(&reader.changed, true);
	md_wait_for_rounds(&reader);
	kunit_mm_thread_end(&reader.thread);
	KUNIT_EXPECT_EQ(md->test, 0, reader.thread.ret);
	KUNIT_EXPECT_EQ(md->test, 0UL, reader.stale);
}

static void replaced_zero_page_leaves_no_stale_tlb_entry(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_map(md, 16);

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

static void one_of_many_faults_calls_the_driver(struct kunit *test)
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
	KUNIT_EXPECT_EQ(test, 1, md->dev->faults);
	/* of the entry and of the fault path; threads that wait have none */
	KUNIT_EXPECT_EQ(test, 2, md->refs);
	KUNIT_EXPECT_EQ(test, 0, md->dev->unlocked);
	md_expect_contents(md, addr, 1);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void fault_brings_back_neighbours(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	md->dev->around = KUNIT_DEVICE_AROUND;
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, md_pattern(5),
			md_read_word(md, addr + 5 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, md->dev->faults);
	KUNIT_EXPECT_EQ(test, 2, md->refs);
	md_expect_on_device(md, addr, KUNIT_DEVICE_AROUND, false);
	KUNIT_EXPECT_EQ(test, MD_PAGES - KUNIT_DEVICE_AROUND,
			md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, MD_PAGES / KUNIT_DEVICE_AROUND, md->dev->faults);
	KUNIT_EXPECT_EQ(test, 0, md->dev->unlocked);
}

static void failed_migrate_to_ram_fails_the_access(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	folio = md_folio(md, addr);
	md->dev->broken = true;
	KUNIT_EXPECT_EQ(test, -EFAULT, kunit_mm_try_read(addr));
	KUNIT_EXPECT_NE(test, 0, md_put_word(addr, 1));
	KUNIT_EXPECT_EQ(test, 2, md->dev->faults);
	md_expect_on_device(md, addr, 1, true);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));
	md->dev->broken = false;
	md_expect_contents(md, addr, 1);
}

static void pin_brings_back_device_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 1);
	struct page *page;

	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, addr, 1));
	KUNIT_ASSERT_EQ(test, 1, pin_user_pages_fast(addr, 1, FOLL_WRITE,
						     &page));
	KUNIT_EXPECT_FALSE(test, is_device_private_page(page));
	KUNIT_EXPECT_EQ(test, page_to_pfn(page), kunit_mm_pfn(md->km, addr));
	KUNIT_EXPECT_EQ(test, 1, md->dev->faults);
	unpin_user_page(page);
	md_expect_contents(md, addr, 1);
}

/* From device pages */

static void eviction_brings_back_every_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_begin_eviction(md);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	md_end_eviction(md, MD_DEVICE_PAGES);
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	KUNIT_EXPECT_TRUE(test, pte_dirty(kunit_mm_pte(md->km, addr)));
	md_expect_contents(md, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0, md->dev->faults);
}

/* With LRU_GEN, the pages stay in a batch of the CPU. */
static void finalize_puts_evicted_pages_on_lru(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	unsigned long i;

	if (lru_gen_enabled())
		kunit_skip(test, "LRU_GEN is in use");
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_begin_eviction(md);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	md_end_eviction(md, MD_DEVICE_PAGES);
	for (i = 0; i < MD_PAGES; i++) {
		struct folio *folio = md_nth_folio(md, addr, i);

		KUNIT_EXPECT_TRUE(test, folio_test_lru(folio));
		KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));
	}
}

static void single_pfns_are_evicted(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md->src[0] = md->dev->first + 5;
	md->src[1] = md->dev->first + MD_DEVICE_PAGES - 1;	/* free */
	md->src[2] = md->dev->first + 2;
	KUNIT_EXPECT_EQ(test, 0, migrate_device_pfns(md->src, 3));
	KUNIT_EXPECT_EQ(test, 0UL, md->src[1]);
	KUNIT_EXPECT_EQ(test, 2UL, md_count_moved(md, 3));
	md_end_eviction(md, 3);
	KUNIT_EXPECT_EQ(test, MD_PAGES - 2, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
}

static void eviction_skips_locked_page(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);
	struct page *locked = pfn_to_page(md->dev->first);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	lock_page(locked);
	migrate_device_range(md->src, md->dev->first, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md->src[0]);
	md_end_eviction(md, MD_PAGES);
	unlock_page(locked);
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
}

/*
 * Eviction does not hold the mmap lock, so the process may exit meanwhile. The
 * migration must hold the references that restoring the pages needs.
 */
static void eviction_survives_exit_of_the_process(struct kunit *test)
{
	struct md_test *md = test->priv;
	struct mm_struct *parent = md->km->mm, *child;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, addr, &child));
	kunit_mm_zap(md->km, addr, MD_PAGES);
	kunit_mm_enter(md->km, child);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	kunit_mm_enter(md->km, parent);
	md_begin_eviction(md);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	kunit_mm_exit(md->km, child);
	KUNIT_EXPECT_EQ(test, 0, vm_munmap(addr, MD_PAGES * PAGE_SIZE));
	synchronize_rcu();
	md_end_eviction(md, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

/* The migration has a reference for each page until it ends. */
static void eviction_drops_its_anon_vma_references(struct kunit *test)
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
	md_begin_eviction(md);
	KUNIT_EXPECT_EQ(test, refs + 3, atomic_read(&anon_vma->refcount));
	md_end_eviction(md, MD_DEVICE_PAGES);
	KUNIT_EXPECT_EQ(test, refs, atomic_read(&anon_vma->refcount));
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	put_page(pinned);
	md_expect_contents(md, addr, 4);
}

/* Coherent memory, which the CPU can access */

static void coherent_page_is_present(struct kunit *test)
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
	KUNIT_EXPECT_EQ(test, 0, md->dev->faults);
}

static void coherent_page_of_other_owner_stays(struct kunit *test)
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
	md->args = md_args(md, addr, 4, MIGRATE_VMA_SELECT_DEVICE_COHERENT);
	md->args.pgmap_owner = test;
	KUNIT_EXPECT_EQ(test, 0, migrate_vma_setup(&md->args));
	KUNIT_EXPECT_EQ(test, 0UL, md->args.cpages);
	md_end(md);
	md_expect_contents(md, addr, 4);
	KUNIT_EXPECT_EQ(test, 4UL, md_device_used(md));
}

static void short_term_pin_keeps_coherent_page(struct kunit *test)
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

static void long_term_pin_migrates_coherent_page(struct kunit *test)
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

static void unpinned_coherent_folio_migrates(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	folio = md_folio(md, addr);
	folio_get(folio);
	folio_get(folio);	/* by another user */
	KUNIT_EXPECT_EQ(test, -EBUSY, migrate_device_coherent_folio(folio));
	md_expect_on_device(md, addr, 1, true);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, 2, folio_ref_count(folio));

	KUNIT_EXPECT_EQ(test, 0, migrate_device_coherent_folio(folio));
	md_expect_on_device(md, addr, 1, false);
	KUNIT_EXPECT_EQ(test, 1UL, md_device_used(md));
	md_expect_contents(md, addr, 2);

	/* A page that is no longer mapped has nothing to migrate. */
	folio = md_nth_folio(md, addr, 1);
	folio_get(folio);
	kunit_mm_zap(md->km, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, 0, migrate_device_coherent_folio(folio));
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
}

static void coherent_page_is_evicted(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_begin_eviction(md);
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_moved(md, MD_DEVICE_PAGES));
	md_end_eviction(md, MD_DEVICE_PAGES);
	md_expect_on_device(md, addr, MD_PAGES, false);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	md_expect_contents(md, addr, MD_PAGES);
}

static void hole_is_populated_with_coherent_memory(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_map(md, MD_PAGES);
	struct md_counts before = md_counts_now(md);

	/* half of them zero pages */
	kunit_mm_read(md->km, addr, MD_PAGES / 2);
	md_begin(md, addr, MD_PAGES, MIGRATE_VMA_SELECT_SYSTEM, MD_MOVES_ALL);
	for (i = 0; i < MD_PAGES; i++)
		clear_highpage(migrate_pfn_to_page(md->dst[i]));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_end(md));
	md_expect_on_device(md, addr, MD_PAGES, true);
	md_expect_counts(md, before, MD_PAGES);
	for (i = 0; i < MD_PAGES; i++)
		KUNIT_EXPECT_EQ(test, 0UL, md_read_word(md, addr +
							i * PAGE_SIZE));
	kunit_mm_zap(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_EQ(test, 0UL, md_device_used(md));
	md_expect_counts(md, before, 0);
}

static void fork_shares_coherent_page_until_a_write(struct kunit *test)
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
 * Write access of a device to its own memory, see device_write.c
 */

/* @addr receives the address where the call stopped. */
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

/* One call makes all pages writable in place. */
static void md_expect_made_writable(struct md_test *md, unsigned long addr,
				    unsigned long nr)
{
	unsigned long i, stop = addr;

	KUNIT_EXPECT_EQ(md->test, 0, md_make_writable(md, &stop, nr, md->dev));
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
	KUNIT_EXPECT_EQ(md->test, 0, md->dev->faults);
}

/* The call stops at the first page and returns @ret. */
static void md_expect_not_made_writable(struct md_test *md, unsigned long addr,
					int ret)
{
	unsigned long stop = addr;

	KUNIT_EXPECT_EQ(md->test, ret, md_make_writable(md, &stop, 1, md->dev));
	KUNIT_EXPECT_EQ(md->test, addr, stop);
	KUNIT_EXPECT_FALSE(md->test, md_device_writes(md, addr, 0));
}

/* With a child that exits at once */
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
	kunit_mm_make_read_only(md->km, addr, MD_PAGES);
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

/* The page moves to the anon_vma of the only process that maps it. */
static void page_left_by_parent_is_made_writable_in_child(struct kunit *test)
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

/* A CPU fault may hold the lock. An exclusive page needs no lock. */
static void locked_page_is_reported_busy(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 3), stop = addr;
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 3UL, md_to_device(md, addr, 3));
	md_share_once(md, addr);
	folio = md_nth_folio(md, addr, 1);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, -EBUSY, md_make_writable(md, &stop, 3, md->dev));
	KUNIT_EXPECT_EQ(test, addr + PAGE_SIZE, stop);
	KUNIT_EXPECT_EQ(test, 1UL, md_count_writable(md, addr, 3));
	folio_unlock(folio);
	md_expect_made_writable(md, addr, 3);

	kunit_mm_make_read_only(md->km, addr, 3);
	folio_lock(folio);
	stop = addr;
	KUNIT_EXPECT_EQ(test, 0, md_make_writable(md, &stop, 3, md->dev));
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, 3UL, md_count_writable(md, addr, 3));
}

static void referenced_page_is_made_writable_if_exclusive(struct kunit *test)
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

	kunit_mm_make_read_only(md->km, addr, 1);
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

/* The device cannot be removed before the reference is dropped. */
static void md_put_if_not_looked(struct md_test *md, struct folio *folio)
{
	KUNIT_EXPECT_EQ(md->test, md->put_after, md->relaxed);
	if (md->relaxed < md->put_after)
		folio_put(folio);
	KUNIT_EXPECT_EQ(md->test, 1, folio_ref_count(folio));
}

static void page_unmapped_elsewhere_is_made_writable(struct kunit *test)
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
static void referenced_page_is_not_made_writable(struct kunit *test)
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

static void uffd_wp_page_is_not_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	kunit_mm_make_read_only(md->km, addr, 2);
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

static void page_of_other_owner_is_skipped(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2), stop = addr;

	KUNIT_EXPECT_EQ(test, 2UL, md_to_device(md, addr, 2));
	kunit_mm_make_read_only(md->km, addr, 2);
	KUNIT_EXPECT_EQ(test, 0, md_make_writable(md, &stop, 2, test));
	KUNIT_EXPECT_EQ(test, addr + 2 * PAGE_SIZE, stop);
	KUNIT_EXPECT_EQ(test, 0UL, md_count_writable(md, addr, 2));
}

static void entry_of_other_kind_is_skipped(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, MD_PAGES), stop = addr;
	pte_t present;

	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_try_to_device(md, addr, MD_PAGES, MD_MOVES_ODD));
	md_share_once(md, addr);
	kunit_mm_zap(md->km, addr + 2 * PAGE_SIZE, 1);
	present = md_pte(md, addr, 0);
	KUNIT_EXPECT_EQ(test, 0,
			md_make_writable(md, &stop, MD_PAGES, md->dev));
	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_count_writable(md, addr, MD_PAGES));
	KUNIT_EXPECT_TRUE(test, pte_same(present, md_pte(md, addr, 0)));
	KUNIT_EXPECT_TRUE(test, pte_none(md_pte(md, addr, 2)));
}

/*
 * NUMA hinting
 */

static void numa_scan_leaves_private_pages_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_memory_map(md, MD_PAGES);

	KUNIT_EXPECT_EQ(test, MD_PAGES / 2,
			md_try_to_device(md, addr, MD_PAGES, MD_MOVES_ODD));
	kunit_mm_hint(md->km, addr, MD_PAGES);
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
	kunit_mm_hint(md->km, addr, 2);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 1)));
	entry = pte_to_swp_entry(md_pte(md, addr, 0));
	KUNIT_EXPECT_TRUE(test, is_writable_device_exclusive_entry(entry));
	md_expect_contents(md, addr, 2);
}

static int md_hint_one(struct kunit_mm_thread *thread)
{
	kunit_mm_hint(md_of(thread)->km, thread->addr, 1);
	return 0;
}

static void numa_scan_leaves_migrating_pages_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_memory_map(md, 2);

	kunit_mm_hint(md->km, addr + PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, 1UL, md_between(md, addr, 1, MD_MOVES_ALL, addr,
					      md_hint_one));
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 1)));
	KUNIT_EXPECT_TRUE(test, md_device_writes(md, addr, 0));
}

static void numa_scan_leaves_migrating_huge_page_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, 0);
	struct folio *folio;
	pmd_t pmd;

	if (!thp_migration_supported())
		kunit_skip(test, "huge pages do not migrate");
	folio = pfn_folio(kunit_mm_pfn(md->km, addr));
	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	kunit_mm_hint(md->km, addr, HPAGE_PMD_NR);
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

	kunit_mm_hint(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 0)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_writable(md, addr, MD_PAGES));
	KUNIT_EXPECT_TRUE(test, md->src[0] & MIGRATE_PFN_WRITE);
	md_expect_contents(md, addr, MD_PAGES);
}

static void hinted_huge_page_keeps_its_write_permission(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, MD_PAGES);

	kunit_mm_hint(md->km, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test, pmd_protnone(kunit_mm_pmd(md->km, addr)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_count_writable(md, addr, MD_PAGES));
}

/* The split drops the write permission, and the device gets it back. */
static void hinted_page_of_large_folio_is_made_writable(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long addr = md_map_huge(md, MD_PAGES);

	kunit_mm_split_pmd(md->km, addr);
	kunit_mm_hint(md->km, addr, MD_PAGES);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, addr, 0)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	md_expect_made_writable(md, addr, MD_PAGES);
}

static void hinted_read_only_huge_page_stays_read_only(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long i, addr = md_map_huge(md, MD_PAGES);

	kunit_mm_protect(md->km, addr, HPAGE_PMD_NR, VM_READ);
	kunit_mm_hint(md->km, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_TRUE(test, pmd_protnone(kunit_mm_pmd(md->km, addr)));
	kunit_mm_split_pmd(md->km, addr);
	for (i = 0; i < HPAGE_PMD_NR; i++)
		KUNIT_EXPECT_FALSE(test, pte_write(md_pte(md, addr, i)));
	KUNIT_EXPECT_EQ(test, MD_PAGES, md_to_device(md, addr, MD_PAGES));
	KUNIT_EXPECT_EQ(test, 0UL, md_count_writable(md, addr, MD_PAGES));
}

/* A fault would refuse the write as well. */
static void hinted_page_without_write_permission_gets_none(struct kunit *test)
{
	struct md_test *md = test->priv;
	unsigned long shared = md_memory_map(md, 1);
	unsigned long fixed = md_memory_map(md, 1);
	struct mm_struct *child;

	kunit_mm_hint(md->km, shared, 1);
	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(md->km, shared, &child));
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, shared, 0)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, shared, 1));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, shared, 0));
	md_expect_not_made_writable(md, shared, DEVICE_WRITE_FAULT);

	kunit_mm_protect(md->km, fixed, 1, VM_READ);
	kunit_mm_hint(md->km, fixed, 1);
	KUNIT_EXPECT_TRUE(test, pte_protnone(md_pte(md, fixed, 0)));
	KUNIT_EXPECT_EQ(test, 1UL, md_to_device(md, fixed, 1));
	KUNIT_EXPECT_FALSE(test, md_device_writes(md, fixed, 0));
}

static struct kunit_case migrate_device_cases[] = {
	KUNIT_CASE(round_trip_keeps_contents_and_counts),
	KUNIT_CASE(cpu_fault_brings_back_one_page),
	KUNIT_CASE(page_is_restored_if_driver_has_no_memory),
	KUNIT_CASE(driver_moves_every_second_page),
	KUNIT_CASE(failed_copy_restores_pages),
	KUNIT_CASE(skipped_second_step_loses_no_page),
	KUNIT_CASE(full_device_takes_what_fits),
	KUNIT_CASE_PARAM(migration_keeps_counters, md_outcome_gen_params),
	KUNIT_CASE_PARAM(populated_holes_are_counted,
			 md_outcome_gen_params),
	KUNIT_CASE(lru_size_is_number_of_pages),
	KUNIT_CASE(pinned_page_does_not_migrate),
	KUNIT_CASE(referenced_page_does_not_migrate),
	KUNIT_CASE(setup_restores_referenced_page),
	KUNIT_CASE(page_referenced_after_setup_is_restored),
	KUNIT_CASE(large_destination_is_refused),
	KUNIT_CASE(compound_destination_is_refused),
	KUNIT_CASE(locked_page_does_not_migrate),
	KUNIT_CASE(poisoned_page_does_not_migrate),
	KUNIT_CASE(copied_page_of_private_file_migrates),
	KUNIT_CASE(device_page_of_other_owner_stays),
	KUNIT_CASE(unselected_page_stays),
	KUNIT_CASE(unselected_zero_page_stays),
	KUNIT_CASE(hole_of_file_is_not_collected),
	KUNIT_CASE(restored_file_page_is_dirty),
	KUNIT_CASE(file_page_migrates_within_system_memory),
	KUNIT_CASE(file_page_does_not_migrate_to_device),
	KUNIT_CASE(invalid_arguments_are_refused),
	KUNIT_CASE(special_mapping_is_refused),
	KUNIT_CASE(hugetlb_mapping_is_refused),
	KUNIT_CASE(hole_is_populated),
	KUNIT_CASE(populated_hole_is_dirty),
	KUNIT_CASE(hole_is_populated_with_system_memory),
	KUNIT_CASE(zero_page_is_replaced),
	KUNIT_CASE(uffd_wp_zero_page_stays),
	KUNIT_CASE(page_in_batch_of_this_cpu_migrates),
	KUNIT_CASE(huge_zero_page_is_replaced),
	KUNIT_CASE(huge_zero_page_without_access_stays),
	KUNIT_CASE(replaced_ksm_zero_page_is_uncounted),
	KUNIT_CASE(hole_filled_by_fault_is_not_populated),
	KUNIT_CASE(hole_of_userfaultfd_is_not_populated),
	KUNIT_CASE(hole_of_unstable_mm_is_not_populated),
	KUNIT_CASE(hole_of_read_only_vma_becomes_read_only),
	KUNIT_CASE(migration_stays_within_its_range),
	KUNIT_CASE(read_only_page_stays_read_only),
	KUNIT_CASE(prot_none_page_stays_prot_none),
	KUNIT_CASE(mprotect_makes_private_page_read_only),
	KUNIT_CASE(writable_page_comes_back_writable_and_dirty),
	KUNIT_CASE(setup_reports_writable_pages),
	KUNIT_CASE(soft_dirty_bit_survives_round_trip),
	KUNIT_CASE(writable_private_page_comes_back_soft_dirty),
	KUNIT_CASE(page_cleaned_between_steps_faults_on_write),
	KUNIT_CASE(uffd_wp_bit_survives_round_trip),
	KUNIT_CASE(dirty_pte_makes_device_folio_dirty),
	KUNIT_CASE(young_pte_makes_device_folio_referenced),
	KUNIT_CASE(restored_page_keeps_young_and_dirty_bits),
	KUNIT_CASE(restored_page_is_not_referenced_twice),
	KUNIT_CASE(age_of_shared_page_survives_on_device),
	KUNIT_CASE(read_only_page_stays_anon_exclusive),
	KUNIT_CASE(once_shared_page_does_not_become_anon_exclusive),
	KUNIT_CASE(mlocked_page_comes_back_mlocked),
	KUNIT_CASE(page_in_mlock_batch_of_other_cpu_migrates),
	KUNIT_CASE(page_in_munlock_batch_of_other_cpu_migrates),
	KUNIT_CASE(page_mlocked_before_it_is_listed_is_unevictable),
	KUNIT_CASE(lazyfree_page_becomes_swapbacked),
	KUNIT_CASE(droppable_page_stays_droppable),
	KUNIT_CASE(freed_device_page_has_no_flags),
	KUNIT_CASE(notifier_is_told_who_migrates),
	KUNIT_CASE(split_of_huge_page_invalidates_nothing_more),
	KUNIT_CASE(fork_shares_device_page_until_a_write),
	KUNIT_CASE(shared_page_migrates_for_both_processes),
	KUNIT_CASE(shared_page_is_restored_for_both_processes),
	KUNIT_CASE(exit_of_child_leaves_device_pages_of_parent),
	KUNIT_CASE(huge_page_is_split_and_migrates),
	KUNIT_CASE(pte_mapped_large_folio_is_split_and_migrates),
	KUNIT_CASE(referenced_large_folio_does_not_migrate),
	KUNIT_CASE_PARAM(page_zapped_between_steps_does_not_come_back,
			 md_outcome_gen_params),
	KUNIT_CASE(uffd_wp_bit_set_between_steps_is_kept),
	KUNIT_CASE(restored_page_keeps_uffd_wp_bit),
	KUNIT_CASE(page_does_not_change_after_setup),
	KUNIT_CASE(zap_between_steps_leaves_no_stale_tlb_entry),
	KUNIT_CASE(replaced_zero_page_leaves_no_stale_tlb_entry),
	KUNIT_CASE(one_of_many_faults_calls_the_driver),
	KUNIT_CASE(fault_brings_back_neighbours),
	KUNIT_CASE(failed_migrate_to_ram_fails_the_access),
	KUNIT_CASE(pin_brings_back_device_page),
	KUNIT_CASE(eviction_brings_back_every_page),
	KUNIT_CASE(finalize_puts_evicted_pages_on_lru),
	KUNIT_CASE(single_pfns_are_evicted),
	KUNIT_CASE(eviction_skips_locked_page),
	KUNIT_CASE(eviction_survives_exit_of_the_process),
	KUNIT_CASE(eviction_drops_its_anon_vma_references),
	{}
};

static struct kunit_suite migrate_device_suite = {
	.name = "migrate_device",
	.init = md_init,
	.test_cases = migrate_device_cases,
};

static struct kunit_case migrate_device_coherent_cases[] = {
	KUNIT_CASE(coherent_page_is_present),
	KUNIT_CASE(coherent_page_of_other_owner_stays),
	KUNIT_CASE(short_term_pin_keeps_coherent_page),
	KUNIT_CASE(long_term_pin_migrates_coherent_page),
	KUNIT_CASE(unpinned_coherent_folio_migrates),
	KUNIT_CASE(coherent_page_is_evicted),
	KUNIT_CASE(hole_is_populated_with_coherent_memory),
	KUNIT_CASE(populated_hole_is_dirty),
	KUNIT_CASE(hole_is_populated_with_system_memory),
	KUNIT_CASE(setup_reports_writable_pages),
	KUNIT_CASE(notifier_is_told_who_migrates),
	KUNIT_CASE(split_of_huge_page_invalidates_nothing_more),
	KUNIT_CASE(replaced_zero_page_leaves_no_stale_tlb_entry),
	KUNIT_CASE(lru_size_is_number_of_pages),
	KUNIT_CASE(fork_shares_coherent_page_until_a_write),
	KUNIT_CASE_PARAM(migration_keeps_counters, md_outcome_gen_params),
	KUNIT_CASE_PARAM(populated_holes_are_counted,
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
	KUNIT_CASE(page_left_by_parent_is_made_writable_in_child),
	KUNIT_CASE(locked_page_is_reported_busy),
	KUNIT_CASE(referenced_page_is_made_writable_if_exclusive),
	KUNIT_CASE(page_unmapped_elsewhere_is_made_writable),
	KUNIT_CASE(referenced_page_is_not_made_writable),
	KUNIT_CASE(uffd_wp_page_is_not_made_writable),
	KUNIT_CASE(writable_page_is_made_soft_dirty),
	KUNIT_CASE(page_of_other_owner_is_skipped),
	KUNIT_CASE(entry_of_other_kind_is_skipped),
	KUNIT_CASE(numa_scan_leaves_private_pages_writable),
	KUNIT_CASE(numa_scan_leaves_exclusive_pages_writable),
	KUNIT_CASE(numa_scan_leaves_migrating_pages_writable),
	KUNIT_CASE(numa_scan_leaves_migrating_huge_page_writable),
	KUNIT_CASE(hinted_page_keeps_its_write_permission),
	KUNIT_CASE(hinted_huge_page_keeps_its_write_permission),
	KUNIT_CASE(hinted_page_of_large_folio_is_made_writable),
	KUNIT_CASE(hinted_read_only_huge_page_stays_read_only),
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
