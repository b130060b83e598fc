// SPDX-License-Identifier: GPL-2.0-only
/*
 * A dummy device: a short but complete driver that uses heterogeneous memory
 * management. It tests the subsystem and is an example to start a driver from.
 *
 *   process                  this file                      "hardware"
 *
 *   page table  --- range fault, loaded if still good --->  page table
 *               --- invalidation ------------------------>  (dmirror::pt)
 *   memory      <== migration, CPU fault, eviction ======>  memory
 *                                                           (dmirror_chunk)
 *
 * Opening a device file mirrors the address space of the process on the
 * device (struct dmirror). The ioctls of the file make the device access that
 * address space, see lib/test_hmm_uapi.h. There are two devices with private
 * memory, and one with coherent memory for each address given to the module.
 *
 * The page table of the device
 *
 *   is an xarray. An entry is made like one of hardware: the pfn, and bits for
 *   write permission, exclusive access and local memory. All entries are
 *   stored by dpt_load(), from results of hmm_range_fault() or
 *   make_device_exclusive(), under the lock of the table and only if
 *   mmu_interval_read_retry() saw no invalidation. They are removed by
 *   dmirror_invalidate(). Therefore an entry always names a page that the
 *   process has mapped. It needs no reference, and the device can access the
 *   page while it holds the lock.
 *
 *   Migration follows the same rules. It begins with an invalidation, which
 *   removes the entries of the pages that move. The device looks them up again
 *   by a range fault, which waits until the migration has finished.
 *
 *   When the file is closed, exclusive pages are restored, to save the CPU the
 *   faults.
 *
 *   Two invalidations are caused by the mirror itself, and the owner in the
 *   range tells it so. For its own exclusive access it keeps all entries, as
 *   nothing changes for it. For its own migration to the device it keeps the
 *   entries of local memory, as those pages do not move. The owner of the
 *   latter is the mirror. It cannot be the device, as for migration to system
 *   memory: a process may open a device twice, and the other mirror must not
 *   ignore the invalidation.
 *
 * The memory of the device
 *
 *   comes in chunks, each with a pagemap. The CPU cannot address private
 *   memory, so each private page in use has a page of RAM for its contents, in
 *   page->zone_device_data. Of a large folio, only the first page has room for
 *   that, and the RAM is contiguous. A device page does not refer to the file
 *   that migrated it: it may outlive the file, and belongs to other processes,
 *   too, after fork().
 *
 *   A chunk consists of blocks of the size of the largest folio. A block is
 *   handed out whole or in aligned parts, and is whole again when all of its
 *   pages are free, however a folio was split in between.
 *
 *   Running out of device memory is not an error. A large folio for which no
 *   part of a block is free, or for which there is no contiguous RAM, moves to
 *   single pages. A page without a destination stays in system memory. A device
 *   gives up all chunks at once, by a command or when the module is removed,
 *   after all pages have been evicted. A page that is locked or referenced
 *   cannot be evicted; eviction retries until it succeeds.
 *
 * Lock order
 *
 *	dmirror_device::resize	a mutex: adding and removing chunks
 *	  mmap lock
 *	    page lock		of a migration, or of the fault that calls
 *				dmirror_migrate_to_ram()
 *	      dmirror_device::lock	free pages; any context, so irqs are off
 *	    invalidation
 *	      lock of dmirror::pt	a spinlock, so that an invalidation is
 *				never refused
 *
 *   Chunks are added before the mmap lock is taken: memory hotplug is slow and
 *   would delay all other users of the mmap lock. dmirror_migrate_to_ram()
 *   takes dmirror_device::lock only, and no device page is faulted under that
 *   lock. Nothing sleeps under the lock of a page table, as reclaim can cause
 *   invalidations. If the xarray has to grow, dpt_load() drops the lock,
 *   allocates, and checks for invalidations again.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/init.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "test_hmm_uapi.h"

#define CHUNK_SIZE	SZ_256M
#define CHUNK_PAGES	(CHUNK_SIZE >> PAGE_SHIFT)

/* Pages in one range fault or one migration */
#define BATCH_PAGES	64

/* The largest folio, and the pages in one migration */
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define LARGE_ORDER	HPAGE_PMD_ORDER
#else
#define LARGE_ORDER	0
#endif
#define LARGE_PAGES	BIT(LARGE_ORDER)
#define MOVE_PAGES	max(LARGE_PAGES, BATCH_PAGES + 0UL)

/* How many pages the device looks up in advance, see work_ahead() */
#define AHEAD_PAGES	4096

/* Limit for a mapping of a device file */
#define MMAP_PAGES	1024

static unsigned long spm_addr_dev0;
module_param(spm_addr_dev0, ulong, 0444);
MODULE_PARM_DESC(spm_addr_dev0,
		 "Physical address of 256 MiB for the first coherent device");

static unsigned long spm_addr_dev1;
module_param(spm_addr_dev1, ulong, 0444);
MODULE_PARM_DESC(spm_addr_dev1,
		 "Physical address of 256 MiB for the second coherent device");

/**
 * struct dmirror_device - one of the devices
 * @misc: the device file
 * @type: MEMORY_DEVICE_PRIVATE or MEMORY_DEVICE_COHERENT
 * @spm_addr: physical address of coherent memory
 * @resize: held to change @chunks and @closed
 * @chunks: the memory of the device
 * @closed: @chunks are about to be removed, allocation fails
 * @lock: protects the members below
 * @whole: blocks of which all pages are free
 * @partial: blocks of which some pages are free
 * @nr_free: number of free pages
 * @nr_reserved: upper limit of the pages that running migrations allocate
 * @nr_used: number of allocated pages
 * @idle: woken when @nr_used drops to 0
 */
struct dmirror_device {
	struct miscdevice misc;
	enum memory_type type;
	unsigned long spm_addr;

	struct mutex resize;	/* taken before the mmap lock */
	struct list_head chunks;
	bool closed;

	spinlock_t lock;	/* taken in any context: irqs off */
	struct list_head whole;
	struct list_head partial;
	unsigned long nr_free;
	unsigned long nr_reserved;
	unsigned long nr_used;
	wait_queue_head_t idle;
};

/**
 * struct dmirror_block - LARGE_PAGES of device memory
 * @node: in dmirror_device::whole or dmirror_device::partial, or in no list if
 *	no page is free
 * @chunk: the chunk that it is part of
 * @nr_free: number of free pages
 */
struct dmirror_block {
	struct list_head node;
	struct dmirror_chunk *chunk;
	unsigned long nr_free;
};

#define CHUNK_BLOCKS	(CHUNK_PAGES / LARGE_PAGES)

/**
 * struct dmirror_chunk - CHUNK_SIZE of device memory
 * @pagemap: the pagemap of its pages
 * @device: the device that it belongs to
 * @node: in dmirror_device::chunks
 * @used: a bit for each page
 * @blocks: its pages, in order
 */
struct dmirror_chunk {
	struct dev_pagemap pagemap;
	struct dmirror_device *device;
	struct list_head node;
	DECLARE_BITMAP(used, CHUNK_PAGES);
	struct dmirror_block blocks[];
};

/**
 * struct dmirror - an address space mirrored on a device: an open device file
 * @device: the device
 * @notifier: subscription to the whole address space
 * @pt: the page table of the device; its lock is the driver lock of @notifier
 * @flags: HMM_DMIRROR_FLAG bits
 */
struct dmirror {
	struct dmirror_device *device;
	struct mmu_interval_notifier notifier;
	struct xarray pt;
	unsigned long flags;
};

#define FLAG_FAIL_ALLOC_BIT	0
static_assert(BIT(FLAG_FAIL_ALLOC_BIT) == HMM_DMIRROR_FLAG_FAIL_ALLOC);

/* ---- The page table of the device ---- */

#define DPT_WRITE	BIT(0)	/* the device may write */
#define DPT_ATOMIC	BIT(1)	/* the device has exclusive access */
#define DPT_LOCAL	BIT(2)	/* the page is memory of the device */
#define DPT_PFN_SHIFT	3

