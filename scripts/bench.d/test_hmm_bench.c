// SPDX-License-Identifier: GPL-2.0
/*
 * Measure heterogeneous memory management in instructions per base page.
 *
 * /dev/hmm_bench has a table of rows. For each row, hmm-bench.c maps and fills
 * an area, and the module does the work of the row on it, with device-private
 * memory of its own. The module uses only the public interface of the
 * subsystem, so the same source measures any implementation. The measured
 * windows contain only calls of that interface: the work of a driver
 * (allocating destination pages, bookkeeping) is excluded, and nothing is
 * copied.
 *
 * The clock is get_cycles(). It counts instructions on an emulator that
 * advances time by one unit per instruction (QEMU: -icount shift=0, one CPU).
 * Otherwise the module refuses to load, see meter_calibrate().
 *
 * With count=1, kprobes count expensive events (enum hmm_bench_event) in the
 * same windows. Probes cost instructions, so such a run has no other figures.
 *
 * There is one struct bench. bench->lock protects it, except for the members
 * used by migrate_to_ram(): page faults call it, possibly during an ioctl, so
 * it has its own buffers and lock. The lock order is bench->lock, mmap lock, page
 * lock (of the faulting page), fault_lock.
 *
 * Device memory is allocated from the bottom up during a row, and all of it
 * must be free before the next row starts. Closing the file cleans up an
 * unfinished row: pages in device memory migrate to system memory.
 */
#define pr_fmt(fmt) "hmm_bench: " fmt

#include <linux/hmm.h>
#include <linux/huge_mm.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kprobes.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/timex.h>
#include <linux/uaccess.h>

#include "test_hmm_bench_uapi.h"

#define AREA_SIZE	SZ_64M
#define CALL_PAGES	512UL
#define CALL_SIZE	(CALL_PAGES << PAGE_SHIFT)
#define MIXED_PAGES	2048UL
#define MIXED_SIZE	(MIXED_PAGES << PAGE_SHIFT)
#define DEVICE_SIZE	SZ_128M
#define DEVICE_PAGES	(DEVICE_SIZE >> PAGE_SHIFT)
#define NR_NOTIFIERS	4096UL
#define ORDER_64K	(ilog2(SZ_64K) - PAGE_SHIFT)
#define ORDER_2M	HPAGE_PMD_ORDER

/* Migration of large folios is an optional part of the interface. */
#ifdef MIGRATE_PFN_COMPOUND
#define COMPOUND_PFN	MIGRATE_PFN_COMPOUND
#define COMPOUND_SELECT	MIGRATE_VMA_SELECT_COMPOUND
#else
#define COMPOUND_PFN	0UL
#define COMPOUND_SELECT	0UL
#endif

static bool count;
module_param(count, bool, 0444);
MODULE_PARM_DESC(count, "count events with kprobes, and no instructions");

/*
 * Sum over the windows of one phase of a row. Windows with a timer tick or a
 * preemption are dropped, as they contain other work. Windows in which the task
 * sleeps are kept.
 */
struct meter {
	const char *name;
	struct meter *outer;
	unsigned long disturbed;
	u64 began;
	u64 ticks;
	u64 units;
	u64 calls;
	u64 events[HMM_BENCH_NR_EVENTS];
};

/* Buffers of one migration */
struct move_buffers {
	unsigned long src[CALL_PAGES];
	unsigned long dst[CALL_PAGES];
};

struct bench {
	struct mutex lock;		/* held for each ioctl */
	const struct bench_row *row;	/* the row that is running, or NULL */
	struct mm_struct *mm;		/* referenced while row is set */
	unsigned long area;
	struct meter meters[HMM_BENCH_MAX_PHASES];

	struct mmu_interval_notifier mirror;
	struct mmu_interval_notifier *many;	/* live where mm is set */
	unsigned long pfns[MIXED_PAGES];
	struct move_buffers move;

	struct dev_pagemap pgmap;
	unsigned long first_pfn;	/* of device memory */
	unsigned long used;		/* device pages allocated */
	bool downwards;			/* order, see device_page() */
	atomic_long_t freed;		/* device pages freed */

	struct mutex fault_lock;	/* protects the members below */
	struct move_buffers fault;
	struct meter pause;		/* driver work in CPU faults */
};

/**
 * struct bench_row - one row of the table
 * @name: name shown by user space
 * @content: content of the area before the work
 * @layout: pattern of the pages of the area
 * @order: order of the folios that fill the area before any migration
 * @move_order: order of the folios that migrate and of those in device memory
 * @again: migrate to device memory and back once before the work
 * @cpu_time: in windows that sleep, measure the CPU time of the task
 * @work: the measured work; NULL if user space reads the area
 * @after: content of the area after the work
 */
struct bench_row {
	const char *name;
	enum hmm_bench_content content;
	enum hmm_bench_layout layout;
	unsigned int order;
	unsigned int move_order;
	bool again;
	bool cpu_time;
	int (*work)(struct bench *bench);
	enum hmm_bench_content after;
};

static struct meter *counting;	/* the open window, for the probes */
static u64 meter_overhead;

/*
 * Set while a row does its work. Otherwise do not even read the clock: a
 * profiler outside of the guest takes each read for the border of a window.
 */
static bool metering;

static __always_inline unsigned long disturbances(void)
{
	return READ_ONCE(jiffies) + current->nivcsw;
}

