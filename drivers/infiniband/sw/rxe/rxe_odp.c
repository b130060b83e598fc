// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * On-demand paging: memory regions that mirror the process's page tables
 * instead of pinning its pages.
 *
 * Scope
 *
 *   Registration, invalidation, access by the packet engine, and prefetch of
 *   such regions. The table of a region and the walk that fills it are those of
 *   ib_umem_odp. rxe_mr.c decides which kind of region an access meets.
 *
 * Access
 *
 *   The packet engine runs in work items, which may sleep. An access takes
 *   umem_mutex, looks whether all pages are there with the rights that it
 *   needs, and copies. If something is missing, it drops the mutex and faults.
 *   ib_umem_odp_map_dma_and_lock() returns with the mutex held and the pages
 *   valid, so one fault is enough, and no invalidation comes between the fault
 *   and the copy.
 *
 *   Only dma_list[] tells whether a page may be used. Its rights are those of
 *   the result, not of the request, and a page with the right to write is dirty
 *   already.
 *
 * Time
 *
 *   While the responder waits for a page, the peer's transport timer runs. A
 *   fault on slow storage may take longer than all retries. The responder of a
 *   reliable connection therefore leaves the fault to a work item, waits for a
 *   part of the timeout, and then answers "receiver not ready": the peer asks
 *   again later, as often as it takes.
 *
 * Locks
 *
 *   mmap lock -> umem_mutex. Reclaim takes umem_mutex by way of the
 *   invalidation, so nothing is allocated under it. Atomic operations take
 *   their spinlock inside of it.
 *
 * Lifetime
 *
 *   Work items hold a reference to their region, and deregistration waits for
 *   them. They look at its state between two batches of pages. Memory windows
 *   hold a reference, too, so a region that they are bound to is not
 *   deregistered.
 */
#include <linux/hmm.h>
#include <linux/libnvdimm.h>
#include <linux/sched/signal.h>
#include <rdma/ib_umem_odp.h>

#include "rxe.h"

/* Bytes that are faulted or flushed with one hold of umem_mutex. */
#define RXE_ODP_BATCH	SZ_4M

/*
 * Bytes that have to be present before a responder begins. More could displace
 * one another for ever if memory is short.
 */
#define RXE_ODP_AHEAD	SZ_64M

/* Advice that waits for its work item. More of it is not followed. */
#define RXE_ODP_PREFETCHES	64

#define RXE_ODP_READ	ODP_READ_ALLOWED_BIT
#define RXE_ODP_WRITE	(ODP_READ_ALLOWED_BIT | ODP_WRITE_ALLOWED_BIT)

/* Prefetch has a queue of its own: it must not keep the responders waiting. */
static struct workqueue_struct *rxe_odp_wq, *rxe_odp_prefetch_wq;
static atomic_t rxe_odp_prefetches;

/**
 * struct rxe_odp_span - part of a region
 * @mr: region
 * @umem: its table
 * @addr: first address, of the process
 * @length: number of bytes, not 0
 * @rights: what each page must allow
 */
struct rxe_odp_span {
	struct rxe_mr *mr;
	struct ib_umem_odp *umem;
	u64 addr;
	u64 length;
	u64 rights;
};

/**
 * struct rxe_odp_fault - a fault that the responder may stop waiting for
 * @work: work item
 * @span: what to fault. Holds a reference to the region
 * @ret: result, once @done
 * @done: the fault is over
 * @users: the work item, and the responder as long as it is interested
 */
struct rxe_odp_fault {
	struct work_struct work;
	struct rxe_odp_span span;
	int ret;
	struct completion done;
	refcount_t users;
};

/**
 * struct rxe_odp_prefetch - advice that is followed in the background
 * @work: work item
 * @fault: fault missing pages, else only look
 * @nr: number of @span
 * @span: what to prefetch. Each holds a reference to its region
 */
struct rxe_odp_prefetch {
	struct work_struct work;
	bool fault;
	unsigned int nr;
	struct rxe_odp_span span[] __counted_by(nr);
};