static void *dpt_entry(struct page *page, unsigned long flags)
{
	return xa_mk_value(page_to_pfn(page) << DPT_PFN_SHIFT | flags);
}

static struct page *dpt_page(void *entry)
{
	return pfn_to_page(xa_to_value(entry) >> DPT_PFN_SHIFT);
}

static bool dpt_allows(void *entry, unsigned long flags)
{
	return entry && (xa_to_value(entry) & flags) == flags;
}

static bool device_owns(const struct dmirror_device *device,
			const struct page *page)
{
	return (is_device_private_page(page) ||
		is_device_coherent_page(page)) &&
	       page_pgmap(page)->owner == device;
}

/*
 * The caller has set the sequence number. Hence dpt_load() does not store stale
 * entries while the lock is dropped to reschedule.
 */
static void dpt_zap(struct dmirror *mirror,
		    const struct mmu_notifier_range *range, bool keep_local)
{
	unsigned long last = (range->end - 1) >> PAGE_SHIFT;
	XA_STATE(xas, &mirror->pt, range->start >> PAGE_SHIFT);
	unsigned int seen = 0;
	void *entry;

	xas_for_each(&xas, entry, last) {
		if (!keep_local || !dpt_allows(entry, DPT_LOCAL))
			xas_store(&xas, NULL);
		if (++seen % XA_CHECK_SCHED ||
		    !mmu_notifier_range_blockable(range))
			continue;
		/* xas_pause() may use a node that xas_store() has freed. */
		xas_set(&xas, xas.xa_index + 1);
		xas_unlock(&xas);
		cond_resched();
		xas_lock(&xas);
	}
}

/* xa_destroy() would free all entries with interrupts off. */
static void dpt_free(struct dmirror *mirror)
{
	unsigned long index;
	void *entry;

	xa_for_each(&mirror->pt, index, entry) {
		xa_erase(&mirror->pt, index);
		cond_resched();
	}
}

/* Other events leave range->owner uninitialised. */
static bool dmirror_announced(const struct dmirror *mirror,
			      const struct mmu_notifier_range *range,
			      enum mmu_notifier_event event)
{
	return range->event == event && range->owner == mirror;
}

static bool dmirror_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long cur_seq)
{
	struct dmirror *mirror = container_of(notifier, struct dmirror,
					      notifier);

	if (dmirror_announced(mirror, range, MMU_NOTIFY_EXCLUSIVE))
		return true;
	xa_lock(&mirror->pt);
	mmu_interval_set_seq(notifier, cur_seq);
	dpt_zap(mirror, range,
		dmirror_announced(mirror, range, MMU_NOTIFY_MIGRATE));
	xa_unlock(&mirror->pt);
	return true;
}

static const struct mmu_interval_notifier_ops dmirror_notifier_ops = {
	.invalidate = dmirror_invalidate,
};

/**
 * struct dmirror_pass - one lookup in the page table of the process
 * @range: the range and the request
 * @pfns: the results
 * @mirror: the mirror that asks
 * @use: consumes the results, under the lock of the device's page table;
 *	returns -EBUSY if mmu_interval_read_retry() reports an invalidation
 * @flags: additional DPT flags for all entries that are stored
 * @first: the entry stored for the first page, or NULL
 * @prots: buffer for the result of a snapshot
 * @unlocked: faults may drop the mmap lock
 * @last: this is the last attempt
 * @deadline: time of the last attempt, in jiffies
 */
struct dmirror_pass {
	struct hmm_range range;
	unsigned long pfns[BATCH_PAGES];
	struct dmirror *mirror;
	int (*use)(struct dmirror_pass *pass);
	unsigned long flags;
	void *first;
	u8 *prots;
	bool unlocked;
	bool last;
	unsigned long deadline;
};

static void pass_init(struct dmirror_pass *pass, struct dmirror *mirror,
		      unsigned long start, unsigned long end)
{
	*pass = (struct dmirror_pass) {
		.range.notifier = &mirror->notifier,
		.range.start = start,
		.range.end = min(end, start + BATCH_PAGES * PAGE_SIZE),
		.range.hmm_pfns = pass->pfns,
		.range.dev_private_owner = mirror->device,
		.mirror = mirror,
		.deadline = jiffies +
			    msecs_to_jiffies(5 * HMM_RANGE_DEFAULT_TIMEOUT),
	};
}

static unsigned long pass_npages(const struct dmirror_pass *pass)
{
	return (pass->range.end - pass->range.start) >> PAGE_SHIFT;
}

static bool pass_is_stale(const struct dmirror_pass *pass)
{
	return mmu_interval_read_retry(pass->range.notifier,
				       pass->range.notifier_seq);
}

static bool pass_is_over(const struct dmirror_pass *pass)
{
	return time_after_eq(jiffies, pass->deadline) ||
	       fatal_signal_pending(current);
}

static void *dpt_entry_of(const struct dmirror_pass *pass,
			  unsigned long hmm_pfn)
{
	struct page *page = hmm_pfn_to_page(hmm_pfn);
	unsigned long flags = pass->flags;

	if (hmm_pfn & HMM_PFN_WRITE)
		flags |= DPT_WRITE;
	if (device_owns(pass->mirror->device, page))
		flags |= DPT_LOCAL;
	return dpt_entry(page, flags);
}

/*
 * Keep an exclusive entry: the mirror ignores the invalidation of its own
 * exclusive access, so the result may be older than the entry. An event that
 * ends exclusive access removes the entry.
 */
static void dpt_load_one(struct dmirror_pass *pass, struct xa_state *xas,
			 unsigned long i)
{
	void *entry = NULL, *old;

	if (pass->pfns[i] & HMM_PFN_VALID) {
		entry = dpt_entry_of(pass, pass->pfns[i]);
		xas_set(xas, (pass->range.start >> PAGE_SHIFT) + i);
		old = xas_load(xas);
		if (dpt_allows(old, DPT_ATOMIC))
			entry = old;
		else
			xas_store(xas, entry);
	}
	if (!i)
		pass->first = xas_error(xas) ? NULL : entry;
}

/*
 * Nothing else stores entries. xas_nomem() allocates with the lock dropped, so
 * check for invalidations again after it.
 */
static int dpt_load(struct dmirror_pass *pass)
{
	XA_STATE(xas, &pass->mirror->pt, 0);
	unsigned long i = 0, nr = pass_npages(pass);

	do {
		xas_lock(&xas);
		if (pass_is_stale(pass))
			xas_set_err(&xas, -EBUSY);
		while (i < nr && !xas_error(&xas)) {
			dpt_load_one(pass, &xas, i);
			if (!xas_error(&xas))
				i++;
		}
		xas_unlock(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));
	return xas_error(&xas);
}

/*
 * Take the mmap lock first: a writer ends its invalidations before it drops the
 * lock, so mmu_interval_read_begin() does not wait for them once more.
 */
static int pass_read_locked(struct dmirror_pass *pass)
{
	struct mmu_interval_notifier *notifier = pass->range.notifier;
	int ret;

	if (mmap_read_lock_killable(notifier->mm))
		return -EINTR;
	pass->range.notifier_seq = mmu_interval_read_begin(notifier);
	ret = hmm_range_fault(&pass->range);
	mmap_read_unlock(notifier->mm);
	return ret;
}

static int pass_read_unlocked(struct dmirror_pass *pass)
{
	long left = max_t(long, pass->deadline - jiffies, 1);

	return hmm_range_fault_unlocked_timeout(&pass->range, left);
}

/* On error, the results before the page that caused it are valid: use them. */
static int pass_try(struct dmirror_pass *pass)
{
	int ret, used;

	memset(pass->pfns, 0, sizeof(pass->pfns));
	ret = pass->unlocked ? pass_read_unlocked(pass) :
			       pass_read_locked(pass);
	if (ret == -EBUSY || ret == -EINTR)
		return ret;
	used = pass->use(pass);
	return used ?: ret;
}