static __always_inline void meter_start(struct meter *meter)
{
	if (!READ_ONCE(metering))
		return;
	meter->outer = counting;
	WRITE_ONCE(counting, meter);
	meter->disturbed = disturbances();
	barrier();
	meter->began = get_cycles();
}

static __always_inline u64 meter_lap(struct meter *meter)
{
	u64 now;

	if (!READ_ONCE(metering))
		return 0;
	now = get_cycles();
	barrier();
	WRITE_ONCE(counting, meter->outer);
	return now - meter->began - meter_overhead;
}

/* Interrupts cause few events, so count events in disturbed windows, too. */
static __always_inline void meter_stop(struct meter *meter, unsigned long units)
{
	u64 ticks = meter_lap(meter);

	if (!count && disturbances() != meter->disturbed)
		return;
	meter->ticks += ticks;
	meter->units += units;
}

/*
 * A window of many faults is longer than a timer tick. Keep it: the ticks cost
 * a few instructions per page.
 */
static __always_inline void meter_stop_long(struct meter *meter,
					    unsigned long units)
{
	meter->ticks += meter_lap(meter);
	meter->units += units;
}

/* With a meter, its window stays open until metering_end(). */
static void metering_begin(struct meter *open)
{
	WRITE_ONCE(counting, open);
	WRITE_ONCE(metering, true);
}

static void metering_end(void)
{
	WRITE_ONCE(metering, false);
	WRITE_ONCE(counting, NULL);
}

static u64 meter_loops(unsigned int loops)
{
	struct meter meter = {};
	unsigned int i;

	while (!meter.units) {
		meter_start(&meter);
		for (i = 0; i < loops; i++)
			barrier();
		meter_stop(&meter, 1);
	}
	return meter.ticks;
}

/*
 * An instruction counter, unlike a real clock, always gives the same figure for
 * the same work. The cost of an empty window is subtracted from all others.
 */
static int meter_calibrate(void)
{
	u64 empty, full;
	bool exact = true;
	unsigned int i;

	metering_begin(NULL);
	empty = meter_loops(0);
	full = meter_loops(1000);
	for (i = 0; i < 32; i++)
		exact &= meter_loops(0) == empty && meter_loops(1000) == full;
	metering_end();
	if (!exact) {
		pr_err("time does not count instructions: run in QEMU with -icount shift=0 and one CPU\n");
		return -ENODEV;
	}
	meter_overhead = empty;
	return 0;
}

/* ---- Counting events ---- */

struct event_probe {
	struct kprobe kprobe;
	enum hmm_bench_event event;
	bool registered;
};

static int event_hit(struct kprobe *kprobe, struct pt_regs *regs)
{
	struct event_probe *probe;
	struct meter *meter = READ_ONCE(counting);

	probe = container_of(kprobe, struct event_probe, kprobe);
	if (meter)
		meter->events[probe->event]++;
	return 0;
}

#define PROBE(symbol, what) {					\
	.kprobe.symbol_name = symbol,				\
	.kprobe.pre_handler = event_hit,			\
	.event = HMM_BENCH_ ## what,				\
}

/*
 * Functions that are not inlined and that any implementation has to call for
 * these events: a TLB flush (one for a batch), an rmap walk, taking an lruvec
 * lock, draining the LRU caches, mapping a page table, handling a fault.
 */
static struct event_probe event_probes[] = {
	PROBE("flush_tlb_mm_range", TLB_FLUSH),
	PROBE("arch_tlbbatch_flush", TLB_FLUSH),
	PROBE("rmap_walk", RMAP_WALK),
	PROBE("rmap_walk_locked", RMAP_WALK),
	PROBE("folio_lruvec_lock", LRU_LOCK),
	PROBE("folio_lruvec_lock_irq", LRU_LOCK),
	PROBE("folio_lruvec_lock_irqsave", LRU_LOCK),
	PROBE("lru_add_drain", LRU_DRAIN),
	PROBE("lru_add_drain_all", LRU_DRAIN),
	PROBE("__pte_offset_map", PTE_TABLE),
	PROBE("handle_mm_fault", FAULT),
};

static void events_stop(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(event_probes); i++)
		if (event_probes[i].registered)
			unregister_kprobe(&event_probes[i].kprobe);
}

static int events_start(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(event_probes); i++) {
		err = register_kprobe(&event_probes[i].kprobe);
		if (err) {
			pr_err("no probe on %s: %d\n",
			       event_probes[i].kprobe.symbol_name, err);
			events_stop();
			return err;
		}
		event_probes[i].registered = true;
	}
	return 0;
}

/* ---- Device memory ---- */

/*
 * Allocate from the bottom up while the device is new. Later do it from the top
 * down, like a driver whose free list returns the last freed page first.
 */
static struct page *device_page(struct bench *bench, unsigned int order)
{
	unsigned long at = ALIGN(bench->used, 1UL << order);
	struct page *page;

	if (at + (1UL << order) > DEVICE_PAGES)
		return NULL;
	/* Pages skipped by alignment are not allocated: count them as free. */
	atomic_long_add(at - bench->used, &bench->freed);
	bench->used = at + (1UL << order);
	if (bench->downwards)
		at = DEVICE_PAGES - bench->used;
	page = pfn_to_page(bench->first_pfn + at);
#ifdef MIGRATE_PFN_COMPOUND
	zone_device_folio_init(page_folio(page), &bench->pgmap, order);
#else
	zone_device_page_init(page);
#endif
	return page;
}

static bool device_is_empty(struct bench *bench)
{
	return atomic_long_read(&bench->freed) == bench->used;
}

