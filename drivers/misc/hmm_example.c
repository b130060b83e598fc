// SPDX-License-Identifier: GPL-2.0-only
/*
 * A small driver that uses HMM, as an example: mirroring and device-private
 * memory. Documentation/mm/hmm-driver-guide.rst explains it.
 *
 * The device has memory of its own and an engine that adds to 64-bit words at
 * addresses of the process that opened it, which it translates with a TLB. Its
 * memory is vmalloc()ed and its engine is the calling CPU. Everything else is
 * what the driver of a real device does:
 *
 *	mirror a process		example_open(), example_invalidate()
 *	serve a fault of the device	example_fault()
 *	serve a fault of the CPU	example_migrate_to_ram()
 *	move memory, both directions	example_migrate()
 *	make room on the device		example_evict()
 *	unplug the device in use	example_remove()
 *
 * Locks, in the order in which they are taken:
 *
 *	mmap lock
 *	  example.unplug	for read where the device is used, never around
 *				a fault, which may take as long as it likes
 *	    example.evict_lock
 *	      page lock		migrate_to_ram() is called with it
 *	        client.lock	the TLB, and the engine while it uses the TLB
 *
 * client.lock is the lock of invalidate(), which faults, migration and reclaim
 * call. So nothing faults, migrates or allocates memory under client.lock.
 */
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hmm.h>
#include <linux/kref.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/platform_device.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <uapi/misc/hmm_example.h>

#define EXAMPLE_TLB		1024	/* entries */
#define EXAMPLE_FAULT_PAGES	64	/* served by one device fault */
#define EXAMPLE_BATCH		128	/* pages of one migration */
#define EXAMPLE_ROUNDS		500	/* of eviction before a warning */

static unsigned int mib = 16;
module_param(mib, uint, 0444);
MODULE_PARM_DESC(mib, "device memory in MiB (a multiple of 2, default 16)");

struct example_batch {			/* pages of one migration */
	unsigned long src[EXAMPLE_BATCH];
	unsigned long dst[EXAMPLE_BATCH];
};

struct example {
	struct miscdevice misc;
	struct kref ref;		/* devres and each open file */
	struct rw_semaphore unplug;
	bool gone;
	struct dev_pagemap pagemap;
	unsigned long nr;		/* pages of device memory */
	void *vram;			/* the device memory */
	unsigned long *used;		/* a bit for each page */
	struct mutex evict_lock;	/* protects what follows */
	struct example_batch evicted;	/* not allocated by remove() */
	unsigned long hand;		/* where the next eviction begins */
};

struct example_tlb {
	unsigned long vpn;		/* address >> PAGE_SHIFT */
	struct page *page;		/* no reference: see invalidate() */
	bool write;
};

struct example_client {
	struct example *ex;
	struct mmu_interval_notifier notifier;
	struct mutex lock;		/* see the head of this file */
	struct example_tlb tlb[EXAMPLE_TLB];
};

/* Device memory and migration */

static unsigned long example_index(struct example *ex, struct page *page)
{
	return page_to_pfn(page) - PHYS_PFN(ex->pagemap.range.start);
}

/* Use the device: until example_leave() it is not unplugged. */
static int example_enter(struct example *ex)
{
	if (down_read_killable(&ex->unplug))
		return -EINTR;
	if (!ex->gone)
		return 0;
	up_read(&ex->unplug);
	return -ENODEV;
}

static void example_leave(struct example *ex)
{
	up_read(&ex->unplug);
}

/* A real device would copy and compute with its own engines. */
static void *example_map(struct example *ex, struct page *page)
{
	return is_device_private_page(page) ?
		ex->vram + (example_index(ex, page) << PAGE_SHIFT) :
		kmap_local_page(page);
}

static void example_unmap(struct page *page, void *kaddr)
{
	if (!is_device_private_page(page))
		kunmap_local(kaddr);
}

/* Returns a page locked and with one reference, as migration wants it. */
static struct page *example_alloc_device_page(struct example *ex)
{
	struct page *page;
	unsigned long i;