/* The caller has checked the range. The user's address of iova is not iova. */
static struct rxe_odp_span rxe_odp_span(struct rxe_mr *mr, u64 iova, u64 length,
					u64 rights)
{
	return (struct rxe_odp_span) {
		.mr = mr,
		.umem = to_ib_umem_odp(mr->umem),
		.addr = mr->umem->address + (iova - mr->ibmr.iova),
		.length = length,
		.rights = rights,
	};
}

/* The next batch of @all, behind @done bytes. */
static struct rxe_odp_span rxe_odp_batch(const struct rxe_odp_span *all,
					 u64 done)
{
	struct rxe_odp_span batch = *all;

	batch.addr += done;
	batch.length = min_t(u64, all->length - done,
			     RXE_ODP_BATCH - batch.addr % RXE_ODP_BATCH);
	return batch;
}

static dma_addr_t rxe_odp_entry(const struct rxe_odp_span *span, u64 addr)
{
	struct ib_umem_odp *umem = span->umem;

	return umem->dma_list[(addr - ib_umem_start(umem)) >> umem->page_shift];
}

static bool rxe_odp_present(const struct rxe_odp_span *span)
{
	u64 addr, last = span->addr + span->length - 1;

	lockdep_assert_held(&span->umem->umem_mutex);
	for (addr = ALIGN_DOWN(span->addr, PAGE_SIZE); addr <= last;
	     addr += PAGE_SIZE)
		if (span->rights & ~rxe_odp_entry(span, addr))
			return false;
	return true;
}

static void rxe_odp_count(struct rxe_mr *mr, enum rxe_counters counter,
			  atomic64_t *stat, u64 nr)
{
	struct rxe_dev *rxe = to_rdev(mr->ibmr.device);

	atomic64_add(nr, &rxe->stats_counters[counter]);
	atomic64_add(nr, stat);
}

/*
 * Make the pages of @span present. Return 0 with umem_mutex held.
 *
 * A page may come without the right to write, if another device has it and its
 * driver does not give it back.
 */
static int rxe_odp_fault_in(const struct rxe_odp_span *span)
{
	long nr;

	if (span->rights & ODP_WRITE_ALLOWED_BIT && !span->umem->umem.writable)
		return -EPERM;
	nr = ib_umem_odp_map_dma_and_lock(span->umem, span->addr, span->length,
					  span->rights, true);
	if (nr < 0)
		return nr;
	rxe_odp_count(span->mr, RXE_CNT_PAGE_FAULTS,
		      &span->mr->odp_stats.faults, nr);
	if (rxe_odp_present(span))
		return 0;
	mutex_unlock(&span->umem->umem_mutex);
	return -EFAULT;
}

/* Return 0 with umem_mutex held and all pages of @span present. */
static int rxe_odp_lock(const struct rxe_odp_span *span)
{
	mutex_lock(&span->umem->umem_mutex);
	if (likely(rxe_odp_present(span)))
		return 0;
	mutex_unlock(&span->umem->umem_mutex);
	return rxe_odp_fault_in(span);
}

static void rxe_odp_unlock(const struct rxe_odp_span *span)
{
	mutex_unlock(&span->umem->umem_mutex);
}

/* umem_mutex is held, so the page stays. */
static struct page *rxe_odp_page(const struct rxe_odp_span *span, u64 addr)
{
	return ib_virt_dma_to_page(rxe_odp_entry(span, addr) &
				   ODP_DMA_ADDR_MASK);
}

/* Bytes from @addr to the end of its page, or of @span. */
static unsigned int rxe_odp_piece(const struct rxe_odp_span *span, u64 addr)
{
	return min_t(u64, span->addr + span->length - addr,
		     PAGE_SIZE - offset_in_page(addr));
}

/* ---- Access by the packet engine ---- */

/**
 * rxe_odp_copy() - copy between a packet and a region
 * @mr: region
 * @iova: where to start. The caller has checked the range
 * @buf: payload
 * @length: number of bytes, not 0
 * @dir: direction
 *
 * Return: 0, or a negative error code if a page cannot be made present.
 */