/* Zeroed: nothing is copied, and the process may read the page. */
static struct page *system_page(unsigned int order)
{
	gfp_t gfp = order ? GFP_TRANSHUGE : GFP_HIGHUSER_MOVABLE;
	struct folio *folio = folio_alloc(gfp | __GFP_ZERO, order);

	if (!folio)
		return NULL;
	folio_lock(folio);
	return folio_page(folio, 0);
}

static unsigned int source_order(unsigned long src)
{
	struct page *page = migrate_pfn_to_page(src);

	if (!(src & COMPOUND_PFN))
		return 0;
	return page ? folio_order(page_folio(page)) : HPAGE_PMD_ORDER;
}

/* Fill dst[] for all pages that can move, in the folio orders of src[]. */
static int driver_take_pages(struct bench *bench, struct move_buffers *move,
			     unsigned long npages, enum hmm_bench_content where)
{
	unsigned long i, step;

	for (i = 0; i < npages; i += step) {
		unsigned int order = source_order(move->src[i]);
		struct page *page;

		step = 1UL << order;
		if (!(move->src[i] & MIGRATE_PFN_MIGRATE))
			continue;
		page = where == HMM_BENCH_DEVICE ? device_page(bench, order) :
						   system_page(order);
		if (!page)
			return -ENOMEM;
		move->dst[i] = migrate_pfn(page_to_pfn(page));
		if (order)
			move->dst[i] |= COMPOUND_PFN;
	}
	return 0;
}

static struct bench *page_to_bench(struct page *page)
{
	struct dev_pagemap *pgmap = page_folio(page)->page.pgmap;

	return container_of(pgmap, struct bench, pgmap);
}

/* Called within the window of the access by user space. */
static vm_fault_t fault_migrate(struct bench *bench, struct migrate_vma *args)
{
	vm_fault_t ret = 0;

	if (migrate_vma_setup(args))
		return VM_FAULT_SIGBUS;
	meter_start(&bench->pause);
	if (driver_take_pages(bench, &bench->fault, args->npages,
			      HMM_BENCH_SYSTEM))
		ret = VM_FAULT_OOM;
	bench->pause.ticks += meter_lap(&bench->pause);
	migrate_vma_pages(args);
	migrate_vma_finalize(args);
	return ret;
}

/* A CPU fault on device memory: migrate the whole folio. */
static vm_fault_t device_to_ram(struct vm_fault *vmf)
{
	struct bench *bench = page_to_bench(vmf->page);
	size_t size = folio_size(page_folio(vmf->page));
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = ALIGN_DOWN(vmf->address, size),
		.src = bench->fault.src,
		.dst = bench->fault.dst,
		.pgmap_owner = bench,
		.fault_page = vmf->page,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
	};
	vm_fault_t ret;

	if (size > CALL_SIZE)
		return VM_FAULT_SIGBUS;
	if (size > PAGE_SIZE)
		args.flags |= COMPOUND_SELECT;
	args.end = args.start + size;
	mutex_lock(&bench->fault_lock);
	ret = fault_migrate(bench, &args);
	mutex_unlock(&bench->fault_lock);
	return ret;
}

#ifdef MIGRATE_PFN_COMPOUND
static void device_folio_free(struct folio *folio)
{
	struct bench *bench = page_to_bench(folio_page(folio, 0));

	atomic_long_add(folio_nr_pages(folio), &bench->freed);
}
#else
static void device_page_free(struct page *page)
{
	atomic_long_inc(&page_to_bench(page)->freed);
}
#endif

static const struct dev_pagemap_ops device_ops = {
#ifdef MIGRATE_PFN_COMPOUND
	.folio_free = device_folio_free,
#else
	.page_free = device_page_free,
#endif
	.migrate_to_ram = device_to_ram,
};

static int pgmap_request(struct bench *bench, struct dev_pagemap *pgmap)
{
	struct resource *res;

	res = request_free_mem_region(&iomem_resource, DEVICE_SIZE,
				      "hmm_bench");
	if (IS_ERR(res))
		return PTR_ERR(res);
	pgmap->type = MEMORY_DEVICE_PRIVATE;
	pgmap->range.start = res->start;
	pgmap->range.end = res->end;
	pgmap->nr_range = 1;
	pgmap->ops = &device_ops;
	pgmap->owner = bench;
	return 0;
}

static void pgmap_release(const struct dev_pagemap *pgmap)
{
	release_mem_region(pgmap->range.start, range_len(&pgmap->range));
}

static int device_open(struct bench *bench)
{
	void *addr;
	int err;

	err = pgmap_request(bench, &bench->pgmap);
	if (err)
		return err;
	addr = memremap_pages(&bench->pgmap, numa_node_id());
	if (IS_ERR(addr)) {
		pgmap_release(&bench->pgmap);
		return PTR_ERR(addr);
	}
	bench->first_pfn = PHYS_PFN(bench->pgmap.range.start);
	return 0;
}

static void device_close(struct bench *bench)
{
	memunmap_pages(&bench->pgmap);
	pgmap_release(&bench->pgmap);
}

/* The CPU time of this task. Sleeping updates it. */
static u64 task_ticks(void)
{
	schedule_timeout_uninterruptible(1);
	return current->se.sum_exec_runtime;
}

/*
 * Windows of many timer ticks, whose cost is negligible. These calls also
 * sleep: measure either the elapsed time or the CPU time.
 */
static u64 long_start(struct meter *meter)
{
	u64 cpu = task_ticks();

	meter_start(meter);
	return cpu;
}