	do {
		i = find_first_zero_bit(ex->used, ex->nr);
		if (i >= ex->nr)
			return NULL;
	} while (test_and_set_bit(i, ex->used));
	page = pfn_to_page(PHYS_PFN(ex->pagemap.range.start) + i);
	zone_device_page_init(page);
	return page;
}

/*
 * The same, with the memory policy of @vma. An eviction has no @vma: it can wait
 * for memory, so no process is killed for it.
 */
static struct page *example_alloc_system_page(struct vm_area_struct *vma,
					      unsigned long addr)
{
	struct page *page = vma ?
		alloc_page_vma(GFP_HIGHUSER_MOVABLE, vma, addr) :
		alloc_page(GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL |
			   __GFP_NOWARN);

	if (page)
		lock_page(page);
	return page;
}

/* The last reference to a device page is gone. May not sleep. */
static void example_page_free(struct page *page)
{
	struct example *ex = page_pgmap(page)->owner;

	clear_bit_unlock(example_index(ex, page), ex->used);
}

/* A hole has MIGRATE without VALID. */
static bool example_page_moves(unsigned long src)
{
	return src & MIGRATE_PFN_VALID && src & MIGRATE_PFN_MIGRATE;
}

/*
 * Returns the entry of dst[]. The device cannot write to the page meanwhile:
 * setup called example_invalidate(), and example_fault() waits for the end.
 */
static unsigned long example_copy(struct example *ex, unsigned long src,
				  struct page *to)
{
	struct page *from = migrate_pfn_to_page(src);
	void *to_addr, *from_addr;

	if (!to)
		return 0;	/* the page stays where it is */
	to_addr = example_map(ex, to);
	if (from) {
		from_addr = example_map(ex, from);
		copy_page(to_addr, from_addr);
		example_unmap(from, from_addr);
	} else {		/* a hole, or the zero page */
		clear_page(to_addr);
	}
	example_unmap(to, to_addr);
	return migrate_pfn(page_to_pfn(to));
}

/*
 * Between migrate_vma_setup() and the end. Setup collects holes, too, which
 * are filled on the device only. Returns how many pages moved.
 */
static unsigned long example_copy_and_finish(struct example *ex,
					     struct migrate_vma *args)
{
	bool to_device = args->flags & MIGRATE_VMA_SELECT_SYSTEM;
	unsigned long i, addr = args->start, moved = 0;
	struct page *to;

	for (i = 0; i < args->npages; i++, addr += PAGE_SIZE) {
		to = NULL;
		if (to_device && args->src[i] & MIGRATE_PFN_MIGRATE)
			to = example_alloc_device_page(ex);
		else if (!to_device && example_page_moves(args->src[i]))
			to = example_alloc_system_page(args->vma, addr);
		args->dst[i] = example_copy(ex, args->src[i], to);
	}
	migrate_vma_pages(args);
	for (i = 0; i < args->npages; i++)
		if (args->dst[i] && args->src[i] & MIGRATE_PFN_MIGRATE)
			moved++;
	migrate_vma_finalize(args);
	return moved;
}

/* Evict until @want pages are free, but go round the memory once only. */
static void example_evict(struct example *ex, unsigned long want)
{
	unsigned long *src = ex->evicted.src, *dst = ex->evicted.dst;
	unsigned long first = PHYS_PFN(ex->pagemap.range.start);
	unsigned long i, seen, nr;
	struct page *to;

	mutex_lock(&ex->evict_lock);
	for (seen = 0; seen < ex->nr; seen += nr) {
		if (ex->nr - bitmap_weight(ex->used, ex->nr) >= want)
			break;
		nr = min(ex->nr - ex->hand, EXAMPLE_BATCH);
		migrate_device_range(src, first + ex->hand, nr);
		for (i = 0; i < nr; i++) {
			to = example_page_moves(src[i]) ?
			     example_alloc_system_page(NULL, 0) : NULL;
			dst[i] = example_copy(ex, src[i], to);
		}
		migrate_device_pages(src, dst, nr);
		migrate_device_finalize(src, dst, nr);
		ex->hand = (ex->hand + nr) % ex->nr;
		cond_resched();
	}
	mutex_unlock(&ex->evict_lock);
}