int rxe_odp_copy(struct rxe_mr *mr, u64 iova, void *buf, unsigned int length,
		 enum rxe_mr_copy_dir dir)
{
	struct rxe_odp_span span =
		rxe_odp_span(mr, iova, length, dir == RXE_TO_MR_OBJ ?
			     RXE_ODP_WRITE : RXE_ODP_READ);
	u64 addr = span.addr, end = span.addr + length;
	int ret = rxe_odp_lock(&span);

	if (ret)
		return ret;
	while (addr < end) {
		unsigned int bytes = rxe_odp_piece(&span, addr);
		u8 *page = kmap_local_page(rxe_odp_page(&span, addr));

		if (dir == RXE_TO_MR_OBJ)
			memcpy(page + offset_in_page(addr), buf, bytes);
		else
			memcpy(buf, page + offset_in_page(addr), bytes);
		kunmap_local(page);
		buf += bytes;
		addr += bytes;
	}
	rxe_odp_unlock(&span);
	return 0;
}

/**
 * rxe_odp_atomic_op() - compare and swap, or fetch and add
 * @mr: region
 * @iova: address of the word. The caller has checked the range
 * @opcode: IB_OPCODE_RC_COMPARE_SWAP or IB_OPCODE_RC_FETCH_ADD
 * @compare: value to compare with
 * @swap_add: value to store or to add
 * @orig_val: receives the value before
 *
 * Return: 0 or a state of the responder.
 */
int rxe_odp_atomic_op(struct rxe_mr *mr, u64 iova, int opcode, u64 compare,
		      u64 swap_add, u64 *orig_val)
{
	struct rxe_odp_span span = rxe_odp_span(mr, iova, sizeof(u64),
						RXE_ODP_WRITE);
	int ret;

	if (!IS_ALIGNED(span.addr, sizeof(u64)))
		return RESPST_ERR_MISALIGNED_ATOMIC;
	if (rxe_odp_lock(&span))
		return RESPST_ERR_RKEY_VIOLATION;
	ret = rxe_page_atomic_op(rxe_odp_page(&span, span.addr),
				 offset_in_page(span.addr), opcode, compare,
				 swap_add, orig_val);
	rxe_odp_unlock(&span);
	return ret;
}

/**
 * rxe_odp_atomic_write() - store a word at once
 * @mr: region
 * @iova: address of the word. The caller has checked the range
 * @value: value to store
 *
 * Return: 0 or a state of the responder.
 */
int rxe_odp_atomic_write(struct rxe_mr *mr, u64 iova, u64 value)
{
	struct rxe_odp_span span = rxe_odp_span(mr, iova, sizeof(u64),
						RXE_ODP_WRITE);
	int ret;

	if (!IS_ALIGNED(span.addr, sizeof(u64)))
		return RESPST_ERR_MISALIGNED_ATOMIC;
	if (rxe_odp_lock(&span))
		return RESPST_ERR_RKEY_VIOLATION;
	ret = rxe_page_atomic_write(rxe_odp_page(&span, span.addr),
				    offset_in_page(span.addr), value);
	rxe_odp_unlock(&span);
	return ret;
}

/* umem_mutex is held. Nothing is flushed unless all of @span is persistent. */
static int rxe_odp_flush_present(const struct rxe_odp_span *span)
{
	u64 addr, end = span->addr + span->length;

	for (addr = span->addr; addr < end; addr += rxe_odp_piece(span, addr))
		if (!is_pmem_page(rxe_odp_page(span, addr)))
			return -EINVAL;
	for (addr = span->addr; addr < end; addr += rxe_odp_piece(span, addr)) {
		u8 *page = kmap_local_page(rxe_odp_page(span, addr));

		arch_wb_cache_pmem(page + offset_in_page(addr),
				   rxe_odp_piece(span, addr));
		kunmap_local(page);
	}
	return 0;
}

/**
 * rxe_odp_flush_pmem() - write back the CPU's caches to persistent memory
 * @mr: region
 * @iova: where to start. The caller has checked the range
 * @length: number of bytes, not 0
 *
 * A page may have been written and unmapped, so all pages are made present. A
 * region with pinned pages is asked at registration whether it is persistent.
 * Here the pages may change, so ask at each flush.
 *
 * Return: 0, or a negative error code if a page is not persistent or cannot be
 * made present.
 */