static void long_stop(struct bench *bench, struct meter *meter, u64 cpu)
{
	u64 elapsed = meter_lap(meter);

	cpu = task_ticks() - cpu;
	meter->ticks += bench->row->cpu_time ? cpu : elapsed;
	meter->units += DEVICE_PAGES;
}

static int pgmap_map_unmap(struct bench *bench, struct dev_pagemap *pgmap)
{
	struct meter *map = &bench->meters[0], *unmap = &bench->meters[1];
	void *addr;
	u64 cpu;

	map->name = "map";
	cpu = long_start(map);
	addr = memremap_pages(pgmap, numa_node_id());
	long_stop(bench, map, cpu);
	if (IS_ERR(addr))
		return PTR_ERR(addr);

	unmap->name = "unmap";
	cpu = long_start(unmap);
	memunmap_pages(pgmap);
	long_stop(bench, unmap, cpu);
	return 0;
}

/* Add and remove a second device of the same size. */
static int plug_and_unplug(struct bench *bench)
{
	struct dev_pagemap *pgmap = kzalloc(sizeof(*pgmap), GFP_KERNEL);
	int err;

	if (!pgmap)
		return -ENOMEM;
	err = pgmap_request(bench, pgmap);
	if (!err) {
		err = pgmap_map_unmap(bench, pgmap);
		pgmap_release(pgmap);
	}
	kfree(pgmap);
	return err;
}

/* ---- The area ---- */

static bool mirror_invalidate(struct mmu_interval_notifier *notifier,
			      const struct mmu_notifier_range *range,
			      unsigned long seq)
{
	mmu_interval_set_seq(notifier, seq);
	return true;
}

static const struct mmu_interval_notifier_ops mirror_ops = {
	.invalidate = mirror_invalidate,
};

/* Call the interface for each CALL_SIZE of the area. */
static int area_each(struct bench *bench,
		     int (*call)(struct bench *bench, unsigned long start))
{
	unsigned long start;
	int err = 0;

	for (start = bench->area; start < bench->area + AREA_SIZE && !err;
	     start += CALL_SIZE) {
		err = call(bench, start);
		cond_resched();
	}
	return err;
}

/*
 * Check that the area has folios of the order of the row. Do not use a mirror
 * for it: the first subscription makes all TLB flushes of a process slower.
 */
static int area_filled_call(struct bench *bench, unsigned long start)
{
	unsigned int order = bench->row->order;
	unsigned long addr;

	for (addr = start; addr < start + CALL_SIZE;
	     addr += PAGE_SIZE << order) {
		struct page *page;
		bool good;

		if (get_user_pages_fast(addr, 1, 0, &page) != 1)
			return -EFAULT;
		good = folio_order(page_folio(page)) == order;
		put_page(page);
		if (!good)
			return -EOPNOTSUPP;
	}
	return 0;
}

/* ---- Mirroring ---- */

static int mirror_call(struct bench *bench, unsigned long start,
		       unsigned long request, struct meter *meter)
{
	struct hmm_range range = {
		.notifier = &bench->mirror,
		.start = start,
		.end = start + CALL_SIZE,
		.hmm_pfns = bench->pfns,
		.default_flags = request,
		.dev_private_owner = bench,
	};
	int err;

	range.notifier_seq = mmu_interval_read_begin(range.notifier);
	mmap_read_lock(bench->mm);
	meter_start(meter);
	err = hmm_range_fault(&range);
	meter_stop(meter, CALL_PAGES);
	mmap_read_unlock(bench->mm);
	meter->name = "call";
	return err;
}

/* Check pfns[] against the content and the order of the area. */
static int mirror_check(struct bench *bench, enum hmm_bench_content content,
			unsigned int order)
{
	unsigned int map_order = order == HPAGE_PMD_ORDER ? order : 0;
	bool on_device = content == HMM_BENCH_DEVICE;
	unsigned long i;

	for (i = 0; i < CALL_PAGES; i++) {
		unsigned long pfn = bench->pfns[i];
		struct folio *folio;

		if (!(pfn & HMM_PFN_VALID) || !(pfn & HMM_PFN_WRITE))
			return -ENODATA;
		folio = page_folio(hmm_pfn_to_page(pfn));
		if (folio_is_device_private(folio) != on_device)
			return -EXDEV;
		if (folio_order(folio) != order ||
		    hmm_pfn_to_map_order(pfn) != map_order)
			return -EUCLEAN;
	}
	return 0;
}

static unsigned int row_mirror_order(const struct bench_row *row)
{
	return row->content == HMM_BENCH_DEVICE ? row->move_order : row->order;
}

static int mirror_row_call(struct bench *bench, unsigned long start,
			   unsigned long request)
{
	const struct bench_row *row = bench->row;

	return mirror_call(bench, start, request, &bench->meters[0]) ?:
	       mirror_check(bench, row->content, row_mirror_order(row));
}