static int example_make_room(struct example *ex, unsigned long want)
{
	int ret = example_enter(ex);

	if (!ret) {
		example_evict(ex, min(want, ex->nr));
		example_leave(ex);
	}
	return ret;
}

/* Migrate from args->start to @end or less: args->end. */
static int example_migrate_batch(struct example *ex, struct migrate_vma *args,
				 unsigned long end, unsigned long *moved)
{
	int ret;

	if (mmap_read_lock_killable(current->mm))
		return -EINTR;
	args->vma = vma_lookup(current->mm, args->start);
	ret = args->vma ? example_enter(ex) : -EFAULT;
	if (!ret) {
		args->end = min3(PAGE_ALIGN(end), args->vma->vm_end,
				 args->start + EXAMPLE_BATCH * PAGE_SIZE);
		ret = migrate_vma_setup(args);
		*moved = ret ? 0 : example_copy_and_finish(ex, args);
		example_leave(ex);
	}
	mmap_read_unlock(current->mm);
	return ret;
}

/*
 * Move what can move: a pinned page, for example, stays where it is. A batch
 * that finds no room on the device gets a second try.
 */
static int example_migrate(struct example *ex, unsigned long start,
			   unsigned long end,
			   enum migrate_vma_direction select, u64 *total)
{
	struct example_batch *batch = kmalloc(sizeof(*batch), GFP_KERNEL);
	struct migrate_vma args = { .pgmap_owner = ex, .flags = select };
	int ret = batch ? 0 : -ENOMEM;
	unsigned long moved;

	for (start &= PAGE_MASK; !ret && start < end; start = args.end) {
		args.start = start;
		args.src = batch->src;
		args.dst = batch->dst;
		ret = example_migrate_batch(ex, &args, end, &moved);
		if (ret)
			break;
		*total += moved;
		if (select == MIGRATE_VMA_SELECT_SYSTEM && moved < args.cpages) {
			ret = example_make_room(ex, args.cpages - moved) ?:
			      example_migrate_batch(ex, &args, end, &moved);
			*total += ret ? 0 : moved;
		}
		if (fatal_signal_pending(current))
			ret = -EINTR;
	}
	kfree(batch);
	return ret;
}

/*
 * The CPU has touched a page that is on the device. The page is locked, and the
 * fault that holds it passes it to migrate_vma_setup() as fault_page.
 */
static vm_fault_t example_migrate_to_ram(struct vm_fault *vmf)
{
	struct example *ex = page_pgmap(vmf->page)->owner;
	unsigned long src = 0, dst = 0;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = vmf->address & PAGE_MASK,
		.end = (vmf->address & PAGE_MASK) + PAGE_SIZE,
		.src = &src,
		.dst = &dst,
		.pgmap_owner = ex,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};
	bool movable;

	if (migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	movable = example_page_moves(src);
	example_copy_and_finish(ex, &args);
	/* What did not move for another reason is tried again by the CPU. */
	return movable && !dst ? VM_FAULT_OOM : 0;
}

static const struct dev_pagemap_ops example_pagemap_ops = {
	.page_free = example_page_free,
	.migrate_to_ram = example_migrate_to_ram,
};

/* The mirror */

/*
 * The page tables of the process are about to change. When this returns, the
 * device does not use the old translations any more: client->lock keeps the
 * engine out, a real driver would flush its TLB and wait.
 */
static bool example_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long seq)
{
	struct example_client *client =
		container_of(notifier, struct example_client, notifier);
	unsigned int i;

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&client->lock);
	else if (!mutex_trylock(&client->lock))
		return false;
	mmu_interval_set_seq(notifier, seq);
	for (i = 0; i < EXAMPLE_TLB; i++) {
		struct example_tlb *tlb = &client->tlb[i];
		unsigned long addr = tlb->vpn << PAGE_SHIFT;

		if (addr >= range->start && addr < range->end)
			tlb->page = NULL;
	}
	mutex_unlock(&client->lock);
	return true;
}