int rxe_odp_flush_pmem(struct rxe_mr *mr, u64 iova, u64 length)
{
	struct rxe_odp_span batch, span = rxe_odp_span(mr, iova, length,
						       RXE_ODP_READ);
	u64 done;
	int ret;

	for (done = 0; done < length; done += batch.length) {
		if (READ_ONCE(mr->state) != RXE_MR_STATE_VALID)
			return -EINVAL;
		batch = rxe_odp_batch(&span, done);
		ret = rxe_odp_lock(&batch);
		if (ret)
			return ret;
		ret = rxe_odp_flush_present(&batch);
		rxe_odp_unlock(&batch);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

/* ---- Faults that the responder does not wait for ---- */

static void rxe_odp_put_fault(struct rxe_odp_fault *fault)
{
	if (refcount_dec_and_test(&fault->users))
		kfree(fault);
}

static void rxe_odp_fault_work(struct work_struct *work)
{
	struct rxe_odp_fault *fault =
		container_of(work, struct rxe_odp_fault, work);
	struct rxe_mr *mr = fault->span.mr;

	fault->ret = rxe_odp_lock(&fault->span);
	if (!fault->ret)
		rxe_odp_unlock(&fault->span);
	complete(&fault->done);
	rxe_odp_put_fault(fault);
	rxe_put(mr);
}

static struct rxe_odp_fault *rxe_odp_start_fault(const struct rxe_odp_span *span)
{
	struct rxe_odp_fault *fault = kzalloc(sizeof(*fault), GFP_KERNEL);

	if (!fault)
		return NULL;
	INIT_WORK(&fault->work, rxe_odp_fault_work);
	init_completion(&fault->done);
	refcount_set(&fault->users, 2);
	fault->span = *span;
	rxe_get(span->mr);
	queue_work(rxe_odp_wq, &fault->work);
	return fault;
}

/*
 * How long may the responder wait before it has to answer? The peer's timeout
 * is not known, but is mostly the same as that of this side.
 */
static unsigned long rxe_odp_patience(const struct rxe_qp *qp)
{
	return qp->qp_timeout_jiffies ?
	       clamp_t(u64, qp->qp_timeout_jiffies / 2, 1, HZ) : HZ;
}

/**
 * rxe_odp_forget_fault() - the responder is not interested in its fault any more
 * @qp: queue pair
 */
void rxe_odp_forget_fault(struct rxe_qp *qp)
{
	if (qp->resp.odp_fault)
		rxe_odp_put_fault(qp->resp.odp_fault);
	qp->resp.odp_fault = NULL;
}

/*
 * Return 0 or the error of the fault of @span; -ETIME if it is not over @until
 * then. A fault that was begun for another span says nothing about this one.
 */
static int rxe_odp_await_fault(struct rxe_qp *qp,
			       const struct rxe_odp_span *span,
			       unsigned long until)
{
	long left = max_t(long, until - jiffies, 1);
	struct rxe_odp_fault *fault = qp->resp.odp_fault;
	int ret = 0;

	if (!fault)
		fault = rxe_odp_start_fault(span);
	if (!fault)
		return -ENOMEM;
	qp->resp.odp_fault = fault;
	if (!wait_for_completion_timeout(&fault->done, left))
		return -ETIME;
	if (!memcmp(&fault->span, span, sizeof(*span)))
		ret = fault->ret;
	rxe_odp_forget_fault(qp);
	return ret == -EBUSY ? -ETIME : ret;
}

static bool rxe_odp_is_present(const struct rxe_odp_span *span)
{
	bool present;

	mutex_lock(&span->umem->umem_mutex);
	present = rxe_odp_present(span);
	mutex_unlock(&span->umem->umem_mutex);
	return present;
}

/* Return 0 if @span is present, -ETIME if not in time, or the fault's error. */
static int rxe_odp_await(struct rxe_qp *qp, const struct rxe_odp_span *span,
			 unsigned long until)
{
	int ret = 0;

	while (!ret && !rxe_odp_is_present(span))
		ret = time_before(jiffies, until) ?
		      rxe_odp_await_fault(qp, span, until) : -ETIME;
	return ret;
}

/**
 * rxe_odp_in_time() - make pages present before a responder uses them
 * @qp: queue pair, of a reliable connection
 * @mr: region, of any kind
 * @iova: where to start
 * @length: number of bytes
 * @dir: direction of the copy that follows
 *
 * Return: false if that takes longer than the peer should wait. Else the access
 * may go on: the pages are present, as far as RXE_ODP_AHEAD, or it will fail.
 */
bool rxe_odp_in_time(struct rxe_qp *qp, struct rxe_mr *mr, u64 iova, u64 length,
		     enum rxe_mr_copy_dir dir)
{
	unsigned long until = jiffies + rxe_odp_patience(qp);
	struct rxe_odp_span all, batch;
	u64 done;
	int ret = 0;

	if (!length || !rxe_mr_is_odp(mr) || mr_check_range(mr, iova, length))
		return true;
	all = rxe_odp_span(mr, iova, min_t(u64, length, RXE_ODP_AHEAD),
			   dir == RXE_TO_MR_OBJ ? RXE_ODP_WRITE : RXE_ODP_READ);
	for (done = 0; done < all.length && !ret; done += batch.length) {
		batch = rxe_odp_batch(&all, done);
		ret = rxe_odp_await(qp, &batch, until);
	}
	return ret != -ETIME;
}

/* ---- Registration and invalidation ---- */

static bool rxe_odp_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long seq)
{
	struct ib_umem_odp *umem =
		container_of(notifier, struct ib_umem_odp, notifier);
	unsigned long before, after;

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&umem->umem_mutex);
	else if (!mutex_trylock(&umem->umem_mutex))
		return false;
	mmu_interval_set_seq(notifier, seq);
	before = umem->npages;
	ib_umem_odp_unmap_dma_pages(umem, range->start, range->end);
	after = umem->npages;
	if (before != after) {
		struct rxe_mr *mr = umem->private;

		rxe_odp_count(mr, RXE_CNT_PAGE_INVALIDATIONS,
			      &mr->odp_stats.invalidations, before - after);
	}
	mutex_unlock(&umem->umem_mutex);
	return true;
}