static int mirror_write_call(struct bench *bench, unsigned long start)
{
	return mirror_row_call(bench, start,
			       HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
}

static int mirror_snapshot_call(struct bench *bench, unsigned long start)
{
	return mirror_row_call(bench, start, 0);
}

static int mirror_area(struct bench *bench,
		       int (*call)(struct bench *bench, unsigned long start))
{
	int err;

	err = mmu_interval_notifier_insert(&bench->mirror, bench->mm,
					   bench->area, AREA_SIZE, &mirror_ops);
	if (err)
		return err;
	err = area_each(bench, call);
	mmu_interval_notifier_remove(&bench->mirror);
	return err;
}

static int mirror_write(struct bench *bench)
{
	return mirror_area(bench, mirror_write_call);
}

static int mirror_snapshot(struct bench *bench)
{
	return mirror_area(bench, mirror_snapshot_call);
}

/* Check the content after the work, outside of the measured windows. */
static int area_after_call(struct bench *bench, unsigned long start)
{
	const struct bench_row *row = bench->row;
	bool moved = row->after != row->content;
	struct meter unused = {};

	return mirror_call(bench, start, 0, &unused) ?:
	       mirror_check(bench, row->after,
			    moved ? row->move_order : row_mirror_order(row));
}

/* ---- Mirroring of mixed memory ---- */

#define READABLE	HMM_PFN_VALID
#define WRITABLE	(HMM_PFN_VALID | HMM_PFN_WRITE)

/* Results of a snapshot, for pages with even and with odd index */
static const unsigned long layout_results[HMM_BENCH_NR_LAYOUTS][2] = {
	[HMM_BENCH_ZERO] = { READABLE, READABLE },
	[HMM_BENCH_ZERO_HOLES] = { READABLE, 0 },
	[HMM_BENCH_ZERO_PRESENT] = { READABLE, WRITABLE },
	[HMM_BENCH_HOLES_PRESENT] = { 0, WRITABLE },
	[HMM_BENCH_FORKED] = { READABLE, READABLE },
	[HMM_BENCH_SCATTERED] = { WRITABLE, WRITABLE },
	[HMM_BENCH_STRIPES] = { WRITABLE, READABLE },
	[HMM_BENCH_HINTED] = { 0, 0 },
};

static int mixed_check(struct bench *bench, unsigned long request)
{
	unsigned long i, expected;

	for (i = 0; i < MIXED_PAGES; i++) {
		expected = layout_results[bench->row->layout][i & 1];
		if (request & HMM_PFN_REQ_WRITE)
			expected = WRITABLE;
		if ((bench->pfns[i] & WRITABLE) != expected)
			return -ENODATA;
	}
	return 0;
}

static int mixed_once(struct bench *bench, struct hmm_range *range)
{
	struct meter *meter = &bench->meters[0];
	int err;

	memset(bench->pfns, 0, sizeof(bench->pfns));
	range->notifier_seq = mmu_interval_read_begin(range->notifier);
	mmap_read_lock(bench->mm);
	meter_start(meter);
	err = hmm_range_fault(range);
	if (range->default_flags)
		meter_stop_long(meter, err ? 0 : MIXED_PAGES);
	else
		meter_stop(meter, MIXED_PAGES);
	mmap_read_unlock(bench->mm);
	meter->calls++;
	return err;
}

/* Like a driver, retry with a new sequence until the range is done. */
static int mixed_area(struct bench *bench, unsigned long request)
{
	struct hmm_range range = {
		.notifier = &bench->mirror,
		.start = bench->area,
		.hmm_pfns = bench->pfns,
		.default_flags = request,
		.dev_private_owner = bench,
	};
	int err = 0;

	bench->meters[0].name = "call";
	for (; range.start < bench->area + AREA_SIZE && !err;
	     range.start += MIXED_SIZE) {
		range.end = range.start + MIXED_SIZE;
		do {
			err = mixed_once(bench, &range);
			cond_resched();
		} while (err == -EBUSY && !fatal_signal_pending(current));
		err = err ?: mixed_check(bench, request);
	}
	return err;
}

static int mixed_row(struct bench *bench, unsigned long request)
{
	int err;

	err = mmu_interval_notifier_insert(&bench->mirror, bench->mm,
					   bench->area, AREA_SIZE, &mirror_ops);
	if (err)
		return err;
	err = mixed_area(bench, request);
	mmu_interval_notifier_remove(&bench->mirror);
	return err;
}

static int mixed_write(struct bench *bench)
{
	return mixed_row(bench, HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
}

static int mixed_read(struct bench *bench)
{
	return mixed_row(bench, HMM_PFN_REQ_FAULT);
}

static int mixed_snapshot(struct bench *bench)
{
	return mixed_row(bench, 0);
}

static int hint_pte(pte_t *ptep, unsigned long addr, void *data)
{
	struct bench *bench = data;

	set_pte_at(bench->mm, addr, ptep, pte_modify(*ptep, PAGE_NONE));
	return 0;
}

/* Make all pages NUMA-hinted, like a scan of NUMA balancing. */
static int area_hint(struct bench *bench)
{
	int err;

	if (!IS_ENABLED(CONFIG_NUMA_BALANCING))
		return -EOPNOTSUPP;
	mmap_write_lock(bench->mm);
	err = apply_to_existing_page_range(bench->mm, bench->area, AREA_SIZE,
					   hint_pte, bench);
	mmap_write_unlock(bench->mm);
	return err;
}

static int notifier_insert(struct bench *bench, unsigned long i)
{
	unsigned long size = AREA_SIZE / NR_NOTIFIERS;
	int err;

	err = mmu_interval_notifier_insert(&bench->many[i], bench->mm,
					   bench->area + i * size, size,
					   &mirror_ops);
	if (err)
		bench->many[i].mm = NULL;
	return err;
}

static int notifiers_insert(struct bench *bench)
{
	struct meter *meter = &bench->meters[0];
	unsigned long i;
	int err = 0;

	meter->name = "insert";
	for (i = 0; i < NR_NOTIFIERS && !err; i++) {
		meter_start(meter);
		err = notifier_insert(bench, i);
		meter_stop(meter, 1);
	}
	return err;
}

static void notifiers_remove(struct bench *bench)
{
	struct meter *meter = &bench->meters[1];
	unsigned long i;

	meter->name = "remove";
	for (i = 0; i < NR_NOTIFIERS; i++) {
		if (!bench->many[i].mm)
			continue;
		meter_start(meter);
		mmu_interval_notifier_remove(&bench->many[i]);
		meter_stop(meter, 1);
	}
}

/*
 * Insert all notifiers and remove them, in the order of their addresses. The
 * first subscription of a process costs more, so make another one before.
 */
static int notifiers(struct bench *bench)
{
	int err;

	bench->many = kvcalloc(NR_NOTIFIERS, sizeof(*bench->many), GFP_KERNEL);
	if (!bench->many)
		return -ENOMEM;
	err = mmu_interval_notifier_insert(&bench->mirror, bench->mm,
					   bench->area, AREA_SIZE, &mirror_ops);
	if (!err) {
		err = notifiers_insert(bench);
		notifiers_remove(bench);
		mmu_interval_notifier_remove(&bench->mirror);
	}
	kvfree(bench->many);
	bench->many = NULL;
	return err;
}

/* ---- Migration ---- */

/*
 * All pages of the call must migrate, in folios of the order of the row. If the
 * implementation splits large folios that the row moves whole, or leaves those
 * alone that the row moves in pages, the row is not available.
 */
static int moved_check(struct bench *bench, unsigned long npages)
{
	unsigned int order = bench->row->move_order;
	unsigned long i;

	if (npages != CALL_PAGES)
		return -EBUSY;
	for (i = 0; i < npages; i += 1UL << order) {
		if (!(bench->move.src[i] & MIGRATE_PFN_MIGRATE))
			return !i && bench->row->order > order ? -EOPNOTSUPP :
								 -EBUSY;
		if (source_order(bench->move.src[i]) != order)
			return -EOPNOTSUPP;
	}
	return 0;
}

static void phase_stop(struct meter *meter, const char *name)
{
	meter_stop(meter, CALL_PAGES);
	meter->name = name;
}

static int migrate_call(struct bench *bench, struct migrate_vma *args,
			enum hmm_bench_content where)
{
	struct meter *meter = bench->meters;
	int err;

	meter_start(meter);
	err = migrate_vma_setup(args);
	phase_stop(meter++, "setup");
	if (err)
		return err;

	err = moved_check(bench, args->npages) ?:
	      driver_take_pages(bench, &bench->move, args->npages, where);

	meter_start(meter);
	migrate_vma_pages(args);
	phase_stop(meter++, "pages");
	err = err ?: moved_check(bench, args->npages);

	meter_start(meter);
	migrate_vma_finalize(args);
	phase_stop(meter, "finalize");
	return err;
}

static int migrate_range(struct bench *bench, unsigned long start,
			 unsigned long select, enum hmm_bench_content where)
{
	struct migrate_vma args = {
		.start = start,
		.end = start + CALL_SIZE,
		.src = bench->move.src,
		.dst = bench->move.dst,
		.pgmap_owner = bench,
		.flags = select,
	};
	int err = -EFAULT;

	if (bench->row->move_order)
		args.flags |= COMPOUND_SELECT;
	mmap_read_lock(bench->mm);
	args.vma = vma_lookup(bench->mm, start);
	if (args.vma)
		err = migrate_call(bench, &args, where);
	mmap_read_unlock(bench->mm);
	/* A kernel may define the flag without supporting large folios. */
	if (err == -EINVAL && args.flags & COMPOUND_SELECT)
		return -EOPNOTSUPP;
	return err;
}

static int to_device_call(struct bench *bench, unsigned long start)
{
	return migrate_range(bench, start, MIGRATE_VMA_SELECT_SYSTEM,
			     HMM_BENCH_DEVICE);
}

static int to_system_call(struct bench *bench, unsigned long start)
{
	return migrate_range(bench, start, MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
			     HMM_BENCH_SYSTEM);
}

static int to_device(struct bench *bench)
{
	return area_each(bench, to_device_call);
}

static int to_system(struct bench *bench)
{
	return area_each(bench, to_system_call);
}

/* The same by device pfns, like a driver that evicts all its memory. */
static int evict_call(struct bench *bench, unsigned long first)
{
	struct move_buffers *move = &bench->move;
	struct meter *meter = bench->meters;
	int err;

	memset(move->dst, 0, sizeof(move->dst));
	meter_start(meter);
	err = migrate_device_range(move->src, first, CALL_PAGES);
	phase_stop(meter++, "setup");
	if (err)
		return err;

	err = driver_take_pages(bench, move, CALL_PAGES, HMM_BENCH_SYSTEM);

	meter_start(meter);
	migrate_device_pages(move->src, move->dst, CALL_PAGES);
	phase_stop(meter++, "pages");

	meter_start(meter);
	migrate_device_finalize(move->src, move->dst, CALL_PAGES);
	phase_stop(meter, "finalize");
	return err;
}

static int evict(struct bench *bench)
{
	unsigned long at;
	int err = 0;

	for (at = 0; at < bench->used && !err; at += CALL_PAGES) {
		err = evict_call(bench, bench->first_pfn + at);
		cond_resched();
	}
	return err;
}

/* ---- The table ---- */

#define ROW_AGAIN(row_name, before, what, behind) {			\
	.name = row_name, .content = HMM_BENCH_ ## before,		\
	.again = true, .work = what, .after = HMM_BENCH_ ## behind,	\
}

#define ROW(row_name, before, fill_order, moves, what, behind) {	\
	.name = row_name, .content = HMM_BENCH_ ## before,		\
	.order = fill_order, .move_order = moves,			\
	.work = what, .after = HMM_BENCH_ ## behind,			\
}