/*
 * Return: 0; -EFAULT, -EPERM or -ENOMEM if one page failed and those before it
 * are done; -EINTR; -EBUSY if the deadline was over before it succeeded.
 */
static int pass_run(struct dmirror_pass *pass)
{
	int ret;

	do {
		cond_resched();
		ret = pass_try(pass);
	} while (ret == -EBUSY && !pass_is_over(pass));
	return ret;
}

/* ---- The memory of the device ---- */

static struct dmirror_chunk *page_chunk(struct page *page)
{
	return container_of(page_pgmap(page), struct dmirror_chunk, pagemap);
}

static struct dmirror_device *page_device(struct page *page)
{
	return page_chunk(page)->device;
}

/* The page that has the contents. */
static struct page *page_ram(struct page *page)
{
	struct folio *folio = page_folio(page);
	struct page *ram;

	if (!is_device_private_page(page))
		return page;
	ram = folio->page.zone_device_data;
	return ram + folio_page_idx(folio, page);
}

/* Index of a page in its chunk */
static unsigned long chunk_index(struct dmirror_chunk *chunk, struct page *page)
{
	return page_to_pfn(page) - PHYS_PFN(chunk->pagemap.range.start);
}

/* Return: the first of 2^@order pages that are free and aligned, or NULL. */
static struct page *block_pop(struct dmirror_block *block, unsigned int order)
{
	struct dmirror_chunk *chunk = block->chunk;
	unsigned long first = (block - chunk->blocks) * LARGE_PAGES;
	unsigned long end = first + LARGE_PAGES, nr = 1UL << order, i;

	if (block->nr_free < nr)
		return NULL;
	i = bitmap_find_next_zero_area(chunk->used, end, first, nr, nr - 1);
	if (i >= end)
		return NULL;
	bitmap_set(chunk->used, i, nr);
	block->nr_free -= nr;
	return pfn_to_page(PHYS_PFN(chunk->pagemap.range.start) + i);
}

/* Put the block into the list that it belongs to. */
static void device_sort(struct dmirror_device *device,
			struct dmirror_block *block)
{
	if (block->nr_free == LARGE_PAGES)
		list_move(&block->node, &device->whole);
	else if (block->nr_free)
		list_move(&block->node, &device->partial);
	else
		list_del_init(&block->node);
}

/* Take from a block that is in use already, if one has room. */
static struct page *device_pop_locked(struct dmirror_device *device,
				      unsigned int order)
{
	struct dmirror_block *block;
	struct page *page = NULL;

	list_for_each_entry(block, &device->partial, node) {
		page = block_pop(block, order);
		if (page)
			break;
	}
	if (!page) {
		block = list_first_entry_or_null(&device->whole,
						 typeof(*block), node);
		page = block ? block_pop(block, order) : NULL;
	}
	if (page)
		device_sort(device, block);
	return page;
}

/* Return: the first of 2^@order pages, at most LARGE_PAGES; or NULL. */
static struct page *device_pop(struct dmirror_device *device,
			       unsigned int order)
{
	struct page *page = NULL;

	spin_lock_irq(&device->lock);
	if (!device->closed)
		page = device_pop_locked(device, order);
	if (page) {
		device->nr_free -= 1UL << order;
		device->nr_used += 1UL << order;
	}
	spin_unlock_irq(&device->lock);
	return page;
}

static void device_push(struct dmirror_device *device, struct page *page,
			unsigned int order)
{
	struct dmirror_chunk *chunk = page_chunk(page);
	unsigned long irq, nr = 1UL << order, i = chunk_index(chunk, page);
	struct dmirror_block *block = &chunk->blocks[i / LARGE_PAGES];

	spin_lock_irqsave(&device->lock, irq);
	bitmap_clear(chunk->used, i, nr);
	block->nr_free += nr;
	device_sort(device, block);
	device->nr_free += nr;
	device->nr_used -= nr;
	if (!device->nr_used)
		wake_up(&device->idle);
	spin_unlock_irqrestore(&device->lock, irq);
}

static void ram_free(struct page *ram, unsigned int order)
{
	unsigned long i;

	for (i = 0; i < 1UL << order; i++)
		__free_page(ram + i);
}

/* Single pages, as the folio may be split. */
static struct page *ram_alloc(unsigned int order)
{
	struct page *ram = alloc_pages(GFP_HIGHUSER | __GFP_NORETRY |
				       __GFP_NOWARN, order);

	if (ram && order)
		split_page(ram, order);
	return ram;
}

static void dmirror_folio_free(struct folio *folio)
{
	struct page *page = folio_page(folio, 0);
	unsigned int order = folio_order(folio);

	if (is_device_private_page(page))
		ram_free(page->zone_device_data, order);
	device_push(page_device(page), page, order);
}

/* @tail inherited the RAM of @head. */
static void dmirror_folio_split(struct folio *head, struct folio *tail)
{
	struct page *ram = head->page.zone_device_data;

	if (tail && is_device_private_page(&head->page))
		tail->page.zone_device_data = ram + (&tail->page - &head->page);
}

static vm_fault_t dmirror_migrate_to_ram(struct vm_fault *vmf);

static const struct dev_pagemap_ops dmirror_pagemap_ops = {
	.folio_free = dmirror_folio_free,
	.folio_split = dmirror_folio_split,
	.migrate_to_ram = dmirror_migrate_to_ram,
};

static void chunk_add_pages(struct dmirror_chunk *chunk)
{
	struct dmirror_device *device = chunk->device;
	unsigned long i;

	for (i = 0; i < CHUNK_BLOCKS; i++) {
		struct dmirror_block *block = &chunk->blocks[i];

		INIT_LIST_HEAD(&block->node);
		block->chunk = chunk;
		block->nr_free = LARGE_PAGES;
	}
	spin_lock_irq(&device->lock);
	for (i = CHUNK_BLOCKS; i--; )
		device_sort(device, &chunk->blocks[i]);
	device->nr_free += CHUNK_PAGES;
	spin_unlock_irq(&device->lock);
}

/* Private memory needs an unused range, coherent memory has its address. */
static struct resource *chunk_claim(struct dmirror_device *device)
{
	const char *name = device->misc.name;
	struct resource *res;

	if (device->type == MEMORY_DEVICE_PRIVATE)
		return request_free_mem_region(&iomem_resource, CHUNK_SIZE,
					       name);
	if (!list_empty(&device->chunks))
		return NULL;
	res = request_mem_region(device->spm_addr, CHUNK_SIZE, name);
	if (!res)
		pr_warn_ratelimited("%s: no memory is reserved at %#lx\n",
				    name, device->spm_addr);
	return res;
}

static void chunk_disclaim(struct dmirror_chunk *chunk)
{
	const struct range *range = &chunk->pagemap.range;

	/* request_free_mem_region() rounds up to a section. */
	release_mem_region(range->start, range_len(range));
	kvfree(chunk);
}

static bool device_add_chunk(struct dmirror_device *device)
{
	struct dmirror_chunk *chunk;
	struct resource *res;

	chunk = kvzalloc(struct_size(chunk, blocks, CHUNK_BLOCKS), GFP_KERNEL);
	if (!chunk)
		return false;
	res = chunk_claim(device);
	if (IS_ERR_OR_NULL(res)) {
		kvfree(chunk);
		return false;
	}
	chunk->device = device;
	chunk->pagemap.type = device->type;
	chunk->pagemap.owner = device;
	chunk->pagemap.ops = &dmirror_pagemap_ops;
	chunk->pagemap.range.start = res->start;
	chunk->pagemap.range.end = res->end;
	chunk->pagemap.nr_range = 1;
	if (IS_ERR(memremap_pages(&chunk->pagemap, NUMA_NO_NODE))) {
		chunk_disclaim(chunk);
		return false;
	}
	list_add(&chunk->node, &device->chunks);
	chunk_add_pages(chunk);
	return true;
}