static const struct mmu_interval_notifier_ops rxe_odp_notifier_ops = {
	.invalidate = rxe_odp_invalidate,
};

/* Fault the pages of @span, or only look which are there. */
static int rxe_odp_populate(const struct rxe_odp_span *span, bool fault,
			    u64 *pages)
{
	struct rxe_odp_span batch;
	u64 done;
	long nr;

	*pages = 0;
	for (done = 0; done < span->length; done += batch.length) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (READ_ONCE(span->mr->state) != RXE_MR_STATE_VALID)
			return -EINVAL;
		batch = rxe_odp_batch(span, done);
		nr = ib_umem_odp_map_dma_and_lock(batch.umem, batch.addr,
						  batch.length, batch.rights,
						  fault);
		if (nr < 0)
			return nr;
		rxe_odp_unlock(&batch);
		*pages += nr;
		cond_resched();
	}
	return 0;
}

/*
 * Most memory is registered before it is touched. If the process has hardly any
 * pages, do not look for them: those that are there cost little at their first
 * use, and the look costs more than all the rest of the registration.
 */
static bool rxe_odp_worth_a_look(struct ib_umem_odp *umem)
{
	return get_mm_rss(umem->umem.owning_mm) >=
	       ib_umem_odp_num_pages(umem) / 16;
}

/**
 * rxe_odp_mr_init_user() - register memory without pinning it
 * @rxe: device
 * @start: address of the process
 * @length: number of bytes
 * @access: rights
 * @mr: region
 *
 * Takes over the pages that are present, and faults none.
 *
 * Return: 0 or a negative error code.
 */
int rxe_odp_mr_init_user(struct rxe_dev *rxe, u64 start, u64 length, int access,
			 struct rxe_mr *mr)
{
	struct ib_umem_odp *umem;
	struct rxe_odp_span all;
	u64 pages;