static const struct mmu_interval_notifier_ops example_notifier_ops = {
	.invalidate = example_invalidate,
};

static void example_fill_tlb(struct example_client *client,
			     const struct hmm_range *range)
{
	unsigned long vpn = range->start >> PAGE_SHIFT;
	unsigned long i, nr = (range->end - range->start) >> PAGE_SHIFT;

	for (i = 0; i < nr; i++) {
		struct example_tlb *tlb = &client->tlb[(vpn + i) % EXAMPLE_TLB];

		tlb->vpn = vpn + i;
		tlb->page = hmm_pfn_to_page(range->hmm_pfns[i]);
		tlb->write = range->hmm_pfns[i] & HMM_PFN_WRITE;
	}
}

/*
 * The device has no translation for @addr. Ask for as much as the job may need
 * next, but for no more access: a write where a read would do breaks COW.
 */
static int example_fault(struct example_client *client, unsigned long addr,
			 unsigned long end, unsigned long request)
{
	unsigned long pfns[EXAMPLE_FAULT_PAGES] = {};
	struct hmm_range range = {
		.notifier = &client->notifier,
		.start = addr & PAGE_MASK,
		.hmm_pfns = pfns,
		.default_flags = request,
		.dev_private_owner = client->ex,
	};
	bool valid;
	int ret;

	range.end = min(PAGE_ALIGN(end),
			range.start + EXAMPLE_FAULT_PAGES * PAGE_SIZE);
	do {
		if (fatal_signal_pending(current))
			return -EINTR;
		ret = hmm_range_fault_unlocked_timeout(&range, 0);
		if (ret)
			return ret;
		mutex_lock(&client->lock);
		valid = !mmu_interval_read_retry(&client->notifier,
						 range.notifier_seq);
		if (valid)
			example_fill_tlb(client, &range);
		mutex_unlock(&client->lock);
	} while (!valid);
	/* A page that has to move and cannot yet is not writable: try later. */
	if (request & HMM_PFN_REQ_WRITE && !(pfns[0] & HMM_PFN_WRITE))
		schedule_timeout_killable(1);
	return 0;
}

/* The engine */

/*
 * Add to the word at @addr. With nothing to add, only read it. The job goes on
 * until @end.
 */
static int example_access(struct example_client *client, unsigned long addr,
			  unsigned long end, u64 add, u64 *value)
{
	struct example_tlb *tlb = &client->tlb[(addr >> PAGE_SHIFT) % EXAMPLE_TLB];
	unsigned long request = HMM_PFN_REQ_FAULT;
	bool hit = false;
	void *kaddr;
	u64 *word;
	int ret;

	if (add)
		request |= HMM_PFN_REQ_WRITE;
	while (!hit) {
		ret = example_enter(client->ex);
		if (ret)
			return ret;
		mutex_lock(&client->lock);
		hit = tlb->page && tlb->vpn == addr >> PAGE_SHIFT &&
		      (tlb->write || !add);
		if (hit) {
			kaddr = example_map(client->ex, tlb->page);
			word = kaddr + offset_in_page(addr);
			*value = *word + add;
			if (add)
				*word = *value;
			example_unmap(tlb->page, kaddr);
		}
		mutex_unlock(&client->lock);
		example_leave(client->ex);
		ret = hit ? 0 : example_fault(client, addr, end, request);
		if (ret)
			return ret;
		cond_resched();
	}
	return fatal_signal_pending(current) ? -EINTR : 0;
}

static int example_array(struct example_client *client, unsigned long addr,
			 unsigned long end, u64 add, u64 *sum)
{
	u64 word;
	int ret = 0;

	for (; addr < end && !ret; addr += sizeof(word)) {
		ret = example_access(client, addr, end, add, &word);
		*sum += ret ? 0 : word;
	}
	return ret;
}