static void device_remove_chunks(struct dmirror_device *device)
{
	struct dmirror_chunk *chunk, *next;

	spin_lock_irq(&device->lock);
	INIT_LIST_HEAD(&device->whole);
	INIT_LIST_HEAD(&device->partial);
	device->nr_free = 0;
	spin_unlock_irq(&device->lock);
	list_for_each_entry_safe(chunk, next, &device->chunks, node) {
		list_del(&chunk->node);
		memunmap_pages(&chunk->pagemap);
		chunk_disclaim(chunk);
	}
}

static bool device_is_short(struct dmirror_device *device)
{
	return READ_ONCE(device->nr_free) < READ_ONCE(device->nr_reserved) &&
	       !READ_ONCE(device->closed);
}

/*
 * Add chunks until @nr pages are free beside the other reservations. A
 * reservation is not reduced by the pages allocated from it, so concurrent
 * migrations may add a chunk a little early.
 *
 * Return: false if no chunk can be added, or the task is being killed.
 */
static bool device_reserve(struct dmirror_device *device, unsigned long nr)
{
	bool grown = true;

	spin_lock_irq(&device->lock);
	device->nr_reserved += nr;
	spin_unlock_irq(&device->lock);
	while (grown && device_is_short(device)) {
		if (mutex_lock_killable(&device->resize))
			return false;
		if (device_is_short(device))
			grown = device_add_chunk(device);
		mutex_unlock(&device->resize);
	}
	return grown;
}

static void device_unreserve(struct dmirror_device *device, unsigned long nr)
{
	spin_lock_irq(&device->lock);
	device->nr_reserved -= nr;
	spin_unlock_irq(&device->lock);
}

/* ---- Migration ---- */

/**
 * struct dmirror_move - one migration
 * @device: the device that the pages move to or from
 * @mirror: the mirror whose command it is, or NULL
 * @alloc: allocates a destination of an order, locked and referenced
 * @hole_order: order of the folios that fill holes smaller than a PMD, or 0
 * @args: arguments of migrate_vma_*(); without a VMA only the arrays are used
 * @moved: number of pages that moved
 * @lacking: number of pages that stayed because allocation failed
 * @full: adding a chunk failed, do not try again
 */
struct dmirror_move {
	struct dmirror_device *device;
	struct dmirror *mirror;
	struct page *(*alloc)(struct dmirror_move *move, unsigned long i,
			      unsigned int order);
	unsigned int hole_order;
	struct migrate_vma args;
	unsigned long moved;
	unsigned long lacking;
	bool full;
};

/* Do not invoke the OOM killer: failure means that the device is full. */
static struct page *move_alloc_device(struct dmirror_move *move,
				      unsigned long i, unsigned int order)
{
	struct dmirror_device *device = move->device;
	struct page *page = device_pop(device, order);

	if (!page)
		return NULL;
	if (device->type == MEMORY_DEVICE_PRIVATE) {
		struct page *ram = ram_alloc(order);

		if (!ram) {
			device_push(device, page, order);
			return NULL;
		}
		page->zone_device_data = ram;
	}
	zone_device_folio_init((struct folio *)page, page->pgmap, order);
	return page;
}

/*
 * Follow the memory policy of the VMA if there is one. Eviction has none, and
 * must not use the policy of the task that happens to evict.
 */
static struct page *move_alloc_system(struct dmirror_move *move,
				      unsigned long i, unsigned int order)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;
	struct folio *folio;

	/* There are single pages if no large folio can be had easily. */
	if (order)
		gfp |= __GFP_NORETRY;
	if (move->args.vma)
		folio = vma_alloc_folio(gfp, order, move->args.vma,
					move->args.start + (i << PAGE_SHIFT),
					order > 0);
	else
		folio = __folio_alloc_node(gfp, order, numa_mem_id());
	if (!folio)
		return NULL;
	folio_lock(folio);
	return folio_page(folio, 0);
}

static struct page *move_alloc(struct dmirror_move *move, unsigned long i,
			       unsigned int order)
{
	if (move->mirror && test_and_clear_bit(FLAG_FAIL_ALLOC_BIT,
					       &move->mirror->flags))
		return NULL;
	return move->alloc(move, i, order);
}

/*
 * Copy, as the DMA engine of a real device would do. The source is not mapped
 * any more. Fill the destination of a hole with zeroes now: the process sees
 * the page as soon as migrate_vma_pages() inserts it. On the way to system
 * memory leave holes alone.
 */
static void move_contents(struct page *to, struct page *from, unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++) {
		if (from)
			copy_highpage(page_ram(to + i), page_ram(from + i));
		else
			clear_highpage(page_ram(to + i));
		cond_resched();
	}
}

/* Return: the destination of 2^@order pages from entry @i on, or 0. */
static unsigned long move_copy_to(struct dmirror_move *move, struct page *from,
				  unsigned long i, unsigned int order)
{
	struct page *to = move_alloc(move, i, order);

	if (!to)
		return 0;
	move_contents(to, from, 1UL << order);
	return migrate_pfn(page_to_pfn(to)) |
	       (order ? MIGRATE_PFN_COMPOUND : 0);
}

static void move_copy_pages(struct dmirror_move *move, struct page *from,
			    unsigned long i, unsigned long nr)
{
	unsigned long *dst = move->args.dst + i;
	unsigned long k;

	for (k = 0; k < nr; k++) {
		dst[k] = move_copy_to(move, from ? from + k : NULL, i + k, 0);
		if (!dst[k])
			move->lacking++;
	}
}

/* The pages that an entry of src[] stands for. */
static unsigned long move_nr(unsigned long mpfn)
{
	struct page *page = migrate_pfn_to_page(mpfn);

	if (!(mpfn & MIGRATE_PFN_COMPOUND))
		return 1;
	return page ? compound_nr(page) : LARGE_PAGES;
}

/* The number of holes from entry @i on that one folio is to fill. */
static unsigned long move_nr_holes(const struct dmirror_move *move,
				   unsigned long i)
{
	const struct migrate_vma *args = &move->args;
	unsigned long k, nr = 1UL << move->hole_order;

	if (!IS_ALIGNED((args->start >> PAGE_SHIFT) + i, nr) ||
	    nr > args->npages - i)
		return 1;
	for (k = 0; k < nr; k++)
		if (args->src[i + k] != MIGRATE_PFN_MIGRATE)
			return 1;
	return nr;
}

/* Fill dst[] from entry @i on. Return: the number of entries that are done. */
static unsigned long move_copy_entry(struct dmirror_move *move, unsigned long i)
{
	struct migrate_vma *args = &move->args;
	struct page *from = migrate_pfn_to_page(args->src[i]);
	unsigned long nr = move_nr(args->src[i]);

	if (!(args->src[i] & MIGRATE_PFN_MIGRATE))
		return nr;
	if (!from && move->alloc != move_alloc_device)
		return nr;
	if (!from && nr == 1)
		nr = move_nr_holes(move, i);
	if (nr > 1)
		args->dst[i] = move_copy_to(move, from, i, ilog2(nr));
	if (!args->dst[i])
		move_copy_pages(move, from, i, nr);
	return nr;
}

static void move_copy(struct dmirror_move *move)
{
	unsigned long i = 0;

	while (i < move->args.npages)
		i += move_copy_entry(move, i);
}

/*
 * migrate_vma_pages() has cleared MIGRATE for pages that did not move, and has
 * split the entries that have pages as destination.
 */
static void move_count(struct dmirror_move *move)
{
	unsigned long i, nr;

	for (i = 0; i < move->args.npages; i += nr) {
		nr = move_nr(move->args.src[i]);
		if (move->args.src[i] & MIGRATE_PFN_MIGRATE)
			move->moved += nr;
	}
}

/* Arrays for @nr pages */
static bool move_alloc_arrays(struct dmirror_move *move, unsigned long nr)
{
	move->args.src = kvcalloc(2 * nr, sizeof(*move->args.src), GFP_KERNEL);
	move->args.dst = move->args.src + nr;
	return move->args.src;
}

static void move_free_arrays(struct dmirror_move *move)
{
	kvfree(move->args.src);
}