/* Mixed memory; the work checks its content afterwards. */
#define MIXED(row_name, how, what) {					\
	.name = row_name, .content = HMM_BENCH_SYSTEM,			\
	.layout = HMM_BENCH_ ## how, .work = what,			\
	.after = HMM_BENCH_HOLES,					\
}

static const struct bench_row bench_rows[] = {
	ROW("fault_4k", SYSTEM, 0, 0, mirror_write, SYSTEM),
	ROW("snapshot_4k", SYSTEM, 0, 0, mirror_snapshot, SYSTEM),
	ROW("fault_private_4k", DEVICE, 0, 0, mirror_write, DEVICE),
	ROW("fault_pmd", SYSTEM, ORDER_2M, 0, mirror_write, SYSTEM),
	ROW("snapshot_pmd", SYSTEM, ORDER_2M, 0, mirror_snapshot, SYSTEM),
	MIXED("zero_write", ZERO, mixed_write),
	MIXED("zero_holes_write", ZERO_HOLES, mixed_write),
	MIXED("zero_read", ZERO, mixed_read),
	MIXED("zero_snapshot", ZERO, mixed_snapshot),
	MIXED("zero_present_snapshot", ZERO_PRESENT, mixed_snapshot),
	MIXED("hole_present_snapshot", HOLES_PRESENT, mixed_snapshot),
	MIXED("forked_write", FORKED, mixed_write),
	MIXED("scattered_snapshot", SCATTERED, mixed_snapshot),
	MIXED("stripes_snapshot", STRIPES, mixed_snapshot),
	MIXED("hinted_snapshot", HINTED, mixed_snapshot),
	MIXED("hinted_write", HINTED, mixed_write),
	ROW("notifier", HOLES, 0, 0, notifiers, HOLES),
	ROW("to_device_4k", SYSTEM, 0, 0, to_device, DEVICE),
	ROW("to_device_split", SYSTEM, ORDER_2M, 0, to_device, DEVICE),
	ROW("to_device_split_64k", SYSTEM, ORDER_64K, 0, to_device, DEVICE),
	ROW("to_system_4k", DEVICE, 0, 0, to_system, SYSTEM),
	ROW_AGAIN("to_device_again_4k", SYSTEM, to_device, DEVICE),
	ROW_AGAIN("to_system_again_4k", DEVICE, to_system, SYSTEM),
	ROW("hole_4k", HOLES, 0, 0, to_device, DEVICE),
	ROW("cpu_fault_4k", DEVICE, 0, 0, NULL, SYSTEM),
	ROW("evict_4k", DEVICE, 0, 0, evict, SYSTEM),
	ROW("to_device_64k", SYSTEM, ORDER_64K, ORDER_64K, to_device, DEVICE),
	ROW("to_system_64k", DEVICE, ORDER_64K, ORDER_64K, to_system, SYSTEM),
	ROW("to_device_2m", SYSTEM, ORDER_2M, ORDER_2M, to_device, DEVICE),
	ROW("to_system_2m", DEVICE, ORDER_2M, ORDER_2M, to_system, SYSTEM),
	ROW("hole_2m", HOLES, ORDER_2M, ORDER_2M, to_device, DEVICE),
	ROW("cpu_fault_2m", DEVICE, ORDER_2M, ORDER_2M, NULL, SYSTEM),
	ROW("memremap", HOLES, 0, 0, plug_and_unplug, HOLES),
	{
		.name = "memremap_cpu", .content = HMM_BENCH_HOLES,
		.cpu_time = true, .work = plug_and_unplug,
		.after = HMM_BENCH_HOLES,
	},
};