/* The addresses come from memory of the process, so trust none of them. */
static int example_list(struct example_client *client, u64 addr, u64 nodes,
			u64 *sum)
{
	struct hmm_example_node node;
	int ret;

	for (; addr; addr = node.next) {
		if (!nodes--)
			return -E2BIG;
		addr = untagged_addr(addr);
		if (!IS_ALIGNED(addr, sizeof(node)) || addr >= TASK_SIZE)
			return -EFAULT;
		ret = example_access(client, addr, addr + sizeof(node), 0,
				     &node.next) ?:
		      example_access(client, addr + sizeof(node.next),
				     addr + sizeof(node), 0, &node.value);
		if (ret)
			return ret;
		*sum += node.value;
	}
	return 0;
}

/* Files */

static int example_command(struct example_client *client, unsigned int cmd,
			   struct hmm_example_args *args)
{
	u64 add = cmd == HMM_EXAMPLE_ADD ? args->value : 0;
	unsigned long end, addr = untagged_addr(args->addr);

	args->value = 0;
	if (cmd == HMM_EXAMPLE_LIST)
		return example_list(client, addr, args->len, &args->value);
	if (!args->len || !IS_ALIGNED(addr | args->len, sizeof(u64)) ||
	    check_add_overflow(addr, args->len, &end) || end > TASK_SIZE)
		return -EINVAL;
	if (cmd == HMM_EXAMPLE_TO_DEVICE)
		return example_migrate(client->ex, addr, end,
				       MIGRATE_VMA_SELECT_SYSTEM,
				       &args->value);
	if (cmd == HMM_EXAMPLE_TO_SYSTEM)
		return example_migrate(client->ex, addr, end,
				       MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
				       &args->value);
	return example_array(client, addr, end, add, &args->value);
}

/* A child that inherits the file has another address space. */
static long example_ioctl(struct file *file, unsigned int cmd,
			  unsigned long arg)
{
	struct example_client *client = file->private_data;
	struct hmm_example_args args;
	int ret;

	switch (cmd) {
	case HMM_EXAMPLE_SUM:
	case HMM_EXAMPLE_ADD:
	case HMM_EXAMPLE_LIST:
	case HMM_EXAMPLE_TO_DEVICE:
	case HMM_EXAMPLE_TO_SYSTEM:
		break;
	default:
		return -ENOTTY;
	}
	if (client->notifier.mm != current->mm)
		return -EPERM;
	if (copy_from_user(&args, (void __user *)arg, sizeof(args)))
		return -EFAULT;
	ret = example_command(client, cmd, &args);
	if (!ret && copy_to_user((void __user *)arg, &args, sizeof(args)))
		ret = -EFAULT;
	return ret;
}

static void example_release_device(struct kref *ref)
{
	struct example *ex = container_of(ref, struct example, ref);

	bitmap_free(ex->used);
	vfree(ex->vram);
	kfree(ex);
}

static int example_open(struct inode *inode, struct file *file)
{
	struct example *ex =
		container_of(file->private_data, struct example, misc);
	struct example_client *client;
	int ret;

	client = kvzalloc(sizeof(*client), GFP_KERNEL);
	if (!client)
		return -ENOMEM;
	client->ex = ex;
	mutex_init(&client->lock);
	ret = mmu_interval_notifier_insert(&client->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &example_notifier_ops);
	if (ret) {
		kvfree(client);
		return ret;
	}
	kref_get(&ex->ref);
	file->private_data = client;
	return 0;
}

static int example_release(struct inode *inode, struct file *file)
{
	struct example_client *client = file->private_data;

	mmu_interval_notifier_remove(&client->notifier);
	kref_put(&client->ex->ref, example_release_device);
	kvfree(client);
	return 0;
}