static int move_vma(struct dmirror_move *move)
{
	int ret = migrate_vma_setup(&move->args);

	if (ret)
		return ret;
	move_copy(move);
	migrate_vma_pages(&move->args);
	move_count(move);
	migrate_vma_finalize(&move->args);
	return 0;
}

/* The pages of the folio of a fault, as far as they are in the VMA */
static void fault_set_range(const struct vm_fault *vmf, struct migrate_vma *args)
{
	struct folio *folio = page_folio(vmf->page);
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned long before = folio_page_idx(folio, vmf->page) << PAGE_SHIFT;
	unsigned long after = folio_size(folio) - before;

	args->start = addr - min(before, addr - vmf->vma->vm_start);
	args->end = addr + min(after, vmf->vma->vm_end - addr);
}

/*
 * A CPU fault on a private page. A large folio comes back whole; if it is not
 * mapped as a whole, or if there is no memory for that, page by page, and at
 * least the page that the CPU needs. If that stays, too, the CPU faults again.
 */
static vm_fault_t dmirror_migrate_to_ram(struct vm_fault *vmf)
{
	struct dmirror_device *device = page_device(vmf->page);
	unsigned long src, dst;
	struct dmirror_move move = {
		.device = device,
		.alloc = move_alloc_system,
		.args = {
			.vma = vmf->vma,
			.pgmap_owner = device,
			.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
				 MIGRATE_VMA_SELECT_COMPOUND,
			.fault_page = vmf->page,
		},
	};
	int ret;

	fault_set_range(vmf, &move.args);
	if (move.args.end - move.args.start == PAGE_SIZE ||
	    !move_alloc_arrays(&move, PHYS_PFN(move.args.end -
					       move.args.start))) {
		move.args.start = vmf->address & PAGE_MASK;
		move.args.end = move.args.start + PAGE_SIZE;
		move.args.src = &src;
		move.args.dst = &dst;
	}
	ret = move_vma(&move);
	if (move.args.src != &src)
		move_free_arrays(&move);
	if (ret)
		return VM_FAULT_SIGBUS;
	return move.lacking && !move.moved ? VM_FAULT_OOM : 0;
}

/* Evict by pfn: the driver does not know where these pages are mapped. */
static void device_evict_some(struct dmirror_move *move, unsigned long pfn)
{
	unsigned long *src = move->args.src, *dst = move->args.dst;

	memset_l(dst, 0, MOVE_PAGES);
	migrate_device_range(src, pfn, MOVE_PAGES);
	move_copy(move);
	migrate_device_pages(src, dst, MOVE_PAGES);
	migrate_device_finalize(src, dst, MOVE_PAGES);
}

static void device_evict_chunk(struct dmirror_move *move,
			       struct dmirror_chunk *chunk)
{
	unsigned long pfn = PHYS_PFN(chunk->pagemap.range.start);
	unsigned long end = pfn + CHUNK_PAGES;

	for (; pfn < end && READ_ONCE(move->device->nr_used);
	     pfn += MOVE_PAGES) {
		device_evict_some(move, pfn);
		cond_resched();
	}
}

/* Try to evict all pages. Return: true if no page is in use. */
static bool device_evict(struct dmirror_device *device, struct dmirror *mirror)
{
	struct dmirror_move move = {
		.device = device,
		.mirror = mirror,
		.alloc = move_alloc_system,
		.args.npages = MOVE_PAGES,
	};
	struct dmirror_chunk *chunk;

	if (move_alloc_arrays(&move, MOVE_PAGES)) {
		list_for_each_entry(chunk, &device->chunks, node)
			device_evict_chunk(&move, chunk);
		move_free_arrays(&move);
	}
	return wait_event_timeout(device->idle, !READ_ONCE(device->nr_used),
				  HZ / 20);
}

static void device_set_closed(struct dmirror_device *device, bool closed)
{
	spin_lock_irq(&device->lock);
	device->closed = closed;
	spin_unlock_irq(&device->lock);
}

/* ---- Commands ---- */

/**
 * struct dmirror_access - how the device accesses memory
 * @request: HMM_PFN_REQ flags for a device fault; with 0 the fault is only a
 *	lookup, and the access fails with -ENOENT if that finds no page
 * @need: DPT flags that an entry must have
 * @write: the device writes
 * @unlocked: faults may drop the mmap lock
 */
struct dmirror_access {
	unsigned long request;
	unsigned long need;
	bool write;
	bool unlocked;
};

static const struct dmirror_access access_read = {
	.request = HMM_PFN_REQ_FAULT,
};

static const struct dmirror_access access_read_unlocked = {
	.request = HMM_PFN_REQ_FAULT,
	.unlocked = true,
};

static const struct dmirror_access access_write = {
	.request = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
	.need = DPT_WRITE,
	.write = true,
};

static const struct dmirror_access access_write_unlocked = {
	.request = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
	.need = DPT_WRITE,
	.write = true,
	.unlocked = true,
};

static const struct dmirror_access access_migrated = {
	.need = DPT_LOCAL,
};

static const struct dmirror_access access_exclusive = {
	.need = DPT_ATOMIC,
};

/**
 * struct dmirror_work - a command that accesses a range page by page
 * @mirror: the mirror
 * @cmd: the command; cmd->cpages is the number of pages done
 * @access: how pages are accessed
 * @end: end of the range
 * @ahead: end of the pages that were looked up in advance
 * @looks_ahead: look up pages in advance; set by a fault, cleared by an error
 * @bounce: page for the copy between the device and the user buffer. The buffer
 *	may be in device memory, so it must not be accessed under a lock
 */
struct dmirror_work {
	struct dmirror *mirror;
	struct hmm_dmirror_cmd *cmd;
	const struct dmirror_access *access;
	unsigned long end;
	unsigned long ahead;
	bool looks_ahead;
	struct page *bounce;
};

static unsigned long cmd_end(const struct hmm_dmirror_cmd *cmd)
{
	return cmd->addr + (cmd->npages << PAGE_SHIFT);
}

/*
 * The range may be as large as the address space, so let a fatal signal end the
 * command. Ignore other signals: a program whose timer fires faster than the
 * command takes would restart it forever.
 */