static int bench_query(void __user *arg)
{
	const struct bench_row *row;
	struct hmm_bench_row query;

	if (copy_from_user(&query, arg, sizeof(query)))
		return -EFAULT;
	if (query.row >= ARRAY_SIZE(bench_rows))
		return -ENOENT;
	row = &bench_rows[query.row];
	query.order = row->order;
	query.content = row->content;
	query.layout = row->layout;
	query.pad = 0;
	query.counting = count;
	query.area_size = AREA_SIZE;
	query.touch_step = row->work ? 0 : PAGE_SIZE << row->move_order;
	strscpy_pad(query.name, row->name);
	return copy_to_user(arg, &query, sizeof(query)) ? -EFAULT : 0;
}

static void row_end(struct bench *bench)
{
	if (!bench->row)
		return;
	metering_end();
	bench->row = NULL;
	mmdrop(bench->mm);
	bench->mm = NULL;
}

static int row_first_trip(struct bench *bench)
{
	int err = to_device(bench);

	if (!err)
		err = to_system(bench);
	bench->downwards = true;
	return err;
}

static int row_prepare(struct bench *bench)
{
	const struct bench_row *row = bench->row;
	int err;

	if (row->move_order && !COMPOUND_PFN)
		return -EOPNOTSUPP;
	if (row->content == HMM_BENCH_HOLES)
		return 0;
	if (row->layout == HMM_BENCH_HINTED)
		return area_hint(bench);
	if (row->layout != HMM_BENCH_UNIFORM)
		return 0;
	err = area_each(bench, area_filled_call);
	if (!err && row->again)
		err = row_first_trip(bench);
	if (!err && row->content == HMM_BENCH_DEVICE)
		err = to_device(bench);
	memset(bench->meters, 0, sizeof(bench->meters));
	return err;
}