static const struct file_operations example_fops = {
	.owner = THIS_MODULE,
	.open = example_open,
	.release = example_release,
	.unlocked_ioctl = example_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* The device comes and goes */

static void example_put(void *data)
{
	struct example *ex = data;

	kref_put(&ex->ref, example_release_device);
}

/* Undone by devres, in reverse order, after example_remove(). */
static int example_add_memory(struct example *ex, struct device *dev)
{
	struct resource *res;

	res = devm_request_free_mem_region(dev, &iomem_resource,
					   ex->nr << PAGE_SHIFT);
	if (IS_ERR(res))
		return PTR_ERR(res);
	ex->pagemap.type = MEMORY_DEVICE_PRIVATE;
	ex->pagemap.range.start = res->start;
	ex->pagemap.range.end = res->end;
	ex->pagemap.nr_range = 1;
	ex->pagemap.ops = &example_pagemap_ops;
	ex->pagemap.owner = ex;
	return PTR_ERR_OR_ZERO(devm_memremap_pages(dev, &ex->pagemap));
}

static int example_probe(struct platform_device *pdev)
{
	unsigned long size = (unsigned long)mib * SZ_1M;
	struct example *ex;
	int ret;

	if (!size || !IS_ALIGNED(size, SZ_2M))
		return dev_err_probe(&pdev->dev, -EINVAL,
				     "mib=%u is not a multiple of 2\n", mib);
	ex = kzalloc(sizeof(*ex), GFP_KERNEL);
	if (!ex)
		return -ENOMEM;
	kref_init(&ex->ref);
	init_rwsem(&ex->unplug);
	mutex_init(&ex->evict_lock);
	ex->nr = size >> PAGE_SHIFT;
	ex->vram = vzalloc(size);
	ex->used = bitmap_zalloc(ex->nr, GFP_KERNEL);
	ret = devm_add_action_or_reset(&pdev->dev, example_put, ex);
	if (ret)
		return ret;
	if (!ex->vram || !ex->used)
		return -ENOMEM;
	ret = example_add_memory(ex, &pdev->dev);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "no device memory\n");
	ex->misc = (struct miscdevice) {
		.minor = MISC_DYNAMIC_MINOR,
		.name = "hmm_example",
		.fops = &example_fops,
		.parent = &pdev->dev,
	};
	platform_set_drvdata(pdev, ex);
	return misc_register(&ex->misc);
}

/*
 * Files may stay open and memory may be in use. Their processes go on with
 * their data in system memory, and with -ENODEV from the device. A page that
 * is locked or for which there is no system memory now moves a little later.
 */
static void example_remove(struct platform_device *pdev)
{
	struct example *ex = platform_get_drvdata(pdev);
	unsigned int round;

	misc_deregister(&ex->misc);
	down_write(&ex->unplug);
	ex->gone = true;
	up_write(&ex->unplug);
	for (round = 1; ; round++) {
		example_evict(ex, ex->nr);
		if (bitmap_empty(ex->used, ex->nr))
			break;
		if (round == EXAMPLE_ROUNDS)
			dev_warn(&pdev->dev, "%u pages are still in use\n",
				 bitmap_weight(ex->used, ex->nr));
		msleep(20);
	}
}

static struct platform_driver example_driver = {
	.probe = example_probe,
	.remove = example_remove,
	.driver = {
		.name = "hmm_example",
	},
};

static struct platform_device *example_device;

static int __init example_init(void)
{
	int ret = platform_driver_register(&example_driver);

	if (ret)
		return ret;
	example_device = platform_device_register_simple("hmm_example",
							 PLATFORM_DEVID_NONE,
							 NULL, 0);
	ret = PTR_ERR_OR_ZERO(example_device);
	if (ret)
		platform_driver_unregister(&example_driver);
	return ret;
}

static void __exit example_exit(void)
{
	platform_device_unregister(example_device);
	platform_driver_unregister(&example_driver);
}

module_init(example_init);
module_exit(example_exit);
MODULE_DESCRIPTION("Example of a driver that uses HMM");
MODULE_LICENSE("GPL");