static int check_signals(void)
{
	cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

static unsigned long work_addr(const struct dmirror_work *work)
{
	return work->cmd->addr + (work->cmd->cpages << PAGE_SHIFT);
}

static void __user *work_buffer(const struct dmirror_work *work)
{
	return u64_to_user_ptr(work->cmd->ptr) +
	       (work->cmd->cpages << PAGE_SHIFT);
}

/*
 * Return: the address of the first exclusive page of a batch, or its end. A
 * fault on such a page ends exclusive access, so do not look it up in advance.
 */
static unsigned long work_exclusive(const struct dmirror_work *work,
				    unsigned long addr, unsigned long end)
{
	unsigned long index, first = addr >> PAGE_SHIFT;
	void *entry;

	end = min(end, addr + BATCH_PAGES * PAGE_SIZE);
	xa_for_each_range(&work->mirror->pt, index, entry, first,
			  (end >> PAGE_SHIFT) - 1)
		if (dpt_allows(entry, DPT_ATOMIC))
			return index << PAGE_SHIFT;
	return end;
}

static int work_pass(struct dmirror_work *work, struct dmirror_pass *pass,
		     unsigned long addr, unsigned long end)
{
	pass_init(pass, work->mirror, addr, end);
	pass->range.default_flags = work->access->request;
	pass->unlocked = work->access->unlocked;
	pass->use = dpt_load;
	return pass_run(pass);
}

/*
 * A device fault. Look up the pages behind the faulting one, too, but ignore
 * their errors.
 */
static int work_fault(struct dmirror_work *work)
{
	unsigned long addr = work_addr(work), next = addr + PAGE_SIZE;
	struct dmirror_pass pass;
	int ret;

	if (work->access->request)
		work->cmd->faults++;
	ret = work_pass(work, &pass, addr,
			work_exclusive(work, next, work->end));
	if (ret == -EBUSY)
		ret = work_pass(work, &pass, addr, next);
	if (ret == -EBUSY || ret == -EINTR)
		return ret;
	if (!dpt_allows(pass.first, work->access->need)) {
		if (ret)
			return ret;
		/*
		 * hmm_range_fault() may report a page of this device
		 * without WRITE. Try again.
		 */
		return pass.first && work->access->request ? 0 : -ENOENT;
	}
	if (!ret && work->ahead < pass.range.end) {
		work->ahead = pass.range.end;
		work->looks_ahead = true;
	}
	return 0;
}

/* The end of the window, which moves by whole batches. */
static unsigned long work_ahead(const struct dmirror_work *work)
{
	unsigned long ahead = work_addr(work) + AHEAD_PAGES * PAGE_SIZE;

	if (!work->looks_ahead)
		return 0;
	return min(work->end, ALIGN_DOWN(ahead, BATCH_PAGES * PAGE_SIZE));
}

/*
 * After a fault, look up the next pages of the range in advance. Without
 * invalidations a command then takes one fault, whatever its length.
 */
static void work_look_ahead(struct dmirror_work *work)
{
	unsigned long end, goal = work_ahead(work);
	struct dmirror_pass pass;

	while (work->ahead < goal && !fatal_signal_pending(current)) {
		end = work_exclusive(work, work->ahead, goal);
		if (end == work->ahead) {
			work->ahead += PAGE_SIZE;
			continue;
		}
		if (work_pass(work, &pass, work->ahead, end)) {
			work->looks_ahead = false;
			goal = 0;
		}
		work->ahead = pass.range.end;
	}
}

/* Access one page, if the page table of the device allows it. */
static bool work_copy(struct dmirror_work *work)
{
	struct xarray *pt = &work->mirror->pt;
	void *entry, *bounce = page_address(work->bounce);
	struct page *page;

	xa_lock(pt);
	entry = xa_load(pt, work_addr(work) >> PAGE_SHIFT);
	if (!dpt_allows(entry, work->access->need)) {
		xa_unlock(pt);
		return false;
	}
	page = page_ram(dpt_page(entry));
	if (work->access->write)
		memcpy_to_page(page, 0, bounce, PAGE_SIZE);
	else
		memcpy_from_page(bounce, page, 0, PAGE_SIZE);
	xa_unlock(pt);
	return true;
}

/*
 * An invalidation may remove the entry before it is used, so fault in a loop.
 * Look ahead after the access only: it takes time, and the entry might be
 * invalidated each time before it is used.
 */
static int work_access(struct dmirror_work *work)
{
	int ret = 0;

	while (!ret && !work_copy(work))
		ret = fatal_signal_pending(current) ? -EINTR : work_fault(work);
	if (!ret)
		work_look_ahead(work);
	return ret;
}

static int work_page(struct dmirror_work *work)
{
	void *bounce = page_address(work->bounce);
	int ret;

	ret = check_signals();
	if (ret)
		return ret;
	if (work->access->write &&
	    copy_from_user(bounce, work_buffer(work), PAGE_SIZE))
		return -EFAULT;
	ret = work_access(work);
	if (ret)
		return ret;
	if (!work->access->write &&
	    copy_to_user(work_buffer(work), bounce, PAGE_SIZE))
		return -EFAULT;
	work->cmd->cpages++;
	return 0;
}

static int dmirror_access(struct dmirror *mirror, struct hmm_dmirror_cmd *cmd,
			  const struct dmirror_access *access)
{
	struct dmirror_work work = {
		.mirror = mirror,
		.cmd = cmd,
		.access = access,
		.end = cmd_end(cmd),
		.bounce = alloc_page(GFP_KERNEL),
	};
	int ret = 0;

	if (!work.bounce)
		return -ENOMEM;
	while (!ret && cmd->cpages < cmd->npages)
		ret = work_page(&work);
	__free_page(work.bounce);
	return ret;
}

/* Return: the end of the batch, or an error. */
static long move_batch(struct dmirror_move *move, unsigned long start,
		       unsigned long end)
{
	struct mm_struct *mm = move->mirror->notifier.mm;
	struct migrate_vma *args = &move->args;
	struct vm_area_struct *vma;
	int ret = -EINVAL;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, start);
	if (vma && vma->vm_flags & VM_READ) {
		args->vma = vma;
		args->start = start;
		args->end = min3(end, ALIGN(start + 1, MOVE_PAGES * PAGE_SIZE),
				 vma->vm_end);
		ret = move_vma(move);
	}
	mmap_read_unlock(mm);
	return ret ?: args->end;
}

static long move_batch_to_device(struct dmirror_move *move,
				 unsigned long start, unsigned long end)
{
	long ret;

	if (move->full)
		return move_batch(move, start, end);
	move->full = !device_reserve(move->device, MOVE_PAGES);
	ret = move_batch(move, start, end);
	device_unreserve(move->device, MOVE_PAGES);
	return ret;
}

static int move_range(struct dmirror_move *move,
		      const struct hmm_dmirror_cmd *cmd)
{
	unsigned long addr = cmd->addr, end = cmd_end(cmd);
	bool to_device = move->alloc == move_alloc_device;
	long ret = 0;

	if (!move_alloc_arrays(move, MOVE_PAGES))
		return -ENOMEM;
	while (ret >= 0 && addr < end) {
		ret = check_signals();
		if (ret)
			break;
		ret = to_device ? move_batch_to_device(move, addr, end) :
				  move_batch(move, addr, end);
		addr = ret;
	}
	move_free_arrays(move);
	return min(ret, 0L);
}

static unsigned int mirror_hole_order(const struct dmirror *mirror)
{
	return FIELD_GET(HMM_DMIRROR_FLAG_HOLE_ORDER_MASK,
			 READ_ONCE(mirror->flags));
}

static int dmirror_migrate_to_device(struct dmirror *mirror,
				     struct hmm_dmirror_cmd *cmd)
{
	struct dmirror_move move = {
		.device = mirror->device,
		.mirror = mirror,
		.alloc = move_alloc_device,
		.hole_order = mirror_hole_order(mirror),
		.args.pgmap_owner = mirror,
		.args.flags = MIGRATE_VMA_SELECT_SYSTEM |
			      MIGRATE_VMA_SELECT_COMPOUND,
	};
	int ret = move_range(&move, cmd);

	if (ret)
		return ret;
	ret = dmirror_access(mirror, cmd, &access_migrated);
	return ret == -ENOENT && move.lacking ? -ENOMEM : ret;
}

static int dmirror_migrate_to_system(struct dmirror *mirror,
				     struct hmm_dmirror_cmd *cmd)
{
	struct dmirror_move move = {
		.device = mirror->device,
		.mirror = mirror,
		.alloc = move_alloc_system,
		.args.pgmap_owner = mirror->device,
		.args.flags = MIGRATE_VMA_SELECT_COMPOUND |
			      (mirror->device->type == MEMORY_DEVICE_PRIVATE ?
			       MIGRATE_VMA_SELECT_DEVICE_PRIVATE :
			       MIGRATE_VMA_SELECT_DEVICE_COHERENT),
	};
	int ret = move_range(&move, cmd);

	cmd->cpages = move.moved;
	return !ret && move.lacking ? -ENOMEM : ret;
}

static u8 snapshot_place(struct dmirror_device *device, struct page *page)
{
	bool local = device_owns(device, page);

	if (is_device_private_page(page))
		return local ? HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL :
			       HMM_DMIRROR_PROT_DEV_PRIVATE_REMOTE;
	if (is_device_coherent_page(page))
		return local ? HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
			       HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE;
	return is_zero_pfn(page_to_pfn(page)) ? HMM_DMIRROR_PROT_ZERO : 0;
}