static int bench_start(struct bench *bench, void __user *arg)
{
	struct hmm_bench_start start;
	int err;

	if (copy_from_user(&start, arg, sizeof(start)))
		return -EFAULT;
	if (start.row >= ARRAY_SIZE(bench_rows))
		return -ENOENT;
	if (start.pad || !start.addr || !IS_ALIGNED(start.addr, PMD_SIZE) ||
	    start.addr > TASK_SIZE - AREA_SIZE)
		return -EINVAL;

	mutex_lock(&bench->lock);
	row_end(bench);
	err = device_is_empty(bench) ? 0 : -EUCLEAN;
	if (!err) {
		bench->used = 0;
		bench->downwards = false;
		atomic_long_set(&bench->freed, 0);
		bench->row = &bench_rows[start.row];
		bench->mm = current->mm;
		mmgrab(bench->mm);
		bench->area = start.addr;
		err = row_prepare(bench);
		memset(bench->meters, 0, sizeof(bench->meters));
		memset(&bench->pause, 0, sizeof(bench->pause));
		if (err)
			row_end(bench);
		else if (!bench->row->work)
			metering_begin(&bench->meters[0]);
	}
	mutex_unlock(&bench->lock);
	return err;
}

static int bench_work(struct bench *bench)
{
	int err = -EINVAL;

	mutex_lock(&bench->lock);
	if (bench->mm == current->mm && bench->row->work) {
		metering_begin(NULL);
		err = bench->row->work(bench);
		metering_end();
	}
	mutex_unlock(&bench->lock);
	return err;
}

/* User space did the work; only the driver work was measured here. */
static void touch_done(struct bench *bench, u64 touch_ticks)
{
	struct meter *meter = &bench->meters[0];

	meter->name = "fault";
	meter->units = AREA_SIZE >> PAGE_SHIFT;
	meter->ticks = touch_ticks - bench->pause.ticks;
}

static void phase_fill(struct hmm_bench_phase *phase, const struct meter *meter)
{
	strscpy_pad(phase->name, meter->name ?: "");
	phase->units = meter->units;
	phase->instructions = meter->ticks;
	phase->calls = meter->calls;
	memcpy(phase->events, meter->events, sizeof(phase->events));
}

static int row_finish(struct bench *bench, struct hmm_bench_finish *finish)
{
	unsigned int i;

	metering_end();
	if (!bench->row->work)
		touch_done(bench, finish->touch_ticks);
	for (i = 0; i < HMM_BENCH_MAX_PHASES; i++)
		phase_fill(&finish->phases[i], &bench->meters[i]);
	if (bench->row->after == HMM_BENCH_HOLES)
		return 0;
	return mirror_area(bench, area_after_call);
}

static int bench_finish(struct bench *bench, void __user *arg)
{
	struct hmm_bench_finish finish;
	int err = -EINVAL;

	if (copy_from_user(&finish, arg, sizeof(finish)))
		return -EFAULT;
	mutex_lock(&bench->lock);
	if (bench->mm == current->mm) {
		err = row_finish(bench, &finish);
		row_end(bench);
	}
	mutex_unlock(&bench->lock);
	if (!err && copy_to_user(arg, &finish, sizeof(finish)))
		err = -EFAULT;
	return err;
}

static struct bench *the_bench;

static long bench_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case HMM_BENCH_ROW:
		return bench_query(user);
	case HMM_BENCH_START:
		return bench_start(the_bench, user);
	case HMM_BENCH_WORK:
		return bench_work(the_bench);
	case HMM_BENCH_FINISH:
		return bench_finish(the_bench, user);
	default:
		return -ENOTTY;
	}
}

static int bench_release(struct inode *inode, struct file *file)
{
	struct bench *bench = the_bench;

	mutex_lock(&bench->lock);
	row_end(bench);
	if (!device_is_empty(bench))
		evict(bench);
	mutex_unlock(&bench->lock);
	return 0;
}

static const struct file_operations bench_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = bench_ioctl,
	.release = bench_release,
};

static struct miscdevice bench_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hmm_bench",
	.fops = &bench_fops,
	.mode = 0600,
};

static int bench_setup(struct bench *bench)
{
	int err;

	err = device_open(bench);
	if (err)
		return err;
	err = count ? events_start() : 0;
	if (err)
		goto out_device;
	err = misc_register(&bench_misc);
	if (err)
		goto out_events;
	return 0;
out_events:
	events_stop();
out_device:
	device_close(bench);
	return err;
}

static int __init bench_init(void)
{
	int err;

	err = meter_calibrate();
	if (err)
		return err;
	the_bench = kvzalloc(sizeof(*the_bench), GFP_KERNEL);
	if (!the_bench)
		return -ENOMEM;
	mutex_init(&the_bench->lock);
	mutex_init(&the_bench->fault_lock);
	err = bench_setup(the_bench);
	if (err)
		kvfree(the_bench);
	return err;
}
module_init(bench_init);

static void __exit bench_exit(void)
{
	misc_deregister(&bench_misc);
	events_stop();
	device_close(the_bench);
	kvfree(the_bench);
}
module_exit(bench_exit);

MODULE_DESCRIPTION("Cost of heterogeneous memory management");
MODULE_LICENSE("GPL");