	/* an implicit region, of the whole address space */
	if (!start && length == U64_MAX)
		return -EOPNOTSUPP;
	if (start != (unsigned long)start || length != (size_t)length)
		return -EOVERFLOW;
	rxe_mr_init(access, mr);
	umem = ib_umem_odp_get(&rxe->ib_dev, start, length, access,
			       &rxe_odp_notifier_ops);
	if (IS_ERR(umem))
		return PTR_ERR(umem);
	umem->private = mr;
	mr->umem = &umem->umem;
	mr->ibmr.type = IB_MR_TYPE_USER;
	mr->state = RXE_MR_STATE_VALID;
	if (!rxe_odp_worth_a_look(umem))
		return 0;
	all = (struct rxe_odp_span) {
		.mr = mr,
		.umem = umem,
		.addr = start,
		.length = length,
		.rights = RXE_ODP_READ,
	};
	/* Only saves faults later, so it may fail, unless the process ends. */
	return rxe_odp_populate(&all, false, &pages) == -EINTR ? -EINTR : 0;
}

/* ---- Prefetch ---- */

static int rxe_odp_prefetch(const struct rxe_odp_span *span, bool fault)
{
	u64 pages;
	int ret = rxe_odp_populate(span, fault, &pages);

	rxe_odp_count(span->mr, RXE_CNT_PAGE_PREFETCH,
		      &span->mr->odp_stats.prefetch, pages);
	return ret;
}

static struct rxe_mr *rxe_odp_get_mr(struct ib_pd *pd, u32 lkey)
{
	struct rxe_mr *mr = lookup_mr(to_rpd(pd), 0, lkey, RXE_LOOKUP_LOCAL);

	if (mr && !rxe_mr_is_odp(mr)) {
		rxe_put(mr);
		return NULL;
	}
	return mr;
}

/* Return 0 with a reference to the region held. */
static int rxe_odp_advised(struct ib_pd *pd, const struct ib_sge *sge,
			   bool write, struct rxe_odp_span *span)
{
	struct rxe_mr *mr = rxe_odp_get_mr(pd, sge->lkey);
	int ret = 0;

	if (!mr)
		return -EINVAL;
	if (mr_check_range(mr, sge->addr, sge->length))
		ret = -EFAULT;
	else if (write && !(mr->access & IB_ACCESS_LOCAL_WRITE))
		ret = -EPERM;
	*span = rxe_odp_span(mr, sge->addr, sge->length,
			     write ? RXE_ODP_WRITE : RXE_ODP_READ);
	if (ret)
		rxe_put(mr);
	return ret;
}

static void rxe_odp_free_prefetch(struct rxe_odp_prefetch *prefetch)
{
	while (prefetch->nr)
		rxe_put(prefetch->span[--prefetch->nr].mr);
	kvfree(prefetch);
}

static void rxe_odp_prefetch_work(struct work_struct *work)
{
	struct rxe_odp_prefetch *prefetch =
		container_of(work, struct rxe_odp_prefetch, work);
	unsigned int i;

	for (i = 0; i < prefetch->nr; i++)
		rxe_odp_prefetch(&prefetch->span[i], prefetch->fault);
	rxe_odp_free_prefetch(prefetch);
	atomic_dec(&rxe_odp_prefetches);
}

/* Best effort: a flood of advice is not followed to its end. */
static void rxe_odp_prefetch_later(struct rxe_odp_prefetch *prefetch)
{
	if (atomic_inc_return(&rxe_odp_prefetches) > RXE_ODP_PREFETCHES) {
		atomic_dec(&rxe_odp_prefetches);
		rxe_odp_free_prefetch(prefetch);
		return;
	}
	INIT_WORK(&prefetch->work, rxe_odp_prefetch_work);
	queue_work(rxe_odp_prefetch_wq, &prefetch->work);
}

/* Return 0 with @prefetch filled, which holds references to the regions. */
static int rxe_odp_collect(struct ib_pd *pd, const struct ib_sge *sge, u32 nr,
			   bool write, struct rxe_odp_prefetch *prefetch)
{
	int ret;

	while (prefetch->nr < nr) {
		struct rxe_odp_span span;

		ret = rxe_odp_advised(pd, sge + prefetch->nr, write, &span);
		if (ret)
			return ret;
		prefetch->nr++;
		prefetch->span[prefetch->nr - 1] = span;
	}
	return 0;
}