static u8 snapshot_prot(struct dmirror_device *device, unsigned long hmm_pfn)
{
	unsigned int order = hmm_pfn_to_map_order(hmm_pfn);
	u8 prot = HMM_DMIRROR_PROT_READ;

	if (hmm_pfn & HMM_PFN_ERROR)
		return HMM_DMIRROR_PROT_ERROR;
	if (!(hmm_pfn & HMM_PFN_VALID))
		return HMM_DMIRROR_PROT_NONE;
	if (hmm_pfn & HMM_PFN_WRITE)
		prot = HMM_DMIRROR_PROT_WRITE;
	if (order == PMD_SHIFT - PAGE_SHIFT)
		prot |= HMM_DMIRROR_PROT_PMD;
	else if (order == PUD_SHIFT - PAGE_SHIFT)
		prot |= HMM_DMIRROR_PROT_PUD;
	return prot | snapshot_place(device, hmm_pfn_to_page(hmm_pfn));
}

static int snapshot_take(struct dmirror_pass *pass)
{
	struct dmirror *mirror = pass->mirror;
	bool stale;
	unsigned long i;

	xa_lock(&mirror->pt);
	stale = pass_is_stale(pass);
	for (i = 0; i < pass_npages(pass) && !stale; i++)
		pass->prots[i] = snapshot_prot(mirror->device, pass->pfns[i]);
	xa_unlock(&mirror->pt);
	return stale ? -EBUSY : 0;
}

static int dmirror_snapshot(struct dmirror *mirror, struct hmm_dmirror_cmd *cmd)
{
	void __user *to = u64_to_user_ptr(cmd->ptr);
	unsigned long addr, end = cmd_end(cmd);
	struct dmirror_pass pass;
	u8 prots[BATCH_PAGES];
	int ret;

	for (addr = cmd->addr; addr < end; addr = pass.range.end) {
		pass_init(&pass, mirror, addr, end);
		pass.prots = prots;
		pass.use = snapshot_take;
		ret = pass_run(&pass) ?: check_signals();
		if (ret)
			return ret;
		if (copy_to_user(to + cmd->cpages, prots, pass_npages(&pass)))
			return -EFAULT;
		cmd->cpages += pass_npages(&pass);
	}
	return 0;
}

/*
 * Hold the page lock until the entry is stored, so that no other mirror takes
 * the page over before. If the last attempt fails, restore the page.
 */
static int exclusive_try(struct dmirror_pass *pass)
{
	struct mm_struct *mm = pass->range.notifier->mm;
	struct folio *folio;
	struct page *page;
	int ret;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	pass->range.notifier_seq =
		mmu_interval_read_begin(pass->range.notifier);
	page = make_device_exclusive(mm, pass->range.start, pass->mirror,
				     &folio);
	if (IS_ERR(page)) {
		mmap_read_unlock(mm);
		return PTR_ERR(page);
	}
	pass->flags = DPT_ATOMIC;
	pass->pfns[0] = page_to_pfn(page) | HMM_PFN_VALID | HMM_PFN_WRITE;
	ret = dpt_load(pass);
	if (ret && (ret != -EBUSY || pass->last))
		restore_device_exclusive(mm, pass->range.start, page);
	folio_unlock(folio);
	folio_put(folio);
	mmap_read_unlock(mm);
	return ret;
}

static int exclusive_page(struct dmirror *mirror, unsigned long addr)
{
	struct dmirror_pass pass;
	int ret;

	pass_init(&pass, mirror, addr, addr + PAGE_SIZE);
	do {
		pass.last = pass_is_over(&pass);
		ret = exclusive_try(&pass);
	} while (ret == -EBUSY && !pass.last);
	return ret;
}

/* Return: the page, referenced, if access is still exclusive; or NULL. */
static struct page *exclusive_get(struct dmirror *mirror, unsigned long index)
{
	struct page *page = NULL;
	void *entry;

	xa_lock(&mirror->pt);
	entry = xa_load(&mirror->pt, index);
	if (dpt_allows(entry, DPT_ATOMIC)) {
		page = dpt_page(entry);
		get_page(page);
	}
	xa_unlock(&mirror->pt);
	return page;
}

/*
 * The page lock keeps other mirrors from taking the page over. Look again under
 * it, so as not to restore a page that another mirror has by now.
 */
static void exclusive_restore(struct dmirror *mirror, unsigned long index)
{
	struct page *page = exclusive_get(mirror, index), *again;

	if (!page)
		return;
	lock_page(page);
	again = exclusive_get(mirror, index);
	if (again == page)
		restore_device_exclusive(mirror->notifier.mm,
					 index << PAGE_SHIFT, page);
	if (again)
		put_page(again);
	unlock_page(page);
	put_page(page);
}

/* Restore all exclusive pages, unless the address space is gone. */
static void exclusive_restore_all(struct dmirror *mirror)
{
	struct mm_struct *mm = mirror->notifier.mm;
	unsigned long index;
	void *entry;

	if (!mmget_not_zero(mm))
		return;
	mmap_read_lock(mm);
	xa_for_each(&mirror->pt, index, entry) {
		if (dpt_allows(entry, DPT_ATOMIC))
			exclusive_restore(mirror, index);
		cond_resched();
	}
	mmap_read_unlock(mm);
	mmput(mm);
}

static int dmirror_exclusive(struct dmirror *mirror,
			     struct hmm_dmirror_cmd *cmd)
{
	unsigned long i;
	int ret = 0;

	for (i = 0; i < cmd->npages && !ret; i++)
		ret = check_signals() ?:
		      exclusive_page(mirror, cmd->addr + (i << PAGE_SHIFT));
	if (ret)
		return ret;
	ret = dmirror_access(mirror, cmd, &access_exclusive);
	/* A page was exclusive, but was revoked before the access. */
	return ret == -ENOENT ? -EBUSY : ret;
}

/* Return: the number of pages. */
static unsigned long exclusive_unlock_all(struct page **pages, int nr)
{
	unsigned long had = 0;
	int i;

	for (i = 0; i < nr; i++) {
		if (!pages[i])
			continue;
		unlock_page(pages[i]);
		put_page(pages[i]);
		had++;
		cond_resched();
	}
	return had;
}

/* The entries are not stored; a CPU fault restores each page. */
static int dmirror_exclusive_at_once(struct dmirror *mirror,
				     struct hmm_dmirror_cmd *cmd)
{
	struct mm_struct *mm = mirror->notifier.mm;
	struct page **pages = kvcalloc(cmd->npages, sizeof(*pages),
				       GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	int ret = -EINTR;

	if (!pages)
		return -ENOMEM;
	if (!mmap_read_lock_killable(mm)) {
		ret = make_device_exclusive_range(mm, cmd->addr, cmd_end(cmd),
						  pages, mirror);
		mmap_read_unlock(mm);
	}
	cmd->cpages = exclusive_unlock_all(pages, ret);
	kvfree(pages);
	return min(ret, 0);
}

static int dmirror_check_exclusive(struct dmirror *mirror,
				   struct hmm_dmirror_cmd *cmd)
{
	unsigned long first = cmd->addr >> PAGE_SHIFT;
	unsigned long index;
	void *entry;
	int ret;

	xa_for_each_range(&mirror->pt, index, entry, first,
			  first + cmd->npages - 1) {
		cmd->cpages = index - first;
		ret = check_signals();
		if (ret)
			return ret;
		if (dpt_allows(entry, DPT_ATOMIC))
			return -EPERM;
	}
	cmd->cpages = cmd->npages;
	return 0;
}

static int dmirror_release_memory(struct dmirror *mirror)
{
	struct dmirror_device *device = mirror->device;
	int ret = 0;

	if (mutex_lock_interruptible(&device->resize))
		return -EINTR;
	device_set_closed(device, true);
	while (!ret && !device_evict(device, mirror))
		ret = signal_pending(current) ? -EINTR : 0;
	if (!ret)
		device_remove_chunks(device);
	device_set_closed(device, false);
	mutex_unlock(&device->resize);
	return ret;
}

static int dmirror_set_flags(struct dmirror *mirror, u64 flags)
{
	unsigned int order = FIELD_GET(HMM_DMIRROR_FLAG_HOLE_ORDER_MASK, flags);

	if (flags & ~(HMM_DMIRROR_FLAG_FAIL_ALLOC |
		      HMM_DMIRROR_FLAG_HOLE_ORDER_MASK))
		return -EINVAL;
	if (order && (order == 1 || order >= LARGE_ORDER))
		return -EINVAL;
	WRITE_ONCE(mirror->flags, flags);
	return 0;
}

/* ---- The device files ---- */

static int cmd_check_range(const struct hmm_dmirror_cmd *cmd)
{
	if (!cmd->npages || cmd->npages > TASK_SIZE >> PAGE_SHIFT ||
	    !PAGE_ALIGNED(cmd->addr) || cmd->addr >= TASK_SIZE)
		return -EINVAL;
	return cmd_end(cmd) > TASK_SIZE ? -EINVAL : 0;
}

/* Commands on the address space: only for the owning process. */
static int dmirror_command(struct dmirror *mirror, unsigned int request,
			   struct hmm_dmirror_cmd *cmd)
{
	int ret = cmd_check_range(cmd);

	if (ret)
		return ret;
	if (mirror->notifier.mm != current->mm)
		return -EBADF;
	switch (request) {
	case HMM_DMIRROR_READ:
		return dmirror_access(mirror, cmd, &access_read);
	case HMM_DMIRROR_READ_UNLOCKED:
		return dmirror_access(mirror, cmd, &access_read_unlocked);
	case HMM_DMIRROR_WRITE:
		return dmirror_access(mirror, cmd, &access_write);
	case HMM_DMIRROR_WRITE_UNLOCKED:
		return dmirror_access(mirror, cmd, &access_write_unlocked);
	case HMM_DMIRROR_MIGRATE_TO_DEV:
		return dmirror_migrate_to_device(mirror, cmd);
	case HMM_DMIRROR_MIGRATE_TO_SYS:
		return dmirror_migrate_to_system(mirror, cmd);
	case HMM_DMIRROR_SNAPSHOT:
		return dmirror_snapshot(mirror, cmd);
	case HMM_DMIRROR_EXCLUSIVE:
		return dmirror_exclusive(mirror, cmd);
	case HMM_DMIRROR_CHECK_EXCLUSIVE:
		return dmirror_check_exclusive(mirror, cmd);
	case HMM_DMIRROR_EXCLUSIVE_AT_ONCE:
		return dmirror_exclusive_at_once(mirror, cmd);
	}
	return -ENOTTY;
}

static long dmirror_ioctl(struct file *file, unsigned int request,
			  unsigned long arg)
{
	struct hmm_dmirror_cmd __user *user = (void __user *)arg;
	struct dmirror *mirror = file->private_data;
	struct hmm_dmirror_cmd cmd;
	int ret;

	if (request != HMM_DMIRROR_COMMAND(_IOC_NR(request)) ||
	    _IOC_NR(request) > _IOC_NR(HMM_DMIRROR_EXCLUSIVE_AT_ONCE))
		return -ENOTTY;
	if (copy_from_user(&cmd, user, sizeof(cmd)))
		return -EFAULT;
	cmd.cpages = 0;
	cmd.faults = 0;
	if (request == HMM_DMIRROR_RELEASE)
		ret = dmirror_release_memory(mirror);
	else if (request == HMM_DMIRROR_FLAGS)
		ret = dmirror_set_flags(mirror, cmd.npages);
	else
		ret = dmirror_command(mirror, request, &cmd);
	if (copy_to_user(user, &cmd, sizeof(cmd)))
		return -EFAULT;
	return ret;
}

/* Map pages of the driver, as a device maps its doorbells. */
static int dmirror_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long addr;
	int ret = 0;

	if (vma_pages(vma) > MMAP_PAGES)
		return -EINVAL;
	vm_flags_set(vma, VM_DONTEXPAND);
	for (addr = vma->vm_start; addr < vma->vm_end && !ret;
	     addr += PAGE_SIZE) {
		struct page *page = alloc_page(GFP_HIGHUSER | __GFP_ZERO |
					       __GFP_ACCOUNT);

		if (!page)
			return -ENOMEM;
		ret = vm_insert_page(vma, addr, page);
		put_page(page);
	}
	return ret;
}

/* Set when module initialization cannot fail any more. */
static bool devices_ready;

static int dmirror_open(struct inode *inode, struct file *file)
{
	struct miscdevice *misc = file->private_data;
	struct dmirror *mirror;
	int ret;

	if (!READ_ONCE(devices_ready))
		return -ENODEV;
	mirror = kzalloc(sizeof(*mirror), GFP_KERNEL_ACCOUNT);
	if (!mirror)
		return -ENOMEM;
	mirror->device = container_of(misc, struct dmirror_device, misc);
	xa_init_flags(&mirror->pt, XA_FLAGS_ACCOUNT);
	ret = mmu_interval_notifier_insert(&mirror->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &dmirror_notifier_ops);
	if (ret) {
		kfree(mirror);
		return ret;
	}
	file->private_data = mirror;
	return 0;
}

/* The process may have exited, or run on with pages in device memory. */
static int dmirror_close(struct inode *inode, struct file *file)
{
	struct dmirror *mirror = file->private_data;

	exclusive_restore_all(mirror);
	mmu_interval_notifier_remove(&mirror->notifier);
	dpt_free(mirror);
	kfree(mirror);
	return 0;
}

static const struct file_operations dmirror_fops = {
	.owner = THIS_MODULE,
	.open = dmirror_open,
	.release = dmirror_close,
	.unlocked_ioctl = dmirror_ioctl,
	.mmap = dmirror_mmap,
};

#define DMIRROR_DEVICE(nr, memory) {		\
	.misc.minor = MISC_DYNAMIC_MINOR,	\
	.misc.name = "hmm_dmirror" #nr,		\
	.misc.fops = &dmirror_fops,		\
	.misc.mode = 0600,			\
	.type = MEMORY_DEVICE_ ## memory,	\
}

static struct dmirror_device dmirror_devices[] = {
	DMIRROR_DEVICE(0, PRIVATE),
	DMIRROR_DEVICE(1, PRIVATE),
	DMIRROR_DEVICE(2, COHERENT),
	DMIRROR_DEVICE(3, COHERENT),
};

static bool device_exists(const struct dmirror_device *device)
{
	return device->type == MEMORY_DEVICE_PRIVATE || device->spm_addr;
}

static int device_start(struct dmirror_device *device)
{
	mutex_init(&device->resize);
	INIT_LIST_HEAD(&device->chunks);
	INIT_LIST_HEAD(&device->whole);
	INIT_LIST_HEAD(&device->partial);
	spin_lock_init(&device->lock);
	init_waitqueue_head(&device->idle);
	return misc_register(&device->misc);
}

/* No file is open, but processes may still have pages in device memory. */
static void device_stop(struct dmirror_device *device)
{
	unsigned int tries = 0;

	misc_deregister(&device->misc);
	mutex_lock(&device->resize);
	device_set_closed(device, true);
	while (!device_evict(device, NULL))
		if (++tries % 200 == 0)
			pr_warn("%s: removal waits for %lu pages in use\n",
				device->misc.name, device->nr_used);
	device_remove_chunks(device);
	mutex_unlock(&device->resize);
}

static void devices_stop(unsigned int nr)
{
	while (nr--)
		if (device_exists(&dmirror_devices[nr]))
			device_stop(&dmirror_devices[nr]);
}

static int __init dmirror_init(void)
{
	unsigned int i;
	int ret;

	dmirror_devices[2].spm_addr = spm_addr_dev0;
	dmirror_devices[3].spm_addr = spm_addr_dev1;
	for (i = 0; i < ARRAY_SIZE(dmirror_devices); i++) {
		if (!device_exists(&dmirror_devices[i]))
			continue;
		ret = device_start(&dmirror_devices[i]);
		if (ret) {
			devices_stop(i);
			return ret;
		}
	}
	WRITE_ONCE(devices_ready, true);
	return 0;
}
module_init(dmirror_init);

static void __exit dmirror_exit(void)
{
	devices_stop(ARRAY_SIZE(dmirror_devices));
}
module_exit(dmirror_exit);

MODULE_DESCRIPTION("Dummy device for heterogeneous memory management");
MODULE_LICENSE("GPL");