static int rxe_odp_prefetch_now(struct rxe_odp_prefetch *prefetch)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < prefetch->nr && !ret; i++)
		ret = rxe_odp_prefetch(&prefetch->span[i], prefetch->fault);
	rxe_odp_free_prefetch(prefetch);
	return ret;
}

/**
 * rxe_odp_advise_mr() - prefetch parts of regions
 * @ibpd: protection domain
 * @advice: for reading, for writing, or only what is there
 * @flags: IB_UVERBS_ADVISE_MR_FLAG_FLUSH: wait until it is done
 * @sge: parts, by local keys
 * @nr: number of parts
 * @attrs: not used
 *
 * All parts are checked first. Without the flag, the rest is best effort.
 *
 * Return: 0; -EOPNOTSUPP for other advice; -EINVAL for a key that is not that of
 * a region with on-demand paging; -EFAULT for a part outside of its region;
 * -EPERM to write to a region that is read-only; and what a fault returns.
 */
int rxe_odp_advise_mr(struct ib_pd *ibpd, enum ib_uverbs_advise_mr_advice advice,
		      u32 flags, struct ib_sge *sge, u32 nr,
		      struct uverbs_attr_bundle *attrs)
{
	bool write = advice == IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
	struct rxe_odp_prefetch *prefetch;
	int ret;

	if (!write && advice != IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH &&
	    advice != IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT)
		return -EOPNOTSUPP;
	prefetch = kvzalloc(struct_size(prefetch, span, nr),
			    GFP_KERNEL_ACCOUNT);
	if (!prefetch)
		return -ENOMEM;
	prefetch->fault =
		advice != IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT;
	ret = rxe_odp_collect(ibpd, sge, nr, write, prefetch);
	if (ret) {
		rxe_odp_free_prefetch(prefetch);
		return ret;
	}
	if (flags & IB_UVERBS_ADVISE_MR_FLAG_FLUSH)
		return rxe_odp_prefetch_now(prefetch);
	rxe_odp_prefetch_later(prefetch);
	return 0;
}

/* ---- The driver ---- */

/**
 * rxe_odp_set_caps() - say what on-demand paging can do
 * @attr: attributes of the device
 */
void rxe_odp_set_caps(struct ib_device_attr *attr)
{
	struct ib_odp_caps *caps = &attr->odp_caps;

	attr->kernel_cap_flags |= IBK_ON_DEMAND_PAGING;
	caps->general_caps = IB_ODP_SUPPORT;
	caps->per_transport_caps.ud_odp_caps = IB_ODP_SUPPORT_SEND |
					       IB_ODP_SUPPORT_RECV |
					       IB_ODP_SUPPORT_SRQ_RECV;
	caps->per_transport_caps.rc_odp_caps = IB_ODP_SUPPORT_SEND |
					       IB_ODP_SUPPORT_RECV |
					       IB_ODP_SUPPORT_WRITE |
					       IB_ODP_SUPPORT_READ |
					       IB_ODP_SUPPORT_ATOMIC |
					       IB_ODP_SUPPORT_SRQ_RECV |
					       IB_ODP_SUPPORT_FLUSH |
					       IB_ODP_SUPPORT_ATOMIC_WRITE;
}

int rxe_odp_init(void)
{
	rxe_odp_wq = alloc_workqueue("rxe_odp", WQ_UNBOUND, WQ_MAX_ACTIVE);
	if (!rxe_odp_wq)
		return -ENOMEM;
	rxe_odp_prefetch_wq = alloc_workqueue("rxe_odp_prefetch", WQ_UNBOUND, 0);
	if (rxe_odp_prefetch_wq)
		return 0;
	destroy_workqueue(rxe_odp_wq);
	return -ENOMEM;
}

void rxe_odp_exit(void)
{
	destroy_workqueue(rxe_odp_prefetch_wq);
	destroy_workqueue(rxe_odp_wq);
}
